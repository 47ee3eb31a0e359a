//! Writing a model directory so that nothing half-made loads and a killed run resumes.
//!
//! Everything is built in `OUT.partial`, beside the final place. All shards are pre-sized there with a header whose
//! length field is zero, which every safetensors reader refuses, and filled by position in any order. A journal
//! lists the finished tensors; a line enters it only after the data it speaks of was synced. At the end the data is
//! synced, the length fields are written, then the other files (config.json last), and one rename makes the directory
//! the output. Hence whatever loads is complete.

mod journal;
mod layout;
mod run_dir;
mod shards;
mod target;
#[cfg(test)]
mod tests;

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use crate::CheckpointError;
use journal::{Durable, JOURNAL, finished_tensors, lock, open_journal};
use shards::{clear, create, open_shards};
use target::{replace, sync_dir, with_suffix};

pub use layout::{Layout, OutputTensor};
pub use run_dir::{Log, RunDir, link};
pub use target::check_target;

/// Data written between two syncs. They run beside the work, so that the last one has little left to do; a crash of the
/// machine repeats at most this much.
const SYNC_EVERY: u64 = 128 << 20;

/// An output directory under construction. Shared by the worker threads.
#[derive(Debug)]
pub struct Output {
    dir: PathBuf,
    layout: Layout,
    durable: Arc<Durable>,
    unsynced: AtomicU64,
    /// Asks the syncing thread for a sync; dropped to end it.
    wake: Option<SyncSender<()>>,
    syncing: Option<JoinHandle<()>>,
}

/// The state in which [`Output::create`] found the place.
#[derive(Debug)]
pub struct Opened {
    /// The output.
    pub output: Output,
    /// For each tensor that an earlier run of the same job finished, the note it left.
    pub finished: Vec<Option<String>>,
}

impl Output {
    /// Prepares `dir`'s partial directory for `layout`. If it holds the work of an interrupted run of the same
    /// `job` (an identity of recipe, inputs and version), that work is kept; anything else there is discarded.
    ///
    /// # Errors
    /// If `dir` exists and `force` is not set, lies around one of `inputs`, cannot be written, is being written by
    /// another run, or does not fit on the file system.
    pub fn create(
        dir: &Path,
        layout: Layout,
        job: &str,
        inputs: &[PathBuf],
        force: bool,
    ) -> Result<Opened, CheckpointError> {
        check_target(dir, inputs, force)?;
        let partial = with_suffix(dir, ".partial");
        fs::create_dir_all(&partial).map_err(CheckpointError::io(&partial, "create the output directory"))?;
        let (mut journal, old_lines) = open_journal(&partial)?;
        // Another run may have finished between the look at `dir` and the lock.
        check_target(dir, inputs, force)?;
        let resumed = old_lines.first().is_some_and(|line| line == job);
        let finished = if resumed {
            finished_tensors(&old_lines, layout.tensors.len())
        } else {
            vec![None; layout.tensors.len()]
        };
        if !resumed {
            clear(&partial)?;
            let path = partial.join(JOURNAL);
            journal
                .set_len(0)
                .and_then(|()| writeln!(journal, "{job}"))
                .map_err(CheckpointError::io(&path, "write"))?;
        }
        let shards = open_shards(&partial, &layout, resumed)?;
        let durable = Arc::new(Durable {
            partial,
            shards,
            journal: Mutex::new(journal),
            waiting: Mutex::default(),
            failed: Mutex::default(),
        });
        let (wake, asked) = sync_channel(1);
        let thread = durable.clone();
        let syncing = std::thread::spawn(move || thread.sync_when_asked(&asked));
        let (dir, unsynced) = (dir.to_owned(), AtomicU64::new(0));
        let output = Self { dir, layout, durable, unsynced, wake: Some(wake), syncing: Some(syncing) };
        Ok(Opened { output, finished })
    }

    /// The layout being filled.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Writes `bytes` at byte `offset` of tensor number `tensor`.
    ///
    /// # Errors
    /// If the system refuses.
    pub fn write(&self, tensor: usize, offset: u64, bytes: &[u8]) -> Result<(), CheckpointError> {
        let (shard, start) = self.layout.places[tensor];
        let (path, file) = &self.durable.shards[shard];
        file.write_all_at(bytes, start + offset).map_err(CheckpointError::io(path, "write"))?;
        let unsynced = self.unsynced.fetch_add(bytes.len() as u64, Ordering::Relaxed) + bytes.len() as u64;
        if unsynced >= SYNC_EVERY {
            self.unsynced.store(0, Ordering::Relaxed);
            // A sync that is under way already is asked for once more at most.
            let _ = self.wake.as_ref().map(|wake| wake.try_send(()));
        }
        Ok(())
    }

    /// Records that all bytes of a tensor were written, with a `note` of one line that a resumed run gets back. The
    /// record becomes durable with the next sync.
    ///
    /// # Errors
    /// If a sync failed meanwhile.
    pub fn finish(&self, tensor: usize, note: &str) -> Result<(), CheckpointError> {
        debug_assert!(!note.contains('\n'), "the journal is made of lines");
        lock(&self.durable.waiting).push((tensor, note.to_owned()));
        lock(&self.durable.failed).take().map_or(Ok(()), Err)
    }

    /// Writes a side file (anything but weights) into the output.
    ///
    /// # Errors
    /// If the system refuses.
    pub fn add_file(&self, name: &str, bytes: &[u8]) -> Result<(), CheckpointError> {
        let (path, mut file) = self.new_file(name)?;
        file.write_all(bytes).and_then(|()| file.sync_all()).map_err(CheckpointError::io(&path, "write"))
    }

    /// Copies a side file byte for byte, whatever its size.
    ///
    /// # Errors
    /// If the system refuses.
    pub fn copy_file(&self, name: &str, from: &Path) -> Result<(), CheckpointError> {
        let mut source = File::open(from).map_err(CheckpointError::io(from, "read"))?;
        let (path, mut file) = self.new_file(name)?;
        let copied = std::io::copy(&mut source, &mut file).and_then(|_| file.sync_all());
        copied.map_err(CheckpointError::io(&path, "write"))
    }

    /// An empty side file, its folder made.
    fn new_file(&self, name: &str) -> Result<(PathBuf, File), CheckpointError> {
        let path = self.durable.partial.join(name);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).map_err(CheckpointError::io(parent, "create"))?;
        }
        let file = create(&path)?;
        Ok((path, file))
    }

    /// Syncs what is finished so that an interrupted run resumes here.
    ///
    /// # Errors
    /// If the system refuses.
    pub fn suspend(mut self) -> Result<PathBuf, CheckpointError> {
        self.end_syncing();
        self.durable.sync()?;
        Ok(self.durable.partial.clone())
    }

    /// Removes the partial directory: for jobs that failed in a way that a second try would repeat.
    pub fn discard(mut self) {
        self.end_syncing();
        // The job's own error matters more than one of cleaning up, which leaves only a `.partial` directory.
        let _ = fs::remove_dir_all(&self.durable.partial);
    }

    /// Makes the output: syncs, completes the headers, writes index and `config` (last), renames.
    ///
    /// # Errors
    /// If the system refuses; the partial directory then stays and a second run goes on from it.
    pub fn commit(mut self, config: Option<&[u8]>) -> Result<PathBuf, CheckpointError> {
        self.end_syncing();
        self.durable.sync()?;
        let partial = &self.durable.partial;
        if let Some(index) = self.layout.index() {
            self.add_file(&format!("{}.safetensors.index.json", self.layout.stem), &index)?;
        }
        for (shard, (path, file)) in self.layout.shards.iter().zip(&self.durable.shards) {
            file.write_all_at(&shard.header[..8], 0)
                .and_then(|()| file.sync_all())
                .map_err(CheckpointError::io(path, "complete"))?;
        }
        if let Some(config) = config {
            self.add_file("config.json", config)?;
        }
        sync_dir(partial)?;
        replace(partial, &self.dir)?;
        // Only now: with the journal goes the lock that keeps other runs out of the partial directory.
        let journal = self.dir.join(JOURNAL);
        fs::remove_file(&journal).map_err(CheckpointError::io(&journal, "remove"))?;
        Ok(self.dir.clone())
    }

    fn end_syncing(&mut self) {
        self.wake = None;
        if let Some(thread) = self.syncing.take() {
            // The thread does not panic; its errors are in `failed`.
            let _ = thread.join();
        }
    }
}

impl Drop for Output {
    /// Releases the lock on the partial directory before the caller goes on.
    fn drop(&mut self) {
        self.end_syncing();
    }
}

/// Writes a single file beside no model: complete or not at all.
///
/// # Errors
/// If it exists and `force` is not set, or the system refuses.
pub fn write_file(path: &Path, bytes: &[u8], force: bool) -> Result<(), CheckpointError> {
    if path.symlink_metadata().is_ok() && !force {
        return Err(CheckpointError::OutputExists { path: path.to_owned() });
    }
    let partial = with_suffix(path, ".partial");
    let mut file = create(&partial)?;
    file.write_all(bytes).and_then(|()| file.sync_all()).map_err(CheckpointError::io(&partial, "write"))?;
    fs::rename(&partial, path).map_err(CheckpointError::io(path, "rename the finished file to its place"))
}
