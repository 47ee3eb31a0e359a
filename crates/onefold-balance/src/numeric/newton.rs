//! The fair point of a Gramian: the positive `x` with `(A x)ᵢ = xᵢ^(−p)`.
//!
//! It is the minimiser of the strictly convex `½ xᵀAx − Σ ∫ xᵢ^(−p)` (for p = 1: `− Σ ln xᵢ`), found by damped Newton steps
//! with the exact Hessian `A + p·diag(x^(−p−1))`.

use super::Matrix;
use super::solve::{dependent, solve};
use super::vector::dot;

const STEPS: usize = 200;
/// A relative residual that rounding does not let fall much further.
const CLOSE: f64 = 1e-14;

/// Solves `(A x)ᵢ = xᵢ^(−p)` for a Gramian of vectors that are not zero, and p > 0.
///
/// Linearly dependent vectors may have no such x (of g and −g both lose what one gains): 1e-8 of the unit vectors' own inner
/// products is then added, which bounds it.
pub fn fair(gramian: &Matrix, p: f64) -> Vec<f64> {
    let (lengths, mut cosines) = gramian.cosines();
    if dependent(&cosines) {
        cosines = cosines.ridged(1e-8);
    }
    // With x = y/s: (C y)ᵢ = sᵢ^(p−1) yᵢ^(−p). With y = unit·z the right-hand factors are at most one.
    let logs: Vec<f64> = lengths.iter().map(|s| (p - 1.0) * s.ln()).collect();
    let largest = logs.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let targets: Vec<f64> = logs.iter().map(|log| (log - largest).exp().max(1e-200)).collect();
    let unit = (largest / (1.0 + p)).exp();
    let z = Problem { cosines: &cosines, targets: &targets, p }.solve();
    z.iter().zip(&lengths).map(|(z, s)| unit * z / s).collect()
}

/// `(C z)ᵢ = tᵢ zᵢ^(−p)`.
struct Problem<'a> {
    cosines: &'a Matrix,
    targets: &'a [f64],
    p: f64,
}

impl Problem<'_> {
    fn solve(&self) -> Vec<f64> {
        // With C = I this would be the solution.
        let mut z: Vec<f64> = self.targets.iter().map(|t| t.powf(1.0 / (1.0 + self.p))).collect();
        for _ in 0..STEPS {
            let slope = self.slope(&z);
            if self.residual(&z, &slope) < CLOSE {
                break;
            }
            let step = self.newton_step(&z, &slope);
            let Some(next) = self.descend(&z, &slope, &step) else { break };
            z = next;
        }
        z
    }

    fn slope(&self, z: &[f64]) -> Vec<f64> {
        let target = |i: usize| self.targets[i] * z[i].powf(-self.p);
        self.cosines.times(z).iter().enumerate().map(|(i, cz)| cz - target(i)).collect()
    }

    /// The slope, as a share of what should cancel in it.
    fn residual(&self, z: &[f64], slope: &[f64]) -> f64 {
        let share = |i: usize| (slope[i] / self.targets[i] * z[i].powf(self.p)).abs();
        (0..z.len()).map(share).fold(0.0, f64::max)
    }

    /// In units of z, so that entries of different orders keep their digits: (ZCZ + p·diag(t z^(1−p))) u = −Z·slope.
    fn newton_step(&self, z: &[f64], slope: &[f64]) -> Vec<f64> {
        let curve = |i: usize| self.p * self.targets[i] * z[i].powf(1.0 - self.p);
        let hessian = Matrix::of(z.len(), |i, j| {
            z[i] * self.cosines.at(i, j) * z[j] + if i == j { curve(i) } else { 0.0 }
        });
        let right: Vec<f64> = slope.iter().zip(z).map(|(s, z)| -s * z).collect();
        solve(&hessian, &right).iter().zip(z).map(|(u, z)| u * z).collect()
    }

    /// The longest of 1, ½, ¼, … of the step that stays positive and descends (Armijo's condition); nothing if rounding
    /// leaves no descent.
    fn descend(&self, z: &[f64], slope: &[f64], step: &[f64]) -> Option<Vec<f64>> {
        let promised = dot(slope, step);
        let before = self.value(z);
        let mut share = 1.0;
        for _ in 0..60 {
            let next: Vec<f64> = z.iter().zip(step).map(|(z, d)| z + share * d).collect();
            let positive = next.iter().zip(z).all(|(next, z)| *next > 1e-3 * z);
            if positive && self.improves(&next, before, share * promised, slope) {
                return Some(next);
            }
            share *= 0.5;
        }
        None
    }

    /// Near the solution the value no longer tells; there the slope must shrink.
    fn improves(&self, next: &[f64], before: f64, promised: f64, slope: &[f64]) -> bool {
        let gain = self.value(next) - before;
        if promised.abs() > 1e-10 * before.abs().max(1e-3) {
            return gain <= 1e-4 * promised;
        }
        let now = self.slope(next);
        dot(&now, &now) < dot(slope, slope)
    }

    fn value(&self, z: &[f64]) -> f64 {
        let gain = |(z, t): (&f64, &f64)| {
            // ∫ z^(−p), shifted so that it goes to ln z as p goes to one.
            let q = 1.0 - self.p;
            t * if q.abs() < 1e-12 { z.ln() } else { (q * z.ln()).exp_m1() / q }
        };
        0.5 * dot(z, &self.cosines.times(z)) - z.iter().zip(self.targets).map(gain).sum::<f64>()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(300))]
        #[test]
        fn the_conditions_hold(
            vectors in prop::collection::vec(prop::collection::vec(-1.0f64..1.0, 8), 1..6),
            scales in prop::collection::vec(-3i32..3, 6),
            p in 0.4f64..2.5,
        ) {
            let scaled: Vec<Vec<f64>> = vectors.iter().zip(&scales)
                .map(|(v, s)| v.iter().map(|v| v * 10f64.powi(*s)).collect()).collect();
            let a = Matrix::gramian(&scaled);
            prop_assume!(a.diagonal().iter().all(|d| *d > 0.0));
            prop_assume!(!dependent(&a.cosines().1));
            let x = fair(&a, p);
            for (ax, x) in a.times(&x).iter().zip(&x) {
                prop_assert!(*x > 0.0);
                prop_assert!((ax * x.powf(p) - 1.0).abs() < 1e-7, "{} {}", ax, x.powf(-p));
            }
        }
    }

    #[test]
    fn opposite_vectors_end_somewhere() {
        let x = fair(&Matrix::gramian(&[vec![1.0], vec![-2.0]]), 1.0);
        assert!(
            x.iter().all(|x| x.is_finite() && *x > 0.0) && (x[0] - 2.0 * x[1]).abs() < 1e-6 * x[0],
            "{x:?}"
        );
    }
}
