//! Why nothing was measured.

use std::path::PathBuf;

use onefold_checkpoint::CheckpointError;

use crate::model::{ModelError, SaveError};

/// Why nothing was measured, or what was measured cannot be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StatisticsError {
    /// The model cannot take the batch.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// Cross terms between examples would enter the squares.
    #[error("a batch of {found} examples where one is measured at a time; pass each example by itself")]
    NotOne {
        /// Examples of the batch.
        found: usize,
    },
    /// Gold labels are asked for and there are none.
    #[error("an example without labels: the empirical Fisher information needs them; measure the exact one")]
    NoLabels,
    /// A model whose numbers are spoilt.
    #[error(
        "example {example}: a score or a loss is {value}; repair the checkpoint, or leave the example out"
    )]
    NotFinite {
        /// Which, from 0.
        example: u64,
        /// The value, in words.
        value: String,
    },
    /// Sums that f32 cannot hold.
    #[error("`{tensor}`: what was measured exceeds the range of f32; check the checkpoint and the examples")]
    Overflow {
        /// The tensor.
        tensor: String,
    },
    /// No batch was passed.
    #[error("nothing was measured: no example was given")]
    Nothing,
    /// A part of the model was not passed on the way back.
    #[error(
        "`{tensor}` had no gradient: something in the first layer or before it has to be trainable for nodes to be measured"
    )]
    NoGradient {
        /// The tensor.
        tensor: String,
    },
    /// A model that is built otherwise.
    #[error("`{tensor}` of shape {shape:?}: {why}")]
    Unfit {
        /// The tensor.
        tensor: String,
        /// Its shape.
        shape: Vec<usize>,
        /// What was expected.
        why: String,
    },
    /// Files of statistics.
    #[error("{path}: {message}", path = path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong with it, and what to do.
        message: String,
    },
    /// The system refused.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// Numbers that cannot be written.
    #[error(transparent)]
    Save(#[from] SaveError),
}
