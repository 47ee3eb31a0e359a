//! MGDA: multiple-gradient descent (Désidéri 2012; Sener & Koltun, NeurIPS 2018, arXiv 1810.04650).
//!
//! w = argmin over the simplex of ‖Σ wᵢ g̃ᵢ‖², the direction that lowers all losses, or zero if there is none. g̃ᵢ = gᵢ/nᵢ with nᵢ = 1
//! (`normalize: none`), ‖gᵢ‖ (`l2`), Lᵢ (`loss`) or Lᵢ‖gᵢ‖ (`loss+`), and the update is Σ wᵢ g̃ᵢ.
//!
//! The minimum is exact ([`crate::numeric::min_norm`]) in place of 250 iterations of Frank and Wolfe; their reference also keeps
//! weights of two tasks away from 0 and 1, which is not done here. With `l2` and `loss+` an update is at most one long, and
//! `scale: gradient` gives it back the gradients' length.

use onefold_runtime::params::{Default, Kind};
use serde::Deserialize;

use super::by_gramian::{LENGTH, Solver, UPDATE_EVERY, of_settings};
use super::{Cost, Method};
use crate::contract::Losses;
use crate::numeric::{Matrix, min_norm};
use crate::rule::View;
use crate::settings::Param;

/// The table entry.
pub static MGDA: Method = Method {
    name: "mgda",
    aliases: &[],
    summary: "the shortest convex combination of the gradients",
    source: "arXiv 1810.04650",
    cost: Cost::Backward,
    validation: false,
    task_weights: false,
    simplex: true,
    params: &[
        Param {
            name: "normalize",
            kind: Kind::Choice(&["none", "l2", "loss", "loss+"]),
            default: Default::Choice("none"),
            help: "what each gradient is divided by: nothing, its length, its loss, or both",
        },
        LENGTH,
        UPDATE_EVERY,
    ],
    build: of_settings::<Mgda>,
};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Mgda {
    normalize: Normalize,
}

#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Normalize {
    None,
    L2,
    Loss,
    #[serde(rename = "loss+")]
    LossPlus,
}

impl Solver for Mgda {
    fn losses(&self) -> Losses {
        match self.normalize {
            Normalize::None | Normalize::L2 => Losses::Unneeded,
            Normalize::Loss | Normalize::LossPlus => Losses::Before,
        }
    }

    fn sums(&self) -> bool {
        false
    }

    fn coefficients(&mut self, view: &View<'_>, gramian: &Matrix) -> Vec<f64> {
        let divisor = |i: usize| match self.normalize {
            Normalize::None => 1.0,
            Normalize::L2 => gramian.at(i, i).sqrt(),
            Normalize::Loss => view.losses[i],
            Normalize::LossPlus => view.losses[i] * gramian.at(i, i).sqrt(),
        };
        let divisors: Vec<f64> = (0..gramian.size()).map(divisor).collect();
        let normalized = Matrix::of(gramian.size(), |i, j| gramian.at(i, j) / divisors[i] / divisors[j]);
        min_norm::weights(&normalized).iter().zip(&divisors).map(|(w, n)| w / n).collect()
    }
}
