//! Mixing sparsified task vectors: masks, sign election, disjoint sums.

use multiversion::multiversion;
use onefold_runtime::Aligned;

use onefold_runtime::random::GROUP;

use crate::order::Cut;

/// Writes `c · x` to `out` where `x` ranks above `low` and not above `high`, 0 elsewhere. `start` is the position of the
/// block in the sequence that was ranked.
pub fn keep_ranked(x: &[f32], start: u64, low: Cut, high: Cut, c: f32, out: &mut [f32]) {
    if low.splits_ties_in(start, x.len()) || high.splits_ties_in(start, x.len()) {
        for (i, (o, v)) in out.iter_mut().zip(x).enumerate() {
            let kept = low.keeps(*v, start + i as u64) && !high.keeps(*v, start + i as u64);
            *o = if kept { c * *v } else { 0.0 };
        }
    } else {
        keep_between(x, low.first_kept_bits(start), high.first_kept_bits(start), c, out);
    }
}

/// Writes `c · x` to `out` where `low ≤ |x| < high` in the order of their bits, 0 elsewhere.
#[multiversion(targets("x86_64+avx512f", "x86_64+avx2", "aarch64+neon"))]
fn keep_between(x: &[f32], low: u32, high: u32, c: f32, out: &mut [f32]) {
    for (o, v) in out.iter_mut().zip(x) {
        let magnitude = v.to_bits() & 0x7fff_ffff;
        *o = if magnitude >= low && magnitude < high { c * *v } else { 0.0 };
    }
}

/// Writes `c · x` to `out` where its mark is set, 0 elsewhere. The layout of marks is that of [`GROUP`].
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512vl", "x86_64+avx2", "aarch64+neon"))]
pub fn keep_marked(x: &[f32], marks: &[u8], c: f32, out: &mut [f32]) {
    for ((out, x), marks) in out.chunks_mut(GROUP).zip(x.chunks(GROUP)).zip(marks.chunks(LANES)) {
        for (bit, (out, x)) in out.chunks_mut(LANES).zip(x.chunks(LANES)).enumerate() {
            for ((o, v), mark) in out.iter_mut().zip(x).zip(marks) {
                *o = if mark >> bit & 1 == 1 { c * *v } else { 0.0 };
            }
        }
    }
}

/// `out += c · x` where the mark of `x` is set; see [`keep_marked`].
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512vl", "x86_64+avx2", "aarch64+neon"))]
pub fn add_marked(out: &mut [f32], c: f32, x: &[f32], marks: &[u8]) {
    for ((out, x), marks) in out.chunks_mut(GROUP).zip(x.chunks(GROUP)).zip(marks.chunks(LANES)) {
        for (bit, (out, x)) in out.chunks_mut(LANES).zip(x.chunks(LANES)).enumerate() {
            for ((o, v), mark) in out.iter_mut().zip(x).zip(marks) {
                *o += c * if mark >> bit & 1 == 1 { *v } else { 0.0 };
            }
        }
    }
}

/// Marks the elements of which any bit is set; see [`keep_marked`].
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512vl", "x86_64+avx2", "aarch64+neon"))]
pub fn mark(x: &[f32], marks: &mut [u8]) {
    for (x, marks) in x.chunks(GROUP).zip(marks.chunks_mut(LANES)) {
        for (bit, x) in x.chunks(LANES).enumerate() {
            for (v, mark) in x.iter().zip(&mut *marks) {
                *mark |= u8::from(v.to_bits() != 0) << bit;
            }
        }
    }
}

const LANES: usize = GROUP / 8;

/// Sign election and disjoint sum. `weighted[k]` are the weighted task vectors; `votes` the sum whose sign wins (+ for
/// zero unless `zero_sign` says −). An element agrees if it is not zero and has the elected sign. `out` receives the
/// sum of those that agree; if `weights` are given it is divided by the sum of their weights (1 where that is 0).
pub fn elect(
    weighted: &[Aligned],
    votes: &[f32],
    zero_sign: f32,
    weights: Option<&[f32]>,
    out: &mut [f32],
    divisor: &mut Aligned,
) {
    out.fill(0.0);
    match weights {
        None => {
            for row in weighted {
                add_agreeing(row, votes, zero_sign, out);
            }
        }
        Some(weights) => {
            divisor.resize(out.len());
            divisor.fill(0.0);
            for (row, w) in weighted.iter().zip(weights) {
                add_agreeing_weighted(row, votes, zero_sign, *w, out, divisor);
            }
            divide_or_keep(out, divisor);
        }
    }
}

#[multiversion(targets("x86_64+avx512f", "x86_64+avx2", "aarch64+neon"))]
fn add_agreeing(row: &[f32], votes: &[f32], zero_sign: f32, out: &mut [f32]) {
    for ((o, x), v) in out.iter_mut().zip(row).zip(votes) {
        let elected = if *v == 0.0 { zero_sign } else { *v };
        *o += if (*x > 0.0) == (elected > 0.0) { *x } else { 0.0 };
    }
}

#[multiversion(targets("x86_64+avx512f", "x86_64+avx2", "aarch64+neon"))]
fn add_agreeing_weighted(
    row: &[f32],
    votes: &[f32],
    zero_sign: f32,
    w: f32,
    out: &mut [f32],
    divisor: &mut [f32],
) {
    for (((o, d), x), v) in out.iter_mut().zip(divisor).zip(row).zip(votes) {
        let elected = if *v == 0.0 { zero_sign } else { *v };
        let agrees = *x != 0.0 && (*x > 0.0) == (elected > 0.0);
        *o += if agrees { *x } else { 0.0 };
        *d += if agrees { w } else { 0.0 };
    }
}

#[multiversion(targets("x86_64+avx512f", "x86_64+avx2", "aarch64+neon"))]
fn divide_or_keep(out: &mut [f32], divisor: &[f32]) {
    for (o, d) in out.iter_mut().zip(divisor) {
        *o /= if *d == 0.0 { 1.0 } else { *d };
    }
}

/// `Σ sign(xᵢ)` of a block.
pub fn sign_sum(x: &[f32]) -> i64 {
    x.iter().map(|v| i64::from(*v > 0.0) - i64::from(*v < 0.0)).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zeros_never_agree_and_zero_votes_take_the_given_sign() {
        let rows = [[1.0, 0.0, 2.0, -1.0], [-3.0, 0.0, -2.0, -1.0]].map(|row| Aligned::from(&row[..]));
        let votes = [-2.0, 0.0, 0.0, -2.0];
        let mut out = [0.0; 4];
        elect(&rows, &votes, 1.0, None, &mut out, &mut Aligned::default());
        assert_eq!(out, [-3.0, 0.0, 2.0, -2.0]);
        elect(&rows, &votes, -1.0, Some(&[0.5, 0.25]), &mut out, &mut Aligned::default());
        assert_eq!(out, [-12.0, 0.0, -8.0, -2.0 / 0.75]);
    }

    #[test]
    fn marks_come_back() {
        let x: Vec<f32> = (0..600).map(|i| if i % 7 < 3 { 0.0 } else { i as f32 }).collect();
        let mut marks = vec![0; 3 * LANES];
        mark(&x, &mut marks);
        assert_eq!(
            marks.iter().map(|m| m.count_ones() as usize).sum::<usize>(),
            x.iter().filter(|v| **v != 0.0).count()
        );
        let ones = vec![1.0; 600];
        let (mut kept, mut sum) = (vec![9.0; 600], vec![1.0; 600]);
        keep_marked(&ones, &marks, 1.0, &mut kept);
        add_marked(&mut sum, 2.0, &ones, &marks);
        for ((x, kept), sum) in x.iter().zip(kept).zip(sum) {
            assert_eq!((kept, sum), if *x == 0.0 { (0.0, 1.0) } else { (1.0, 3.0) });
        }
    }

    #[test]
    fn signs_are_counted() {
        assert_eq!(sign_sum(&[1.0, -0.0, 0.0, -5.0, 2.0]), 1);
    }
}
