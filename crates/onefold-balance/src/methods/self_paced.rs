//! Self-paced weights of MFTCoder 0.3 and 0.4 (Liu et al., KDD 2024, arXiv 2311.02303), before it had CoBa.
//!
//! With sᵢ the least-squares slope of a task's last N validation losses: u = K s/Σ|s|, q = softmax(u) ⊙ (−u), w = softmax(50 q). Uniform
//! until the history is full, and if all slopes are zero. Not monotone in a task's speed and abrupt at 50: for comparison
//! rather than for use.
//!
//! Ours: x is the number of the sample also where a task was absent from some (the original compresses it).

use onefold_runtime::params::{Default, Kind};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::VecDeque;

use super::{COUNT, Cost, Method, POSITIVE};
use crate::contract::{Figure, Needs};
use crate::numeric::slope::least_squares;
use crate::numeric::vector::{normalised, ratio_or_zero, scaled, softmax, uniform};
use crate::rule::{Memory, Rule, Seen, View, lengths};
use crate::settings::Param;

/// The table entry.
pub static SELF_PACED: Method = Method {
    name: "self_paced",
    aliases: &["selfpaced"],
    summary: "MFTCoder's weights from slopes of validation losses, before CoBa",
    source: "arXiv 2311.02303",
    cost: Cost::Forward,
    validation: true,
    task_weights: false,
    simplex: true,
    params: &[
        Param {
            name: "window",
            kind: Kind::Integer { min: 2, max: i64::MAX },
            default: Default::Number(100.0),
            help: "validation batches that a slope is taken over; before so many, weights are uniform",
        },
        Param {
            name: "sharpness",
            kind: POSITIVE,
            default: Default::Number(50.0),
            help: "factor before the last softmax",
        },
        Param {
            name: "interval",
            kind: COUNT,
            default: Default::Number(1.0),
            help: "steps from one validation batch to the next",
        },
    ],
    build: |context| {
        let k = context.k();
        let memory = History { rows: VecDeque::new(), slopes: vec![0.0; k], weights: uniform(k) };
        Ok(Box::new(SelfPaced { settings: context.typed(), memory }))
    },
};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Settings {
    window: usize,
    sharpness: f64,
    interval: u64,
}

#[derive(Debug)]
struct SelfPaced {
    settings: Settings,
    memory: History,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct History {
    rows: VecDeque<Vec<Option<f64>>>,
    slopes: Vec<f64>,
    weights: Vec<f64>,
}

impl Memory for History {
    fn check(&self, tasks: usize) -> Result<(), String> {
        self.rows.iter().try_for_each(|row| lengths(tasks, &[row.len()]))?;
        lengths(tasks, &[self.slopes.len(), self.weights.len()])
    }
}

/// Weights from the slopes of the tasks.
pub fn weights(slopes: &[f64], sharpness: f64) -> Vec<f64> {
    let sum: f64 = slopes.iter().map(|s| s.abs()).sum();
    let u: Vec<f64> = slopes.iter().map(|s| ratio_or_zero(slopes.len() as f64 * s, sum)).collect();
    let q: Vec<f64> = softmax(&u).iter().zip(&u).map(|(share, u)| share * -u).collect();
    softmax(&scaled(&q, sharpness))
}

impl Rule for SelfPaced {
    fn needs(&self, step: u64) -> Needs {
        let validation = (step % self.settings.interval) + 1 == self.settings.interval;
        Needs { validation, ..Needs::default() }
    }

    fn weights(&mut self, view: &View<'_>) -> Vec<f64> {
        normalised(&view.of(&self.memory.weights))
    }

    fn observe(&mut self, seen: &Seen) {
        if seen.validation.iter().all(Option::is_none) {
            return;
        }
        let memory = &mut self.memory;
        memory.rows.push_back(seen.validation.clone());
        if memory.rows.len() > self.settings.window {
            memory.rows.pop_front();
        }
        if memory.rows.len() == self.settings.window {
            let slope = |task: usize| {
                let point = |(x, row): (usize, &Vec<Option<f64>>)| row[task].map(|loss| (x as f64, loss));
                least_squares(&memory.rows.iter().enumerate().filter_map(point).collect::<Vec<_>>())
            };
            memory.slopes = (0..memory.slopes.len()).map(slope).collect();
            memory.weights = weights(&memory.slopes, self.settings.sharpness);
        }
    }

    fn figures(&self) -> Vec<Figure> {
        vec![Figure::per_task("slope", &self.memory.slopes)]
    }

    fn state(&self) -> Value {
        self.memory.save()
    }

    fn restore(&mut self, state: &Value) -> Result<(), String> {
        self.memory = History::load(state, self.memory.slopes.len())?;
        Ok(())
    }
}
