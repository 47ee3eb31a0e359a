//! CAGrad: conflict-averse gradient descent (Liu et al., NeurIPS 2021, arXiv 2110.14048).
//!
//! With ḡ = Σ gᵢ/K and r = c‖ḡ‖: w = argmin over the simplex of ⟨g_w, ḡ⟩ + r‖g_w‖, g_w = Σ wᵢ gᵢ, and d = ḡ + r·g_w/‖g_w‖, the direction
//! within r of ḡ that most lowers the loss that it lowers least. `rescale` divides d by nothing (0), 1 + c² (1) or 1 + c (2).
//!
//! The authors' guards of 1e-8 are kept, but are never more than a millionth of what they guard. The minimum is found without
//! their solver: since ‖g_w‖ = min over s of ‖g_w‖²/2s + s/2, it is that of a convex function of s alone, whose slope has the sign
//! of s² − ‖g_{w(s)}‖², where w(s) is the shortest convex combination of gᵢ + (s/r)·ḡ.

use onefold_runtime::params::{Default, Kind};
use serde::Deserialize;

use super::by_gramian::{LENGTH, Solver, UPDATE_EVERY, of_settings};
use super::{Cost, Method};
use crate::numeric::vector::{dot, mean, uniform};
use crate::numeric::{Matrix, guard, min_norm};
use crate::rule::View;
use crate::settings::Param;

/// The table entry.
pub static CAGRAD: Method = Method {
    name: "cagrad",
    aliases: &[],
    summary: "near the mean gradient, the direction that helps the worst task most",
    source: "arXiv 2110.14048",
    cost: Cost::Backward,
    validation: false,
    task_weights: false,
    simplex: false,
    params: &[
        Param {
            name: "c",
            kind: Kind::Number { min: 0.0, max: 1000.0, min_open: false },
            default: Default::Number(0.5),
            help: "how far from the mean gradient, in its lengths; 0 is the mean gradient",
        },
        Param {
            name: "rescale",
            kind: Kind::Integer { min: 0, max: 2 },
            default: Default::Number(1.0),
            help: "divides the update by 1 (0), 1 + c² (1) or 1 + c (2)",
        },
        LENGTH,
        UPDATE_EVERY,
    ],
    build: of_settings::<Cagrad>,
};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Cagrad {
    c: f64,
    rescale: u8,
}

/// w, and the coefficients of d before it is rescaled.
pub fn solve(gramian: &Matrix, c: f64) -> (Vec<f64>, Vec<f64>) {
    let size = gramian.mean_diagonal();
    let (square_guard, guard) = (guard(size), guard(size.sqrt()));
    let each = uniform(gramian.size());
    let radius = c * (gramian.length(&each).powi(2) + square_guard).sqrt() + guard;
    if c == 0.0 {
        return (each.clone(), each);
    }
    let w = worst(gramian, radius, square_guard);
    let share = radius / (gramian.length(&w) + guard);
    let coefficients = each.iter().zip(&w).map(|(each, w)| each + share * w).collect();
    (w, coefficients)
}

/// `argmin ⟨g_w, ḡ⟩ + r √(‖g_w‖² + guard)`, by bisection of the slope of its function of s.
fn worst(gramian: &Matrix, radius: f64, guard: f64) -> Vec<f64> {
    let largest = gramian.diagonal().into_iter().fold(0.0, f64::max);
    let (mut low, mut high) = (guard.sqrt(), (largest + guard).sqrt());
    let mut w = shifted(gramian, high / radius);
    for _ in 0..120 {
        let s = 0.5 * (low + high);
        if s <= low || s >= high {
            break;
        }
        w = shifted(gramian, s / radius);
        if s * s < dot(&w, &gramian.times(&w)) + guard { low = s } else { high = s }
    }
    w
}

/// The shortest convex combination of gᵢ + share·ḡ.
fn shifted(gramian: &Matrix, share: f64) -> Vec<f64> {
    let to_mean = gramian.times(&uniform(gramian.size()));
    let square = mean(&to_mean);
    let product = |i: usize, j: usize| {
        let (own, cross, common) =
            (gramian.at(i, j), share * (to_mean[i] + to_mean[j]), share * share * square);
        // Where a gradient is opposite to the shift only rounding is left of its length.
        let rounding = i == j && own + cross + common <= 1e-14 * (own + cross.abs() + common);
        if rounding { 0.0 } else { own + cross + common }
    };
    min_norm::weights(&Matrix::of(gramian.size(), product))
}

impl Solver for Cagrad {
    fn sums(&self) -> bool {
        false
    }

    fn coefficients(&mut self, _: &View<'_>, gramian: &Matrix) -> Vec<f64> {
        let divisor = match self.rescale {
            0 => 1.0,
            1 => 1.0 + self.c * self.c,
            _ => 1.0 + self.c,
        };
        solve(gramian, self.c).1.iter().map(|c| c / divisor).collect()
    }
}
