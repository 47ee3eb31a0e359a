//! Parts of one matrix that several tasks write at the same time.
//!
//! The heads of attention are columns of their matrix: a task's part is a rectangle, not a range of the slice, so slices cannot
//! be split among tasks safely. This file has the one unsafe step, handing out a rectangle, and the one condition on it.

#![allow(
    unsafe_code,
    reason = "rectangles of one slice are written by several tasks; the condition is stated and, in debug builds, checked"
)]

use std::marker::PhantomData;
use std::ops::Range;
#[cfg(debug_assertions)]
use std::sync::Mutex;

/// A row-major matrix of which tasks take rectangles.
#[derive(Debug)]
pub(crate) struct Tiles<'a> {
    start: *mut f32,
    rows: usize,
    stride: usize,
    #[cfg(debug_assertions)]
    taken: Mutex<Vec<(Range<usize>, Range<usize>)>>,
    matrix: PhantomData<&'a mut [f32]>,
}

// SAFETY: a `Tiles` is a mutable borrow of f32 numbers, which may move between threads; through a shared one only `tile` reaches
// them, whose condition is that no two of its rectangles overlap.
unsafe impl Send for Tiles<'_> {}
// SAFETY: as above.
unsafe impl Sync for Tiles<'_> {}

/// A rectangle of a matrix; nobody else reads or writes it.
#[derive(Debug)]
pub(crate) struct Tile<'a> {
    start: *mut f32,
    rows: usize,
    columns: usize,
    stride: usize,
    matrix: PhantomData<&'a mut [f32]>,
}

impl<'a> Tiles<'a> {
    /// The matrix in `values` whose rows are `stride` long.
    pub(crate) fn new(values: &'a mut [f32], stride: usize) -> Self {
        assert!(stride > 0 && values.len().is_multiple_of(stride), "a matrix has whole rows");
        Self {
            start: values.as_mut_ptr(),
            rows: values.len() / stride,
            stride,
            #[cfg(debug_assertions)]
            taken: Mutex::default(),
            matrix: PhantomData,
        }
    }

    /// Takes a rectangle. Debug builds panic if the condition is broken.
    ///
    /// # Safety
    /// It overlaps no other rectangle taken from this matrix.
    pub(crate) unsafe fn tile(&self, rows: Range<usize>, columns: Range<usize>) -> Tile<'a> {
        assert!(rows.start <= rows.end && rows.end <= self.rows, "rows of a tile lie in the matrix");
        assert!(
            columns.start <= columns.end && columns.end <= self.stride,
            "columns of a tile lie in the matrix"
        );
        #[cfg(debug_assertions)]
        self.note(&rows, &columns);
        Tile {
            // In bounds or one past the end where the rectangle is empty; `Tile::row` looks before it reads.
            start: self.start.wrapping_add(rows.start * self.stride + columns.start),
            rows: rows.len(),
            columns: columns.len(),
            stride: self.stride,
            matrix: PhantomData,
        }
    }

    #[cfg(debug_assertions)]
    fn note(&self, rows: &Range<usize>, columns: &Range<usize>) {
        let meet = |a: &Range<usize>, b: &Range<usize>| a.start.max(b.start) < a.end.min(b.end);
        let mut taken = self.taken.lock().expect("no holder panics before it lets go");
        let overlap = taken.iter().any(|(r, c)| meet(r, rows) && meet(c, columns));
        taken.push((rows.clone(), columns.clone()));
        drop(taken);
        assert!(!overlap, "tile {rows:?} × {columns:?} overlaps another");
    }
}

impl Tile<'_> {
    /// Its row number `row`.
    pub(crate) fn row(&mut self, row: usize) -> &mut [f32] {
        assert!(row < self.rows, "row {row} of a tile of {}", self.rows);
        // SAFETY: `Tiles::tile` has checked that all rows and columns lie in the matrix, whose borrow `matrix` holds; nobody else
        // has a part of this rectangle (condition of `Tiles::tile`), and `self` is borrowed as long as the row is.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(row * self.stride), self.columns) }
    }
}

#[cfg(test)]
mod tests {
    use rayon::prelude::*;

    use super::*;

    #[test]
    fn tasks_write_their_parts() {
        let mut values = vec![0.0; 6 * 10];
        let tiles = Tiles::new(&mut values, 10);
        (0..6).into_par_iter().for_each(|task| {
            let (rows, columns) = (task / 2 * 2..task / 2 * 2 + 2, task % 2 * 5..task % 2 * 5 + 5);
            // SAFETY: rectangles of a grid.
            let mut tile = unsafe { tiles.tile(rows, columns) };
            (0..2).for_each(|row| tile.row(row).fill(task as f32));
        });
        for (i, v) in values.iter().enumerate() {
            assert_eq!(*v, (i / 20 * 2 + i % 10 / 5) as f32);
        }
    }

    #[test]
    fn empty_rectangles_are_harmless() {
        let mut values = vec![0.0; 4];
        let tiles = Tiles::new(&mut values, 2);
        // SAFETY: one rectangle, and empty ones.
        let mut tile = unsafe {
            let _nothing = (tiles.tile(2..2, 0..2), tiles.tile(0..2, 2..2));
            tiles.tile(0..2, 0..2)
        };
        tile.row(1).fill(1.0);
        assert_eq!(values, [0.0, 0.0, 1.0, 1.0]);
    }

    #[test]
    #[should_panic(expected = "lie in the matrix")]
    fn a_rectangle_beyond_the_matrix_is_refused() {
        let mut values = vec![0.0; 4];
        // SAFETY: one rectangle.
        let _ = unsafe { Tiles::new(&mut values, 2).tile(0..2, 1..3) };
    }

    #[test]
    #[should_panic(expected = "row 2 of a tile of 2")]
    fn a_row_beyond_the_rectangle_is_refused() {
        let mut values = vec![0.0; 6];
        // SAFETY: one rectangle.
        let mut tile = unsafe { Tiles::new(&mut values, 2).tile(0..2, 0..2) };
        tile.row(2).fill(1.0);
    }

    #[cfg(debug_assertions)]
    #[test]
    #[should_panic(expected = "overlaps another")]
    fn overlaps_are_found_in_debug_builds() {
        let mut values = vec![0.0; 16];
        let tiles = Tiles::new(&mut values, 4);
        // SAFETY: broken on purpose; no row of either rectangle is looked at.
        let _ = unsafe { (tiles.tile(0..3, 0..2), tiles.tile(2..4, 1..3)) };
    }
}
