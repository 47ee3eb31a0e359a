//! onefold-merge
