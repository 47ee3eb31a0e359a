//! Download of one commit's files into the cache.
//!
//! Bytes are appended to `blobs/<etag>.incomplete` under a lock and renamed to `blobs/<etag>` once their number
//! (and, where the hub names files by it, their SHA-256) is right; only then does the snapshot get its link. Order:
//! index, side files, weights, key file, ref. Whatever moment the process dies at, what is on disk either resolves as
//! complete because it is, or as incomplete, and the next run goes on at the last byte.

use std::fmt::Write as _;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};
use ureq::Body;
use ureq::http::{HeaderMap, Response, StatusCode};

use super::cache::{self, RepoCache};
use super::client::{Client, FileFacts, Listing, number};
use super::error::HubError;
use super::name::{Commit, RepoId, Revision, is_safe_file};
use super::select::{self, Weights};
use super::{HubEvent, Wanted};

const CHUNK: usize = 256 * 1024;

type Events<'e> = &'e mut dyn FnMut(HubEvent<'_>);

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
    /// Names of the files still to fetch, key file last. Fetches the index, which alone knows the shards.
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

/// First byte of the file that a response brings.
fn start_of(response: &Response<Body>) -> Option<u64> {
    match response.status() {
        StatusCode::OK => Some(0),
        StatusCode::PARTIAL_CONTENT => range_start(response.headers()),
        _ => None,
    }
}

/// First byte of a `Content-Range: bytes 5-9/10`.
fn range_start(headers: &HeaderMap) -> Option<u64> {
    let text = headers.get("content-range")?.to_str().ok()?;
    text.trim().strip_prefix("bytes")?.trim_start().split('-').next()?.parse().ok()
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

/// Without a lock two processes must not append to one file, so each has its own and none goes on with another's.
fn incomplete_path(blob: &Path, locked: bool) -> PathBuf {
    let mut name = blob.as_os_str().to_owned();
    if !locked {
        name.push(format!(".{}", std::process::id()));
    }
    name.push(".incomplete");
    PathBuf::from(name)
}

/// Lets `io::copy` feed a hash.
struct HashSink<'a>(&'a mut Sha256);

impl std::io::Write for HashSink<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// A blob while it arrives.
struct Part<'a> {
    name: &'a str,
    path: &'a Path,
    file: File,
    hash: Sha256,
    received: u64,
    expected: Option<u64>,
}

impl<'a> Part<'a> {
    /// Opens what an earlier run left and hashes it.
    fn open(name: &'a str, path: &'a Path, facts: &FileFacts) -> Result<Self, HubError> {
        let file = OpenOptions::new().read(true).append(true).create(true).open(path);
        let file = file.map_err(|error| HubError::io(path, "open", error))?;
        let mut part = Self { name, path, file, hash: Sha256::new(), received: 0, expected: facts.size };
        let length = part.file.metadata().map_err(|error| HubError::io(path, "look at", error))?.len();
        if part.expected.is_some_and(|expected| length > expected) {
            part.restart()?;
            return Ok(part);
        }
        let mut left = (&part.file).take(length);
        part.received = std::io::copy(&mut left, &mut HashSink(&mut part.hash))
            .map_err(|error| HubError::io(path, "read", error))?;
        Ok(part)
    }

    fn restart(&mut self) -> Result<(), HubError> {
        let emptied = self.file.set_len(0).and_then(|()| self.file.seek(SeekFrom::Start(0)));
        emptied.map_err(|error| HubError::io(self.path, "empty", error))?;
        self.hash = Sha256::new();
        self.received = 0;
        Ok(())
    }

    /// Makes the end of what is on disk the start of what the response brings: nothing to do when the server went on
    /// as asked, a new beginning when it sends the whole file.
    fn position(&mut self, response: &Response<Body>) -> Result<(), HubError> {
        let start = start_of(response);
        if start != Some(self.received) {
            self.restart()?;
            if start != Some(0) {
                return Err(self.interrupted("the server sent another part than asked for".to_owned()));
            }
        }
        let length = number(response.headers(), "content-length");
        self.expected = self.expected.or_else(|| length?.checked_add(self.received));
        Ok(())
    }

    fn receive(&mut self, mut body: impl Read, events: Events<'_>) -> Result<(), HubError> {
        let mut buffer = vec![0; CHUNK];
        loop {
            let read = match body.read(&mut buffer) {
                Ok(0) => break,
                Ok(read) => read,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(self.interrupted(error.to_string())),
            };
            self.append(&buffer[..read])?;
            events(HubEvent::Progress { file: self.name, received: self.received, bytes: self.expected });
        }
        if self.expected.is_some_and(|expected| self.received < expected) {
            return Err(self.interrupted("the server closed the connection".to_owned()));
        }
        Ok(())
    }

    fn append(&mut self, bytes: &[u8]) -> Result<(), HubError> {
        let after = self.received.saturating_add(bytes.len() as u64);
        if let Some(expected) = self.expected.filter(|expected| after > *expected) {
            self.restart()?;
            return Err(HubError::SizeMismatch { file: self.name.to_owned(), expected, found: after });
        }
        self.file.write_all(bytes).map_err(|error| self.write_error(error))?;
        self.hash.update(bytes);
        self.received = after;
        Ok(())
    }

    /// Checks number and hash of the bytes and makes them durable.
    fn finish(mut self, etag: &str) -> Result<(), HubError> {
        let found = hex(&std::mem::take(&mut self.hash).finalize());
        let is_sha256 = etag.len() == 64 && etag.bytes().all(|b| b.is_ascii_hexdigit());
        if is_sha256 && !found.eq_ignore_ascii_case(etag) {
            self.restart()?;
            return Err(HubError::HashMismatch {
                file: self.name.to_owned(),
                expected: etag.to_owned(),
                found,
            });
        }
        self.file.sync_all().map_err(|error| self.write_error(error))
    }

    fn write_error(&self, error: std::io::Error) -> HubError {
        match HubError::io(self.path, "write", error) {
            HubError::DiskFull { path, .. } => {
                let needed = self.expected.and_then(|expected| expected.checked_sub(self.received));
                HubError::DiskFull { path, needed }
            }
            error => error,
        }
    }

    fn interrupted(&self, reason: String) -> HubError {
        HubError::Interrupted {
            file: self.name.to_owned(),
            received: self.received,
            expected: self.expected,
            reason,
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").expect("writing to a String cannot fail");
        text
    })
}
