//! Exact order statistics of magnitudes without sorting: which elements are the k largest of a tensor or of a model.
//!
//! Magnitudes of f32 are ordered like their bits. A histogram over the upper 16 of the 31 bits finds the bin that holds
//! a wanted rank; a second pass looks only at the elements of that bin. Both passes stream the inputs, so memory
//! does not grow with the tensor. Of equal magnitudes the one with the lower index counts as the larger, hence exactly
//! k elements are kept whatever the ties.

use rayon::prelude::*;

use crate::MergeError;
use crate::scan::{Grain, Scan, View, with_buffers};

/// A boundary in the ranking of a sequence of values: everything *below* the cut in the list sorted by descending
/// magnitude… see [`Cut::below`].
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
    pub fn below(self, value: f32, index: u64) -> bool {
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

/// A value derived from each element of a block; must depend on the element and its row alone.
pub trait Score: Fn(&View<'_>, &mut [f32]) + Sync {}
impl<F: Fn(&View<'_>, &mut [f32]) + Sync> Score for F {}

const BINS: usize = 1 << 16;
/// Most blocks that one accumulator sees: some 2³¹ elements, so that a u32 can count those of one bin (a model's zeros).
const MAX_RUN: usize = 1 << 17;
const LOW_BITS: u32 = 15;
/// Sequences up to this length are collected whole: clearing and adding the bins would take longer. Unit tests take both
/// ways with short sequences.
const SMALL: u64 = if cfg!(test) { 50 } else { 1 << 14 };
/// Elements of one bin that are collected before giving up and counting instead (12 bytes each).
const COLLECT: u64 = 1 << 20;

/// For each count in `keep`, the cut that separates the `keep` largest scores from the rest, over all `scans` as one
/// sequence in their order.
///
/// # Errors
/// If an input is not finite.
pub fn cuts(scans: &[&Scan], grain: Grain, score: &impl Score, keep: &[u64]) -> Result<Vec<Cut>, MergeError> {
    let total: u64 = scans.iter().map(|s| s.len() as u64).sum();
    let trivial = |k: u64| match k {
        0 => Some(Cut::NOTHING),
        k if k >= total => Some(Cut::ALL),
        _ => None,
    };
    if keep.iter().all(|k| trivial(*k).is_some()) {
        return Ok(keep.iter().filter_map(|k| trivial(*k)).collect());
    }
    if total <= SMALL {
        let mut all = members(scans, grain, score, None)?;
        return Ok(keep.iter().map(|k| trivial(*k).unwrap_or_else(|| last_of(&mut all, *k))).collect());
    }
    let histogram = histogram(scans, grain, score)?;
    keep.iter().map(|k| trivial(*k).map_or_else(|| cut(scans, grain, score, &histogram, *k), Ok)).collect()
}

/// Counts of the scores by the upper 16 bits of their magnitude.
fn histogram(scans: &[&Scan], grain: Grain, score: &impl Score) -> Result<Vec<u64>, MergeError> {
    let count = |bins: &mut Vec<u32>, values: &[f32]| {
        for v in values {
            bins[((v.to_bits() & 0x7fff_ffff) >> LOW_BITS) as usize] += 1;
        }
    };
    let parts = visit(scans, grain, score, || vec![0u32; BINS], |bins, _, values| count(bins, values))?;
    let mut total = vec![0u64; BINS];
    for part in parts {
        for (t, p) in total.iter_mut().zip(part) {
            *t += u64::from(p);
        }
    }
    Ok(total)
}

fn cut(
    scans: &[&Scan],
    grain: Grain,
    score: &impl Score,
    histogram: &[u64],
    keep: u64,
) -> Result<Cut, MergeError> {
    // The bin, from the top, in which the running count reaches `keep`; `wanted` elements of it are kept.
    let mut above = 0;
    let mut bin = BINS - 1;
    while above + histogram[bin] < keep {
        above += histogram[bin];
        bin -= 1;
    }
    let wanted = keep - above;
    if histogram[bin] <= COLLECT {
        return Ok(last_of(&mut members(scans, grain, score, Some(bin))?, wanted));
    }
    cut_in_crowded_bin(scans, grain, score, bin, wanted)
}

/// The cut below the `wanted` (at least 1) largest of these scores, given by bits and position.
fn last_of(members: &mut [(u32, u64)], wanted: u64) -> Cut {
    let order = |a: &(u32, u64), b: &(u32, u64)| b.0.cmp(&a.0).then(a.1.cmp(&b.1));
    let (_, last, _) = members.select_nth_unstable_by(wanted as usize - 1, order);
    Cut { bits: last.0, ties_before: last.1 + 1 }
}

/// Bits and positions of all scores of a bin, or of all bins.
fn members(
    scans: &[&Scan],
    grain: Grain,
    score: &impl Score,
    bin: Option<usize>,
) -> Result<Vec<(u32, u64)>, MergeError> {
    let collect = |found: &mut Vec<(u32, u64)>, start: u64, values: &[f32]| {
        for (i, v) in values.iter().enumerate() {
            let bits = v.to_bits() & 0x7fff_ffff;
            if bin.is_none_or(|bin| (bits >> LOW_BITS) as usize == bin) {
                found.push((bits, start + i as u64));
            }
        }
    };
    Ok(visit(scans, grain, score, Vec::new, collect)?.into_iter().flatten().collect())
}

/// Many elements share the bin (a constant tensor, an untouched layer): count its low bits, then the ties.
fn cut_in_crowded_bin(
    scans: &[&Scan],
    grain: Grain,
    score: &impl Score,
    bin: usize,
    wanted: u64,
) -> Result<Cut, MergeError> {
    let low_mask = (1u32 << LOW_BITS) - 1;
    let count = |lows: &mut Vec<u64>, values: &[f32]| {
        for v in values {
            let bits = v.to_bits() & 0x7fff_ffff;
            if (bits >> LOW_BITS) as usize == bin {
                lows[(bits & low_mask) as usize] += 1;
            }
        }
    };
    let parts =
        visit(scans, grain, score, || vec![0u64; 1 << LOW_BITS], |lows, _, values| count(lows, values))?;
    let count_of = |low: usize| parts.iter().map(|p| p[low]).sum::<u64>();
    let mut above = 0;
    let mut low = (1 << LOW_BITS) - 1;
    while above + count_of(low) < wanted {
        above += count_of(low);
        low -= 1;
    }
    let bits = (bin as u32) << LOW_BITS | low as u32;
    let ties = wanted - above;
    if bits == 0 || ties == count_of(low) {
        return Ok(Cut { bits, ties_before: u64::MAX });
    }
    Ok(Cut { bits, ties_before: position_of_tie(scans, grain, score, bits, ties)? + 1 })
}

/// Position of the `nth` (from 1) score with exactly these bits.
fn position_of_tie(
    scans: &[&Scan],
    grain: Grain,
    score: &impl Score,
    bits: u32,
    nth: u64,
) -> Result<u64, MergeError> {
    // One count per task of consecutive blocks, then a look into the task that holds it.
    let count = |counts: &mut Vec<(u64, u64)>, start: u64, values: &[f32]| {
        let ties = values.iter().filter(|v| v.to_bits() & 0x7fff_ffff == bits).count() as u64;
        counts.push((start, ties));
    };
    let mut blocks: Vec<(u64, u64)> =
        visit(scans, grain, score, Vec::new, count)?.into_iter().flatten().collect();
    blocks.sort_unstable();
    let mut left = nth;
    let (start, _) = *blocks
        .iter()
        .find(|(_, ties)| {
            let here = left <= *ties;
            left -= if here { 0 } else { *ties };
            here
        })
        .expect("the ties were counted before");
    let find = |found: &mut Option<u64>, block: u64, values: &[f32]| {
        if block == start {
            let ties = values.iter().enumerate().filter(|(_, v)| v.to_bits() & 0x7fff_ffff == bits);
            *found = ties.map(|(i, _)| block + i as u64).nth(left as usize - 1);
        }
    };
    let found = visit(scans, grain, score, || None, find)?.into_iter().flatten().next();
    Ok(found.expect("the block holds as many ties as were counted"))
}

/// Shows the scores of every block, with the position of its first element in the whole sequence, to accumulators made
/// by `new`: a few per thread, each for a run of consecutive blocks; returned in the order of the runs.
fn visit<A: Send>(
    scans: &[&Scan],
    grain: Grain,
    score: &impl Score,
    new: impl Fn() -> A + Sync,
    each: impl Fn(&mut A, u64, &[f32]) + Sync,
) -> Result<Vec<A>, MergeError> {
    let mut blocks = Vec::new();
    let mut offset = 0;
    for scan in scans {
        blocks.extend(scan.blocks(grain).into_iter().map(|block| (*scan, offset, block)));
        offset += scan.len() as u64;
    }
    let run = blocks.len().div_ceil(2 * rayon::current_num_threads()).clamp(8, MAX_RUN);
    let visit_run = |blocks: &[(&Scan, u64, std::ops::Range<usize>)]| -> Result<A, MergeError> {
        let mut accumulator = new();
        let mut values = Vec::new();
        for (scan, offset, block) in blocks {
            with_buffers(|buffers| {
                let view = scan.load(block.clone(), buffers)?;
                values.resize(block.len(), 0.0);
                score(&view, &mut values);
                each(&mut accumulator, offset + block.start as u64, &values);
                Ok::<(), MergeError>(())
            })?;
        }
        Ok(accumulator)
    };
    if blocks.len() <= run {
        return Ok(vec![visit_run(&blocks)?]);
    }
    blocks.par_chunks(run).map(visit_run).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::scan::fixtures::deltas;

    fn first(view: &View<'_>, out: &mut [f32]) {
        out.copy_from_slice(&view.vectors[0]);
    }

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
        let cut = cuts(&[&scan], Grain::Element, &first, &[k]).unwrap()[0];
        (0..values.len()).filter(|i| cut.below(values[*i], *i as u64)).collect()
    }

    #[test]
    fn crowded_bins_are_cut_exactly() {
        let n = (COLLECT + 5000) as usize;
        let mut values = vec![0.25f32; n];
        values[17] = 3.0;
        values[n - 1] = 0.250_001;
        for k in [1, 2, 3, 40_000, n - 1] {
            assert_eq!(kept(&values, k as u64), naive(&values, k), "k = {k}");
        }
    }

    #[test]
    fn a_model_is_ranked_as_one_sequence() {
        let a = deltas(&[3], &[vec![1.0, -5.0, 2.0]]);
        let b = deltas(&[2], &[vec![2.0, 4.0]]);
        let cut = cuts(&[&a, &b], Grain::Element, &first, &[3]).unwrap()[0];
        assert!(cut.below(2.0, 2) && !cut.below(2.0, 3));
        assert!(!cut.within(3).below(2.0, 0) && cut.within(3).below(4.0, 1));
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
            let both = cuts(&[&scan], Grain::Element, &first, &[many, few]).unwrap();
            let mut out = vec![9.0; values.len()];
            crate::kernels::mix::keep_ranked(&values, 0, both[0], both[1], &mut out);
            for (i, v) in values.iter().enumerate() {
                let kept = both[0].below(*v, i as u64) && !both[1].below(*v, i as u64);
                prop_assert_eq!(out[i], if kept { *v } else { 0.0 });
            }
            prop_assert_eq!(out.iter().filter(|v| **v != 0.0).count() as u64, many - few);
        }
    }
}
