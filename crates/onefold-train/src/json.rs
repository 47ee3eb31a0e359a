//! Reading JSON files of a model directory.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

/// Why a JSON file gave no object.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum JsonError {
    /// The operating system refused.
    #[error("{path}: cannot read: {source}", path = path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// No JSON, or no object at its top.
    #[error("{path}: expected a JSON object: {message}", path = path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// Where and why.
        message: String,
    },
}

/// The object in `path`.
pub(crate) fn read_object(path: &Path) -> Result<Map<String, Value>, JsonError> {
    let text = fs::read_to_string(path).map_err(|source| JsonError::Io { path: path.to_owned(), source })?;
    parse_object(&text, path)
}

/// The object in `path`; none if there is no such file.
pub(crate) fn read_object_if_there(path: &Path) -> Result<Option<Map<String, Value>>, JsonError> {
    match read_object(path) {
        Err(JsonError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => Ok(None),
        other => other.map(Some),
    }
}

/// The object that `text` spells; `path` is for messages.
pub(crate) fn parse_object(text: &str, path: &Path) -> Result<Map<String, Value>, JsonError> {
    serde_json::from_str(text)
        .map_err(|error| JsonError::Syntax { path: path.to_owned(), message: error.to_string() })
}

/// The value as it stands in an error message: JSON, cut to a readable length.
pub(crate) fn shown(value: &Value) -> String {
    const LONGEST: usize = 80;
    let text = value.to_string();
    match text.char_indices().nth(LONGEST) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text,
    }
}
