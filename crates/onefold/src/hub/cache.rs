//! The cache on disk, in the layout all Hugging Face tools share.
//!
//! ```text
//! <cache>/models--org--name/refs/<revision>              one line: the commit
//!                           blobs/<etag>                 contents, `<etag>.incomplete` while they arrive
//!                           snapshots/<commit>/<file>    link to ../../blobs/<etag>
//! <cache>/.locks/models--org--name/<etag>.lock           held while a blob is written
//! ```
//!
//! A snapshot counts only when its key file (`config.json` or `adapter_config.json`) and all weights its
//! index names are there. The downloader writes the key file last and the ref after it.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use onefold_checkpoint::beside::is_safe_file;

use super::Wanted;
use super::error::HubError;
use super::name::{Commit, RepoId, Revision};
use super::select::{self, Weights};

/// Largest index read; the biggest public ones stay below 20 MB.
const MAX_INDEX: u64 = 100_000_000;

/// Folders of one repository in the cache.
#[derive(Debug)]
pub(super) struct RepoCache {
    root: PathBuf,
    locks: PathBuf,
    symlinks: bool,
}

impl RepoCache {
    pub(super) fn new(cache: &Path, repo: &RepoId, symlinks: bool) -> Self {
        let folder = repo.folder();
        Self { root: cache.join(&folder), locks: cache.join(".locks").join(folder), symlinks }
    }

    /// The commit a revision stands for: itself, or what `refs/` says.
    pub(super) fn commit_of(&self, revision: &Revision) -> Result<Option<Commit>, HubError> {
        if let Some(commit) = revision.as_commit() {
            return Ok(Some(commit));
        }
        let path = self.ref_path(revision);
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if is_absent(&error) => return Ok(None),
            Err(error) => return Err(HubError::io(&path, "open", error)),
        };
        let mut text = String::new();
        // A ref that is cut off, a folder or no text says nothing, so the hub is asked again.
        match file.take(256).read_to_string(&mut text) {
            Ok(_) => Ok(Commit::parse(text.trim())),
            Err(_) => Ok(None),
        }
    }

    /// Folder of a commit's files, whether it exists or not.
    pub(super) fn snapshot(&self, commit: &Commit) -> PathBuf {
        self.root.join("snapshots").join(commit.as_str())
    }

    pub(super) fn blob(&self, etag: &str) -> PathBuf {
        self.root.join("blobs").join(etag)
    }

    pub(super) fn lock_path(&self, etag: &str) -> PathBuf {
        self.locks.join(format!("{etag}.lock"))
    }

    fn ref_path(&self, revision: &Revision) -> PathBuf {
        self.root.join("refs").join(revision.as_str())
    }

    /// Records what commit `revision` stands for; called when the snapshot is complete.
    pub(super) fn write_ref(&self, revision: &Revision, commit: &Commit) -> Result<(), HubError> {
        if revision.as_commit().is_some() {
            return Ok(());
        }
        let path = self.ref_path(revision);
        create_parent(&path)?;
        replace(&path, |temporary| {
            let mut file = OpenOptions::new().write(true).create_new(true).open(temporary)?;
            file.write_all(commit.as_str().as_bytes())
        })
    }

    /// Puts the blob under its name into the snapshot: a relative link, else a hard link, else a copy.
    pub(super) fn place(&self, commit: &Commit, file: &str, etag: &str) -> Result<(), HubError> {
        let place = self.snapshot(commit).join(file);
        let blob = self.blob(etag);
        create_parent(&place)?;
        let depth = file.split('/').count() + 1; // up from the file's folder, past the commit and `snapshots`
        let target: PathBuf = [&"../".repeat(depth), "blobs", etag].iter().collect();
        replace(&place, |temporary| {
            if self.symlinks && symlink(&target, temporary).is_ok() {
                return Ok(());
            }
            fs::hard_link(&blob, temporary).or_else(|_| fs::copy(&blob, temporary).map(|_| ()))
        })
    }
}

#[cfg(unix)]
fn symlink(target: &Path, link: &Path) -> std::io::Result<()> {
    std::os::unix::fs::symlink(target, link)
}

#[cfg(not(unix))]
fn symlink(_: &Path, _: &Path) -> std::io::Result<()> {
    Err(ErrorKind::Unsupported.into())
}

/// Makes a file under a temporary name and moves it over `path`, so that no reader sees half of it.
fn replace(path: &Path, make: impl FnOnce(&Path) -> std::io::Result<()>) -> Result<(), HubError> {
    // Other processes and other threads of this one may be at the same file.
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{}-{}.tmp", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed)));
    let temporary = PathBuf::from(name);
    let _ = fs::remove_file(&temporary); // left by a run that was killed; mostly there is none
    make(&temporary).map_err(|error| HubError::io(&temporary, "write", error))?;
    fs::rename(&temporary, path).map_err(|error| HubError::io(path, "replace", error))
}

pub(super) fn create_parent(path: &Path) -> Result<(), HubError> {
    let parent = path.parent().expect("every path in the cache has a folder above it");
    fs::create_dir_all(parent).map_err(|error| HubError::io(parent, "create the folder", error))
}

pub(super) fn is_absent(error: &std::io::Error) -> bool {
    matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory)
}

/// Whether `name` in `dir` is a readable file; a link that leads nowhere is not.
pub(super) fn has_file(dir: &Path, name: &str) -> bool {
    fs::metadata(dir.join(name)).is_ok_and(|meta| meta.is_file())
}

/// What a snapshot lacks to be used; empty when it is complete.
pub(super) fn missing(dir: &Path, what: Wanted) -> Result<Vec<String>, HubError> {
    let key = select::key_file(what);
    let mut missing = Vec::new();
    if !has_file(dir, key) {
        missing.push(key.to_owned());
    }
    // A broken link to an index still says that the weights are sharded.
    let listed = |name: &str| fs::symlink_metadata(dir.join(name)).is_ok();
    match select::weights(what, listed) {
        None => missing.push(select::expected(what).to_owned()),
        Some(Weights::Single(file) | Weights::Indexed(file)) if !has_file(dir, file) => {
            missing.push(file.to_owned());
        }
        Some(Weights::Single(_)) => {}
        Some(Weights::Indexed(index)) => {
            missing.extend(shards(&dir.join(index))?.into_iter().filter(|shard| !has_file(dir, shard)));
        }
    }
    Ok(missing)
}

/// The shards an index names, each once.
pub(super) fn shards(index: &Path) -> Result<BTreeSet<String>, HubError> {
    let bad = |reason: String| HubError::BadIndex { path: index.to_owned(), reason };
    let file = File::open(index).map_err(|error| HubError::io(index, "open", error))?;
    let mut bytes = Vec::new();
    file.take(MAX_INDEX + 1).read_to_end(&mut bytes).map_err(|error| HubError::io(index, "read", error))?;
    if bytes.len() as u64 > MAX_INDEX {
        return Err(bad(format!("the index is larger than {MAX_INDEX} bytes")));
    }
    let parsed: Index =
        serde_json::from_slice(&bytes).map_err(|error| bad(format!("not an index: {error}")))?;
    let shards: BTreeSet<String> = parsed.weight_map.into_values().collect();
    if shards.is_empty() {
        return Err(bad("the index names no file".to_owned()));
    }
    match shards.iter().find(|name| !is_safe_file(name)) {
        Some(name) => Err(bad(format!("the index names `{}` outside its folder", name.escape_debug()))),
        None => Ok(shards),
    }
}

#[derive(serde::Deserialize)]
struct Index {
    weight_map: std::collections::BTreeMap<String, String>,
}
