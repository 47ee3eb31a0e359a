//! ExcessMTL: robust multi-task learning with excess risks (He et al., ICML 2024, arXiv 2402.02009).
//!
//! The excess risk of a task is estimated by eᵢ = Σ g²/√(h + 1e-7), the gradient in the metric of its own running squares h = Σ_s g_s²
//! (diagonal, as the authors have it). Each step multiplies wᵢ by exp(η·eᵢ/eᵢ(first)): tasks that still have far to go get more.
//! Published with Σw = K; here they sum to one by default. The squares lie with the trainer ([`crate::kernels::excess`]).

use onefold_runtime::params::Default;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Cost, Method, POSITIVE, SCALE};
use crate::contract::{Figure, Gradients, Needs};
use crate::numeric::vector::{scaled, softmax};
use crate::rule::{Memory, Rule, Scale, View, lengths};
use crate::settings::Param;

/// The table entry.
pub static EXCESS_MTL: Method = Method {
    name: "excess_mtl",
    aliases: &["excessmtl", "excess"],
    summary: "more weight to tasks far from their optimum, by their gradients",
    source: "arXiv 2402.02009",
    cost: Cost::Sums,
    validation: false,
    task_weights: false,
    simplex: true,
    params: &[
        Param {
            name: "robust_step",
            kind: POSITIVE,
            default: Default::Number(0.01),
            help: "step size of the weights",
        },
        SCALE,
    ],
    build: |context| {
        let memory = Risks { first: vec![None; context.k()], logits: vec![0.0; context.k()] };
        Ok(Box::new(ExcessMtl { settings: context.typed(), memory }))
    },
};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Settings {
    robust_step: f64,
    scale: Scale,
}

#[derive(Debug)]
struct ExcessMtl {
    settings: Settings,
    memory: Risks,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Risks {
    /// e of each task when it was first seen.
    first: Vec<Option<f64>>,
    /// Logarithms of the weights, but for a constant.
    logits: Vec<f64>,
}

impl Memory for Risks {
    fn check(&self, tasks: usize) -> Result<(), String> {
        lengths(tasks, &[self.first.len(), self.logits.len()])
    }
}

impl Rule for ExcessMtl {
    fn needs(&self, _: u64) -> Needs {
        Needs { gradients: Gradients::Excess, ..Needs::default() }
    }

    fn weights(&mut self, view: &View<'_>) -> Vec<f64> {
        for (task, excess) in view.tasks.iter().zip(&view.excess) {
            let first = *self.memory.first[*task].get_or_insert(*excess);
            self.memory.logits[*task] += self.settings.robust_step * excess / first;
        }
        // Only differences count; without this the logits would grow for ever.
        let largest = self.memory.logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        self.memory.logits.iter_mut().for_each(|logit| *logit -= largest);
        let shares = softmax(&self.memory.logits);
        let k = shares.len() as f64;
        self.settings.scale.apply(view.of(&scaled(&shares, k)))
    }

    fn figures(&self) -> Vec<Figure> {
        vec![Figure::per_task("logit", &self.memory.logits)]
    }

    fn state(&self) -> Value {
        self.memory.save()
    }

    fn restore(&mut self, state: &Value) -> Result<(), String> {
        self.memory = Risks::load(state, self.memory.logits.len())?;
        Ok(())
    }
}
