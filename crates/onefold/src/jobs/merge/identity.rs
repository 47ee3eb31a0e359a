//! What makes two runs the same job, so that one resumes the other or need not run at all.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use onefold_checkpoint::output::Layout;
use serde_json::json;
use sha2::{Digest, Sha256};

use crate::cli::{Common, MergeArgs};
use crate::models::{Library, Model};
use crate::plan::Plan;
use crate::recipe::Recipe;
use crate::tokenizer::FileContent;

/// A hash of everything that the result depends on: version, recipe, options, and the files' names, sizes and times.
pub(super) fn identity(
    recipe: &Recipe,
    library: &Library,
    plan: &Plan,
    args: &MergeArgs,
    common: &Common,
) -> String {
    let mut hash = Sha256::new();
    let options = format!(
        "{} {} {} {} {}",
        common.seed, args.max_shard_size, args.allow_missing, args.crop_embeddings, common.allow_non_finite
    );
    for part in [env!("CARGO_PKG_VERSION"), &recipe.to_yaml(), &options] {
        hash.update(part.as_bytes());
        hash.update([0]);
    }
    for model in library.all() {
        for fingerprint in fingerprints(model) {
            hash.update(fingerprint.to_string().as_bytes());
        }
        for (name, text) in settings(model) {
            hash.update(name.as_bytes());
            hash.update(Sha256::digest(&text));
        }
    }
    // Of files in folders (modules of sentence-transformers) some are weights: judged as those are.
    for file in plan.files.iter().filter(|file| file.name.contains('/')) {
        if let FileContent::Copied(path) = &file.content {
            let bytes = path.metadata().map_or(0, |m| m.len());
            hash.update(json!({"file": file.name, "bytes": bytes, "modified_ns": changed(path)}).to_string());
        }
    }
    hex(&hash.finalize())
}

/// The files beside the weights that decide about the result (an adapter's scale, the config, the vocabulary), by path.
/// One that cannot be read counts as empty: whoever needs it says so.
fn settings(model: &Model) -> BTreeMap<String, Vec<u8>> {
    let decides = |path: &Path| {
        let extension = path.extension().and_then(|e| e.to_str()).unwrap_or_default();
        path.is_file() && ["json", "jinja", "model", "txt", "py"].contains(&extension)
    };
    let listed = |dir: &PathBuf| std::fs::read_dir(dir).into_iter().flatten().flatten().map(|e| e.path());
    let paths = model.dirs.iter().flat_map(listed).filter(|path| decides(path));
    paths.map(|path| (path.display().to_string(), std::fs::read(&path).unwrap_or_default())).collect()
}

/// Of each weight file: path, size, time of change, and the SHA-256 of its first megabyte (header included).
pub(super) fn fingerprints(model: &Model) -> Vec<serde_json::Value> {
    let of = |file: &std::sync::Arc<onefold_checkpoint::mapped::MappedFile>| {
        let head = &file[..file.len().min(1 << 20)];
        json!({"file": file.path().display().to_string(), "bytes": file.len(), "modified_ns": changed(file.path()), "sha256_of_first_mib": hex(&Sha256::digest(head))})
    };
    model.checkpoint.files().iter().map(of).collect()
}

/// When a file was last written, in nanoseconds since 1970; 0 where the system does not tell.
fn changed(path: &Path) -> u64 {
    let time = path.metadata().and_then(|m| m.modified()).ok();
    time.and_then(|t| t.duration_since(std::time::UNIX_EPOCH).ok()).map_or(0, |d| d.as_nanos() as u64)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// Whether `out` is the finished result of the same job, with all its weights still there.
pub(super) fn is_done(out: &Path, job: &str, layout: &Layout) -> bool {
    if !layout.shard_names().all(|name| out.join(name).is_file()) {
        return false;
    }
    let Ok(text) = std::fs::read(out.join("onefold.json")) else { return false };
    serde_json::from_slice::<serde_json::Value>(&text).is_ok_and(|v| v["job"] == job)
}
