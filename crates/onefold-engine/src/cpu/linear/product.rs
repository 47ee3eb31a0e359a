//! Products with a weight as it is stored. Three ways, chosen by the shape and the storage alone:
//!
//! - Few rows (token generation): every weight is used once or thrice per load, so the time is that of reading the weights.
//!   Each is read once, by the task that owns its column of the result, straight from 16 bits if so stored.
//! - Many rows, f32: one product over the whole pool.
//! - Many rows, 16 bits: tasks own blocks of columns of the result; each widens its weights block by block into memory of
//!   its own thread, which stays in the second cache, and multiplies there. The whole weight never exists in f32.

use multiversion::multiversion;

use crate::Weight;
use crate::cpu::gemm::{Onto, View, ViewMut, Workers, gemm};
use crate::cpu::math::dot;
use crate::cpu::scratch;
use crate::cpu::widen::Source;

/// Rows up to which a product is bound by reading the weights.
pub(crate) const FEW: usize = 4;
/// Columns of a widened block; a multiple of what the kernels of all instruction sets compute at once.
const COLUMNS: usize = 192;
/// Depth of a widened block: with the columns 384 KiB, which second caches hold beside the left-hand side.
const DEPTH: usize = 512;
/// Weights that are widened at a time for few rows: 4 KiB, a small part of the first cache.
const PIECE: usize = 1024;
/// Weights that one task reads for few rows.
const TASK: usize = 64 * 1024;
/// Most columns of one task for few rows.
const TILE: usize = 64;
/// The same where columns lie side by side: long enough runs for the prefetcher.
const RUN: usize = 256;

/// The right-hand matrix of a product, `[depth, columns]`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Right<'a> {
    pub(crate) weight: Weight<'a>,
    pub(crate) depth: usize,
    pub(crate) columns: usize,
    /// It is stored as `[columns, depth]`.
    pub(crate) transposed: bool,
}

/// `out[rows, columns] = left[rows, depth] · right`, added to what `onto` says.
pub(crate) fn multiply<'a>(
    out: &mut [f32],
    onto: impl Into<Onto<'a>>,
    left: &[f32],
    rows: usize,
    right: Right<'_>,
) {
    let onto = onto.into();
    let Right { depth, columns, .. } = right;
    assert!(depth > 0 && right.weight.len() == depth * columns, "elements of a weight");
    assert_eq!((left.len(), out.len()), (rows * depth, rows * columns), "elements of a product");
    let out = ViewMut::new(out, rows, columns, columns);
    match right.weight {
        _ if rows <= FEW && right.transposed => by_dots(out, onto, left, rows, right),
        _ if rows <= FEW => by_runs(out, onto, left, rows, right),
        Weight::Full(weight) => {
            let weight = if right.transposed {
                View::new(weight.host(), columns, depth, depth).t()
            } else {
                View::new(weight.host(), depth, columns, columns)
            };
            gemm(out, onto, 1.0, View::new(left, rows, depth, depth), weight, Workers::Pool);
        }
        Weight::Half(_) => by_blocks(out, onto, left, rows, right),
    }
}

fn by_blocks(out: ViewMut<'_>, onto: Onto<'_>, left: &[f32], rows: usize, right: Right<'_>) {
    out.for_columns(COLUMNS, |start, mut out| {
        let onto = onto.columns(start..start + out.columns());
        scratch::with(COLUMNS * DEPTH, |scratch| {
            for from in (0..right.depth).step_by(DEPTH) {
                let depth = DEPTH.min(right.depth - from);
                let left = View::new(&left[from..], rows, depth, right.depth);
                let block = right.widened(from, depth, start, out.columns(), scratch);
                let onto = if from == 0 { onto } else { Onto::Itself };
                gemm(out.reborrow(), onto, 1.0, left, block, Workers::One);
            }
        });
    });
}

impl Right<'_> {
    /// A block of the matrix in f32.
    fn widened<'s>(
        &self,
        from: usize,
        depth: usize,
        start: usize,
        columns: usize,
        scratch: &'s mut [f32],
    ) -> View<'s> {
        let scratch = &mut scratch[..depth * columns];
        let source = Source::from(self.weight);
        if self.transposed {
            source.copy_rows(start * self.depth + from, self.depth, depth, scratch);
            View::new(scratch, columns, depth, depth).t()
        } else {
            source.copy_rows(from * self.columns + start, self.columns, columns, scratch);
            View::new(scratch, depth, columns, columns)
        }
    }
}

/// Few rows, each column of the right-hand side a run in memory.
fn by_dots(out: ViewMut<'_>, onto: Onto<'_>, left: &[f32], rows: usize, right: Right<'_>) {
    let (depth, source) = (right.depth, Source::from(right.weight));
    out.for_columns((TASK / depth).clamp(1, TILE), |start, mut out| {
        let onto = onto.columns(start..start + out.columns());
        let mut sums = [[0.0; FEW]; TILE];
        dots(&mut sums[..out.columns()], left, depth, source, start * depth);
        for r in 0..rows {
            let sums = sums.iter().map(|sums| sums[r]);
            put(out.row(r), onto, sums);
        }
    });
}

fn put(out: &mut [f32], onto: Onto<'_>, values: impl Iterator<Item = f32>) {
    let out = out.iter_mut();
    match onto {
        Onto::Nothing => out.zip(values).for_each(|(o, v)| *o = v),
        Onto::Itself => out.zip(values).for_each(|(o, v)| *o += v),
        Onto::Row(row) => out.zip(values).zip(row).for_each(|((o, v), r)| *o = r + v),
    }
}

/// `sums[j][r]` = row r of `left` · run j of `source`, of which the first begins at `first`.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512vl+fma", "x86_64+avx2+fma", "aarch64+neon"))]
fn dots(sums: &mut [[f32; FEW]], left: &[f32], depth: usize, source: Source<'_>, first: usize) {
    let mut scratch = [0.0; PIECE];
    for (j, sums) in sums.iter_mut().enumerate() {
        for from in (0..depth).step_by(PIECE) {
            let len = PIECE.min(depth - from);
            let weights = source.piece(first + j * depth + from, len, &mut scratch);
            for (sum, row) in sums.iter_mut().zip(left.chunks_exact(depth)) {
                *sum += dot(&row[from..from + len], weights);
            }
        }
    }
}

/// Few rows, each row of the right-hand side a run in memory.
fn by_runs(out: ViewMut<'_>, onto: Onto<'_>, left: &[f32], rows: usize, right: Right<'_>) {
    let (depth, source) = (right.depth, Source::from(right.weight));
    out.for_columns(RUN, |start, mut out| {
        let onto = onto.columns(start..start + out.columns());
        let mut sums = [[0.0; RUN]; FEW];
        runs(&mut sums, out.columns(), left, depth, source, start, right.columns);
        for (r, sums) in sums.iter().enumerate().take(rows) {
            put(out.row(r), onto, sums.iter().copied());
        }
    });
}

/// `sums[r][j]` = Σₖ `left[r][k]` · `source[start + k · stride + j]`.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512vl+fma", "x86_64+avx2+fma", "aarch64+neon"))]
fn runs(
    sums: &mut [[f32; RUN]; FEW],
    width: usize,
    left: &[f32],
    depth: usize,
    source: Source<'_>,
    start: usize,
    stride: usize,
) {
    let mut scratch = [0.0; RUN];
    for k in 0..depth {
        let weights = source.piece(start + k * stride, width, &mut scratch);
        for (sums, row) in sums.iter_mut().zip(left.chunks_exact(depth)) {
            let factor = row[k];
            sums.iter_mut().zip(weights).for_each(|(s, w)| *s += factor * w);
        }
    }
}
