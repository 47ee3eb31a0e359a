//! What can be wrong with images and their configuration.

use std::path::PathBuf;

use crate::json::JsonError;

/// A problem with an image or with `preprocessor_config.json`.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ImageError {
    /// The configuration cannot be read.
    #[error(transparent)]
    Json(#[from] JsonError),
    /// The image cannot be read.
    #[error("{path}: cannot read: {source}", path = path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// The image is broken, too large, or of another format.
    #[error("{path}: not a readable image: {message}; expected PNG or JPEG", path = path.display())]
    Decode {
        /// The file.
        path: PathBuf,
        /// The decoder's reason.
        message: String,
    },
    /// The directory says nothing of images.
    #[error("{dir}: no preprocessor_config.json and no `image_processor` in processor_config.json", dir = dir.display())]
    NoProcessor {
        /// The directory.
        dir: PathBuf,
    },
    /// A key with a value that cannot be followed.
    #[error("{path}: key `{key}`: expected {expected}, found {found}", path = path.display())]
    Key {
        /// The file.
        path: PathBuf,
        /// The key.
        key: String,
        /// What it may be.
        expected: &'static str,
        /// What it is, as JSON; `nothing` if it is missing.
        found: String,
    },
    /// A picture so long and narrow that its resized form has no sensible size.
    #[error("an image of {width} × {height} pixels cannot be resized to a shortest edge of {edge}")]
    Narrow {
        /// Pixels in a row.
        width: usize,
        /// Rows.
        height: usize,
        /// The wanted edge.
        edge: usize,
    },
}
