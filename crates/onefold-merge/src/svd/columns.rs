//! Wide matrices read a block of columns at a time, in f64.
//!
//! Why: every SVD method here needs only p×p matrices (p = the small side) and passes over the columns of the
//! large side n. Nothing of size p×n is ever copied to f64, so memory beyond the result does not grow with n
//! (token embeddings: n = vocabulary). Blocks are visited in index order on one thread, hence the bits of a
//! result depend on nothing but the input.

use std::ops::Range;

use faer::linalg::matmul::matmul;
use faer::linalg::matmul::triangular::{self, BlockStructure};
use faer::reborrow::{IntoConst, Reborrow, ReborrowMut};
use faer::{Accum, Mat, MatMut, MatRef, Par};

/// Columns per block: enough for the matrix product to run at full speed, little beside p×p.
pub(super) const BLOCK: usize = 512;

/// How numbers are stored outside; all arithmetic is f64 (reasons in the module `svd`).
pub(super) trait Scalar: Copy {
    fn to_f64(self) -> f64;
    /// Rounds to nearest even.
    fn from_f64(value: f64) -> Self;
    fn is_finite(self) -> bool;
}

impl Scalar for f32 {
    fn to_f64(self) -> f64 {
        f64::from(self)
    }
    fn from_f64(value: f64) -> Self {
        value as f32
    }
    fn is_finite(self) -> bool {
        f32::is_finite(self)
    }
}

/// A matrix that can be read in blocks of columns.
pub(super) trait Columns {
    fn rows(&self) -> usize;
    fn cols(&self) -> usize;
    /// Whether rows rather than columns lie contiguous in the store behind it: blocks take the same layout.
    fn row_major(&self) -> bool;
    /// Overwrites `out` (rows × width) with the columns `cols`.
    fn load(&self, cols: Range<usize>, out: MatMut<'_, f64>);
}

/// The K task vectors of one matrix, turned so that the small side p counts the rows: X_k is p×n, p ≤ n.
#[derive(Debug)]
pub(super) struct Deltas<'a, T> {
    pub(super) slices: &'a [&'a [T]],
    pub(super) p: usize,
    pub(super) n: usize,
    /// The stored matrices are n×p: X_k = τ_kᵀ.
    pub(super) transposed: bool,
}

impl<T: Scalar> Deltas<'_, T> {
    pub(super) fn tasks(&self) -> usize {
        self.slices.len()
    }

    /// ‖τ_k‖_F, the yardstick for what is rounding noise in task k.
    pub(super) fn norm(&self, k: usize) -> f64 {
        self.slices[k].iter().map(|x| x.to_f64() * x.to_f64()).sum::<f64>().sqrt()
    }

    /// `out` += the columns `cols` of X_k.
    fn add(&self, k: usize, cols: Range<usize>, mut out: MatMut<'_, f64>) {
        if self.transposed {
            for (j, col) in
                self.slices[k][cols.start * self.p..].chunks_exact(self.p).take(cols.len()).enumerate()
            {
                out.rb_mut().col_mut(j).iter_mut().zip(col).for_each(|(o, x)| *o += x.to_f64());
            }
        } else {
            for (i, row) in self.slices[k].chunks_exact(self.n).enumerate() {
                let row = &row[cols.clone()];
                out.rb_mut().row_mut(i).iter_mut().zip(row).for_each(|(o, x)| *o += x.to_f64());
            }
        }
    }

    fn add_term(&self, term: Term, cols: Range<usize>, mut out: MatMut<'_, f64>) {
        match term {
            Term::Task(k) => self.add(k, cols, out),
            Term::Sum => (0..self.tasks()).for_each(|k| self.add(k, cols.clone(), out.rb_mut())),
        }
    }
}

/// One task vector, or T = Σ_k X_k.
#[derive(Clone, Copy, Debug)]
pub(super) enum Term {
    Task(usize),
    Sum,
}

/// `left` · term, placed at row `at`; without `left`, the term itself.
#[derive(Debug)]
pub(super) struct Part {
    pub(super) at: usize,
    pub(super) left: Option<Mat<f64>>, // r×p
    pub(super) term: Term,
}

/// A `rows`×n matrix that is linear in the task vectors; parts that overlap add up.
#[derive(Debug)]
pub(super) struct Combination<'a, T> {
    pub(super) deltas: &'a Deltas<'a, T>,
    pub(super) rows: usize,
    pub(super) parts: Vec<Part>,
}

impl<'a, T: Scalar> Combination<'a, T> {
    /// The term itself, p×n.
    pub(super) fn term(deltas: &'a Deltas<'a, T>, term: Term) -> Self {
        Self { deltas, rows: deltas.p, parts: vec![Part { at: 0, left: None, term }] }
    }

    /// left · term.
    pub(super) fn product(deltas: &'a Deltas<'a, T>, left: Mat<f64>, term: Term) -> Self {
        Self { deltas, rows: left.nrows(), parts: vec![Part { at: 0, left: Some(left), term }] }
    }
}

impl<T: Scalar> Columns for Combination<'_, T> {
    fn rows(&self) -> usize {
        self.rows
    }
    fn cols(&self) -> usize {
        self.deltas.n
    }
    fn row_major(&self) -> bool {
        !self.deltas.transposed
    }
    fn load(&self, cols: Range<usize>, mut out: MatMut<'_, f64>) {
        out.fill(0.0);
        let mut scratch = Block::new(self.deltas.p, cols.len(), self.row_major());
        for part in &self.parts {
            let Some(left) = &part.left else {
                self.deltas.add_term(
                    part.term,
                    cols.clone(),
                    out.rb_mut().subrows_mut(part.at, self.deltas.p),
                );
                continue;
            };
            let mut x = scratch.view_mut(cols.len());
            x.fill(0.0);
            self.deltas.add_term(part.term, cols.clone(), x.rb_mut());
            let target = out.rb_mut().subrows_mut(part.at, left.nrows());
            matmul(target, Accum::Add, left, x.rb(), 1.0, Par::Seq);
        }
    }
}

/// A matrix that is in memory already.
#[derive(Debug)]
pub(super) struct Dense<'a>(pub(super) MatRef<'a, f64>);

impl Columns for Dense<'_> {
    fn rows(&self) -> usize {
        self.0.nrows()
    }
    fn cols(&self) -> usize {
        self.0.ncols()
    }
    fn row_major(&self) -> bool {
        false
    }
    fn load(&self, cols: Range<usize>, mut out: MatMut<'_, f64>) {
        out.copy_from(self.0.subcols(cols.start, cols.len()));
    }
}

/// Buffer for one block of columns.
#[derive(Debug)]
pub(super) struct Block {
    data: Mat<f64>,
    row_major: bool,
}

impl Block {
    pub(super) fn new(rows: usize, width: usize, row_major: bool) -> Self {
        let data = if row_major { Mat::zeros(width, rows) } else { Mat::zeros(rows, width) };
        Self { data, row_major }
    }

    pub(super) fn view_mut(&mut self, width: usize) -> MatMut<'_, f64> {
        let all = if self.row_major { self.data.as_mut().transpose_mut() } else { self.data.as_mut() };
        all.subcols_mut(0, width)
    }

    /// Reads the columns `cols` of `source`.
    pub(super) fn fill(&mut self, source: &impl Columns, cols: Range<usize>) -> MatRef<'_, f64> {
        let mut view = self.view_mut(cols.len());
        source.load(cols, view.rb_mut());
        view.into_const()
    }
}

/// `0..n` cut into ranges of `width`, the last one shorter.
pub(super) fn ranges(n: usize, width: usize) -> impl Iterator<Item = Range<usize>> {
    (0..n).step_by(width).map(move |start| start..n.min(start + width))
}

/// Calls `visit` with each block of columns in order.
pub(super) fn for_each_block(source: &impl Columns, mut visit: impl FnMut(Range<usize>, MatRef<'_, f64>)) {
    let mut block = Block::new(source.rows(), BLOCK.min(source.cols()), source.row_major());
    for cols in ranges(source.cols(), BLOCK) {
        let x = block.fill(source, cols.clone());
        visit(cols, x);
    }
}

/// The lower triangle of X·Xᵀ (p×p).
pub(super) fn gram(source: &impl Columns) -> Mat<f64> {
    let p = source.rows();
    let mut gram = Mat::zeros(p, p);
    for_each_block(source, |_, x| {
        let (lower, full) = (BlockStructure::TriangularLower, BlockStructure::Rectangular);
        triangular::matmul(gram.as_mut(), lower, Accum::Add, x, full, x.transpose(), full, 1.0, Par::Seq);
    });
    gram
}

/// A·Bᵀ of two matrices with the same number of columns.
pub(super) fn cross_gram(a: &impl Columns, b: &impl Columns) -> Mat<f64> {
    let mut cross = Mat::zeros(a.rows(), b.rows());
    let mut other = Block::new(b.rows(), BLOCK.min(b.cols()), b.row_major());
    for_each_block(a, |cols, x| {
        let y = other.fill(b, cols);
        matmul(cross.as_mut(), Accum::Add, x, y.transpose(), 1.0, Par::Seq);
    });
    cross
}
