//! Left singular vectors and nearest orthonormal (Procrustes) factors of a wide p×n matrix, from p×p work.
//!
//! Two routes to X = U S Vᵀ, of which only U and S (p×p) are formed; V follows as Vᵀ = S⁻¹Uᵀ X:
//! - X·Xᵀ = U S² Uᵀ, an eigenproblem. Squaring costs half the digits: in f64 singular values keep a relative
//!   error near 1e-15·(σ₁/σ)². The usual route, 3 to 4 times faster than the other.
//! - Xᵀ = Q R by blocks, keeping only R, then the SVD of R: error near 1e-15·σ₁/σ. Taken when a wanted
//!   singular value lies where the first route is no longer good to about 1e-5.
//!
//! Nearest orthonormal matrix of X: polar(X) = U Vᵀ = U S⁻¹ Uᵀ X = (XXᵀ)^(-1/2) X. Directions with a singular
//! value of zero have no nearest orthonormal partner (an SVD routine would invent one from its rounding errors);
//! here they stay zero.

use faer::diag::Diag;
use faer::dyn_stack::{MemBuffer, MemStack};
use faer::linalg::evd::{self, ComputeEigenvectors};
use faer::linalg::matmul::matmul;
use faer::linalg::qr::no_pivoting::factor as qr;
use faer::linalg::svd::{self, ComputeSvdVectors};
use faer::{Accum, Mat, MatRef, Par};

use super::SvdError;
use super::columns::{BLOCK, Block, Columns, Dense, gram, ranges};

/// Singular values of stored weights below this share of the Frobenius norm are rounding noise of f32 input
/// (unit roundoff 2⁻²⁴ per element makes a noise matrix of norm ≤ 2⁻²⁴·‖τ‖_F; one bit of reserve).
pub(super) const INPUT_NOISE: f64 = 1.0 / (1u64 << 23) as f64;

/// Columns of unit length are dependent when a singular value falls below this: singular vectors of f32 data
/// are hardly known better, and whitening would blow the rest up to full size.
pub(super) const DEPENDENT: f64 = 1e-6;

/// Below this share of σ₁ the squared route is not trusted with a singular value.
const GRAM_FLOOR: f64 = 1.0 / (1u64 << 17) as f64;

/// U (p×p, orthonormal, all p columns) and the p singular values, descending; those ≤ `noise` are exactly 0.
#[derive(Debug)]
pub(super) struct LeftSpectrum {
    pub(super) u: Mat<f64>,
    pub(super) s: Vec<f64>,
}

impl LeftSpectrum {
    /// How many of the first `most` singular values are not zero.
    pub(super) fn rank(&self, most: usize) -> usize {
        self.s.iter().take(most).filter(|&&s| s > 0.0).count()
    }

    /// S⁻¹Uᵀ of the first `count` triples (count×p): times X it gives Vᵀ.
    pub(super) fn to_right(&self, count: usize) -> Mat<f64> {
        Mat::from_fn(count, self.u.nrows(), |i, j| self.u[(j, i)] / self.s[i])
    }

    /// (XXᵀ)^(-1/2) = U S⁻¹ Uᵀ (p×p), zero where S is.
    fn inverse_root(&self) -> Mat<f64> {
        let rank = self.rank(self.s.len());
        let u = self.u.get(.., ..rank);
        times(u, self.to_right(rank).as_ref())
    }

    /// The same times `factor`, which turns X into factor · U Vᵀ.
    pub(super) fn polar_map(&self, factor: f64) -> Mat<f64> {
        let mut map = self.inverse_root();
        map *= faer::Scale(factor);
        map
    }
}

/// a·b on one thread.
pub(super) fn times(a: MatRef<'_, f64>, b: MatRef<'_, f64>) -> Mat<f64> {
    let mut product = Mat::zeros(a.nrows(), b.ncols());
    matmul(product.as_mut(), Accum::Replace, a, b, 1.0, Par::Seq);
    product
}

/// The matrix W with W·X = polar(X), for X whose rows have unit length.
pub(super) fn whitener(rows: &impl Columns) -> Result<Mat<f64>, SvdError> {
    Ok(left_spectrum(rows, rows.rows(), DEPENDENT)?.inverse_root())
}

/// The orthonormal matrix nearest to `columns` (p×r, columns of unit length): U(UᵀU)^(-1/2).
pub(super) fn nearest_orthonormal(columns: MatRef<'_, f64>) -> Result<Mat<f64>, SvdError> {
    let whitener = whitener(&Dense(columns.transpose()))?;
    Ok(times(columns, whitener.as_ref()))
}

/// U and S of `source`. Accurate in the first `keep` values that exceed `noise`.
pub(super) fn left_spectrum(
    source: &impl Columns,
    keep: usize,
    noise: f64,
) -> Result<LeftSpectrum, SvdError> {
    let mut spectrum = by_eigenvalues(source)?;
    let first = spectrum.s.first().copied().unwrap_or(0.0);
    // Noise of the squared route itself stays below noise/2, so what is smaller needs no second look.
    let doubtful = |s: &f64| *s > 0.5 * noise && *s < GRAM_FLOOR * first;
    if spectrum.s.iter().take(keep).any(doubtful) {
        spectrum = by_triangle(source)?;
    }
    spectrum.s.iter_mut().filter(|s| **s <= noise).for_each(|s| *s = 0.0);
    Ok(spectrum)
}

pub(super) fn by_eigenvalues(source: &impl Columns) -> Result<LeftSpectrum, SvdError> {
    let mut gram = gram(source);
    let p = gram.nrows();
    let largest = (0..p).map(|i| gram[(i, i)]).fold(0.0, f64::max);
    if largest == 0.0 {
        return Ok(LeftSpectrum { u: Mat::identity(p, p), s: vec![0.0; p] });
    }
    gram /= faer::Scale(largest);
    let mut u = Mat::zeros(p, p);
    let mut values = Diag::zeros(p);
    let need =
        evd::self_adjoint_evd_scratch::<f64>(p, ComputeEigenvectors::Yes, Par::Seq, Default::default());
    let mut memory = MemBuffer::new(need);
    let stack = MemStack::new(&mut memory);
    evd::self_adjoint_evd(
        gram.as_ref(),
        values.as_mut(),
        Some(u.as_mut()),
        Par::Seq,
        stack,
        Default::default(),
    )
    .map_err(|_| SvdError::NoConvergence { size: p })?;
    // Eigenvalues come ascending.
    let s = values.column_vector().iter().rev().map(|v| (v.max(0.0) * largest).sqrt()).collect();
    drop(memory);
    Ok(LeftSpectrum { u: u.as_ref().reverse_cols().to_owned(), s })
}

pub(super) fn by_triangle(source: &impl Columns) -> Result<LeftSpectrum, SvdError> {
    let mut r = triangle(source);
    let p = r.nrows();
    let largest = r.as_ref().norm_max();
    r /= faer::Scale(largest);
    let mut u = Mat::zeros(p, p);
    let mut values = Diag::zeros(p);
    let (none, thin) = (ComputeSvdVectors::No, ComputeSvdVectors::Thin);
    let mut memory = MemBuffer::new(svd::svd_scratch::<f64>(p, p, none, thin, Par::Seq, Default::default()));
    let stack = MemStack::new(&mut memory);
    // X = Rᵀ Qᵀ: left vectors of X are right vectors of R.
    svd::svd(r.as_ref(), values.as_mut(), None, Some(u.as_mut()), Par::Seq, stack, Default::default())
        .map_err(|_| SvdError::NoConvergence { size: p })?;
    let s = values.column_vector().iter().map(|v| v * largest).collect();
    Ok(LeftSpectrum { u, s })
}

/// R (p×p, upper) of Xᵀ = Q R: blocks of X's columns are stacked under the R so far and reduced again.
fn triangle(source: &impl Columns) -> Mat<f64> {
    let p = source.rows();
    // Few blocks as tall as R itself: each reduction redoes R.
    let width = p.max(BLOCK).min(source.cols());
    let mut work = Mat::zeros(p + width, p);
    let mut block = Block::new(p, width, source.row_major());
    let mut reflectors = Mat::zeros(qr::recommended_block_size::<f64>(p + width, p), p);
    let need = qr::qr_in_place_scratch::<f64>(p + width, p, reflectors.nrows(), Par::Seq, Default::default());
    let mut memory = MemBuffer::new(need);
    for cols in ranges(source.cols(), width) {
        let x = block.fill(source, cols);
        work.as_mut().subrows_mut(p, width).fill(0.0);
        work.as_mut().subrows_mut(p, x.ncols()).copy_from(x.transpose());
        let stack = MemStack::new(&mut memory);
        qr::qr_in_place(work.as_mut(), reflectors.as_mut(), Par::Seq, stack, Default::default());
        for j in 0..p {
            work.as_mut().col_mut(j).subrows_mut(j + 1, p + width - j - 1).fill(0.0);
        }
    }
    work.as_ref().subrows(0, p).to_owned()
}
