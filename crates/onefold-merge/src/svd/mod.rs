//! Merges that look at a whole matrix: TSV-M, Iso-C and Iso-CTS. No data needed.
//!
//! Papers: "Task Singular Vectors" (Gargiulo et al., CVPR 2025; TSV-M) and "No Task Left Behind: Isotropic Model
//! Merging with Common and Task-Specific Subspaces" (Marczak et al., ICML 2025; Iso-C, Iso-CTS). Formulas stand
//! in the file of each method. For K task vectors τ_k (m×n) of one matrix, p = min(m, n):
//! θ* = θ₀ + α·Δ, Δ from [`merge_matrix`]. Tensors that are not matrices take the mean of the τ_k, outside here.
//! Token embeddings (V×d) are matrices too and may be merged so, but are often better averaged.
//!
//! # How it is computed
//! In f64, whatever the storage: left singular vectors and whitening factors come from p×p problems, and the
//! large side is only streamed (`columns`, `orthonormal`). Measured at 1024×4096, one core: an economy SVD
//! takes 1.87 s in f64 and 0.76 s in f32, good to 1e-7·σ₁; this route 0.74 s, good to 1e-8·σ₁ or better, and it
//! never holds a p×n matrix besides the result. f64 also covers the squares of every f32, from 1e-45 to 3e38,
//! so no scaling is needed. Always one thread (other bits come out of the eigensolver when it is threaded,
//! measured): run tensors side by side instead.
//!
//! Singular values below 2⁻²³·‖τ‖_F are rounding noise of the stored f32 values and count as zero; null
//! directions contribute nothing. So results are finite and repeatable for zero and rank-deficient task vectors
//! (merged LoRA adapters), where the authors' code takes whatever vectors the SVD routine makes up. Tasks whose
//! directions coincide share them (equal experts: TSV-M gives their first r triples, unchanged).

mod columns;
mod iso_c;
mod iso_cts;
mod orthonormal;
#[cfg(test)]
mod tests;
mod tsv_m;

use faer::linalg::matmul::matmul;
use faer::reborrow::{Reborrow, ReborrowMut};
use faer::{Accum, Mat, Par};

use columns::{BLOCK, Columns, Combination, Deltas, Scalar, for_each_block};

/// Which merge.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum SvdMethod {
    /// ⌊p/K⌋ singular triples of each task, whitened against each other.
    TsvM,
    /// The sum of the task vectors with all its singular values replaced by their mean.
    IsoC,
    /// Common directions of the sum plus directions of each task's residual, all with one singular value.
    IsoCts {
        /// Share of the p directions that are common, in [0, 1]; 0.8 in the paper.
        common_fraction: f64,
    },
}

/// Why a matrix was not merged.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum SvdError {
    /// K = 0.
    #[error(
        "an SVD merge needs at least one task vector, found none: list at least one model besides the base"
    )]
    NoTasks,
    /// A slice does not have rows·cols elements.
    #[error(
        "task vector {task} has {found} elements, expected {rows}×{cols}: give all experts this tensor's shape"
    )]
    Shape {
        /// Index of the task vector.
        task: usize,
        /// Its number of elements.
        found: usize,
        /// Rows asked for.
        rows: usize,
        /// Columns asked for.
        cols: usize,
    },
    /// NaN or infinity in the input.
    #[error(
        "task vector {task} has a NaN or infinity at row {row}, column {col}: \
         repair or exclude that expert, or exclude the tensor from the SVD merge"
    )]
    NonFinite {
        /// Index of the task vector.
        task: usize,
        /// Row of the first such element.
        row: usize,
        /// Column of the first such element.
        col: usize,
    },
    /// The fraction of common directions is not in [0, 1].
    #[error("common_fraction is {found}, expected a number from 0 to 1 (the paper uses 0.8)")]
    CommonFraction {
        /// What was given.
        found: f64,
    },
    /// The merged values do not fit f32.
    #[error(
        "the merged {rows}×{cols} task vector exceeds the range of f32: \
         check the experts for damaged weights, or exclude the tensor from the SVD merge"
    )]
    Overflow {
        /// Rows of the matrix.
        rows: usize,
        /// Columns of the matrix.
        cols: usize,
    },
    /// The eigenvalue iteration gave up; not known to happen with finite input.
    #[error(
        "the eigenvalue iteration of size {size} did not converge: exclude the tensor from the SVD merge"
    )]
    NoConvergence {
        /// Size of the problem.
        size: usize,
    },
}

/// How many singular directions a method takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Directions {
    /// From the sum of the task vectors.
    pub common: usize,
    /// From each task vector. TSV-M with 0 here (K > p) falls back to the mean of the task vectors.
    pub per_task: usize,
}

/// The directions `method` takes for K = `k` tasks and an m×n matrix: TSV-M ⌊p/K⌋ per task; Iso-C p common ones;
/// Iso-CTS s = round((p − ⌊p·f⌋)/K) per task, halves to even, and c = p − s·K common ones.
/// Where that rounding asks for more than p in total, s is ⌊p/K⌋ (the authors' code fails there).
pub fn directions(method: SvdMethod, k: usize, rows: usize, cols: usize) -> Directions {
    let (p, k) = (rows.min(cols), k.max(1));
    match method {
        SvdMethod::TsvM => Directions { common: 0, per_task: p / k },
        SvdMethod::IsoC => Directions { common: p, per_task: 0 },
        SvdMethod::IsoCts { common_fraction } => {
            let specific = p - ((p as f64 * common_fraction) as usize).min(p);
            let per_task = ((specific as f64 / k as f64).round_ties_even() as usize).min(p / k);
            Directions { common: p - per_task * k, per_task }
        }
    }
}

/// Δ (row-major m×n, without α) of the K task vectors `deltas` (row-major m×n each) of one matrix.
///
/// # Errors
/// Input that is empty, of the wrong length, not finite or out of range; a result beyond f32.
pub fn merge_matrix(
    method: SvdMethod,
    deltas: &[&[f32]],
    rows: usize,
    cols: usize,
) -> Result<Vec<f32>, SvdError> {
    let merged = merge(method, deltas, rows, cols)?;
    if merged.iter().all(|x| x.is_finite()) { Ok(merged) } else { Err(SvdError::Overflow { rows, cols }) }
}

/// Upper bound of the bytes [`merge_matrix`] holds besides its input, the result included.
pub fn peak_bytes(method: SvdMethod, k: usize, rows: usize, cols: usize) -> u64 {
    let (p, n) = (rows.min(cols) as u64, rows.max(cols) as u64);
    let result = p.saturating_mul(n).saturating_mul(4);
    if p == 0 || (method == SvdMethod::TsvM && (k <= 1 || k as u64 > p)) {
        return result;
    }
    // p×p matrices: 7 while a spectrum is computed, the rest what the method holds meanwhile.
    let squares = match method {
        SvdMethod::TsvM => 11,
        SvdMethod::IsoC => 7,
        SvdMethod::IsoCts { .. } => 13,
    };
    let width = (BLOCK as u64).min(n); // four blocks, and the panel of a reduction
    let wide = p.saturating_mul(width).saturating_mul(6);
    let numbers = p.saturating_mul(p).saturating_mul(squares).saturating_add(wide);
    numbers.saturating_mul(8).saturating_add(result).saturating_add(2 << 20) // packing buffers of the matrix product
}

/// Δ = left · right, `left` p×r in memory, `right` r×n streamed.
#[derive(Debug)]
struct Factored<'a, T> {
    left: Mat<f64>,
    right: Combination<'a, T>,
}

fn merge<T: Scalar>(
    method: SvdMethod,
    slices: &[&[T]],
    rows: usize,
    cols: usize,
) -> Result<Vec<T>, SvdError> {
    check(method, slices, rows, cols)?;
    let transposed = rows > cols;
    let deltas = Deltas { slices, p: rows.min(cols), n: rows.max(cols), transposed };
    if deltas.p == 0 {
        return Ok(Vec::new());
    }
    let split = directions(method, slices.len(), rows, cols);
    let factored = match method {
        SvdMethod::TsvM if slices.len() == 1 || split.per_task == 0 => return Ok(mean(slices)),
        SvdMethod::TsvM => tsv_m::merge(&deltas, split.per_task)?,
        SvdMethod::IsoC => iso_c::merge(&deltas)?,
        SvdMethod::IsoCts { .. } => iso_cts::merge(&deltas, split)?,
    };
    Ok(multiply(&factored))
}

fn check<T: Scalar>(method: SvdMethod, slices: &[&[T]], rows: usize, cols: usize) -> Result<(), SvdError> {
    if slices.is_empty() {
        return Err(SvdError::NoTasks);
    }
    if let SvdMethod::IsoCts { common_fraction: found } = method
        && !(0.0..=1.0).contains(&found)
    {
        return Err(SvdError::CommonFraction { found });
    }
    for (task, slice) in slices.iter().enumerate() {
        if rows.checked_mul(cols) != Some(slice.len()) {
            return Err(SvdError::Shape { task, found: slice.len(), rows, cols });
        }
        if let Some(at) = slice.iter().position(|x| !x.is_finite()) {
            return Err(SvdError::NonFinite { task, row: at / cols, col: at % cols });
        }
    }
    Ok(())
}

/// Elementwise mean; with one slice that slice, bit for bit.
fn mean<T: Scalar>(slices: &[&[T]]) -> Vec<T> {
    let k = slices.len() as f64;
    let at = |i: usize| slices.iter().map(|s| s[i].to_f64()).sum::<f64>() / k;
    (0..slices[0].len()).map(|i| T::from_f64(at(i))).collect()
}

/// Streams left · right into a slice laid out as the input.
fn multiply<T: Scalar>(factored: &Factored<'_, T>) -> Vec<T> {
    let Factored { left, right } = factored;
    let (p, n) = (left.nrows(), right.cols());
    let mut out = vec![T::from_f64(0.0); p * n];
    if right.rows() == 0 {
        return out;
    }
    let row_major = right.row_major();
    for_each_block(right, |cols, x| {
        let mut product = columns::Block::new(p, cols.len(), row_major);
        let mut y = product.view_mut(cols.len());
        matmul(y.rb_mut(), Accum::Replace, left, x, 1.0, Par::Seq);
        if row_major {
            for (i, row) in out.chunks_exact_mut(n).enumerate() {
                let row = row[cols.clone()].iter_mut();
                row.zip(y.rb().row(i).iter()).for_each(|(o, v)| *o = T::from_f64(*v));
            }
        } else {
            for (j, col) in out[cols.start * p..].chunks_exact_mut(p).take(cols.len()).enumerate() {
                col.iter_mut().zip(y.rb().col(j).iter()).for_each(|(o, v)| *o = T::from_f64(*v));
            }
        }
    });
    out
}
