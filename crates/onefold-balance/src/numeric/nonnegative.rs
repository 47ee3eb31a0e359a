//! Quadratic programs over nonnegative numbers: `min ½ xᵀHx − bᵀx` with `x ≥ 0`, H positive semidefinite.
//!
//! The active-set method of Lawson and Hanson (Solving Least Squares Problems, 1974, chapter 23), on inner products: it ends
//! after finitely many steps at an exact solution.

use super::Matrix;
use super::solve::solve;
use super::vector::dot;

/// The minimiser. H should have a diagonal of about one (see [`Matrix::cosines`]).
pub fn minimise(h: &Matrix, b: &[f64]) -> Vec<f64> {
    let n = b.len();
    let mut x = vec![0.0; n];
    let mut free = vec![false; n];
    // Each entry leaves and enters a few times at most; the bound is against rounding that would let it do so for ever.
    for _ in 0..10 * (n + 1) {
        let Some(entering) = steepest(h, b, &x, &free) else { break };
        free[entering] = true;
        settle(h, b, &mut x, &mut free);
    }
    x
}

/// The entry at its bound that would gain most by leaving it, if any would by more than rounding. One that would not
/// become positive if it were freed is none.
fn steepest(h: &Matrix, b: &[f64], x: &[f64], free: &[bool]) -> Option<usize> {
    let slope = |i: usize| b[i] - dot(h.row(i), x);
    let noise = |i: usize| {
        let sum: f64 = h.row(i).iter().zip(x).map(|(h, x)| (h * x).abs()).sum();
        1e-14 * (b[i].abs() + sum)
    };
    let mut gains: Vec<(f64, usize)> =
        (0..x.len()).filter(|i| !free[*i] && slope(*i) > noise(*i)).map(|i| (slope(i), i)).collect();
    gains.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
    gains.into_iter().map(|(_, i)| i).find(|i| {
        let mut tried = free.to_vec();
        tried[*i] = true;
        stationary(h, b, &tried)[*i] > 0.0
    })
}

/// The minimiser with the entries outside of `free` held at zero, whatever its signs.
fn stationary(h: &Matrix, b: &[f64], free: &[bool]) -> Vec<f64> {
    let rows: Vec<usize> = (0..b.len()).filter(|i| free[*i]).collect();
    let part = solve(&h.select(&rows), &rows.iter().map(|i| b[*i]).collect::<Vec<_>>());
    let mut x = vec![0.0; b.len()];
    rows.iter().zip(part).for_each(|(i, value)| x[*i] = value);
    x
}

/// Moves to the minimiser over the free entries; those that reach zero on the way are bound again. Each round binds one at
/// least, so it ends.
fn settle(h: &Matrix, b: &[f64], x: &mut [f64], free: &mut [bool]) {
    loop {
        let goal = stationary(h, b, free);
        // The share of the way that each may go.
        let shares: Vec<f64> =
            (0..x.len())
                .map(|i| {
                    if free[i] && goal[i] <= 0.0 {
                        x[i] / (x[i] - goal[i]).max(f64::MIN_POSITIVE)
                    } else {
                        2.0
                    }
                })
                .collect();
        let share = shares.iter().copied().fold(2.0, f64::min);
        if share >= 2.0 {
            x.copy_from_slice(&goal);
            return;
        }
        for i in 0..x.len() {
            x[i] += share * (goal[i] - x[i]);
            if shares[i] <= share {
                (x[i], free[i]) = (0.0, false);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The conditions of Karush, Kuhn and Tucker, which a minimiser meets and nothing else.
    fn is_minimiser(h: &Matrix, b: &[f64], x: &[f64], tolerance: f64) -> Result<(), String> {
        for (i, (hx, b)) in h.times(x).iter().zip(b).enumerate() {
            let slope = b - hx;
            let met = x[i] >= 0.0 && slope <= tolerance && (x[i] == 0.0 || slope.abs() <= tolerance);
            if !met {
                return Err(format!("entry {i}: x {}, slope {slope}, of {x:?}", x[i]));
            }
        }
        Ok(())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(400))]

        /// Also with more vectors than dimensions, so that H is singular (b lies in its range, as it does for our uses).
        #[test]
        fn kkt(
            vectors in prop::collection::vec(prop::collection::vec(-1.0f64..1.0, 3), 1..7),
            target in prop::collection::vec(-1.0f64..1.0, 3),
        ) {
            let (lengths, h) = Matrix::gramian(&vectors).ridged(1e-300).cosines();
            prop_assume!(lengths.iter().all(|s| *s > 1e-3));
            let b: Vec<f64> = vectors.iter().zip(&lengths).map(|(v, s)| dot(v, &target) / s).collect();
            let x = minimise(&h, &b);
            prop_assert_eq!(is_minimiser(&h, &b, &x, 1e-9), Ok(()));
        }
    }
}
