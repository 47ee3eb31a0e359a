//! Tiny models on tiny tasks.
