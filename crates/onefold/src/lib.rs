//! onefold

pub mod report;
