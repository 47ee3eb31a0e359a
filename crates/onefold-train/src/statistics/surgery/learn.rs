//! Learning a correction, step by step.

use super::{Pair, Surgery, SurgeryError, SurgerySettings};
use crate::data::shuffle::permutation;

/// A correction that is being learnt.
#[derive(Debug)]
pub struct Learning<'a> {
    features: Pair<'a>,
    surgery: Surgery,
    adam: Adam,
    rows: Rows,
    batch: usize,
}

impl<'a> Learning<'a> {
    /// Begins, with features of the same inputs by the merged model and by the expert, both [samples, width].
    ///
    /// # Errors
    /// If they do not fit each other or the width, or are not finite.
    pub fn new(
        features: (&'a [f32], &'a [f32]),
        width: usize,
        settings: &SurgerySettings,
    ) -> Result<Self, SurgeryError> {
        let surgery = Surgery::new(width, settings.rank, settings.seed)?;
        surgery.check(features)?;
        let samples = features.0.len() / width;
        let adam = Adam::new(settings.learning_rate, 2 * surgery.up.len());
        let rows = Rows { samples, seed: settings.seed, epoch: 0, left: Vec::new() };
        Ok(Self { features, surgery, adam, rows, batch: settings.batch.clamp(1, samples) })
    }

    /// One step; the loss of its samples before it.
    pub fn step(&mut self) -> f64 {
        let Self { features, surgery, adam, rows, batch } = self;
        let (loss, slope) = surgery.slope(*features, &rows.next(*batch));
        let moves = adam.step(&slope);
        surgery.down.iter_mut().chain(&mut surgery.up).zip(moves).for_each(|(w, by)| *w -= by);
        loss
    }

    /// What was learnt.
    pub fn finish(self) -> Surgery {
        self.surgery
    }
}

/// Samples in an order that is drawn for each time they are all seen.
#[derive(Debug)]
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
#[derive(Debug)]
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
