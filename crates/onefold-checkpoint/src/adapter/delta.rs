//! Tensors that an adapter changes, computed piece by piece when they are read.
//!
//! LoRA, for a weight W seen as a matrix `[rows, cols]` in its stored layout: `W' = W + s · L · R`, where L is
//! `[rows, r]` and R `[r, cols]`. For `nn.Linear` and convolutions L = B and R = A (a convolution's `[in, kh, kw]` is
//! one row); for weights stored as `[in, out]` (GPT-2's Conv1D) and for embeddings L = Aᵀ and R = Bᵀ.
//! DoRA: `W'' = W' · m / ‖W'‖`, the norm over the input dimension, one for each output: per row, or per column where
//! the weight is stored transposed.
//!
//! Neither the product nor a widened factor is ever whole in memory: a piece is covered by tiles, each summed over
//! ranks in blocks. The sum of one element runs over the ranks in order, whatever the tile, so that no bit depends
//! on how a tensor is cut. For the same reason there is no fused multiply-add: machines with and without it agree.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::OnceLock;

use multiversion::multiversion;

use crate::Tensor;
use crate::tensor::{Elements, Update, for_each_row_part};

/// Tile: the block of R (`RANKS × COLS`) stays in the first-level cache while the rows pass over it.
const ROWS: usize = 32;
const COLS: usize = 512;
const RANKS: usize = 16;
/// The kernel takes ranks in fours; blocks are filled up with zeros.
const UNROLL: usize = 4;
/// Elements that are read at once for norms.
const PIECE: usize = 1 << 16;

/// One factor of the product, as stored: A is `[r, n]`, B is `[n, r]`.
#[derive(Debug)]
pub(super) struct Factor {
    pub(super) tensor: Tensor,
    /// Stored as `[r, n]`.
    pub(super) rank_major: bool,
    /// The dimension that is not the rank.
    pub(super) count: usize,
}

/// A weight with a low-rank update.
#[derive(Debug)]
pub(super) struct LowRank {
    pub(super) base: Tensor,
    pub(super) left: Factor,
    pub(super) right: Factor,
    pub(super) rank: usize,
    pub(super) scaling: f32,
    pub(super) dora: Option<Dora>,
}

/// DoRA's magnitudes and, once needed, the factor of each row or column.
#[derive(Debug)]
pub(super) struct Dora {
    pub(super) magnitude: Tensor,
    pub(super) per_row: bool,
    factors: OnceLock<Vec<f32>>,
}

impl Dora {
    pub(super) fn new(magnitude: Tensor, per_row: bool) -> Self {
        Self { magnitude, per_row, factors: OnceLock::new() }
    }
}

impl Elements for LowRank {
    fn read(&self, start: usize, out: &mut [f32]) {
        self.updated(start, out);
        if let Some(dora) = &self.dora {
            let factors = dora.factors.get_or_init(|| self.dora_factors(dora));
            for_each_row_part(start, out, self.right.count, |row, column, part| {
                if dora.per_row {
                    part.iter_mut().for_each(|o| *o *= factors[row]);
                } else {
                    part.iter_mut().zip(&factors[column..]).for_each(|(o, f)| *o *= f);
                }
            });
        }
    }

    fn update(&self) -> Option<&dyn Update> {
        // DoRA scales the base as well.
        self.dora.is_none().then_some(self)
    }
}

impl Update for LowRank {
    fn base(&self) -> &Tensor {
        &self.base
    }

    fn dimensions(&self) -> [usize; 3] {
        [self.left.count, self.rank, self.right.count]
    }

    fn read_left(&self, rows: Range<usize>, out: &mut [f32]) {
        self.left.read((0, self.rank), self.rank, (rows.start, rows.len()), rows.len(), out);
        out.iter_mut().for_each(|value| *value *= self.scaling);
    }

    fn read_right(&self, out: &mut [f32]) {
        let cols = self.right.count;
        self.right.read((0, self.rank), self.rank, (0, cols), cols, out);
    }
}

impl LowRank {
    /// `W + s · L · R` from position `start` on.
    fn updated(&self, start: usize, out: &mut [f32]) {
        self.base.read(start, out);
        let cols = self.right.count;
        let mut scratch = Scratch::take();
        let (mut position, mut rest) = (start, out);
        while !rest.is_empty() {
            let (row, column) = (position / cols, position % cols);
            // A part of one row, or as many whole rows as there are.
            let whole = if column == 0 { rest.len() / cols } else { 0 };
            let (rows, width) = if whole > 0 { (whole, cols) } else { (1, rest.len().min(cols - column)) };
            let (block, tail) = rest.split_at_mut(rows * width);
            self.add_product(row, column, width, block, &mut scratch);
            position += block.len();
            rest = tail;
        }
        scratch.give_back();
    }

    /// Adds the product to `block`, which is `[block.len() / width, width]` with its corner at (`row`, `column`).
    fn add_product(&self, row: usize, column: usize, width: usize, block: &mut [f32], scratch: &mut Scratch) {
        let rows = block.len() / width;
        for r in (0..rows).step_by(ROWS) {
            let height = ROWS.min(rows - r);
            for c in (0..width).step_by(COLS) {
                let breadth = COLS.min(width - c);
                self.tile((row + r, height), (column + c, breadth), scratch);
                for i in 0..height {
                    let to = (r + i) * width + c;
                    let sum = &scratch.sum[i * COLS..i * COLS + breadth];
                    block[to..to + breadth].iter_mut().zip(sum).for_each(|(o, s)| *o += self.scaling * s);
                }
            }
        }
    }

    /// Computes a tile of `L · R` (first index and length in each direction) into `scratch.sum`.
    fn tile(&self, rows: (usize, usize), cols: (usize, usize), scratch: &mut Scratch) {
        let Scratch { left, right, sum } = scratch;
        sum[..rows.1 * COLS].fill(0.0);
        for first in (0..self.rank).step_by(RANKS) {
            let ranks = RANKS.min(self.rank - first);
            let padded = ranks.next_multiple_of(UNROLL);
            left[ranks * ROWS..padded * ROWS].fill(0.0);
            right[ranks * COLS..padded * COLS].fill(0.0);
            self.left.read((first, ranks), self.rank, rows, ROWS, left);
            self.right.read((first, ranks), self.rank, cols, COLS, right);
            accumulate(left, right, sum, padded, rows.1, cols.1);
        }
    }

    /// m / ‖W'‖ for each output, from one pass over the tensor. Squares are summed in f64, in order.
    fn dora_factors(&self, dora: &Dora) -> Vec<f32> {
        let outputs = dora.magnitude.len();
        let mut squares = vec![0f64; outputs];
        let mut piece = vec![0f32; self.base.len().min(PIECE)];
        for start in (0..self.base.len()).step_by(PIECE) {
            let piece = &mut piece[..PIECE.min(self.base.len() - start)];
            self.updated(start, piece);
            for_each_row_part(start, piece, self.right.count, |row, column, part| {
                let square = |v: &f32| f64::from(*v) * f64::from(*v);
                if dora.per_row {
                    squares[row] += part.iter().map(square).sum::<f64>();
                } else {
                    squares[column..].iter_mut().zip(part).for_each(|(s, v)| *s += square(v));
                }
            });
        }
        let mut factors = vec![0f32; outputs];
        dora.magnitude.read(0, &mut factors);
        for (factor, square) in factors.iter_mut().zip(squares) {
            *factor = (f64::from(*factor) / square.sqrt()) as f32;
        }
        factors
    }
}

impl Factor {
    /// Widens a block to `out`, rank by rank, `stride` apart.
    fn read(
        &self,
        (first, ranks): (usize, usize),
        rank: usize,
        (start, count): (usize, usize),
        stride: usize,
        out: &mut [f32],
    ) {
        if self.rank_major {
            for k in 0..ranks {
                let row = &mut out[k * stride..k * stride + count];
                self.tensor.read((first + k) * self.count + start, row);
            }
            return;
        }
        let mut strip = [0f32; RANKS];
        for i in 0..count {
            for k in (0..ranks).step_by(RANKS) {
                let strip = &mut strip[..RANKS.min(ranks - k)];
                self.tensor.read((start + i) * rank + first + k, strip);
                strip.iter().zip(k..).for_each(|(value, k)| out[k * stride + i] = *value);
            }
        }
    }
}

/// Buffers of a tile, kept by each thread: a few dozen KiB, allocated once.
struct Scratch {
    /// `[RANKS, ROWS]`
    left: Vec<f32>,
    /// `[RANKS, COLS]`
    right: Vec<f32>,
    /// `[ROWS, COLS]`
    sum: Vec<f32>,
}

thread_local! {
    static SCRATCH: Cell<Option<Scratch>> = const { Cell::new(None) };
}

impl Scratch {
    fn take() -> Self {
        SCRATCH.take().unwrap_or_else(|| Self {
            left: vec![0.0; RANKS * ROWS],
            right: vec![0.0; RANKS * COLS],
            sum: vec![0.0; ROWS * COLS],
        })
    }

    fn give_back(self) {
        SCRATCH.set(Some(self));
    }
}

/// `sum[i, j] += Σ_k left[k, i] · right[k, j]`, over `ranks` (a multiple of four) in order.
#[multiversion(targets("x86_64+avx512f+avx512vl", "x86_64+avx2", "aarch64+neon"))]
fn accumulate(left: &[f32], right: &[f32], sum: &mut [f32], ranks: usize, rows: usize, cols: usize) {
    for i in 0..rows {
        let sum = &mut sum[i * COLS..i * COLS + cols];
        for k in (0..ranks).step_by(UNROLL) {
            let l: [f32; UNROLL] = std::array::from_fn(|u| left[(k + u) * ROWS + i]);
            let [r0, r1, r2, r3]: [&[f32]; UNROLL] =
                std::array::from_fn(|u| &right[(k + u) * COLS..][..cols]);
            for ((((s, r0), r1), r2), r3) in sum.iter_mut().zip(r0).zip(r1).zip(r2).zip(r3) {
                *s = *s + l[0] * r0 + l[1] * r1 + l[2] * r2 + l[3] * r3;
            }
        }
    }
}

/// A bias with a scaled addend: `b + s · c`.
#[derive(Debug)]
pub(super) struct ScaledSum {
    pub(super) base: Tensor,
    pub(super) addend: Tensor,
    pub(super) scaling: f32,
}

impl Elements for ScaledSum {
    fn read(&self, start: usize, out: &mut [f32]) {
        const BLOCK: usize = 256;
        self.base.read(start, out);
        let mut block = [0f32; BLOCK];
        for (i, part) in out.chunks_mut(BLOCK).enumerate() {
            let block = &mut block[..part.len()];
            self.addend.read(start + i * BLOCK, block);
            part.iter_mut().zip(block).for_each(|(o, a)| *o += self.scaling * *a);
        }
    }
}

/// An embedding some of whose rows are replaced.
#[derive(Debug)]
pub(super) struct ReplacedRows {
    pub(super) base: Tensor,
    /// `[n, width]`
    pub(super) saved: Tensor,
    /// Row of the embedding → row of `saved`.
    pub(super) rows: BTreeMap<usize, usize>,
    pub(super) width: usize,
}

impl Elements for ReplacedRows {
    fn read(&self, start: usize, out: &mut [f32]) {
        self.base.read(start, out);
        for_each_row_part(start, out, self.width, |row, column, part| {
            if let Some(saved) = self.rows.get(&row) {
                self.saved.read(saved * self.width + column, part);
            }
        });
    }
}
