//! Iso-C: isotropic merging in the common subspace (Marczak et al., "No Task Left Behind", ICML 2025).
//!
//! T = Σ_k τ_k = U Σ Vᵀ; σ̄ = mean of the p singular values = ‖T‖_* / p; Δ = σ̄ U Vᵀ. The factor α is chosen on
//! validation data (about 1 to 2 for 8 tasks); without data, 1.
//! Computed as Δ = σ̄ (TTᵀ)^(-1/2) T, the polar factor.
//!
//! Deviation: where σ = 0 (rank-deficient T) U Vᵀ is not determined, and an SVD routine fills those directions
//! with arbitrary vectors at full strength σ̄; here they stay 0. σ̄ remains the mean over all p values.

use super::columns::{Combination, Deltas, Scalar, Term};
use super::orthonormal::{INPUT_NOISE, left_spectrum};
use super::{Factored, SvdError};

/// Δ of Iso-C.
pub(super) fn merge<'a, T: Scalar>(deltas: &'a Deltas<'a, T>) -> Result<Factored<'a, T>, SvdError> {
    let sum = Combination::term(deltas, Term::Sum);
    let spectrum = left_spectrum(&sum, deltas.p, INPUT_NOISE * total_norm(deltas))?;
    let mean = spectrum.s.iter().sum::<f64>() / deltas.p as f64;
    Ok(Factored { left: spectrum.polar_map(mean), right: sum })
}

/// Σ_k ‖τ_k‖_F: rounding noise of a sum is measured by its terms, which may cancel.
pub(super) fn total_norm<T: Scalar>(deltas: &Deltas<'_, T>) -> f64 {
    (0..deltas.tasks()).map(|k| deltas.norm(k)).sum()
}
