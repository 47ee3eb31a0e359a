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

mod learn;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::path::Path;

use onefold_checkpoint::Tensor;
use onefold_engine::Buffer;
use onefold_runtime::Stream;

use super::error::StatisticsError;
use super::file::{Kind, Statistics, Stored, save};
pub use learn::Learning;

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
        let mut learning = Learning::new((merged, expert), width, settings)?;
        let trace = (0..settings.steps).map(|_| learning.step()).collect();
        Ok((learning.finish(), trace))
    }

    /// ẑ of features [samples, width].
    ///
    /// # Errors
    /// If they are not of the width.
    pub fn apply(&self, features: &[f32]) -> Result<Vec<f32>, SurgeryError> {
        self.check_width("features", features)?;
        let mut out = features.to_vec();
        self.correct(&mut out);
        Ok(out)
    }

    /// Corrects features [samples, width] where they stand; a rest that is no whole row stays as it is.
    pub fn correct(&self, features: &mut [f32]) {
        for z in features.chunks_exact_mut(self.width) {
            let hidden = self.hidden(z);
            // Nothing of a row is read once it is corrected.
            (0..self.width).for_each(|i| z[i] = self.corrected(z, &hidden, i) as f32);
        }
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
