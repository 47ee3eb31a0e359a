//! The head of a language model fused with its loss: logits z = cap(scale · h·Wᵀ + b) are made, judged and differentiated in
//! chunks of rows, so that `[rows, vocabulary]` is never whole in memory, and nothing is computed twice.
//!
//! For each chunk: logits (a product), loss and ∂/∂z in their place, dh = scale · dz·W, dW += scale · dzᵀ·h. Rows that are
//! ignored are left out of all three products: with response-only targets that is often most of the work.

use rayon::prelude::*;

use super::super::gemm::{View, ViewMut, Workers, gemm};
use super::super::{parallel, widen};
use super::{Losses, Objective, RowLoss, Rows, softmax};
use crate::{Buffer, Weight, Write};

/// A linear map onto the vocabulary and what is minimised of it.
#[derive(Debug, Clone, Copy)]
pub struct Head<'a> {
    /// `[vocabulary, width]`.
    pub weight: Weight<'a>,
    /// `[vocabulary]`.
    pub bias: Option<&'a Buffer>,
    /// Number of words.
    pub vocabulary: usize,
    /// Length of a hidden state.
    pub width: usize,
    /// Factor of the logits, before the bias; usually 1.
    pub scale: f32,
    /// Soft cap of the logits (Gemma 2: 30).
    pub cap: Option<f32>,
    /// Loss.
    pub objective: Objective,
}

/// Where gradients of Σ weight · loss go.
#[derive(Debug)]
pub struct Gradients<'a> {
    /// Of the hidden states, `[rows, width]`; those of ignored rows are 0.
    pub hidden: (&'a mut Buffer, Write),
    /// Of the weight; absent for a frozen head.
    pub weight: Option<(&'a mut Buffer, Write)>,
    /// Of the bias.
    pub bias: Option<(&'a mut Buffer, Write)>,
}

/// Memory of the head: one chunk. It grows to what is needed and stays.
#[derive(Debug, Default)]
pub struct Scratch {
    active: Vec<u32>,
    judged: Vec<RowLoss>,
    logits: Vec<f32>,
    hidden: Vec<f32>,
    gradient: Vec<f32>,
    widened: Vec<f32>,
}

/// Logits of a chunk aim at 32 MB, within bounds on its rows: fewer would read the weight too often, more gain nothing.
const CHUNK: usize = 8 << 20;
const ROWS: (usize, usize) = (256, 1024);
/// Elements of a 16-bit weight that are widened at a time.
const WIDEN: usize = 2 << 20;

/// Losses of `hidden` (`[rows, width]`) and, if wanted, their gradients.
///
/// # Panics
/// If shapes, targets or tasks do not fit.
pub fn head_loss(
    head: &Head<'_>,
    hidden: &Buffer,
    rows: &Rows<'_>,
    mut gradients: Option<Gradients<'_>>,
    losses: &mut Losses,
    scratch: &mut Scratch,
) {
    check(head, hidden, rows, gradients.as_ref(), losses);
    losses.reset(rows.targets.len());
    let mut active = std::mem::take(&mut scratch.active);
    active.clear();
    active.reserve_exact(rows.targets.len());
    active.extend((0u32..).zip(rows.targets).filter(|(_, target)| **target >= 0).map(|(row, _)| row));
    if let Some(gradients) = &mut gradients {
        gradients.begin();
    }
    for active in active.chunks(head.chunk(active.len())) {
        scratch.gather(active, hidden.host(), head.width);
        head.logits(active.len(), scratch);
        head.judge(active, rows, gradients.is_some(), losses, scratch);
        if let Some(gradients) = &mut gradients {
            head.backward(active, gradients, scratch);
        }
    }
    if let Some(gradients) = &mut gradients {
        gradients.end();
    }
    scratch.active = active;
    losses.add_up(rows);
}

fn check(head: &Head<'_>, hidden: &Buffer, rows: &Rows<'_>, to: Option<&Gradients<'_>>, losses: &Losses) {
    let (vocabulary, width, count) = (head.vocabulary, head.width, rows.targets.len());
    assert!(vocabulary > 0 && width > 0, "a head of {vocabulary} x {width}");
    assert_eq!(head.weight.len(), vocabulary * width, "weight of the head");
    assert_eq!(hidden.len(), count * width, "hidden states of the head");
    assert!(head.bias.is_none_or(|b| b.len() == vocabulary), "bias of the head");
    rows.check(count, vocabulary, losses);
    if let Some(to) = to {
        assert_eq!(to.hidden.0.len(), hidden.len(), "gradient of the hidden states");
        assert!(to.weight.as_ref().is_none_or(|w| w.0.len() == head.weight.len()), "gradient of the weight");
        assert!(to.bias.as_ref().is_none_or(|b| b.0.len() == vocabulary), "gradient of the bias");
    }
}

impl Gradients<'_> {
    /// Chunks know active rows only, so what is to be set for all rows is 0 first.
    fn begin(&mut self) {
        for (buffer, write) in [Some(&mut self.hidden), self.bias.as_mut()].into_iter().flatten() {
            if *write == Write::Set {
                parallel::for_rows(buffer.host_mut(), 1, |_, part| part.fill(0.0));
            }
        }
    }

    /// The first chunk sets the gradient of the weight; without any it is 0.
    fn end(&mut self) {
        if let Some((buffer, Write::Set)) = &mut self.weight {
            parallel::for_rows(buffer.host_mut(), 1, |_, part| part.fill(0.0));
        }
    }
}

/// Bytes that a [`Scratch`] comes to hold for `rows` rows, all of which count.
pub fn scratch_bytes(head: &Head<'_>, rows: usize, backward: bool) -> usize {
    let (vocabulary, width, chunk) = (head.vocabulary, head.width, head.chunk(rows));
    let gradient = if backward { chunk * width } else { 0 };
    let widened = match head.weight {
        Weight::Full(_) => 0,
        Weight::Half(_) => head.block().min(vocabulary) * width,
    };
    let numbers = chunk * (vocabulary + width) + gradient + widened;
    numbers * size_of::<f32>() + rows * size_of::<u32>() + chunk * size_of::<RowLoss>()
}

impl Scratch {
    /// Bytes that it holds.
    pub fn bytes(&self) -> usize {
        let Self { active, judged, logits, hidden, gradient, widened } = self;
        let numbers = [logits, hidden, gradient, widened].map(Vec::capacity).into_iter().sum::<usize>();
        numbers * size_of::<f32>()
            + active.capacity() * size_of::<u32>()
            + judged.capacity() * size_of::<RowLoss>()
    }

    /// Copies the active rows next to each other.
    fn gather(&mut self, active: &[u32], hidden: &[f32], width: usize) {
        let rows = grown(&mut self.hidden, active.len() * width);
        parallel::for_rows(rows, width, |first, rows| {
            for (row, from) in rows.chunks_exact_mut(width).zip(&active[first..]) {
                row.copy_from_slice(&hidden[*from as usize * width..][..width]);
            }
        });
    }
}

fn grown(memory: &mut Vec<f32>, len: usize) -> &mut [f32] {
    if memory.len() < len {
        memory.reserve_exact(len - memory.len());
        memory.resize(len, 0.0);
    }
    &mut memory[..len]
}

impl Head<'_> {
    /// Rows of one chunk, of `rows`; chunks are of equal size.
    fn chunk(&self, rows: usize) -> usize {
        let most = (CHUNK / self.vocabulary).clamp(ROWS.0, ROWS.1);
        rows.div_ceil(rows.div_ceil(most).max(1)).max(1)
    }

    /// Words that are widened at a time.
    fn block(&self) -> usize {
        (WIDEN / self.width).max(1)
    }

    fn logits(&self, count: usize, scratch: &mut Scratch) {
        let (vocabulary, width) = (self.vocabulary, self.width);
        let Scratch { logits, hidden, widened, .. } = scratch;
        let logits = grown(logits, count * vocabulary);
        self.for_blocks(widened, |first, words, weight| {
            let out = ViewMut::new(&mut logits[first..], count, words, vocabulary);
            let weight = View::new(weight, words, width, width).t();
            let hidden = View::new(hidden, count, width, width);
            gemm(out, Write::Set, self.scale, hidden, weight, Workers::Pool);
        });
    }

    /// Losses of the chunk; logits become gradients.
    fn judge(
        &self,
        active: &[u32],
        of: &Rows<'_>,
        backward: bool,
        losses: &mut Losses,
        scratch: &mut Scratch,
    ) {
        let shape = softmax::Shape { bias: self.bias.map(Buffer::host), cap: self.cap };
        let vocabulary = self.vocabulary;
        let Scratch { logits, judged, .. } = scratch;
        judged.clear();
        judged.resize(active.len(), RowLoss::default());
        let rows = logits.par_chunks_exact_mut(vocabulary).zip(judged.par_iter_mut()).zip(active);
        rows.for_each(|((z, judged), row)| {
            let row = *row as usize;
            let weight = backward.then(|| of.weight(row));
            *judged = softmax::row(z, of.targets[row] as usize, self.objective, shape, weight);
        });
        for (row, judged) in active.iter().zip(judged) {
            losses.rows[*row as usize] = *judged;
        }
    }

    fn backward(&self, active: &[u32], to: &mut Gradients<'_>, scratch: &mut Scratch) {
        let (vocabulary, width, count) = (self.vocabulary, self.width, active.len());
        let Scratch { logits, hidden, gradient, widened, .. } = scratch;
        let dz = View::new(logits, count, vocabulary, vocabulary);
        let dh = grown(gradient, count * width);
        self.for_blocks(widened, |first, words, weight| {
            let write = if first == 0 { Write::Set } else { Write::Add };
            let dz = View::new(&logits[first..], count, words, vocabulary);
            let weight = View::new(weight, words, width, width);
            gemm(ViewMut::new(dh, count, width, width), write, self.scale, dz, weight, Workers::Pool);
        });
        add_scattered(to.hidden.0.host_mut(), dh, width, active);
        if let Some((dw, write)) = &mut to.weight {
            let write = std::mem::replace(write, Write::Add);
            let dw = ViewMut::new(dw.host_mut(), vocabulary, width, width);
            gemm(dw, write, self.scale, dz.t(), View::new(hidden, count, width, width), Workers::Pool);
        }
        if let Some((db, _)) = &mut to.bias {
            add_rows(db.host_mut(), logits, count);
        }
    }

    /// Calls `each(first word, words, their weights)` for the whole vocabulary: at once, or as 16 bits are widened.
    fn for_blocks(&self, widened: &mut Vec<f32>, mut each: impl FnMut(usize, usize, &[f32])) {
        if let Weight::Full(weight) = self.weight {
            return each(0, self.vocabulary, weight.host());
        }
        let block = self.block();
        for first in (0..self.vocabulary).step_by(block) {
            let words = block.min(self.vocabulary - first);
            let weights = grown(widened, words * self.width);
            widen::copy(self.weight.into(), first * self.width, weights);
            each(first, words, weights);
        }
    }
}

/// Adds row i of `x` to row `active[i]` of `out`; they ascend.
fn add_scattered(out: &mut [f32], x: &[f32], width: usize, active: &[u32]) {
    parallel::for_rows(out, width, |first, out| {
        let range = first as u32..(first + out.len() / width) as u32;
        let start = active.partition_point(|row| *row < range.start);
        let here = active[start..].iter().take_while(|row| range.contains(row));
        for (row, x) in here.zip(x[start * width..].chunks_exact(width)) {
            let row = &mut out[(row - range.start) as usize * width..][..width];
            row.iter_mut().zip(x).for_each(|(row, x)| *row += x);
        }
    });
}

/// sum += Σ over the rows of `x`, split by columns.
fn add_rows(sum: &mut [f32], x: &[f32], count: usize) {
    let width = sum.len();
    sum.par_chunks_mut(1024).enumerate().for_each(|(part, sum)| {
        for row in x.chunks_exact(width).take(count) {
            let row = &row[part * 1024..];
            sum.iter_mut().zip(row).for_each(|(sum, x)| *sum += x);
        }
    });
}
