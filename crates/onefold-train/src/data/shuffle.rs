//! Orders drawn at random: a function of seed, name and purpose, on nothing else.
//!
//! Fisher-Yates over the numbers of [`Stream`]: step i exchanges with one of the places 0…i, found from 64 random bits by
//! multiplication, whose bias is below 2⁻³² for any order that fits in memory.

use onefold_runtime::random::Stream;

/// The numbers 0…n−1 in an order drawn for `name` and `purpose`.
pub(crate) fn permutation(n: usize, seed: u64, name: &str, purpose: &str) -> Vec<u32> {
    let mut order: Vec<u32> = (0..=u32::MAX).take(n).collect();
    shuffle(&mut order, seed, name, purpose);
    order
}

/// Puts `items` into an order drawn for `name` and `purpose`.
pub(crate) fn shuffle<T>(items: &mut [T], seed: u64, name: &str, purpose: &str) {
    const BLOCK: usize = 1024;
    let stream = Stream::new(seed, name, purpose);
    let mut words = [0; 2 * BLOCK];
    for last in (1..items.len()).rev() {
        let step = items.len() - 1 - last;
        if step.is_multiple_of(BLOCK) {
            stream.fill(2 * step as u64, &mut words);
        }
        let [low, high] = [words[step % BLOCK * 2], words[step % BLOCK * 2 + 1]];
        let draw = u64::from(high) << 32 | u64::from(low);
        let place = (u128::from(draw) * (last as u128 + 1)) >> 64;
        items.swap(last, place as usize);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_are_permutations_of_their_own() {
        let order = permutation(5000, 1, "a", "x");
        let mut sorted = order.clone();
        sorted.sort_unstable();
        assert!(sorted.iter().enumerate().all(|(i, found)| i == *found as usize));
        for other in
            [permutation(5000, 2, "a", "x"), permutation(5000, 1, "b", "x"), permutation(5000, 1, "a", "y")]
        {
            assert_ne!(order, other);
        }
        assert!(permutation(0, 1, "a", "x").is_empty());
        assert_eq!(permutation(1, 1, "a", "x"), [0]);
    }

    /// Each of the six orders of three things, about equally often.
    #[test]
    fn orders_are_equally_likely() {
        let mut counts = std::collections::BTreeMap::new();
        for seed in 0..6000 {
            *counts.entry(permutation(3, seed, "a", "x")).or_insert(0) += 1;
        }
        assert_eq!(counts.len(), 6);
        // Six standard deviations of a binomial count: 6 · √(6000 · 1/6 · 5/6).
        assert!(counts.values().all(|count| (827..=1173).contains(count)), "{counts:?}");
    }
}
