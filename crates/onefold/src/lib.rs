//! onefold
pub mod hub;
