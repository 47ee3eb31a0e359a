//! onefold-merge
pub mod params;
