//! The shortest convex combination of vectors, from their Gramian.

use super::Matrix;
use super::nonnegative::minimise;
use super::vector::normalised;

/// `w = argmin wᵀAw` over the simplex {w ≥ 0, Σw = 1}, exactly.
///
/// With w = x/Σx, min xᵀAx + (Σx − 1)² over x ≥ 0 has the same w: for x = s·w it is s²q + (s − 1)², of which the least
/// over s, q/(1+q), grows with q = wᵀAw. That is a program over nonnegative numbers. It is solved for unit vectors, x then
/// being in units of 1/‖gᵢ‖.
pub fn weights(gramian: &Matrix) -> Vec<f64> {
    let none = |i: usize| gramian.at(i, i) < f64::MIN_POSITIVE;
    let zeros: Vec<f64> = (0..gramian.size()).map(|i| f64::from(u8::from(none(i)))).collect();
    if zeros.contains(&1.0) {
        return normalised(&zeros);
    }
    let (lengths, cosines) = gramian.cosines();
    let shortest = lengths.iter().copied().fold(f64::INFINITY, f64::min);
    let units: Vec<f64> = lengths.iter().map(|s| shortest / s).collect();
    let h = Matrix::of(units.len(), |i, j| cosines.at(i, j) + units[i] * units[j]);
    let x = minimise(&h, &units);
    normalised(&x.iter().zip(&units).map(|(x, unit)| x * unit).collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::numeric::vector::dot;

    /// w is optimal over the simplex if and only if ⟨gᵢ, d⟩ ≥ ‖d‖² for every i.
    fn is_shortest(gramian: &Matrix, w: &[f64], tolerance: f64) -> bool {
        let inner = gramian.times(w);
        let square = dot(w, &inner);
        let sum: f64 = w.iter().sum();
        (sum - 1.0).abs() < 1e-12
            && w.iter().all(|w| *w >= 0.0)
            && inner.iter().enumerate().all(|(i, v)| *v >= square - tolerance * gramian.at(i, i).max(square))
    }

    #[test]
    fn two_vectors_have_a_closed_form() {
        let a = Matrix::gramian(&[vec![2.0, 1.0], vec![-1.0, 1.0]]);
        let first = (a.at(1, 1) - a.at(0, 1)) / (a.at(0, 0) + a.at(1, 1) - 2.0 * a.at(0, 1));
        assert!((weights(&a)[0] - first).abs() < 1e-15);
    }

    #[test]
    fn a_zero_is_the_shortest() {
        assert_eq!(weights(&Matrix::gramian(&[vec![1.0], vec![0.0]])), [0.0, 1.0]);
    }

    #[test]
    fn lengths_of_different_orders() {
        let a = Matrix::gramian(&[vec![1e-8, 1e-8], vec![1e8, -1e8], vec![-1e3, 0.0]]);
        let w = weights(&a);
        assert!(is_shortest(&a, &w, 1e-12), "{w:?}");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(400))]
        #[test]
        fn no_other_is_shorter(
            vectors in prop::collection::vec(prop::collection::vec(-1.0f64..1.0, 3), 1..8),
            scales in prop::collection::vec(-3i32..3, 8),
        ) {
            let scaled: Vec<Vec<f64>> = vectors.iter().zip(&scales)
                .map(|(v, s)| v.iter().map(|v| v * 10f64.powi(*s)).collect()).collect();
            let a = Matrix::gramian(&scaled);
            prop_assert!(is_shortest(&a, &weights(&a), 1e-9), "{:?}", weights(&a));
        }
    }
}
