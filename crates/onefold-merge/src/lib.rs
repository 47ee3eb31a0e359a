//! Arithmetic on weights: merge methods over streamed tensors. Links no engine, never holds a whole model.
pub mod error;
pub mod kernels;
pub mod order;
pub mod params;
pub mod scan;
pub use error::MergeError;
