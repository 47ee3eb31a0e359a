//! Products of strided matrices.
//!
//! Where the processor has AVX-512 they are computed here (`avx512`), up to a fifth faster over several threads than by the `gemm`
//! crate, which does it on all others; its kernels too are chosen at run time.

#![allow(
    unsafe_code,
    reason = "the product takes pointers; every access is checked against its slice before"
)]

#[cfg(target_arch = "x86_64")]
mod avx512;
mod view;

use std::ops::Range;

use rayon::prelude::*;

use crate::Write;
pub(crate) use view::{View, ViewMut};

/// Rows that one task fills with a bias.
const FILLED: usize = 64;

/// Who does the work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Workers {
    /// The calling thread: for products inside a parallel loop.
    One,
    /// The current rayon pool.
    Pool,
}

impl Workers {
    /// How many there are.
    #[cfg(target_arch = "x86_64")]
    fn count(self) -> usize {
        match self {
            Self::One => 1,
            Self::Pool => rayon::current_num_threads(),
        }
    }

    /// Calls `each` for all numbers below `count`.
    fn each(self, count: usize, each: impl Fn(usize) + Sync) {
        match self {
            Self::Pool if count > 1 => (0..count).into_par_iter().with_max_len(1).for_each(&each),
            _ => (0..count).for_each(each),
        }
    }

    /// Calls `each(number, chunk)` for all chunks of `values`.
    #[cfg(target_arch = "x86_64")]
    fn each_chunk(self, values: &mut [f32], size: usize, each: impl Fn(usize, &mut [f32]) + Sync) {
        match self {
            Self::Pool if values.len() > size => {
                values.par_chunks_mut(size).enumerate().for_each(|(i, chunk)| each(i, chunk));
            }
            _ => values.chunks_mut(size).enumerate().for_each(|(i, chunk)| each(i, chunk)),
        }
    }
}

/// What a product is added to.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Onto<'a> {
    /// 0.
    Nothing,
    /// What the destination holds.
    Itself,
    /// The same row for every row of the destination: a bias.
    Row(&'a [f32]),
}

impl From<Write> for Onto<'_> {
    fn from(write: Write) -> Self {
        match write {
            Write::Set => Self::Nothing,
            Write::Add => Self::Itself,
        }
    }
}

impl<'a> Onto<'a> {
    /// The same for some columns of the destination.
    pub(crate) fn columns(self, columns: Range<usize>) -> Self {
        match self {
            Self::Row(row) => Self::Row(&row[columns]),
            same => same,
        }
    }
}

/// `out = onto + alpha · a · b`.
///
/// # Panics
/// If the shapes do not fit together.
pub(crate) fn gemm<'a>(
    mut out: ViewMut<'_>,
    onto: impl Into<Onto<'a>>,
    alpha: f32,
    a: View<'_>,
    b: View<'_>,
    workers: Workers,
) {
    let onto = onto.into();
    let (m, n, k) = (out.shape.rows, out.shape.columns, a.shape.columns);
    assert_eq!((m, k, n), (a.shape.rows, b.shape.rows, b.shape.columns), "shapes of a product");
    if m == 0 || n == 0 {
        return;
    }
    #[cfg(target_arch = "x86_64")]
    if avx512::is_available() && k > 0 {
        return avx512::product(out, onto, alpha, a, b, workers);
    }
    let write = match onto {
        Onto::Nothing => Write::Set,
        Onto::Itself => Write::Add,
        Onto::Row(row) => {
            out.reborrow().for_blocks((FILLED, n), workers, |_, mut rows| rows.fill(row));
            Write::Add
        }
    };
    by_library(out, write, alpha, a, b, workers);
}

/// The product by the `gemm` crate.
#[allow(
    clippy::needless_pass_by_value,
    reason = "a unique borrow, as a mutable slice, which is passed by value too"
)]
fn by_library(out: ViewMut<'_>, write: Write, alpha: f32, a: View<'_>, b: View<'_>, workers: Workers) {
    let (m, n, k) = (out.shape.rows, out.shape.columns, a.shape.columns);
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

    /// All shapes at the edges of tiles and blocks, all layouts and beginnings; what lies between the rows stays.
    #[test]
    fn agrees_with_the_definition() {
        let shapes = [
            (1, 1, 1),
            (1, 5, 3),
            (5, 1, 3),
            (5, 7, 11),
            (14, 32, 16),
            (15, 33, 17),
            (28, 64, 400),
            (29, 47, 13),
            (57, 385, 769),
            (113, 16, 5),
            (3, 2049, 7),
            (70, 100, 1),
            (0, 5, 3),
            (5, 0, 3),
            (4, 4, 0),
        ];
        for (m, n, k) in shapes {
            for layout in 0..8 {
                for onto in 0..3 {
                    check((m, n, k), [layout & 1 > 0, layout & 2 > 0, layout & 4 > 0], onto);
                }
            }
        }
    }

    /// More steps of the depth than are packed at once.
    #[test]
    fn a_deep_product_takes_several_rounds() {
        check((2, 2048, 1100), [false, true, false], 1);
        check((2, 2048, 1100), [true, false, false], 2);
    }

    /// Each side as its transpose lies in memory, or not.
    fn check((m, n, k): (usize, usize, usize), [a_turned, b_turned, out_turned]: [bool; 3], onto: usize) {
        let at = |turned: bool, (i, j), (rows, columns)| if turned { j * rows + i } else { i * columns + j };
        let (a, b, bias) = (wave(m * k, 0.7), wave(n * k, 1.3), wave(n, 0.3));
        let padding = usize::from(!out_turned) * 3;
        let stride = if out_turned { m } else { n + padding };
        let mut out = wave(stride * if out_turned { n } else { m }, 0.1);
        let before = out.clone();
        let view = |values, turned, rows, columns| {
            if turned {
                View::new(values, columns, rows, rows).t()
            } else {
                View::new(values, rows, columns, columns)
            }
        };
        let (va, vb) = (view(&a, a_turned, m, k), view(&b, b_turned, k, n));
        let onto = match onto {
            0 => Onto::Nothing,
            1 => Onto::Itself,
            _ if out_turned => return,
            _ => Onto::Row(&bias),
        };
        let to = if out_turned {
            ViewMut::new(&mut out, n, m, m).t()
        } else {
            ViewMut::new(&mut out, m, n, stride)
        };
        gemm(to, onto, 0.5, va, vb, Workers::One);
        for i in 0..m {
            for j in 0..n {
                let term = |l| {
                    f64::from(a[at(a_turned, (i, l), (m, k))]) * f64::from(b[at(b_turned, (l, j), (k, n))])
                };
                let exact: f64 = (0..k).map(term).sum();
                let place = if out_turned { j * m + i } else { i * stride + j };
                let start = match onto {
                    Onto::Nothing => 0.0,
                    Onto::Itself => before[place],
                    Onto::Row(row) => row[j],
                };
                let expected = f64::from(start) + 0.5 * exact;
                let error = (f64::from(out[place]) - expected).abs();
                assert!(error < 1e-6 * (k as f64 + 4.0), "{m} {n} {k} at {i} {j}: {} {expected}", out[place]);
            }
        }
        if !out_turned {
            for i in 0..m.saturating_sub(1) {
                assert_eq!(out[i * stride + n..(i + 1) * stride], before[i * stride + n..(i + 1) * stride]);
            }
        }
    }

    /// What the other rows and columns are changes no bit of a row, so batches do not show.
    #[cfg(target_arch = "x86_64")]
    #[test]
    fn a_row_does_not_depend_on_the_others() {
        if !avx512::is_available() {
            return;
        }
        let (m, n, k) = (70, 90, 800);
        let (a, b) = (wave(m * k, 0.7), wave(n * k, 1.3));
        let run = |from: usize, rows: usize| {
            let mut out = vec![0.0; rows * n];
            let left = View::new(&a[from * k..], rows, k, k);
            gemm(
                ViewMut::new(&mut out, rows, n, n),
                Write::Set,
                1.0,
                left,
                View::new(&b, n, k, k).t(),
                Workers::One,
            );
            out
        };
        let all = run(0, m);
        for (from, rows) in [(0, 1), (3, 14), (20, 50), (69, 1)] {
            assert!(run(from, rows) == all[from * n..(from + rows) * n], "rows {from} and {rows}");
        }
    }

    /// The pool changes no bit, whatever its size.
    #[test]
    fn threads_do_not_show() {
        for (m, n, k) in
            [(256, 512, 512), (1, 512, 300), (300, 1, 512), (64, 1000, 37), (1024, 64, 256), (20, 2048, 1100)]
        {
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
}
