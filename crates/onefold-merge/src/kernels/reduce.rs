//! Reductions of a block to a few f64 numbers. Products of two f32 are exact in f64; independent lanes keep the order of
//! the additions fixed whatever the instruction set.

use multiversion::multiversion;

const LANES: usize = 32;

/// Number of entries of the packed upper triangle of an n×n matrix.
pub const fn packed_len(n: usize) -> usize {
    n * (n + 1) / 2
}

/// Position of entry (i, j), i ≤ j, in the packed upper triangle, row by row.
pub const fn packed_index(n: usize, i: usize, j: usize) -> usize {
    i * n - i * (i + 1) / 2 + j
}

/// The inner products of all pairs of `vectors` as packed upper triangle, exact to f64 rounding.
pub fn gramian<V: AsRef<[f32]>>(vectors: &[V], out: &mut [f64]) {
    let n = vectors.len();
    debug_assert_eq!(out.len(), packed_len(n));
    for i in 0..n {
        for j in i..n {
            out[packed_index(n, i, j)] = dot(vectors[i].as_ref(), vectors[j].as_ref());
        }
    }
}

/// Adds the same to `out`, to some 1e-7, at a third of the time: for reports, where nothing is computed from the figures.
/// The vectors come from `vector`, by number.
pub fn add_rough_gramian<'v>(n: usize, vector: impl Fn(usize) -> &'v [f32], out: &mut [f64]) {
    debug_assert_eq!(out.len(), packed_len(n));
    for i in 0..n {
        let x = vector(i);
        for j in i..n {
            out[packed_index(n, i, j)] += rough_dot(x, vector(j));
        }
    }
}

/// `Σ xᵢ yᵢ` with products and the sums of 16 of them in f32, the rest in f64. Magnitudes whose squares leave the range
/// of f32 are summed by [`dot`].
pub(crate) fn rough_dot(x: &[f32], y: &[f32]) -> f64 {
    let sum = rough_sum(x, y);
    if sum.is_finite() && sum.abs() > LEAST { sum } else { dot(x, y) }
}

/// Sums of f32 below are too small to be told from zero.
pub(crate) const LEAST: f64 = 1e-25;

/// Lanes of a rough sum.
pub(crate) const WIDE: usize = 64;

#[multiversion(targets("x86_64+avx512f", "x86_64+avx2", "aarch64+neon"))]
fn rough_sum(x: &[f32], y: &[f32]) -> f64 {
    let mut total = [0.0f64; WIDE];
    for (x, y) in x.chunks(16 * WIDE).zip(y.chunks(16 * WIDE)) {
        let mut lanes = [0.0f32; WIDE];
        let ((x_chunks, x_tail), (y_chunks, y_tail)) = (x.as_chunks::<WIDE>(), y.as_chunks::<WIDE>());
        for (x, y) in x_chunks.iter().zip(y_chunks) {
            for lane in 0..WIDE {
                lanes[lane] += x[lane] * y[lane];
            }
        }
        for (lane, (x, y)) in x_tail.iter().zip(y_tail).enumerate() {
            lanes[lane] += x * y;
        }
        for lane in 0..WIDE {
            total[lane] += f64::from(lanes[lane]);
        }
    }
    fold(total)
}

/// The sum of all lanes, in halves, which a vector unit can do: one after the other would take longer than the products.
#[inline(always)]
pub(crate) fn fold(mut lanes: [f64; WIDE]) -> f64 {
    let mut width = WIDE;
    while width > 1 {
        width /= 2;
        for lane in 0..width {
            lanes[lane] += lanes[lane + width];
        }
    }
    lanes[0]
}

/// `Σ xᵢ yᵢ`.
#[multiversion(targets("x86_64+avx512f", "x86_64+avx2", "aarch64+neon"))]
pub fn dot(x: &[f32], y: &[f32]) -> f64 {
    let mut lanes = [0.0f64; LANES];
    let (x_chunks, x_tail) = x.as_chunks::<LANES>();
    let (y_chunks, y_tail) = y.as_chunks::<LANES>();
    for (x, y) in x_chunks.iter().zip(y_chunks) {
        for lane in 0..LANES {
            lanes[lane] += f64::from(x[lane]) * f64::from(y[lane]);
        }
    }
    for (lane, (x, y)) in x_tail.iter().zip(y_tail).enumerate() {
        lanes[lane] += f64::from(*x) * f64::from(*y);
    }
    lanes.iter().sum()
}

/// `Σ |xᵢ|`.
#[multiversion(targets("x86_64+avx512f", "x86_64+avx2", "aarch64+neon"))]
pub fn l1(x: &[f32]) -> f64 {
    let mut lanes = [0.0f64; LANES];
    let (chunks, tail) = x.as_chunks::<LANES>();
    for x in chunks {
        for lane in 0..LANES {
            lanes[lane] += f64::from(x[lane].abs());
        }
    }
    for (lane, x) in tail.iter().enumerate() {
        lanes[lane] += f64::from(x.abs());
    }
    lanes.iter().sum()
}

/// Adds the partial sums of blocks in their order.
pub fn sum_in_order(parts: impl IntoIterator<Item = Vec<f64>>, len: usize) -> Vec<f64> {
    let mut total = vec![0.0; len];
    for part in parts {
        for (t, p) in total.iter_mut().zip(&part) {
            *t += p;
        }
    }
    total
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn agrees_with_the_naive_sum(x in prop::collection::vec(-1e3f32..1e3, 0..70), seed in 0u32..100) {
            let y: Vec<f32> = x.iter().map(|v| v * 0.5 + seed as f32).collect();
            let naive: f64 = x.iter().zip(&y).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
            let scale: f64 = x.iter().zip(&y).map(|(a, b)| (f64::from(*a) * f64::from(*b)).abs()).sum();
            prop_assert!((dot(&x, &y) - naive).abs() <= 1e-14 * scale);
            prop_assert!((rough_dot(&x, &y) - naive).abs() <= 1e-6 * scale);
            let naive: f64 = x.iter().map(|v| f64::from(v.abs())).sum();
            prop_assert!((l1(&x) - naive).abs() <= 1e-14 * naive);
        }
    }

    #[test]
    fn rough_sums_survive_extreme_magnitudes() {
        for scale in [1e-30f32, 1e30] {
            let x = vec![scale; 100];
            let exact = 100.0 * f64::from(scale) * f64::from(scale);
            assert!((rough_dot(&x, &x) / exact - 1.0).abs() < 1e-6, "{scale}");
        }
    }

    #[test]
    fn the_packed_triangle_is_row_by_row() {
        let mut order = Vec::new();
        for i in 0..4 {
            for j in i..4 {
                order.push(packed_index(4, i, j));
            }
        }
        assert_eq!(order, (0..packed_len(4)).collect::<Vec<_>>());
        let mut g = vec![0.0; 3];
        gramian(&[vec![1.0, 2.0], vec![3.0, -1.0]], &mut g);
        assert_eq!(g, [5.0, 1.0, 10.0]);
    }
}
