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

/// Whose sign is elected at each element.
#[derive(Debug, Clone, Copy)]
pub enum Votes<'a> {
    /// That of the rows' sum; + where it is 0.
    Sum,
    /// That of this vector; where it is 0, the given sign.
    Of(&'a [f32], f32),
}

/// Sign election and disjoint sum. `rows` are the weighted task vectors. An element agrees if it is not zero and has the
/// elected sign. `out` receives the sum of those that agree; if `weights` are given it is divided by the sum of their
/// weights (1 where that is 0).
pub fn elect(rows: &[Aligned], votes: Votes<'_>, weights: Option<&[f32]>, out: &mut [f32]) {
    match weights {
        None => elect_sums(rows, votes, out),
        Some(weights) => elect_means(rows, votes, weights, out),
    }
}

#[multiversion(targets("x86_64+avx512f", "x86_64+avx2", "aarch64+neon"))]
fn elect_sums(rows: &[Aligned], votes: Votes<'_>, out: &mut [f32]) {
    let (groups, rest) = out.as_chunks_mut::<AT_ONCE>();
    let start = groups.len() * AT_ONCE;
    for (i, out) in groups.iter_mut().enumerate() {
        *out = sums(rows, &signs(rows, votes, i * AT_ONCE), i * AT_ONCE);
    }
    for (i, out) in rest.iter_mut().enumerate() {
        [*out] = sums::<1>(rows, &signs(rows, votes, start + i), start + i);
    }
}

#[multiversion(targets("x86_64+avx512f", "x86_64+avx2", "aarch64+neon"))]
fn elect_means(rows: &[Aligned], votes: Votes<'_>, weights: &[f32], out: &mut [f32]) {
    let (groups, rest) = out.as_chunks_mut::<AT_ONCE>();
    let start = groups.len() * AT_ONCE;
    for (i, out) in groups.iter_mut().enumerate() {
        *out = means(rows, &signs(rows, votes, i * AT_ONCE), weights, i * AT_ONCE);
    }
    for (i, out) in rest.iter_mut().enumerate() {
        [*out] = means::<1>(rows, &signs(rows, votes, start + i), weights, start + i);
    }
}

/// Elements whose sums stay in registers while the rows go by.
const AT_ONCE: usize = 64;

/// Some elements of a row.
#[inline(always)]
fn piece<const N: usize>(row: &[f32], at: usize) -> &[f32; N] {
    row[at..].first_chunk().expect("rows are as long as the result")
}

/// A number with the elected sign for each element.
#[inline(always)]
fn signs<const N: usize>(rows: &[Aligned], votes: Votes<'_>, at: usize) -> [f32; N] {
    match votes {
        Votes::Sum => {
            let mut sum = [0.0; N];
            for row in rows {
                let row = piece::<N>(row, at);
                for lane in 0..N {
                    sum[lane] += row[lane];
                }
            }
            sum.map(|sum| if sum == 0.0 { 1.0 } else { sum })
        }
        Votes::Of(votes, zero_sign) => {
            piece::<N>(votes, at).map(|vote| if vote == 0.0 { zero_sign } else { vote })
        }
    }
}

#[inline(always)]
fn sums<const N: usize>(rows: &[Aligned], elected: &[f32; N], at: usize) -> [f32; N] {
    let mut sum = [0.0; N];
    for row in rows {
        let row = piece::<N>(row, at);
        for lane in 0..N {
            // Of zeros nothing is added, whatever was elected.
            sum[lane] += if (row[lane] > 0.0) == (elected[lane] > 0.0) { row[lane] } else { 0.0 };
        }
    }
    sum
}

#[inline(always)]
fn means<const N: usize>(rows: &[Aligned], elected: &[f32; N], weights: &[f32], at: usize) -> [f32; N] {
    let (mut sum, mut divisor) = ([0.0; N], [0.0; N]);
    for (row, w) in rows.iter().zip(weights) {
        let row = piece::<N>(row, at);
        for lane in 0..N {
            let agreed = if (row[lane] > 0.0) == (elected[lane] > 0.0) { row[lane] } else { 0.0 };
            sum[lane] += agreed;
            divisor[lane] += if agreed == 0.0 { 0.0 } else { *w };
        }
    }
    for lane in 0..N {
        sum[lane] /= if divisor[lane] == 0.0 { 1.0 } else { divisor[lane] };
    }
    sum
}

/// Sets to 0 what is not of the elected sign: that of `votes`, or `zero_sign` where they are 0.
pub fn agreeing(rows: &mut [Aligned], votes: &[f32], zero_sign: f32) {
    for row in rows {
        keep_signed(row, votes, zero_sign);
    }
}

#[multiversion(targets("x86_64+avx512f", "x86_64+avx2", "aarch64+neon"))]
fn keep_signed(row: &mut [f32], votes: &[f32], zero_sign: f32) {
    for (v, vote) in row.iter_mut().zip(votes) {
        let elected = if *vote == 0.0 { zero_sign } else { *vote };
        *v = if (*v > 0.0) == (elected > 0.0) { *v } else { 0.0 };
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
        let mut out = [9.0; 4];
        elect(&rows, Votes::Sum, None, &mut out);
        assert_eq!(out, [-3.0, 0.0, 2.0, -2.0]);
        let votes = [-2.0, 0.0, 0.0, -2.0];
        elect(&rows, Votes::Of(&votes, -1.0), Some(&[0.5, 0.25]), &mut out);
        assert_eq!(out, [-12.0, 0.0, -8.0, -2.0 / 0.75]);
    }

    /// In groups as in the rest, and by the rows' sum as by a vector that is that sum.
    #[test]
    fn elections_do_not_depend_on_the_place() {
        let value = |i: usize, k: usize| ((i * 31 + k * 17) % 13) as f32 - 6.0;
        let rows = [0, 1, 2].map(|k| Aligned::from(&(0..150).map(|i| value(i, k)).collect::<Vec<_>>()[..]));
        let votes: Vec<f32> = (0..150).map(|i| value(i, 0) + value(i, 1) + value(i, 2)).collect();
        for weights in [None, Some(&[0.5f32, 0.25, 2.0][..])] {
            let (mut out, mut other) = (vec![9.0; 150], vec![9.0; 150]);
            elect(&rows, Votes::Sum, weights, &mut out);
            elect(&rows, Votes::Of(&votes, 1.0), weights, &mut other);
            assert_eq!(out, other);
            for (i, out) in out.iter().enumerate() {
                let here = [0, 1, 2].map(|k| Aligned::from(&rows[k][i..=i]));
                let mut alone = [9.0];
                elect(&here, Votes::Sum, weights, &mut alone);
                assert_eq!(*out, alone[0], "{i}");
            }
        }
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
