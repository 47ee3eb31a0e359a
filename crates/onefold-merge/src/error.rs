//! What can go wrong between a plan and its result.

use onefold_checkpoint::{CheckpointError, Dtype};

/// A merge that cannot go on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MergeError {
    /// An input holds NaN or an infinity.
    #[error(
        "tensor `{tensor}` of {model}: element {index} is {value}; repair the checkpoint, or give --allow-non-finite to merge it as it is"
    )]
    NonFinite {
        /// The tensor.
        tensor: String,
        /// Which input.
        model: String,
        /// Row-major position.
        index: usize,
        /// What was found.
        value: f32,
    },
    /// A statistic that no measurement gives.
    #[error(
        "tensor `{tensor}`: element {index} of the statistics of {model} is {value}, expected a finite number of at least 0; measure them again"
    )]
    Statistic {
        /// The tensor.
        tensor: String,
        /// The model it was measured on.
        model: String,
        /// Row-major position.
        index: usize,
        /// What was found.
        value: f32,
    },
    /// A result that the output's dtype cannot hold.
    #[error(
        "tensor `{tensor}`: the merged value {value} at element {index} does not fit {dtype}; choose a wider `out_dtype`, or give --allow-non-finite"
    )]
    Overflow {
        /// The tensor.
        tensor: String,
        /// Row-major position.
        index: usize,
        /// The value.
        value: f32,
        /// The output's dtype.
        dtype: Dtype,
    },
    /// A method has no answer for these inputs.
    #[error("tensor `{tensor}`: {message}")]
    Undefined {
        /// The tensor.
        tensor: String,
        /// Why, and what to do.
        message: String,
    },
    /// Reading or writing failed.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// The caller asked to stop.
    #[error("cancelled")]
    Cancelled,
}
