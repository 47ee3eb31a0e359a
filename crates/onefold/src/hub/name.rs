//! Names: what may stand for a model, a revision, a file of a repository.
//!
//! Everything here is checked before it becomes part of an address or of a path, so neither a recipe nor a
//! hostile server can reach outside the cache. Rules for repository names: one or two parts of
//! `[A-Za-z0-9._-]`, each at most 96 long, none starting or ending with `-` or `.`, no `--` or `..`, not
//! ending in `.git` — the rules the hub itself applies when a repository is made.

use std::fmt;
use std::path::{Path, PathBuf};

use super::error::HubError;

/// `owner/name`, or the bare `name` of the hub's oldest models.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct RepoId(String);

impl RepoId {
    /// The reason is a clause for [`HubError::BadReference`].
    pub(super) fn parse(text: &str) -> Result<Self, &'static str> {
        let mut parts = text.split('/');
        if text.is_empty() {
            return Err("it is empty");
        }
        if parts.clone().count() > 2 {
            return Err("a hub name has one `/` at most");
        }
        if text.contains("--") || text.contains("..") {
            return Err("a hub name has no `--` or `..`");
        }
        if text.ends_with(".git") {
            return Err("a hub name does not end in `.git`");
        }
        parts.try_for_each(check_part)?;
        Ok(Self(text.to_owned()))
    }

    /// Name of the repository's folder in the cache.
    pub(super) fn folder(&self) -> String {
        format!("models--{}", self.0.replace('/', "--"))
    }
}

impl fmt::Display for RepoId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn check_part(part: &str) -> Result<(), &'static str> {
    if part.is_empty() {
        return Err("a part of the name is empty");
    }
    if part.len() > 96 {
        return Err("a part of a hub name has 96 characters at most");
    }
    if !part.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b)) {
        return Err("a hub name consists of letters, digits, `-`, `_` and `.`");
    }
    if part.starts_with(['-', '.']) || part.ends_with(['-', '.']) {
        return Err("no part of a hub name starts or ends with `-` or `.`");
    }
    Ok(())
}

/// A branch, tag or commit that is safe as a path below `refs/`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Revision(String);

impl Revision {
    /// `None` is the branch `main`.
    pub(super) fn parse(text: Option<&str>) -> Result<Self, HubError> {
        let text = text.unwrap_or("main");
        match check_revision(text) {
            Ok(()) => Ok(Self(text.to_owned())),
            Err(reason) => Err(HubError::BadRevision { revision: text.to_owned(), reason }),
        }
    }

    /// The commit, when the revision is spelt as a full hash.
    pub(super) fn as_commit(&self) -> Option<Commit> {
        Commit::parse(&self.0)
    }

    pub(super) fn as_str(&self) -> &str {
        &self.0
    }
}

fn check_revision(text: &str) -> Result<(), &'static str> {
    if text.is_empty() {
        return Err("it is empty");
    }
    if text.len() > 244 {
        return Err("it is longer than 244 bytes");
    }
    if text.chars().any(|c| c.is_control() || c.is_whitespace() || r"~^:?*[\@".contains(c)) {
        return Err(r"it has a space, a control character or one of ~^:?*[\@");
    }
    if text.contains("..") || text.starts_with('-') {
        return Err("it has `..` or starts with `-`");
    }
    if text.split('/').any(|part| part.is_empty() || part.starts_with('.')) {
        return Err("a part between slashes is empty or starts with `.`");
    }
    Ok(())
}

/// A full commit hash, lower case.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Commit(String);

impl Commit {
    pub(super) fn parse(text: &str) -> Option<Self> {
        let hex = text.len() == 40 && text.bytes().all(|b| b.is_ascii_hexdigit());
        hex.then(|| Self(text.to_ascii_lowercase()))
    }

    pub(super) fn as_str(&self) -> &str {
        &self.0
    }
}

/// A server's ETag without its decoration, if it can be the name of a blob.
pub(super) fn blob_name(etag: &str) -> Option<&str> {
    let bare = etag.strip_prefix("W/").unwrap_or(etag).trim_matches('"');
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
    (!bare.is_empty() && bare.len() <= 128 && !bare.starts_with('.') && bare.bytes().all(plain))
        .then_some(bare)
}

/// Percent-encodes all but the unreserved characters of RFC 3986 and those in `keep`.
pub(super) fn encode(text: &str, keep: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) || keep.as_bytes().contains(&byte) {
            out.push(char::from(byte));
        } else {
            const HEX: &[u8; 16] = b"0123456789ABCDEF";
            out.push('%');
            out.push(char::from(HEX[usize::from(byte >> 4)]));
            out.push(char::from(HEX[usize::from(byte & 15)]));
        }
    }
    out
}

/// Outcome of looking for a reference among local folders.
pub(super) struct LocalSearch {
    /// The folder, if one is there.
    pub(super) found: Option<PathBuf>,
    /// All places looked at.
    pub(super) tried: Vec<PathBuf>,
}

/// Looks for `reference` as a folder: absolute, below home, below `relative_to`, below the current folder.
pub(super) fn find_local(
    reference: &str,
    relative_to: &Path,
    home: Option<&Path>,
) -> Result<LocalSearch, HubError> {
    let mut search = LocalSearch { found: None, tried: Vec::new() };
    for candidate in candidates(reference, relative_to, home)? {
        if is_folder(&candidate)? {
            search.found = Some(candidate);
            return Ok(search);
        }
        search.tried.push(candidate);
    }
    Ok(search)
}

fn candidates(reference: &str, relative_to: &Path, home: Option<&Path>) -> Result<Vec<PathBuf>, HubError> {
    if reference.is_empty() {
        return Ok(Vec::new()); // joining nothing would name the recipe's own folder
    }
    if let Some(rest) = below_home(reference) {
        let home = home.ok_or_else(|| HubError::NoHome { reference: reference.to_owned() })?;
        return Ok(vec![home.join(rest)]);
    }
    let mut all = Vec::new();
    for candidate in [relative_to.join(reference), PathBuf::from(reference)] {
        let candidate = std::path::absolute(&candidate).unwrap_or(candidate);
        if !all.contains(&candidate) {
            all.push(candidate);
        }
    }
    Ok(all)
}

fn below_home(reference: &str) -> Option<&str> {
    if reference == "~" { Some("") } else { reference.strip_prefix("~/") }
}

/// Whether the reference is spelt as a path, so that a hub is not asked for it.
pub(super) fn is_path_only(reference: &str) -> bool {
    reference.starts_with(['/', '~'])
        || [".", ".."].contains(&reference)
        || reference.starts_with("./")
        || reference.starts_with("../")
        || Path::new(reference).is_absolute()
}

fn is_folder(path: &Path) -> Result<bool, HubError> {
    use std::io::ErrorKind::{InvalidFilename, InvalidInput, NotADirectory, NotFound};
    match std::fs::metadata(path) {
        Ok(meta) if meta.is_dir() => Ok(true),
        Ok(_) => Err(HubError::NotAFolder { path: path.to_owned() }),
        Err(error) => match error.kind() {
            NotFound | NotADirectory | InvalidInput | InvalidFilename => Ok(false),
            _ => Err(HubError::io(path, "look at", error)),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hub_names_follow_the_rules_of_the_hub() {
        for good in ["gpt2", "org/name", "Qwen/Qwen2.5-0.5B", "a/b_c", "0x/1.1"] {
            assert!(RepoId::parse(good).is_ok(), "{good}");
        }
        for bad in [
            "", "a/b/c", "a/", "/a", "../x", "a/..", "a--b/c", "-a/b", "a/b.", "a/b.git", "a/b@", "a b",
            "é/a",
        ] {
            assert!(RepoId::parse(bad).is_err(), "{bad}");
        }
        assert!(RepoId::parse(&"a".repeat(97)).is_err());
        assert_eq!(RepoId::parse("org/name").unwrap().folder(), "models--org--name");
    }

    #[test]
    fn revisions_stay_below_refs() {
        for good in ["main", "refs/pr/1", "v1.0", "feature/x"] {
            assert!(Revision::parse(Some(good)).is_ok(), "{good}");
        }
        for bad in ["", "a..b", "../../x", "/abs", "a//b", "a b", "-x", "a/.", ".git/x", "a\0", "a\\b", "x@y"]
        {
            assert!(matches!(Revision::parse(Some(bad)), Err(HubError::BadRevision { .. })), "{bad}");
        }
        assert_eq!(Revision::parse(None).unwrap().as_str(), "main");
    }

    #[test]
    fn blob_names_cannot_climb() {
        assert_eq!(blob_name("W/\"abc\""), Some("abc"));
        for bad in ["\"\"", "\"../x\"", "\"a/b\"", "\".x\""] {
            assert_eq!(blob_name(bad), None, "{bad}");
        }
    }

    #[test]
    fn encoding_leaves_one_segment() {
        assert_eq!(encode("refs/pr/1", ""), "refs%2Fpr%2F1");
        assert_eq!(encode("a b/ü.txt", "/"), "a%20b/%C3%BC.txt");
    }
}
