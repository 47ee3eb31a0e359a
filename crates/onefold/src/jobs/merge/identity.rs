//! What makes two runs the same job, so that one resumes the other or need not run at all.

use std::path::Path;

use onefold_checkpoint::output::Layout;
use serde_json::json;
use sha2::{Digest, Sha256};

use crate::cli::{Common, MergeArgs};
use crate::jobs::fingerprint::{changed, fingerprints, hex, of_file, record_of_job, settings};
use crate::models::Library;
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
    if let Some(read) = recipe.coefficients.as_ref().and_then(|given| given.read.as_ref()) {
        hash.update(read.to_json(&serde_json::Map::new()).as_bytes());
    }
    for measured in recipe.statistics() {
        hash.update(of_file(&measured.file).to_string().as_bytes());
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

/// Whether `out` is the finished result of the same job, with all its weights still there.
pub(super) fn is_done(out: &Path, job: &str, layout: &Layout) -> bool {
    if !layout.shard_names().all(|name| out.join(name).is_file()) {
        return false;
    }
    record_of_job(out, job).is_some()
}
