//! onefold

pub mod tokenizer;
