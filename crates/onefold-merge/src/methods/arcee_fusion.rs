//! Arcee Fusion: take over only the most important changes (Arcee AI; behaviour of mergekit's `arcee_fusion`).
//!
//! The importance of an element is `|x − b| · KL(softmax(x) ‖ softmax(b))`, the softmax over its row. Elements at or above
//! `median + 1.5 · (Q₃ − Q₁)` of the tensor's importances are taken from the other model. Quantiles are exact (element
//! ⌊q(n−1)⌋ of the sorted importances), where mergekit samples a million elements of larger tensors at random.

use super::{BaseRole, Kernel, Method, ModelSurvey, Rule, Scratch};
use crate::MergeError;
use crate::kernels::softmax::divergence;
use crate::order::{self, Computed};
use crate::scan::{Grain, Scan, View};

/// The table entry.
pub static ARCEE_FUSION: Method = Method {
    name: "arcee_fusion",
    summary: "take over only the most important changes",
    source: "Arcee AI, mergekit",
    base: BaseRole::Operand,
    operands: (2, 2),
    crops_embeddings: true,
    passes: "5",
    params: &[],
    build: |_| Ok(Box::new(Fusion)),
};

#[derive(Debug)]
struct Fusion;

impl Rule for Fusion {
    fn prepare(&self, scan: &Scan, _: &ModelSurvey) -> Result<Box<dyn Kernel>, MergeError> {
        let (width, grain) = (scan.width(), Grain::Rows(scan.width()));
        let divergences = scan.map(grain, |view| row_divergences(view, width))?.concat();
        let kernel = FusionKernel { divergences, width, threshold: 0.0 };
        let n = scan.len() as u64;
        // Importances are not negative, so ascending rank r is the boundary that keeps n − r.
        let rank = |q: f64| n - (q * (n.max(1) - 1) as f64) as u64;
        let keep = [rank(0.25), rank(0.5), rank(0.75)];
        let scores = Computed(|view: &View<'_>, out: &mut [f32]| kernel.importance(view, out));
        let cuts = order::cuts(&[scan], grain, &scores, &[keep.to_vec()])?.remove(0);
        let quantile =
            |i: usize| if keep[i] == n { smallest(scan, &kernel) } else { Ok(cuts[i].magnitude()) };
        let (q1, median, q3) = (quantile(0)?, quantile(1)?, quantile(2)?);
        Ok(Box::new(FusionKernel { threshold: median + 1.5 * (q3 - q1), ..kernel }))
    }
}

/// The smallest importance: the quantile of tensors too small for another.
fn smallest(scan: &Scan, kernel: &FusionKernel) -> Result<f32, MergeError> {
    let minima = scan.map(Grain::Rows(scan.width()), |view| {
        let mut scores = vec![0.0; view.len()];
        kernel.importance(view, &mut scores);
        scores.into_iter().fold(f32::INFINITY, f32::min)
    })?;
    Ok(minima.into_iter().fold(f32::INFINITY, f32::min))
}

/// `KL(softmax(x) ‖ softmax(b))` of every row of a block, with mergekit's 1e-8 added to each probability.
/// Rounding must not make it negative: importances are ranked by magnitude.
fn row_divergences(view: &View<'_>, width: usize) -> Vec<f32> {
    let [base, other] = view.vectors else { unreachable!("two operands, as declared") };
    let (mut p, mut q) = (Vec::new(), Vec::new());
    base.chunks(width)
        .zip(other.chunks(width))
        .map(|(b, x)| divergence(x, b, 1e-8, &mut p, &mut q).max(0.0) as f32)
        .collect()
}

#[derive(Debug)]
struct FusionKernel {
    /// One per row.
    divergences: Vec<f32>,
    width: usize,
    threshold: f32,
}

impl FusionKernel {
    fn importance(&self, view: &View<'_>, out: &mut [f32]) {
        let [base, other] = view.vectors else { unreachable!("two operands, as declared") };
        let rows = base.chunks(self.width).zip(other.chunks(self.width)).zip(out.chunks_mut(self.width));
        for (row, ((b, x), out)) in rows.enumerate() {
            let divergence = self.divergences[view.start / self.width + row];
            for ((o, x), b) in out.iter_mut().zip(x).zip(b) {
                *o = (x - b).abs() * divergence;
            }
        }
    }
}

impl Kernel for FusionKernel {
    fn grain(&self) -> Grain {
        Grain::Rows(self.width)
    }

    fn merge(&self, block: &View<'_>, scratch: &mut Scratch, out: &mut [f32]) {
        scratch.a.resize(block.len());
        self.importance(block, &mut scratch.a);
        let [base, other] = block.vectors else { unreachable!("two operands, as declared") };
        for (((o, b), x), score) in out.iter_mut().zip(base).zip(other).zip(&scratch.a) {
            *o = if *score >= self.threshold { *x } else { *b };
        }
    }
}
