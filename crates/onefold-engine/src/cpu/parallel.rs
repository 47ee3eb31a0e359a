//! Splitting work by rows. The pieces depend on the shape alone, so that no result depends on the number of threads.

use rayon::prelude::*;

/// Elements that are worth a task of their own.
const TASK: usize = 16 * 1024;

/// Rows of one task, for rows of `width` elements.
pub(crate) fn rows_per_task(width: usize) -> usize {
    (TASK / width.max(1)).max(1)
}

/// Calls `each(first row, rows of out)` for all pieces of `out`, a matrix of rows of `width`, in parallel.
pub(crate) fn for_rows(out: &mut [f32], width: usize, each: impl Fn(usize, &mut [f32]) + Sync) {
    let rows = rows_per_task(width);
    if out.len() <= rows * width {
        return each(0, out);
    }
    out.par_chunks_mut(rows * width).enumerate().for_each(|(i, out)| each(i * rows, out));
}
