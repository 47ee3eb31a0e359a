//! What a recipe says of a joint training, beside its tasks.

use onefold_balance::losses::Normalisation;
use serde_json::{Map, Value};

use crate::model::AdapterSettings;
use crate::optimizer::{Decay, Rule};
use crate::schedule::{Fall, Schedule, ScheduleError};

/// How to train. Whatever depends on the number of rows (epochs, shares of the training) becomes steps in
/// [`Settings::schedule`] and [`Every::steps`].
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// For everything random.
    pub seed: u64,
    /// How long.
    pub duration: Duration,
    /// Rows of a step.
    pub batch: BatchSettings,
    /// How weights move.
    pub optimizer: Rule,
    /// Which of them decay.
    pub decay: Decay,
    /// How the learning rate goes.
    pub schedule: ScheduleSettings,
    /// Most that the global norm of the gradients may be.
    pub clip: Option<f64>,
    /// Whether layers are run again on the way back, instead of keeping all that they leave.
    pub checkpointing: bool,
    /// How losses of tokens become the loss of a step.
    pub normalisation: Normalisation,
    /// ε of smoothed labels, from 0 to 1.
    pub smoothing: f32,
    /// Settings of the balancer, with its `kind`.
    pub balancer: Map<String, Value>,
    /// When and how progress is measured.
    pub validation: ValidationSettings,
    /// Steps between two lines of the log.
    pub log: u64,
    /// When the state is made durable.
    pub checkpoints: CheckpointSettings,
    /// What counts as progress, and when it is enough.
    pub progress: ProgressSettings,
    /// What happens at a loss or gradient that is NaN or infinite.
    pub non_finite: NonFinite,
}

/// How long a training is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Duration {
    /// So many passes over the mixture; the last step may be smaller.
    Epochs(f64),
    /// So many optimiser steps.
    Steps(u64),
}

/// How many rows are learnt at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchSettings {
    /// Rows (packed: bins of rows) of a step, over which the update is made.
    pub examples: usize,
    /// Of these, rows that pass the model at once. Changes memory and speed, not the update.
    pub micro: usize,
}

/// A number of steps, or a share of all.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Span {
    /// Steps.
    Steps(u64),
    /// A share of the training, from 0 to 1; rounded up, as transformers does.
    Share(f64),
}

/// How the learning rate goes over a training.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ScheduleSettings {
    /// What follows the warm-up.
    pub kind: ScheduleKind,
    /// The warm-up.
    pub warmup: Span,
    /// The share of the peak that it does not fall below.
    pub floor: f64,
}

/// The form of a schedule.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum ScheduleKind {
    /// The rate stays.
    Constant,
    /// It falls in a straight line.
    Linear,
    /// It falls along half a cosine.
    Cosine,
    /// It stays, and falls in a straight line at the end.
    Wsd {
        /// That end.
        decay: Span,
    },
}

/// How often something happens.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Every {
    /// Never, but for the end.
    Never,
    /// After so many steps.
    Steps(u64),
    /// After so many epochs, or parts of one.
    Epochs(f64),
}

/// When and how progress is measured.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ValidationSettings {
    /// How often all validation rows are passed.
    pub every: Every,
    /// Rows that balancers are shown after a step; by default `batch.micro`, but one of each task at least.
    pub batch: Option<usize>,
}

/// When the state is made durable.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct CheckpointSettings {
    /// How often, beside the end.
    pub every: Every,
    /// How many are kept, beside the best; at least 1.
    pub keep: usize,
}

/// What counts as progress, and when it is enough.
#[derive(Debug, Clone, PartialEq)]
pub struct ProgressSettings {
    /// Of which tasks.
    pub aggregate: Aggregate,
    /// Which number of them.
    pub measure: Measure,
    /// Whether the model that was best, instead of the last one, is the result.
    pub keep_best: bool,
    /// Validations without progress of the aggregate that end the training.
    pub patience: Option<u64>,
    /// Validations without progress of a task after which it is done; when all are, the training ends.
    pub task_patience: Option<u64>,
    /// What is less than this is no progress.
    pub least: f64,
}

impl Default for ProgressSettings {
    /// The mean loss is watched, and nothing follows from it.
    fn default() -> Self {
        let (aggregate, measure, keep_best, least) = (Aggregate::Mean, Measure::Loss, false, 0.0);
        Self { aggregate, measure, keep_best, patience: None, task_patience: None, least }
    }
}

/// One number of several tasks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Aggregate {
    /// The mean.
    Mean,
    /// That of the task that is worst.
    Worst,
    /// That of the task of this name.
    Task(String),
}

/// A number that validation gives for a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Measure {
    /// The mean loss; less is better.
    Loss,
    /// The share of tokens, or rows with a class, that are right; more is better.
    Accuracy,
}

/// What happens at a number that is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NonFinite {
    /// The training ends, with the last checkpoint intact.
    Stop,
    /// The step is left out, and counted.
    Skip,
}

/// Which parameters are trained.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Trainable {
    /// Adapters in place of the weights themselves.
    pub adapter: Option<(AdapterSettings, Targets)>,
    /// Parts of names of weights that stay as they are, such as `embeddings`.
    pub freeze: Vec<String>,
}

/// Which linear maps get adapters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Targets {
    /// All in the layers; heads are not among them.
    AllLinear,
    /// Those whose module path is, or ends with a dot and, one of these names; as PEFT's list.
    Names(Vec<String>),
    /// Those whose module path this regular expression matches as a whole; as PEFT's text.
    Pattern(String),
}

impl Span {
    /// Steps of a training of `steps`.
    pub fn steps(self, steps: u64) -> u64 {
        match self {
            Self::Steps(count) => count,
            Self::Share(share) => (share * steps as f64).ceil() as u64,
        }
    }
}

impl Every {
    /// After how many steps, if an epoch has `per_epoch`.
    pub fn steps(self, per_epoch: f64) -> Option<u64> {
        match self {
            Self::Never => None,
            Self::Steps(steps) => Some(steps.max(1)),
            Self::Epochs(epochs) => Some(((epochs * per_epoch).round() as u64).max(1)),
        }
    }
}

impl ScheduleSettings {
    /// The schedule of a training of `steps`.
    ///
    /// # Errors
    /// If it cannot be followed.
    pub fn over(&self, steps: u64) -> Result<Schedule, ScheduleError> {
        let fall = match self.kind {
            ScheduleKind::Constant => Fall::Constant,
            ScheduleKind::Linear => Fall::Linear,
            ScheduleKind::Cosine => Fall::Cosine,
            ScheduleKind::Wsd { decay } => Fall::Wsd { decay: decay.steps(steps) },
        };
        let mut warmup = self.warmup.steps(steps);
        if let Span::Share(share) = self.warmup
            && share < 1.0
        {
            // The rate of a first step is 0: a training of one step would do nothing.
            warmup = warmup.min(steps.saturating_sub(1));
        }
        let schedule = Schedule { fall, warmup, steps, floor: self.floor };
        schedule.check()?;
        Ok(schedule)
    }
}
