//! DWA: dynamic weight average (Liu, Johns, Davison, CVPR 2019, arXiv 1803.10704, equation 7).
//!
//! w = K·softmax(r/T) with rᵢ = L̄ᵢ(e−1)/L̄ᵢ(e−2) on mean losses of epochs; all 1 in the first two. Slow tasks get more.
//! By default the weights sum to one.
//!
//! Ours: `period` counts some steps as an epoch, for fine-tuning takes few; a task without a loss in an epoch has r = 1.

use onefold_runtime::params::Default;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Cost, Method, PERIOD, POSITIVE, Periods, SCALE};
use crate::contract::{Figure, Losses, Needs};
use crate::numeric::vector::{scaled, softmax};
use crate::rule::{Memory, Rule, Scale, Seen, View, lengths};
use crate::settings::Param;

/// The table entry.
pub static DWA: Method = Method {
    name: "dwa",
    aliases: &[],
    summary: "more weight where the loss fell least from epoch to epoch",
    source: "arXiv 1803.10704",
    cost: Cost::Nothing,
    validation: false,
    task_weights: false,
    simplex: true,
    params: &[
        Param {
            name: "temperature",
            kind: POSITIVE,
            default: Default::Number(2.0),
            help: "the higher, the more uniform",
        },
        PERIOD,
        SCALE,
    ],
    build: |context| {
        let memory = Epochs::new(context.k());
        Ok(Box::new(Dwa { settings: context.typed(), memory }))
    },
};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Settings {
    temperature: f64,
    period: Option<Periods>,
    scale: Scale,
}

#[derive(Debug)]
struct Dwa {
    settings: Settings,
    memory: Epochs,
}

/// Mean losses by epoch.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Epochs {
    epoch: u64,
    /// Of this epoch: sum and number of losses.
    sums: Vec<(f64, u64)>,
    /// Means of the epochs before, the latest first.
    last: Vec<Option<f64>>,
    before: Vec<Option<f64>>,
}

impl Epochs {
    fn new(tasks: usize) -> Self {
        Self { epoch: 0, sums: vec![(0.0, 0); tasks], last: vec![None; tasks], before: vec![None; tasks] }
    }

    /// Closes the running epoch if another has begun.
    fn turn(&mut self, epoch: u64) {
        if epoch != self.epoch {
            let mean = |(sum, count): &(f64, u64)| (*count > 0).then(|| sum / *count as f64);
            self.before = std::mem::replace(&mut self.last, self.sums.iter().map(mean).collect());
            self.sums.fill((0.0, 0));
            self.epoch = epoch;
        }
    }

    fn add(&mut self, losses: &[Option<f64>]) {
        for ((sum, count), loss) in self.sums.iter_mut().zip(losses) {
            if let Some(loss) = loss {
                (*sum, *count) = (*sum + loss, count.saturating_add(1));
            }
        }
    }

    /// L̄(e−1)/L̄(e−2).
    fn ratios(&self) -> Vec<f64> {
        let ratio = |(last, before): (&Option<f64>, &Option<f64>)| match (last, before) {
            (Some(last), Some(before)) if last / before >= 0.0 && (last / before).is_finite() => {
                last / before
            }
            _ => 1.0,
        };
        self.last.iter().zip(&self.before).map(ratio).collect()
    }
}

impl Memory for Epochs {
    fn check(&self, tasks: usize) -> Result<(), String> {
        lengths(tasks, &[self.sums.len(), self.last.len(), self.before.len()])
    }
}

/// `K·softmax(r/T)`.
pub fn weights(ratios: &[f64], temperature: f64) -> Vec<f64> {
    let logits: Vec<f64> = ratios.iter().map(|ratio| ratio / temperature).collect();
    scaled(&softmax(&logits), ratios.len() as f64)
}

impl Rule for Dwa {
    fn needs(&self, _: u64) -> Needs {
        Needs { losses: Losses::After, ..Needs::default() }
    }

    fn weights(&mut self, view: &View<'_>) -> Vec<f64> {
        self.memory.turn(Periods::number(self.settings.period, view.step, view.epoch));
        let weights = weights(&self.memory.ratios(), self.settings.temperature);
        self.settings.scale.apply(view.of(&weights))
    }

    fn observe(&mut self, seen: &Seen) {
        self.memory.add(&seen.losses);
    }

    fn figures(&self) -> Vec<Figure> {
        vec![Figure::per_task("ratio", &self.memory.ratios())]
    }

    fn state(&self) -> Value {
        self.memory.save()
    }

    fn restore(&mut self, state: &Value) -> Result<(), String> {
        self.memory = Epochs::load(state, self.memory.sums.len())?;
        Ok(())
    }
}
