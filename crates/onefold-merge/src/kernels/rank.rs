//! Counting how the magnitudes of a block stand to a bracket.

use multiversion::multiversion;

/// Elements that are judged together before any is looked at alone.
const GROUP: usize = 64;

/// Counts the values whose magnitude bits lie above `high`, and those that equal `guess`; adds those in `low..=high` to
/// `bins`, which take `1 << shift` codes each. The guess must lie in `low..=high`: where many values are equal (weights
/// stored in 16 bits differ by few distinct amounts) it is the one that most of the bracket equals, so a group that
/// holds nothing else of the bracket needs no second look.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512vl", "x86_64+avx2", "aarch64+neon"))]
pub fn count(values: &[f32], low: u32, high: u32, shift: u32, guess: u32, bins: &mut [u32]) -> (u64, u32) {
    let (mut above, mut ties) = (0u64, 0u32);
    let mut found = [0u32; GROUP + 1];
    for group in values.chunks(GROUP) {
        let (mut over, mut within, mut equal) = (0u32, 0u32, 0u32);
        for v in group {
            let bits = v.to_bits() & 0x7fff_ffff;
            over += u32::from(bits > high);
            within += u32::from(bits >= low);
            equal += u32::from(bits == guess);
        }
        above += u64::from(over);
        ties += equal;
        if within == over + equal {
            continue;
        }
        // Without a branch per element: each is written, and the next overwrites it unless it counts.
        let mut len = 0;
        for v in group {
            let bits = v.to_bits() & 0x7fff_ffff;
            found[len] = bits;
            len += usize::from(bits >= low && bits <= high && bits != guess);
        }
        for bits in &found[..len] {
            bins[((bits - low) >> shift) as usize] += 1;
        }
    }
    bins[((guess - low) >> shift) as usize] += ties;
    (above, ties)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn agrees_with_the_definition(values in prop::collection::vec(-4f32..4.0, 0..200), a in 0f32..4.0, b in 0f32..4.0, shift in 8u32..20) {
            let (low, high) = (a.min(b).to_bits(), a.max(b).to_bits());
            let mut bins = vec![0; ((high - low) >> shift) as usize + 1];
            let guess = values.first().map_or(low, |v| v.abs().to_bits()).clamp(low, high);
            let (above, ties) = count(&values, low, high, shift, guess, &mut bins);
            let bits: Vec<u32> = values.iter().map(|v| v.abs().to_bits()).collect();
            prop_assert_eq!(above, bits.iter().filter(|x| **x > high).count() as u64);
            prop_assert_eq!(ties, bits.iter().filter(|x| **x == guess).count() as u32);
            for (bin, found) in bins.iter().enumerate() {
                let expected = bits.iter().filter(|x| **x >= low && **x <= high && ((**x - low) >> shift) as usize == bin).count();
                prop_assert_eq!(*found as usize, expected);
            }
        }
    }
}
