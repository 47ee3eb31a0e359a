//! What CoBa remembers: ratios of the last samples, recorded slopes, the latest decision.

use serde::{Deserialize, Serialize};
use std::collections::VecDeque;

use super::scores::Scores;
use crate::numeric::slope::least_squares;
use crate::rule::{Seen, lengths};

/// Everything, as it is saved.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Memory {
    /// Number of tasks.
    pub tasks: usize,
    /// Validation losses before training.
    pub initial: Option<Vec<f64>>,
    /// Samples taken so far.
    pub samples: u64,
    /// The last N of them.
    pub history: VecDeque<Sample>,
    /// Slopes of the tasks at the last samples.
    pub recorded: VecDeque<Vec<f64>>,
    /// α_max since the warm-up.
    pub steepest: VecDeque<f64>,
    /// The latest decision.
    pub scores: Option<Scores>,
}

/// The loss ratios of one validation batch.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sample {
    /// Steps made before it.
    pub steps: u64,
    /// ℓ̄ of each task, none if the batch has no rows of it.
    pub ratios: Vec<Option<f64>>,
}

impl crate::rule::Memory for Memory {
    fn check(&self, tasks: usize) -> Result<(), String> {
        lengths(tasks, &[self.tasks])?;
        lengths(tasks, &self.initial.iter().map(Vec::len).collect::<Vec<_>>())?;
        lengths(tasks, &self.history.iter().map(|sample| sample.ratios.len()).collect::<Vec<_>>())?;
        lengths(tasks, &self.recorded.iter().map(Vec::len).collect::<Vec<_>>())?;
        let scores = self.scores.iter().flat_map(|s| [s.rcs.len(), s.acs.len(), s.weights.len()]);
        lengths(tasks, &scores.collect::<Vec<_>>())
    }
}

impl Memory {
    /// Before the first sample.
    pub fn new(tasks: usize) -> Self {
        Self {
            tasks,
            initial: None,
            samples: 0,
            history: VecDeque::new(),
            recorded: VecDeque::new(),
            steepest: VecDeque::new(),
            scores: None,
        }
    }

    /// Takes the validation losses of a batch; whether there were any.
    pub fn sample(&mut self, seen: &Seen, window: usize) -> bool {
        let Some(initial) = &self.initial else { return false };
        let ratio = |(loss, initial): (&Option<f64>, &f64)| loss.map(|loss| loss / initial);
        let ratios: Vec<Option<f64>> = seen.validation.iter().zip(initial).map(ratio).collect();
        if ratios.iter().all(Option::is_none) {
            return false;
        }
        self.samples = self.samples.saturating_add(1);
        push(&mut self.history, Sample { steps: seen.step.saturating_add(1), ratios }, window);
        true
    }

    /// The slope of each task over the last samples. `compressed` numbers a task's own samples, as the code does, instead of
    /// taking true step numbers.
    pub fn slopes(&self, window: usize, compressed: bool) -> Vec<f64> {
        let slope = |task: usize| {
            let points = self.window(window).filter_map(|s| Some((s.steps as f64, s.ratios[task]?)));
            let points: Vec<(f64, f64)> = match compressed {
                true => points.enumerate().map(|(x, (_, y))| (x as f64, y)).collect(),
                false => points.collect(),
            };
            least_squares(&points)
        };
        (0..self.tasks).map(slope).collect()
    }

    /// The slope of the largest ratio of each sample.
    pub fn slope_of_max(&self, window: usize) -> f64 {
        let largest = |sample: &Sample| sample.ratios.iter().flatten().copied().reduce(f64::max);
        let points = self.window(window).filter_map(|s| Some((s.steps as f64, largest(s)?)));
        least_squares(&points.collect::<Vec<_>>())
    }

    fn window(&self, window: usize) -> impl Iterator<Item = &Sample> {
        self.history.iter().skip(self.history.len().saturating_sub(window))
    }

    /// Keeps the slopes of a sample, and of those before as many as are looked back on.
    pub fn record(&mut self, slopes: Vec<f64>, steepest: f64, kept: usize, df_window: Option<usize>) {
        push(&mut self.recorded, slopes, kept);
        push(&mut self.steepest, steepest, df_window.unwrap_or(usize::MAX));
    }

    /// The slopes of the latest sample; empty before the warm-up is over.
    pub fn latest(&self) -> &[f64] {
        self.recorded.back().map_or(&[], Vec::as_slice)
    }

    /// The loss ratios of the latest sample.
    pub fn ratios(&self) -> Vec<Option<f64>> {
        self.history.back().map_or_else(|| vec![None; self.tasks], |sample| sample.ratios.clone())
    }
}

/// Appends, and forgets the oldest beyond `most`.
fn push<T>(queue: &mut VecDeque<T>, value: T, most: usize) {
    queue.push_back(value);
    while queue.len() > most {
        queue.pop_front();
    }
}
