//! Datasets as other tools describe them, read as they are.

mod llama_factory;
mod mftcoder;

pub use llama_factory::llama_factory;
pub use mftcoder::mftcoder;

#[cfg(test)]
mod tests;
