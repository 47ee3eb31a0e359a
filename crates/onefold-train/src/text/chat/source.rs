//! Where a model directory keeps its chat templates.
//!
//! In order: `chat_template.jinja` with `additional_chat_templates/<name>.jinja` beside it; `chat_template.json` (of
//! processors); the key `chat_template` of `tokenizer_config.json`, a string or a list of `{name, template}`. The first
//! place that has any is taken alone.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::{fs, io};

use serde_json::Value;

use crate::json::{read_object_if_there, shown};
use crate::text::TextError;

/// A template's text, and where it stands.
pub(super) struct Source {
    pub(super) name: String,
    pub(super) text: String,
}

/// Templates of one place, by name.
struct Place {
    path: PathBuf,
    templates: BTreeMap<String, String>,
}

/// The template to use; see [`super::ChatTemplate::open`].
pub(super) fn find(dir: &Path, chosen: Option<&str>, tools: bool) -> Result<Source, TextError> {
    let place = match files(dir)? {
        Some(place) => Some(place),
        None => match key(dir, "chat_template.json")? {
            Some(place) => Some(place),
            None => key(dir, "tokenizer_config.json")?,
        },
    };
    let Place { path, mut templates } = place.ok_or_else(|| TextError::NoTemplate { dir: dir.to_owned() })?;
    let wanted = match chosen {
        Some(name) => name,
        None if tools && templates.contains_key("tool_use") => "tool_use",
        None => "default",
    };
    let single = templates.len() == 1;
    match templates.remove(wanted) {
        Some(text) if single => Ok(Source { name: path.display().to_string(), text }),
        Some(text) => Ok(Source { name: format!("{} ({wanted})", path.display()), text }),
        None => {
            let names = templates.into_keys().collect();
            Err(TextError::NoSuchTemplate { path, wanted: wanted.to_owned(), names })
        }
    }
}

/// `chat_template.jinja` and its additional templates.
fn files(dir: &Path) -> Result<Option<Place>, TextError> {
    let path = dir.join("chat_template.jinja");
    let mut templates = BTreeMap::new();
    if let Some(text) = text(&path)? {
        templates.insert("default".to_owned(), text);
    }
    let more = dir.join("additional_chat_templates");
    if more.is_dir() {
        let failed = |source| TextError::Io { path: more.clone(), source };
        for entry in fs::read_dir(&more).map_err(failed)? {
            let file = entry.map_err(failed)?.path();
            let name = file.file_stem().and_then(|stem| stem.to_str()).map(str::to_owned);
            if let (Some(name), Some("jinja")) = (name, file.extension().and_then(|end| end.to_str())) {
                templates.extend(text(&file)?.map(|text| (name, text)));
            }
        }
    }
    Ok((!templates.is_empty()).then_some(Place { path, templates }))
}

fn text(path: &Path) -> Result<Option<String>, TextError> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(TextError::Io { path: path.to_owned(), source }),
    }
}

/// The key `chat_template` of a JSON file.
fn key(dir: &Path, file: &str) -> Result<Option<Place>, TextError> {
    let path = dir.join(file);
    let Some(found) = read_object_if_there(&path)?.and_then(|mut keys| keys.remove("chat_template")) else {
        return Ok(None);
    };
    let named = |entry: &Value| {
        let text = |key| entry.get(key).and_then(Value::as_str).map(str::to_owned);
        text("name").zip(text("template"))
    };
    let templates = match &found {
        Value::Null => return Ok(None),
        Value::String(text) => Some(BTreeMap::from([("default".to_owned(), text.clone())])),
        Value::Array(list) => list.iter().map(named).collect(),
        _ => None,
    };
    let wrong = || TextError::Key {
        path: path.clone(),
        key: "chat_template".to_owned(),
        expected: "a string or a list of {name, template}",
        found: shown(&found),
    };
    let templates = templates.ok_or_else(wrong)?;
    Ok((!templates.is_empty()).then_some(Place { path, templates }))
}
