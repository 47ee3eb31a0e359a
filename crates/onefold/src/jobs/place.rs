//! Where an output may go: what can be said before anything is read, and what an attempt to write there means.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use onefold_checkpoint::CheckpointError;
#[cfg(feature = "train")]
use onefold_checkpoint::output::RunDir;
use onefold_checkpoint::output::check_target;
use rustix::fs::{Access, access};

use crate::progress::Failure;

/// Refuses a place that is taken, that lies around one of `kept`, or that this user may not write to. Changes nothing.
pub(crate) fn check(out: &Path, kept: &[PathBuf], force: bool) -> Result<(), CheckpointError> {
    check_target(out, kept, force)?;
    let partial = with_suffix(out, ".partial");
    let full = std::path::absolute(&partial).map_err(CheckpointError::io(&partial, "create"))?;
    // The unfinished output itself, or the nearest folder in which it and those above it are to be made.
    let Some(place) = full.ancestors().find(|place| place.symlink_metadata().is_ok()) else { return Ok(()) };
    access(place, Access::WRITE_OK | Access::EXEC_OK)
        .map_err(|e| CheckpointError::io(&partial, "create")(e.into()))
}

/// Refuses a place inside of a directory whose files are data: the next run would read what this one writes.
#[cfg(feature = "train")]
pub(crate) fn check_outside(out: &Path, data: &[PathBuf]) -> Result<(), Failure> {
    let full = |path: &Path| -> PathBuf {
        let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        // The part that is there, without links; then what is still to be made.
        let known = absolute.ancestors().find_map(|part| Some((part.canonicalize().ok()?, part.to_owned())));
        match known {
            Some((real, part)) => absolute.strip_prefix(&part).map_or(real.clone(), |rest| real.join(rest)),
            None => absolute,
        }
    };
    let place = full(out);
    let around = data.iter().filter(|path| path.is_dir()).find(|path| place.starts_with(full(path)));
    match around {
        None => Ok(()),
        Some(dir) => Err(Failure::usage(format!(
            "{}: it lies in {}, whose files are data, and would be read as data itself; choose another place",
            out.display(),
            dir.display()
        ))),
    }
}

/// Makes the directory of a run, or finds what an interrupted one has left.
#[cfg(feature = "train")]
pub(crate) fn open_run(out: &Path, job: &str, inputs: &[PathBuf], force: bool) -> Result<RunDir, Failure> {
    if let Some(parent) = out.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        std::fs::create_dir_all(parent).map_err(|e| refused(CheckpointError::io(parent, "create")(e)))?;
    }
    RunDir::open(out, job, inputs, force).map_err(refused)
}

/// Why an output was not opened: a place that cannot be written to is a bad argument, a full disk is not.
pub(crate) fn refused(error: CheckpointError) -> Failure {
    use ErrorKind::{InvalidFilename, NotADirectory, NotFound, PermissionDenied, ReadOnlyFilesystem};
    let failed = match &error {
        CheckpointError::NoSpace { .. } => true,
        CheckpointError::Io { source, .. } => !matches!(
            source.kind(),
            PermissionDenied | ReadOnlyFilesystem | NotFound | NotADirectory | InvalidFilename
        ),
        _ => false,
    };
    if failed { Failure::job(error) } else { Failure::usage(error.to_string()) }
}

/// `path` with `suffix` added to its last part.
pub(crate) fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(suffix);
    path.with_file_name(name)
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[test]
    fn only_the_place_is_the_users_fault() {
        let io = |kind: ErrorKind| CheckpointError::io(Path::new("out"), "write")(io::Error::from(kind));
        for kind in
            [ErrorKind::StorageFull, ErrorKind::QuotaExceeded, ErrorKind::FileTooLarge, ErrorKind::Other]
        {
            assert!(matches!(refused(io(kind)), Failure::Job(_)), "{kind}");
        }
        for kind in [ErrorKind::PermissionDenied, ErrorKind::ReadOnlyFilesystem, ErrorKind::NotADirectory] {
            assert!(matches!(refused(io(kind)), Failure::Usage(_)), "{kind}");
        }
        let full = CheckpointError::NoSpace { path: "out".into(), needed: 2, available: 1 };
        assert!(matches!(refused(full), Failure::Job(_)));
        let busy = CheckpointError::OutputBusy { path: "out".into() };
        assert!(matches!(refused(busy), Failure::Usage(_)));
    }
}
