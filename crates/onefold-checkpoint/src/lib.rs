//! What lies on disk.
pub mod dtype;
pub use dtype::Dtype;
