//! How the token losses of a micro-batch become one number: the four normalisations of MFTCoder (Liu et al., KDD 2024,
//! arXiv 2311.02303), by its names.
//!
//! With s_b the summed loss of sample b, n_b its number of tokens that are learnt, P the tasks present and w their weights:
//!
//! * case 1: `Σ s / Σ n`, every token counts the same;
//! * case 2: `mean_b s_b/n_b`, every sample counts the same;
//! * case 3: `Σ_{i∈P} w_i (Σ_{b∈i} s_b / Σ_{b∈i} n_b) / Σ_{i∈P} w_i`, tasks count by their weight, tokens within tasks the same;
//! * case 4: as 3, with samples within tasks the same.
//!
//! Deviations: a sample without a token to learn, and a task of such samples only, is absent (the original divides by zero).
//! The original normalises each micro-batch by itself; give the samples of a whole step to do better.

use serde::Deserialize;

use crate::numeric::vector::ratio_or_zero;

/// One of the four.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Normalisation {
    /// By tokens.
    Case1,
    /// By samples.
    Case2,
    /// By tasks, and tokens within them: what all balancers here expect.
    Case3,
    /// By tasks, and samples within them.
    Case4,
}

/// A sample of a batch.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sample {
    /// Number of its task.
    pub task: usize,
    /// Sum of its token losses, masked tokens not counted.
    pub sum: f64,
    /// How many tokens that are.
    pub count: u64,
}

/// A loss and how it depends on the samples.
#[derive(Debug, Clone, PartialEq)]
pub struct Normalised {
    /// `Σ_b factor_b · s_b`.
    pub loss: f64,
    /// The derivative of the loss by each sample's sum.
    pub factors: Vec<f64>,
}

/// The loss of a batch. `weights` has one for each task; those of absent tasks do not count. Without any token the loss is 0.
pub fn normalise(how: Normalisation, samples: &[Sample], weights: &[f64]) -> Normalised {
    let totals = Totals::of(samples, weights.len());
    let factor = |sample: &Sample| if sample.count == 0 { 0.0 } else { totals.factor(how, sample, weights) };
    let factors: Vec<f64> = samples.iter().map(factor).collect();
    // A sample that counts nothing must not spoil the loss, whatever its sum.
    let terms = samples.iter().zip(&factors).filter(|(_, factor)| **factor != 0.0);
    let loss = terms.map(|(sample, factor)| sample.sum * factor).sum();
    Normalised { loss, factors }
}

/// Tokens and samples (that have tokens), of all and of each task.
struct Totals {
    tokens: Vec<f64>,
    samples: Vec<f64>,
}

impl Totals {
    fn of(samples: &[Sample], tasks: usize) -> Self {
        let mut totals = Self { tokens: vec![0.0; tasks], samples: vec![0.0; tasks] };
        for sample in samples.iter().filter(|s| s.count > 0 && s.task < tasks) {
            totals.tokens[sample.task] += sample.count as f64;
            totals.samples[sample.task] += 1.0;
        }
        totals
    }

    fn factor(&self, how: Normalisation, sample: &Sample, weights: &[f64]) -> f64 {
        let (task, count) = (sample.task, sample.count as f64);
        // A task without a weight has no part in the batch.
        let Some(weight) = weights.get(task) else { return 0.0 };
        let present = weights.iter().zip(&self.tokens).filter(|(_, tokens)| **tokens > 0.0);
        let share = ratio_or_zero(*weight, present.map(|(weight, _)| weight).sum());
        match how {
            Normalisation::Case1 => 1.0 / self.tokens.iter().sum::<f64>(),
            Normalisation::Case2 => 1.0 / (self.samples.iter().sum::<f64>() * count),
            Normalisation::Case3 => share / self.tokens[task],
            Normalisation::Case4 => share / (self.samples[task] * count),
        }
    }
}
