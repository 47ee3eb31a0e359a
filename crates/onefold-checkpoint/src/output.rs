//! Writing a model directory so that nothing half-made loads and a killed run resumes.
//!
//! Everything is built in `OUT.partial`, beside the final place. All shards are pre-sized there with a header whose
//! length field is zero, which every safetensors reader refuses, and filled by position in any order. A journal
//! lists the finished tensors; a line enters it only after the data it speaks of was synced. At the end the data is
//! synced, the length fields are written, then the other files (config.json last), and one rename makes the directory
//! the output. Hence whatever loads is complete.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use rustix::fs::FlockOperation;

use crate::{CheckpointError, Dtype, header};

/// One tensor to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutputTensor {
    /// Name.
    pub name: String,
    /// Element type as written.
    pub dtype: Dtype,
    /// Shape.
    pub shape: Vec<usize>,
}

impl OutputTensor {
    fn bytes(&self) -> u64 {
        (self.shape.iter().product::<usize>() * self.dtype.size()) as u64
    }
}

/// Where every tensor of the output will lie: known before any is computed.
#[derive(Debug, Clone)]
pub struct Layout {
    stem: String,
    shards: Vec<Shard>,
    /// (shard, byte in file) of each tensor, in the order given.
    places: Vec<(usize, u64)>,
    tensors: Vec<OutputTensor>,
}

#[derive(Debug, Clone)]
struct Shard {
    name: String,
    header: Vec<u8>,
    len: u64,
}

impl Layout {
    /// Places `tensors`, in their order, into shards of at most `max_shard` bytes of data (a larger tensor gets a
    /// shard of its own). Names follow `transformers`: `model.safetensors`, or `model-00001-of-0000N.safetensors`.
    pub fn new(tensors: Vec<OutputTensor>, max_shard: u64) -> Self {
        Self::with_stem("model", tensors, max_shard)
    }

    /// The same with names that begin with another `stem` than a model's.
    pub fn with_stem(stem: &str, tensors: Vec<OutputTensor>, max_shard: u64) -> Self {
        let mut groups: Vec<Vec<usize>> = vec![Vec::new()];
        let mut filled = 0;
        for (i, tensor) in tensors.iter().enumerate() {
            let bytes = tensor.bytes();
            if filled > 0 && filled + bytes > max_shard {
                groups.push(Vec::new());
                filled = 0;
            }
            filled += bytes;
            groups.last_mut().expect("starts with one group").push(i);
        }
        let mut places = vec![(0, 0); tensors.len()];
        let count = groups.len();
        let shards = groups
            .iter()
            .enumerate()
            .map(|(s, group)| {
                let name = match count {
                    1 => format!("{stem}.safetensors"),
                    _ => format!("{stem}-{:05}-of-{count:05}.safetensors", s + 1),
                };
                shard(s, name, group, &tensors, &mut places)
            })
            .collect();
        Self { stem: stem.to_owned(), shards, places, tensors }
    }

    /// The tensors in their order.
    pub fn tensors(&self) -> &[OutputTensor] {
        &self.tensors
    }

    /// Bytes of all shard files.
    pub fn file_bytes(&self) -> u64 {
        self.shards.iter().map(|s| s.len).sum()
    }

    /// Bytes of all tensors.
    pub fn data_bytes(&self) -> u64 {
        self.tensors.iter().map(OutputTensor::bytes).sum()
    }

    /// Names of the shard files.
    pub fn shard_names(&self) -> impl Iterator<Item = &str> {
        self.shards.iter().map(|s| s.name.as_str())
    }

    /// The text of `STEM.safetensors.index.json`, or `None` for a single shard.
    fn index(&self) -> Option<Vec<u8>> {
        if self.shards.len() == 1 {
            return None;
        }
        let parameters: usize = self.tensors.iter().map(|t| t.shape.iter().product::<usize>()).sum();
        let map: BTreeMap<&str, &str> = self
            .tensors
            .iter()
            .zip(&self.places)
            .map(|(tensor, (shard, _))| (tensor.name.as_str(), self.shards[*shard].name.as_str()))
            .collect();
        let index = serde_json::json!({
            "metadata": {"total_parameters": parameters, "total_size": self.data_bytes()},
            "weight_map": map,
        });
        let mut text = serde_json::to_vec_pretty(&index).expect("strings and numbers serialise");
        text.push(b'\n');
        Some(text)
    }
}

fn shard(
    s: usize,
    name: String,
    group: &[usize],
    tensors: &[OutputTensor],
    places: &mut [(usize, u64)],
) -> Shard {
    let metadata = BTreeMap::from([("format".to_owned(), "pt".to_owned())]);
    let entry = |i: &usize| {
        let t = &tensors[*i];
        (t.name.as_str(), t.dtype, &t.shape[..], t.bytes())
    };
    let header = header::encode(group.iter().map(entry), &metadata);
    let mut len = header.len() as u64;
    for i in group {
        places[*i] = (s, len);
        len += tensors[*i].bytes();
    }
    Shard { name, header, len }
}

const JOURNAL: &str = ".onefold-journal";
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

/// What is made durable: the shards, and then the journal that speaks of them.
#[derive(Debug)]
struct Durable {
    partial: PathBuf,
    shards: Vec<(PathBuf, File)>,
    journal: Mutex<File>,
    /// Finished tensors, with their notes, whose data is not yet known to be on disk.
    waiting: Mutex<Vec<(usize, String)>>,
    /// Why a sync beside the work failed.
    failed: Mutex<Option<CheckpointError>>,
}

impl Durable {
    /// Syncs the shards, then records the tensors that were finished before.
    fn sync(&self) -> Result<(), CheckpointError> {
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
    fn sync_when_asked(&self, asked: &Receiver<()>) {
        while asked.recv().is_ok() {
            if let Err(error) = self.sync() {
                lock(&self.failed).get_or_insert(error);
            }
        }
    }
}

/// No holder of these locks panics; if one did, its data would still be whole.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
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
        let path = self.durable.partial.join(name);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).map_err(CheckpointError::io(parent, "create"))?;
        }
        let mut file = create(&path)?;
        file.write_all(bytes).and_then(|()| file.sync_all()).map_err(CheckpointError::io(&path, "write"))
    }

    /// Copies a side file byte for byte.
    ///
    /// # Errors
    /// If the system refuses.
    pub fn copy_file(&self, name: &str, from: &Path) -> Result<(), CheckpointError> {
        let bytes = fs::read(from).map_err(CheckpointError::io(from, "read"))?;
        self.add_file(name, &bytes)
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

fn check_target(dir: &Path, inputs: &[PathBuf], force: bool) -> Result<(), CheckpointError> {
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
    Ok(())
}

/// Whether `--force` may delete what is there: a model directory, an empty one, or nothing. A home directory is neither.
fn is_replaceable(dir: &Path) -> bool {
    let marks = ["onefold.json", "config.json", "model.safetensors", "model.safetensors.index.json"];
    let empty = || fs::read_dir(dir).is_ok_and(|mut entries| entries.next().is_none());
    dir.symlink_metadata().is_err() || marks.iter().any(|name| dir.join(name).is_file()) || empty()
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

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(suffix);
    path.with_file_name(name)
}

fn open_journal(partial: &Path) -> Result<(File, Vec<String>), CheckpointError> {
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

fn finished_tensors(lines: &[String], count: usize) -> Vec<Option<String>> {
    let mut finished = vec![None; count];
    for (index, note) in lines[1..].iter().filter_map(|line| line.split_once(' ')) {
        if let Some(done) = index.parse::<usize>().ok().and_then(|i| finished.get_mut(i)) {
            *done = Some(note.to_owned());
        }
    }
    finished
}

/// Empties the partial directory but for the journal, which this run holds locked.
fn clear(partial: &Path) -> Result<(), CheckpointError> {
    let entries = fs::read_dir(partial).map_err(CheckpointError::io(partial, "list"))?;
    for entry in entries.flatten().filter(|e| e.file_name() != JOURNAL) {
        let path = entry.path();
        let removed = if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
        removed.map_err(CheckpointError::io(&path, "remove"))?;
    }
    Ok(())
}

fn open_shards(
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

fn create(path: &Path) -> Result<File, CheckpointError> {
    let file = OpenOptions::new().write(true).create(true).truncate(true).open(path);
    file.map_err(CheckpointError::io(path, "create"))
}

fn sync_dir(dir: &Path) -> Result<(), CheckpointError> {
    File::open(dir).and_then(|d| d.sync_all()).map_err(CheckpointError::io(dir, "sync"))
}

/// Moves `partial` to `dir`. An existing output is removed only when the new one is in its place.
fn replace(partial: &Path, dir: &Path) -> Result<(), CheckpointError> {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Checkpoint;

    fn layout(max_shard: u64) -> Layout {
        let tensor = |name: &str, n| OutputTensor { name: name.into(), dtype: Dtype::U8, shape: vec![n] };
        Layout::new(vec![tensor("a", 4), tensor("b", 3), tensor("c", 8)], max_shard)
    }

    fn fill(output: &Output, tensor: usize) {
        let n = output.layout().tensors()[tensor].shape[0];
        output.write(tensor, 0, &vec![tensor as u8 + 1; n]).unwrap();
        output.finish(tensor, "note").unwrap();
    }

    fn create(dir: &Path, job: &str) -> Result<Opened, CheckpointError> {
        Output::create(dir, layout(7), job, &[], false)
    }

    #[test]
    fn shards_are_split_by_size_and_listed_in_the_index() {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("out");
        let output = create(&out, "job").unwrap().output;
        assert_eq!(
            output.layout().shard_names().collect::<Vec<_>>(),
            ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
        );
        for t in [2, 0, 1] {
            fill(&output, t);
        }
        output.commit(Some(b"{}")).unwrap();
        let read = Checkpoint::open(&out).unwrap();
        assert_eq!(read.tensors()["c"].stored().unwrap().bytes, [3; 8]);
        let index: serde_json::Value =
            serde_json::from_slice(&fs::read(out.join("model.safetensors.index.json")).unwrap()).unwrap();
        assert_eq!(index["metadata"], serde_json::json!({"total_parameters": 15, "total_size": 15}));
        assert!(!out.join(JOURNAL).exists() && !dir.path().join("out.partial").exists());
    }

    #[test]
    fn one_shard_has_no_index() {
        assert!(layout(100).index().is_none());
        assert_eq!(layout(100).shard_names().collect::<Vec<_>>(), ["model.safetensors"]);
    }

    #[test]
    fn nothing_loads_before_commit_and_the_same_job_resumes() {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("out");
        let output = create(&out, "job").unwrap().output;
        fill(&output, 1);
        let partial = output.suspend().unwrap();
        assert!(Checkpoint::open(&partial.join("model-00001-of-00002.safetensors")).is_err());
        assert!(!out.exists());
        let again = create(&out, "job").unwrap();
        assert_eq!(again.finished, [None, Some("note".to_owned()), None]);
        fill(&again.output, 0);
        fill(&again.output, 2);
        again.output.commit(None).unwrap();
        assert_eq!(Checkpoint::open(&out).unwrap().tensors()["b"].stored().unwrap().bytes, [2; 3]);
    }

    #[test]
    fn another_job_starts_afresh_and_a_cut_line_does_not_count() {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("out");
        let output = create(&out, "job").unwrap().output;
        fill(&output, 1);
        let partial = output.suspend().unwrap();
        let mut journal = OpenOptions::new().append(true).open(partial.join(JOURNAL)).unwrap();
        journal.write_all(b"2 cu").unwrap();
        let resumed = create(&out, "job").unwrap();
        assert_eq!(resumed.finished.iter().map(Option::is_some).collect::<Vec<_>>(), [false, true, false]);
        drop(resumed);
        assert_eq!(create(&out, "other").unwrap().finished, [None, None, None]);
    }

    #[test]
    fn two_runs_cannot_share_an_output() {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("out");
        let _first = create(&out, "job").unwrap();
        assert!(matches!(create(&out, "job"), Err(CheckpointError::OutputBusy { .. })));
    }

    #[test]
    fn existing_outputs_and_inputs_are_protected() {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("out");
        fs::create_dir(&out).unwrap();
        assert!(matches!(create(&out, "job"), Err(CheckpointError::OutputExists { .. })));
        let input = out.join("model");
        let error = Output::create(&out, layout(7), "job", &[input], true).unwrap_err();
        assert!(matches!(error, CheckpointError::OutputIsInput { .. }), "{error}");
        let opened = Output::create(&out, layout(7), "job", &[dir.path().join("out2")], true).unwrap();
        // What else has the names that are used in between is the user's.
        fs::create_dir_all(dir.path().join("out.replaced/mine")).unwrap();
        for t in 0..3 {
            fill(&opened.output, t);
        }
        opened.output.commit(None).unwrap();
        assert!(Checkpoint::open(&out.join("model-00001-of-00002.safetensors")).is_ok());
        assert!(dir.path().join("out.replaced/mine").exists());
        assert!(!dir.path().join("out.partial").exists() && !out.join(JOURNAL).exists());
    }

    #[test]
    fn of_two_runs_at_once_exactly_one_makes_the_output() {
        for _ in 0..100 {
            let dir = tempfile::tempdir().unwrap();
            let out = dir.path().join("out");
            let one = &|job: &str| -> Result<(), CheckpointError> {
                // Whoever finds it busy asks again, so that some ask at the instant at which the first run ends.
                let output = loop {
                    match create(&out, job) {
                        Err(CheckpointError::OutputBusy { .. }) => {}
                        other => break other?.output,
                    }
                };
                (0..3).for_each(|t| fill(&output, t));
                output.commit(None).map(drop)
            };
            let made = std::thread::scope(|scope| {
                let runs = ["a", "b", "c"].map(|job| scope.spawn(move || one(job).is_ok()));
                runs.map(|run| run.join().unwrap()).iter().filter(|ok| **ok).count()
            });
            assert_eq!(made, 1);
            assert_eq!(Checkpoint::open(&out).unwrap().tensors()["c"].stored().unwrap().bytes, [3; 8]);
        }
    }

    #[test]
    fn force_deletes_models_only() {
        let dir = tempfile::tempdir().unwrap();
        let home = dir.path().join("home");
        fs::create_dir(&home).unwrap();
        fs::create_dir(home.join("letters")).unwrap();
        let force = || Output::create(&home, layout(7), "job", &[], true);
        assert!(matches!(force(), Err(CheckpointError::OutputIsNoModel { .. })));
        super::create(&home.join("config.json")).unwrap();
        assert!(force().is_ok());
        assert!(home.join("letters").exists(), "nothing goes before the result is there");
    }

    #[test]
    fn a_job_that_does_not_fit_is_refused_before_it_starts() {
        let dir = tempfile::tempdir().unwrap();
        let huge = OutputTensor { name: "w".into(), dtype: Dtype::U8, shape: vec![1 << 60] };
        let error =
            Output::create(&dir.path().join("o"), Layout::new(vec![huge], 1), "j", &[], false).unwrap_err();
        assert!(matches!(error, CheckpointError::NoSpace { .. }), "{error}");
    }
}
