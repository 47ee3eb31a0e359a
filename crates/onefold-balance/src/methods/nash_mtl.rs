//! Nash-MTL: multi-task learning as a bargaining game (Navon et al., ICML 2022, arXiv 2202.01017).
//!
//! The α > 0 with (A α)ᵢ = 1/αᵢ; d = Σ αᵢ gᵢ maximises Σ ln⟨d, gᵢ⟩ over directions of a length, and ‖d‖² = K.
//!
//! The authors solve it by a convex-concave procedure with an external solver, on A/‖A‖_F (which multiplies α by √‖A‖_F), and clip d
//! to length 1. Here it is the minimum of ½ αᵀAα − Σ ln αᵢ, by Newton steps ([`crate::numeric::newton`]), and by default d is as long
//! as the mean gradient, so that a learning rate keeps its meaning; `scale: paper` gives the α of the equation.

use onefold_runtime::params::Default;

use super::by_gramian::{ByGramian, LENGTH_OF_SUM, Solver, UPDATE_EVERY};
use super::{Cost, Method};
use crate::numeric::{Matrix, newton};
use crate::rule::View;
use crate::settings::Param;

/// [`LENGTH_OF_SUM`], by default that of the mean gradient.
pub const LENGTH_OF_GRADIENT: Param = Param { default: Default::Choice("gradient"), ..LENGTH_OF_SUM };

/// The table entry.
pub static NASH_MTL: Method = Method {
    name: "nash_mtl",
    aliases: &["nash", "nashmtl"],
    summary: "the bargain that multiplies the gains of all tasks to the most",
    source: "arXiv 2202.01017",
    cost: Cost::Backward,
    validation: false,
    task_weights: false,
    simplex: false,
    params: &[LENGTH_OF_GRADIENT, UPDATE_EVERY],
    build: |context| Ok(ByGramian::rule(context, NashMtl)),
};

#[derive(Debug)]
struct NashMtl;

impl Solver for NashMtl {
    fn sums(&self) -> bool {
        true
    }

    fn coefficients(&mut self, _: &View<'_>, gramian: &Matrix) -> Vec<f64> {
        newton::fair(gramian, 1.0)
    }
}
