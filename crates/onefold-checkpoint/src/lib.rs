//! What lies on disk.
pub mod dtype;
pub mod pytorch;
pub use dtype::Dtype;
