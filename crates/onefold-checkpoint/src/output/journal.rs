//! The record of finished tensors. A line enters it only after the data it speaks of was synced, so that what it says
//! holds after a crash of the machine too.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::mpsc::Receiver;
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::fs::FlockOperation;

use crate::CheckpointError;

/// Its name in the partial directory.
pub(super) const JOURNAL: &str = ".onefold-journal";

/// What is made durable: the shards, and then the journal that speaks of them.
#[derive(Debug)]
pub(super) struct Durable {
    pub(super) partial: PathBuf,
    pub(super) shards: Vec<(PathBuf, File)>,
    pub(super) journal: Mutex<File>,
    /// Finished tensors, with their notes, whose data is not yet known to be on disk.
    pub(super) waiting: Mutex<Vec<(usize, String)>>,
    /// Why a sync beside the work failed.
    pub(super) failed: Mutex<Option<CheckpointError>>,
}

impl Durable {
    /// Syncs the shards, then records the tensors that were finished before.
    pub(super) fn sync(&self) -> Result<(), CheckpointError> {
        let mut journal = lock(&self.journal);
        let finished = std::mem::take(&mut *lock(&self.waiting));
        for (path, file) in &self.shards {
            file.sync_data().map_err(CheckpointError::io(path, "sync"))?;
        }
        let lines: String = finished.into_iter().map(|(t, note)| format!("{t} {note}\n")).collect();
        let path = self.partial.join(JOURNAL);
        journal.write_all(lines.as_bytes()).map_err(CheckpointError::io(&path, "write"))?;
        journal.sync_data().map_err(CheckpointError::io(&path, "sync"))
    }

    /// The body of the syncing thread.
    pub(super) fn sync_when_asked(&self, asked: &Receiver<()>) {
        while asked.recv().is_ok() {
            if let Err(error) = self.sync() {
                lock(&self.failed).get_or_insert(error);
            }
        }
    }
}

/// No holder of these locks panics; if one did, its data would still be whole.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Opens the journal of `partial` and locks it: whoever holds it owns the directory. Returns its complete lines.
pub(super) fn open_journal(partial: &Path) -> Result<(File, Vec<String>), CheckpointError> {
    let path = partial.join(JOURNAL);
    let mut file = OpenOptions::new()
        .read(true)
        .append(true)
        .create(true)
        .open(&path)
        .map_err(CheckpointError::io(&path, "open"))?;
    if rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
        return Err(CheckpointError::OutputBusy { path: partial.to_owned() });
    }
    let mut text = Vec::new();
    file.read_to_end(&mut text).map_err(CheckpointError::io(&path, "read"))?;
    // A line without its end was cut by a crash and does not count.
    let complete = text.iter().rposition(|b| *b == b'\n').map_or(0, |end| end + 1);
    let lines = String::from_utf8_lossy(&text[..complete]).lines().map(str::to_owned).collect();
    file.set_len(complete as u64).map_err(CheckpointError::io(&path, "truncate"))?;
    Ok((file, lines))
}

/// The notes of the finished tensors, from the lines after the first.
pub(super) fn finished_tensors(lines: &[String], count: usize) -> Vec<Option<String>> {
    let mut finished = vec![None; count];
    for (index, note) in lines[1..].iter().filter_map(|line| line.split_once(' ')) {
        if let Some(done) = index.parse::<usize>().ok().and_then(|i| finished.get_mut(i)) {
            *done = Some(note.to_owned());
        }
    }
    finished
}
