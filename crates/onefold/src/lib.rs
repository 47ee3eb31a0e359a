//! onefold
pub mod hub;
pub mod recipe;
