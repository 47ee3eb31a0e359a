//! onefold
pub mod recipe;
