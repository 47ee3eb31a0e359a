//! Panels: some lines of a matrix (rows of the left-hand one, columns of the right-hand one) side by side, in the order in which
//! the kernel reads them.

use std::arch::x86_64::*;

use super::super::view::{Shape, View};
use super::kernel::first;

/// Most sixteens of lines that are packed at once.
const PIECES: usize = 8;

/// Panels of lines.
#[derive(Clone, Copy)]
pub(super) struct Panels {
    /// Lines of a panel; the last may have fewer.
    pub(super) height: usize,
    /// Elements from the beginning of a panel to that of the next.
    pub(super) room: usize,
    /// Width of a panel of so many lines.
    pub(super) width: fn(usize) -> usize,
}

/// Writes panels of lines, each `out[l · width + i] = lines[i][l]`, for a width of at least the number of lines. What stands for
/// the lines that are missing does not matter: the kernel stores nothing of them.
pub(super) fn panels(lines: View<'_>, how: Panels, out: &mut [f32]) {
    let Shape { rows: count, columns: depth, row_stride, column_stride } = lines.shape;
    assert!((1..=32).contains(&how.height) && count > 0 && depth > 0);
    let last = (count - 1) * row_stride + (depth - 1) * column_stride;
    assert!(last < lines.values.len() && (row_stride == 1 || column_stride == 1), "lines of a panel");
    let mut pieces = [Piece::default(); PIECES];
    let mut found = 0;
    for (number, first) in (0..count).step_by(how.height).enumerate() {
        let lines = how.height.min(count - first);
        let width = (how.width)(lines);
        assert!((lines..=32).contains(&width), "width of a panel");
        assert!(number * how.room + width * depth <= out.len(), "elements of a panel");
        for start in (0..lines).step_by(16) {
            let (line, to) = (first + start, number * how.room + start);
            let (here, room) = ((lines - start).min(16), (width - start).min(16));
            pieces[found] = Piece { line, to, width, here, room };
            found += 1;
        }
    }
    let (from, out) = (lines.values.as_ptr(), out.as_mut_ptr());
    // SAFETY: the processor has AVX-512 (`is_available`); all elements of the lines, and the panels, lie in their slices, as
    // checked above.
    unsafe {
        if row_stride == 1 {
            return copied(from, column_stride, depth, &pieces[..found], out);
        }
        for piece in &pieces[..found] {
            turned(from.add(piece.line * row_stride), row_stride, depth, *piece, out.add(piece.to));
        }
    }
}

/// Up to sixteen lines of a panel.
#[derive(Clone, Copy, Default)]
struct Piece {
    /// The first of them.
    line: usize,
    /// Where it goes.
    to: usize,
    /// Width of its panel.
    width: usize,
    /// Lines that exist.
    here: usize,
    /// Places of the panel for them.
    room: usize,
}

/// Lines that lie side by side: element l of all of them is a run, which is read once for all panels.
#[target_feature(enable = "avx512f")]
unsafe fn copied(from: *const f32, stride: usize, depth: usize, pieces: &[Piece], out: *mut f32) {
    // SAFETY: `panels` has checked the ends; masks hide what is not of these lines.
    unsafe {
        for l in 0..depth {
            for piece in pieces {
                let run = _mm512_maskz_loadu_ps(first(piece.here), from.add(l * stride + piece.line));
                _mm512_mask_storeu_ps(out.add(piece.to + l * piece.width), first(piece.room), run);
            }
        }
    }
}

/// Lines that are runs: blocks of 16 × 16 are transposed.
#[target_feature(enable = "avx512f")]
unsafe fn turned(from: *const f32, stride: usize, depth: usize, piece: Piece, out: *mut f32) {
    let (write, width) = (first(piece.room), piece.width);
    // SAFETY: as above.
    unsafe {
        for l in (0..depth).step_by(16) {
            let len = (depth - l).min(16);
            let read = first(len);
            // For lines that do not exist stands the last one.
            let line = |i: usize| from.add(i.min(piece.here - 1) * stride + l);
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
