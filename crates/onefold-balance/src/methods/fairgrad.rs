//! FairGrad: fair resource allocation in multi-task learning (Ban & Ji, ICML 2024, arXiv 2402.15638).
//!
//! The w > 0 with A w = w^(−1/α), elementwise, and d = Σ wᵢ gᵢ: α-fair gains, of which α = 1 is Nash-MTL's. The authors minimise the
//! squares of the differences; here the same convex minimum as for Nash-MTL is found by Newton steps. As there, d is by default as
//! long as the mean gradient.

use onefold_runtime::params::{Default, Kind};
use serde::Deserialize;

use super::by_gramian::{Solver, UPDATE_EVERY, of_settings};
use super::nash_mtl::LENGTH_OF_GRADIENT;
use super::{Cost, Method};
use crate::numeric::{Matrix, newton};
use crate::rule::View;
use crate::settings::Param;

/// The table entry.
pub static FAIRGRAD: Method = Method {
    name: "fairgrad",
    aliases: &[],
    summary: "fair gains of all tasks, by a chosen degree of fairness",
    source: "arXiv 2402.15638",
    cost: Cost::Backward,
    validation: false,
    task_weights: false,
    simplex: false,
    params: &[
        Param {
            name: "alpha",
            kind: Kind::Number { min: 0.1, max: 100.0, min_open: false },
            default: Default::Number(1.0),
            help: "degree of fairness: 1 is proportional, large values favour the worst task",
        },
        LENGTH_OF_GRADIENT,
        UPDATE_EVERY,
    ],
    build: of_settings::<FairGrad>,
};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct FairGrad {
    alpha: f64,
}

impl Solver for FairGrad {
    fn sums(&self) -> bool {
        true
    }

    fn coefficients(&mut self, _: &View<'_>, gramian: &Matrix) -> Vec<f64> {
        newton::fair(gramian, 1.0 / self.alpha)
    }
}
