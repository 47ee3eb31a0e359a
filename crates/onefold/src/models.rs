//! Opening the models that a recipe names: resolve the reference, read every header, apply the adapter.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use onefold_checkpoint::{Checkpoint, adapter};
use serde_json::Value;

use crate::hub::{self, HubConfig, HubError, HubEvent, Origin, Wanted};
use crate::mask_names::{self, Part};
use crate::recipe::ModelRef;

/// A model whose headers were read.
#[derive(Debug)]
pub struct Model {
    /// The reference as text, local paths in their plain form: how messages and the report name the model.
    pub label: String,
    /// What its random masks depend on, and how errors met while merging name it: the same however the
    /// recipe spells the path to it.
    pub mask_name: String,
    /// Names of the tensors that its adapter adds to those of its base.
    pub added: Vec<String>,
    /// Its tensors.
    pub checkpoint: Checkpoint,
    /// Its `config.json`, if it has one.
    pub config: Option<Value>,
    /// Whether it is a local directory (and not a hub name).
    pub local: bool,
    /// Every directory that is read for it.
    pub dirs: Vec<PathBuf>,
    parts: Vec<Part>,
}

impl Model {
    /// A key of the config, looked up at the top and then in `text_config`.
    pub fn config_value(&self, key: &str) -> Option<&Value> {
        let config = self.config.as_ref()?;
        config.get(key).or_else(|| config.get("text_config")?.get(key))
    }
}

/// Opens models, each once.
#[derive(Debug, Default)]
pub struct Library {
    models: BTreeMap<ModelRef, Model>,
}

impl Library {
    /// Opens all `references`; `named` maps the names of other merges to their outputs.
    ///
    /// # Errors
    /// Everything that is wrong with any of them, one sentence each.
    pub fn open(
        references: &[&ModelRef],
        named: &BTreeMap<String, PathBuf>,
        recipe_dir: &Path,
        config: &HubConfig,
        events: &mut dyn FnMut(HubEvent<'_>),
    ) -> Result<Self, Vec<String>> {
        let mut library = Self::default();
        let mut problems = Vec::new();
        let mut opener = Opener { named, recipe_dir, config: config.clone(), events, missed: None };
        for reference in references {
            if library.models.contains_key(*reference) {
                continue;
            }
            match opener.open(reference) {
                Ok(model) => {
                    library.models.insert((*reference).clone(), model);
                }
                Err(more) => {
                    let new: Vec<_> = more.into_iter().filter(|p| !problems.contains(p)).collect();
                    problems.extend(new);
                }
            }
        }
        problems.extend(opener.missed.map(|missed| missed.sentence()));
        library.name_masks();
        if problems.is_empty() { Ok(library) } else { Err(problems) }
    }

    fn name_masks(&mut self) {
        let names = mask_names::mask_names(self.models.values().map(|model| &model.parts[..]));
        for (model, name) in self.models.values_mut().zip(names) {
            model.mask_name = name.unwrap_or_else(|| model.label.clone());
        }
    }

    /// The model of a reference that was opened.
    pub fn get(&self, reference: &ModelRef) -> &Model {
        self.models.get(reference).expect("every reference of the recipe was opened")
    }

    /// All models, in order of their references.
    pub fn all(&self) -> impl Iterator<Item = &Model> {
        self.models.values()
    }
}

/// Opens one model after the other.
struct Opener<'a> {
    named: &'a BTreeMap<String, PathBuf>,
    recipe_dir: &'a Path,
    config: HubConfig,
    events: &'a mut dyn FnMut(HubEvent<'_>),
    missed: Option<Missed>,
}

/// What a hub that does not answer keeps from being opened. It is asked once: each further model would wait as long.
struct Missed {
    error: HubError,
    models: Vec<String>,
}

impl Missed {
    fn sentence(&self) -> String {
        let names = self.models.join(", ");
        let what = if self.models.len() == 1 { "model" } else { "models" };
        format!(
            "{what} {names}: {}; or name directories that exist (nothing is fetched for them or for what is in the \
             cache already)",
            self.error
        )
    }
}

impl Opener<'_> {
    fn open(&mut self, reference: &ModelRef) -> Result<Model, Vec<String>> {
        let label = reference.to_string();
        let several = |errors: Vec<onefold_checkpoint::CheckpointError>| {
            errors.iter().map(|e| format!("model {label}: {e}")).collect::<Vec<_>>()
        };
        let named = self.named.get(&reference.path).filter(|_| reference.revision.is_none());
        let (dir, local) = match named {
            Some(dir) => (dir.clone(), true),
            None => self.resolve(&label, &reference.path, reference.revision.as_deref(), Wanted::Model)?,
        };
        let mut checkpoint = Checkpoint::open(&dir).map_err(several)?;
        let mut own = reference.clone();
        if local {
            own.path = plain_path(&own.path);
        }
        let base = ModelRef { lora: None, ..reference.clone() }.to_string();
        let mut parts = vec![if local && named.is_none() { Part::folder(&dir) } else { Part::Named(base) }];
        let (mut dirs, mut added) = (vec![dir], Vec::new());
        if let Some(lora) = &mut own.lora {
            let (dir, local) = self.resolve(&label, &lora.path, lora.revision.as_deref(), Wanted::Adapter)?;
            let before: BTreeSet<String> = checkpoint.tensors().keys().cloned().collect();
            checkpoint = adapter::apply(checkpoint, &dir).map_err(several)?;
            added.extend(checkpoint.tensors().keys().filter(|name| !before.contains(*name)).cloned());
            parts.push(if local { Part::folder(&dir) } else { Part::Named(lora.to_string()) });
            dirs.push(dir);
            if local {
                lora.path = plain_path(&lora.path);
            }
        }
        let config = read_config(&checkpoint.dir().join("config.json"))
            .map_err(|problem| vec![format!("model {label}: {problem}")])?;
        let label = own.to_string();
        Ok(Model { mask_name: label.clone(), label, added, checkpoint, config, local, dirs, parts })
    }

    /// The directory of a model or adapter, and whether the user named it as such.
    fn resolve(
        &mut self,
        label: &str,
        path: &str,
        revision: Option<&str>,
        what: Wanted,
    ) -> Result<(PathBuf, bool), Vec<String>> {
        match hub::resolve(path, revision, what, self.recipe_dir, &self.config, self.events) {
            Ok(resolved) => Ok((resolved.dir, resolved.origin == Origin::Local)),
            Err(error) => Err(self.failed(label, error)),
        }
    }

    fn failed(&mut self, label: &str, error: HubError) -> Vec<String> {
        match (error, &mut self.missed) {
            (error @ HubError::Unreachable { .. }, None) => {
                self.config.offline = true;
                self.missed = Some(Missed { error, models: vec![label.to_owned()] });
                Vec::new()
            }
            (HubError::OfflineNotCached { .. } | HubError::OfflineIncomplete { .. }, Some(missed)) => {
                missed.models.push(label.to_owned());
                Vec::new()
            }
            (error, _) => vec![format!("model {label}: {error}")],
        }
    }
}

/// A local path without `.`, doubled and final slashes, and `..` after a name, so that `a`, `./a` and `a/` are one model.
/// Judged by the text alone: a link keeps its own name.
pub(crate) fn plain_path(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/').filter(|part| !part.is_empty() && *part != ".") {
        match parts.last() {
            Some(&last) if part == ".." && last != ".." && last != "~" => drop(parts.pop()),
            None if part == ".." && path.starts_with('/') => {}
            _ => parts.push(part),
        }
    }
    let joined = parts.join("/");
    match (path.starts_with('/'), joined.is_empty()) {
        (true, _) => format!("/{joined}"),
        (false, true) => ".".to_owned(),
        (false, false) => joined,
    }
}

fn read_config(path: &Path) -> Result<Option<Value>, String> {
    match std::fs::read(path) {
        Ok(text) => serde_json::from_slice(&text)
            .map(Some)
            .map_err(|e| format!("{}: invalid JSON: {e}", path.display())),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(format!("{}: cannot read: {e}", path.display())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_local_path_has_one_name() {
        for same in ["a/b", "./a/b", "a//b/", "a/./b", "a/x/../b", "x/../a/b"] {
            assert_eq!(plain_path(same), "a/b", "{same}");
        }
        assert_eq!(
            ["../a", "../../a/.", "/a/../../b", "/", ".", "a/.."].map(plain_path),
            ["../a", "../../a", "/b", "/", ".", "."]
        );
        assert_eq!(["~/a", "~/../a", "~"].map(plain_path), ["~/a", "~/../a", "~"]);
    }

    #[test]
    fn a_hub_that_does_not_answer_is_asked_once() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let asked = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
        let count = asked.clone();
        // Takes every connection and says nothing on it.
        std::thread::spawn(move || {
            for connection in listener.incoming() {
                count.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
                drop(connection);
            }
        });
        let dir = tempfile::tempdir().unwrap();
        let config = HubConfig {
            cache: Some(dir.path().join("cache")),
            endpoint: format!("http://{address}"),
            retries: 0,
            ..HubConfig::default()
        };
        let references =
            ["org/a", "org/b+org/c", "./none", "org/d"].map(|text| ModelRef::parse(text).unwrap());
        let references: Vec<&ModelRef> = references.iter().collect();
        let open = |config: &HubConfig| {
            Library::open(&references, &BTreeMap::new(), dir.path(), config, &mut |_| {}).unwrap_err()
        };
        let problems = open(&config);
        assert_eq!(asked.load(std::sync::atomic::Ordering::SeqCst), 1);
        assert_eq!(problems.len(), 2, "{problems:?}");
        assert!(problems[0].contains("./none"), "{problems:?}");
        for part in
            ["models org/a, org/b+org/c, org/d: no answer from http", "check the network", "directories"]
        {
            assert!(problems[1].contains(part), "`{part}` is not in {problems:?}");
        }
        // Whoever asked for no network is told so for each.
        let problems = open(&HubConfig { offline: true, ..config });
        assert_eq!(
            problems.iter().filter(|p| p.contains("network is switched off")).count(),
            3,
            "{problems:?}"
        );
    }
}
