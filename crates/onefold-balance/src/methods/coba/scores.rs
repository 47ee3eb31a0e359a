//! The formulas of CoBa, from slopes to weights.

use serde::{Deserialize, Serialize};
use std::collections::VecDeque;

use crate::numeric::vector::{ratio_or_zero, scaled, softmax};

/// What a decision was made of: for logs, and the weights until the next.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scores {
    /// Relative convergence scores.
    pub rcs: Vec<f64>,
    /// Absolute convergence scores.
    pub acs: Vec<f64>,
    /// Divergence factor.
    pub df: f64,
    /// ω, of all tasks.
    pub weights: Vec<f64>,
}

/// RCS of the tasks' slopes.
pub fn relative(slopes: &[f64]) -> Vec<f64> {
    let sum: f64 = slopes.iter().map(|a| a.abs()).sum();
    let k = slopes.len() as f64;
    softmax(&slopes.iter().map(|a| k * ratio_or_zero(*a, sum)).collect::<Vec<_>>())
}

/// ACS of the recorded slopes, a row for each sample, the latest last.
pub fn absolute(recorded: &VecDeque<Vec<f64>>) -> Vec<f64> {
    let Some(latest) = recorded.back() else { return Vec::new() };
    let logit = |(task, a): (usize, &f64)| {
        let sum: f64 = recorded.iter().map(|row| row[task].abs()).sum();
        -(recorded.len() as f64) * ratio_or_zero(*a, sum)
    };
    softmax(&latest.iter().enumerate().map(logit).collect::<Vec<_>>())
}

/// DF of the recorded α_max, the latest last; not clipped. 1 of none.
pub fn divergence_factor(steepest: &VecDeque<f64>, tau: f64) -> f64 {
    let n = steepest.len() as f64;
    let sum: f64 = steepest.iter().map(|a| a.abs()).sum();
    let logits: Vec<f64> = steepest.iter().map(|a| -tau * n * ratio_or_zero(*a, sum)).collect();
    softmax(&logits).last().map_or(1.0, |share| n * share)
}

/// `DF·RCS + (1 − DF)·ACS`.
pub fn mixed(rcs: &[f64], acs: &[f64], df: f64) -> Vec<f64> {
    rcs.iter().zip(acs).map(|(rcs, acs)| df * rcs + (1.0 - df) * acs).collect()
}

/// The code's additional `softmax(K·ω)`.
pub fn sharpened(weights: &[f64]) -> Vec<f64> {
    softmax(&scaled(weights, weights.len() as f64))
}

/// `ω(1 − mK) + m` if any weight is below m.
pub fn floored(weights: &[f64], least: f64) -> Vec<f64> {
    if weights.iter().all(|w| *w >= least) {
        return weights.to_vec();
    }
    let k = weights.len() as f64;
    weights.iter().map(|w| w * (1.0 - least * k) + least).collect()
}
