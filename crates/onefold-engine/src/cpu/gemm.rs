//! Products of strided matrices: the safe door to the `gemm` crate, which picks its kernels at run time.

#![allow(
    unsafe_code,
    reason = "the product takes pointers; every access is checked against its slice before"
)]

use crate::Write;

/// A matrix within a slice.
#[derive(Debug, Clone, Copy)]
pub(crate) struct View<'a> {
    values: &'a [f32],
    shape: Shape,
}

/// A matrix within a slice, to be written.
#[derive(Debug)]
pub(crate) struct ViewMut<'a> {
    values: &'a mut [f32],
    shape: Shape,
}

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
        Self { values, shape }
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
            out.values.as_mut_ptr(),
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
    #[should_panic(expected = "reaches beyond")]
    fn a_view_beyond_its_slice_is_refused() {
        let values = [0.0; 10];
        let _ = View::new(&values, 3, 4, 4);
    }
}
