//! What passes between a trainer and a balancer.
//!
//! A balancer says as data what it wants to know at a step ([`Needs`]); the trainer gives that ([`Batch`] before the
//! backward pass, [`Outcome`] after the step) and no more. All numbers are of the whole step: summed over micro-batches,
//! all-reduced over ranks. Then every rank computes the same weights, and a balancer needs no communication.

use crate::numeric::Matrix;

/// What a balancer wants to know at a step. Ask once, before the step; it holds until the step is over.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Needs {
    /// Training losses of the batch.
    pub losses: Losses,
    /// What of the gradients of the tasks.
    pub gradients: Gradients,
    /// After the step the losses of the same batch again, with the new parameters: [`Outcome::again`].
    pub again: bool,
    /// After the step the losses of a batch of validation rows: [`Outcome::validation`].
    pub validation: bool,
    /// Before the first step the losses over all validation rows: [`crate::Balancer::begin`].
    pub reference: bool,
    /// A training loss that is not positive is as good as none: the balancer divides by it or takes its logarithm. The task
    /// is left out of the step, if its loss is known before.
    pub positive: bool,
}

/// When training losses are needed.
///
/// `Before` asks for all forward passes of a step before its first backward pass: with several micro-batches, a trainer runs
/// the forward passes twice, or keeps one gradient per task.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Losses {
    /// Not at all.
    #[default]
    Unneeded,
    /// At the end of the step, in [`Outcome::losses`].
    After,
    /// Before the weights, in [`Batch::rows`], and at the end.
    Before,
}

/// What is needed of the gradients gᵢ of the mean losses of the tasks, with respect to the parameters that they share.
/// Parameters of one task alone (heads) always take that task's own gradient.
#[derive(Debug, Clone, PartialEq, Default)]
pub enum Gradients {
    /// Nothing: one backward pass of the weighted loss.
    #[default]
    None,
    /// The lengths ‖gᵢ‖ over the parameters of one chosen layer, in [`Outcome::norms`]. Weights are not applied.
    Norms,
    /// The inner products ⟨gᵢ, gⱼ⟩, in [`Batch::measured`]. The update is Σ wᵢ gᵢ of the kept gradients, or one more
    /// backward pass of the weighted loss.
    Gramian,
    /// The trainer keeps for each task an average vᵢ ← keep·vᵢ + (1 − keep)·∇ln(Lᵢ + 1e-8), that begins at zero and stays
    /// as it is at a step where the task is absent, its loss not positive or its gradient not finite; the inner products
    /// ⟨vᵢ, vⱼ⟩ are needed, and the update is Σ wᵢ vᵢ. See [`crate::kernels::average`].
    Averages {
        /// Share of the old average.
        keep: f64,
    },
    /// The numbers Σ g²/√(h + 1e-7), where h is the sum of g² over all steps, element by element, and kept by the trainer
    /// (gradients that are not finite must not enter it): see [`crate::kernels::excess`].
    Excess,
    /// Of a trial step θ' = θ − lr·Σ wᵢ gᵢ: see [`Measured::Lookahead`].
    Lookahead {
        /// Rate of the trial step; the optimiser's of this step if none.
        lr: Option<f64>,
        /// The w of the trial step, for all tasks; take those present, divided by their sum.
        weights: Vec<f64>,
    },
    /// The gradients themselves, element by element: the update comes from [`crate::Balancer::combiner`].
    Elements,
}

impl Gradients {
    /// What it is, for messages.
    pub(crate) fn words(&self) -> &'static str {
        match self {
            Self::None => "nothing of the gradients",
            Self::Norms => "the list of gradient norms",
            Self::Gramian => "the Gramian of the gradients",
            Self::Averages { .. } => "the Gramian of the averaged gradients",
            Self::Excess => "the list of excess risks",
            Self::Lookahead { .. } => "the table of products after a trial step",
            Self::Elements => "the gradients, element by element",
        }
    }
}

/// What is known before the backward pass that makes the update.
#[derive(Debug, Clone, Copy)]
pub struct Batch<'a> {
    /// Number of the step, from 0.
    pub step: u64,
    /// Number of the pass over the data, from 0.
    pub epoch: u64,
    /// Which tasks have rows.
    pub rows: Rows<'a>,
    /// What [`Needs::gradients`] asks for.
    pub measured: Measured<'a>,
}

/// The tasks of a batch.
#[derive(Debug, Clone, Copy)]
pub enum Rows<'a> {
    /// Whether each is present.
    Present(&'a [bool]),
    /// The mean loss of each, none if it is absent.
    Losses(&'a [Option<f64>]),
}

/// Measurements on gradients, with an entry or row for every task; those of absent tasks are not looked at.
#[derive(Debug, Clone, Copy, Default)]
pub enum Measured<'a> {
    /// None.
    #[default]
    Nothing,
    /// Inner products, for [`Gradients::Gramian`] and [`Gradients::Averages`].
    Gramian(&'a Matrix),
    /// For [`Gradients::Excess`].
    Excess(&'a [f64]),
    /// For [`Gradients::Lookahead`].
    Lookahead {
        /// ⟨∇Lₜ of validation rows at θ', gᵢ of the batch at θ⟩ in row t, column i.
        products: &'a Matrix,
        /// The rate of the trial step.
        lr: f64,
    },
}

/// What is known after a step.
#[derive(Debug, Clone, Copy, Default)]
pub struct Outcome<'a> {
    /// Number of the step, as in its [`Batch`].
    pub step: u64,
    /// Number of the pass over the data.
    pub epoch: u64,
    /// Mean training losses of the batch, none for absent tasks.
    pub losses: Option<&'a [Option<f64>]>,
    /// The same after the update.
    pub again: Option<&'a [Option<f64>]>,
    /// Losses of a batch of validation rows (or means over several), none for tasks that it has no rows of.
    pub validation: Option<&'a [Option<f64>]>,
    /// For [`Gradients::Norms`].
    pub norms: Option<&'a [f64]>,
}

impl std::fmt::Display for Quantity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::TrainingLoss => "training loss",
            Self::LossAgain => "loss after the update",
            Self::ValidationLoss => "validation loss",
            Self::Gradient => "length of the gradient",
        })
    }
}

/// Something that a trainer measures.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Quantity {
    /// A loss of the batch.
    TrainingLoss,
    /// A loss of the batch after the update.
    LossAgain,
    /// A loss of validation rows.
    ValidationLoss,
    /// The squared length of a gradient, or its length.
    Gradient,
}

/// The answer to a [`Batch`].
#[derive(Debug, Clone, PartialEq)]
pub struct Weights {
    /// One for each task: the update is Σ wᵢ gᵢ. Zero for tasks that are absent or left out; of those not even the gradient
    /// must be touched, for it may not be finite.
    pub values: Vec<f64>,
    /// Tasks left out although they are present.
    pub skipped: Vec<crate::Skipped>,
}

/// A series for logs.
#[derive(Debug, Clone, PartialEq)]
pub struct Figure {
    /// What it is.
    pub name: &'static str,
    /// Its latest value.
    pub values: Values,
}

/// Values of a [`Figure`].
#[derive(Debug, Clone, PartialEq)]
pub enum Values {
    /// One for each task, none where it is not known.
    PerTask(Vec<Option<f64>>),
    /// One for all.
    One(f64),
}

impl Figure {
    /// A series of each task.
    pub fn per_task(name: &'static str, values: &[f64]) -> Self {
        Self { name, values: Values::PerTask(values.iter().copied().map(Some).collect()) }
    }
}
