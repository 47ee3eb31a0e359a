//! How several vectors differ, element by element.

use multiversion::multiversion;
use onefold_runtime::Aligned;

/// Adds the squared distances from `mean`.
#[multiversion(targets("x86_64+avx512f", "x86_64+avx2", "aarch64+neon"))]
fn accumulate(x: &[f32], mean: &[f32], squares: &mut [f32]) {
    for ((x, m), s) in x.iter().zip(mean).zip(squares) {
        *s += (x - m) * (x - m);
    }
}

/// Elements that are worked on together: their values of a few vectors fit the first-level cache.
const PIECE: usize = 1024;

/// Population variance over the vectors.
pub fn variance(vectors: &[Aligned], out: &mut [f32]) {
    let share = 1.0 / vectors.len() as f32;
    let mut mean = [0.0; PIECE];
    for (i, out) in out.chunks_mut(PIECE).enumerate() {
        let part = i * PIECE..i * PIECE + out.len();
        let mean = &mut mean[..out.len()];
        mean.fill(0.0);
        for vector in vectors {
            super::add(mean, &vector[part.clone()]);
        }
        super::scale(mean, share);
        out.fill(0.0);
        for vector in vectors {
            accumulate(&vector[part.clone()], mean, out);
        }
        super::scale(out, share);
    }
}

/// How many values are not zero.
#[multiversion(targets("x86_64+avx512f", "x86_64+avx2", "aarch64+neon"))]
pub fn count_nonzero(x: &[f32]) -> u64 {
    x.iter().map(|v| u64::from(*v != 0.0)).sum()
}

/// Adds 1 to `counts` where the magnitude of `x` exceeds `epsilon`.
#[multiversion(targets("x86_64+avx512f", "x86_64+avx2", "aarch64+neon"))]
pub fn count_active(x: &[f32], epsilon: f32, counts: &mut [f32]) {
    for (x, c) in x.iter().zip(counts) {
        *c += if x.abs() > epsilon { 1.0 } else { 0.0 };
    }
}

/// Numbers of active elements of `x` that others share, and that none shares, given how many are active at each place.
#[multiversion(targets("x86_64+avx512f", "x86_64+avx2", "aarch64+neon"))]
pub fn shared_and_unique(x: &[f32], epsilon: f32, counts: &[f32]) -> (u64, u64) {
    let (mut shared, mut unique) = (0u64, 0u64);
    for (x, counts) in x.chunks(4096).zip(counts.chunks(4096)) {
        let (mut s, mut u) = (0u32, 0u32);
        for (x, c) in x.iter().zip(counts) {
            let active = x.abs() > epsilon;
            s += u32::from(active & (*c > 1.0));
            u += u32::from(active & (*c == 1.0));
        }
        shared += u64::from(s);
        unique += u64::from(u);
    }
    (shared, unique)
}

/// `out += x` where active, `boosted = factor · x` where active.
#[multiversion(targets("x86_64+avx512f", "x86_64+avx2", "aarch64+neon"))]
pub fn add_active(x: &[f32], epsilon: f32, factor: f32, out: &mut [f32], boosted: &mut [f32]) {
    for ((x, o), b) in x.iter().zip(out).zip(boosted) {
        let active = x.abs() > epsilon;
        *o += if active { *x } else { 0.0 };
        *b = if active { factor * x } else { *b };
    }
}

/// `out = boosted` where one was active, their mean where several were.
#[multiversion(targets("x86_64+avx512f", "x86_64+avx2", "aarch64+neon"))]
pub fn settle(counts: &[f32], boosted: &[f32], out: &mut [f32]) {
    for ((o, c), b) in out.iter_mut().zip(counts).zip(boosted) {
        let mean = *o / c.max(1.0);
        *o = if *c == 1.0 { *b } else { mean };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variances_and_counts_by_hand() {
        let vectors = [[1.0, 2.0, 0.0], [3.0, 2.0, -6.0]].map(|v| Aligned::from(&v[..]));
        let mut out = [9.0; 3];
        variance(&vectors, &mut out);
        assert_eq!(out, [1.0, 0.0, 9.0]);
        let mut counts = [0.0; 3];
        vectors.iter().for_each(|v| count_active(v, 1.5, &mut counts));
        assert_eq!(counts, [1.0, 2.0, 1.0]);
        assert_eq!(shared_and_unique(&vectors[1], 1.5, &counts), (1, 2));
    }
}
