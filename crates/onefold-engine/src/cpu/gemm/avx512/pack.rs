//! Panels: some lines of a matrix (rows of the left-hand one, columns of the right-hand one) side by side, in the order in which
//! the kernel reads them.

use std::arch::x86_64::*;

use super::super::view::{Shape, View};
use super::kernel::first;

/// Writes `out[l · width + i] = lines[i][l]`, for `width` of at least the number of lines. What stands for the lines that are
/// missing does not matter: the kernel stores nothing of them.
pub(super) fn panel(lines: View<'_>, width: usize, out: &mut [f32]) {
    let Shape { rows: count, columns: depth, row_stride, column_stride } = lines.shape;
    assert!((1..=width).contains(&count) && width <= 32 && depth > 0);
    assert_eq!(out.len(), width * depth, "elements of a panel");
    let last = (count - 1) * row_stride + (depth - 1) * column_stride;
    assert!(last < lines.values.len() && (row_stride == 1 || column_stride == 1), "lines of a panel");
    let (from, out) = (lines.values.as_ptr(), out.as_mut_ptr());
    // SAFETY: the processor has AVX-512 (`is_available`); all elements of the lines, and the panel, lie in their slices, as
    // checked above.
    unsafe {
        for start in (0..width).step_by(16) {
            let lanes = Lanes { here: count.saturating_sub(start).min(16), width: (width - start).min(16) };
            if lanes.here == 0 {
                break;
            }
            let (from, out) = (from.add(start * row_stride), out.add(start));
            if row_stride == 1 {
                copied(from, column_stride, depth, lanes, (out, width));
            } else {
                turned(from, row_stride, depth, lanes, (out, width));
            }
        }
    }
}

/// Up to sixteen lines of a panel.
#[derive(Clone, Copy)]
struct Lanes {
    /// Lines that exist.
    here: usize,
    /// Places of the panel for them.
    width: usize,
}

/// Lines that lie side by side: element l of all of them is a run.
#[target_feature(enable = "avx512f")]
unsafe fn copied(
    from: *const f32,
    stride: usize,
    depth: usize,
    lanes: Lanes,
    (out, width): (*mut f32, usize),
) {
    let (read, write) = (first(lanes.here), first(lanes.width));
    // SAFETY: `panel` has checked the ends; masks hide what is not of these lines.
    unsafe {
        for l in 0..depth {
            let run = _mm512_maskz_loadu_ps(read, from.add(l * stride));
            _mm512_mask_storeu_ps(out.add(l * width), write, run);
        }
    }
}

/// Lines that are runs: blocks of 16 × 16 are transposed.
#[target_feature(enable = "avx512f")]
unsafe fn turned(
    from: *const f32,
    stride: usize,
    depth: usize,
    lanes: Lanes,
    (out, width): (*mut f32, usize),
) {
    let write = first(lanes.width);
    // SAFETY: as above.
    unsafe {
        for l in (0..depth).step_by(16) {
            let len = (depth - l).min(16);
            let read = first(len);
            // For lines that do not exist stands the last one.
            let line = |i: usize| from.add(i.min(lanes.here - 1) * stride + l);
            let block = transposed(std::array::from_fn(|i| _mm512_maskz_loadu_ps(read, line(i))));
            for (i, column) in block.into_iter().enumerate().take(len) {
                _mm512_mask_storeu_ps(out.add((l + i) * width), write, column);
            }
        }
    }
}

/// Pairs, then fours of rows are interleaved within the four quarters of the vectors; then the quarters change places.
#[target_feature(enable = "avx512f")]
fn transposed(rows: [__m512; 16]) -> [__m512; 16] {
    let pairs: [__m512; 16] = std::array::from_fn(|i| {
        let (a, b) = (rows[i / 2 * 2], rows[i / 2 * 2 + 1]);
        if i % 2 == 0 { _mm512_unpacklo_ps(a, b) } else { _mm512_unpackhi_ps(a, b) }
    });
    // fours[4·g + j], quarter q: element 4·q + j of the rows 4·g … 4·g + 3.
    let fours: [__m512; 16] = std::array::from_fn(|i| {
        let (group, j) = (i / 4 * 4, i % 4);
        let (a, b) = (pairs[group + j / 2], pairs[group + 2 + j / 2]);
        let (a, b) = (_mm512_castps_pd(a), _mm512_castps_pd(b));
        _mm512_castpd_ps(if j % 2 == 0 { _mm512_unpacklo_pd(a, b) } else { _mm512_unpackhi_pd(a, b) })
    });
    std::array::from_fn(|i| {
        let (quarter, j) = (i / 4, i % 4);
        let [a, b, c, d] = std::array::from_fn(|group| fours[4 * group + j]);
        let (ab, cd) = if quarter % 2 == 0 {
            (_mm512_shuffle_f32x4::<0x88>(a, b), _mm512_shuffle_f32x4::<0x88>(c, d))
        } else {
            (_mm512_shuffle_f32x4::<0xdd>(a, b), _mm512_shuffle_f32x4::<0xdd>(c, d))
        };
        if quarter < 2 { _mm512_shuffle_f32x4::<0x88>(ab, cd) } else { _mm512_shuffle_f32x4::<0xdd>(ab, cd) }
    })
}
