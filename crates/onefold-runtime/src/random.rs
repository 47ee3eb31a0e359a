//! Counter-based random numbers: the number at a position does not depend on which numbers were drawn before.
//!
//! Philox4x32-7 (Salmon, Moraes, Dror, Shaw: "Parallel random numbers: as easy as 1, 2, 3", SC 2011). A stream is
//! keyed by (seed, task, tensor name); its i-th number is a pure function of key and i. Hence random masks are the
//! same whatever the chunking, the threads or the ranks, and need no storage.

#![allow(clippy::needless_range_loop, reason = "loops over lanes by number are what vectorises")]

use multiversion::multiversion;
use xxhash_rust::xxh3::xxh3_64_with_seed;

/// The fewest that pass all of TestU01's BigCrush (table 2 of the paper).
const ROUNDS: u32 = 7;
const MULTIPLIERS: [u64; 2] = [0xD251_1F53, 0xCD9E_8D57];
const WEYL: [u32; 2] = [0x9E37_79B9, 0xBB67_AE85];
/// Counters advanced together, so that the rounds vectorise.
const LANES: usize = 32;
/// Numbers of a batch.
const NUMBERS: usize = 4 * LANES;

/// What a batch is drawn for; part of the counter, so that the purposes share no number.
#[derive(Debug, Clone, Copy)]
enum Purpose {
    Numbers = 0,
    Coins = 1,
    /// The lower 16 bits of the coins whose upper ones equal the threshold's.
    Ties = 2,
}

/// An infinite sequence of 32-bit numbers, and one of coins, that can be read from any position.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stream {
    key: [u32; 2],
}

impl Stream {
    /// The stream of `seed` for one task and one tensor.
    pub fn new(seed: u64, task: &str, tensor: &str) -> Self {
        // The lengths keep ("ab", "c") and ("a", "bc") apart.
        let name = format!("{}:{task}{}:{tensor}", task.len(), tensor.len());
        let key = xxh3_64_with_seed(name.as_bytes(), seed);
        Self { key: [key as u32, (key >> 32) as u32] }
    }

    /// Fills `out` with the numbers at positions `start, start + 1, …`.
    pub fn fill(&self, start: u64, out: &mut [u32]) {
        let (mut batch, mut skip) = (start / NUMBERS as u64, (start % NUMBERS as u64) as usize);
        let mut rest = out;
        while !rest.is_empty() {
            let count = rest.len().min(NUMBERS - skip);
            let (part, tail) = rest.split_at_mut(count);
            let mut numbers = [0; NUMBERS];
            draw(self.key, batch, &mut numbers);
            part.copy_from_slice(&numbers[skip..skip + count]);
            (rest, skip, batch) = (tail, 0, batch + 1);
        }
    }

    /// Tosses the coins at positions `start, …, start + len − 1`, each of which falls on 1 with probability
    /// `threshold`·2⁻³² (see [`threshold`]), into `marks`, laid out as [`GROUP`] says.
    pub fn toss(&self, threshold: u64, start: u64, len: usize, marks: &mut Vec<u8>) {
        let (first, skip) = (start / GROUP as u64, (start % GROUP as u64) as usize);
        marks.clear();
        marks.resize((skip + len).div_ceil(GROUP) * LANES, 0);
        toss(self.key, threshold, first, marks);
        if skip > 0 {
            *marks = moved(marks, skip, len);
        }
    }
}

/// Coins of a batch: a number is two draws of 16 bits. Of each group of this many elements, element 32·j + l is marked by
/// bit j of byte l (of 32 bytes): a layout that is read and written without moving bits between lanes.
pub const GROUP: usize = 2 * NUMBERS;

/// The marks of `len` elements from the element number `skip` on, in a layout that begins with them.
fn moved(marks: &[u8], skip: usize, len: usize) -> Vec<u8> {
    let mut out = vec![0; len.div_ceil(GROUP) * LANES];
    let place = |i: usize| (i / GROUP * LANES + i % LANES, i % GROUP / LANES);
    for i in 0..len {
        let ((byte, bit), (to, at)) = (place(skip + i), place(i));
        out[to] |= (marks[byte] >> bit & 1) << at;
    }
    out
}

/// The numbers of a batch; number i is word i / LANES of lane i mod LANES, which saves a transposition.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512vl", "x86_64+avx2", "aarch64+neon"))]
fn draw(key: [u32; 2], batch: u64, out: &mut [u32; NUMBERS]) {
    let words = philox(key, batch, Purpose::Numbers);
    for word in 0..4 {
        for lane in 0..LANES {
            out[word * LANES + lane] = words[word][lane] as u32;
        }
    }
}

/// Tosses whole groups of coins from group number `first` on.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512vl", "x86_64+avx2", "aarch64+neon"))]
fn toss(key: [u32; 2], threshold: u64, first: u64, marks: &mut [u8]) {
    // A probability of 1 is above every draw.
    let upper = u16::try_from(threshold >> 16).unwrap_or(u16::MAX);
    let always = threshold >> 32 != 0;
    for (batch, marks) in marks.chunks_exact_mut(LANES).enumerate() {
        if always {
            marks.fill(u8::MAX);
            continue;
        }
        let draws = draws(&philox(key, first + batch as u64, Purpose::Coins));
        let (mut below, mut ties) = ([0u16; LANES], [0u16; LANES]);
        for bit in 0..8 {
            for lane in 0..LANES {
                let draw = draws[bit * LANES + lane];
                below[lane] |= if draw < upper { 1 << bit } else { 0 };
                ties[lane] |= if draw == upper { 1 << bit } else { 0 };
            }
        }
        let mut any = 0;
        for lane in 0..LANES {
            marks[lane] = below[lane] as u8;
            any |= ties[lane];
        }
        if any != 0 {
            break_ties(key, threshold, first + batch as u64, &ties, marks);
        }
    }
}

/// The halves of the numbers of a batch, in their order, the lower half first.
#[inline(always)]
fn draws(words: &[[u64; LANES]; 4]) -> [u16; GROUP] {
    let mut numbers = [0u32; NUMBERS];
    for word in 0..4 {
        for lane in 0..LANES {
            numbers[word * LANES + lane] = (words[word][lane] as u32).to_le();
        }
    }
    bytemuck::cast(numbers)
}

/// Decides the coins whose upper 16 bits equal the threshold's, by a second draw.
#[cold]
fn break_ties(key: [u32; 2], threshold: u64, batch: u64, ties: &[u16; LANES], marks: &mut [u8]) {
    let draws = draws(&philox(key, batch, Purpose::Ties));
    for (lane, (ties, mark)) in ties.iter().zip(marks).enumerate() {
        for bit in (0..8).filter(|bit| ties >> bit & 1 == 1) {
            *mark |= u8::from(u64::from(draws[bit * LANES + lane]) < threshold & 0xffff) << bit;
        }
    }
}

/// Philox of the counters of a batch, word by word. The state is 32 bits wide, in 64 for the products: of those only the
/// lower halves enter, so what the other operations leave in the upper ones does not matter until the end.
#[inline(always)]
fn philox(key: [u32; 2], batch: u64, purpose: Purpose) -> [[u64; LANES]; 4] {
    let mut words = [[0u64; LANES]; 4];
    for lane in 0..LANES {
        let counter = batch * LANES as u64 + lane as u64;
        let x = rounds([counter, counter >> 32, purpose as u64, 0], key);
        for word in 0..4 {
            words[word][lane] = x[word] & 0xffff_ffff;
        }
    }
    words
}

#[inline(always)]
fn rounds(mut x: [u64; 4], key: [u32; 2]) -> [u64; 4] {
    for round in 0..ROUNDS {
        let key = [0, 1].map(|i: usize| u64::from(key[i].wrapping_add(WEYL[i].wrapping_mul(round))));
        let product = [MULTIPLIERS[0] * (x[0] & 0xffff_ffff), MULTIPLIERS[1] * (x[2] & 0xffff_ffff)];
        x = [product[1] >> 32 ^ x[1] ^ key[0], product[1], product[0] >> 32 ^ x[3] ^ key[1], product[0]];
    }
    x
}

/// The threshold `t` such that a uniform 32-bit number is below `t` with probability `p` (to 2⁻³²).
pub fn threshold(p: f64) -> u64 {
    (p.clamp(0.0, 1.0) * 4_294_967_296.0).round() as u64
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Test vectors of the authors' distribution (Random123, `kat_vectors`), philox4x32 with 7 rounds.
    #[test]
    fn philox_known_answers() {
        let answer =
            |counter: [u32; 4], key: [u32; 2]| rounds(counter.map(u64::from), key).map(|word| word as u32);
        assert_eq!(answer([0; 4], [0; 2]), [0x5f6f_b709, 0x0d89_3f64, 0x4f12_1f81, 0x4f73_0a48]);
        assert_eq!(
            answer([u32::MAX; 4], [u32::MAX; 2]),
            [0x5207_ddc2, 0x4516_5e59, 0x4d8e_e751, 0x8c52_f662]
        );
        assert_eq!(
            answer([0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344], [0xa409_3822, 0x299f_31d0]),
            [0x4dfc_caba, 0x190a_87f0, 0xc473_62ba, 0xb6b5_242a]
        );
    }

    #[test]
    fn streams_differ_by_seed_task_and_tensor() {
        let first = |s: Stream| {
            let mut out = [0; 2];
            s.fill(0, &mut out);
            out
        };
        let base = first(Stream::new(1, "ab", "c"));
        for other in [Stream::new(2, "ab", "c"), Stream::new(1, "a", "bc"), Stream::new(1, "ab", "d")] {
            assert_ne!(base, first(other));
        }
    }

    #[test]
    fn numbers_are_uniform() {
        let mut numbers = vec![0; 1 << 20];
        Stream::new(7, "task", "tensor").fill(0, &mut numbers);
        let t = threshold(0.3);
        let share = numbers.iter().filter(|n| u64::from(**n) < t).count() as f64 / numbers.len() as f64;
        // Six standard deviations of a binomial share.
        assert!((share - 0.3).abs() < 6.0 * (0.3f64 * 0.7 / numbers.len() as f64).sqrt(), "{share}");
        assert_eq!((threshold(0.0), threshold(1.0)), (0, 1 << 32));
    }

    /// Coin by coin, from the numbers that a group is made of.
    fn coin(stream: &Stream, threshold: u64, i: u64) -> bool {
        let (group, place) = (i / GROUP as u64, (i % GROUP as u64) as usize);
        let (word, lane, half) = (place / 2 / LANES, place / 2 % LANES, place % 2);
        let draw = |purpose| philox(stream.key, group, purpose)[word][lane] >> (16 * half) & 0xffff;
        match draw(Purpose::Coins).cmp(&(threshold >> 16)) {
            std::cmp::Ordering::Less => true,
            std::cmp::Ordering::Equal => draw(Purpose::Ties) < threshold & 0xffff,
            std::cmp::Ordering::Greater => false,
        }
    }

    fn tossed(stream: &Stream, threshold: u64, start: u64, len: usize) -> Vec<bool> {
        let mut marks = Vec::new();
        stream.toss(threshold, start, len, &mut marks);
        assert_eq!(marks.len(), len.div_ceil(GROUP) * LANES);
        (0..len).map(|i| marks[i / GROUP * LANES + i % LANES] >> (i % GROUP / LANES) & 1 == 1).collect()
    }

    #[test]
    fn coins_are_fair_to_their_threshold() {
        let stream = Stream::new(7, "task", "tensor");
        let n = 1 << 20;
        for p in [0.0, 1e-4, 0.3, 0.5, 0.999, 1.0] {
            let share = tossed(&stream, threshold(p), 0, n).iter().filter(|c| **c).count() as f64 / n as f64;
            assert!((share - p).abs() <= 6.0 * (p * (1.0 - p) / n as f64).sqrt(), "{p}: {share}");
        }
    }

    /// Of a million coins some sixteen are decided by the second draw.
    #[test]
    fn ties_are_broken() {
        let stream = Stream::new(5, "task", "tensor");
        let (low, high) = (0x5555_0000, 0x5555_ffff);
        let (n, mut between) = (1 << 20, 0);
        for (i, (a, b)) in tossed(&stream, low, 0, n).into_iter().zip(tossed(&stream, high, 0, n)).enumerate()
        {
            assert!(b || !a, "a higher threshold keeps what a lower one keeps");
            if a != b {
                between += 1;
                assert_eq!(tossed(&stream, 0x5555_8000, i as u64, 1), [coin(&stream, 0x5555_8000, i as u64)]);
            }
        }
        assert!((4..40).contains(&between), "{between}");
    }

    proptest! {
        #[test]
        fn coins_follow_their_definition(start in 0u64..1000, len in 0usize..600, t in 0u64..=1 << 32) {
            let stream = Stream::new(3, "t", "w");
            let expected: Vec<bool> = (start..start + len as u64).map(|i| coin(&stream, t, i)).collect();
            prop_assert_eq!(tossed(&stream, t, start, len), expected);
        }

        #[test]
        fn any_piece_equals_the_whole(start in 0u64..500, len in 0usize..300) {
            let stream = Stream::new(3, "t", "w");
            let mut whole = vec![0; 800];
            stream.fill(0, &mut whole);
            let mut piece = vec![0; len];
            stream.fill(start, &mut piece);
            prop_assert_eq!(&piece[..], &whole[start as usize..start as usize + len]);
        }
    }
}
