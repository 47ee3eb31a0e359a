//! A blob while it arrives: appended to, counted, hashed, and found wrong before anything relies on it.

use std::fmt::Write as _;
use std::fs::{File, OpenOptions};
use std::io::{Read, Seek as _, SeekFrom, Write as _};
use std::path::Path;

use sha2::{Digest as _, Sha256};
use ureq::Body;
use ureq::http::{HeaderMap, Response, StatusCode};

use super::HubEvent;
use super::client::FileFacts;
use super::error::HubError;
use super::fetch::Events;
use super::wire::number;

const CHUNK: usize = 256 * 1024;

/// A blob while it arrives.
pub(super) struct Part<'a> {
    name: &'a str,
    path: &'a Path,
    file: File,
    hash: Sha256,
    /// Bytes on disk.
    pub(super) received: u64,
    /// Bytes of the whole file.
    pub(super) expected: Option<u64>,
}

impl<'a> Part<'a> {
    /// Opens what an earlier run left and hashes it.
    pub(super) fn open(name: &'a str, path: &'a Path, facts: &FileFacts) -> Result<Self, HubError> {
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

    /// Makes the end of what is on disk the start of what the response brings: nothing to do when the server
    /// went on as asked, a new beginning when it sends the whole file.
    pub(super) fn position(&mut self, response: &Response<Body>) -> Result<(), HubError> {
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

    pub(super) fn receive(&mut self, mut body: impl Read, events: Events<'_>) -> Result<(), HubError> {
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
    pub(super) fn finish(mut self, etag: &str) -> Result<(), HubError> {
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
