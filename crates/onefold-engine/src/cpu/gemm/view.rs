//! Strided matrices within slices.

use std::marker::PhantomData;
use std::ops::Range;

use super::Workers;

/// A matrix within a slice.
#[derive(Debug, Clone, Copy)]
pub(crate) struct View<'a> {
    pub(super) values: &'a [f32],
    pub(super) shape: Shape,
}

/// A matrix within a slice, to be written. It borrows its elements alone, not what lies between its rows, so that threads
/// can write different columns of one matrix.
#[derive(Debug)]
pub(crate) struct ViewMut<'a> {
    pub(super) first: *mut f32,
    pub(super) shape: Shape,
    elements: PhantomData<&'a mut [f32]>,
}

// SAFETY: a view is a unique borrow of f32 numbers, as a mutable slice is; shared, it gives access to none of them.
unsafe impl Send for ViewMut<'_> {}
// SAFETY: as above.
unsafe impl Sync for ViewMut<'_> {}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Shape {
    pub(super) rows: usize,
    pub(super) columns: usize,
    pub(super) row_stride: usize,
    pub(super) column_stride: usize,
}

impl Shape {
    fn t(self) -> Self {
        let Self { rows, columns, row_stride, column_stride } = self;
        Self { rows: columns, columns: rows, row_stride: column_stride, column_stride: row_stride }
    }

    fn check(self, len: usize) {
        let last = self.rows.saturating_sub(1) * self.row_stride
            + self.columns.saturating_sub(1) * self.column_stride;
        assert!(self.rows == 0 || self.columns == 0 || last < len, "{self:?} reaches beyond {len} values");
    }
}

impl<'a> View<'a> {
    /// `rows` × `columns`, rows being `stride` apart.
    pub(crate) fn new(values: &'a [f32], rows: usize, columns: usize, stride: usize) -> Self {
        let shape = Shape { rows, columns, row_stride: stride, column_stride: 1 };
        shape.check(values.len());
        Self { values, shape }
    }

    /// The transposed matrix; no number moves.
    pub(crate) fn t(self) -> Self {
        Self { shape: self.shape.t(), ..self }
    }

    /// A part of the matrix.
    pub(super) fn block(self, rows: Range<usize>, columns: Range<usize>) -> Self {
        let Shape { row_stride, column_stride, .. } = self.shape;
        assert!(rows.end <= self.shape.rows && columns.end <= self.shape.columns, "a block of a matrix");
        let shape = Shape { rows: rows.len(), columns: columns.len(), ..self.shape };
        if rows.is_empty() || columns.is_empty() {
            return Self { values: &[], shape };
        }
        Self { values: &self.values[rows.start * row_stride + columns.start * column_stride..], shape }
    }
}

impl<'a> ViewMut<'a> {
    /// `rows` × `columns`, rows being `stride` apart.
    pub(crate) fn new(values: &'a mut [f32], rows: usize, columns: usize, stride: usize) -> Self {
        let shape = Shape { rows, columns, row_stride: stride, column_stride: 1 };
        shape.check(values.len());
        assert!(rows <= 1 || columns <= stride, "rows of a destination must not overlap");
        Self { first: values.as_mut_ptr(), shape, elements: PhantomData }
    }

    /// The same view for a shorter time.
    pub(crate) fn reborrow(&mut self) -> ViewMut<'_> {
        ViewMut { first: self.first, shape: self.shape, elements: PhantomData }
    }

    /// The transposed matrix; no number moves.
    pub(crate) fn t(self) -> Self {
        Self { shape: self.shape.t(), ..self }
    }

    /// Number of columns.
    pub(crate) fn columns(&self) -> usize {
        self.shape.columns
    }

    /// A row of a matrix that is not transposed.
    pub(crate) fn row(&mut self, row: usize) -> &mut [f32] {
        assert!(row < self.shape.rows && self.shape.column_stride == 1, "row {row} of {:?}", self.shape);
        // SAFETY: the row lies in the slice of which the view was made, and `self` alone may touch it.
        unsafe {
            std::slice::from_raw_parts_mut(self.first.add(row * self.shape.row_stride), self.shape.columns)
        }
    }

    /// Makes every row of a matrix that is not transposed `row`.
    pub(super) fn fill(&mut self, row: &[f32]) {
        (0..self.shape.rows).for_each(|i| self.row(i).copy_from_slice(row));
    }

    /// Calls `each(first column, block)` for blocks of at most `width` columns, in parallel.
    pub(crate) fn for_columns(self, width: usize, each: impl Fn(usize, ViewMut<'_>) + Sync) {
        let rows = self.shape.rows;
        self.for_blocks((rows, width), Workers::Pool, |[_, column], block| each(column, block));
    }

    /// Calls `each([first row, first column], block)` for blocks of at most `height` rows and `width` columns, those of the same
    /// columns one after the other.
    pub(super) fn for_blocks(
        self,
        (height, width): (usize, usize),
        workers: Workers,
        each: impl Fn([usize; 2], ViewMut<'_>) + Sync,
    ) {
        if self.shape.rows == 0 || self.shape.columns == 0 {
            return;
        }
        let down = self.shape.rows.div_ceil(height);
        let blocks = down * self.shape.columns.div_ceil(width);
        workers.each(blocks, |i| {
            let at = [i % down * height, i / down * width];
            each(at, self.block(at, [height, width]));
        });
    }

    /// At most `size` rows and columns from `at` on.
    pub(super) fn part(&mut self, at: [usize; 2], size: [usize; 2]) -> ViewMut<'_> {
        self.block(at, size)
    }

    /// As [`ViewMut::part`], for tasks that share the matrix. Whoever calls must not ask for an element twice.
    fn block(&self, at: [usize; 2], size: [usize; 2]) -> ViewMut<'_> {
        let Shape { rows, columns, row_stride, column_stride } = self.shape;
        assert!(at[0] < rows && at[1] < columns);
        let (rows, columns) = (size[0].min(rows - at[0]), size[1].min(columns - at[1]));
        let shape = Shape { rows, columns, ..self.shape };
        // SAFETY: `at` is an element of the matrix: the pointer stays in the slice.
        let first = unsafe { self.first.add(at[0] * row_stride + at[1] * column_stride) };
        ViewMut { first, shape, elements: PhantomData }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_of_columns_cover_a_matrix_once() {
        for (rows, columns, stride, width) in [(3, 10, 12, 4), (1, 5, 5, 7), (0, 4, 4, 2), (2, 8, 8, 8)] {
            let mut values = vec![0.0; rows * stride];
            ViewMut::new(&mut values, rows, columns, stride).for_columns(width, |start, mut block| {
                for r in 0..rows {
                    block.row(r).iter_mut().enumerate().for_each(|(j, v)| *v += (start + j + 1) as f32);
                }
            });
            for (i, v) in values.iter().enumerate() {
                let column = i % stride;
                assert_eq!(*v, if column < columns { (column + 1) as f32 } else { 0.0 });
            }
        }
    }

    #[test]
    #[should_panic(expected = "reaches beyond")]
    fn a_view_beyond_its_slice_is_refused() {
        let values = [0.0; 10];
        let _ = View::new(&values, 3, 4, 4);
    }
}
