//! Row-wise parts of attention: what happens between the matrix products.

use std::cell::RefCell;

use multiversion::multiversion;
use onefold_runtime::Stream;
use onefold_runtime::random::GROUP;

use super::{Block, Sight};
use crate::Write;
use crate::cpu::math;
use crate::cpu::tiles::Tile;

/// Elements that are computed at once.
const LANES: usize = 32;

/// Turns the scores of a block's rows to exp(score − largest of the row); writes ln Σ exp(score) and 1 / Σ exp(score − largest) of
/// each row. What a row does not see becomes 0; a row that sees nothing has −∞ and 0.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512vl+fma", "x86_64+avx2+fma", "aarch64+neon"))]
pub(super) fn exponentials(
    scores: &mut [f32],
    block: &Block,
    sight: Sight,
    cap: Option<f32>,
    log_sums: &mut [f32],
    inverse: &mut [f32],
) {
    let rows = scores.chunks_exact_mut(block.keys.len()).zip(block.queries.clone());
    for (((row, query), log_sum), inverse) in rows.zip(log_sums).zip(inverse) {
        let row = seen(row, block, sight, query);
        if row.is_empty() {
            (*log_sum, *inverse) = (f32::NEG_INFINITY, 0.0);
            continue;
        }
        if let Some(cap) = cap {
            row.iter_mut().for_each(|s| *s = cap * tanh(*s / cap));
        }
        let largest = math::max(row);
        let sum = math::exp_and_sum(row, largest);
        (*log_sum, *inverse) = (largest + sum.ln(), 1.0 / sum);
    }
}

/// Turns scores to probabilities P, and their gradients dP to those of the scores before cap and scale:
/// P ∘ (dP − `deltas`), times 1 − tanh² where there is a cap.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512vl+fma", "x86_64+avx2+fma", "aarch64+neon"))]
pub(super) fn gradients(
    scores: &mut [f32],
    d: &mut [f32],
    block: &Block,
    sight: Sight,
    cap: Option<f32>,
    log_sums: &[f32],
    deltas: &[f32],
) {
    let width = block.keys.len();
    let rows = scores.chunks_exact_mut(width).zip(d.chunks_exact_mut(width)).zip(block.queries.clone());
    for ((((s, d), query), log_sum), delta) in rows.zip(log_sums).zip(deltas) {
        // Whole vectors, as far as the row goes: what is too much of them is overwritten below.
        let keys = sight.of(query);
        let (start, end) = (keys.start.max(block.keys.start), keys.end.max(block.keys.start));
        let (start, end) = (start - block.keys.start, end - block.keys.start);
        let vectors = start / LANES * LANES..end.next_multiple_of(LANES).min(width);
        let elements = s[vectors.clone()].iter_mut().zip(&mut d[vectors]);
        if let Some(cap) = cap {
            for (s, d) in elements {
                let t = tanh(*s / cap);
                *s = math::exp(cap * t - log_sum);
                *d = *s * (*d - delta) * (1.0 - t * t);
            }
        } else {
            for (s, d) in elements {
                *s = math::exp(*s - log_sum);
                *d = *s * (*d - delta);
            }
        }
        seen(s, block, sight, query);
        seen(d, block, sight, query);
    }
}

/// The part of a row that its query sees; the rest becomes 0.
#[inline(always)]
fn seen<'a>(row: &'a mut [f32], block: &Block, sight: Sight, query: usize) -> &'a mut [f32] {
    let keys = sight.of(query);
    if keys.is_empty() {
        row.fill(0.0);
        return &mut [];
    }
    let (before, rest) = row.split_at_mut(keys.start - block.keys.start);
    let (seen, after) = rest.split_at_mut(keys.len());
    before.fill(0.0);
    after.fill(0.0);
    seen
}

#[inline(always)]
pub(super) fn tanh(x: f32) -> f32 {
    let t = math::exp(-2.0 * x.abs());
    ((1.0 - t) / (1.0 + t)).copysign(x)
}

/// Rows of `values` times their factors, into the tile.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512vl+fma", "x86_64+avx2+fma", "aarch64+neon"))]
pub(super) fn write_scaled(tile: &mut Tile<'_>, values: &[f32], factors: &[f32]) {
    let width = values.len() / factors.len().max(1);
    for (i, factor) in factors.iter().enumerate() {
        let values = &values[i * width..][..width];
        for (out, v) in tile.row(i).iter_mut().zip(values) {
            *out = v * factor;
        }
    }
}

/// `rows` rows of `values` into the tile.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512vl+fma", "x86_64+avx2+fma", "aarch64+neon"))]
pub(super) fn write(tile: &mut Tile<'_>, values: &[f32], rows: usize, write: Write) {
    let width = values.len() / rows.max(1);
    for i in 0..rows {
        let values = &values[i * width..][..width];
        match write {
            Write::Set => tile.row(i).copy_from_slice(values),
            Write::Add => tile.row(i).iter_mut().zip(values).for_each(|(out, v)| *out += v),
        }
    }
}

/// Row by row Σ aᵢ bᵢ, rows being `stride` apart.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512vl+fma", "x86_64+avx2+fma", "aarch64+neon"))]
pub(super) fn row_dots(a: &[f32], b: &[f32], stride: usize, width: usize, dots: &mut [f32]) {
    for (i, out) in dots.iter_mut().enumerate() {
        *out = math::dot(&a[i * stride..][..width], &b[i * stride..][..width]);
    }
}

/// Keeps elements whose coin (from `start` on, the beginning of a group) falls on 1 with the probability `keep` · 2⁻³², times
/// `factor`; the others become 0.
pub(super) fn drop_out(stream: Stream, keep: u64, start: u64, factor: f32, row: &mut [f32]) {
    thread_local! {
        static MARKS: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
    }
    MARKS.with_borrow_mut(|marks| {
        stream.toss(keep, start, row.len(), marks);
        keep_marked(row, marks, factor);
    });
}

#[multiversion(targets("x86_64+avx512f+avx512bw+avx512vl+fma", "x86_64+avx2+fma", "aarch64+neon"))]
fn keep_marked(row: &mut [f32], marks: &[u8], factor: f32) {
    const BYTES: usize = GROUP / 8;
    for (group, marks) in row.chunks_mut(GROUP).zip(marks.chunks_exact(BYTES)) {
        for (bit, lanes) in group.chunks_mut(BYTES).enumerate() {
            for (x, mark) in lanes.iter_mut().zip(marks) {
                *x = if mark >> bit & 1 == 1 { *x * factor } else { 0.0 };
            }
        }
    }
}
