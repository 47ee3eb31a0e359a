//! From the name of a model to a folder on this machine.
//!
//! A recipe names models as the user does: a folder, or a hub name with an optional revision. [`resolve`]
//! tries, in this order,
//!
//! 1. a local folder: absolute, below the recipe's folder, below the current folder, `~` expanded;
//! 2. a complete snapshot in the shared Hugging Face cache, without any connection;
//! 3. the hub, unless offline, into the same cache, going on where an earlier download stopped.
//!
//! The network side is `ureq` and the hub's documented HTTP interface rather than the `hf-hub` crate: as of
//! 1.0 that crate starts each file anew after an interruption, checks neither status, size nor hash of what
//! it stores as a blob, has no timeouts, reads the environment behind its caller's back, and brings two
//! hundred more crates.

mod cache;
mod client;
mod config;
mod error;
mod fetch;
mod name;
mod part;
mod select;
#[cfg(test)]
mod tests;
mod wire;

use std::path::{Path, PathBuf};
use std::time::Duration;

use cache::RepoCache;
use name::{Commit, LocalSearch, RepoId, Revision};

pub use config::{DEFAULT_ENDPOINT, HubConfig, Secret, Token};
pub use error::HubError;

/// What is to be found in the folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted {
    /// `config.json`, weights (safetensors, else `.bin`), tokenizer, templates, remote code, licence, and the folders of
    /// sentence-transformers modules.
    Model,
    /// `adapter_config.json` and `adapter_model.safetensors`, else `.bin`.
    Adapter,
}

/// A model reference that has become a folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resolved {
    /// The folder, absolute unless the configuration's paths are relative.
    pub dir: PathBuf,
    /// How it was found.
    pub origin: Origin,
}

/// Where a folder came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// A folder the user named. Its contents were not looked at.
    Local,
    /// A complete snapshot was in the cache.
    Cache {
        /// Repository.
        repo: String,
        /// Full commit hash.
        commit: String,
    },
    /// The hub was asked, and what was missing was fetched.
    Downloaded {
        /// Repository.
        repo: String,
        /// Full commit hash.
        commit: String,
    },
}

/// What happens during a download, for a progress display.
#[derive(Debug)]
#[non_exhaustive]
pub enum HubEvent<'a> {
    /// The files still to fetch are known.
    Planned {
        /// Repository.
        repo: &'a str,
        /// Full commit hash.
        commit: &'a str,
        /// Number of files.
        files: usize,
        /// Bytes in all, where the hub tells the size of each.
        bytes: Option<u64>,
    },
    /// Another process is writing this file.
    Waiting {
        /// File.
        file: &'a str,
    },
    /// Bytes of this file are about to arrive.
    FileStarted {
        /// File.
        file: &'a str,
        /// Its length.
        bytes: Option<u64>,
        /// Bytes an earlier run has left.
        resumed_from: u64,
    },
    /// Some bytes have arrived.
    Progress {
        /// File.
        file: &'a str,
        /// Bytes on disk.
        received: u64,
        /// Its length.
        bytes: Option<u64>,
    },
    /// The file is in the snapshot.
    FileDone {
        /// File.
        file: &'a str,
    },
    /// A request failed for a passing reason and is repeated after `wait`.
    Retrying {
        /// Repository or file.
        subject: &'a str,
        /// What went wrong.
        error: &'a HubError,
        /// Time until the next attempt.
        wait: Duration,
    },
}

/// Finds the folder for a model reference, downloading it if need be.
///
/// `path` and `revision` are the two parts of `path@revision`; a revision is refused for a local folder.
/// Relative paths are looked up below `relative_to` (the recipe's folder), then below the current folder.
///
/// # Errors
/// See [`HubError`]. Names that no hub could have are refused before any connection is made.
pub fn resolve(
    path: &str,
    revision: Option<&str>,
    what: Wanted,
    relative_to: &Path,
    config: &HubConfig,
    events: &mut dyn FnMut(HubEvent<'_>),
) -> Result<Resolved, HubError> {
    let parsed_revision = Revision::parse(revision)?;
    let LocalSearch { found, tried } = name::find_local(path, relative_to, config.home.as_deref())?;
    match (found, revision) {
        (Some(dir), None) => return Ok(Resolved { dir, origin: Origin::Local }),
        (Some(found), Some(revision)) => {
            let (reference, revision) = (path.to_owned(), revision.to_owned());
            return Err(HubError::RevisionOfFolder { reference, revision, path: found });
        }
        (None, _) => {}
    }
    if name::is_path_only(path) {
        return Err(HubError::NoSuchFolder { reference: path.to_owned(), tried });
    }
    let repo = match RepoId::parse(path) {
        Ok(repo) => repo,
        Err(reason) => return Err(HubError::BadReference { reference: path.to_owned(), reason, tried }),
    };
    from_hub(&repo, &parsed_revision, what, config, events).map_err(|error| with_tried(error, tried))
}

/// The cached snapshot if it is complete, else the hub.
fn from_hub(
    repo: &RepoId,
    revision: &Revision,
    what: Wanted,
    config: &HubConfig,
    events: &mut dyn FnMut(HubEvent<'_>),
) -> Result<Resolved, HubError> {
    let root = config.cache.as_ref().ok_or_else(|| HubError::NoCacheFolder { repo: repo.to_string() })?;
    let cache = RepoCache::new(root, repo, config.symlinks);
    match cached(&cache, revision, what)? {
        Cached::Complete(dir, commit) => {
            let (repo, commit) = (repo.to_string(), commit.as_str().to_owned());
            Ok(Resolved { dir, origin: Origin::Cache { repo, commit } })
        }
        Cached::Partial(dir, missing) if config.offline => {
            Err(HubError::OfflineIncomplete { repo: repo.to_string(), dir, missing })
        }
        Cached::Absent if config.offline => Err(HubError::OfflineNotCached {
            repo: repo.to_string(),
            revision: revision.as_str().to_owned(),
            cache: root.clone(),
            tried: Vec::new(),
        }),
        Cached::Partial(..) | Cached::Absent => {
            let client = client::Client::new(config)?;
            let (dir, commit) = fetch::download(client, repo, revision, what, &cache, events)?;
            let (repo, commit) = (repo.to_string(), commit.as_str().to_owned());
            Ok(Resolved { dir, origin: Origin::Downloaded { repo, commit } })
        }
    }
}

enum Cached {
    Complete(PathBuf, Commit),
    Partial(PathBuf, Vec<String>),
    Absent,
}

fn cached(cache: &RepoCache, revision: &Revision, what: Wanted) -> Result<Cached, HubError> {
    let Some(commit) = cache.commit_of(revision)? else { return Ok(Cached::Absent) };
    let dir = cache.snapshot(&commit);
    if !dir.is_dir() {
        return Ok(Cached::Absent);
    }
    let missing = cache::missing(&dir, what)?;
    Ok(if missing.is_empty() { Cached::Complete(dir, commit) } else { Cached::Partial(dir, missing) })
}

/// Adds the local folders that were tried to the errors that tell of them.
fn with_tried(mut error: HubError, folders: Vec<PathBuf>) -> HubError {
    use HubError::{NotFound, OfflineNotCached, Refused};
    if let NotFound { tried, .. } | Refused { tried, .. } | OfflineNotCached { tried, .. } = &mut error {
        *tried = folders;
    }
    error
}
