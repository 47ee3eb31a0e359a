//! Iso-CTS: isotropic merging in common and task-specific subspaces (Marczak et al., ICML 2025).
//!
//! The first c left vectors U_c of T = Σ τ_k are common; task k adds the first s triples of its residual
//! R_k = τ_k − U_c U_cᵀ τ_k. All triples together, task blocks first, then the common block; U⊥ and V⊥ by
//! Procrustes as in TSV-M; σ̄ = mean of all the singular values; Δ = σ̄ U⊥ V⊥ᵀ. c and s: [`super::directions`].
//!
//! The projection acts on the rows of the stored matrix. If those are the small side, R_k lives in the span of
//! the remaining left vectors U_o, and the SVD of the small U_oᵀ τ_k gives R_k's. If they are the large side
//! (here X_k = τ_kᵀ), it acts on the right: R_kᵀ = X_k − X_k Z Zᵀ with Zᵀ = S_c⁻¹ U_cᵀ Σ X_k, which is linear in
//! the task vectors too: X_k + E_k Σ_j X_j with E_k = −(X_k Σ_j X_jᵀ) F_cᵀ F_c, F_c = S_c⁻¹ U_cᵀ.
//!
//! Deviation: triples with σ = 0 are left out (σ̄ still counts them), as in the sister methods.

use faer::{Mat, MatRef};

use super::columns::{Combination, Deltas, Part, Scalar, Term, cross_gram};
use super::iso_c::total_norm;
use super::orthonormal::{INPUT_NOISE, LeftSpectrum, left_spectrum, times};
use super::tsv_m::whitened;
use super::{Directions, Factored, SvdError};

/// Triples gathered so far: U (p×p, the first `rank` columns used), the sum of the singular values, and the
/// rows of Vᵀ as linear maps of the task vectors (`parts`) and of their sum (`of_sum`, p×p, `rank` rows used).
struct Gathered {
    u: Mat<f64>,
    total: f64,
    rank: usize,
    parts: Vec<Part>,
    of_sum: Mat<f64>,
}

/// The subspace of the sum's first triples.
struct Common {
    spectrum: LeftSpectrum,
    /// Directions in it that are not null.
    rank: usize,
    /// F_c = S_c⁻¹ U_cᵀ (rank×p).
    to_right: Mat<f64>,
}

/// Δ of Iso-CTS.
pub(super) fn merge<'a, T: Scalar>(
    deltas: &'a Deltas<'a, T>,
    split: Directions,
) -> Result<Factored<'a, T>, SvdError> {
    let p = deltas.p;
    let common = common(deltas, split.common)?;
    let (u, of_sum) = (Mat::zeros(p, p), Mat::zeros(p, p));
    let mut all = Gathered { u, total: 0.0, rank: 0, parts: Vec::new(), of_sum };
    for k in 0..deltas.tasks() {
        if split.per_task > 0 {
            add_task(&mut all, deltas, &common, k, split.per_task)?;
        }
    }
    let u_common = common.spectrum.u.get(.., ..common.rank);
    let at = all.append(u_common, &common.spectrum.s[..common.rank]);
    all.of_sum.as_mut().subrows_mut(at, common.rank).copy_from(&common.to_right);
    let mean = all.total / (split.common + split.per_task * deltas.tasks()) as f64;
    finish(deltas, all, mean)
}

fn common<T: Scalar>(deltas: &Deltas<'_, T>, keep: usize) -> Result<Common, SvdError> {
    let sum = Combination::term(deltas, Term::Sum);
    let spectrum = left_spectrum(&sum, keep, INPUT_NOISE * total_norm(deltas))?;
    let rank = spectrum.rank(keep);
    let to_right = spectrum.to_right(rank);
    Ok(Common { spectrum, rank, to_right })
}

fn add_task<T: Scalar>(
    all: &mut Gathered,
    deltas: &Deltas<'_, T>,
    common: &Common,
    k: usize,
    keep: usize,
) -> Result<(), SvdError> {
    let noise = INPUT_NOISE * deltas.norm(k);
    if deltas.transposed {
        let (residual, e) = residual_right(deltas, common, k);
        let found = left_spectrum(&residual, keep, noise)?;
        let count = found.rank(keep);
        let at = all.append(found.u.get(.., ..count), &found.s[..count]);
        let to_right = found.to_right(count);
        let of_sum = times(to_right.as_ref(), e.as_ref());
        all.of_sum.as_mut().subrows_mut(at, count).copy_from(&of_sum);
        all.parts.push(Part { at, left: Some(to_right), term: Term::Task(k) });
    } else {
        let others = common.spectrum.u.get(.., common.rank..); // U_o, p×(p−c)
        let reduced = Combination::product(deltas, others.transpose().to_owned(), Term::Task(k));
        let found = left_spectrum(&reduced, keep, noise)?;
        let count = found.rank(keep);
        let at = all.append(times(others, found.u.get(.., ..count)).as_ref(), &found.s[..count]);
        // U_kᵀ R_k = U_kᵀ τ_k, because U_k is orthogonal to U_c.
        let to_right = times(found.to_right(count).as_ref(), others.transpose());
        all.parts.push(Part { at, left: Some(to_right), term: Term::Task(k) });
    }
    Ok(())
}

/// X_k + E_k Σ_j X_j, and E_k.
fn residual_right<'a, T: Scalar>(
    deltas: &'a Deltas<'a, T>,
    common: &Common,
    k: usize,
) -> (Combination<'a, T>, Mat<f64>) {
    let task = Combination::term(deltas, Term::Task(k));
    let cross = cross_gram(&task, &Combination::term(deltas, Term::Sum));
    let on_common = times(cross.as_ref(), common.to_right.transpose()); // X_k Z, p×c
    let mut e = times(on_common.as_ref(), common.to_right.as_ref());
    e *= faer::Scale(-1.0);
    let parts = vec![
        Part { at: 0, left: None, term: Term::Task(k) },
        Part { at: 0, left: Some(e.clone()), term: Term::Sum },
    ];
    (Combination { deltas, rows: deltas.p, parts }, e)
}

fn finish<'a, T: Scalar>(
    deltas: &'a Deltas<'a, T>,
    all: Gathered,
    mean: f64,
) -> Result<Factored<'a, T>, SvdError> {
    let Gathered { u, rank, mut parts, of_sum, .. } = all;
    // Without the right-hand projection only the common rows, the last ones, read the sum.
    let first = if deltas.transposed { 0 } else { parts.iter().map(Part::end).max().unwrap_or(0) };
    if rank > first {
        let left = Some(of_sum.as_ref().subrows(first, rank - first).to_owned());
        parts.push(Part { at: first, left, term: Term::Sum });
    }
    let vt = Combination { deltas, rows: rank, parts };
    let left = whitened(u.get(.., ..rank), &vec![mean; rank], &vt)?;
    Ok(Factored { left, right: vt })
}

impl Gathered {
    /// Adds the columns of `u` with their singular values; returns where they begin.
    fn append(&mut self, u: MatRef<'_, f64>, s: &[f64]) -> usize {
        let at = self.rank;
        self.u.as_mut().subcols_mut(at, u.ncols()).copy_from(u);
        self.total += s.iter().sum::<f64>();
        self.rank += u.ncols();
        at
    }
}

impl Part {
    /// The row after its last.
    fn end(&self) -> usize {
        self.at + self.left.as_ref().map_or(0, Mat::nrows)
    }
}
