//! EMR artefacts: one unified task vector, one mask per task and one factor per task, which give each task's model back
//! when they are put on the base (Huang et al., "EMR-Merging", NeurIPS 2024, arXiv 2405.17461).
//!
//! `θ_t = θ₀ + λ_t · M_t ∘ unified`. How unified, M and λ come about is `onefold-merge`'s business; here is what lies on
//! disk, and [`Artefact::extract`], which computes one task's weights while they are read, like an adapter's.
//!
//! ```text
//! emr.json                     tasks, λ, and the base with its fingerprint: [`Manifest`]
//! emr.safetensors              unified.NAME: as the weight; mask.NAME: U8 [K, ⌈elements / 8⌉], one row per task
//!  (or emr-0000i-of-0000N.safetensors and emr.safetensors.index.json)
//! model/                       config, tokenizer and other files of the base, for the extracted models
//! ```
//!
//! The base is not in it. There is no `config.json` beside the weights, and they do not have a model's file name, so that
//! nothing takes an artefact for a model.

mod artefact;
mod error;
mod manifest;
mod rebuilt;

pub use artefact::Artefact;
pub use error::EmrError;
pub use manifest::{Adapter, Base, Fingerprint, Manifest, Task};
pub use rebuilt::add_task;

/// Name of the manifest; a directory that holds it is an artefact.
pub const MANIFEST: &str = "emr.json";
/// What the weight files' names begin with.
pub const STEM: &str = "emr";
/// Folder of the files that go beside an extracted model.
pub const MODEL_FILES: &str = "model";

/// Name of the unified task vector of a weight.
pub fn unified_name(weight: &str) -> String {
    format!("unified.{weight}")
}

/// Name of the masks of a weight.
pub fn mask_name(weight: &str) -> String {
    format!("mask.{weight}")
}

/// Bytes of one task's mask of `elements` elements: element i is bit i mod 8 (least significant first) of byte i / 8.
pub fn mask_bytes(elements: usize) -> usize {
    elements.div_ceil(8)
}

#[cfg(test)]
mod tests;
