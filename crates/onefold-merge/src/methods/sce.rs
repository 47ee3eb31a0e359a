//! SCE: select by variance, calculate coefficients, erase minority signs (FuseChat, Wan et al., arXiv 2408.07990).
//!
//! 1. `select_topk < 1`: keep the positions with the largest variance over the models (population variance, ⌊k · number of
//!    non-zero variances⌋ of them, per tensor). 2. `wᵢ ∝ mean(τᵢ²)` of what is kept; uniform if these sum to less than
//!    1e-6 (mergekit's guard, which small fine-tunes meet often: the tensor then is a uniform sign consensus). 3. Elements
//!    against the elected sign of the unweighted sum are erased; the rest is averaged with the weights.
//!
//! Deviation: mergekit keeps the divisor of that mean at 1e-6 or more, which shrinks the changes of a model with a very
//! small share of the energy where it stands alone; here it is a mean there, too.
//!
//! mergekit's early exits (nothing to select) give a tensor of the wrong shape; here nothing selected means the base.

use super::{BaseRole, Kernel, Method, ModelSurvey, Rule, Scratch};
use crate::MergeError;
use crate::kernels::add;
use crate::kernels::mix::{elect, keep_ranked};
use crate::kernels::reduce::{dot, sum_in_order};
use crate::kernels::spread;
use crate::order::{self, Computed, Cut};
use crate::params::{Default, Kind, Level, Param};
use crate::scan::{Grain, Scan, View};
use crate::task::Task;

/// The table entry.
pub static SCE: Method = Method {
    name: "sce",
    summary: "select varying elements, weigh by energy, erase minorities",
    source: "arXiv 2408.07990",
    base: BaseRole::Origin,
    operands: (1, usize::MAX),
    crops_embeddings: false,
    passes: "2 to 5",
    params: &[
        Param {
            name: "select_topk",
            level: Level::Global,
            kind: Kind::Number { min: 0.0, max: 1.0, min_open: false },
            default: Default::Number(1.0),
            help: "share of the varying elements that is kept",
        },
        Param {
            name: "int8_mask",
            level: Level::Global,
            kind: Kind::Flag,
            default: Default::Flag(false),
            help: "accepted for mergekit's sake; results are the same",
        },
    ],
    build,
};

#[derive(Debug)]
struct Sce {
    select: f64,
}

fn build(task: &Task) -> Result<Box<dyn Rule>, String> {
    Ok(Box::new(Sce { select: task.required(&SCE, "select_topk")? }))
}

impl Rule for Sce {
    fn elects_signs(&self) -> bool {
        true
    }

    fn prepare(&self, scan: &Scan, _: &ModelSurvey) -> Result<Box<dyn Kernel>, MergeError> {
        let cut = self.cut(scan)?;
        let k = scan.k();
        let energy = |view: &View<'_>| {
            let mut scratch = Scratch::default();
            select(view, cut, &mut scratch);
            scratch.rows.iter().map(|row| dot(row, row)).collect()
        };
        let n = scan.len().max(1) as f64;
        let mean_squares: Vec<f64> =
            sum_in_order(scan.map(Grain::Element, energy)?, k).iter().map(|s| s / n).collect();
        let sum: f64 = mean_squares.iter().sum();
        let weights =
            if sum < 1e-6 { vec![1.0 / k as f64; k] } else { mean_squares.iter().map(|m| m / sum).collect() };
        Ok(Box::new(SceKernel { cut, weights }))
    }
}

impl Sce {
    /// The cut of the variances, if a part is selected.
    fn cut(&self, scan: &Scan) -> Result<Option<Cut>, MergeError> {
        if self.select >= 1.0 {
            return Ok(None);
        }
        let varying = scan.map(Grain::Element, |view| {
            let mut variances = vec![0.0; view.len()];
            variance(view, &mut variances);
            variances.iter().filter(|v| **v != 0.0).count() as u64
        })?;
        let keep = (varying.iter().sum::<u64>() as f64 * self.select) as u64;
        Ok(order::cuts(&[scan], Grain::Element, &Computed(variance), &[vec![keep]])?[0].first().copied())
    }
}

/// Population variance over the models, element by element.
fn variance(view: &View<'_>, out: &mut [f32]) {
    spread::variance(view.vectors, &mut Vec::new(), out);
}

/// Copies the task vectors to `scratch.rows`, zero where the variance is not among the largest.
fn select(view: &View<'_>, cut: Option<Cut>, scratch: &mut Scratch) {
    let Scratch { rows, a, b, .. } = scratch;
    rows.resize_with(view.vectors.len(), Vec::new);
    for (row, vector) in rows.iter_mut().zip(view.vectors) {
        row.clear();
        row.extend_from_slice(vector);
    }
    let Some(cut) = cut else { return };
    a.resize(view.len(), 0.0);
    spread::variance(view.vectors, b, a);
    b.resize(view.len(), 0.0);
    keep_ranked(a, view.start as u64, cut, Cut::NOTHING, b);
    for row in rows {
        spread::keep_where(row, b);
    }
}

#[derive(Debug)]
struct SceKernel {
    cut: Option<Cut>,
    weights: Vec<f64>,
}

impl Kernel for SceKernel {
    fn coefficients(&self) -> Option<Vec<f64>> {
        Some(self.weights.clone())
    }

    fn merge(&self, block: &View<'_>, scratch: &mut Scratch, out: &mut [f32]) {
        select(block, self.cut, scratch);
        let Scratch { rows, a, b, .. } = scratch;
        a.clear();
        a.resize(block.len(), 0.0);
        let weights: Vec<f32> = self.weights.iter().map(|w| *w as f32).collect();
        for (row, w) in rows.iter_mut().zip(&weights) {
            add(a, row);
            crate::kernels::scale(row, *w);
        }
        elect(rows, a, 1.0, Some(&weights), out, b);
    }
}
