//! Inner products of one matrix with low-rank updates, without the updates as matrices.

use faer::linalg::matmul::matmul;
use faer::{Accum, MatMut, MatRef, Par};
use onefold_checkpoint::tensor::Update;
use onefold_runtime::Aligned;
use rayon::prelude::*;

use crate::kernels::reduce;
use crate::scan::with_scratch;

/// Rows of the matrix that are taken at once.
const ROWS: usize = 128;

/// `⟨G, Lₖ·Rₖ⟩ = Σ (G·Rₖᵀ) ∘ Lₖ` of each update; all are of one shape. In parallel over rows; the sums of [`ROWS`] rows are added in
/// their order, so that they do not depend on threads.
pub(super) fn products(updates: &[&dyn Update], gradient: &[f32]) -> Vec<f64> {
    let Some([_, _, cols]) = updates.first().map(|update| update.dimensions()) else { return Vec::new() };
    let right = all_right(updates, cols);
    let right = MatRef::from_row_major_slice(&right, right.len() / cols.max(1), cols);
    let rows = gradient.par_chunks(ROWS * cols.max(1)).enumerate();
    let parts: Vec<Vec<f64>> =
        rows.map(|(number, rows)| products_of_rows(updates, right, number * ROWS, rows)).collect();
    reduce::sum_in_order(parts, updates.len())
}

/// The right factors under each other: one product has them all.
fn all_right(updates: &[&dyn Update], cols: usize) -> Aligned {
    let ranks = updates.iter().map(|update| update.dimensions()[1]);
    let mut right = Aligned::default();
    right.resize(ranks.sum::<usize>() * cols);
    let mut rest = &mut right[..];
    for update in updates {
        let (own, behind) = rest.split_at_mut(update.dimensions()[1] * cols);
        update.read_right(own);
        rest = behind;
    }
    right
}

/// The part that rows of the matrix from `start` on have in the products.
fn products_of_rows(
    updates: &[&dyn Update],
    right: MatRef<'_, f32>,
    start: usize,
    gradient: &[f32],
) -> Vec<f64> {
    let (width, cols) = (right.nrows(), right.ncols());
    let count = gradient.len() / cols;
    with_scratch(|[product, left]| {
        product.resize(width * count);
        // Column by column: those of one update lie together, as its left factor does when it is turned.
        let to = MatMut::from_column_major_slice_mut(product, count, width);
        let gradient = MatRef::from_row_major_slice(gradient, count, cols);
        matmul(to, Accum::Replace, gradient, right.transpose(), 1.0, Par::Seq);
        let mut rest = &product[..];
        let of = |update: &&dyn Update| {
            let rank = update.dimensions()[1];
            left.resize(rank * count);
            update.read_left(start..start + count, left);
            let (own, behind) = rest.split_at(rank * count);
            rest = behind;
            reduce::dot(own, left)
        };
        updates.iter().map(of).collect()
    })
}
