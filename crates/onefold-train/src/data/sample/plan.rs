//! The units of an epoch: rows, or bins of rows, in the order in which they are learnt.

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;

use super::{Mixture, Order, Source, blend};
use crate::data::pack::pack;
use crate::data::shuffle::{permutation, shuffle};

/// An epoch, laid out.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Epoch {
    tasks: Vec<u32>,
    ends: Vec<u32>,
    rows: Vec<u32>,
}

/// What is learnt together as one row of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unit<'a> {
    /// The task, by its place in the recipe.
    pub task: u32,
    /// Its rows.
    pub rows: &'a [u32],
}

impl Epoch {
    /// Number of units.
    pub fn len(&self) -> usize {
        self.tasks.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.tasks.is_empty()
    }

    /// A unit.
    pub fn unit(&self, at: usize) -> Unit<'_> {
        let start = at.checked_sub(1).map_or(0, |before| self.ends[before] as usize);
        Unit { task: self.tasks[at], rows: &self.rows[start..self.ends[at] as usize] }
    }

    /// All units in their order.
    pub fn units(&self) -> impl Iterator<Item = Unit<'_>> {
        (0..self.len()).map(|at| self.unit(at))
    }

    pub(super) fn plan(sources: &[Source], mixture: &Mixture, quotas: &[usize], epoch: u64) -> Self {
        let bins: Vec<_> =
            sources.iter().zip(quotas).map(|(source, quota)| bins(source, mixture, *quota, epoch)).collect();
        let counts: Vec<_> = bins.iter().map(Vec::len).collect();
        let mut plan = Self::default();
        let mut next = vec![0; bins.len()];
        for task in turns(&counts, mixture, epoch) {
            let taken = &mut next[task as usize];
            plan.rows.extend_from_slice(&bins[task as usize][*taken]);
            plan.ends.push(plan.rows.len() as u32);
            plan.tasks.push(task);
            *taken += 1;
        }
        plan
    }
}

/// Which task is next, unit by unit.
fn turns(counts: &[usize], mixture: &Mixture, epoch: u64) -> Vec<u32> {
    let total: usize = counts.iter().sum();
    match mixture.order {
        Order::Blended => {
            let weights: Vec<_> = counts.iter().map(|count| *count as f64 / total as f64).collect();
            blend(&weights, counts)
        }
        Order::Shuffled => {
            let of = |(task, count): (u32, &usize)| std::iter::repeat_n(task, *count);
            let mut turns: Vec<_> = (0..).zip(counts).flat_map(of).collect();
            shuffle(&mut turns, mixture.seed, "", &format!("turns of epoch {epoch}"));
            turns
        }
    }
}

/// The bins of a task in an epoch; without packing one for each row.
fn bins(source: &Source, mixture: &Mixture, quota: usize, epoch: u64) -> Vec<Vec<u32>> {
    let drawn = drawn(source, quota, epoch, mixture.seed);
    let row = |place: u32| source.rows[place as usize];
    let Some((packing, length)) = mixture.packing else {
        return drawn.into_iter().map(|place| vec![row(place)]).collect();
    };
    let lengths: Vec<_> = drawn.iter().map(|place| source.lengths[*place as usize]).collect();
    let mut bins = pack(&lengths, length, packing).bins;
    // Packing sorts by length, and what is learnt must not come in that order.
    shuffle(&mut bins, mixture.seed, &source.name, &format!("bins of epoch {epoch}"));
    for item in bins.iter_mut().flatten() {
        *item = row(drawn[*item as usize]);
    }
    bins
}

/// Places of the rows that a task gives to an epoch: `quota` of them from where the epoch before ended.
fn drawn(source: &Source, quota: usize, epoch: u64, seed: u64) -> Vec<u32> {
    let size = source.rows.len();
    let start = u128::from(epoch) * quota as u128;
    let (mut pass, mut skip) = (start / size as u128, (start % size as u128) as usize);
    let mut drawn = Vec::with_capacity(quota);
    while drawn.len() < quota {
        let order = permutation(size, seed, &source.name, &format!("pass {pass}"));
        let take = (quota - drawn.len()).min(size - skip);
        drawn.extend_from_slice(&order[skip..skip + take]);
        (pass, skip) = (pass + 1, 0);
    }
    drawn
}

/// What an epoch holds.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Preview {
    /// Each task.
    pub tasks: Vec<TaskPreview>,
    /// Rows of batches: single rows, or bins.
    pub units: usize,
}

/// What a task gives to an epoch.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TaskPreview {
    /// Its name.
    pub name: String,
    /// Rows it has.
    pub available: usize,
    /// Rows in the epoch.
    pub rows: usize,
    /// Tokens of these.
    pub tokens: u64,
    /// Part of all tokens.
    pub token_share: f64,
    /// Rows of batches.
    pub units: usize,
    /// How much of a packed row is tokens.
    pub fill: Option<f64>,
}

pub(super) fn preview(sources: &[Source], mixture: &Mixture, epoch: &Epoch) -> Preview {
    let mut tasks: Vec<_> = sources.iter().map(empty).collect();
    let lengths: Vec<_> = sources.iter().map(by_row).collect();
    for unit in epoch.units() {
        let (task, lengths) = (&mut tasks[unit.task as usize], &lengths[unit.task as usize]);
        task.units += 1;
        task.rows += unit.rows.len();
        task.tokens += unit.rows.iter().map(|row| lengths[row]).sum::<u64>();
    }
    let all: u64 = tasks.iter().map(|task| task.tokens).sum();
    for task in &mut tasks {
        task.token_share = task.tokens as f64 / all.max(1) as f64;
        task.fill =
            mixture.packing.map(|(_, length)| task.tokens as f64 / (task.units as f64 * f64::from(length)));
    }
    Preview { tasks, units: epoch.len() }
}

fn by_row(source: &Source) -> BTreeMap<u32, u64> {
    source.rows.iter().copied().zip(source.lengths.iter().copied().map(u64::from)).collect()
}

fn empty(source: &Source) -> TaskPreview {
    let (name, available) = (source.name.clone(), source.rows.len());
    TaskPreview { name, available, rows: 0, tokens: 0, token_share: 0.0, units: 0, fill: None }
}

impl fmt::Display for Preview {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for task in &self.tasks {
            let TaskPreview { name, available, rows, tokens, token_share, units, fill } = task;
            write!(f, "{name}: {rows} of {available} rows per epoch")?;
            if rows > available {
                write!(f, " (each {:.1} times)", *rows as f64 / *available as f64)?;
            }
            write!(f, ", {tokens} tokens ({:.1} % of all)", 100.0 * token_share)?;
            match fill {
                Some(fill) => writeln!(f, ", {units} packed rows, {:.1} % full", 100.0 * fill)?,
                None => writeln!(f)?,
            }
        }
        Ok(())
    }
}
