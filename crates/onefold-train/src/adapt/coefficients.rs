//! The coefficients, and how they move.
//!
//! With g = ∂L/∂λ of what is used, a step of Adam moves what is learnt. By default the two are the same, held to [0, 1] after the
//! step. Held to it in the forward pass, λ used is `clamp(λ)`, whose gradient is g inside and 0 outside; normalised, it is
//! softmax(r) over the experts, and `∂L/∂r_k = λ_k·(g_k − Σ_j λ_j g_j)`.

use serde::{Deserialize, Serialize};

use super::settings::{Adam, Clamp, Settings};

/// What is learnt: for each group of tensors a number per expert, with Adam's moments.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Coefficients {
    /// `[group][expert]`.
    values: Vec<Vec<f64>>,
    first: Vec<Vec<f64>>,
    second: Vec<Vec<f64>>,
    steps: u64,
}

impl Coefficients {
    /// Coefficients that are used as `start` says; normalised ones as far as a softmax can be so.
    pub(super) fn new(start: Vec<Vec<f64>>, settings: &Settings) -> Self {
        let zeros: Vec<Vec<f64>> = start.iter().map(|group| vec![0.0; group.len()]).collect();
        let values = match settings.normalise {
            // The softmax of logarithms are the numbers over their sum.
            true => start.iter().map(|group| group.iter().map(|v| v.max(1e-12).ln()).collect()).collect(),
            false => start,
        };
        Self { values, first: zeros.clone(), second: zeros, steps: 0 }
    }

    /// Groups and experts.
    pub(super) fn shape(&self) -> (usize, usize) {
        (self.values.len(), self.values.first().map_or(0, Vec::len))
    }

    /// The coefficients as they multiply task vectors: `[group][expert]`.
    pub(super) fn used(&self, settings: &Settings) -> Vec<Vec<f64>> {
        let of = |group: &Vec<f64>| match (settings.normalise, settings.clamp) {
            (true, _) => softmax(group),
            (false, Clamp::Forward) => group.iter().map(|v| v.clamp(0.0, 1.0)).collect(),
            (false, _) => group.clone(),
        };
        self.values.iter().map(of).collect()
    }

    /// Moves against `gradients`, those of what is used.
    pub(super) fn step(&mut self, gradients: &[Vec<f64>], settings: &Settings) {
        let Adam { lr, betas: [b1, b2], epsilon } = settings.adam;
        self.steps += 1;
        let t = self.steps as f64;
        let (c1, c2) = (1.0 - b1.powf(t), 1.0 - b2.powf(t));
        for (group, used) in gradients.iter().enumerate() {
            let learnt = of_learnt(&self.values[group], used, settings);
            for (k, g) in learnt.into_iter().enumerate() {
                let (m, v) = (&mut self.first[group][k], &mut self.second[group][k]);
                *m = b1 * *m + (1.0 - b1) * g;
                *v = b2 * *v + (1.0 - b2) * g * g;
                let value = &mut self.values[group][k];
                *value -= lr * (*m / c1) / ((*v / c2).sqrt() + epsilon);
                if settings.clamp == Clamp::Project && !settings.normalise {
                    *value = value.clamp(0.0, 1.0);
                }
            }
        }
    }

    /// Whether a saved state is of the same shape and of numbers.
    pub(super) fn fits(&self, other: &Self) -> bool {
        let shape = |rows: &[Vec<f64>]| rows.iter().map(Vec::len).collect::<Vec<_>>();
        let all = [&other.values, &other.first, &other.second];
        all.iter().all(|rows| {
            shape(rows) == shape(&self.values) && rows.iter().flatten().all(|value| value.is_finite())
        })
    }
}

/// The gradient of what is learnt from that of what is used.
fn of_learnt(values: &[f64], gradient: &[f64], settings: &Settings) -> Vec<f64> {
    if settings.normalise {
        let used = softmax(values);
        let mean: f64 = used.iter().zip(gradient).map(|(l, g)| l * g).sum();
        return used.iter().zip(gradient).map(|(l, g)| l * (g - mean)).collect();
    }
    let inside = |v: &f64| settings.clamp != Clamp::Forward || (0.0..=1.0).contains(v);
    values.iter().zip(gradient).map(|(v, g)| if inside(v) { *g } else { 0.0 }).collect()
}

fn softmax(values: &[f64]) -> Vec<f64> {
    let most = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let powers: Vec<f64> = values.iter().map(|v| (v - most).exp()).collect();
    let sum: f64 = powers.iter().sum();
    powers.into_iter().map(|p| p / sum).collect()
}
