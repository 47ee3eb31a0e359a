//! DELLA's masks: keep probabilities that grow with the rank of a magnitude within its row, without sorting the row.
//!
//! A counting sort by the upper bits of the magnitudes ranks most elements exactly, or well enough to tell on which side
//! of its probability an element's random number falls. Only buckets in which that is in doubt are sorted.

use multiversion::multiversion;

/// Buckets of a row: zeros; all that is small; then seven bits of mantissa, eight octaves up to the largest magnitude.
const BUCKETS: usize = 1024;
/// Buckets that are looked at together.
const RUN: usize = 16;
/// Marks a bucket that may hold several magnitudes, in a word that holds a count or a rank beside it.
const MIXED: u32 = 1 << 31;
/// 2³²: probabilities are compared to random numbers of 32 bits.
const UNIT: f64 = 4_294_967_296.0;

/// Keep probability `low + step·rank` for the rank 0 (smallest magnitude, of equal ones the first) up to `len − 1`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Probability {
    /// Of the smallest.
    pub low: f64,
    /// From rank to rank.
    pub step: f64,
}

impl Probability {
    /// Mean `density`, spread `density ± epsilon`, over a row of `len`; a row of one element has the mean.
    pub fn new(density: f64, epsilon: f64, len: usize) -> Self {
        match len {
            0 | 1 => Self { low: density, step: 0.0 },
            _ => Self { low: density - epsilon, step: 2.0 * epsilon / (len - 1) as f64 },
        }
    }

    #[inline(always)]
    fn at(self, rank: u32) -> f64 {
        self.low + f64::from(rank) * self.step
    }
}

/// Buffers for one row, of fewer than 2³¹ elements.
#[derive(Debug)]
pub struct Buffers {
    /// Of each element. A rank in a mixed bucket carries the flag.
    bucket: Vec<u16>,
    rank: Vec<u32>,
    /// Of each bucket: the number of its elements, the next rank to give (both with the flag), whether to sort it.
    count: [u32; BUCKETS],
    next: [u32; BUCKETS],
    doubted: [bool; BUCKETS],
    /// Most elements of a mixed bucket: no rank is wrong by as much.
    slack: u32,
    /// Bits and index of the elements to be sorted.
    keys: Vec<u64>,
}

impl Default for Buffers {
    fn default() -> Self {
        Self {
            bucket: Vec::new(),
            rank: Vec::new(),
            count: [0; BUCKETS],
            next: [0; BUCKETS],
            doubted: [false; BUCKETS],
            slack: 0,
            keys: Vec::new(),
        }
    }
}

/// Writes the elements of the row `x` that are kept to `out`, 0 elsewhere; with `divide` each divided by its probability.
pub fn keep_row(
    x: &[f32],
    numbers: &[u32],
    p: Probability,
    divide: bool,
    buffers: &mut Buffers,
    out: &mut [f32],
) {
    buffers.bucket.resize(x.len(), 0);
    buffers.rank.resize(x.len(), 0);
    assign(x, &mut buffers.bucket);
    count(x, buffers);
    rank(buffers);
    // Where the probability itself is wanted, every wrong rank matters.
    let unit = if divide { f64::INFINITY } else { p.step * UNIT };
    if decide(x, numbers, &buffers.rank, p, unit * f64::from(buffers.slack), out) {
        settle(x, numbers, p, unit, buffers, out);
    }
    if divide {
        divide_by_probability(out, &buffers.rank, p);
    }
}

fn bits(x: f32) -> u32 {
    x.to_bits() & 0x7fff_ffff
}

#[multiversion(targets("x86_64+avx512f+avx512bw+avx512vl", "x86_64+avx2", "aarch64+neon"))]
fn assign(x: &[f32], bucket: &mut [u16]) {
    let last = BUCKETS as u32 - 1;
    let top = x.iter().fold(0, |top, v| bits(*v).max(top)) >> 16;
    let floor = top.saturating_sub(last);
    for (b, v) in bucket.iter_mut().zip(x) {
        let bits = bits(*v);
        *b = (bits >> 16).saturating_sub(floor).max(u32::from(bits != 0)) as u16;
    }
}

/// Counts the elements of each bucket. One may hold several magnitudes if it holds one with lower bits, or is the second.
fn count(x: &[f32], buffers: &mut Buffers) {
    let Buffers { bucket, count, .. } = buffers;
    count.fill(0);
    for (v, b) in x.iter().zip(bucket) {
        let count = &mut count[usize::from(*b) % BUCKETS];
        *count = (*count + 1) | if v.to_bits() & 0xffff == 0 { 0 } else { MIXED };
    }
    count[1] |= MIXED;
}

/// Ranks by bucket, then by index: exact where a bucket holds one magnitude, wrong by less than its size elsewhere.
fn rank(buffers: &mut Buffers) {
    let Buffers { bucket, rank, count, next, slack, .. } = buffers;
    *slack = starts(count, next);
    for (rank, b) in rank.iter_mut().zip(&*bucket) {
        let next = &mut next[usize::from(*b) % BUCKETS];
        *rank = *next;
        *next += 1;
    }
}

/// The first rank of every bucket; returns the size of the largest mixed one.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512vl", "x86_64+avx2", "aarch64+neon"))]
fn starts(count: &[u32; BUCKETS], next: &mut [u32; BUCKETS]) -> u32 {
    let (mut start, mut largest) = (0, 0);
    for (count, next) in count.chunks_exact(RUN).zip(next.chunks_exact_mut(RUN)) {
        let top = count.iter().fold(0, |top, count| top.max(*count));
        // Most buckets are empty where magnitudes are few.
        if top == 0 {
            continue;
        }
        largest = largest.max(top);
        for (count, next) in count.iter().zip(next) {
            let size = count & !MIXED;
            // One element has its rank for sure.
            *next = start | count & u32::from(size > 1) << 31;
            start += size;
        }
    }
    // The flag is the highest bit: a mixed bucket, if there is one, is above the others.
    if largest & MIXED == 0 { 0 } else { largest & !MIXED }
}

/// Decides by the ranks as they are; whether the threshold of some element of a mixed bucket is within `reach`.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512vl", "x86_64+avx2", "aarch64+neon"))]
fn decide(x: &[f32], numbers: &[u32], ranks: &[u32], p: Probability, reach: f64, out: &mut [f32]) -> bool {
    let mut doubts = 0;
    for (((o, v), number), rank) in out.iter_mut().zip(x).zip(numbers).zip(ranks) {
        let distance = f64::from(*number) - p.at(*rank & !MIXED) * UNIT;
        *o = if distance < 0.0 { *v } else { 0.0 };
        doubts |= if distance.abs() <= reach { *rank } else { 0 };
    }
    doubts & MIXED != 0
}

/// Sorts the buckets in which there is doubt; sets the ranks of their elements right and decides them anew. `unit`: by how
/// much an error of one rank moves a threshold.
#[inline(never)]
fn settle(x: &[f32], numbers: &[u32], p: Probability, unit: f64, buffers: &mut Buffers, out: &mut [f32]) {
    let Buffers { bucket, rank, next, doubted, keys, count, .. } = buffers;
    doubted.fill(false);
    for ((number, rank), b) in numbers.iter().zip(&*rank).zip(&*bucket) {
        if rank & MIXED != 0 {
            let b = usize::from(*b) % BUCKETS;
            let distance = f64::from(*number) - p.at(*rank & !MIXED) * UNIT;
            doubted[b] |= distance.abs() <= f64::from(count[b] & !MIXED) * unit;
        }
    }
    keys.clear();
    for (i, (v, b)) in x.iter().zip(&*bucket).enumerate() {
        if doubted[usize::from(*b) % BUCKETS] {
            keys.push(u64::from(bits(*v)) << 32 | i as u64);
        }
    }
    keys.sort_unstable();
    for keys in keys.chunk_by(|a, b| bucket[index(*a)] == bucket[index(*b)]) {
        let b = usize::from(bucket[index(keys[0])]);
        let first = (next[b] & !MIXED) - keys.len() as u32;
        for (place, key) in keys.iter().enumerate() {
            let (i, exact) = (index(*key), first + place as u32);
            rank[i] = exact;
            out[i] = if f64::from(numbers[i]) < p.at(exact) * UNIT { x[i] } else { 0.0 };
        }
    }
}

fn index(key: u64) -> usize {
    (key & 0xffff_ffff) as usize
}

#[multiversion(targets("x86_64+avx512f+avx512bw+avx512vl", "x86_64+avx2", "aarch64+neon"))]
fn divide_by_probability(out: &mut [f32], ranks: &[u32], p: Probability) {
    for (o, rank) in out.iter_mut().zip(ranks) {
        // A rank that was never in doubt is exact; the flag of a bucket of one element was taken away.
        *o = (f64::from(*o) / p.at(*rank & !MIXED)) as f32;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The definition: sort, then compare each number with its probability.
    fn by_sorting(x: &[f32], numbers: &[u32], p: Probability, divide: bool) -> Vec<f32> {
        let mut order: Vec<usize> = (0..x.len()).collect();
        order.sort_by(|a, b| x[*a].abs().total_cmp(&x[*b].abs()).then(a.cmp(b)));
        let mut out = vec![0.0; x.len()];
        for (rank, i) in order.into_iter().enumerate() {
            let probability = p.low + p.step * rank as f64;
            let value = if divide { (f64::from(x[i]) / probability) as f32 } else { x[i] };
            out[i] = if f64::from(numbers[i]) < probability * UNIT { value } else { 0.0 };
        }
        out
    }

    /// Rows of every kind: continuous, few distinct magnitudes, mostly zeros, many octaves, one outlier.
    fn value() -> impl Strategy<Value = f32> {
        prop_oneof![
            -1f32..1.0,
            (-20i32..20).prop_map(|i| i as f32 * 0.125),
            Just(0.0f32),
            (-40i32..40, -1f32..1.0).prop_map(|(e, m)| m * (e as f32).exp2()),
            Just(1e30f32),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(400))]
        #[test]
        fn agrees_with_sorting(
            row in prop::collection::vec((value(), any::<u32>()), 0..600),
            density in 0.2f64..0.8,
            epsilon in 0.0f64..0.2,
            divide: bool,
        ) {
            let (x, numbers): (Vec<f32>, Vec<u32>) = row.into_iter().unzip();
            let p = Probability::new(density, epsilon, x.len());
            let mut out = vec![9.0; x.len()];
            keep_row(&x, &numbers, p, divide, &mut Buffers::default(), &mut out);
            prop_assert_eq!(out, by_sorting(&x, &numbers, p, divide));
        }
    }

    /// Buffers carry nothing from row to row.
    #[test]
    fn buffers_are_reusable() {
        let p = Probability::new(0.5, 0.2, 300);
        let row = |scale: f32| (0..300).map(|i| (i as f32 * 1.7).sin() * scale).collect::<Vec<f32>>();
        let numbers: Vec<u32> = (0..300u32).map(|i| i.wrapping_mul(0x9E37_79B9)).collect();
        let mut buffers = Buffers::default();
        for x in [row(1.0), row(1e-20), vec![0.0; 300], vec![1.0; 300], row(1e20)] {
            let mut out = vec![9.0; 300];
            keep_row(&x, &numbers, p, false, &mut buffers, &mut out);
            assert_eq!(out, by_sorting(&x, &numbers, p, false));
        }
    }
}
