//! Read-only memory-mapped files: the only module with `unsafe`.

use std::fs::File;
use std::ops::Deref;
use std::path::{Path, PathBuf};

use memmap2::Mmap;

use crate::CheckpointError;

/// A file mapped into memory. Its pages belong to the page cache: they are not counted as anonymous memory and
/// the system drops them when it needs room.
#[derive(Debug)]
pub struct MappedFile {
    path: PathBuf,
    map: Mmap,
}

impl MappedFile {
    /// Maps `path`.
    ///
    /// # Errors
    /// If the file cannot be opened or mapped.
    #[allow(unsafe_code, reason = "mapping a file cannot be expressed safely")]
    pub fn open(path: &Path) -> Result<Self, CheckpointError> {
        let file = File::open(path).map_err(CheckpointError::io(path, "open"))?;
        // SAFETY: the mapping is private and read-only. If another process truncates or rewrites the file while it
        // is mapped, reads may fault or see new bytes; this is the contract of every mmap reader of checkpoints,
        // and onefold itself replaces files only by rename, which leaves existing mappings intact.
        let map = unsafe { Mmap::map(&file) }.map_err(CheckpointError::io(path, "map"))?;
        Ok(Self { path: path.to_owned(), map })
    }

    /// Where the file was opened.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Deref for MappedFile {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.map
    }
}
