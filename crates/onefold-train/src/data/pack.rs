//! Several short rows in one long one.
//!
//! Rows of a bin lie one behind the other and do not see one another: a batch gives every sequence a block of its own in
//! the attention, with positions from 0. So packing changes speed, not results; what it changes is how many rows an
//! optimiser step sees, which is why the plan states it. A bin holds rows of one task.
//!
//! * Best fit, decreasing: rows from the longest to the shortest, each into the bin with the least room that takes it. At
//!   most 11/9 of the fewest bins possible, and 6/9 of a bin.
//! * Next fit: rows in their order, a bin is closed when a row does not fit. This is MFTCoder's; its published code
//!   drops the last bin, which is kept here.

use std::collections::BTreeSet;

use serde::Serialize;

/// How rows are put into bins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Packing {
    /// Best fit, decreasing.
    #[default]
    BestFit,
    /// Next fit, in order.
    NextFit,
}

/// Rows in bins.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Packed {
    /// Which rows lie in each bin.
    pub bins: Vec<Vec<u32>>,
    /// Rows that are longer than a bin.
    pub dropped: Vec<u32>,
}

/// Rows of the given lengths in bins of `capacity` tokens.
pub fn pack(lengths: &[u32], capacity: u32, packing: Packing) -> Packed {
    let rows = (0..=u32::MAX).zip(lengths.iter().copied());
    let (fitting, longer): (Vec<_>, Vec<_>) = rows.partition(|(_, length)| *length <= capacity);
    let bins = match packing {
        Packing::BestFit => best_fit(fitting, capacity),
        Packing::NextFit => next_fit(&fitting, capacity),
    };
    Packed { bins, dropped: longer.into_iter().map(|(row, _)| row).collect() }
}

fn best_fit(mut rows: Vec<(u32, u32)>, capacity: u32) -> Vec<Vec<u32>> {
    rows.sort_by_key(|(row, length)| (std::cmp::Reverse(*length), *row));
    let mut bins: Vec<Vec<u32>> = Vec::new();
    // Room of a bin that is not full, and its number.
    let mut open: BTreeSet<(u32, usize)> = BTreeSet::new();
    for (row, length) in rows {
        let found = open.range((length, 0)..).next().copied();
        let (room, bin) = match found {
            Some(place) => {
                open.remove(&place);
                bins[place.1].push(row);
                place
            }
            None => {
                bins.push(vec![row]);
                (capacity, bins.len() - 1)
            }
        };
        if room > length {
            open.insert((room - length, bin));
        }
    }
    bins
}

fn next_fit(rows: &[(u32, u32)], capacity: u32) -> Vec<Vec<u32>> {
    let mut bins: Vec<Vec<u32>> = Vec::new();
    let mut room = 0;
    for &(row, length) in rows {
        match bins.last_mut().filter(|_| length <= room) {
            Some(bin) => {
                bin.push(row);
                room -= length;
            }
            None => {
                bins.push(vec![row]);
                room = capacity - length;
            }
        }
    }
    bins
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::data::tests::golden;

    #[test]
    fn next_fit_agrees_with_mftcoder() {
        let case = &golden("mft_data.json")["pack"];
        let numbers = |key: &str| -> Vec<u32> { serde_json::from_value(case[key].clone()).unwrap() };
        let made = pack(&numbers("lengths"), case["max_len"].as_u64().unwrap() as u32, Packing::NextFit);
        let mut bins: Vec<Vec<u32>> = serde_json::from_value(case["bins"].clone()).unwrap();
        bins.push(numbers("open_remainder"));
        assert_eq!(made, Packed { bins, dropped: numbers("dropped") });
    }

    #[test]
    fn best_fit_fills_what_next_fit_leaves() {
        let lengths = [5, 4, 3, 12, 7, 2, 6, 1];
        let made = pack(&lengths, 10, Packing::BestFit);
        assert_eq!(made.bins, [vec![4, 2], vec![6, 1], vec![0, 5, 7]]);
        assert_eq!(made.dropped, [3]);
    }

    proptest! {
        #[test]
        fn every_row_lies_once_in_a_bin_that_holds_it(
            lengths in prop::collection::vec(0u32..40, 0..200),
            capacity in 1u32..50,
        ) {
            for packing in [Packing::BestFit, Packing::NextFit] {
                let made = pack(&lengths, capacity, packing);
                for bin in &made.bins {
                    prop_assert!(!bin.is_empty());
                    prop_assert!(bin.iter().map(|row| lengths[*row as usize]).sum::<u32>() <= capacity);
                }
                let mut all: Vec<_> = made.bins.concat();
                all.extend(&made.dropped);
                all.sort_unstable();
                prop_assert_eq!(all, (0..lengths.len() as u32).collect::<Vec<_>>());
            }
        }
    }
}
