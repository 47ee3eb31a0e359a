//! The innermost loop: a tile of the result, held in registers while the depth passes by.
//!
//! A tile has up to 14 rows and two vectors of 16 columns: 28 sums, two registers for a row of the right-hand panel and one for
//! an element of the left-hand one are 31 of 32 registers. Sixteen loads serve 28 multiplications, so loads keep up.

use std::arch::x86_64::*;

use super::super::{Onto, ViewMut};
use super::{COLUMNS, ROWS};

/// Steps of the depth by which loads of the panels are announced.
const AHEAD: usize = 12;

/// A kernel for so many rows and vectors: (depth, left panel, right panel, out, its stride, rows, columns, alpha, onto).
type Kernel = unsafe fn(usize, *const f32, *const f32, *mut f32, usize, [usize; 2], f32, Onto<'_>);

/// By half the rows, then by vectors.
static KERNELS: [[Kernel; 2]; ROWS / 2] = [
    [tile::<2, 1>, tile::<2, 2>],
    [tile::<4, 1>, tile::<4, 2>],
    [tile::<6, 1>, tile::<6, 2>],
    [tile::<8, 1>, tile::<8, 2>],
    [tile::<10, 1>, tile::<10, 2>],
    [tile::<12, 1>, tile::<12, 2>],
    [tile::<14, 1>, tile::<14, 2>],
];

/// Rows of the panel for a tile of so many rows: kernels exist for even numbers.
pub(super) fn panel_rows(rows: usize) -> usize {
    rows.next_multiple_of(2)
}

/// Columns of the panel for a tile of so many columns: whole vectors.
pub(super) fn panel_columns(columns: usize) -> usize {
    columns.next_multiple_of(16)
}

/// out = onto + alpha · left · right, for panels as `pack` makes them, of the given depth.
#[allow(
    clippy::needless_pass_by_value,
    reason = "a unique borrow, as a mutable slice, which is passed by value too"
)]
pub(super) fn multiply(
    out: ViewMut<'_>,
    onto: Onto<'_>,
    alpha: f32,
    left: &[f32],
    right: &[f32],
    depth: usize,
) {
    let (rows, columns) = (out.shape.rows, out.shape.columns);
    let (height, width) = (panel_rows(rows), panel_columns(columns));
    assert!((1..=ROWS).contains(&rows) && (1..=COLUMNS).contains(&columns) && out.shape.column_stride == 1);
    assert!(left.len() >= height * depth && right.len() >= width * depth, "panels of a product");
    if let Onto::Row(row) = onto {
        assert!(row.len() >= columns, "a row of the width of a tile");
    }
    let kernel = KERNELS[height / 2 - 1][width / 16 - 1];
    // SAFETY: the processor has AVX-512 (`is_available` was asked before anything is packed); the panels hold `depth` times the
    // rows and columns of the kernel, and the destination the rows and columns of which the kernel writes.
    unsafe {
        let (left, right) = (left.as_ptr(), right.as_ptr());
        kernel(depth, left, right, out.first, out.shape.row_stride, [rows, columns], alpha, onto);
    }
}

#[target_feature(enable = "avx512f")]
#[allow(clippy::too_many_arguments, reason = "what a kernel needs, in registers")]
unsafe fn tile<const R: usize, const V: usize>(
    depth: usize,
    mut left: *const f32,
    mut right: *const f32,
    out: *mut f32,
    stride: usize,
    [rows, columns]: [usize; 2],
    alpha: f32,
    onto: Onto<'_>,
) {
    let mut sums = [[_mm512_setzero_ps(); V]; R];
    // SAFETY: `multiply` has checked that panels and destination reach as far as these loops go; masks hide what is beyond
    // the last column. Announcing an address beyond the end does not touch it.
    unsafe {
        for r in 0..rows {
            for v in 0..V {
                _mm_prefetch::<_MM_HINT_T0>(out.wrapping_add(r * stride + v * 16).cast());
            }
        }
        for _ in 0..depth {
            let row: [__m512; V] = std::array::from_fn(|v| _mm512_loadu_ps(right.add(v * 16)));
            for v in 0..V {
                _mm_prefetch::<_MM_HINT_T0>(right.wrapping_add((AHEAD * V + v) * 16).cast());
            }
            _mm_prefetch::<_MM_HINT_T0>(left.wrapping_add(AHEAD * R).cast());
            for (r, sums) in sums.iter_mut().enumerate() {
                let factor = _mm512_set1_ps(*left.add(r));
                for (sum, right) in sums.iter_mut().zip(row) {
                    *sum = _mm512_fmadd_ps(factor, right, *sum);
                }
            }
            left = left.add(R);
            right = right.add(V * 16);
        }
        for (r, sums) in sums.into_iter().enumerate() {
            if r < rows {
                store(sums, alpha, onto, out.add(r * stride), columns);
            }
        }
    }
}

/// One row of a tile.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn store<const V: usize>(
    sums: [__m512; V],
    alpha: f32,
    onto: Onto<'_>,
    out: *mut f32,
    columns: usize,
) {
    let alpha = _mm512_set1_ps(alpha);
    for (v, sum) in sums.into_iter().enumerate() {
        let (mask, to) = (mask(columns, v), out.wrapping_add(v * 16));
        // SAFETY: masks hide what is beyond the last column, of the destination and of the row.
        unsafe {
            let sum = match onto {
                Onto::Nothing => _mm512_mul_ps(sum, alpha),
                Onto::Itself => _mm512_fmadd_ps(sum, alpha, _mm512_maskz_loadu_ps(mask, to)),
                Onto::Row(row) => {
                    let row = row.as_ptr().wrapping_add(v * 16);
                    _mm512_fmadd_ps(sum, alpha, _mm512_maskz_loadu_ps(mask, row))
                }
            };
            _mm512_mask_storeu_ps(to, mask, sum);
        }
    }
}

/// Which lanes of a vector are columns of the tile.
fn mask(columns: usize, vector: usize) -> u16 {
    first(columns.saturating_sub(vector * 16))
}

/// The first `count` lanes, or all 16.
pub(super) fn first(count: usize) -> u16 {
    if count >= 16 { u16::MAX } else { (1 << count) - 1 }
}
