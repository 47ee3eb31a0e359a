//! The files of a partial directory: emptied, pre-sized, and unreadable until `commit`.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::journal::JOURNAL;
use super::layout::{Layout, Shard};
use crate::CheckpointError;

/// Empties the partial directory but for the journal, which this run holds locked.
pub(super) fn clear(partial: &Path) -> Result<(), CheckpointError> {
    let entries = fs::read_dir(partial).map_err(CheckpointError::io(partial, "list"))?;
    for entry in entries.flatten().filter(|e| e.file_name() != JOURNAL) {
        let path = entry.path();
        let removed = if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
        removed.map_err(CheckpointError::io(&path, "remove"))?;
    }
    Ok(())
}

/// Opens all shards of `layout` for writing by position, allocated to their full size.
pub(super) fn open_shards(
    partial: &Path,
    layout: &Layout,
    resumed: bool,
) -> Result<Vec<(PathBuf, File)>, CheckpointError> {
    if !resumed {
        check_space(partial, layout.file_bytes())?;
    }
    let open = |shard: &Shard| {
        let path = partial.join(&shard.name);
        let file = open_shard(&path, shard)?;
        Ok((path, file))
    };
    layout.shards.iter().map(open).collect()
}

fn open_shard(path: &Path, shard: &Shard) -> Result<File, CheckpointError> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(path)
        .map_err(CheckpointError::io(path, "create"))?;
    allocate(&file, shard.len).map_err(CheckpointError::io(path, "allocate"))?;
    // A length of zero: no reader accepts the file before `commit`.
    file.write_all_at(&[0; 8], 0)
        .and_then(|()| file.write_all_at(&shard.header[8..], 8))
        .map_err(CheckpointError::io(path, "write"))?;
    Ok(file)
}

fn check_space(partial: &Path, needed: u64) -> Result<(), CheckpointError> {
    let Ok(stat) = rustix::fs::statvfs(partial) else { return Ok(()) };
    let available = stat.f_bavail.saturating_mul(stat.f_frsize);
    if available < needed {
        return Err(CheckpointError::NoSpace { path: partial.to_owned(), needed, available });
    }
    Ok(())
}

/// Reserves the blocks, so that a full disk is known now and not half-way; file systems that cannot only set the size.
fn allocate(file: &File, len: u64) -> std::io::Result<()> {
    #[cfg(target_os = "linux")]
    if len > 0 {
        use rustix::io::Errno;
        match rustix::fs::fallocate(file, rustix::fs::FallocateFlags::empty(), 0, len) {
            Ok(()) => return file.set_len(len),
            Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => {}
            Err(error) => return Err(error.into()),
        }
    }
    file.set_len(len)
}

/// Creates a file, or empties it.
pub(super) fn create(path: &Path) -> Result<File, CheckpointError> {
    let file = OpenOptions::new().write(true).create(true).truncate(true).open(path);
    file.map_err(CheckpointError::io(path, "create"))
}
