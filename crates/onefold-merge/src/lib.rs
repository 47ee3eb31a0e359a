//! onefold-merge

pub mod emr;
pub mod svd;
