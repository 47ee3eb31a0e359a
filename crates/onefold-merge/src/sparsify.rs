//! Which elements of a task vector survive.
//!
//! A [`Sparsifier`] is a rule with its parameters; for a tensor it becomes a [`Mask`], which is local to an element (or, for
//! DELLA, to a row) and takes no memory: random masks are recomputed from their counter-based stream. Where a tensor is
//! passed over more than once, a bit per element may be kept instead ([`record`]), within a fixed budget.

use std::sync::Arc;

use onefold_runtime::Stream;
use onefold_runtime::random::threshold;

use crate::MergeError;
use crate::kernels::della::{self, Probability};
use crate::kernels::mix::{add_marked, keep_marked, keep_ranked};
use crate::kernels::{add_scaled, scale};
use crate::order::Cut;
use crate::recording::{Marks, Recorder, Recording, marks_of};
use crate::scan::{Grain, Scan, View};

/// A sparsifier with the parameters of one model.
#[derive(Debug, Clone, PartialEq)]
pub enum Sparsifier {
    /// Keeps everything.
    None,
    /// Keeps the ⌊density·n⌋ largest magnitudes.
    Magnitude {
        /// Share kept.
        density: f64,
    },
    /// Keeps each element with this probability.
    Random {
        /// Probability.
        density: f64,
        /// Its random numbers.
        stream: Stream,
    },
    /// Drops the ⌊gamma·n⌋ largest, keeps the ⌊density·n⌋ next.
    Outliers {
        /// Share kept.
        density: f64,
        /// Share dropped at the top.
        gamma: f64,
    },
    /// Keeps each element with a probability that grows with its rank in the row.
    Della {
        /// Mean probability.
        density: f64,
        /// Half of the spread.
        epsilon: f64,
        /// Its random numbers.
        stream: Stream,
    },
}

impl Sparsifier {
    /// DELLA, whose probabilities must lie within 0 and 1.
    ///
    /// # Errors
    /// If they do not.
    pub fn della(density: f64, epsilon: f64, stream: Stream) -> Result<Self, String> {
        if density == 0.0 {
            return Ok(Self::Random { density, stream });
        }
        if density + epsilon >= 1.0 || density - epsilon <= 0.0 {
            return Err(format!(
                "density {density} with epsilon {epsilon} gives keep probabilities outside of (0, 1); \
                 choose density in ({epsilon}, {}) or a smaller epsilon",
                1.0 - epsilon
            ));
        }
        Ok(Self::Della { density, epsilon, stream })
    }

    /// For sparsifiers by rank: the numbers of largest elements, out of `n`, at which the ranking is cut.
    pub fn keep(&self, n: u64) -> Option<Vec<u64>> {
        let share = |x: f64| (x * n as f64) as u64;
        match self {
            Self::Magnitude { density } => Some(vec![share(*density)]),
            Self::Outliers { density, gamma } => {
                let (target, mut top) = (share(*density), share(*gamma));
                // What does not fit is taken from the outliers, as in mergekit.
                top = top.min(n - target);
                Some(vec![target + top, top])
            }
            _ => None,
        }
    }

    /// The mask for a tensor, given the cuts that [`Self::keep`] asked for.
    pub fn mask(&self, scan: &Scan, cuts: &[Cut], divide_by_probability: bool) -> Mask {
        match self {
            Self::None => Mask::All,
            Self::Magnitude { density } => {
                Mask::Ranked { low: cuts[0], high: Cut::NOTHING, density: *density }
            }
            Self::Outliers { density, .. } => Mask::Ranked { low: cuts[0], high: cuts[1], density: *density },
            Self::Random { density, stream } => Mask::Random { stream: *stream, density: *density },
            Self::Della { density, epsilon, stream } => Mask::Della {
                stream: *stream,
                density: *density,
                epsilon: *epsilon,
                row: match scan.shape[..] {
                    // A tensor without rows has nothing to rank.
                    [rows, _, ..] if rows > 0 => (scan.len() / rows).max(1),
                    _ => scan.len().max(1),
                },
                divide: divide_by_probability,
            },
        }
    }
}

/// The elements of one task vector of one tensor that survive.
#[derive(Debug, Clone)]
pub enum Mask {
    /// All.
    All,
    /// Those that rank between two cuts.
    Ranked {
        /// Keeps what is below this cut (the larger elements) …
        low: Cut,
        /// … but not what is below this one (the outliers).
        high: Cut,
        /// Share that is kept.
        density: f64,
    },
    /// Random ones.
    Random {
        /// Random numbers.
        stream: Stream,
        /// Probability of each.
        density: f64,
    },
    /// Random ones, more likely the larger they are within their row.
    Della {
        /// Random numbers.
        stream: Stream,
        /// Mean probability.
        density: f64,
        /// Half of the spread.
        epsilon: f64,
        /// Length of a row.
        row: usize,
        /// Divide each kept value by its own probability.
        divide: bool,
    },
    /// Those that were kept in an earlier pass.
    Recorded(Arc<Recording>),
}

impl Mask {
    /// Length of the rows that must stay whole.
    pub fn row(&self) -> Option<usize> {
        match self {
            Self::Della { row, .. } => Some(*row),
            Self::Recorded(recording) => recording.row(),
            _ => None,
        }
    }

    /// The factor that makes up for what is dropped, in expectation; DELLA does it element by element.
    pub fn inverse_density(&self) -> f64 {
        match self {
            Self::Ranked { density, .. } | Self::Random { density, .. } if *density > 0.0 => 1.0 / density,
            _ => 1.0,
        }
    }

    /// Writes the surviving elements of operand `i` to `out`; 0 elsewhere.
    pub fn apply(&self, view: &View<'_>, i: usize, scratch: &mut Scratch, out: &mut [f32]) {
        self.apply_scaled(view, i, 1.0, scratch, out);
    }

    /// Writes `c ·` (the surviving elements of operand `i`) to `out`; 0 elsewhere.
    pub fn apply_scaled(&self, view: &View<'_>, i: usize, c: f32, scratch: &mut Scratch, out: &mut [f32]) {
        let (x, start) = (&view.vectors[i][..], view.start as u64);
        match self {
            Self::All => out.copy_from_slice(x),
            Self::Ranked { low, high, .. } => return keep_ranked(x, start, *low, *high, c, out),
            Self::Random { .. } | Self::Recorded(_) => {
                return keep_marked(x, self.marks(view, scratch), c, out);
            }
            Self::Della { stream, density, epsilon, row, divide } => {
                scratch.numbers.resize(x.len(), 0);
                stream.fill(start, &mut scratch.numbers);
                let p = Probability::new(*density, *epsilon, *row);
                let rows = x.chunks(*row).zip(scratch.numbers.chunks(*row)).zip(out.chunks_mut(*row));
                for ((x, numbers), out) in rows {
                    della::keep_row(x, numbers, p, *divide, &mut scratch.della, out);
                }
            }
        }
        if c != 1.0 {
            scale(out, c);
        }
    }

    /// `out += c · (the surviving elements of operand i)`.
    pub fn add_scaled(&self, view: &View<'_>, i: usize, c: f32, scratch: &mut Scratch, out: &mut [f32]) {
        match self {
            Self::All => add_scaled(out, c, &view.vectors[i]),
            Self::Random { .. } | Self::Recorded(_) => {
                add_marked(out, c, &view.vectors[i], self.marks(view, scratch));
            }
            Self::Ranked { .. } | Self::Della { .. } => {
                let mut kept = std::mem::take(&mut scratch.kept);
                kept.resize(view.len(), 0.0);
                self.apply(view, i, scratch, &mut kept);
                add_scaled(out, c, &kept);
                scratch.kept = kept;
            }
        }
    }

    /// One bit per element of the block, of the masks that are independent of the values.
    fn marks<'s>(&'s self, view: &View<'_>, scratch: &'s mut Scratch) -> &'s [u8] {
        match self {
            Self::Random { stream, density } => {
                stream.toss(threshold(*density), view.start as u64, view.len(), &mut scratch.marks);
                &scratch.marks
            }
            Self::Recorded(recording) => recording.marks(view),
            Self::All | Self::Ranked { .. } | Self::Della { .. } => &[],
        }
    }
}

/// Buffers of [`Mask::apply`].
#[derive(Debug, Default)]
pub struct Scratch {
    marks: Vec<u8>,
    numbers: Vec<u32>,
    della: della::Buffers,
    kept: Vec<f32>,
}

/// The grain at which the masks of a tensor can be applied.
pub fn grain_of(masks: &[Mask]) -> Grain {
    masks.iter().find_map(Mask::row).map_or(Grain::Element, Grain::Rows)
}

/// Calls `each` for every block with every masked operand (number, view, surviving elements) and returns its answers in
/// block order, operand by operand. The masks come back as they are to be used in the next pass: recorded, if they are
/// costly, do not change the values, and fit the budget.
///
/// # Errors
/// If an input is not finite.
pub fn record<T: Send>(
    scan: &Scan,
    masks: Vec<Mask>,
    each: impl Fn(usize, &View<'_>, &[f32]) -> T + Sync,
) -> Result<(Vec<Vec<T>>, Vec<Mask>), MergeError> {
    let grain = grain_of(&masks);
    let costly = |mask: &Mask| matches!(mask, Mask::Random { .. } | Mask::Della { divide: false, .. });
    let recorder = Recorder::new(scan, grain, masks.iter().filter(|m| costly(m)).count());
    let parts = scan.map(grain, |view| {
        let (mut scratch, mut kept) = (Scratch::default(), vec![0.0; view.len()]);
        let one = |(i, mask): (usize, &Mask)| {
            mask.apply(view, i, &mut scratch, &mut kept);
            let marks = recorder.as_ref().filter(|_| costly(mask)).map(|_| match mask {
                // Tossed a moment ago.
                Mask::Random { .. } => scratch.marks.as_slice().into(),
                _ => marks_of(&kept),
            });
            (each(i, view, &kept), marks)
        };
        masks.iter().enumerate().map(one).collect::<Vec<_>>()
    })?;
    let mut blocks: Vec<Vec<Marks>> = masks.iter().map(|_| Vec::new()).collect();
    let mut answers = Vec::new();
    for part in parts {
        let (of_block, marks): (Vec<T>, Vec<Option<Marks>>) = part.into_iter().unzip();
        answers.push(of_block);
        blocks.iter_mut().zip(marks).for_each(|(blocks, marks)| blocks.extend(marks));
    }
    let replaced = |(mask, blocks)| match &recorder {
        Some(recorder) if costly(&mask) => Mask::Recorded(recorder.recording(blocks)),
        _ => mask,
    };
    Ok((answers, masks.into_iter().zip(blocks).map(replaced).collect()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scan::fixtures::deltas;

    fn masked(mask: &Mask, x: &[f32]) -> Vec<f32> {
        let mut out = vec![9.0; x.len()];
        let view = View { start: 0, origin: None, vectors: &[x.into()], statistics: &[] };
        mask.apply(&view, 0, &mut Scratch::default(), &mut out);
        out
    }

    #[test]
    fn counts_follow_mergekit_but_for_its_empty_slice() {
        assert_eq!(Sparsifier::Magnitude { density: 0.55 }.keep(10), Some(vec![5]));
        assert_eq!(Sparsifier::Magnitude { density: 0.01 }.keep(10), Some(vec![0]));
        assert_eq!(Sparsifier::Outliers { density: 0.5, gamma: 0.2 }.keep(10), Some(vec![7, 2]));
        assert_eq!(Sparsifier::Outliers { density: 0.5, gamma: 0.01 }.keep(10), Some(vec![5, 0]));
        assert_eq!(Sparsifier::Outliers { density: 0.9, gamma: 0.5 }.keep(10), Some(vec![10, 1]));
    }

    #[test]
    fn della_bounds_are_checked() {
        let stream = Stream::new(0, "", "");
        assert!(Sparsifier::della(0.9, 0.15, stream).unwrap_err().contains("choose density in (0.15, 0.85)"));
        assert!(Sparsifier::della(0.1, 0.15, stream).is_err());
        assert!(Sparsifier::della(0.5, 0.15, stream).is_ok());
    }

    #[test]
    fn random_masks_keep_their_share() {
        let n = 200_000;
        let x = vec![1.0; n];
        let mask = Mask::Random { stream: Stream::new(1, "m", "w"), density: 0.3 };
        let share = masked(&mask, &x).iter().sum::<f32>() / n as f32;
        assert!((share - 0.3).abs() < 0.01, "{share}");
    }

    /// Large elements survive with probability density + ε, small ones with density − ε.
    #[test]
    fn della_prefers_large_elements() {
        let (rows, m) = (2000, 101);
        let x: Vec<f32> = (0..rows * m)
            .map(|i| if i % 2 == 0 { 1.0 } else { -1.0 } * (1 + (i % m * 37) % m) as f32)
            .collect();
        let scan = deltas(&[rows, m], std::slice::from_ref(&x));
        let sparsifier = Sparsifier::della(0.5, 0.2, Stream::new(3, "m", "w")).unwrap();
        let out = masked(&sparsifier.mask(&scan, &[], false), &x);
        let share = |magnitude: f32| {
            let kept = out.iter().filter(|v| v.abs() == magnitude).count();
            kept as f64 / rows as f64
        };
        for (magnitude, expected) in [(1.0, 0.3), (51.0, 0.5), (101.0, 0.7)] {
            // Five standard deviations of a binomial share.
            assert!(
                (share(magnitude) - expected).abs() < 5.0 * (0.25 / rows as f64).sqrt(),
                "{magnitude}: {}",
                share(magnitude)
            );
        }
        let divided = masked(&sparsifier.mask(&scan, &[], true), &x);
        let (sum, before): (f32, f32) =
            (divided.iter().map(|v| v.abs()).sum(), x.iter().map(|v| v.abs()).sum());
        assert!((sum / before - 1.0).abs() < 0.01, "dividing by the probability restores the mean");
    }
}
