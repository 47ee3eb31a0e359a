//! Symmetric positive definite systems.

use super::Matrix;

/// A pivot of a matrix with unit diagonal below this is the rounding of a zero: the rows are linearly dependent.
const DEPENDENT: f64 = 1e-10;

/// The lower factor of `A = L Lᵀ` by rows; nothing if a pivot is not above `least` times its diagonal entry.
fn cholesky(a: &Matrix, least: f64) -> Option<Vec<Vec<f64>>> {
    let mut rows: Vec<Vec<f64>> = Vec::with_capacity(a.size());
    for i in 0..a.size() {
        let mut row = vec![0.0; i + 1];
        for j in 0..=i {
            let upper: &[f64] = if j < i { &rows[j] } else { &row };
            let rest = a.at(i, j) - (0..j).map(|k| row[k] * upper[k]).sum::<f64>();
            if j < i {
                row[j] = rest / rows[j][j];
            } else if rest > least * a.at(i, i) {
                row[i] = rest.sqrt();
            } else {
                return None;
            }
        }
        rows.push(row);
    }
    Some(rows)
}

/// Whether a matrix with unit diagonal is singular to rounding.
pub fn dependent(cosines: &Matrix) -> bool {
    cholesky(cosines, DEPENDENT).is_none()
}

/// `A⁻¹ b` for a symmetric positive semidefinite `A`. If it is singular to rounding, of `A + εI` with the first of
/// ε = 1e-14, 1e-12, … of the mean diagonal that is not.
pub fn solve(a: &Matrix, b: &[f64]) -> Vec<f64> {
    let size = a.mean_diagonal().max(f64::MIN_POSITIVE);
    let mut ridge = 0.0;
    loop {
        if let Some(factor) = cholesky(&a.ridged(ridge), 1e-15) {
            return substitute(&factor, b);
        }
        ridge = if ridge == 0.0 { 1e-14 * size } else { 100.0 * ridge };
        if !ridge.is_finite() || ridge > 1e6 * size {
            // Not semidefinite at all: the caller's matrix is wrong, and no answer is better than nothing.
            return vec![0.0; b.len()];
        }
    }
}

/// Forward and backward substitution.
fn substitute(factor: &[Vec<f64>], b: &[f64]) -> Vec<f64> {
    let mut x = b.to_vec();
    for i in 0..x.len() {
        let known: f64 = (0..i).map(|k| factor[i][k] * x[k]).sum();
        x[i] = (x[i] - known) / factor[i][i];
    }
    for i in (0..x.len()).rev() {
        let known: f64 = (i + 1..x.len()).map(|k| factor[k][i] * x[k]).sum();
        x[i] = (x[i] - known) / factor[i][i];
    }
    x
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn dependent_rows_are_noticed_and_solved() {
        let twins = Matrix::of(3, |_, _| 1.0);
        assert!(dependent(&twins));
        let x = solve(&twins, &[1.0; 3]);
        assert!((twins.times(&x)[0] - 1.0).abs() < 1e-9, "{x:?}");
        assert_eq!(solve(&Matrix::of(2, |_, _| f64::NAN), &[1.0; 2]), [0.0; 2]);
    }

    proptest! {
        #[test]
        fn solutions_solve(vectors in prop::collection::vec(prop::collection::vec(-1.0f64..1.0, 6), 1..5)) {
            let a = Matrix::gramian(&vectors).ridged(0.1);
            let b: Vec<f64> = (0..a.size()).map(|i| i as f64 - 1.0).collect();
            for (found, expected) in a.times(&solve(&a, &b)).iter().zip(&b) {
                prop_assert!((found - expected).abs() < 1e-11);
            }
        }
    }
}
