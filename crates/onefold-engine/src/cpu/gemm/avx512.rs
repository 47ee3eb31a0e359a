//! Products on processors with AVX-512, after Goto and van de Geijn, "Anatomy of High-Performance Matrix Multiplication" (ACM
//! TOMS 34, 2008).
//!
//! The depth is cut into steps. For as many steps as there is room for, the right-hand side is packed into panels of 32 columns,
//! once for all tasks. A task takes a block of the result and goes through these steps: it packs its rows of the left-hand side
//! in panels of up to 14, and lets each meet some right-hand panels after the others: the left-hand panel stays in the first
//! cache, the right-hand ones in the second. Workers wait for each other twice per round of steps, not per step: to wake one takes
//! as long as some millions of operations.
//!
//! Every element is the sum of its terms in the order of the depth, in steps that depend on the depth alone: neither other rows
//! and columns nor the number of threads change a bit of it.

mod kernel;
mod pack;

use pack::Panels;

use super::view::{View, ViewMut};
use super::{Onto, Workers};
use crate::cpu::scratch;

/// Most rows of a tile.
const ROWS: usize = 14;
/// Most columns of a tile: two vectors.
const COLUMNS: usize = 32;
/// Most depth of a step: a left-hand panel then takes 21 KiB, less than half of a first cache.
const DEPTH: usize = 384;
/// Rows of a task, packed at once, and columns that all of them meet before the next: their right-hand panels take 576 KiB,
/// less than half of a second cache.
const BLOCK: (usize, usize) = (4 * ROWS, 384);
/// Tasks for each worker, so that none waits long for the last.
const TASKS: usize = 4;
/// Most columns that are packed before the tasks begin.
const PACKED: usize = 2048;
/// Most elements that are packed before the tasks begin, unless one step has more: 8 MiB.
const ROOM: usize = 2 << 20;
/// Right-hand panels that one task packs.
const PANELS: usize = 4;

/// Whether the processor, and the system, have what the kernels need.
pub(super) fn is_available() -> bool {
    is_x86_feature_detected!("avx512f")
}

/// `out = onto + alpha · a · b`; the depth is at least 1, and shapes fit.
pub(super) fn product(
    mut out: ViewMut<'_>,
    onto: Onto<'_>,
    alpha: f32,
    a: View<'_>,
    b: View<'_>,
    workers: Workers,
) {
    if out.shape.column_stride != 1 {
        assert!(!matches!(onto, Onto::Row(_)), "a row for a transposed destination");
        return product(out.t(), onto, alpha, b.t(), a.t(), workers);
    }
    let (height, depth, columns) = (out.shape.rows, a.shape.columns, out.shape.columns);
    let (width, step) = (even(columns, PACKED, COLUMNS), even(depth, DEPTH, 1));
    let round = step * (ROOM / (width * step)).clamp(1, depth.div_ceil(step));
    scratch::with(width * round, |packed| {
        for column in (0..columns).step_by(width) {
            let mut out = out.part([0, column], [height, width]);
            let here = column..column + out.columns();
            for from in (0..depth).step_by(round) {
                let span = from..depth.min(from + round);
                let onto = if from == 0 { onto.columns(here.clone()) } else { Onto::Itself };
                pack_right(b.block(span.clone(), here.clone()), step, packed, workers);
                multiply(out.reborrow(), onto, alpha, a.block(0..height, span), (packed, step), workers);
            }
        }
    });
}

/// The length of parts, all but the last equal and a multiple of `unit`, none above `most` (a multiple of it too).
fn even(total: usize, most: usize, unit: usize) -> usize {
    total.div_ceil(total.div_ceil(most).max(1)).next_multiple_of(unit)
}

/// All panels of the right-hand side, step after step, each one panel after the other.
fn pack_right(b: View<'_>, step: usize, packed: &mut [f32], workers: Workers) {
    let (depth, columns) = (b.shape.rows, b.shape.columns);
    let width = columns.next_multiple_of(COLUMNS);
    workers.each_chunk(&mut packed[..width * depth], width * step, |i, packed| {
        let span = i * step..depth.min((i + 1) * step);
        let how = Panels { height: COLUMNS, room: COLUMNS * span.len(), width: kernel::panel_columns };
        workers.each_chunk(packed, PANELS * how.room, |j, panels| {
            let first = j * PANELS * COLUMNS;
            let here = first..columns.min(first + PANELS * COLUMNS);
            pack::panels(b.block(span.clone(), here).t(), how, panels);
        });
    });
}

/// `out = onto + alpha · a · b` for a `b` that is packed in steps.
fn multiply(
    out: ViewMut<'_>,
    onto: Onto<'_>,
    alpha: f32,
    a: View<'_>,
    (packed, step): (&[f32], usize),
    workers: Workers,
) {
    let (depth, columns) = (a.shape.columns, out.columns());
    let size = task(out.shape.rows, columns, workers);
    out.for_blocks(size, workers, |[row, column], mut block| {
        let (rows, here) = (row..row + block.shape.rows, column..column + block.columns());
        for (i, packed) in packed.chunks(columns.next_multiple_of(COLUMNS) * step).enumerate() {
            let from = i * step;
            if from >= depth {
                break;
            }
            let a = a.block(rows.clone(), from..depth.min(from + step));
            let onto = if i == 0 { onto.columns(here.clone()) } else { Onto::Itself };
            multiply_step(block.reborrow(), onto, alpha, a, &packed[here.start * a.shape.columns..]);
        }
    });
}

/// A task's block in one step, the right-hand panels being those of its columns.
fn multiply_step(mut block: ViewMut<'_>, onto: Onto<'_>, alpha: f32, a: View<'_>, packed: &[f32]) {
    let (rows, depth, columns) = (a.shape.rows, a.shape.columns, block.columns());
    let height = even(rows, ROWS, 1);
    scratch::with(rows.div_ceil(height) * ROWS * depth, |left| {
        pack::panels(a, Panels { height, room: ROWS * depth, width: kernel::panel_rows }, left);
        for start in (0..columns).step_by(BLOCK.1) {
            let width = BLOCK.1.min(columns - start);
            let onto = onto.columns(start..start + width);
            for (i, left) in left.chunks(ROWS * depth).enumerate() {
                let tiles = block.part([i * height, start], [height, width]);
                across(tiles, onto, alpha, left, &packed[start * depth..], depth);
            }
        }
    });
}

/// Rows and columns of a task: as many columns as leave enough tasks for all workers, since every task packs its rows anew. The
/// result does not depend on it.
fn task(rows: usize, columns: usize, workers: Workers) -> (usize, usize) {
    let height = even(rows, BLOCK.0, ROWS);
    let wanted = TASKS * workers.count();
    let across = wanted.div_ceil(rows.div_ceil(height)).clamp(1, columns.div_ceil(BLOCK.1));
    (height, columns.div_ceil(across).next_multiple_of(COLUMNS))
}

/// One left-hand panel with all right-hand ones of a block.
fn across(mut tiles: ViewMut<'_>, onto: Onto<'_>, alpha: f32, left: &[f32], right: &[f32], depth: usize) {
    let (rows, columns) = (tiles.shape.rows, tiles.columns());
    for (i, right) in right.chunks(COLUMNS * depth).enumerate().take(columns.div_ceil(COLUMNS)) {
        let tile = tiles.part([0, i * COLUMNS], [rows, COLUMNS]);
        let here = i * COLUMNS..i * COLUMNS + tile.columns();
        kernel::multiply(tile, onto.columns(here), alpha, left, right, depth);
    }
}
