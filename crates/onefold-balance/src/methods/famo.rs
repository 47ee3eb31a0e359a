//! FAMO: fast adaptive multitask optimization (Liu et al., NeurIPS 2023, arXiv 2306.03792), and FAMO*, driven by validation
//! losses (as in the comparison of CoBa, arXiv 2410.06741).
//!
//! With z = softmax(ξ), Dᵢ = Lᵢ − m + 1e-8 and c = Σ zᵢ/Dᵢ held constant, the loss is Σ zᵢ ln Dᵢ / c: weights wᵢ = zᵢ/(Dᵢ c), which
//! sum to one. After the step the losses of the same batch give δᵢ = ln Dᵢ(before) − ln Dᵢ(after), and ξ is moved by Adam with the
//! gradient z ⊙ (δ − Σ zδ) + γξ: tasks that improved fastest get less.
//!
//! The authors clip the gradient of the shared parameters to norm 1; that is the trainer's. Ours: `after: next_batch` saves the
//! second forward pass by taking the next batch's losses for those after the step, which is noisier; absent tasks keep their ξ,
//! and z is that of the tasks present. FAMO* takes δ between consecutive validation batches; the authors of CoBa do not say.

use onefold_runtime::params::{Default, Kind};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Cost, Method, NOT_NEGATIVE, POSITIVE};
use crate::contract::{Figure, Losses, Needs};
use crate::numeric::adam::Adam;
use crate::numeric::vector::{dot, normalised, softmax};
use crate::rule::{Memory, Rule, Seen, View, lengths};
use crate::settings::{Context, Param};

const LR: Param = Param {
    name: "lr",
    kind: POSITIVE,
    default: Default::Number(0.025),
    help: "learning rate of the logits",
};
const DECAY: Param = Param {
    name: "decay",
    kind: NOT_NEGATIVE,
    default: Default::Number(0.01),
    help: "pull of the logits towards uniform weights; some use 0.001",
};
const LEAST: Param = Param {
    name: "least_loss",
    kind: NOT_NEGATIVE,
    default: Default::Number(0.0),
    help: "a lower bound of all losses, from which they are counted",
};

/// The table entry.
pub static FAMO: Method = Method {
    name: "famo",
    aliases: &[],
    summary: "equal relative progress of all tasks, learned from one more forward pass",
    source: "arXiv 2306.03792",
    cost: Cost::Forward,
    validation: false,
    task_weights: false,
    simplex: true,
    params: &[
        LR,
        DECAY,
        LEAST,
        Param {
            name: "after",
            kind: Kind::Choice(&["same_batch", "next_batch"]),
            default: Default::Choice("same_batch"),
            help: "which losses count as those after the step; the next batch's cost nothing",
        },
    ],
    build: |context| Ok(Box::new(Famo::new(context, context.typed::<Settings>().after))),
};

/// The table entry.
pub static FAMO_VALIDATION: Method = Method {
    name: "famo_validation",
    aliases: &["famo*"],
    summary: "as `famo`, by validation losses",
    source: "arXiv 2410.06741",
    cost: Cost::Forward,
    validation: true,
    task_weights: false,
    simplex: true,
    params: &[LR, DECAY, LEAST],
    build: |context| Ok(Box::new(Famo::new(context, After::Validation))),
};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Settings {
    lr: f64,
    decay: f64,
    least_loss: f64,
    #[serde(default)]
    after: After,
}

/// Where losses before and after a step come from.
#[derive(Debug, Clone, Copy, PartialEq, std::default::Default, Deserialize)]
#[serde(rename_all = "snake_case")]
enum After {
    SameBatch,
    NextBatch,
    /// Two validation batches; not a word of recipes.
    #[default]
    #[serde(skip_deserializing)]
    Validation,
}

#[derive(Debug)]
struct Famo {
    settings: Settings,
    after: After,
    memory: Logits,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Logits {
    xi: Vec<f64>,
    adam: Vec<Adam>,
    /// The losses that the next ones are compared with.
    before: Vec<Option<f64>>,
}

impl Memory for Logits {
    fn check(&self, tasks: usize) -> Result<(), String> {
        lengths(tasks, &[self.xi.len(), self.adam.len(), self.before.len()])
    }
}

/// `zᵢ/(Dᵢ c)` and c.
pub fn weights(z: &[f64], losses: &[f64], least: f64) -> (Vec<f64>, f64) {
    let parts: Vec<f64> = z.iter().zip(losses).map(|(z, loss)| z / gap(*loss, least)).collect();
    (normalised(&parts), parts.iter().sum())
}

/// The gradient for ξ without decay: `z ⊙ (δ − Σ zδ)`.
pub fn slope(z: &[f64], delta: &[f64]) -> Vec<f64> {
    let mean = dot(z, delta);
    z.iter().zip(delta).map(|(z, d)| z * (d - mean)).collect()
}

/// `D`, positive even where a loss is below its supposed bound.
fn gap(loss: f64, least: f64) -> f64 {
    (loss - least).max(0.0) + 1e-8
}

impl Famo {
    fn new(context: &Context<'_>, after: After) -> Self {
        let k = context.k();
        let memory = Logits { xi: vec![0.0; k], adam: vec![Adam::default(); k], before: vec![None; k] };
        Self { settings: context.typed(), after, memory }
    }

    /// Moves ξ by what happened to the losses since [`Logits::before`], of the tasks that have both.
    fn learn(&mut self, after: &[Option<f64>]) {
        let least = self.settings.least_loss;
        let delta = |task: usize| {
            let (before, after) = (self.memory.before[task]?, after[task]?);
            Some((task, gap(before, least).ln() - gap(after, least).ln()))
        };
        let (tasks, delta): (Vec<usize>, Vec<f64>) = (0..after.len()).filter_map(delta).unzip();
        let z = softmax(&tasks.iter().map(|task| self.memory.xi[*task]).collect::<Vec<_>>());
        for (task, slope) in tasks.iter().zip(slope(&z, &delta)) {
            let xi = &mut self.memory.xi[*task];
            *xi += self.memory.adam[*task].step(slope + self.settings.decay * *xi, self.settings.lr);
        }
    }

    /// As [`Self::learn`], and remembers the losses for the next comparison.
    fn follow(&mut self, losses: &[Option<f64>]) {
        self.learn(losses);
        let latest = self.memory.before.iter().zip(losses).map(|(before, loss)| loss.or(*before));
        self.memory.before = latest.collect();
    }
}

impl Rule for Famo {
    fn needs(&self, _: u64) -> Needs {
        let (again, validation) = (self.after == After::SameBatch, self.after == After::Validation);
        Needs { losses: Losses::Before, positive: true, again, validation, ..Needs::default() }
    }

    fn weights(&mut self, view: &View<'_>) -> Vec<f64> {
        let mut losses = vec![None; self.memory.xi.len()];
        view.tasks.iter().zip(&view.losses).for_each(|(task, loss)| losses[*task] = Some(*loss));
        match self.after {
            After::SameBatch => self.memory.before = losses,
            After::NextBatch => self.follow(&losses),
            After::Validation => {}
        }
        let z = softmax(&view.of(&self.memory.xi));
        weights(&z, &view.losses, self.settings.least_loss).0
    }

    fn observe(&mut self, seen: &Seen) {
        match self.after {
            After::SameBatch => {
                self.learn(&seen.again);
                self.memory.before.fill(None);
            }
            After::NextBatch => {}
            After::Validation => self.follow(&seen.validation),
        }
    }

    fn figures(&self) -> Vec<Figure> {
        vec![Figure::per_task("logit", &self.memory.xi)]
    }

    fn state(&self) -> Value {
        self.memory.save()
    }

    fn restore(&mut self, state: &Value) -> Result<(), String> {
        self.memory = Logits::load(state, self.memory.xi.len())?;
        Ok(())
    }
}
