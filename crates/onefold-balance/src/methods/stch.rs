//! STCH: smooth Tchebycheff scalarisation (Lin et al., ICML 2024, arXiv 2402.19078), as LibMTL's authors train with it.
//!
//! After a warm-up on Σ ln Lᵢ the loss is K·μ·ln Σ exp(ln(Lᵢ/nadirᵢ)/μ): weights wᵢ = K·softmax(ln(L/nadir)/μ)ᵢ/Lᵢ. The nadir is the mean
//! loss of the epoch that follows the warm-up, which is still trained as the warm-up was.
//!
//! Ours: `period` counts some steps as an epoch; weights are divided by their sum by default; a task that was not seen in that
//! epoch has its first loss afterwards for a nadir.

use onefold_runtime::params::{Default, Kind};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Cost, Method, PERIOD, POSITIVE, Periods, SCALE};
use crate::contract::{Figure, Losses, Needs, Values};
use crate::numeric::vector::softmax;
use crate::rule::{Memory, Rule, Scale, View, lengths};
use crate::settings::Param;

/// The table entry.
pub static STCH: Method = Method {
    name: "stch",
    aliases: &["tchebycheff"],
    summary: "a smooth maximum of the losses against their early means",
    source: "arXiv 2402.19078",
    cost: Cost::Nothing,
    validation: false,
    task_weights: false,
    simplex: true,
    params: &[
        Param {
            name: "mu",
            kind: POSITIVE,
            default: Default::Number(1.0),
            help: "smoothness: the smaller, the more the worst task counts alone",
        },
        Param {
            name: "warmup",
            kind: Kind::Integer { min: 0, max: i64::MAX },
            default: Default::Number(4.0),
            help: "epochs of the logarithmic loss before the one that sets the nadir",
        },
        PERIOD,
        SCALE,
    ],
    build: |context| {
        let memory = Nadir { sums: vec![(0.0, 0); context.k()], late: vec![None; context.k()] };
        Ok(Box::new(Stch { settings: context.typed(), memory }))
    },
};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Settings {
    mu: f64,
    warmup: u64,
    period: Option<Periods>,
    scale: Scale,
}

#[derive(Debug)]
struct Stch {
    settings: Settings,
    memory: Nadir,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Nadir {
    /// Of the epoch after the warm-up: sum and number of losses.
    sums: Vec<(f64, u64)>,
    /// Of tasks first seen after it.
    late: Vec<Option<f64>>,
}

impl Memory for Nadir {
    fn check(&self, tasks: usize) -> Result<(), String> {
        let count = self.sums.iter().all(|(sum, count)| *count == 0 || *sum > 0.0);
        lengths(tasks, &[self.sums.len(), self.late.len()])?;
        if count { Ok(()) } else { Err("a nadir that is not positive".to_owned()) }
    }
}

impl Nadir {
    fn of(&self, task: usize) -> Option<f64> {
        let (sum, count) = self.sums[task];
        if count > 0 { Some(sum / count as f64) } else { self.late[task] }
    }
}

/// `K·softmax(ln(L/nadir)/μ)/L`; losses and nadirs are positive.
pub fn weights(losses: &[f64], nadirs: &[f64], mu: f64) -> Vec<f64> {
    let logits: Vec<f64> =
        losses.iter().zip(nadirs).map(|(loss, nadir)| (loss.ln() - nadir.ln()) / mu).collect();
    let k = losses.len() as f64;
    softmax(&logits).iter().zip(losses).map(|(share, loss)| k * share / loss).collect()
}

impl Stch {
    /// The losses of the epoch that sets the nadir.
    fn collect(&mut self, view: &View<'_>) {
        for (task, loss) in view.tasks.iter().zip(&view.losses) {
            let (sum, count) = &mut self.memory.sums[*task];
            (*sum, *count) = (*sum + loss, count.saturating_add(1));
        }
    }

    fn nadirs(&mut self, view: &View<'_>) -> Vec<f64> {
        let nadir = |(task, loss): (&usize, &f64)| match self.memory.of(*task) {
            Some(nadir) => nadir,
            None => *self.memory.late[*task].insert(*loss),
        };
        view.tasks.iter().zip(&view.losses).map(nadir).collect()
    }
}

impl Rule for Stch {
    fn needs(&self, _: u64) -> Needs {
        Needs { losses: Losses::Before, positive: true, ..Needs::default() }
    }

    fn weights(&mut self, view: &View<'_>) -> Vec<f64> {
        let epoch = Periods::number(self.settings.period, view.step, view.epoch);
        if epoch == self.settings.warmup {
            self.collect(view);
        }
        let weights = if epoch <= self.settings.warmup {
            super::scale_invariant::weights(&view.losses)
        } else {
            weights(&view.losses, &self.nadirs(view), self.settings.mu)
        };
        self.settings.scale.apply(weights)
    }

    fn figures(&self) -> Vec<Figure> {
        let nadirs = (0..self.memory.sums.len()).map(|task| self.memory.of(task)).collect();
        vec![Figure { name: "nadir", values: Values::PerTask(nadirs) }]
    }

    fn state(&self) -> Value {
        self.memory.save()
    }

    fn restore(&mut self, state: &Value) -> Result<(), String> {
        self.memory = Nadir::load(state, self.memory.sums.len())?;
        Ok(())
    }
}
