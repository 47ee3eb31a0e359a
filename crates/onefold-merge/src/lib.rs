//! Arithmetic on weights: merge methods over streamed tensors.
//!
//! The way of a merge: the caller plans [`stream::Planned`] tensors, each with a [`task::Task`] and the rule that a method of
//! [`methods::METHODS`] built from it; [`stream::run`] surveys what must be known beforehand and then streams every tensor
//! block by block into a [`stream::Sink`]. Nothing here links a model engine, knows a model family, or holds a whole
//! model; only the SVD methods and RegMean hold one whole matrix at a time.

mod direct;
pub mod emr;
pub mod error;
pub mod kernels;
pub mod methods;
pub mod order;
pub mod params;
pub mod recording;
pub mod regression;
pub mod scan;
pub mod sparsify;
pub mod stream;
pub mod svd;
pub mod task;

pub use error::MergeError;
pub use methods::METHODS;

/// The method that CONTRIBUTING.md adds, compiled and run.
#[cfg(doctest)]
#[doc = include_str!("../../../CONTRIBUTING.md")]
pub struct Contributing;
