//! Reading the inputs of one output tensor, block by block, as often as a method needs.
//!
//! A [`Scan`] knows the operands of one tensor and, for methods that work on task vectors, their origin: the base that
//! is subtracted from each operand as it is read. Work is cut into *spans* that run in parallel; a span is cut into
//! *blocks* that stay in the second-level cache, and a block is computed in *strips* that stay in the first. Every
//! reduction is done per block and combined in block order, and the boundaries of blocks and strips depend on the tensor
//! alone: no result depends on spans, threads or shards.

use std::cell::RefCell;
use std::ops::Range;

use onefold_checkpoint::Tensor;
use onefold_runtime::Aligned;
use rayon::prelude::*;

use crate::MergeError;
use crate::kernels::check;

/// Elements of a block: (K + 2) blocks of f32 fit a core's second-level cache for up to some ten experts.
pub const BLOCK: usize = 16 * 1024;

/// Elements of a strip: (K + 2) strips of f32 fit a core's first-level cache for a handful of experts.
pub const STRIP: usize = 2 * 1024;

/// Elements of a run, see [`Scan::map_runs`]: (K + 2) runs of f32 fit the second-level cache for some twenty experts.
pub const RUN: usize = 8 * 1024;

/// How a tensor may be cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Grain {
    /// Anywhere: the computation is local to an element.
    Element,
    /// Only between rows of this length.
    Rows(usize),
}

/// One input of a tensor.
#[derive(Debug, Clone)]
pub struct Operand {
    /// The model, as the recipe names it: for messages and for the keys of random masks.
    pub model: String,
    /// Its tensor.
    pub tensor: Tensor,
}

/// Settings of a run that reading depends on.
#[derive(Debug, Clone, Copy)]
pub struct ScanOptions {
    /// Elements that one parallel task handles; a multiple of [`BLOCK`].
    pub span: usize,
    /// Accept NaN and infinities in inputs and results.
    pub allow_non_finite: bool,
}

impl Default for ScanOptions {
    fn default() -> Self {
        Self { span: 8 * BLOCK, allow_non_finite: false }
    }
}

/// The inputs of one output tensor.
#[derive(Debug, Clone)]
pub struct Scan {
    /// Name of the output tensor.
    pub name: String,
    /// Shape that all inputs have.
    pub shape: Vec<usize>,
    /// The base, for methods on task vectors.
    pub origin: Option<Operand>,
    /// The experts, in the recipe's order.
    pub operands: Vec<Operand>,
    /// For methods that weigh elements ([`crate::methods::Rule::weighs_elements`]): how much each element of each operand
    /// counts, in the order of the operands and with their shape. Empty for all others.
    pub statistics: Vec<Tensor>,
    /// Whether the operands are task vectors already: the origin is not subtracted from them then.
    pub deltas: bool,
    /// Settings of the run.
    pub options: ScanOptions,
}

/// A block of all inputs.
#[derive(Debug)]
pub struct View<'a> {
    /// Row-major position of the first element.
    pub start: usize,
    /// The origin's values, if there is an origin.
    pub origin: Option<&'a [f32]>,
    /// Per operand: its values, minus the origin's if there is an origin.
    pub vectors: &'a [Aligned],
    /// Per operand how much each of its elements counts, not negative; empty where [`Scan::statistics`] is.
    pub statistics: &'a [Aligned],
}

impl View<'_> {
    /// Elements in the block.
    pub fn len(&self) -> usize {
        self.vectors.first().map_or_else(|| self.origin.map_or(0, <[f32]>::len), |v| v.len())
    }

    /// Whether the block has no element.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Buffers of a worker thread, kept between blocks.
#[derive(Debug, Default)]
pub struct Buffers {
    origin: Aligned,
    vectors: Vec<Aligned>,
    statistics: Vec<Aligned>,
}

thread_local! {
    static BUFFERS: RefCell<Buffers> = RefCell::default();
}

impl Scan {
    /// Number of elements.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Whether there is no element.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Number of operands.
    pub fn k(&self) -> usize {
        self.operands.len()
    }

    /// Length of a row: the last dimension, 1 for a scalar.
    pub fn width(&self) -> usize {
        self.shape.last().copied().unwrap_or(1).max(1)
    }

    /// The same tensor with one operand only.
    pub fn only(&self, operand: usize) -> Self {
        let statistics = self.statistics.get(operand).cloned().into_iter().collect();
        Self { operands: vec![self.operands[operand].clone()], statistics, ..self.clone() }
    }

    /// Everything that is read: operands, origin and statistics.
    pub fn tensors(&self) -> impl Iterator<Item = &Tensor> {
        self.operands.iter().chain(&self.origin).map(|o| &o.tensor).chain(&self.statistics)
    }

    /// The blocks of the tensor for a grain.
    pub fn blocks(&self, grain: Grain) -> Vec<Range<usize>> {
        cut(0..self.len(), self.block_len(grain))
    }

    /// Groups of consecutive blocks, each the work of one parallel task.
    pub fn spans(&self, grain: Grain) -> Vec<Range<usize>> {
        let block = self.block_len(grain);
        cut(0..self.len(), (self.options.span / block).max(1) * block)
    }

    /// The blocks within a span.
    pub fn blocks_of(&self, span: Range<usize>, grain: Grain) -> Vec<Range<usize>> {
        cut(span, self.block_len(grain))
    }

    /// The pieces of a block in which it is best computed: what is local to an element, and stored, in strips. Computed
    /// tensors (adapters) are read in whole blocks, which costs them less.
    pub fn strips(&self, block: Range<usize>, grain: Grain) -> impl Iterator<Item = Range<usize>> + use<> {
        let stored = || self.tensors().all(|tensor| tensor.stored().is_some());
        let len = if grain == Grain::Element && stored() { STRIP } else { block.len() };
        pieces(block, len)
    }

    /// Calls `each` for every block, in parallel over spans, and returns its answers in block order.
    ///
    /// # Errors
    /// If an input is not finite.
    pub fn map<T: Send>(
        &self,
        grain: Grain,
        each: impl Fn(&View<'_>) -> T + Sync,
    ) -> Result<Vec<T>, MergeError> {
        let span_answers = |span: Range<usize>| -> Result<Vec<T>, MergeError> {
            with_buffers(|buffers| {
                let blocks = self.blocks_of(span, grain);
                blocks.into_iter().map(|block| Ok(each(&self.load(block, buffers)?))).collect()
            })
        };
        let spans = self.spans(grain);
        let parts: Result<Vec<Vec<T>>, MergeError> = match spans.len() {
            // Small tensors: the outer loop over tensors is parallel already.
            0 | 1 => spans.into_iter().map(span_answers).collect(),
            _ => spans.into_par_iter().map(span_answers).collect(),
        };
        Ok(parts?.into_iter().flatten().collect())
    }

    /// The same for every run of [`RUN`] elements, for what is local to an element and takes little.
    ///
    /// # Errors
    /// As [`Scan::map`].
    pub fn map_runs<T: Send>(&self, each: impl Fn(&View<'_>) -> T + Sync) -> Result<Vec<T>, MergeError> {
        let of = |span: Range<usize>| -> Result<Vec<T>, MergeError> {
            with_buffers(|buffers| {
                let runs = self.runs_of(span);
                runs.map(|strip| Ok(each(&self.load(strip, buffers)?))).collect()
            })
        };
        let parts: Vec<Vec<T>> = match &self.spans(Grain::Element)[..] {
            [] => Vec::new(),
            [span] => vec![of(span.clone())?],
            spans => spans.par_iter().cloned().map(of).collect::<Result<_, _>>()?,
        };
        Ok(parts.into_iter().flatten().collect())
    }

    /// Calls `each` for every run with the part of `out` at its place, in parallel over spans.
    ///
    /// # Errors
    /// As [`Scan::map`].
    ///
    /// # Panics
    /// If `out` is not as long as the tensor.
    pub fn fill(
        &self,
        out: &mut [f32],
        each: impl Fn(&View<'_>, &mut [f32]) + Sync,
    ) -> Result<(), MergeError> {
        assert_eq!(out.len(), self.len(), "the destination of `{}`", self.name);
        let span = (self.options.span / BLOCK).max(1) * BLOCK;
        let of = |(number, out): (usize, &mut [f32])| -> Result<(), MergeError> {
            let start = number * span;
            with_buffers(|buffers| {
                self.runs_of(start..start + out.len()).try_for_each(|strip| {
                    let here = strip.start - start..strip.end - start;
                    each(&self.load(strip, buffers)?, &mut out[here]);
                    Ok(())
                })
            })
        };
        if out.len() <= span {
            return of((0, out));
        }
        out.par_chunks_mut(span).enumerate().try_for_each(of)
    }

    /// The pieces of a span that are computed at once where little is done with each: longer than strips, as short runs from
    /// many files cost more than the second-level cache.
    fn runs_of(&self, span: Range<usize>) -> impl Iterator<Item = Range<usize>> + use<> {
        pieces(span, RUN)
    }

    /// Reads one block, or a strip of one, into `buffers`.
    ///
    /// # Errors
    /// If an input is not finite and that is not allowed, or a statistic is negative.
    pub fn load<'b>(&self, block: Range<usize>, buffers: &'b mut Buffers) -> Result<View<'b>, MergeError> {
        buffers.vectors.resize_with(self.k(), Aligned::default);
        buffers.vectors.iter_mut().for_each(|vector| vector.resize(block.len()));
        buffers.statistics.resize_with(self.statistics.len(), Aligned::default);
        buffers.statistics.iter_mut().for_each(|statistic| statistic.resize(block.len()));
        buffers.origin.resize(if self.origin.is_some() { block.len() } else { 0 });
        for strip in self.strips(block.clone(), Grain::Element) {
            let here = strip.start - block.start..strip.end - block.start;
            if let Some(origin) = &self.origin {
                self.read(origin, strip.start, &mut buffers.origin[here.clone()])?;
            }
            for (operand, vector) in self.operands.iter().zip(&mut buffers.vectors) {
                self.read(operand, strip.start, &mut vector[here.clone()])?;
                if self.origin.is_some() && !self.deltas {
                    crate::kernels::subtract(&mut vector[here.clone()], &buffers.origin[here.clone()]);
                }
            }
            for (i, statistic) in buffers.statistics.iter_mut().enumerate() {
                self.read_statistic(i, strip.start, &mut statistic[here.clone()])?;
            }
        }
        let origin = self.origin.as_ref().map(|_| &buffers.origin[..]);
        let Buffers { vectors, statistics, .. } = buffers;
        Ok(View { start: block.start, origin, vectors, statistics })
    }

    /// Reads how much the elements of an operand count, from `start` on.
    fn read_statistic(&self, i: usize, start: usize, out: &mut [f32]) -> Result<(), MergeError> {
        self.statistics[i].read(start, out);
        // A sum of weights of both signs may be near 0: no option makes such a mean meaningful.
        match out.iter().position(|v| !(0.0..=f32::MAX).contains(v)) {
            None => Ok(()),
            Some(at) => Err(MergeError::Statistic {
                tensor: self.name.clone(),
                model: self.operands[i].model.clone(),
                index: start + at,
                value: out[at],
            }),
        }
    }

    /// Reads elements from `start` on.
    fn read(&self, operand: &Operand, start: usize, out: &mut [f32]) -> Result<(), MergeError> {
        operand.tensor.read(start, out);
        if !self.options.allow_non_finite
            && let Some(i) = check::first_non_finite(out)
        {
            return Err(MergeError::NonFinite {
                tensor: self.name.clone(),
                model: operand.model.clone(),
                index: start + i,
                value: out[i],
            });
        }
        Ok(())
    }

    /// Elements of a block; the last one of a tensor may be shorter.
    pub(crate) fn block_len(&self, grain: Grain) -> usize {
        match grain {
            Grain::Element => BLOCK,
            Grain::Rows(width) => (BLOCK / width).max(1) * width,
        }
    }
}

/// Runs `work` with the buffers of this thread. They are taken out for the time, so that nesting is harmless.
pub fn with_buffers<T>(work: impl FnOnce(&mut Buffers) -> T) -> T {
    let mut buffers = BUFFERS.take();
    let answer = work(&mut buffers);
    BUFFERS.set(buffers);
    answer
}

/// The same with two slices of numbers.
pub(crate) fn with_scratch<T>(work: impl FnOnce(&mut [Aligned; 2]) -> T) -> T {
    thread_local! {
        static SCRATCH: RefCell<[Aligned; 2]> = RefCell::default();
    }
    let mut scratch = SCRATCH.take();
    let answer = work(&mut scratch);
    SCRATCH.set(scratch);
    answer
}

fn cut(range: Range<usize>, len: usize) -> Vec<Range<usize>> {
    pieces(range, len).collect()
}

fn pieces(range: Range<usize>, len: usize) -> impl Iterator<Item = Range<usize>> + use<> {
    let end = range.end;
    range.step_by(len.max(1)).map(move |start| start..(start + len).min(end))
}

#[cfg(test)]
pub(crate) mod fixtures {
    use std::sync::Arc;

    use onefold_checkpoint::tensor::{Elements, Stored, Update};
    use onefold_checkpoint::{Dtype, Tensor, convert};

    use super::*;

    #[derive(Debug)]
    struct InMemory(Vec<f32>);

    impl Elements for InMemory {
        fn read(&self, start: usize, out: &mut [f32]) {
            out.copy_from_slice(&self.0[start..start + out.len()]);
        }
    }

    #[derive(Debug)]
    struct Bytes(Dtype, Vec<u8>);

    impl Elements for Bytes {
        fn read(&self, start: usize, out: &mut [f32]) {
            let (first, size) = (start * self.0.size(), self.0.size());
            convert::widen(self.0, &self.1[first..first + out.len() * size], out);
        }

        fn stored(&self) -> Option<Stored<'_>> {
            Some(Stored { dtype: self.0, bytes: &self.1 })
        }
    }

    /// `base + left · right`, with left `[rows, rank]` turned.
    #[derive(Debug)]
    struct Updated {
        base: Tensor,
        left: Vec<f32>,
        right: Vec<f32>,
        dimensions: [usize; 3],
    }

    impl Elements for Updated {
        fn read(&self, start: usize, out: &mut [f32]) {
            self.base.read(start, out);
            let [rows, rank, cols] = self.dimensions;
            for (at, out) in (start..).zip(out) {
                let term = |k: usize| self.left[k * rows + at / cols] * self.right[k * cols + at % cols];
                *out += (0..rank).map(term).sum::<f32>();
            }
        }

        fn update(&self) -> Option<&dyn Update> {
            Some(self)
        }
    }

    impl Update for Updated {
        fn base(&self) -> &Tensor {
            &self.base
        }

        fn dimensions(&self) -> [usize; 3] {
            self.dimensions
        }

        fn read_left(&self, rows: std::ops::Range<usize>, out: &mut [f32]) {
            for (k, line) in out.chunks_mut(rows.len()).enumerate() {
                line.copy_from_slice(&self.left[k * self.dimensions[0]..][rows.clone()]);
            }
        }

        fn read_right(&self, out: &mut [f32]) {
            out.copy_from_slice(&self.right);
        }
    }

    /// A base `[rows, cols]` with a low-rank update.
    pub(crate) fn updated_operand(
        model: &str,
        base: &Operand,
        dimensions: [usize; 3],
        number: impl Fn(usize) -> f32,
    ) -> Operand {
        let [rows, rank, cols] = dimensions;
        let left = (0..rank * rows).map(&number).collect();
        let right = (0..rank * cols).map(|i| number(i + 7)).collect();
        let base = base.tensor.clone();
        let tensor =
            Tensor::new(Dtype::F32, vec![rows, cols], Arc::new(Updated { base, left, right, dimensions }));
        Operand { model: model.to_owned(), tensor }
    }

    /// An operand that is stored as `dtype`, as in a file.
    pub(crate) fn stored_operand(model: &str, dtype: Dtype, values: &[f32]) -> Operand {
        let mut bytes = vec![0; values.len() * dtype.size()];
        convert::narrow(dtype, values, &mut bytes);
        let tensor = Tensor::new(dtype, vec![values.len()], Arc::new(Bytes(dtype, bytes)));
        Operand { model: model.to_owned(), tensor }
    }

    pub(crate) fn operand(model: &str, shape: &[usize], values: &[f32]) -> Operand {
        assert_eq!(values.len(), shape.iter().product::<usize>());
        let tensor = Tensor::new(Dtype::F32, shape.to_vec(), Arc::new(InMemory(values.to_vec())));
        Operand { model: model.to_owned(), tensor }
    }

    /// A scan over task vectors: the base is zero.
    pub(crate) fn deltas(shape: &[usize], rows: &[Vec<f32>]) -> Scan {
        let zeros = vec![0.0; shape.iter().product()];
        Scan { origin: Some(operand("base", shape, &zeros)), ..plain(shape, rows) }
    }

    /// A scan over operands as they are.
    pub(crate) fn plain(shape: &[usize], rows: &[Vec<f32>]) -> Scan {
        let operands = rows.iter().enumerate().map(|(i, r)| operand(&format!("m{i}"), shape, r)).collect();
        Scan {
            name: "w".into(),
            shape: shape.to_vec(),
            origin: None,
            operands,
            statistics: Vec::new(),
            deltas: false,
            options: ScanOptions::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::fixtures::*;
    use super::*;

    #[test]
    fn blocks_cover_the_tensor_and_rows_stay_whole() {
        let scan = plain(&[5, 7000], &[vec![0.0; 35000]]);
        assert_eq!(scan.blocks(Grain::Rows(7000)), vec![0..14000, 14000..28000, 28000..35000]);
        assert_eq!(scan.blocks(Grain::Element), vec![0..16384, 16384..32768, 32768..35000]);
        assert!(plain(&[0], &[vec![]]).blocks(Grain::Element).is_empty());
    }

    #[test]
    fn deltas_are_taken_and_bad_values_named() {
        let mut scan = deltas(&[3], &[vec![1.0, 2.0, 3.0]]);
        scan.origin = Some(operand("base", &[3], &[1.0, 1.0, 1.0]));
        let sums = scan.map(Grain::Element, |v| v.vectors[0].iter().sum::<f32>()).unwrap();
        assert_eq!(sums, [3.0]);
        scan.operands[0] = operand("expert", &[3], &[0.0, f32::NAN, 0.0]);
        let error = scan.map(Grain::Element, |_| ()).unwrap_err().to_string();
        assert!(error.contains("tensor `w` of expert: element 1 is NaN"), "{error}");
        scan.options.allow_non_finite = true;
        assert!(scan.map(Grain::Element, |_| ()).is_ok());
    }
}
