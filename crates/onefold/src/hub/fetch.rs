//! Download of one commit's files into the cache.
//!
//! Bytes are appended to `blobs/<etag>.incomplete` under a lock and renamed to `blobs/<etag>` once their
//! number (and, where the hub names files by it, their SHA-256) is right; only then does the snapshot get its
//! link. Order: index, list of modules, side files, weights, key file, ref. Whatever moment the process dies at, what is on
//! disk either resolves as complete because it is, or as incomplete, and the next run goes on at the last
//! byte.

use std::fs::{File, OpenOptions, TryLockError};
use std::path::{Path, PathBuf};

use onefold_checkpoint::beside::{MODULES, is_safe_file, modules};

use super::cache::{self, RepoCache};
use super::client::{Client, FileFacts, Listing};
use super::error::HubError;
use super::name::{Commit, RepoId, Revision};
use super::part::Part;
use super::select::{self, Weights};
use super::{HubEvent, Wanted};

pub(super) type Events<'e> = &'e mut dyn FnMut(HubEvent<'_>);

struct Job<'a> {
    client: Client<'a>,
    repo: &'a RepoId,
    cache: &'a RepoCache,
    commit: Commit,
}

/// Fetches what is missing of `revision` and returns the snapshot folder and its commit.
pub(super) fn download(
    client: Client<'_>,
    repo: &RepoId,
    revision: &Revision,
    what: Wanted,
    cache: &RepoCache,
    events: Events<'_>,
) -> Result<(PathBuf, Commit), HubError> {
    let listing = client.listing(repo, revision, events)?;
    let job = Job { client, repo, cache, commit: listing.commit.clone() };
    let files = job.plan(what, &listing, events)?;
    events(HubEvent::Planned {
        repo: &repo.to_string(),
        commit: job.commit.as_str(),
        files: files.len(),
        bytes: total(&listing, &files),
    });
    for file in &files {
        job.fetch(file, events)?;
    }
    cache.write_ref(revision, &job.commit)?;
    Ok((cache.snapshot(&job.commit), job.commit))
}

/// Sum of the sizes, if the hub told all.
fn total(listing: &Listing, files: &[String]) -> Option<u64> {
    let size =
        |name: &String| listing.files.iter().find(|file| file.name == *name).and_then(|file| file.size);
    files.iter().map(size).try_fold(0_u64, |sum, size| sum.checked_add(size?))
}

impl Job<'_> {
    /// Names of the files still to fetch, key file last. Fetches the index and the list of modules, which alone know the
    /// shards and the folders.
    fn plan(&self, what: Wanted, listing: &Listing, events: Events<'_>) -> Result<Vec<String>, HubError> {
        let names: Vec<String> =
            listing.files.iter().map(|file| file.name.clone()).filter(|name| is_safe_file(name)).collect();
        let choice = select::choose(what, &names).ok_or_else(|| HubError::NoWeights {
            repo: self.repo.to_string(),
            commit: self.commit.as_str().to_owned(),
            expected: select::expected(what),
            found: select::weight_like(&names),
        })?;
        let key = select::key_file(what).to_owned();
        self.check_listed(&names, &key)?;
        let mut files = choice.sides;
        files.extend(self.module_files(&names, &files, events)?);
        match choice.weights {
            Weights::Single(file) => files.push(file.to_owned()),
            Weights::Indexed(index) => {
                self.fetch(index, events)?;
                let shards = cache::shards(&self.cache.snapshot(&self.commit).join(index))?;
                shards.iter().try_for_each(|shard| self.check_listed(&names, shard))?;
                files.extend(shards);
            }
        }
        files.push(key);
        let snapshot = self.cache.snapshot(&self.commit);
        files.retain(|file| !cache::has_file(&snapshot, file));
        Ok(files)
    }

    /// The files of the modules that `modules.json` names, which is fetched for that. One that names no folders is left
    /// for whoever uses it to complain about.
    fn module_files(
        &self,
        names: &[String],
        sides: &[String],
        events: Events<'_>,
    ) -> Result<Vec<String>, HubError> {
        if !sides.iter().any(|side| side == MODULES) {
            return Ok(Vec::new());
        }
        self.fetch(MODULES, events)?;
        let path = self.cache.snapshot(&self.commit).join(MODULES);
        let text = std::fs::read(&path).map_err(|error| HubError::io(&path, "read", error))?;
        Ok(select::in_modules(names, &modules(&text).unwrap_or_default()))
    }

    fn check_listed(&self, names: &[String], file: &str) -> Result<(), HubError> {
        if names.iter().any(|name| name == file) {
            return Ok(());
        }
        let (repo, commit) = (self.repo.to_string(), self.commit.as_str().to_owned());
        Err(HubError::FileNotFound { repo, commit, file: file.to_owned() })
    }

    /// Brings one file into the snapshot, unless it is there.
    fn fetch(&self, file: &str, events: Events<'_>) -> Result<(), HubError> {
        if cache::has_file(&self.cache.snapshot(&self.commit), file) {
            return Ok(());
        }
        let facts =
            self.client.retrying(file, events, |_| self.client.facts(self.repo, &self.commit, file))?;
        let blob = self.cache.blob(&facts.etag);
        cache::create_parent(&blob)?;
        let lock = lock(&self.cache.lock_path(&facts.etag), file, events)?;
        if !blob.is_file() {
            let incomplete = incomplete_path(&blob, lock.is_some());
            self.client.retrying(file, events, |events| self.transfer(file, &facts, &incomplete, events))?;
            std::fs::rename(&incomplete, &blob).map_err(|error| HubError::io(&blob, "rename to", error))?;
        }
        self.cache.place(&self.commit, file, &facts.etag)?;
        events(HubEvent::FileDone { file });
        Ok(())
    }

    /// Completes the file at `path` from where it ends.
    fn transfer(
        &self,
        file: &str,
        facts: &FileFacts,
        path: &Path,
        events: Events<'_>,
    ) -> Result<(), HubError> {
        let mut part = Part::open(file, path, facts)?;
        if facts.size.is_none_or(|size| part.received < size) || part.received == 0 {
            let response = self.client.open(self.repo, &self.commit, file, part.received)?;
            part.position(&response)?;
            events(HubEvent::FileStarted { file, bytes: part.expected, resumed_from: part.received });
            part.receive(response.into_body().as_reader(), events)?;
        }
        part.finish(&facts.etag)
    }
}

/// Waits for other processes that write the same blob. `None` where the file system has no locks.
fn lock(path: &Path, file: &str, events: Events<'_>) -> Result<Option<File>, HubError> {
    cache::create_parent(path)?;
    let open = OpenOptions::new().write(true).create(true).truncate(false).open(path);
    let lock = open.map_err(|error| HubError::io(path, "open", error))?;
    let error = match lock.try_lock() {
        Ok(()) => return Ok(Some(lock)),
        Err(TryLockError::WouldBlock) => {
            events(HubEvent::Waiting { file });
            match lock.lock() {
                Ok(()) => return Ok(Some(lock)),
                Err(error) => error,
            }
        }
        Err(TryLockError::Error(error)) => error,
    };
    match error.kind() {
        std::io::ErrorKind::Unsupported => Ok(None),
        _ => Err(HubError::io(path, "lock", error)),
    }
}

/// Without a lock two processes must not append to one file, so each has its own and none goes on with
/// another's.
fn incomplete_path(blob: &Path, locked: bool) -> PathBuf {
    let mut name = blob.as_os_str().to_owned();
    if !locked {
        name.push(format!(".{}", std::process::id()));
    }
    name.push(".incomplete");
    PathBuf::from(name)
}
