//! LBTW: loss-balanced task weighting (Liu, Liang, Gitter, AAAI 2019), and LBTW*, driven by validation losses (as in the
//! comparison of CoBa, arXiv 2410.06741).
//!
//! wᵢ = (Lᵢ/Lᵢ(0))^α: a task whose loss has fallen most gets least. The published code takes the first batch of each epoch for
//! Lᵢ(0) (`reference: epoch`), the description of CoBa the initial loss; we, by default, the first batch that has the task.
//!
//! LBTW* takes the ratio of the latest validation loss to that before training; before a task's first, 1. Which of its details
//! the authors of CoBa chose is not published.

use onefold_runtime::params::{Default, Kind};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Cost, Method, NOT_NEGATIVE, SCALE};
use crate::contract::{Figure, Losses, Needs};
use crate::rule::{Memory, Rule, Scale, Seen, View, lengths};
use crate::settings::{Context, Param};

const ALPHA: Param = Param {
    name: "alpha",
    kind: NOT_NEGATIVE,
    default: Default::Number(0.5),
    help: "exponent of the loss ratios; 0 is uniform",
};

/// The table entry.
pub static LBTW: Method = Method {
    name: "lbtw",
    aliases: &[],
    summary: "more weight where the loss has fallen least since the beginning",
    source: "AAAI 2019",
    cost: Cost::Nothing,
    validation: false,
    task_weights: false,
    simplex: true,
    params: &[
        ALPHA,
        Param {
            name: "reference",
            kind: Kind::Choice(&["initial", "epoch"]),
            default: Default::Choice("initial"),
            help: "the first loss of training, or that of each epoch",
        },
        SCALE,
    ],
    build: |context| Ok(Box::new(Lbtw::new(context, false))),
};

/// The table entry.
pub static LBTW_VALIDATION: Method = Method {
    name: "lbtw_validation",
    aliases: &["lbtw*"],
    summary: "as `lbtw`, by validation losses",
    source: "arXiv 2410.06741",
    cost: Cost::Forward,
    validation: true,
    task_weights: false,
    simplex: true,
    params: &[ALPHA, SCALE],
    build: |context| Ok(Box::new(Lbtw::new(context, true))),
};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Settings {
    alpha: f64,
    /// LBTW* has no choice: its reference are the losses before training.
    reference: Option<Reference>,
    scale: Scale,
}

#[derive(Debug, PartialEq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Reference {
    Initial,
    Epoch,
}

#[derive(Debug)]
struct Lbtw {
    settings: Settings,
    /// Whether it is driven by validation losses.
    validation: bool,
    memory: Ratios,
}

impl Lbtw {
    fn new(context: &Context<'_>, validation: bool) -> Self {
        Self { settings: context.typed(), validation, memory: Ratios::new(context.k()) }
    }

    /// Takes the ratios of this step's training losses.
    fn compare(&mut self, view: &View<'_>) {
        if self.settings.reference == Some(Reference::Epoch) && view.epoch != self.memory.epoch {
            self.memory.references.fill(None);
        }
        self.memory.epoch = view.epoch;
        view.tasks.iter().zip(&view.losses).for_each(|(task, loss)| self.memory.put(*task, *loss));
    }
}

/// References and the latest ratios to them.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Ratios {
    epoch: u64,
    references: Vec<Option<f64>>,
    latest: Vec<f64>,
}

impl Ratios {
    fn new(tasks: usize) -> Self {
        Self { epoch: 0, references: vec![None; tasks], latest: vec![1.0; tasks] }
    }

    /// Keeps the ratio of a loss of a task to its reference; the first loss becomes that.
    fn put(&mut self, task: usize, loss: f64) {
        let reference = *self.references[task].get_or_insert(loss);
        self.latest[task] = (loss / reference).max(1e-100);
    }
}

impl Memory for Ratios {
    fn check(&self, tasks: usize) -> Result<(), String> {
        lengths(tasks, &[self.references.len(), self.latest.len()])
    }
}

/// `r^α`.
pub fn weights(ratios: &[f64], alpha: f64) -> Vec<f64> {
    // A power of a large ratio must stay a number.
    ratios.iter().map(|ratio| (alpha * ratio.ln()).clamp(-600.0, 600.0).exp()).collect()
}

impl Rule for Lbtw {
    fn needs(&self, _: u64) -> Needs {
        if self.validation {
            let reference = self.memory.references.contains(&None);
            Needs { validation: true, reference, ..Needs::default() }
        } else {
            Needs { losses: Losses::Before, positive: true, ..Needs::default() }
        }
    }

    fn begin(&mut self, validation: &[f64]) {
        self.memory.references = validation.iter().map(|loss| Some(loss.max(1e-12))).collect();
    }

    fn weights(&mut self, view: &View<'_>) -> Vec<f64> {
        self.compare(view);
        self.settings.scale.apply(weights(&view.of(&self.memory.latest), self.settings.alpha))
    }

    fn observe(&mut self, seen: &Seen) {
        let losses = seen.validation.iter().enumerate();
        losses.for_each(|(task, loss)| loss.iter().for_each(|loss| self.memory.put(task, *loss)));
    }

    fn figures(&self) -> Vec<Figure> {
        vec![Figure::per_task("ratio", &self.memory.latest)]
    }

    fn state(&self) -> Value {
        self.memory.save()
    }

    fn restore(&mut self, state: &Value) -> Result<(), String> {
        self.memory = Ratios::load(state, self.memory.latest.len())?;
        Ok(())
    }
}
