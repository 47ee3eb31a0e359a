//! The place of the output: what may be written or replaced there, and the step that puts the finished directory into it.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use super::journal::JOURNAL;
use crate::CheckpointError;

/// Refuses a target that exists (unless `force`), that lies around an input, that is no model, or that lies below a file.
/// Changes nothing.
///
/// # Errors
/// [`CheckpointError::OutputIsInput`], [`OutputExists`](CheckpointError::OutputExists),
/// [`OutputIsNoModel`](CheckpointError::OutputIsNoModel), or [`Io`](CheckpointError::Io).
pub fn check_target(dir: &Path, inputs: &[PathBuf], force: bool) -> Result<(), CheckpointError> {
    let target = absolute(dir);
    for input in inputs {
        let input = absolute(input);
        if input.starts_with(&target) || input.starts_with(with_suffix(&target, ".partial")) {
            return Err(CheckpointError::OutputIsInput { path: dir.to_owned(), input });
        }
    }
    if dir.symlink_metadata().is_ok() && !force {
        return Err(CheckpointError::OutputExists { path: dir.to_owned() });
    }
    if force && !is_replaceable(dir) {
        return Err(CheckpointError::OutputIsNoModel { path: dir.to_owned() });
    }
    let partial = with_suffix(dir, ".partial");
    if !is_ours_or_empty(&partial) {
        return Err(CheckpointError::PartialIsForeign { path: partial });
    }
    match target.ancestors().skip(1).find(|above| above.symlink_metadata().is_ok()) {
        Some(above) if !above.is_dir() => {
            Err(CheckpointError::io(dir, "create")(std::io::ErrorKind::NotADirectory.into()))
        }
        _ => Ok(()),
    }
}

/// Whether `--force` may delete what is there: an output of ours, a directory of a model or an adapter, an empty one, or
/// nothing. A home directory is none of these, a repository with its history is more.
fn is_replaceable(dir: &Path) -> bool {
    let has = |name: &str| dir.join(name).is_file();
    let weights = [
        "model.safetensors",
        "model.safetensors.index.json",
        "pytorch_model.bin",
        "pytorch_model.bin.index.json",
    ];
    let model = has("config.json") && weights.iter().any(|name| has(name));
    let adapter = has("adapter_config.json") && has("adapter_model.safetensors");
    let ours = has("onefold.json") || model || adapter;
    dir.symlink_metadata().is_err() || is_empty(dir) || (ours && !dir.join(".git").exists())
}

/// Whether an unfinished output may be continued or cleared here: it has our journal, or there is nothing.
fn is_ours_or_empty(partial: &Path) -> bool {
    match partial.symlink_metadata() {
        Err(_) => true,
        Ok(found) => found.is_dir() && (is_empty(partial) || partial.join(JOURNAL).is_file()),
    }
}

fn is_empty(dir: &Path) -> bool {
    fs::read_dir(dir).is_ok_and(|mut entries| entries.next().is_none())
}

/// `path` without links, or as near to that as the existing part of it allows.
fn absolute(path: &Path) -> PathBuf {
    let full = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let mut tail = Vec::new();
    let mut head = full.as_path();
    loop {
        if let Ok(real) = head.canonicalize() {
            return tail.iter().rev().fold(real, |p, part| p.join(part));
        }
        match (head.parent(), head.file_name()) {
            (Some(parent), Some(name)) => {
                tail.push(name);
                head = parent;
            }
            _ => return full.clone(),
        }
    }
}

/// `path` with `suffix` added to its last part.
pub(super) fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(suffix);
    path.with_file_name(name)
}

pub(super) fn sync_dir(dir: &Path) -> Result<(), CheckpointError> {
    File::open(dir).and_then(|d| d.sync_all()).map_err(CheckpointError::io(dir, "sync"))
}

/// Moves `partial` to `dir`. An existing output is removed only when the new one is in its place.
pub(super) fn replace(partial: &Path, dir: &Path) -> Result<(), CheckpointError> {
    let failed = || CheckpointError::io(dir, "move the finished output to its place");
    let old = if dir.symlink_metadata().is_ok() {
        Some(exchange(partial, dir).map_err(failed())?)
    } else {
        fs::rename(partial, dir).map_err(failed())?;
        None
    };
    let parent = dir.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    sync_dir(parent)?;
    let Some(old) = old else { return Ok(()) };
    let removed = if old.is_dir() { fs::remove_dir_all(&old) } else { fs::remove_file(&old) };
    removed.map_err(CheckpointError::io(&old, "remove the replaced output"))
}

/// Puts `partial` in the place of `dir`, and says where the old one is: in one step where the system can, so that at
/// no instant there is none.
fn exchange(partial: &Path, dir: &Path) -> std::io::Result<PathBuf> {
    #[cfg(target_os = "linux")]
    {
        use rustix::fs::{CWD, RenameFlags, renameat_with};
        use rustix::io::Errno;
        match renameat_with(CWD, partial, CWD, dir, RenameFlags::EXCHANGE) {
            Ok(()) => return Ok(partial.to_owned()),
            Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => {}
            Err(error) => return Err(error.into()),
        }
    }
    let old = with_suffix(dir, ".replaced");
    fs::rename(dir, &old)?;
    fs::rename(partial, dir).inspect_err(|_| {
        // Give the user back what was there; the first error is the one to report.
        let _ = fs::rename(&old, dir);
    })?;
    Ok(old)
}
