//! Products of strided matrices: the safe door to the `gemm` crate, which picks its kernels at run time.

#![allow(
    unsafe_code,
    reason = "the product takes pointers; every access is checked against its slice before"
)]

use std::marker::PhantomData;

use rayon::prelude::*;

use crate::Write;

/// A matrix within a slice.
#[derive(Debug, Clone, Copy)]
pub(crate) struct View<'a> {
    values: &'a [f32],
    shape: Shape,
}

/// A matrix within a slice, to be written. It borrows its elements alone, not what lies between its rows, so that threads
/// can write different columns of one matrix.
#[derive(Debug)]
pub(crate) struct ViewMut<'a> {
    first: *mut f32,
    shape: Shape,
    elements: PhantomData<&'a mut [f32]>,
}

// SAFETY: a view is a unique borrow of f32 numbers, as a mutable slice is; shared, it gives access to none of them.
unsafe impl Send for ViewMut<'_> {}
// SAFETY: as above.
unsafe impl Sync for ViewMut<'_> {}

#[derive(Debug, Clone, Copy, PartialEq)]
struct Shape {
    rows: usize,
    columns: usize,
    row_stride: usize,
    column_stride: usize,
}

impl Shape {
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
        let Shape { rows, columns, row_stride, column_stride } = self.shape;
        let shape =
            Shape { rows: columns, columns: rows, row_stride: column_stride, column_stride: row_stride };
        Self { shape, ..self }
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
        let Shape { rows, columns, row_stride, column_stride } = self.shape;
        let shape =
            Shape { rows: columns, columns: rows, row_stride: column_stride, column_stride: row_stride };
        Self { shape, ..self }
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

    /// Calls `each(first column, block)` for blocks of at most `width` columns, in parallel.
    pub(crate) fn for_columns(self, width: usize, each: impl Fn(usize, ViewMut<'_>) + Sync) {
        let Shape { rows, columns, .. } = self.shape;
        if rows > 0 {
            let blocks = columns.div_ceil(width);
            (0..blocks).into_par_iter().for_each(|i| each(i * width, self.block(i * width, width)));
        }
    }

    /// At most `width` columns from `start` on. Whoever calls must not ask for a column twice.
    fn block(&self, start: usize, width: usize) -> ViewMut<'_> {
        assert!(self.shape.rows > 0 && start < self.shape.columns);
        let shape = Shape { columns: width.min(self.shape.columns - start), ..self.shape };
        // SAFETY: the matrix has a row, and `start` is one of its columns: the pointer stays in the slice.
        let first = unsafe { self.first.add(start * shape.column_stride) };
        ViewMut { first, shape, elements: PhantomData }
    }
}

/// Who does the work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Workers {
    /// The calling thread: for products inside a parallel loop.
    One,
    /// The current rayon pool.
    Pool,
}

/// `out = alpha · a · b`, or adds that to `out`.
///
/// # Panics
/// If the shapes do not fit together.
#[allow(
    clippy::needless_pass_by_value,
    reason = "a unique borrow, as a mutable slice, which is passed by value too"
)]
pub(crate) fn gemm(out: ViewMut<'_>, write: Write, alpha: f32, a: View<'_>, b: View<'_>, workers: Workers) {
    let (m, n, k) = (out.shape.rows, out.shape.columns, a.shape.columns);
    assert_eq!((m, k, n), (a.shape.rows, b.shape.rows, b.shape.columns), "shapes of a product");
    let parallelism = match workers {
        Workers::One => ::gemm::Parallelism::None,
        Workers::Pool => ::gemm::Parallelism::Rayon(0),
    };
    // SAFETY: `Shape::check` has shown, when the views were made, that every element that m, n, k and the strides reach
    // lies in its slice; `out` is borrowed mutably, so it overlaps neither `a` nor `b`, and its rows do not overlap.
    unsafe {
        ::gemm::gemm(
            m,
            n,
            k,
            out.first,
            out.shape.column_stride as isize,
            out.shape.row_stride as isize,
            write == Write::Add,
            a.values.as_ptr(),
            a.shape.column_stride as isize,
            a.shape.row_stride as isize,
            b.values.as_ptr(),
            b.shape.column_stride as isize,
            b.shape.row_stride as isize,
            1.0,
            alpha,
            false,
            false,
            false,
            parallelism,
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wave(n: usize, f: f32) -> Vec<f32> {
        (0..n).map(|i| (i as f32 * f).sin()).collect()
    }

    #[test]
    fn agrees_with_the_definition() {
        let (m, n, k) = (5, 7, 11);
        let (a, b) = (wave(m * k, 0.7), wave(n * k, 1.3));
        let mut out = wave(m * n, 0.1);
        let before = out.clone();
        let (va, vb) = (View::new(&a, m, k, k), View::new(&b, n, k, k).t());
        gemm(ViewMut::new(&mut out, m, n, n), Write::Add, 0.5, va, vb, Workers::One);
        for i in 0..m {
            for j in 0..n {
                let exact: f64 = (0..k).map(|l| f64::from(a[i * k + l]) * f64::from(b[j * k + l])).sum();
                let expected = f64::from(before[i * n + j]) + 0.5 * exact;
                assert!((f64::from(out[i * n + j]) - expected).abs() < 1e-5);
            }
        }
    }

    /// The pool changes no bit, whatever its size.
    #[test]
    fn threads_do_not_show() {
        for (m, n, k) in [(256, 512, 512), (1, 512, 300), (300, 1, 512), (64, 1000, 37), (1024, 64, 256)] {
            let (a, b) = (wave(m * k, 0.7), wave(n * k, 1.3));
            let run = |workers| {
                let mut out = vec![0.0; m * n];
                let (va, vb) = (View::new(&a, m, k, k), View::new(&b, n, k, k).t());
                gemm(ViewMut::new(&mut out, m, n, n), Write::Set, 1.0, va, vb, workers);
                out
            };
            let one = run(Workers::One);
            for threads in 1..=4 {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
                assert!(one == pool.install(|| run(Workers::Pool)), "{m}x{n}x{k} on {threads}");
            }
        }
    }

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
