//! Finding a model's tensors in a checkpoint, under any of the names that they go by.
//!
//! Names may lack the base model's prefix or have it once more; old bert files call the parts of layer norms `gamma` and
//! `beta`. Tensors that nobody asked for are returned by name: buffers and other heads among them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use onefold_checkpoint::Tensor;

use super::{TensorSpec, base_prefix, tensors};
use crate::config::ModelConfig;

/// Tensors of a checkpoint that are not those of its configuration.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FamilyError {
    /// All that is missing or misshapen.
    #[error("{dir}: {count} tensors are not as config.json says:\n{list}", dir = dir.display(), count = problems.len(),
            list = problems.join("\n"))]
    Tensors {
        /// The model's directory.
        dir: PathBuf,
        /// One sentence per tensor.
        problems: Vec<String>,
    },
}

/// A model's tensors.
#[derive(Debug)]
pub struct Found {
    /// What was looked for, with the name under which it is stored.
    pub tensors: Vec<(TensorSpec, String)>,
    /// Names of tensors that the model does not have.
    pub unused: Vec<String>,
}

/// The tensors of `config` among `stored`, which were read from `dir`.
pub fn find(
    config: &ModelConfig,
    stored: &BTreeMap<String, Tensor>,
    dir: &Path,
) -> Result<Found, FamilyError> {
    let prefix = base_prefix(config);
    let mut found = Vec::new();
    let mut problems = Vec::new();
    for spec in tensors(config) {
        let name = candidates(&spec.name, prefix).into_iter().find(|name| stored.contains_key(name));
        match name {
            None => problems.push(format!("`{}` of shape {:?} is missing", spec.name, spec.shape)),
            Some(name) if stored[&name].shape != spec.shape => {
                let shape = &stored[&name].shape;
                problems.push(format!("`{name}` has shape {shape:?}, expected {:?}", spec.shape));
            }
            Some(name) => found.push((spec, name)),
        }
    }
    if !problems.is_empty() {
        return Err(FamilyError::Tensors { dir: dir.to_owned(), problems });
    }
    let used: BTreeSet<&String> = found.iter().map(|(_, name)| name).collect();
    let unused = stored.keys().filter(|name| !used.contains(name)).cloned().collect();
    Ok(Found { tensors: found, unused })
}

/// The names a tensor may have, the likeliest first.
fn candidates(name: &str, prefix: &str) -> Vec<String> {
    let mut names = vec![name.to_owned()];
    if let Some(bare) = name.strip_prefix(prefix).filter(|_| !prefix.is_empty()) {
        names.extend([bare.to_owned(), format!("{prefix}{name}")]);
    }
    let old: Vec<String> = names.iter().filter_map(|name| old_norm(name)).collect();
    names.extend(old);
    names
}

/// `LayerNorm.weight` and `.bias` as the first files have them.
fn old_norm(name: &str) -> Option<String> {
    let gamma = name.strip_suffix("LayerNorm.weight").map(|start| format!("{start}LayerNorm.gamma"));
    gamma.or_else(|| name.strip_suffix("LayerNorm.bias").map(|start| format!("{start}LayerNorm.beta")))
}
