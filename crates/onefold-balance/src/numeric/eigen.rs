//! Eigenvalues and eigenvectors of a symmetric matrix, by cyclic Jacobi rotations: slow for large matrices, exact to
//! rounding for small ones.

use super::Matrix;

const SWEEPS: usize = 60;

/// Eigenvalues with their unit eigenvectors, in no particular order.
pub fn symmetric(matrix: &Matrix) -> Vec<(f64, Vec<f64>)> {
    let n = matrix.size();
    let mut a: Vec<Vec<f64>> = (0..n).map(|i| matrix.row(i).to_vec()).collect();
    let mut vectors: Vec<Vec<f64>> =
        (0..n).map(|i| (0..n).map(|j| f64::from(u8::from(i == j))).collect()).collect();
    for _ in 0..SWEEPS {
        if off_diagonal(&a) <= f64::EPSILON.powi(2) * diagonal(&a) {
            break;
        }
        for p in 0..n {
            for q in p + 1..n {
                if let Some((c, s)) = rotation(a[p][p], a[q][q], a[p][q]) {
                    rotate(&mut a, &mut vectors, (p, q), (c, s));
                }
            }
        }
    }
    vectors.into_iter().enumerate().map(|(i, vector)| (a[i][i], vector)).collect()
}

fn off_diagonal(a: &[Vec<f64>]) -> f64 {
    let square = |(i, row): (usize, &Vec<f64>)| -> f64 { row[..i].iter().map(|v| v * v).sum() };
    a.iter().enumerate().map(square).sum()
}

fn diagonal(a: &[Vec<f64>]) -> f64 {
    a.iter().enumerate().map(|(i, row)| row[i] * row[i]).sum()
}

/// Cosine and sine of the rotation that makes `pq` zero, if it is not.
fn rotation(pp: f64, qq: f64, pq: f64) -> Option<(f64, f64)> {
    if pq == 0.0 {
        return None;
    }
    let theta = (qq - pp) / (2.0 * pq);
    let tangent = theta.signum() / (theta.abs() + theta.hypot(1.0));
    let cosine = 1.0 / tangent.hypot(1.0);
    Some((cosine, tangent * cosine))
}

/// `a ← JᵀaJ` in rows and columns p and q; the rows of `vectors` turn along.
fn rotate(a: &mut [Vec<f64>], vectors: &mut [Vec<f64>], (p, q): (usize, usize), (c, s): (f64, f64)) {
    for row in a.iter_mut() {
        (row[p], row[q]) = (c * row[p] - s * row[q], s * row[p] + c * row[q]);
    }
    turn_rows(a, (p, q), (c, s));
    turn_rows(vectors, (p, q), (c, s));
}

fn turn_rows(rows: &mut [Vec<f64>], (p, q): (usize, usize), (c, s): (f64, f64)) {
    for k in 0..rows[p].len() {
        let (x, y) = (rows[p][k], rows[q][k]);
        (rows[p][k], rows[q][k]) = (c * x - s * y, s * x + c * y);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::numeric::vector::dot;

    proptest! {
        #[test]
        fn pairs_are_eigenpairs(vectors in prop::collection::vec(prop::collection::vec(-1.0f64..1.0, 4), 1..7)) {
            let a = Matrix::gramian(&vectors);
            let pairs = symmetric(&a);
            for (i, (value, vector)) in pairs.iter().enumerate() {
                for (found, v) in a.times(vector).iter().zip(vector) {
                    prop_assert!((found - value * v).abs() < 1e-12);
                }
                for (j, (_, other)) in pairs.iter().enumerate() {
                    prop_assert!((dot(vector, other) - f64::from(u8::from(i == j))).abs() < 1e-12);
                }
            }
        }
    }
}
