//! GradNorm (Chen et al., ICML 2018, arXiv 1711.02257, algorithm 1), and GradNorm*, whose loss ratios come from validation rows
//! (as in the comparison of CoBa, arXiv 2410.06741).
//!
//! With Gᵢ = ‖wᵢ gᵢ‖ on one layer, Ḡ their mean, L̃ᵢ = Lᵢ/Lᵢ(0), rᵢ = L̃ᵢ/mean(L̃): the targets Ḡ rᵢ^α are held constant and w descends
//! on Σ|Gᵢ − Ḡ rᵢ^α|; then Σw = K. By default what is returned is w/K. The weights of a step come from the steps before it, so its
//! losses and norms are needed at its end only.
//!
//! `parameters: softmax` is LibMTL's form, w = K·softmax(s). Ours: w stays above 1e-3 (the published descent may lead to negative
//! weights); absent tasks keep their w, but for the common factor; Lᵢ(0) is the task's first loss. GradNorm* takes the latest
//! validation loss by that before training; its details are not published.

use onefold_runtime::params::{Default, Kind};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Cost, Method, NOT_NEGATIVE, POSITIVE, SCALE};
use crate::contract::{Figure, Gradients, Losses, Needs};
use crate::numeric::vector::{dot, mean, scaled, softmax};
use crate::rule::{Memory, Rule, Scale, Seen, View, lengths};
use crate::settings::{Context, Param};

const PARAMS: &[Param] = &[
    Param {
        name: "alpha",
        kind: NOT_NEGATIVE,
        default: Default::Number(1.5),
        help: "how strongly slow tasks are favoured; 0 makes all gradients equally long",
    },
    Param {
        name: "lr",
        kind: POSITIVE,
        default: Default::Number(0.025),
        help: "learning rate of the weights",
    },
    Param {
        name: "parameters",
        kind: Kind::Choice(&["weights", "softmax"]),
        default: Default::Choice("weights"),
        help: "what is learnt: the weights, or their logits",
    },
    SCALE,
];

/// The table entry.
pub static GRADNORM: Method = Method {
    name: "gradnorm",
    aliases: &[],
    summary: "gradients of equal length, longer where a task is slow",
    source: "arXiv 1711.02257",
    cost: Cost::Layer,
    validation: false,
    task_weights: false,
    simplex: true,
    params: PARAMS,
    build: |context| Ok(Box::new(GradNorm::new(context, false))),
};

/// The table entry.
pub static GRADNORM_VALIDATION: Method = Method {
    name: "gradnorm_validation",
    aliases: &["gradnorm*"],
    summary: "as `gradnorm`, by validation losses",
    source: "arXiv 2410.06741",
    cost: Cost::Layer,
    validation: true,
    task_weights: false,
    simplex: true,
    params: PARAMS,
    build: |context| Ok(Box::new(GradNorm::new(context, true))),
};

/// Least weight, where their mean is one.
const LEAST: f64 = 1e-3;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Settings {
    alpha: f64,
    lr: f64,
    parameters: Parameters,
    scale: Scale,
}

#[derive(Debug, PartialEq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Parameters {
    Weights,
    Softmax,
}

#[derive(Debug)]
struct GradNorm {
    settings: Settings,
    validation: bool,
    memory: Balance,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Balance {
    /// Their mean is one.
    weights: Vec<f64>,
    references: Vec<Option<f64>>,
    /// Loss ratios of GradNorm*.
    ratios: Vec<f64>,
}

impl Memory for Balance {
    fn check(&self, tasks: usize) -> Result<(), String> {
        lengths(tasks, &[self.weights.len(), self.references.len(), self.ratios.len()])
    }
}

/// The derivative by each weight of Σ|wᵢ‖gᵢ‖ − targetᵢ|, targets held constant.
pub fn slope(weights: &[f64], norms: &[f64], ratios: &[f64], alpha: f64) -> Vec<f64> {
    let lengths: Vec<f64> = weights.iter().zip(norms).map(|(w, norm)| w * norm).collect();
    let (length, ratio) = (mean(&lengths), mean(ratios));
    let side = |(g, r): (&f64, &f64)| {
        let gap = g - length * (r / ratio).powf(alpha);
        if gap == 0.0 { 0.0 } else { gap.signum() }
    };
    lengths.iter().zip(ratios).map(side).zip(norms).map(|(side, norm)| side * norm).collect()
}

/// The same by s, if w = K·softmax(s).
pub fn softmax_slope(weights: &[f64], slope: &[f64]) -> Vec<f64> {
    let mean = dot(weights, slope) / weights.len() as f64;
    weights.iter().zip(slope).map(|(w, slope)| w * (slope - mean)).collect()
}

impl GradNorm {
    fn new(context: &Context<'_>, validation: bool) -> Self {
        let k = context.k();
        let memory = Balance { weights: vec![1.0; k], references: vec![None; k], ratios: vec![1.0; k] };
        Self { settings: context.typed(), validation, memory }
    }

    /// L̃ of a task, from its training loss of this step or its latest validation loss.
    fn ratio(&mut self, task: usize, loss: Option<f64>) -> Option<f64> {
        if !self.validation {
            let loss = loss?;
            let reference = *self.memory.references[task].get_or_insert(loss);
            self.memory.ratios[task] = (loss / reference).max(1e-100);
        }
        Some(self.memory.ratios[task])
    }

    fn learn(&mut self, seen: &Seen) {
        let measured = |task: usize| {
            let norm = seen.norms[task]?;
            Some((task, norm, self.ratio(task, seen.losses[task])?))
        };
        let measured: Vec<(usize, f64, f64)> = (0..seen.norms.len()).filter_map(measured).collect();
        let tasks: Vec<usize> = measured.iter().map(|m| m.0).collect();
        let norms: Vec<f64> = measured.iter().map(|m| m.1).collect();
        let ratios: Vec<f64> = measured.iter().map(|m| m.2).collect();
        let weights: Vec<f64> = tasks.iter().map(|task| self.memory.weights[*task]).collect();
        let slope = slope(&weights, &norms, &ratios, self.settings.alpha);
        let moved = self.moved(&weights, &slope);
        tasks.iter().zip(moved).for_each(|(task, weight)| self.memory.weights[*task] = weight);
        let sum: f64 = self.memory.weights.iter().sum();
        self.memory.weights = scaled(&self.memory.weights, self.memory.weights.len() as f64 / sum);
    }

    /// The weights after a step against their slope.
    fn moved(&self, weights: &[f64], slope: &[f64]) -> Vec<f64> {
        let lr = self.settings.lr;
        if self.settings.parameters == Parameters::Weights {
            return weights.iter().zip(slope).map(|(w, slope)| (w - lr * slope).max(LEAST)).collect();
        }
        let slope = softmax_slope(weights, slope);
        let logits: Vec<f64> = weights.iter().zip(slope).map(|(w, slope)| w.ln() - lr * slope).collect();
        scaled(&softmax(&logits), weights.iter().sum()).iter().map(|w| w.max(LEAST)).collect()
    }
}

impl Rule for GradNorm {
    fn needs(&self, _: u64) -> Needs {
        let reference = self.validation && self.memory.references.contains(&None);
        let losses = if self.validation { Losses::Unneeded } else { Losses::After };
        let positive = !self.validation;
        Needs {
            losses,
            gradients: Gradients::Norms,
            validation: self.validation,
            reference,
            positive,
            ..Needs::default()
        }
    }

    fn begin(&mut self, validation: &[f64]) {
        self.memory.references = validation.iter().map(|loss| Some(loss.max(1e-12))).collect();
    }

    fn weights(&mut self, view: &View<'_>) -> Vec<f64> {
        self.settings.scale.apply(view.of(&self.memory.weights))
    }

    fn observe(&mut self, seen: &Seen) {
        for (task, loss) in seen.validation.iter().enumerate() {
            if let (Some(loss), Some(reference)) = (loss, self.memory.references[task]) {
                self.memory.ratios[task] = (loss / reference).max(1e-100);
            }
        }
        self.learn(seen);
    }

    fn figures(&self) -> Vec<Figure> {
        vec![Figure::per_task("ratio", &self.memory.ratios)]
    }

    fn state(&self) -> Value {
        self.memory.save()
    }

    fn restore(&mut self, state: &Value) -> Result<(), String> {
        self.memory = Balance::load(state, self.memory.weights.len())?;
        Ok(())
    }
}
