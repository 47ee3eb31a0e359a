//! TSV-M: task singular vectors, merged (Gargiulo et al., "Task Singular Vectors", CVPR 2025).
//!
//! τ_k = U_k Σ_k V_kᵀ, the first r = ⌊p/K⌋ triples of each; U = [U_1 … U_K], V likewise, Σ = all kept values;
//! Δ = U⊥ Σ V⊥ᵀ with U⊥, V⊥ the orthonormal matrices nearest to U and V. The paper's α is 1.
//! Computed as Δ = (U⊥ Σ W) Vᵀ with W = (VᵀV)^(-1/2) and V_kᵀ = Σ_k⁻¹ U_kᵀ τ_k, so that V is never stored.
//!
//! Deviations: K = 1 returns τ itself. With K > p no task would keep a direction and the paper's Δ is 0; a
//! matrix that thin (a vector, mostly) takes the mean of the τ_k instead, like every other vector of the model.
//! Triples with σ = 0 are left out; the authors' code hands arbitrary vectors in their place to the whitening,
//! where they disturb the others.

use faer::{Mat, MatRef};

use super::columns::{Columns, Combination, Deltas, Part, Scalar, Term};
use super::orthonormal::{INPUT_NOISE, left_spectrum, nearest_orthonormal, times, whitener};
use super::{Factored, SvdError};

/// Δ for r = `keep` ≥ 1 directions per task.
pub(super) fn merge<'a, T: Scalar>(
    deltas: &'a Deltas<'a, T>,
    keep: usize,
) -> Result<Factored<'a, T>, SvdError> {
    let (p, mut rank) = (deltas.p, 0);
    let mut u = Mat::zeros(p, keep * deltas.tasks());
    let mut sigma = Vec::new();
    let mut parts = Vec::new();
    for k in 0..deltas.tasks() {
        let task = Combination::term(deltas, Term::Task(k));
        let spectrum = left_spectrum(&task, keep, INPUT_NOISE * deltas.norm(k))?;
        let found = spectrum.rank(keep);
        u.as_mut().subcols_mut(rank, found).copy_from(spectrum.u.get(.., ..found));
        sigma.extend_from_slice(&spectrum.s[..found]);
        parts.push(Part { at: rank, left: Some(spectrum.to_right(found)), term: Term::Task(k) });
        rank += found;
    }
    let vt = Combination { deltas, rows: rank, parts }; // rank×n
    let left = whitened(u.get(.., ..rank), &sigma, &vt)?;
    Ok(Factored { left, right: vt })
}

/// U⊥ diag(values) (VᵀV)^(-1/2), p×rank; times `vt` it is U⊥ diag(values) V⊥ᵀ.
pub(super) fn whitened(u: MatRef<'_, f64>, values: &[f64], vt: &impl Columns) -> Result<Mat<f64>, SvdError> {
    if vt.rows() == 0 {
        return Ok(Mat::zeros(u.nrows(), 0));
    }
    let mut scaled = nearest_orthonormal(u)?;
    for (mut column, &value) in scaled.as_mut().col_iter_mut().zip(values) {
        column *= faer::Scale(value);
    }
    Ok(times(scaled.as_ref(), whitener(vt)?.as_ref()))
}
