//! PCGrad: projecting conflicting gradients (Yu et al., NeurIPS 2020, arXiv 2001.06782, algorithm 1).
//!
//! For each i, gᵢ' begins as gᵢ; for each j ≠ i in random order, if ⟨gᵢ', gⱼ⟩ < 0 then gᵢ' −= ⟨gᵢ', gⱼ⟩/‖gⱼ‖²·gⱼ. d = Σ gᵢ'; by default
//! their mean.
//!
//! Each gᵢ' is a combination Σ Pᵢⱼ gⱼ, so only its coefficients are moved, by the Gramian. The random order is a function of seed,
//! step and the names of the tasks; `order: given` is the recipe's.

use onefold_runtime::Stream;
use onefold_runtime::params::{Default, Kind};
use serde::Deserialize;

use super::by_gramian::{ByGramian, LENGTH_OF_SUM, SHARED, Solver, UPDATE_EVERY};
use super::{Cost, Method};
use crate::numeric::Matrix;
use crate::numeric::vector::dot;
use crate::rule::View;
use crate::settings::{Context, Param};

pub mod gradvac;

/// The order of the projections.
const ORDER: Param = Param {
    name: "order",
    kind: Kind::Choice(&["random", "given"]),
    default: Default::Choice("random"),
    help: "order in which a gradient meets the others: drawn at each step, or the recipe's",
};

/// The table entry.
pub static PCGRAD: Method = Method {
    name: "pcgrad",
    aliases: &["gradient_surgery"],
    summary: "of conflicting gradients, the conflicting part is projected away",
    source: "arXiv 2001.06782",
    cost: Cost::Backward,
    validation: false,
    task_weights: false,
    simplex: false,
    params: &[ORDER, LENGTH_OF_SUM, UPDATE_EVERY],
    build: |context| {
        let Settings { order } = context.but(SHARED);
        Ok(ByGramian::rule(context, PcGrad { meetings: Meetings::new(context, order) }))
    },
};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Settings {
    order: Order,
}

/// The order in which a gradient meets the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Order {
    Random,
    Given,
}

/// Who meets whom when.
#[derive(Debug)]
struct Meetings {
    order: Order,
    seed: u64,
    names: Vec<String>,
}

impl Meetings {
    fn new(context: &Context<'_>, order: Order) -> Self {
        let names = context.tasks.iter().map(|task| task.name.clone()).collect();
        Self { order, seed: context.seed, names }
    }

    /// The others in the order in which the i-th task of the view meets them.
    fn of(&self, view: &View<'_>, i: usize) -> Vec<usize> {
        let mut others: Vec<usize> = (0..view.tasks.len()).filter(|j| *j != i).collect();
        if self.order == Order::Random {
            others.sort_by_cached_key(|j| self.draw(view.step, view.tasks[i], view.tasks[*j]));
        }
        others
    }

    /// A number of a pair of tasks at a step, whatever their place in the recipe.
    fn draw(&self, step: u64, i: usize, j: usize) -> [u32; 2] {
        let stream = Stream::new(self.seed, &self.names[i], &format!("meets {}", self.names[j]));
        let mut draws = [0; 2];
        stream.fill(step.saturating_mul(2), &mut draws);
        draws
    }
}

#[derive(Debug)]
struct PcGrad {
    meetings: Meetings,
}

/// The coefficients of gᵢ' after it has met the others.
fn projected(gramian: &Matrix, i: usize, others: &[usize]) -> Vec<f64> {
    let mut p = vec![0.0; gramian.size()];
    p[i] = 1.0;
    for j in others {
        let product = dot(&p, gramian.row(*j));
        if product < 0.0 {
            p[*j] -= product / gramian.at(*j, *j);
        }
    }
    p
}

/// The sum of coefficients over rows.
fn summed(rows: impl Iterator<Item = Vec<f64>>, k: usize) -> Vec<f64> {
    rows.fold(vec![0.0; k], |sum, row| sum.iter().zip(row).map(|(sum, c)| sum + c).collect())
}

impl Solver for PcGrad {
    fn sums(&self) -> bool {
        true
    }

    fn coefficients(&mut self, view: &View<'_>, gramian: &Matrix) -> Vec<f64> {
        let k = gramian.size();
        summed((0..k).map(|i| projected(gramian, i, &self.meetings.of(view, i))), k)
    }
}
