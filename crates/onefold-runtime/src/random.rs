//! Counter-based random numbers: the number at a position does not depend on which numbers were drawn before.
//!
//! Philox4x32-10 (Salmon, Moraes, Dror, Shaw: "Parallel random numbers: as easy as 1, 2, 3", SC 2011). A stream is
//! keyed by (seed, task, tensor name); its i-th number is a pure function of key and i. Hence random masks are the
//! same whatever the chunking, the threads or the ranks, and need no storage.

#![allow(clippy::needless_range_loop, reason = "loops over lanes by number are what vectorises")]

use multiversion::multiversion;
use xxhash_rust::xxh3::xxh3_64_with_seed;

const ROUNDS: usize = 10;
const MULTIPLIERS: [u32; 2] = [0xD251_1F53, 0xCD9E_8D57];
const WEYL: [u32; 2] = [0x9E37_79B9, 0xBB67_AE85];
/// Counters advanced together so that the rounds vectorise.
const LANES: usize = 16;

/// An infinite sequence of 32-bit numbers that can be read from any position.
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
        fill(self.key, start, out);
    }
}

#[multiversion(targets("x86_64+avx512f", "x86_64+avx2", "aarch64+neon"))]
fn fill(key: [u32; 2], start: u64, out: &mut [u32]) {
    let mut counter = start / 4;
    let mut skip = (start % 4) as usize;
    let mut rest = out;
    while !rest.is_empty() {
        let mut words = [[0u32; LANES]; 4];
        for lane in 0..LANES {
            let counter = counter + lane as u64;
            words[0][lane] = counter as u32;
            words[1][lane] = (counter >> 32) as u32;
        }
        rounds(&mut words, key);
        let mut numbers = [0; 4 * LANES];
        for lane in 0..LANES {
            for word in 0..4 {
                numbers[4 * lane + word] = words[word][lane];
            }
        }
        let count = rest.len().min(numbers.len() - skip);
        let (part, tail) = rest.split_at_mut(count);
        part.copy_from_slice(&numbers[skip..skip + count]);
        rest = tail;
        skip = 0;
        counter += LANES as u64;
    }
}

#[inline(always)]
fn rounds(x: &mut [[u32; LANES]; 4], mut key: [u32; 2]) {
    for _ in 0..ROUNDS {
        for lane in 0..LANES {
            let p0 = u64::from(MULTIPLIERS[0]) * u64::from(x[0][lane]);
            let p1 = u64::from(MULTIPLIERS[1]) * u64::from(x[2][lane]);
            x[0][lane] = (p1 >> 32) as u32 ^ x[1][lane] ^ key[0];
            x[1][lane] = p1 as u32;
            x[2][lane] = (p0 >> 32) as u32 ^ x[3][lane] ^ key[1];
            x[3][lane] = p0 as u32;
        }
        key = [key[0].wrapping_add(WEYL[0]), key[1].wrapping_add(WEYL[1])];
    }
}

/// The threshold `t` such that a uniform 32-bit number is below `t` with probability `p` (to 2⁻³²).
pub fn threshold(p: f64) -> u64 {
    (p.clamp(0.0, 1.0) * 4_294_967_296.0).round() as u64
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Test vectors of the authors' distribution (Random123, `kat_vectors`), philox4x32 with 10 rounds.
    #[test]
    fn philox_known_answers() {
        let answer = |counter: [u32; 4], key: [u32; 2]| {
            let mut x = counter.map(|c| [c; LANES]);
            rounds(&mut x, key);
            x.map(|word| word[0])
        };
        assert_eq!(answer([0; 4], [0; 2]), [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]);
        assert_eq!(
            answer([u32::MAX; 4], [u32::MAX; 2]),
            [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]
        );
        assert_eq!(
            answer([0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344], [0xa409_3822, 0x299f_31d0]),
            [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1]
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

    proptest! {
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
