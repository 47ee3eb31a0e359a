//! LoRA adapters as PEFT saves them, applied to a base while it is read: no merged copy on disk, no dense delta in
//! memory.
//!
//! [`apply`] gives a [`Checkpoint`](crate::Checkpoint) whose changed tensors are computed piece by piece. What an
//! adapter directory means is taken from the behaviour of PEFT 0.21 (`merge_and_unload`); goldens made with it are in
//! `testdata/adapter`. All arithmetic is in f32. PEFT rounds a delta to the adapter's or base's dtype before it adds
//! it; here nothing is rounded before the result is written, so that a bf16 model may differ from PEFT's in the last
//! bit.
//!
//! Everything that would change the result and is not computed is refused: other methods, initialisations that
//! changed the base, per-token variants, unknown keys.

mod apply;
mod config;
mod delta;
mod error;
mod keys;
mod names;
mod pair;
mod pattern;
mod plan;
mod vit;

pub use apply::apply;
pub use config::{AdapterConfig, Tokens, parse_config, read_config};
pub use error::AdapterError;
pub use pattern::Pattern;
pub use vit::vit_module;

#[cfg(test)]
mod tests;
