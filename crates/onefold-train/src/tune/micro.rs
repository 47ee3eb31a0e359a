//! The rows of a step, cut into micro-batches, and the weight of each in the objective.
//!
//! The loss of a step is Σ_t ω_t·S_t/n_t, with S_t the summed loss of task t's tokens (of its rows, if they have a class) and
//! n_t their number, over *all* micro-batches of the step. n_t is known from the rows before any of them passes the model, so
//! every row gets its weight in advance and the update is the same however the step is cut.
//!
//! A micro-batch goes to one head; where gradients of each task are wanted, it is of one task.

use std::collections::BTreeMap;
use std::ops::Range;

use onefold_balance::losses::{Normalisation, Sample, normalise};

use crate::data::Task;
use crate::data::sample::Unit;

/// A row of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Row {
    /// Its task.
    pub(crate) task: u32,
    /// Its number there.
    pub(crate) row: u32,
    /// Tokens that are learnt of it, or 1 if it has a class.
    pub(crate) targets: u64,
    /// Tokens that pass the model; 1 for an image.
    pub(crate) tokens: u64,
}

impl Row {
    /// A row of a task.
    pub(crate) fn of(tasks: &[Task], task: u32, row: u32) -> Self {
        let tokens = tasks[task as usize].tokens(row);
        let targets = match (tasks[task as usize].target(row), tokens) {
            (None, Some(tokens)) => tokens.targets() as u64,
            _ => 1,
        };
        Self { task, row, targets, tokens: tokens.map_or(1, |tokens| tokens.ids().len() as u64) }
    }
}

/// Rows that pass the model at once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct MicroBatch {
    /// Of [`Rows::rows`].
    pub(crate) rows: Range<usize>,
    /// Whose head they go to; none: the model's own.
    pub(crate) head: Option<u32>,
    /// The task of all of them, if they were kept apart.
    pub(crate) task: Option<u32>,
}

/// The rows of a step, in the order in which they pass the model.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Rows {
    pub(crate) rows: Vec<Row>,
    pub(crate) micro: Vec<MicroBatch>,
}

/// Rows that must stay together (a packed bin), of one task.
pub(crate) type Group = Vec<Row>;

/// A unit of the sampler with its rows looked up.
pub(crate) fn group(tasks: &[Task], unit: Unit<'_>) -> Group {
    unit.rows.iter().map(|row| Row::of(tasks, unit.task, *row)).collect()
}

impl Rows {
    /// Cuts groups into micro-batches of `micro` groups. `heads` says for each task whose head it has; with `apart` no two
    /// tasks share a micro-batch.
    pub(crate) fn cut(groups: Vec<Group>, heads: &[Option<u32>], micro: usize, apart: bool) -> Self {
        let fits = |held: &[Group], _: &Group| held.len() < micro;
        Self::cut_by(groups, heads, apart, fits)
    }

    /// The same with micro-batches of at most `tokens` tokens, or of one group that is larger.
    pub(crate) fn cut_by_tokens(groups: Vec<Group>, heads: &[Option<u32>], tokens: u64) -> Self {
        let size = |group: &Group| group.iter().map(|row| row.tokens).sum::<u64>();
        let fits = |held: &[Group], next: &Group| held.iter().map(size).sum::<u64>() + size(next) <= tokens;
        Self::cut_by(groups, heads, false, fits)
    }

    fn cut_by(
        groups: Vec<Group>,
        heads: &[Option<u32>],
        apart: bool,
        fits: impl Fn(&[Group], &Group) -> bool,
    ) -> Self {
        let mut kinds: BTreeMap<(Option<u32>, Option<u32>), Vec<Group>> = BTreeMap::new();
        for group in groups {
            let Some(first) = group.first() else { continue };
            let key = (heads[first.task as usize], apart.then_some(first.task));
            kinds.entry(key).or_default().push(group);
        }
        let mut all = Self::default();
        for ((head, task), groups) in kinds {
            let mut held: Vec<Group> = Vec::new();
            for group in groups {
                if !held.is_empty() && !fits(&held, &group) {
                    all.close(&mut held, head, task);
                }
                held.push(group);
            }
            all.close(&mut held, head, task);
        }
        all
    }

    fn close(&mut self, held: &mut Vec<Group>, head: Option<u32>, task: Option<u32>) {
        let start = self.rows.len();
        self.rows.extend(held.drain(..).flatten());
        self.micro.push(MicroBatch { rows: start..self.rows.len(), head, task });
    }

    /// For each task whether there is something to be learnt.
    pub(crate) fn present(&self, tasks: usize) -> Vec<bool> {
        let mut present = vec![false; tasks];
        self.rows.iter().filter(|row| row.targets > 0).for_each(|row| present[row.task as usize] = true);
        present
    }

    /// Tokens that pass the model.
    pub(crate) fn tokens(&self) -> u64 {
        self.rows.iter().map(|row| row.tokens).sum()
    }

    /// What each row's targets count in Σ wₜ·Lₜ, with the `weights` of the tasks.
    pub(crate) fn factors(&self, how: Normalisation, weights: &[f64]) -> Vec<f32> {
        let present = self.present(weights.len());
        let total: f64 = weights.iter().zip(present).filter(|(_, present)| *present).map(|(w, _)| w).sum();
        let made = normalise(how, &self.samples(), weights);
        // By tokens or samples of all tasks, weights have no part; by tasks, `normalise` divides by their sum.
        let scale = match how {
            Normalisation::Case1 | Normalisation::Case2 => 1.0,
            Normalisation::Case3 | Normalisation::Case4 => total,
        };
        made.factors.into_iter().map(|factor| (factor * scale) as f32).collect()
    }

    /// The same for the loss of each task by itself, whatever its weight.
    pub(crate) fn factors_apart(&self, how: Normalisation, tasks: usize) -> Vec<f32> {
        let how = match how {
            Normalisation::Case1 | Normalisation::Case3 => Normalisation::Case3,
            Normalisation::Case2 | Normalisation::Case4 => Normalisation::Case4,
        };
        let present = self.present(tasks).into_iter().filter(|present| *present).count();
        let made = normalise(how, &self.samples(), &vec![1.0; tasks]);
        made.factors.into_iter().map(|factor| (factor * present as f64) as f32).collect()
    }

    fn samples(&self) -> Vec<Sample> {
        let sample = |row: &Row| Sample { task: row.task as usize, sum: 0.0, count: row.targets };
        self.rows.iter().map(sample).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(task: u32, row: u32, targets: u64) -> Group {
        vec![Row { task, row, targets, tokens: targets + 2 }]
    }

    #[test]
    fn micro_batches_go_to_one_head() {
        let groups = || vec![row(0, 0, 5), row(1, 0, 1), row(0, 1, 3), row(2, 0, 1), row(0, 2, 2)];
        let heads = [None, Some(1), None];
        let rows = Rows::cut(groups(), &heads, 3, false);
        let of = |rows: &Rows| -> Vec<Vec<(u32, u32)>> {
            let rows_of =
                |m: &MicroBatch| rows.rows[m.rows.clone()].iter().map(|r| (r.task, r.row)).collect();
            rows.micro.iter().map(rows_of).collect()
        };
        assert_eq!(of(&rows), [vec![(0, 0), (0, 1), (2, 0)], vec![(0, 2)], vec![(1, 0)]]);
        assert_eq!(rows.micro[2].head, Some(1));
        let apart = Rows::cut(groups(), &heads, 3, true);
        assert_eq!(of(&apart), [vec![(0, 0), (0, 1), (0, 2)], vec![(2, 0)], vec![(1, 0)]]);
        assert_eq!(apart.micro[1].task, Some(2));
        let tokens = Rows::cut_by_tokens(groups(), &heads, 12);
        assert_eq!(of(&tokens), [vec![(0, 0), (0, 1)], vec![(2, 0), (0, 2)], vec![(1, 0)]]);
    }

    #[test]
    fn weights_add_up_over_the_whole_step() {
        let groups = vec![row(0, 0, 6), row(1, 0, 4), row(0, 1, 2), row(2, 0, 0)];
        let rows = Rows::cut(groups, &[None; 3], 2, false);
        assert_eq!(rows.present(3), [true, true, false]);
        let weights = [0.75, 0.25, 0.0];
        let factors = rows.factors(Normalisation::Case3, &weights);
        assert_eq!(factors, [0.75 / 8.0, 0.25 / 4.0, 0.75 / 8.0, 0.0]);
        // A published scale that does not add up to one stays as it is.
        let factors = rows.factors(Normalisation::Case3, &[3.0, 1.0, 9.0]);
        assert_eq!(factors, [3.0 / 8.0, 1.0 / 4.0, 3.0 / 8.0, 0.0]);
        let factors = rows.factors(Normalisation::Case1, &weights);
        assert_eq!(factors, [1.0 / 12.0, 1.0 / 12.0, 1.0 / 12.0, 0.0]);
        let apart = rows.factors_apart(Normalisation::Case1, 3);
        assert_eq!(apart, [1.0 / 8.0, 1.0 / 4.0, 1.0 / 8.0, 0.0]);
        let apart = rows.factors_apart(Normalisation::Case4, 3);
        assert_eq!(apart, [1.0 / 12.0, 1.0 / 4.0, 1.0 / 4.0, 0.0]);
    }
}
