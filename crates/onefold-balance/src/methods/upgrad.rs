//! UPGrad: unconflicting projection of gradients (Quinton & Rey, arXiv 2406.16232).
//!
//! Each gᵢ is projected onto the cone {d: ⟨d, gⱼ⟩ ≥ 0 for all j}, and d is the mean of the projections. The projection of gᵢ is Σ vⱼ gⱼ with
//! v = argmin ½ vᵀAv over v ≥ eᵢ; with x = v − eᵢ that is a program over nonnegative numbers, solved exactly
//! ([`crate::numeric::nonnegative`]) on unit gradients (the cone does not depend on lengths). Among the published methods the one
//! whose step hurts no task and is linear in each gradient's length.

use super::by_gramian::{ByGramian, LENGTH, Solver, UPDATE_EVERY};
use super::{Cost, Method};
use crate::numeric::{Matrix, nonnegative};
use crate::rule::View;

/// The table entry.
pub static UPGRAD: Method = Method {
    name: "upgrad",
    aliases: &[],
    summary: "the mean of the gradients, each projected so that it hurts no task",
    source: "arXiv 2406.16232",
    cost: Cost::Backward,
    validation: false,
    task_weights: false,
    simplex: false,
    params: &[LENGTH, UPDATE_EVERY],
    build: |context| Ok(ByGramian::rule(context, UpGrad)),
};

#[derive(Debug)]
struct UpGrad;

/// The coefficients of the projection of each gradient, in its row.
pub fn projections(gramian: &Matrix) -> Vec<Vec<f64>> {
    let (lengths, cosines) = gramian.cosines();
    let k = lengths.len();
    let projection = |i: usize| {
        let against: Vec<f64> = cosines.row(i).iter().map(|cosine| -cosine).collect();
        let mut v = nonnegative::minimise(&cosines, &against);
        v[i] += 1.0;
        // From unit vectors to the gradients, of which the i-th is projected.
        (0..k).map(|j| v[j] * (lengths[i] / lengths[j])).collect()
    };
    (0..k).map(projection).collect()
}

impl Solver for UpGrad {
    fn sums(&self) -> bool {
        false
    }

    fn coefficients(&mut self, _: &View<'_>, gramian: &Matrix) -> Vec<f64> {
        let rows = projections(gramian);
        let k = rows.len();
        (0..k).map(|j| rows.iter().map(|row| row[j]).sum::<f64>() / k as f64).collect()
    }
}
