//! Reads an adapter directory and gives the base with its tensors replaced.

use std::path::{Path, PathBuf};

use super::names::Parts;
use super::plan::Plan;
use super::{AdapterError, read_config};
use crate::{Checkpoint, CheckpointError};

/// Weight files of an adapter, in the order in which they are looked for.
const WEIGHTS: [&str; 2] = ["adapter_model.safetensors", "adapter_model.bin"];

/// Applies the adapter in `dir` to `base`: a checkpoint with the same tensor names, and those that the adapter adds
/// (a new head), whose changed tensors are computed piece by piece when they are read.
///
/// `dir()` of the result stays the base's, for config and tokenizer; `files()` are those of both. A computed tensor
/// keeps the base's dtype, a replaced one has the dtype in which it was saved and may have more or fewer rows.
/// Whether the base is the one that the adapter was trained on is judged by names and shapes;
/// [`AdapterConfig::base_model`](super::AdapterConfig) has the name that was used in training.
///
/// # Errors
/// Every problem of configuration, names and shapes, together. Nothing is left to fail when tensors are read.
pub fn apply(base: Checkpoint, dir: &Path) -> Result<Checkpoint, Vec<CheckpointError>> {
    let config = read_config(dir)?;
    let path = weights(dir).map_err(|e| vec![e])?;
    let file = Checkpoint::open(&path)?;
    let mut errors = Vec::new();
    if file.tensors().is_empty() {
        errors.push(AdapterError::Empty);
    }
    let parts = Parts::sort(file.tensors(), &mut errors);
    let changed = Plan::new(base.tensors(), &config, errors).changed(&parts);
    let wrap = |source| CheckpointError::adapter(&path, source);
    let changed = changed.map_err(|errors| errors.into_iter().map(wrap).collect::<Vec<_>>())?;
    Ok(base.with_changes(changed, file.files()))
}

fn weights(dir: &Path) -> Result<PathBuf, CheckpointError> {
    let found = WEIGHTS.iter().map(|name| dir.join(name)).find(|path| path.is_file());
    let expected = "adapter_model.safetensors or adapter_model.bin";
    let missing = || AdapterError::MissingFile { expected, hint: String::new() };
    found.ok_or_else(|| CheckpointError::adapter(dir, missing()))
}
