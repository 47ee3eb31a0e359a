//! onefold-runtime
