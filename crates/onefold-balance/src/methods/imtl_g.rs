//! IMTL-G: impartial multi-task learning, the gradient part (Liu et al., ICLR 2021).
//!
//! The α with Σα = 1 whose d = Σ αᵢ gᵢ has the same projection on every unit gradient uᵢ. The authors solve a system of differences
//! from the first task; in cosines C = ⟨uᵢ, uⱼ⟩ it is C y = 1, αᵢ ∝ yᵢ/‖gᵢ‖, which does not single one out.
//!
//! Coefficients may be negative. Σ yᵢ/‖gᵢ‖ may be too; dividing by it would turn d against all tasks, so then Σ|α| = 1 (ours). Linearly
//! dependent gradients get 1e-8 of their own on the diagonal: copies of a task share its weight, opposites cancel. IMTL-L, the
//! learned rescaling of losses, is left out: the direction does not depend on it.

use super::by_gramian::{ByGramian, LENGTH, Solver, UPDATE_EVERY};
use super::{Cost, Method};
use crate::numeric::Matrix;
use crate::numeric::solve::{dependent, solve};
use crate::numeric::vector::scaled;
use crate::rule::View;

/// The table entry.
pub static IMTL_G: Method = Method {
    name: "imtl_g",
    aliases: &["imtl"],
    summary: "equal projections on all gradients",
    source: "ICLR 2021",
    cost: Cost::Backward,
    validation: false,
    task_weights: false,
    simplex: false,
    params: &[LENGTH, UPDATE_EVERY],
    build: |context| Ok(ByGramian::rule(context, ImtlG)),
};

#[derive(Debug)]
struct ImtlG;

impl Solver for ImtlG {
    fn sums(&self) -> bool {
        false
    }

    fn coefficients(&mut self, _: &View<'_>, gramian: &Matrix) -> Vec<f64> {
        let (lengths, mut cosines) = gramian.cosines();
        if dependent(&cosines) {
            cosines = cosines.ridged(1e-8);
        }
        let y = solve(&cosines, &vec![1.0; lengths.len()]);
        let shortest = lengths.iter().copied().fold(f64::INFINITY, f64::min);
        let alpha: Vec<f64> = y.iter().zip(&lengths).map(|(y, s)| y * (shortest / s)).collect();
        let (sum, size) = alpha.iter().fold((0.0, 0.0), |(sum, size), a| (sum + a, size + a.abs()));
        scaled(&alpha, 1.0 / if sum > 1e-9 * size { sum } else { size })
    }
}
