//! GradDrop: gradient sign dropout (Chen et al., NeurIPS 2020, arXiv 2010.06808).
//!
//! Of each element, with P = ½(1 + Σg/Σ|g|) over tasks and a uniform u: positive gradients stay if u < P, negative ones if u > P, the others are
//! reduced to `leak` of themselves, and the rest is summed; by default the mean is taken.
//!
//! The authors apply it to the gradient of a shared representation times the sign of that representation, summed over the batch:
//! [`crate::kernels::kept_sum`] has both. Tasks of a language model share no representation of the same rows, so the balancer applies
//! it to the gradients of the shared parameters, as the paper's section on general use has it. u is a function of seed, step, tensor and
//! element.

use onefold_runtime::params::{Default, Kind};
use serde::Deserialize;

use super::{Cost, Method};
use crate::contract::{Gradients, Needs};
use crate::kernels::Dropping;
use crate::rule::{Rule, Scale, View};
use crate::settings::Param;

/// The table entry.
pub static GRADDROP: Method = Method {
    name: "graddrop",
    aliases: &["gradient_sign_dropout"],
    summary: "element by element one sign of the gradients, drawn by its share",
    source: "arXiv 2010.06808",
    cost: Cost::Backward,
    validation: false,
    task_weights: false,
    simplex: true,
    params: &[
        Param {
            name: "leak",
            kind: Kind::Number { min: 0.0, max: 1.0, min_open: false },
            default: Default::Number(0.0),
            help: "share of a dropped gradient that passes",
        },
        Param {
            name: "scale",
            kind: Kind::Choice(&["mean", "paper"]),
            default: Default::Choice("mean"),
            help: "the mean over the tasks present, or the published sum",
        },
    ],
    build: |context| {
        let Settings { leak, scale } = context.typed();
        Ok(Box::new(GradDrop { leak, scale, seed: context.seed }))
    },
};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Settings {
    leak: f64,
    scale: Scale,
}

#[derive(Debug)]
struct GradDrop {
    leak: f64,
    scale: Scale,
    seed: u64,
}

impl Rule for GradDrop {
    fn needs(&self, _: u64) -> Needs {
        Needs { gradients: Gradients::Elements, ..Needs::default() }
    }

    /// What the tasks' own parameters take; the shared ones take the combination.
    fn weights(&mut self, view: &View<'_>) -> Vec<f64> {
        self.scale.apply(vec![1.0; view.tasks.len()])
    }

    fn combiner(&self, step: u64) -> Option<Dropping> {
        let mean = self.scale == Scale::Mean;
        Some(Dropping { seed: self.seed, step, leak: self.leak, mean })
    }
}
