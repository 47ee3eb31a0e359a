//! Why a training ends without its result.

use std::path::PathBuf;

use onefold_balance::{BalanceError, SettingError};
use onefold_checkpoint::CheckpointError;

use crate::data::DataError;
use crate::image::ImageError;
use crate::model::{AdaptError, HeadError, ModelError, ParametersError, SaveError};
use crate::optimizer::StepError;
use crate::schedule::ScheduleError;

/// Why a training ends without its result.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TuneError {
    /// Files.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// The model cannot be read.
    #[error(transparent)]
    Parameters(#[from] ParametersError),
    /// Adapters cannot be made.
    #[error(transparent)]
    Adapt(#[from] AdaptError),
    /// A head cannot be added.
    #[error(transparent)]
    Head(#[from] HeadError),
    /// The model cannot run.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// The model cannot be written.
    #[error(transparent)]
    Save(#[from] SaveError),
    /// A dataset.
    #[error(transparent)]
    Data(Box<DataError>),
    /// An image.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// The schedule.
    #[error("schedule: {0}")]
    Schedule(#[from] ScheduleError),
    /// Settings of the balancer.
    #[error("{}", lines(.0))]
    BalancerSettings(Vec<SettingError>),
    /// The balancer.
    #[error(transparent)]
    Balance(#[from] BalanceError),
    /// The optimiser.
    #[error(transparent)]
    Step(#[from] StepError),
    /// A setting that cannot be followed.
    #[error("{key}: {message}")]
    Setting {
        /// The key of the recipe.
        key: String,
        /// What is wrong with it.
        message: String,
    },
    /// A task that the model cannot learn.
    #[error("task `{task}`: {message}")]
    Task {
        /// The task.
        task: String,
        /// Why not.
        message: String,
    },
    /// A loss that is no number.
    #[error(
        "step {step}: the loss of task `{task}` is {loss}; the rows of this step: {rows}. Lower the learning rate, limit the norm of \
         gradients (`clip`), look at these rows, or leave such steps out (`non_finite: skip`)"
    )]
    NotFinite {
        /// Number of the step, from 1.
        step: u64,
        /// The task.
        task: String,
        /// What it is.
        loss: f64,
        /// Where they stand.
        rows: String,
    },
    /// A saved state that is none.
    #[error("{path}: {message}; remove the directory of the run (`OUT.run`) to begin anew", path = path.display())]
    State {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        message: String,
    },
    /// The observer asked to stop; what was done is in a checkpoint.
    #[error("stopped after step {step}; the same command goes on from there")]
    Cancelled {
        /// Steps that were made.
        step: u64,
    },
}

impl From<DataError> for TuneError {
    fn from(error: DataError) -> Self {
        Self::Data(Box::new(error))
    }
}

impl TuneError {
    pub(crate) fn setting(key: impl Into<String>, message: impl Into<String>) -> Self {
        Self::Setting { key: key.into(), message: message.into() }
    }

    pub(crate) fn task(task: &str, message: impl Into<String>) -> Self {
        Self::Task { task: task.to_owned(), message: message.into() }
    }
}

fn lines(problems: &[SettingError]) -> String {
    problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}
