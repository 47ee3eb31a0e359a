//! Representation Surgery (Yang et al., ICML 2024, arXiv 2402.02705): a small correction of a merged model's features towards
//! those of an expert.
//!
//! `ẑ = z − W_up·ReLU(W_down·z)` (equation 3) on the features of the last layer, with `W_down` [rank, width] and `W_up`
//! [width, rank]; rank 16 in the paper. Of a task's inputs, without labels, the features of the merged model and of the task's
//! expert are given; minimised is the mean of `|ẑ − z_expert|` over samples and elements (equation 4), by Adam with a learning
//! rate of 1e-3, 1000 steps of 16 samples. `W_up` begins with zeros, so that nothing is changed at first, and `W_down` evenly
//! between ±1/√width, PyTorch's Kaiming start of a linear map.
//!
//! One correction belongs to one task: whoever runs the merged model has to know the task. All in f64, whose cost is nothing
//! beside that of the features; rounded to f32 where it is saved or applied. The subgradient of |x| and of ReLU at 0 is 0.

use std::collections::BTreeMap;
use std::path::Path;

use onefold_checkpoint::Tensor;
use onefold_engine::Buffer;
use onefold_runtime::Stream;

use super::error::StatisticsError;
use super::file::{Kind, Statistics, Stored, save};
use crate::data::shuffle::permutation;

/// How a correction is learnt.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SurgerySettings {
    /// Inner width.
    pub rank: usize,
    /// Steps.
    pub steps: usize,
    /// Samples of a step; all, if there are fewer.
    pub batch: usize,
    /// Adam's step size.
    pub learning_rate: f64,
    /// Seed of the start and of the order of samples.
    pub seed: u64,
}

impl Default for SurgerySettings {
    /// The paper's.
    fn default() -> Self {
        Self { rank: 16, steps: 1000, batch: 16, learning_rate: 1e-3, seed: 0 }
    }
}

/// Features that do not fit.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SurgeryError {
    /// Not rows of the width, or not as many.
    #[error(
        "surgery: {found} numbers of {what}, expected {expected}; take both from the same inputs and the same layer"
    )]
    Size {
        /// Of what.
        what: &'static str,
        /// How many.
        found: usize,
        /// What was expected.
        expected: String,
    },
    /// NaN or an infinity.
    #[error("surgery: number {at} of {what} is not finite; check that model")]
    NotFinite {
        /// Of what.
        what: &'static str,
        /// Which.
        at: usize,
    },
    /// No width, no rank.
    #[error("surgery: width {width} and rank {rank} have to be at least 1")]
    Empty {
        /// Of the features.
        width: usize,
        /// Of the correction.
        rank: usize,
    },
}

/// The correction of one task.
#[derive(Debug, Clone, PartialEq)]
pub struct Surgery {
    width: usize,
    rank: usize,
    /// [rank, width]
    down: Vec<f64>,
    /// [width, rank]
    up: Vec<f64>,
}

/// Features of the same inputs by the merged model and by the expert, [samples, width].
type Pair<'a> = (&'a [f32], &'a [f32]);

impl Surgery {
    /// One that changes nothing yet.
    ///
    /// # Errors
    /// If there is no width or no rank.
    pub fn new(width: usize, rank: usize, seed: u64) -> Result<Self, SurgeryError> {
        let size = width.checked_mul(rank).filter(|size| *size > 0);
        let Some(size) = size else { return Err(SurgeryError::Empty { width, rank }) };
        let mut numbers = vec![0u32; size];
        Stream::new(seed, "surgery", "down").fill(0, &mut numbers);
        let bound = 1.0 / (width as f64).sqrt();
        let down =
            numbers.iter().map(|n| bound * (2.0 * f64::from(*n) / f64::from(u32::MAX) - 1.0)).collect();
        Ok(Self { width, rank, down, up: vec![0.0; size] })
    }

    /// Width of the features.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Inner width.
    pub fn rank(&self) -> usize {
        self.rank
    }

    /// Learns a correction of `merged` towards `expert`, both [samples, width]; returns it with the loss before each step.
    ///
    /// # Errors
    /// If the features do not fit each other or the width, or are not finite.
    pub fn learn(
        merged: &[f32],
        expert: &[f32],
        width: usize,
        settings: &SurgerySettings,
    ) -> Result<(Self, Vec<f64>), SurgeryError> {
        let mut surgery = Self::new(width, settings.rank, settings.seed)?;
        surgery.check((merged, expert))?;
        let samples = merged.len() / width;
        let size = settings.batch.clamp(1, samples);
        let (mut adam, mut trace) = (Adam::new(settings.learning_rate, 2 * surgery.up.len()), Vec::new());
        let mut rows = Rows { samples, seed: settings.seed, epoch: 0, left: Vec::new() };
        for _ in 0..settings.steps {
            let (loss, slope) = surgery.slope((merged, expert), &rows.next(size));
            trace.push(loss);
            let moves = adam.step(&slope);
            surgery.down.iter_mut().chain(&mut surgery.up).zip(moves).for_each(|(w, by)| *w -= by);
        }
        Ok((surgery, trace))
    }

    /// ẑ of features [samples, width].
    ///
    /// # Errors
    /// If they are not of the width.
    pub fn apply(&self, features: &[f32]) -> Result<Vec<f32>, SurgeryError> {
        self.check_width("features", features)?;
        let mut out = Vec::with_capacity(features.len());
        for z in features.chunks_exact(self.width) {
            let hidden = self.hidden(z);
            out.extend((0..self.width).map(|i| self.corrected(z, &hidden, i) as f32));
        }
        Ok(out)
    }

    /// Mean of |ẑ − z_expert| over samples and elements.
    ///
    /// # Errors
    /// If the features do not fit each other or the width, or are not finite.
    pub fn loss(&self, merged: &[f32], expert: &[f32]) -> Result<f64, SurgeryError> {
        self.check((merged, expert))?;
        let rows: Vec<usize> = (0..merged.len() / self.width).collect();
        Ok(self.slope((merged, expert), &rows).0)
    }

    fn check(&self, (merged, expert): Pair<'_>) -> Result<(), SurgeryError> {
        self.check_width("the merged model's features", merged)?;
        if expert.len() != merged.len() {
            let (what, found) = ("the expert's features", expert.len());
            return Err(SurgeryError::Size { what, found, expected: merged.len().to_string() });
        }
        for (what, features) in [("the merged model's features", merged), ("the expert's features", expert)] {
            if let Some(at) = features.iter().position(|v| !v.is_finite()) {
                return Err(SurgeryError::NotFinite { what, at });
            }
        }
        Ok(())
    }

    fn check_width(&self, what: &'static str, features: &[f32]) -> Result<(), SurgeryError> {
        if !features.is_empty() && features.len().is_multiple_of(self.width) {
            return Ok(());
        }
        let expected = format!("rows of {}", self.width);
        Err(SurgeryError::Size { what, found: features.len(), expected })
    }

    /// ReLU(W_down·z)
    fn hidden(&self, z: &[f32]) -> Vec<f64> {
        let dot = |row: &[f64]| row.iter().zip(z).map(|(w, z)| w * f64::from(*z)).sum::<f64>();
        self.down.chunks_exact(self.width).map(|row| dot(row).max(0.0)).collect()
    }

    /// Element i of ẑ.
    fn corrected(&self, z: &[f32], hidden: &[f64], i: usize) -> f64 {
        let row = &self.up[i * self.rank..(i + 1) * self.rank];
        f64::from(z[i]) - row.iter().zip(hidden).map(|(w, h)| w * h).sum::<f64>()
    }

    /// The loss over some rows, and its gradient: that of W_down, then that of W_up.
    fn slope(&self, (merged, expert): Pair<'_>, rows: &[usize]) -> (f64, Vec<f64>) {
        let Self { width, rank, .. } = *self;
        let share = 1.0 / (rows.len() * width) as f64;
        let (mut loss, mut slope) = (0.0, vec![0.0; 2 * width * rank]);
        let (down, up) = slope.split_at_mut(width * rank);
        for row in rows {
            let here = row * width..(row + 1) * width;
            let (z, wanted) = (&merged[here.clone()], &expert[here]);
            let hidden = self.hidden(z);
            let mut d_hidden = vec![0.0; rank];
            for (i, wanted) in wanted.iter().enumerate() {
                let error = self.corrected(z, &hidden, i) - f64::from(*wanted);
                loss += share * error.abs();
                // ∂ẑ/∂W_up is −hidden.
                let d = if error == 0.0 { 0.0 } else { -share * error.signum() };
                for r in 0..rank {
                    up[i * rank + r] += d * hidden[r];
                    d_hidden[r] += d * self.up[i * rank + r];
                }
            }
            for (r, d) in d_hidden.iter().enumerate().filter(|(r, _)| hidden[*r] > 0.0) {
                let row = &mut down[r * width..(r + 1) * width];
                row.iter_mut().zip(z).for_each(|(w, z)| *w += d * f64::from(*z));
            }
        }
        (loss, slope)
    }

    /// Writes it to the directory `out`, as [`super::save`] does; `options` say what belongs to it, such as the task.
    ///
    /// # Errors
    /// As [`super::save`].
    pub fn save(
        &self,
        out: &Path,
        examples: u64,
        options: &BTreeMap<String, String>,
        replace: bool,
    ) -> Result<(), StatisticsError> {
        let single = |values: &[f64]| Buffer::from(values.iter().map(|v| *v as f32).collect::<Vec<_>>());
        let (down, up) = (single(&self.down), single(&self.up));
        let stored = |name: &str, shape, values| {
            let names = vec![name.to_owned()];
            Stored { names, transposed: false, shape, values }
        };
        let tensors =
            [stored(DOWN, vec![self.rank, self.width], &down), stored(UP, vec![self.width, self.rank], &up)];
        save(out, Kind::Surgery, examples, options, &tensors, replace)
    }

    /// Reads what [`Surgery::save`] wrote.
    ///
    /// # Errors
    /// If it is not there, or damaged.
    pub fn open(path: &Path) -> Result<Self, StatisticsError> {
        let tensors = Statistics::open(path)?.of_kind(Kind::Surgery, path)?.tensors;
        let refused =
            |message: &str| StatisticsError::File { path: path.to_owned(), message: message.to_owned() };
        let (Some(down), Some(up)) = (tensors.get(DOWN), tensors.get(UP)) else {
            return Err(refused("has not both maps of a surgery; save it again"));
        };
        let (&[rank, width], &[a, b]) = (&down.shape[..], &up.shape[..]) else {
            return Err(refused("the maps of a surgery are no matrices; save it again"));
        };
        if (a, b) != (width, rank) || width * rank == 0 {
            return Err(refused("the maps of a surgery do not fit each other; save it again"));
        }
        let numbers = |tensor: &Tensor| -> Result<Vec<f64>, StatisticsError> {
            let mut values = vec![0.0; tensor.len()];
            tensor.read(0, &mut values);
            let finite = values.iter().all(|v: &f32| v.is_finite());
            let all = values.into_iter().map(f64::from).collect();
            if finite { Ok(all) } else { Err(refused("holds NaN or infinities; learn the surgery again")) }
        };
        Ok(Self { width, rank, down: numbers(down)?, up: numbers(up)? })
    }
}

const DOWN: &str = "surgery.down";
const UP: &str = "surgery.up";

/// Samples in an order that is drawn for each time they are all seen.
struct Rows {
    samples: usize,
    seed: u64,
    epoch: u64,
    left: Vec<u32>,
}

impl Rows {
    /// The next `size` of them; the last of an epoch may be fewer.
    fn next(&mut self, size: usize) -> Vec<usize> {
        if self.left.is_empty() {
            self.left = permutation(self.samples, self.seed, "surgery", &self.epoch.to_string());
            self.epoch += 1;
        }
        let size = size.min(self.left.len());
        self.left.split_off(self.left.len() - size).into_iter().map(|row| row as usize).collect()
    }
}

/// Adam (Kingma & Ba, ICLR 2015) with PyTorch's defaults.
struct Adam {
    rate: f64,
    step: i32,
    means: Vec<f64>,
    squares: Vec<f64>,
}

impl Adam {
    fn new(rate: f64, len: usize) -> Self {
        Self { rate, step: 0, means: vec![0.0; len], squares: vec![0.0; len] }
    }

    /// What is to be subtracted.
    fn step<'a>(&'a mut self, slope: &'a [f64]) -> impl Iterator<Item = f64> + 'a {
        const BETAS: [f64; 2] = [0.9, 0.999];
        const EPSILON: f64 = 1e-8;
        self.step += 1;
        let rests = BETAS.map(|beta| 1.0 - beta.powi(self.step));
        let rate = self.rate;
        self.means.iter_mut().zip(&mut self.squares).zip(slope).map(move |((mean, square), g)| {
            *mean += (1.0 - BETAS[0]) * (g - *mean);
            *square += (1.0 - BETAS[1]) * (g * g - *square);
            rate * (*mean / rests[0]) / ((*square / rests[1]).sqrt() + EPSILON)
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;

    fn flat(value: &Value) -> Vec<f64> {
        match value {
            Value::Array(items) => items.iter().flat_map(flat).collect(),
            number => vec![number.as_f64().unwrap()],
        }
    }

    fn single(values: &[f64]) -> Vec<f32> {
        values.iter().map(|v| *v as f32).collect()
    }

    fn waves(n: usize, speed: f64) -> Vec<f32> {
        (0..n).map(|i| (i as f64 * speed + 0.3).sin() as f32).collect()
    }

    #[test]
    fn golden() {
        let golden: Value =
            serde_json::from_str(include_str!("../../../../testdata/related/statistics.json")).unwrap();
        let golden = &golden["surgery"];
        let of = |key: &str| flat(&golden[key]);
        let surgery = Surgery { width: 3, rank: 2, down: of("W_down"), up: of("W_up") };
        let (merged, expert) = (single(&of("Z")), single(&of("Z_expert")));
        for (found, expected) in surgery.apply(&merged).unwrap().iter().zip(of("z_corrected")) {
            assert!((f64::from(*found) - expected).abs() < 1e-7, "{found} {expected}");
        }
        let l1 = golden["l1_mean"].as_f64().unwrap();
        assert!((surgery.loss(&merged, &expert).unwrap() - l1).abs() < 1e-7);
        let fresh = Surgery::new(3, 2, 0).unwrap();
        let before = golden["l1_mean_before"].as_f64().unwrap();
        assert!((fresh.loss(&merged, &expert).unwrap() - before).abs() < 1e-7);
        assert_eq!(fresh.apply(&merged).unwrap(), merged);
    }

    #[test]
    fn a_correction_that_exists_is_found() {
        let (width, samples) = (6, 200);
        let mut truth = Surgery::new(width, 2, 5).unwrap();
        truth.up = waves(12, 1.7).iter().map(|v| 0.5 * f64::from(*v)).collect();
        let merged = waves(width * samples, 0.77);
        let expert = truth.apply(&merged).unwrap();
        let settings = SurgerySettings { rank: 8, learning_rate: 1e-2, ..SurgerySettings::default() };
        let (learnt, trace) = Surgery::learn(&merged, &expert, width, &settings).unwrap();
        let (before, after) = (Surgery::new(width, 8, 0).unwrap(), learnt.loss(&merged, &expert).unwrap());
        let before = before.loss(&merged, &expert).unwrap();
        assert!(after < 0.1 * before, "{before} {after}");
        assert_eq!(trace.len(), 1000);
        let again = Surgery::learn(&merged, &expert, width, &settings).unwrap();
        assert_eq!(again, (learnt, trace));
    }

    #[test]
    fn saved_and_opened() {
        let dir = tempfile::tempdir().unwrap();
        let mut surgery = Surgery::new(4, 3, 1).unwrap();
        for weight in surgery.down.iter_mut().chain(&mut surgery.up) {
            *weight = f64::from(*weight as f32);
        }
        let (out, options) = (dir.path().join("code"), BTreeMap::from([("task".into(), "code".into())]));
        surgery.save(&out, 40, &options, false).unwrap();
        assert_eq!(Surgery::open(&out).unwrap(), surgery);
        let statistics = Statistics::open(&out.join("statistics.safetensors")).unwrap();
        assert_eq!((statistics.examples, &statistics.options), (40, &options));
        let error = statistics.of_kind(Kind::Gram, &out).unwrap_err().to_string();
        assert!(error.contains("kind `surgery`, expected `gram`"), "{error}");
        assert!(surgery.save(&out, 40, &options, false).is_err());
        assert!(Surgery::open(&dir.path().join("none")).is_err());
    }

    #[test]
    fn features_that_do_not_fit_are_refused() {
        let settings = SurgerySettings::default();
        let refused = |merged: &[f32], expert: &[f32], width: usize, message: &str| {
            let error = Surgery::learn(merged, expert, width, &settings).unwrap_err().to_string();
            assert!(error.contains(message), "{error}");
        };
        refused(&[1.0; 5], &[1.0; 5], 2, "5 numbers of the merged model's features, expected rows of 2");
        refused(&[], &[], 2, "0 numbers");
        refused(&[1.0; 4], &[1.0; 6], 2, "6 numbers of the expert's features, expected 4");
        refused(&[1.0; 4], &[1.0, f32::NAN, 1.0, 1.0], 2, "number 1 of the expert's features");
        refused(&[1.0; 4], &[1.0; 4], 0, "width 0 and rank 16");
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 50, failure_persistence: None, ..ProptestConfig::default() })]

        /// Finite differences, away from the kinks by a random start.
        #[test]
        fn the_slope_is_that_of_the_loss(width in 1usize..5, rank in 1usize..4, seed in 0u64..1000) {
            let mut surgery = Surgery::new(width, rank, seed).unwrap();
            surgery.up = Surgery::new(width, rank, seed + 1).unwrap().down;
            let samples = 5;
            let pair = (&waves(width * samples, 1.13)[..], &waves(width * samples, 2.41)[..]);
            let rows: Vec<usize> = (0..samples).collect();
            let (loss, slope) = surgery.slope(pair, &rows);
            prop_assert_eq!(loss, surgery.loss(pair.0, pair.1).unwrap());
            let step = 1e-7;
            for (at, slope) in slope.iter().enumerate() {
                let moved = |by: f64| {
                    let mut moved = surgery.clone();
                    let weight = moved.down.iter_mut().chain(&mut moved.up).nth(at).unwrap();
                    *weight += by;
                    moved.slope(pair, &rows).0
                };
                let difference = (moved(step) - moved(-step)) / (2.0 * step);
                prop_assert!((difference - slope).abs() < 1e-5, "{at}: {difference} {slope}");
            }
        }
    }
}
