//! onefold
