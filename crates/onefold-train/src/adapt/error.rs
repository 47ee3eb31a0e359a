//! Why coefficients cannot be learnt.

use std::path::PathBuf;

use onefold_checkpoint::CheckpointError;
use onefold_merge::MergeError;

use crate::config::ConfigError;
use crate::data::DataError;
use crate::families::FamilyError;
use crate::image::ImageError;
use crate::model::{HeadError, ModelError, ParametersError};
use crate::statistics::{StatisticsError, SurgeryError};
use crate::text::TextError;
use crate::tune::TuneError;

/// Why coefficients cannot be learnt.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AdaptError {
    /// Files.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// A model cannot be read.
    #[error(transparent)]
    Parameters(#[from] ParametersError),
    /// A configuration cannot be read.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A model is not as its configuration says.
    #[error(transparent)]
    Family(#[from] FamilyError),
    /// A head does not fit.
    #[error(transparent)]
    Head(#[from] HeadError),
    /// The model cannot run.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// Weights cannot be merged.
    #[error(transparent)]
    Merge(#[from] MergeError),
    /// A dataset.
    #[error(transparent)]
    Data(Box<DataError>),
    /// An image.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// A tokenizer, or a text.
    #[error(transparent)]
    Text(#[from] TextError),
    /// Passing rows.
    #[error(transparent)]
    Pass(Box<TuneError>),
    /// An expert of another architecture.
    #[error("expert {expert}: {message}")]
    Expert {
        /// The expert.
        expert: String,
        /// What does not fit.
        message: String,
    },
    /// A task that cannot be learnt from.
    #[error("task `{task}`: {message}")]
    Task {
        /// The task.
        task: String,
        /// Why not.
        message: String,
    },
    /// What cannot be measured of a task's expert.
    #[error("task `{task}`: {error}")]
    Measured {
        /// The task.
        task: String,
        /// Why not.
        error: Box<StatisticsError>,
    },
    /// Features of a task that cannot be corrected.
    #[error("task `{task}`: {error}")]
    Surgery {
        /// The task.
        task: String,
        /// Why not.
        error: SurgeryError,
    },
    /// A setting that cannot be followed.
    #[error("{key}: {message}")]
    Setting {
        /// The key of the recipe.
        key: String,
        /// What is wrong with it.
        message: String,
    },
    /// A loss that is no number.
    #[error(
        "step {step}: the loss of task `{task}` is {loss}; lower the learning rate (`optimizer.lr`) or the starting point (`init`)"
    )]
    NotFinite {
        /// Number of the step, from 1.
        step: u64,
        /// The task.
        task: String,
        /// What it is.
        loss: f64,
    },
    /// A saved state that is none.
    #[error("{path}: {message}; remove the directory of the run (`OUT.run`) to begin anew", path = path.display())]
    State {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        message: String,
    },
    /// The observer asked to stop; what was done is saved.
    #[error("stopped after step {step}; the same command goes on from there")]
    Cancelled {
        /// Steps that were made.
        step: u64,
    },
    /// The observer asked to stop while experts were measured, models scored or features corrected; what is learnt or measured is
    /// saved.
    #[error("stopped; what was learnt or measured is kept, and the same command goes on from there")]
    Stopped,
}

impl From<DataError> for AdaptError {
    fn from(error: DataError) -> Self {
        Self::Data(Box::new(error))
    }
}

impl From<TuneError> for AdaptError {
    fn from(error: TuneError) -> Self {
        Self::Pass(Box::new(error))
    }
}

impl AdaptError {
    pub(super) fn setting(key: impl Into<String>, message: impl Into<String>) -> Self {
        Self::Setting { key: key.into(), message: message.into() }
    }

    pub(super) fn task(task: &str, message: impl Into<String>) -> Self {
        Self::Task { task: task.to_owned(), message: message.into() }
    }

    pub(super) fn expert(expert: &str, message: impl Into<String>) -> Self {
        Self::Expert { expert: expert.to_owned(), message: message.into() }
    }
}
