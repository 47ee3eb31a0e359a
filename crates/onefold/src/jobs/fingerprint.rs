//! By what inputs are known again, so that a run resumes another or need not run at all.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use serde_json::json;
use sha2::{Digest, Sha256};

use crate::models::Model;

/// The files beside the weights that decide about the result (an adapter's scale, the config, the vocabulary), by path.
/// One that cannot be read counts as empty: whoever needs it says so.
pub(crate) fn settings(model: &Model) -> BTreeMap<String, Vec<u8>> {
    let decides = |path: &Path| {
        let extension = path.extension().and_then(|e| e.to_str()).unwrap_or_default();
        path.is_file() && ["json", "jinja", "model", "txt", "py"].contains(&extension)
    };
    let listed = |dir: &PathBuf| std::fs::read_dir(dir).into_iter().flatten().flatten().map(|e| e.path());
    let paths = model.dirs.iter().flat_map(listed).filter(|path| decides(path));
    paths.map(|path| (path.display().to_string(), std::fs::read(&path).unwrap_or_default())).collect()
}

/// Of each weight file: path, size, time of change, and the SHA-256 of its first megabyte (header included).
pub(crate) fn fingerprints(model: &Model) -> Vec<serde_json::Value> {
    let of = |file: &std::sync::Arc<onefold_checkpoint::mapped::MappedFile>| {
        let head = &file[..file.len().min(1 << 20)];
        json!({"file": file.path().display().to_string(), "bytes": file.len(), "modified_ns": changed(file.path()), "sha256_of_first_mib": hex(&Sha256::digest(head))})
    };
    model.checkpoint.files().iter().map(of).collect()
}

/// The same of a file that is not mapped; what cannot be read counts as empty.
pub(crate) fn of_file(path: &Path) -> serde_json::Value {
    let mut head = Vec::new();
    let read = std::fs::File::open(path).and_then(|file| file.take(1 << 20).read_to_end(&mut head));
    let bytes = path.metadata().map_or(0, |m| m.len());
    read.ok();
    json!({"file": path.display().to_string(), "bytes": bytes, "modified_ns": changed(path), "sha256_of_first_mib": hex(&Sha256::digest(&head))})
}

/// When a file was last written, in nanoseconds since 1970; 0 where the system does not tell.
pub(crate) fn changed(path: &Path) -> u64 {
    let time = path.metadata().and_then(|m| m.modified()).ok();
    time.and_then(|t| t.duration_since(std::time::UNIX_EPOCH).ok()).map_or(0, |d| d.as_nanos() as u64)
}

/// Bytes as text.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// The `onefold.json` of `out`, if it is the result of the job of that identity.
pub(crate) fn record_of_job(out: &Path, job: &str) -> Option<serde_json::Value> {
    let text = std::fs::read(out.join("onefold.json")).ok()?;
    serde_json::from_slice::<serde_json::Value>(&text).ok().filter(|record| record["job"] == job)
}
