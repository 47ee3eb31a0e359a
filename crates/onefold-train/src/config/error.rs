//! What can be wrong with `config.json`.

use std::path::PathBuf;

use crate::json::JsonError;

/// A configuration that describes no model that can be run. Nothing is guessed: what would change the arithmetic and
/// is not understood ends here.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The file cannot be read.
    #[error(transparent)]
    Json(#[from] JsonError),
    /// A key that has to be there.
    #[error("{path}: key `{key}` is missing", path = path.display())]
    Missing {
        /// The file.
        path: PathBuf,
        /// The key, with the keys of the objects around it.
        key: String,
    },
    /// A value of the wrong form, or out of range.
    #[error("{path}: key `{key}`: expected {expected}, found {found}", path = path.display())]
    Value {
        /// The file.
        path: PathBuf,
        /// The key.
        key: String,
        /// What it may be.
        expected: String,
        /// What it is, as JSON.
        found: String,
    },
    /// A named choice that is not implemented.
    #[error("{path}: key `{key}`: {found} is not supported; supported: {supported}", path = path.display())]
    Unsupported {
        /// The file.
        path: PathBuf,
        /// The key.
        key: String,
        /// What it is, as JSON.
        found: String,
        /// What it may be.
        supported: String,
    },
    /// Two keys that cannot both be right.
    #[error("{path}: {message}", path = path.display())]
    Contradiction {
        /// The file.
        path: PathBuf,
        /// Keys and values, and what would have to hold.
        message: String,
    },
}
