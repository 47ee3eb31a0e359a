//! What can go wrong on the way from a model's name to a folder.
//!
//! Every message says what was looked for, where, and what to do next. No variant carries the token: a
//! message may be pasted into a bug report.

use std::fmt::Write as _;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Why a model reference could not be turned into a local folder.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HubError {
    /// The reference is neither an existing folder nor a name a hub could have.
    #[error(
        "`{reference}` is no folder and no hub name ({reason}); looked in: {}; name an existing folder, or a \
         hub model as `owner/name`", list(.tried)
    )]
    BadReference {
        /// The reference as written.
        reference: String,
        /// Which rule for hub names it breaks.
        reason: &'static str,
        /// Local folders that were tried first.
        tried: Vec<PathBuf>,
    },
    /// A reference that can only be a local path (`/…`, `./…`, `../…`, `~/…`) does not exist.
    #[error("no folder for `{reference}`; looked in: {}", list(.tried))]
    NoSuchFolder {
        /// The reference as written.
        reference: String,
        /// Folders that were tried.
        tried: Vec<PathBuf>,
    },
    /// The reference names a file.
    #[error("{} is a file; name the folder that holds the model", .path.display())]
    NotAFolder {
        /// The file.
        path: PathBuf,
    },
    /// `~` was used but the home folder is unknown.
    #[error("`{reference}` starts with `~` but no home folder is known; set HOME or write the whole path")]
    NoHome {
        /// The reference as written.
        reference: String,
    },
    /// A revision was given for something that is a local folder, which has none.
    #[error(
        "revision `{revision}` was asked for, but `{reference}` is the local folder {}; drop the revision, \
         or rename the folder if the hub model is meant", .path.display()
    )]
    RevisionOfFolder {
        /// The reference as written.
        reference: String,
        /// The revision as written.
        revision: String,
        /// The folder found.
        path: PathBuf,
    },
    /// A revision that cannot be a git branch, tag or commit.
    #[error("`{revision}` is no branch, tag or commit ({reason})")]
    BadRevision {
        /// The revision as written.
        revision: String,
        /// Which rule it breaks.
        reason: &'static str,
    },
    /// A setting cannot be used.
    #[error("{name}: {reason}")]
    BadSetting {
        /// The environment variable or field.
        name: &'static str,
        /// What is wrong, never the value of a secret.
        reason: String,
    },
    /// Neither a cache folder nor a home folder is known.
    #[error("`{repo}` needs the hub cache, but no cache folder is known; set HF_HOME or HOME")]
    NoCacheFolder {
        /// Repository.
        repo: String,
    },
    /// Offline, and the cache has nothing for this revision.
    #[error(
        "`{repo}` at `{revision}` is not in the cache {} and the network is switched off; unset \
         HF_HUB_OFFLINE, or download it elsewhere and copy the cache; also looked in: {}",
        .cache.display(), list(.tried)
    )]
    OfflineNotCached {
        /// Repository.
        repo: String,
        /// Revision asked for.
        revision: String,
        /// Cache folder.
        cache: PathBuf,
        /// Local folders that were tried first.
        tried: Vec<PathBuf>,
    },
    /// Offline, and the cached snapshot has holes.
    #[error(
        "the cached copy of `{repo}` in {} lacks {} and the network is switched off; unset HF_HUB_OFFLINE to \
         download the rest", .dir.display(), some(.missing)
    )]
    OfflineIncomplete {
        /// Repository.
        repo: String,
        /// Snapshot folder.
        dir: PathBuf,
        /// Files that are missing or whose link leads nowhere.
        missing: Vec<String>,
    },
    /// The hub does not know the repository (404).
    #[error("{endpoint} knows no model `{repo}`; it is no local folder either, looked in: {}", list(.tried))]
    NotFound {
        /// Repository.
        repo: String,
        /// Hub asked.
        endpoint: String,
        /// Local folders that were tried first.
        tried: Vec<PathBuf>,
    },
    /// The repository exists, the revision does not.
    #[error("`{repo}` on {endpoint} has no revision `{revision}`; name a branch, tag or full commit hash")]
    RevisionNotFound {
        /// Repository.
        repo: String,
        /// Revision asked for.
        revision: String,
        /// Hub asked.
        endpoint: String,
    },
    /// 401 or 403. A hub also answers 401 for a name that does not exist.
    #[error(
        "{endpoint} refuses `{repo}` ({status}{}): {}; it is no local folder either, looked in: {}",
        gate(*.gated), remedy(*.with_token, *.gated), list(.tried)
    )]
    Refused {
        /// Repository.
        repo: String,
        /// Hub asked.
        endpoint: String,
        /// HTTP status.
        status: u16,
        /// Whether a token was sent.
        with_token: bool,
        /// Whether the hub says that the model's terms must be accepted first.
        gated: bool,
        /// Local folders that were tried first.
        tried: Vec<PathBuf>,
    },
    /// No weights in a layout this program reads.
    #[error(
        "`{repo}` at {commit} has none of: {expected}; it holds {}; convert it to safetensors first",
        some(.found)
    )]
    NoWeights {
        /// Repository.
        repo: String,
        /// Commit.
        commit: String,
        /// Accepted names.
        expected: &'static str,
        /// Files of the repository that look like weights.
        found: Vec<String>,
    },
    /// A file that must be there is not in the repository.
    #[error("`{repo}` at {commit} has no file `{file}`, so the upload is incomplete or of another kind")]
    FileNotFound {
        /// Repository.
        repo: String,
        /// Commit.
        commit: String,
        /// File.
        file: String,
    },
    /// No connection, or no answer in time.
    #[error(
        "no answer from {url}: {reason}; check the network, HF_ENDPOINT and the proxy, \
         or set HF_HUB_OFFLINE=1"
    )]
    Unreachable {
        /// Address without its query.
        url: String,
        /// What the network layer says.
        reason: String,
    },
    /// The connection broke inside a file; what has arrived is kept.
    #[error(
        "the transfer of `{file}` stopped after {received} bytes{}: {reason}; run again to go on from there",
        of(*.expected))]
    Interrupted {
        /// File.
        file: String,
        /// Bytes on disk.
        received: u64,
        /// Bytes announced.
        expected: Option<u64>,
        /// What the network layer says.
        reason: String,
    },
    /// The server had more bytes than it announced, or another part of the file.
    #[error("`{file}` should have {expected} bytes, the server sent {found}; nothing was kept, try again")]
    SizeMismatch {
        /// File.
        file: String,
        /// Bytes announced.
        expected: u64,
        /// Bytes seen.
        found: u64,
    },
    /// All bytes arrived but their SHA-256 is another.
    #[error(
        "`{file}` should have SHA-256 {expected}, the bytes received have {found}; nothing was kept, \
         try again"
    )]
    HashMismatch {
        /// File.
        file: String,
        /// Announced hash, hex.
        expected: String,
        /// Hash of what arrived, hex.
        found: String,
    },
    /// The disk or quota is full.
    #[error(
        "no space left for {}{}; free some, or set HF_HOME to another disk, and run again",
        .path.display(),
        needs(*.needed))]
    DiskFull {
        /// File being written.
        path: PathBuf,
        /// Bytes it still needs.
        needed: Option<u64>,
    },
    /// Any other HTTP status.
    #[error("{url} answered {status}{}", said(.message))]
    Status {
        /// Address without its query.
        url: String,
        /// HTTP status.
        status: u16,
        /// The hub's own words, shortened.
        message: String,
        /// How long the server asks to wait.
        retry_after: Option<Duration>,
    },
    /// An answer that breaks the hub's protocol, or would write outside the cache.
    #[error("{url} does not answer like a model hub: {reason}; check HF_ENDPOINT")]
    Protocol {
        /// Address without its query.
        url: String,
        /// What is wrong with the answer.
        reason: String,
    },
    /// An index file of shards that cannot be used.
    #[error("{}: {reason}; delete the file to fetch it again", .path.display())]
    BadIndex {
        /// The index file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// A file operation failed.
    #[error("cannot {action} {}: {source}", .path.display())]
    Io {
        /// File or folder.
        path: PathBuf,
        /// Verb for the message.
        action: &'static str,
        /// Cause.
        source: io::Error,
    },
}

impl HubError {
    /// Whether the same request may work a moment later.
    pub(super) fn is_transient(&self) -> bool {
        match self {
            Self::Unreachable { .. } | Self::Interrupted { .. } => true,
            Self::Status { status, .. } => matches!(status, 408 | 429 | 500 | 502 | 503 | 504),
            _ => false,
        }
    }

    /// Whether it is the hub that does not work, and not what it was asked for: then it has no answer to the next question
    /// either.
    pub(crate) fn is_outage(&self) -> bool {
        matches!(self, Self::Unreachable { .. } | Self::Status { status: 502..=504, .. })
    }

    /// An I/O error at `path`, told apart as a full disk where it is one.
    pub(super) fn io(path: &Path, action: &'static str, source: io::Error) -> Self {
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                Self::DiskFull { path: path.into(), needed: None }
            }
            _ => Self::Io { path: path.into(), action, source },
        }
    }
}

fn list(paths: &[PathBuf]) -> String {
    let shown: Vec<String> = paths.iter().map(|path| path.display().to_string()).collect();
    if shown.is_empty() { "no folder".into() } else { shown.join(", ") }
}

/// The first few names; an index can miss hundreds of shards.
fn some(names: &[String]) -> String {
    const SHOWN: usize = 6;
    let mut text = names.iter().take(SHOWN).map(String::as_str).collect::<Vec<_>>().join(", ");
    if names.len() > SHOWN {
        write!(text, " and {} more", names.len() - SHOWN).expect("writing to a String cannot fail");
    }
    if text.is_empty() { "no weights at all".into() } else { text }
}

fn gate(gated: bool) -> &'static str {
    if gated { ", gated" } else { "" }
}

fn remedy(with_token: bool, gated: bool) -> &'static str {
    match (with_token, gated) {
        (true, true) => "accept the model's terms on its page with the account the token belongs to",
        (false, true) => "accept the model's terms on its page, then set HF_TOKEN",
        (true, false) => {
            "the token is invalid or has no right to it; check HF_TOKEN and the spelling of the name"
        }
        (false, false) => "it is private or does not exist; check the spelling of the name, or set HF_TOKEN",
    }
}

fn of(expected: Option<u64>) -> String {
    expected.map(|bytes| format!(" of {bytes}")).unwrap_or_default()
}

fn needs(needed: Option<u64>) -> String {
    needed.map(|bytes| format!(" ({bytes} bytes still to come)")).unwrap_or_default()
}

fn said(message: &str) -> String {
    if message.is_empty() { String::new() } else { format!(": {message}") }
}
