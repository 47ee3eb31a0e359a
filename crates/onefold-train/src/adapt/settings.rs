//! What a recipe says of learning coefficients, beside its models and tasks.

use serde::Serialize;

use crate::tune::learner::Learner;

/// What shares a coefficient.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Granularity {
    /// All tensors of an expert ("task-wise").
    Model,
    /// Those of a layer; outside of layers those of a module.
    Block,
    /// None: each tensor has its own, weights and biases apart ("layer-wise" in the paper).
    #[default]
    Tensor,
}

/// What is minimised.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Aim {
    /// The mean entropy of predictions, which needs no labels.
    #[default]
    Entropy,
    /// Cross-entropy of labels, or of the tokens to be learnt.
    #[serde(rename = "ce")]
    CrossEntropy,
}

/// Where coefficients begin.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Start {
    /// All at the same value.
    Value(f64),
    /// Each expert's at its own.
    Each(Vec<f64>),
    /// At 1/K.
    Uniform,
    /// At those of MetaGPT, one per model.
    MetaGpt,
}

impl Default for Start {
    /// 0.3, as in the paper.
    fn default() -> Self {
        Self::Value(0.3)
    }
}

/// How coefficients are kept within [0, 1].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Clamp {
    /// Set to the nearest bound after each step.
    #[default]
    Project,
    /// Held to it where they are used, as the published code does. Outside the gradient is 0, so what has left does not come
    /// back.
    Forward,
    /// Not at all, as in the paper's text.
    None,
}

/// Adam's settings (Kingma and Ba 2015), without decay.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Adam {
    /// The learning rate.
    pub lr: f64,
    /// Decay of both moments.
    pub betas: [f64; 2],
    /// Added to the root of the second.
    pub epsilon: f64,
}

impl Default for Adam {
    fn default() -> Self {
        Self { lr: 1e-3, betas: [0.9, 0.999], epsilon: 1e-8 }
    }
}

/// When learning ends before its last step.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Patience {
    /// Lines of the log without a lower mean loss.
    pub lines: u64,
    /// By how much it has to be lower.
    pub least: f64,
}

/// How coefficients are learnt.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Settings {
    /// For the order of rows.
    pub seed: u64,
    /// Optimiser steps.
    pub steps: u64,
    /// What shares a coefficient.
    pub granularity: Granularity,
    /// Where coefficients begin.
    pub start: Start,
    /// What is minimised.
    pub aim: Aim,
    /// Strength of a term that rewards diverse predictions of classes: δ in Σ (mean entropy − δ · entropy of the mean
    /// prediction of the rows that pass at once). 0 in the paper.
    pub diversity: f64,
    /// How coefficients move.
    pub adam: Adam,
    /// How they are kept within bounds.
    pub clamp: Clamp,
    /// Whether those of a tensor are a softmax over the experts of what is learnt.
    pub normalise: bool,
    /// Rows of each task in a batch.
    pub batch: usize,
    /// Batches of each task in a step.
    pub batches: usize,
    /// Most tokens (images: pixels' rows) that pass the model at once.
    pub tokens: u64,
    /// Weight of each task's loss.
    pub weights: Vec<f64>,
    /// Whether layers are run again on the way back.
    pub checkpointing: bool,
    /// Steps between two lines of the log.
    pub log: u64,
    /// Steps between two scorings; none: before the first and after the last.
    pub score: Option<u64>,
    /// Steps between two saved states.
    pub save: u64,
    /// When learning ends before its last step.
    pub patience: Option<Patience>,
}

/// Most tokens, or images, that pass at once, of so many rows of layers.
pub(super) fn at_once(tokens: u64, learner: &Learner) -> u64 {
    (tokens / learner.rows_per_token().max(1) as u64).max(1)
}

impl Default for Settings {
    /// The paper's, but for the batch: its code takes two of 16 rows.
    fn default() -> Self {
        Self {
            seed: 0,
            steps: 500,
            granularity: Granularity::default(),
            start: Start::default(),
            aim: Aim::default(),
            diversity: 0.0,
            adam: Adam::default(),
            clamp: Clamp::default(),
            normalise: false,
            batch: 16,
            batches: 1,
            tokens: 8192,
            weights: Vec::new(),
            checkpointing: false,
            log: 10,
            score: None,
            save: 50,
            patience: None,
        }
    }
}
