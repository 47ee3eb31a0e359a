//! Which elements of a task vector survive.
//!
//! A [`Sparsifier`] is a rule with its parameters; for a tensor it becomes a [`Mask`], which is local to an element (or, for
//! DELLA, to a row) and takes no memory: random masks are recomputed from their counter-based stream.

use onefold_runtime::Stream;
use onefold_runtime::random::threshold;

use crate::kernels::mix::{keep_random, keep_ranked};
use crate::order::Cut;
use crate::scan::Scan;

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
#[derive(Debug, Clone, PartialEq)]
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
}

impl Mask {
    /// Length of the rows that must stay whole.
    pub fn row(&self) -> Option<usize> {
        if let Self::Della { row, .. } = self { Some(*row) } else { None }
    }

    /// The factor that makes up for what is dropped, in expectation; DELLA does it element by element.
    pub fn inverse_density(&self) -> f64 {
        match self {
            Self::Ranked { density, .. } | Self::Random { density, .. } if *density > 0.0 => 1.0 / density,
            _ => 1.0,
        }
    }

    /// Writes the surviving elements of `x`, which begins at position `start` of the tensor, to `out`; 0 elsewhere.
    pub fn apply(
        &self,
        x: &[f32],
        start: usize,
        random: &mut Vec<u32>,
        order: &mut Vec<u64>,
        out: &mut [f32],
    ) {
        match self {
            Self::All => out.copy_from_slice(x),
            Self::Ranked { low, high, .. } => keep_ranked(x, start as u64, *low, *high, out),
            Self::Random { stream, density } => {
                random.resize(x.len(), 0);
                stream.fill(start as u64, random);
                keep_random(x, random, threshold(*density), out);
            }
            Self::Della { stream, density, epsilon, row, divide } => {
                random.resize(x.len(), 0);
                stream.fill(start as u64, random);
                let rows = x.chunks(*row).zip(random.chunks(*row)).zip(out.chunks_mut(*row));
                for ((x, random), out) in rows {
                    della_row(x, random, *density, *epsilon, *divide, order, out);
                }
            }
        }
    }
}

/// One row of DELLA: keep probability `density − ε + 2ε·r/(m−1)` for the element of rank r (0 = smallest of m).
fn della_row(
    x: &[f32],
    random: &[u32],
    density: f64,
    epsilon: f64,
    divide: bool,
    order: &mut Vec<u64>,
    out: &mut [f32],
) {
    rank_row(x, order);
    let step = 2.0 * epsilon / (x.len().max(2) - 1) as f64;
    for (rank, key) in order[..x.len()].iter().enumerate() {
        let i = (key & 0xffff_ffff) as usize;
        // A row of one element has no rank: it gets the mean probability.
        let r = if x.len() == 1 { epsilon } else { rank as f64 * step };
        let probability = density - epsilon + r;
        let kept = f64::from(random[i]) < probability * 4_294_967_296.0;
        let value = if divide { (f64::from(x[i]) / probability) as f32 } else { x[i] };
        out[i] = if kept { value } else { 0.0 };
    }
}

/// Buckets of a row: about one element each.
const BUCKETS: usize = 1024;

/// Sorts a row by magnitude, equal ones by index: `order[r]` is `bits << 32 | index` of the element of rank r. Elements are
/// first thrown into buckets of equal width, which leaves little to sort in each.
fn rank_row(x: &[f32], order: &mut Vec<u64>) {
    let largest = x.iter().fold(0.0f32, |m, v| m.max(v.abs()));
    let key = |i: usize, v: f32| u64::from(v.to_bits() & 0x7fff_ffff) << 32 | i as u64;
    let scale = (BUCKETS - 1) as f32 / largest;
    order.clear();
    if x.len() < 64 || !scale.is_finite() {
        order.extend(x.iter().enumerate().map(|(i, v)| key(i, *v)));
        order.sort_unstable();
        return;
    }
    let bucket = |v: f32| ((v.abs() * scale) as usize).min(BUCKETS - 1);
    let mut ends = [0u32; BUCKETS + 1];
    for v in x {
        ends[bucket(*v) + 1] += 1;
    }
    for b in 0..BUCKETS {
        ends[b + 1] += ends[b];
    }
    order.resize(x.len(), 0);
    // `ends[b]` walks from the start of bucket b to its end.
    for (i, v) in x.iter().enumerate() {
        let place = &mut ends[bucket(*v)];
        order[*place as usize] = key(i, *v);
        *place += 1;
    }
    let mut start = 0;
    for end in &ends[..BUCKETS] {
        let part = &mut order[start..*end as usize];
        start = *end as usize;
        // Zeros, often many, stand in the order of their indices already.
        if part.len() > 1 && part.iter().any(|key| key >> 32 != 0) {
            part.sort_unstable();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scan::fixtures::deltas;

    fn masked(mask: &Mask, x: &[f32]) -> Vec<f32> {
        let mut out = vec![9.0; x.len()];
        mask.apply(x, 0, &mut Vec::new(), &mut Vec::new(), &mut out);
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
    fn rows_are_ranked_by_magnitude_then_index() {
        let wave = |i: u32| f32::sin(i as f32 * 1.7) * if i.is_multiple_of(7) { 0.0 } else { 1.0 };
        let rows = [
            (0..1000).map(wave).collect::<Vec<f32>>(),
            (0..500).map(|i| if i == 3 { 1e30 } else { wave(i) }).collect(),
            vec![-2.0; 300],
            vec![0.0; 100],
            vec![1e-45; 70],
            vec![3.0, -1.0, 2.0],
        ];
        for row in rows {
            let mut order = Vec::new();
            rank_row(&row, &mut order);
            let mut expected: Vec<usize> = (0..row.len()).collect();
            expected.sort_by(|a, b| row[*a].abs().total_cmp(&row[*b].abs()).then(a.cmp(b)));
            assert_eq!(order.iter().map(|k| (k & 0xffff_ffff) as usize).collect::<Vec<_>>(), expected);
        }
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
