//! Aligned-MTL: independent component alignment (Senushkin et al., CVPR 2023, arXiv 2305.19000).
//!
//! With A = VΛVᵀ the gradients are turned and stretched as little as makes them orthogonal and equally long:
//! B = √λ_min·VΛ^(−½)Vᵀ over the eigenvalues above rounding, d = Σ αᵢ gᵢ with α the column sums of B (each task counting one; by default
//! divided by K).
//!
//! Which eigenvalues are rounding: gradients are f32, so those below K·2⁻²³ of the largest. Task gradients that are nearly the same
//! are a case of it, where the smallest eigenvalue would otherwise shrink the update to nothing.

use super::by_gramian::{ByGramian, LENGTH_OF_SUM, Solver, UPDATE_EVERY};
use super::{Cost, Method};
use crate::numeric::{Matrix, eigen};
use crate::rule::View;

/// The table entry.
pub static ALIGNED_MTL: Method = Method {
    name: "aligned_mtl",
    aliases: &["aligned"],
    summary: "gradients made orthogonal and equally long",
    source: "arXiv 2305.19000",
    cost: Cost::Backward,
    validation: false,
    task_weights: false,
    simplex: false,
    params: &[LENGTH_OF_SUM, UPDATE_EVERY],
    build: |context| Ok(ByGramian::rule(context, AlignedMtl)),
};

#[derive(Debug)]
struct AlignedMtl;

/// B, for a Gramian that is not zero.
pub fn balance(gramian: &Matrix) -> Matrix {
    let k = gramian.size();
    let pairs = eigen::symmetric(gramian);
    let largest = pairs.iter().map(|pair| pair.0).fold(0.0, f64::max);
    let rounding = k as f64 * f64::from(f32::EPSILON) * largest;
    let kept: Vec<&(f64, Vec<f64>)> = pairs.iter().filter(|pair| pair.0 > rounding).collect();
    let least = kept.iter().map(|pair| pair.0).fold(largest, f64::min);
    let entry = |i: usize, j: usize| -> f64 {
        kept.iter().map(|(value, vector)| (least / value).sqrt() * vector[i] * vector[j]).sum()
    };
    Matrix::of(k, entry)
}

impl Solver for AlignedMtl {
    fn sums(&self) -> bool {
        true
    }

    fn coefficients(&mut self, _: &View<'_>, gramian: &Matrix) -> Vec<f64> {
        // B is symmetric: its column sums are its row sums.
        let largest = gramian.diagonal().into_iter().fold(0.0, f64::max);
        let unit = Matrix::of(gramian.size(), |i, j| gramian.at(i, j) / largest);
        balance(&unit).times(&vec![1.0; gramian.size()])
    }
}
