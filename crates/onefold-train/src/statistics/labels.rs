//! What the model's own distribution asks to be learnt: labels with their probabilities, or draws of them.

use onefold_runtime::Stream;

use crate::config::Problem;

/// A way to label all answers of a batch. The Fisher information is the sum of the squares of the gradients of several; the
/// weights are in the gradients, and so as roots.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Labelling {
    /// A class for each answer, below 0 if the answer does not count.
    pub(super) classes: Vec<i32>,
    /// For problems that learn numbers: one per score.
    pub(super) values: Vec<f32>,
    /// Of each answer.
    pub(super) weights: Vec<f32>,
}

/// The scores of answers and which of them count.
#[derive(Debug, Clone, Copy)]
pub(super) struct Scores<'a> {
    /// `[answers, classes]`; rows of answers that do not count may be anything.
    pub(super) scores: &'a [f32],
    pub(super) classes: usize,
    pub(super) counts: &'a [bool],
}

impl<'a> Scores<'a> {
    /// Scores of each answer that counts.
    fn rows(self) -> impl Iterator<Item = Option<&'a [f32]>> {
        self.scores.chunks_exact(self.classes).zip(self.counts).map(|(row, counts)| counts.then_some(row))
    }

    /// softmax of each answer that counts.
    pub(super) fn probabilities(self) -> Vec<Option<Vec<f64>>> {
        self.rows().map(|row| row.map(softmax)).collect()
    }

    /// One labelling per class: all answers have that class, each with the root of its probability as weight.
    ///
    /// With one answer, the sum of squares is `Σ_y p(y)·(∂ln p(y))²`. With several, whose gradients then add up before they
    /// are squared, the sum of the *gradients* of all labellings is that of `Σ√p·ln p`, with the roots held fixed.
    pub(super) fn every_class(self) -> Vec<Labelling> {
        let probabilities = self.probabilities();
        let of = |class: usize| {
            let answer = |p: &Option<Vec<f64>>| match p {
                Some(p) => (class as i32, p[class].sqrt() as f32),
                None => (-1, 0.0),
            };
            let (classes, weights) = probabilities.iter().map(answer).unzip();
            Labelling { classes, values: Vec::new(), weights }
        };
        (0..self.classes).map(of).collect()
    }

    /// A labelling drawn from the model's distribution: the label of answer i is made of number i of the stream.
    pub(super) fn drawn(self, stream: &Stream, weight: f32) -> Labelling {
        let mut numbers = vec![0u32; self.counts.len()];
        stream.fill(0, &mut numbers);
        let answer = |(p, number): (Option<Vec<f64>>, u32)| match p {
            Some(p) => (draw(&p, number) as i32, weight),
            None => (-1, 0.0),
        };
        let (classes, weights) = self.probabilities().into_iter().zip(numbers).map(answer).unzip();
        Labelling { classes, values: Vec::new(), weights }
    }

    /// Where numbers are learnt: for each score, alone, the labelling whose gradient is the score's, times the root of the
    /// variance of its residual. Their squares add up to `Σ_o var_o·(∂z_o)²`, which is the Fisher information of independent
    /// coins (`var = σ(1 − σ)`) and of normal distributions of variance 1.
    pub(super) fn every_score(self, problem: Problem) -> Vec<Labelling> {
        (0..self.classes).map(|score| self.residuals(problem, |o| f64::from(u8::from(o == score)))).collect()
    }

    /// The same with signs that are drawn: its square is the sum of all, plus cross terms of mean 0.
    pub(super) fn drawn_scores(self, problem: Problem, stream: &Stream, weight: f32) -> Labelling {
        let mut numbers = vec![0u32; self.classes];
        stream.fill(0, &mut numbers);
        let mut labelling = self.residuals(problem, |o| if numbers[o] >> 31 == 1 { 1.0 } else { -1.0 });
        labelling.weights.iter_mut().for_each(|w| *w *= weight);
        labelling
    }

    /// Numbers to be learnt from which the scores differ by `signs` times their deviation.
    fn residuals(self, problem: Problem, signs: impl Fn(usize) -> f64) -> Labelling {
        let value = |(o, z): (usize, &f32)| {
            let z = f64::from(*z);
            match problem {
                Problem::MultiLabel => {
                    let p = 1.0 / (1.0 + (-z).exp());
                    (p - signs(o) * (p * (1.0 - p)).sqrt()) as f32
                }
                Problem::SingleLabel | Problem::Regression => (z - signs(o)) as f32,
            }
        };
        let values = self.rows().flat_map(|row| match row {
            Some(row) => row.iter().enumerate().map(value).collect(),
            None => vec![0.0; self.classes],
        });
        let classes = self.counts.iter().map(|counts| if *counts { 0 } else { -1 }).collect();
        // The losses are means over the scores, and that of a square has a slope of twice the residual.
        let weight = match problem {
            Problem::MultiLabel => self.classes as f32,
            Problem::SingleLabel | Problem::Regression => self.classes as f32 / 2.0,
        };
        Labelling { classes, values: values.collect(), weights: vec![weight; self.counts.len()] }
    }
}

fn softmax(row: &[f32]) -> Vec<f64> {
    let most = row.iter().fold(f32::NEG_INFINITY, |most, z| most.max(*z));
    let mut p: Vec<f64> = row.iter().map(|z| f64::from(z - most).exp()).collect();
    let sum: f64 = p.iter().sum();
    p.iter_mut().for_each(|p| *p /= sum);
    p
}

/// The class at a place between 0 and 1, given by a number of 32 bits.
fn draw(p: &[f64], number: u32) -> usize {
    let place = (f64::from(number) + 0.5) / (f64::from(u32::MAX) + 1.0);
    let mut sum = 0.0;
    let found = p.iter().position(|p| {
        sum += p;
        place < sum
    });
    // Rounding may leave the sum below the place: the last class that is possible at all.
    found.or_else(|| p.iter().rposition(|p| *p > 0.0)).unwrap_or(0)
}
