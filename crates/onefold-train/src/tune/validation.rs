//! Validation rows: a few after each step for balancers that look at them, and all of them every so often.

use std::path::Path;

use onefold_engine::cpu::loss::TaskLoss;
use onefold_runtime::events::{Control, Event, Observer};
use serde::{Deserialize, Serialize};

use super::error::TuneError;
use super::learner::Learner;
use super::micro::{Row, Rows};
use super::model::Prepared;
use super::runner::Runner;
use crate::data::Task;
use crate::data::sample::permutation;

/// What came of the validation rows of a task.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Scored {
    /// Rows, or tokens to be learnt.
    pub rows: u64,
    /// The mean loss; none without rows.
    pub loss: Option<f64>,
    /// The share that is right; none without rows.
    pub accuracy: Option<f64>,
}

/// Scores of all validation rows of each task, up to `budget` tokens at once; none if the observer asks to stop. `source` is
/// the directory of the model.
///
/// # Errors
/// If the model cannot be built, or a loss is not finite.
pub fn scores(
    prepared: Prepared,
    tasks: &[Task],
    (source, budget): (&Path, u64),
    observer: &dyn Observer,
) -> Result<Option<Vec<Scored>>, TuneError> {
    let Prepared { parameters, heads } = prepared;
    let learner = Learner::new(&parameters, source)?;
    let mut runner = Runner::new(tasks, parameters, learner);
    let go_on = || observer.event(&Event::Progress { bytes: 0 }) == Control::Continue;
    let sums = all(&mut runner, &heads, budget, 0, &go_on)?;
    let scored = |sum: &TaskLoss| {
        let mean = |part: f64| (sum.rows > 0).then(|| part / sum.rows as f64);
        Scored { rows: sum.rows, loss: mean(sum.loss), accuracy: mean(sum.correct as f64) }
    };
    Ok(sums.map(|sums| sums.iter().map(scored).collect()))
}

/// Draws validation rows, of each task in turn through a permutation of its own, so that every task is seen in every draw.
#[derive(Debug)]
pub(super) struct Draws {
    orders: Vec<Vec<u32>>,
    /// Rows of each task in a draw.
    counts: Vec<usize>,
    /// Draws that were made.
    taken: u64,
}

impl Draws {
    /// Draws of `rows` rows, but one of each task that has some at least.
    pub(super) fn new(tasks: &[Task], rows: usize, seed: u64) -> Self {
        let order = |task: &Task| {
            let order = permutation(task.validation.len(), seed, &task.name, "validation draws");
            order.into_iter().map(|place| task.validation[place as usize]).collect()
        };
        let part = |i: usize| (rows / tasks.len() + usize::from(i < rows % tasks.len())).max(1);
        let counts = tasks.iter().enumerate().map(|(i, task)| part(i).min(task.validation.len())).collect();
        Self { orders: tasks.iter().map(order).collect(), counts, taken: 0 }
    }

    /// Draws that were made.
    pub(super) fn taken(&self) -> u64 {
        self.taken
    }

    /// Goes to where another was.
    pub(super) fn restore(&mut self, taken: u64) {
        self.taken = taken;
    }

    /// The rows of the next draw, task by task.
    pub(super) fn next_rows(&mut self) -> Vec<(u32, u32)> {
        let taken = u128::from(self.taken);
        self.taken += 1;
        let mut drawn = Vec::new();
        for (task, (order, count)) in (0..).zip(self.orders.iter().zip(&self.counts)) {
            let at = |i: usize| ((taken * *count as u128 + i as u128) % order.len() as u128) as usize;
            drawn.extend((0..*count).map(|i| (task, order[at(i)])));
        }
        drawn
    }
}

/// Rows as they pass the model when nothing is learnt of them: up to `budget` tokens at once.
pub(super) fn cut(tasks: &[Task], heads: &[Option<u32>], rows: Vec<(u32, u32)>, budget: u64) -> Rows {
    let groups = rows.into_iter().map(|(task, row)| vec![Row::of(tasks, task, row)]).collect();
    Rows::cut_by_tokens(groups, heads, budget)
}

/// Losses of all validation rows of each task; none if `go_on` says no before the end.
///
/// # Errors
/// If a loss is not finite.
pub(super) fn all(
    runner: &mut Runner<'_>,
    heads: &[Option<u32>],
    budget: u64,
    step: u64,
    go_on: &dyn Fn() -> bool,
) -> Result<Option<Vec<TaskLoss>>, TuneError> {
    let tasks = runner.tasks;
    let of = |(number, task): (u32, &Task)| -> Vec<_> {
        task.validation.iter().map(|row| (number, *row)).collect()
    };
    let rows = cut(tasks, heads, (0..).zip(tasks).flat_map(of).collect(), budget);
    let mut sums = vec![TaskLoss::default(); tasks.len()];
    for at in &rows.micro {
        if !go_on() {
            return Ok(None);
        }
        runner.evaluate_micro((&rows, at), (&mut sums, step))?;
    }
    Ok(Some(sums))
}
