//! What lies on disk: Hugging Face checkpoints read without copying them, and written so that nothing half-made loads.
//!
//! Reading starts at [`Checkpoint::open`]; it judges every header completely and hands out [`Tensor`]s that are read
//! piece by piece. Writing goes through [`output::Output`], the only place that creates files.

pub mod adapter;
pub mod beside;
pub mod checkpoint;
pub mod convert;
mod dtype;
pub mod emr;
mod error;
pub mod header;
pub mod json;
pub mod mapped;
pub mod names;
pub mod output;
pub mod pytorch;
pub mod tensor;

pub use checkpoint::Checkpoint;
pub use dtype::Dtype;
pub use error::CheckpointError;
pub use tensor::Tensor;
