//! Exact order statistics of magnitudes without sorting: which elements are the k largest of a tensor or of a model.
//!
//! Magnitudes of f32 are ordered like their bits. A small sample brackets the bits at a wanted rank, and one pass over
//! the data counts what lies above the bracket and, bin by bin, within it. The inputs are streamed, so memory does not
//! grow with the tensor. The answer is exact whatever the sample: a bracket that missed costs another pass. Of equal
//! magnitudes the one with the lower index counts as the larger, hence exactly k elements are kept whatever the ties.

use std::ops::Range;

use rayon::prelude::*;

use crate::MergeError;
use crate::kernels::rank;
use crate::scan::{Grain, Scan, View, with_buffers};

/// A boundary in the ranking of a sequence of values by magnitude; see [`Cut::keeps`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cut {
    /// Bits of the magnitude at the boundary.
    bits: u32,
    /// Of the elements with exactly that magnitude, those with an index below this are among the larger.
    ties_before: u64,
}

impl Cut {
    /// Keeps everything.
    pub const ALL: Self = Self { bits: 0, ties_before: u64::MAX };
    /// Keeps nothing.
    pub const NOTHING: Self = Self { bits: u32::MAX, ties_before: 0 };

    /// Whether the element `value` at `index` belongs to the larger part.
    #[inline]
    pub fn keeps(self, value: f32, index: u64) -> bool {
        let bits = value.to_bits() & 0x7fff_ffff;
        bits > self.bits || (bits == self.bits && index < self.ties_before)
    }

    /// Whether the boundary among equal magnitudes lies inside the block.
    pub fn splits_ties_in(self, start: u64, len: usize) -> bool {
        // Zeros are zeros whether kept or not.
        self.bits != 0 && self.ties_before > start && self.ties_before < start + len as u64
    }

    /// The least bits that are kept in a block that does not split ties.
    pub fn first_kept_bits(self, start: u64) -> u32 {
        if self.ties_before > start { self.bits } else { self.bits.saturating_add(1) }
    }

    /// The same boundary for a part of the sequence that begins at `offset` and has positions of its own.
    pub fn within(self, offset: u64) -> Self {
        Self { bits: self.bits, ties_before: self.ties_before.saturating_sub(offset) }
    }

    /// The magnitude at the boundary.
    pub fn magnitude(self) -> f32 {
        f32::from_bits(self.bits)
    }
}

/// What is ranked: one or several values derived from each element, which depend on the element and its row alone.
pub trait Scores: Sync {
    /// The scores of number `stream` for a block; `buffer` is there for those that are computed.
    fn of<'a>(&self, view: &'a View<'_>, stream: usize, buffer: &'a mut Vec<f32>) -> &'a [f32];
}

/// Ranks the operands themselves: stream i is operand i.
#[derive(Debug, Clone, Copy)]
pub struct Vectors;

impl Scores for Vectors {
    fn of<'a>(&self, view: &'a View<'_>, stream: usize, _: &'a mut Vec<f32>) -> &'a [f32] {
        &view.vectors[stream]
    }
}

/// Ranks a single value that is computed from all operands.
#[derive(Debug, Clone, Copy)]
pub struct Computed<F>(pub F);

impl<F: Fn(&View<'_>, &mut [f32]) + Sync> Scores for Computed<F> {
    fn of<'a>(&self, view: &'a View<'_>, _: usize, buffer: &'a mut Vec<f32>) -> &'a [f32] {
        buffer.resize(view.len(), 0.0);
        (self.0)(view, buffer);
        buffer
    }
}

/// Largest number of elements that are simply sorted.
const SMALL: u64 = 1 << 16;
/// Elements of the sample that guesses where a rank lies, and of one piece of it.
const SAMPLE: u64 = 1 << 16;
const PIECE: usize = 256;
/// Counters of a pass for one rank.
const BINS: u32 = 1 << 15;
/// Most blocks that one accumulator sees: some 2³¹ elements, so that a u32 can count those of one bin (a model's zeros).
const MAX_RUN: usize = 1 << 17;

/// One wanted rank, and what is known of it. The magnitude at the rank lies in `low..=high`.
#[derive(Debug, Clone)]
struct Search {
    stream: usize,
    keep: u64,
    low: u32,
    high: u32,
    /// Elements with exactly these bits are counted per block, in the hope that the boundary falls among them.
    guess: u32,
    found: Option<Cut>,
}

/// For each stream and each count in its `keep`, the cut that separates the `keep` largest scores from the rest, over
/// all `scans` as one sequence in their order.
///
/// A sample guesses the magnitude at each rank; one pass over the data confirms it and counts its neighbourhood, so that
/// the exact boundary follows. A guess that missed is repeated with what the pass has learned.
///
/// # Errors
/// If an input is not finite.
pub fn cuts(
    scans: &[&Scan],
    grain: Grain,
    scores: &impl Scores,
    keep: &[Vec<u64>],
) -> Result<Vec<Vec<Cut>>, MergeError> {
    let blocks = Blocks::new(scans, grain);
    let search = |stream: usize, keep: u64| {
        let found = match keep {
            0 => Some(Cut::NOTHING),
            k if k >= blocks.total => Some(Cut::ALL),
            _ => None,
        };
        Search { stream, keep, low: 0, high: u32::MAX >> 1, guess: 0, found }
    };
    let mut searches: Vec<Search> = keep
        .iter()
        .enumerate()
        .flat_map(|(stream, keep)| keep.iter().map(move |k| search(stream, *k)))
        .collect();
    if searches.iter().any(|s| s.found.is_none()) {
        if blocks.total <= SMALL {
            sort_all(&blocks, scores, &mut searches)?;
        } else {
            guess(&blocks, scores, &mut searches)?;
            while searches.iter().any(|s| s.found.is_none()) {
                narrow(&blocks, scores, &mut searches)?;
            }
        }
    }
    let mut found = searches.into_iter().map(|s| s.found.expect("the loop ends when all are found"));
    Ok(keep.iter().map(|k| found.by_ref().take(k.len()).collect()).collect())
}

/// The blocks of all scans with their positions in the whole sequence.
struct Blocks<'s> {
    list: Vec<(&'s Scan, u64, Range<usize>)>,
    unit: usize,
    total: u64,
}

impl<'s> Blocks<'s> {
    fn new(scans: &[&'s Scan], grain: Grain) -> Self {
        let (mut list, mut total) = (Vec::new(), 0);
        for scan in scans {
            list.extend(
                scan.blocks(grain).into_iter().map(|block| (*scan, total + block.start as u64, block)),
            );
            total += scan.len() as u64;
        }
        let unit = if let Grain::Rows(width) = grain { width } else { 1 };
        Self { list, unit, total }
    }

    /// Shows every block to accumulators made by `new`, a few per thread, each for a run of consecutive blocks; returned
    /// in the order of the runs.
    fn visit<A: Send>(
        &self,
        new: impl Fn() -> A + Sync,
        each: impl Fn(&mut A, u64, &View<'_>, &mut Vec<f32>) + Sync,
    ) -> Result<Vec<A>, MergeError> {
        let run = self.list.len().div_ceil(2 * rayon::current_num_threads()).clamp(8, MAX_RUN);
        let visit_run = |blocks: &[(&Scan, u64, Range<usize>)]| -> Result<A, MergeError> {
            let (mut accumulator, mut buffer) = (new(), Vec::new());
            for (scan, position, block) in blocks {
                with_buffers(|buffers| {
                    let view = scan.load(block.clone(), buffers)?;
                    each(&mut accumulator, *position, &view, &mut buffer);
                    Ok::<(), MergeError>(())
                })?;
            }
            Ok(accumulator)
        };
        if self.list.len() <= run {
            return Ok(vec![visit_run(&self.list)?]);
        }
        self.list.par_chunks(run).map(visit_run).collect()
    }

    /// The scores of the block at `position`.
    fn block(&self, position: u64, scores: &impl Scores, stream: usize) -> Result<Vec<f32>, MergeError> {
        let at = self
            .list
            .binary_search_by_key(&position, |(_, p, _)| *p)
            .expect("positions of blocks were counted");
        let (scan, _, block) = &self.list[at];
        with_buffers(|buffers| {
            Ok(scores.of(&scan.load(block.clone(), buffers)?, stream, &mut Vec::new()).to_vec())
        })
    }
}

/// Few elements: rank them all.
fn sort_all(blocks: &Blocks<'_>, scores: &impl Scores, searches: &mut [Search]) -> Result<(), MergeError> {
    let streams = searches.iter().map(|s| s.stream + 1).max().unwrap_or(0);
    let gather = |all: &mut Vec<Vec<u64>>, position: u64, view: &View<'_>, buffer: &mut Vec<f32>| {
        for (stream, keys) in all.iter_mut().enumerate() {
            // Larger magnitude first, then lower index: descending order of (bits, !index).
            let key = |(i, v): (usize, &f32)| {
                u64::from(magnitude_bits(*v)) << 32 | u64::from(!((position + i as u64) as u32))
            };
            keys.extend(scores.of(view, stream, buffer).iter().enumerate().map(key));
        }
    };
    let parts = blocks.visit(|| vec![Vec::new(); streams], gather)?;
    for stream in 0..streams {
        let mut keys: Vec<u64> = parts.iter().flat_map(|part| part[stream].iter().copied()).collect();
        for search in searches.iter_mut().filter(|s| s.stream == stream && s.found.is_none()) {
            let last = search.keep as usize - 1;
            let (_, key, _) = keys.select_nth_unstable_by(last, |a, b| b.cmp(a));
            search.found =
                Some(Cut { bits: (*key >> 32) as u32, ties_before: u64::from(!(*key as u32)) + 1 });
        }
    }
    Ok(())
}

/// Brackets every rank by an evenly spread sample.
fn guess(blocks: &Blocks<'_>, scores: &impl Scores, searches: &mut [Search]) -> Result<(), MergeError> {
    let streams = searches.iter().map(|s| s.stream + 1).max().unwrap_or(0);
    let mut sample = vec![Vec::new(); streams];
    let piece = PIECE.div_ceil(blocks.unit) * blocks.unit;
    let step = (blocks.total / (SAMPLE / piece.min(SAMPLE as usize) as u64)).max(piece as u64);
    let mut buffer = Vec::new();
    for position in (0..blocks.total).step_by(step as usize) {
        let at = blocks.list.partition_point(|(_, p, _)| *p <= position) - 1;
        let (scan, first, block) = &blocks.list[at];
        let start = block.start + (position - first) as usize / blocks.unit * blocks.unit;
        let range = start..(start + piece).min(block.end);
        with_buffers(|buffers| {
            let view = scan.load(range, buffers)?;
            for (stream, sample) in sample.iter_mut().enumerate() {
                sample.extend(scores.of(&view, stream, &mut buffer).iter().map(|v| magnitude_bits(*v)));
            }
            Ok::<(), MergeError>(())
        })?;
    }
    sample.iter_mut().for_each(|s| s.sort_unstable_by(|a, b| b.cmp(a)));
    for search in searches.iter_mut().filter(|s| s.found.is_none()) {
        bracket(search, &sample[search.stream], blocks.total);
    }
    Ok(())
}

/// `sample` is sorted from the largest. Eight standard deviations of a binomial rank: neighbouring weights are alike, so
/// a sample in pieces is worth less than one of single elements.
fn bracket(search: &mut Search, sample: &[u32], total: u64) {
    let m = sample.len() as f64;
    let share = search.keep as f64 / total as f64;
    let (rank, spread) = (share * m, 8.0 * (m * share * (1.0 - share)).sqrt() + 16.0);
    let at = |rank: f64| sample[(rank as usize).min(sample.len() - 1)];
    search.guess = at(rank);
    search.high = if rank > spread { at(rank - spread) } else { u32::MAX >> 1 };
    search.low = if rank + spread < m { at(rank + spread) } else { 0 };
}

/// What one run of blocks tells about one search.
struct Tally {
    above: u64,
    bins: Vec<u32>,
    /// Position of each block and how many elements of it equal the guess.
    ties: Vec<(u64, u32)>,
}

/// Bits per bin that make `low..=high` fit into the bins.
fn shift(search: &Search) -> u32 {
    let span = search.high - search.low;
    (0..32).find(|shift| span >> shift < BINS).unwrap_or(31)
}

/// One pass: ends or narrows every open search.
fn narrow(blocks: &Blocks<'_>, scores: &impl Scores, searches: &mut [Search]) -> Result<(), MergeError> {
    let open: Vec<Search> = searches.iter().filter(|s| s.found.is_none()).cloned().collect();
    let tally = |search: &Search| {
        let bins = ((search.high - search.low) >> shift(search)) as usize + 1;
        Tally { above: 0, bins: vec![0; bins], ties: Vec::new() }
    };
    let count = |tallies: &mut Vec<Tally>, position: u64, view: &View<'_>, buffer: &mut Vec<f32>| {
        for (search, tally) in open.iter().zip(tallies) {
            let values = scores.of(view, search.stream, buffer);
            let (above, ties) =
                rank::count(values, search.low, search.high, shift(search), search.guess, &mut tally.bins);
            tally.above += above;
            tally.ties.push((position, ties));
        }
    };
    let runs = blocks.visit(|| open.iter().map(tally).collect::<Vec<_>>(), count)?;
    for (number, search) in searches.iter_mut().filter(|s| s.found.is_none()).enumerate() {
        let tallies: Vec<&Tally> = runs.iter().map(|run| &run[number]).collect();
        conclude(search, &tallies, blocks, scores)?;
    }
    Ok(())
}

fn conclude(
    search: &mut Search,
    tallies: &[&Tally],
    blocks: &Blocks<'_>,
    scores: &impl Scores,
) -> Result<(), MergeError> {
    let mut above: u64 = tallies.iter().map(|t| t.above).sum();
    if above >= search.keep {
        // The rank lies above the bracket.
        (search.low, search.high) = (search.high + 1, u32::MAX >> 1);
        search.guess = search.low;
        return Ok(());
    }
    let shift = shift(search);
    let count = |bin: usize| tallies.iter().map(|t| u64::from(t.bins[bin])).sum::<u64>();
    let Some(bin) = (0..tallies[0].bins.len()).rev().find(|bin| {
        let here = above + count(*bin) >= search.keep;
        above += if here { 0 } else { count(*bin) };
        here
    }) else {
        // The rank lies below the bracket.
        (search.low, search.high, search.guess) = (0, search.low - 1, 0);
        return Ok(());
    };
    let low = search.low + ((bin as u32) << shift);
    let high = (low + ((1 << shift) - 1)).min(search.high);
    if low < high {
        (search.low, search.high, search.guess) = (low, high, low);
        return Ok(());
    }
    let wanted = search.keep - above;
    if low == 0 || wanted == count(bin) {
        search.found = Some(Cut { bits: low, ties_before: u64::MAX });
    } else if low == search.guess {
        search.found = Some(Cut {
            bits: low,
            ties_before: position_of_tie(low, wanted, search.stream, tallies, blocks, scores)? + 1,
        });
    } else {
        (search.low, search.high, search.guess) = (low, low, low);
    }
    Ok(())
}

/// Position of the `nth` (from 1) score with exactly these bits.
fn position_of_tie(
    bits: u32,
    nth: u64,
    stream: usize,
    tallies: &[&Tally],
    blocks: &Blocks<'_>,
    scores: &impl Scores,
) -> Result<u64, MergeError> {
    let mut left = nth;
    let mut counts = tallies.iter().flat_map(|t| &t.ties);
    let (position, _) = counts
        .find(|(_, ties)| {
            let here = left <= u64::from(*ties);
            left -= if here { 0 } else { u64::from(*ties) };
            here
        })
        .expect("the ties were counted");
    let values = blocks.block(*position, scores, stream)?;
    let mut ties = values.iter().enumerate().filter(|(_, v)| magnitude_bits(**v) == bits);
    let (index, _) = ties.nth(left as usize - 1).expect("the block holds as many ties as were counted");
    Ok(position + index as u64)
}

fn magnitude_bits(value: f32) -> u32 {
    value.to_bits() & 0x7fff_ffff
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::scan::fixtures::deltas;

    /// Indices of the k largest magnitudes, lower index first among equals.
    fn naive(values: &[f32], k: usize) -> Vec<usize> {
        let mut order: Vec<usize> = (0..values.len()).collect();
        order.sort_by(|a, b| values[*b].abs().total_cmp(&values[*a].abs()).then(a.cmp(b)));
        order.truncate(k);
        order.sort_unstable();
        order
    }

    fn kept(values: &[f32], k: u64) -> Vec<usize> {
        let scan = deltas(&[values.len()], &[values.to_vec()]);
        let cut = cuts(&[&scan], Grain::Element, &Vectors, &[vec![k]]).unwrap()[0][0];
        (0..values.len()).filter(|i| cut.keeps(values[*i], *i as u64)).collect()
    }

    #[test]
    fn ties_of_a_long_tensor_are_cut_exactly() {
        let n = 150_000usize;
        let mut values = vec![0.25f32; n];
        values[17] = 3.0;
        values[n - 1] = 0.250_001;
        for k in [1, 2, 3, 40_000, 70_001, n - 1] {
            assert_eq!(kept(&values, k as u64), naive(&values, k), "k = {k}");
        }
    }

    /// The sample sees none of what decides: the bracket misses and is moved.
    #[test]
    fn a_sample_that_misleads_costs_passes_not_exactness() {
        let mut values = vec![0.001f32; 200_000];
        for (i, v) in values.iter_mut().enumerate().skip(300).take(40) {
            *v = i as f32;
        }
        values[199_999] = 1e-9;
        for k in [1, 7, 40, 41, 100_000, 199_999] {
            assert_eq!(kept(&values, k), naive(&values, k as usize), "k = {k}");
        }
    }

    #[test]
    fn long_smooth_sequences_are_cut_exactly() {
        let values: Vec<f32> =
            (0..300_000u32).map(|i| f32::sin(i as f32 * 0.37) * (1.0 + (i % 91) as f32)).collect();
        for k in [3, 1000, 150_000, 299_000] {
            assert_eq!(kept(&values, k), naive(&values, k as usize), "k = {k}");
        }
    }

    #[test]
    fn a_model_is_ranked_as_one_sequence() {
        let a = deltas(&[3], &[vec![1.0, -5.0, 2.0]]);
        let b = deltas(&[2], &[vec![2.0, 4.0]]);
        let cut = cuts(&[&a, &b], Grain::Element, &Vectors, &[vec![3]]).unwrap()[0][0];
        assert!(cut.keeps(2.0, 2) && !cut.keeps(2.0, 3));
        assert!(!cut.within(3).keeps(2.0, 0) && cut.within(3).keeps(4.0, 1));
    }

    proptest! {
        #[test]
        fn exactly_the_k_largest_are_kept(values in prop::collection::vec(prop_oneof![
            Just(0.0f32), Just(1.0), Just(-1.0), -2f32..2.0, any::<f32>().prop_filter("finite", |v| v.is_finite())
        ], 1..300), share in 0.0..1.0f64) {
            let k = (share * values.len() as f64) as usize;
            prop_assert_eq!(kept(&values, k as u64), naive(&values, k));
        }

        #[test]
        fn masks_agree_with_the_definition(values in prop::collection::vec(prop_oneof![Just(1.0f32), Just(-2.0), -3f32..3.0], 1..60), a in 0usize..60, b in 0usize..60) {
            let scan = deltas(&[values.len()], std::slice::from_ref(&values));
            let (few, many) = (a.min(b).min(values.len()) as u64, a.max(b).min(values.len()) as u64);
            let both = cuts(&[&scan], Grain::Element, &Vectors, &[vec![many, few]]).unwrap().remove(0);
            let mut out = vec![9.0; values.len()];
            crate::kernels::mix::keep_ranked(&values, 0, both[0], both[1], 1.0, &mut out);
            for (i, v) in values.iter().enumerate() {
                let kept = both[0].keeps(*v, i as u64) && !both[1].keeps(*v, i as u64);
                prop_assert_eq!(out[i], if kept { *v } else { 0.0 });
            }
            prop_assert_eq!(out.iter().filter(|v| **v != 0.0).count() as u64, many - few);
        }
    }
}
