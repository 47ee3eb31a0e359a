//! References to models: `path[@revision][+adapter[@revision]]`, or a mapping.
//!
//! The string form is split at `+` first, then at `@`, as mergekit does; a path that holds one of these
//! characters needs the mapping `{model: {path, revision}, lora: {path, revision}, override_architecture}`.

use std::fmt;

use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};

use super::fields::{self, Fields};
use super::node::{Data, Node};
use super::problems::Problems;
use super::scalar::Meaning;

/// A model: a directory or hub name, perhaps with an adapter to apply.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct ModelRef {
    /// Directory or hub name.
    pub path: String,
    /// Branch, tag or commit on the hub.
    pub revision: Option<String>,
    /// Adapter to apply to it.
    pub lora: Option<AdapterRef>,
    /// Architecture in place of the one in its `config.json`: that of the output if it is the donor.
    pub override_architecture: Option<String>,
    /// The task it was tuned for, or the task to take out of an EMR artefact. Written beside the model, not in it.
    pub task: Option<String>,
}

/// An adapter: a directory or hub name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct AdapterRef {
    /// Directory or hub name.
    pub path: String,
    /// Branch, tag or commit on the hub.
    pub revision: Option<String>,
}

impl ModelRef {
    /// The reference that `text` spells.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (model, lora) = match text.split_once('+') {
            None => (text, None),
            Some((_, rest)) if rest.contains('+') => return Err(refused(text, "more than one `+`")),
            Some((model, lora)) => (model, Some(lora)),
        };
        let (path, revision) = path_and_revision(model, text)?;
        let lora = lora.map(|lora| path_and_revision(lora, text)).transpose()?;
        let lora = lora.map(|(path, revision)| AdapterRef { path, revision });
        Ok(Self { path, revision, lora, override_architecture: None, task: None })
    }

    /// The string form without the task, as it is read.
    fn spelled(&self) -> String {
        Self { task: None, ..self.clone() }.to_string()
    }

    /// Whether the string form says everything that stands in a model's entry.
    fn is_string(&self) -> bool {
        Self::parse(&self.spelled()).is_ok_and(|parsed| Self { task: self.task.clone(), ..parsed } == *self)
    }

    /// Reads a string or a mapping.
    pub fn read(node: &Node, path: &str, problems: &mut Problems) -> Option<Self> {
        match &node.data {
            Data::Scalar { text, meaning: Meaning::Text } => Self::parse(text)
                .map_err(|message| problems.error(node.place, path, message, Some(MAPPING.to_owned())))
                .ok(),
            Data::Map(_) => Self::read_mapping(node, path, problems),
            _ => {
                fields::text(node, path, "a model (path, hub name or mapping)", problems);
                None
            }
        }
    }

    fn read_mapping(node: &Node, path: &str, problems: &mut Problems) -> Option<Self> {
        let mut fields = Fields::of(node, path, "a model", problems)?;
        let model = fields.get("model").map(|node| part(node, &fields.path("model"), problems));
        let lora = fields.get("lora").map(|node| part(node, &fields.path("lora"), problems));
        let architecture = fields.get("override_architecture").map(|node| {
            fields::text(node, &fields.path("override_architecture"), "an architecture's name", problems)
        });
        fields.finish(problems);
        let Some(model) = model else {
            problems.error(node.place, path, "no `model` in the model's mapping", Some(MAPPING.to_owned()));
            return None;
        };
        let (path, revision) = model?;
        let lora = match lora {
            Some(lora) => lora.map(|(path, revision)| Some(AdapterRef { path, revision }))?,
            None => None,
        };
        let override_architecture = match architecture {
            Some(name) => Some(name?.to_owned()),
            None => None,
        };
        Some(Self { path, revision, lora, override_architecture, task: None })
    }
}

const MAPPING: &str = "a path that holds `+` or `@` is written as `{model: {path: …, revision: …}}`";

fn refused(text: &str, reason: &str) -> String {
    format!("{} is not `path[@revision][+adapter[@revision]]`: {reason}", super::node::shortened(text))
}

fn path_and_revision(chunk: &str, whole: &str) -> Result<(String, Option<String>), String> {
    let (path, revision) = match chunk.split_once('@') {
        Some((_, rest)) if rest.contains('@') => return Err(refused(whole, "more than one `@`")),
        Some((path, revision)) => (path, Some(revision)),
        None => (chunk, None),
    };
    if path.is_empty() || revision.is_some_and(str::is_empty) {
        return Err(refused(whole, "a part is empty"));
    }
    Ok((path.to_owned(), revision.map(str::to_owned)))
}

/// `{path, revision}` or `path[@revision]`.
fn part(node: &Node, path: &str, problems: &mut Problems) -> Option<(String, Option<String>)> {
    if !matches!(node.data, Data::Map(_)) {
        let text = fields::text(node, path, "a path, a hub name or `{path, revision}`", problems)?;
        return path_and_revision(text, text)
            .map_err(|message| problems.error(node.place, path, message, Some(MAPPING.to_owned())))
            .ok();
    }
    let mut fields = Fields::of(node, path, "a path", problems)?;
    let location =
        fields.get("path").map(|node| fields::text(node, &fields.path("path"), "a path", problems));
    let revision = fields
        .get("revision")
        .map(|node| fields::text(node, &fields.path("revision"), "a revision", problems));
    fields.finish(problems);
    let Some(location) = location else {
        problems.error(node.place, path, "no `path`", Some(MAPPING.to_owned()));
        return None;
    };
    let revision = match revision {
        Some(revision) => Some(revision?.to_owned()),
        None => None,
    };
    Some((location?.to_owned(), revision))
}

/// The string form, with a task as `model#task`. It does not show `override_architecture`.
impl fmt::Display for ModelRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        chunk(f, &self.path, self.revision.as_deref())?;
        if let Some(lora) = &self.lora {
            write!(f, "+{lora}")?;
        }
        match &self.task {
            Some(task) => write!(f, "#{task}"),
            None => Ok(()),
        }
    }
}

impl fmt::Display for AdapterRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        chunk(f, &self.path, self.revision.as_deref())
    }
}

fn chunk(f: &mut fmt::Formatter<'_>, path: &str, revision: Option<&str>) -> fmt::Result {
    match revision {
        Some(revision) => write!(f, "{path}@{revision}"),
        None => f.write_str(path),
    }
}

/// As a string if that says everything, else as a mapping.
impl Serialize for ModelRef {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if self.is_string() {
            return serializer.serialize_str(&self.spelled());
        }
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("model", &Part { path: &self.path, revision: self.revision.as_deref() })?;
        if let Some(lora) = &self.lora {
            map.serialize_entry("lora", &Part { path: &lora.path, revision: lora.revision.as_deref() })?;
        }
        if let Some(architecture) = &self.override_architecture {
            map.serialize_entry("override_architecture", architecture)?;
        }
        map.end()
    }
}

#[derive(Serialize)]
struct Part<'a> {
    path: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    revision: Option<&'a str>,
}
