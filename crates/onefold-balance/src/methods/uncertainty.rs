//! Uncertainty weighting (Kendall, Gal, Cipolla, CVPR 2018, arXiv 1705.07115).
//!
//! The step's loss is Σ Lᵢ/(2e^{sᵢ}) + sᵢ/2 with learned log-variances s: wᵢ = 1/(2e^{sᵢ}), and ∂/∂sᵢ = ½ − Lᵢ/(2e^{sᵢ}). At
//! rest e^{sᵢ} = Lᵢ, so a task counts by 1/Lᵢ.
//!
//! Published with the model's optimiser for s; here s has an Adam of its own, because the rates that fine-tuning takes would not
//! move it in a few thousand steps. By default the weights are divided by their sum, which does not change the gradient of s.

use onefold_runtime::params::{Default, Kind};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Cost, Method, POSITIVE, SCALE};
use crate::contract::{Figure, Losses, Needs};
use crate::numeric::adam::Adam;
use crate::rule::{Memory, Rule, Scale, Seen, View, lengths};
use crate::settings::Param;

/// The table entry.
pub static UNCERTAINTY: Method = Method {
    name: "uncertainty",
    aliases: &["uw"],
    summary: "learned variances: less weight to tasks that stay uncertain",
    source: "arXiv 1705.07115",
    cost: Cost::Nothing,
    validation: false,
    task_weights: false,
    simplex: true,
    params: &[
        Param {
            name: "lr",
            kind: POSITIVE,
            default: Default::Number(0.01),
            help: "learning rate of the log-variances",
        },
        Param {
            name: "initial",
            kind: Kind::Number { min: -30.0, max: 30.0, min_open: false },
            default: Default::Number(-0.5),
            help: "log-variance of every task at the beginning",
        },
        SCALE,
    ],
    build: |context| {
        let settings: Settings = context.typed();
        let memory = vec![LogVariance { s: settings.initial, adam: Adam::default() }; context.k()];
        Ok(Box::new(Uncertainty { settings, memory: LogVariances(memory) }))
    },
};

/// Beyond these a weight differs from the others by more than any training can use.
const BOUND: f64 = 60.0;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Settings {
    lr: f64,
    initial: f64,
    scale: Scale,
}

#[derive(Debug)]
struct Uncertainty {
    settings: Settings,
    memory: LogVariances,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct LogVariances(Vec<LogVariance>);

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct LogVariance {
    s: f64,
    adam: Adam,
}

impl Memory for LogVariances {
    fn check(&self, tasks: usize) -> Result<(), String> {
        lengths(tasks, &[self.0.len()])
    }
}

/// `1/(2e^s)`.
pub fn weight(s: f64) -> f64 {
    0.5 * (-s).exp()
}

/// `½ − L/(2e^s)`.
pub fn slope(loss: f64, s: f64) -> f64 {
    0.5 - loss * weight(s)
}

impl Rule for Uncertainty {
    fn needs(&self, _: u64) -> Needs {
        Needs { losses: Losses::After, ..Needs::default() }
    }

    fn weights(&mut self, view: &View<'_>) -> Vec<f64> {
        let weights: Vec<f64> = view.of(&self.memory.0).iter().map(|v| weight(v.s)).collect();
        self.settings.scale.apply(weights)
    }

    fn observe(&mut self, seen: &Seen) {
        for (variance, loss) in self.memory.0.iter_mut().zip(&seen.losses) {
            if let Some(loss) = loss {
                let step = variance.adam.step(slope(*loss, variance.s), self.settings.lr);
                variance.s = (variance.s + step).clamp(-BOUND, BOUND);
            }
        }
    }

    fn figures(&self) -> Vec<Figure> {
        vec![Figure::per_task("log_variance", &self.memory.0.iter().map(|v| v.s).collect::<Vec<_>>())]
    }

    fn state(&self) -> Value {
        self.memory.save()
    }

    fn restore(&mut self, state: &Value) -> Result<(), String> {
        self.memory = LogVariances::load(state, self.memory.0.len())?;
        Ok(())
    }
}
