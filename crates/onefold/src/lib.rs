//! onefold
pub mod hub;
pub mod recipe;

pub mod tokenizer;

pub mod report;
