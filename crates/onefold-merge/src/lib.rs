//! onefold-merge

pub mod svd;
