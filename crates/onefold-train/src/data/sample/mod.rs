//! Which rows are learnt in which order.
//!
//! An epoch is `samples` rows (by default as many as all tasks have). A task's part of it is
//!
//! `p_i ∝ share_i · n_i^(1/T)`, then `p_i ← min(max(s·p_i, floor), cap)` with the `s` for which they add up to 1,
//!
//! for `n_i` rows and the temperature `T`: 1 samples by size, larger ones move towards equal parts, and without the power
//! only `share` counts. Parts become whole rows by largest remainders, at least one row for each task.
//!
//! A task's rows come in passes, each a permutation drawn for (seed, task, pass), and an epoch goes on where the one
//! before ended: no row comes again before all of its task have come. The order of tasks in an epoch is drawn, or it is
//! MFTCoder's blend. Everything is a function of settings, rows and epoch; so a position is two numbers.

mod parts;
mod plan;

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::Xxh3;

use super::error::DataError;
use super::pack::Packing;
pub(crate) use super::shuffle::permutation;
use super::task::Task;
pub use parts::{blend, parts, quotas};
pub use plan::{Epoch, Preview, TaskPreview, Unit};

/// How much each task gives.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Strategy {
    /// Number of rows, times share.
    #[default]
    Size,
    /// Share alone.
    Share,
    /// Number of rows to the power 1/T, times share.
    Temperature(f64),
}

/// In which order tasks take turns.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Order {
    /// Drawn for each epoch.
    #[default]
    Shuffled,
    /// Evenly: the i-th draw goes to the first task with the largest `p_d · max(i, 1) − count_d`.
    Blended,
}

/// How tasks are mixed.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Mixture {
    /// How much each task gives.
    pub strategy: Strategy,
    /// The least part of a task.
    pub floor: f64,
    /// The greatest part of a task.
    pub cap: f64,
    /// Rows of an epoch; as many as there are if it is not given.
    pub samples: Option<usize>,
    /// In which order tasks take turns.
    pub order: Order,
    /// How rows are packed, and into how many tokens.
    pub packing: Option<(Packing, u32)>,
    /// For everything that is drawn.
    pub seed: u64,
}

impl Default for Mixture {
    fn default() -> Self {
        let (strategy, order) = (Strategy::default(), Order::default());
        Self { strategy, floor: 0.0, cap: 1.0, samples: None, order, packing: None, seed: 0 }
    }
}

/// A task as the sampler sees it.
#[derive(Debug, Clone, PartialEq)]
pub struct Source {
    /// Its name.
    pub name: String,
    /// Its rows.
    pub rows: Vec<u32>,
    /// Tokens of each.
    pub lengths: Vec<u32>,
    /// Its share.
    pub share: f64,
}

impl Source {
    /// The training rows of a task.
    pub fn of(task: &Task, share: f64) -> Self {
        Self { name: task.name.clone(), rows: task.train.clone(), lengths: task.lengths(), share }
    }
}

/// Gives rows, epoch after epoch.
#[derive(Debug, Clone)]
pub struct Sampler {
    sources: Vec<Source>,
    mixture: Mixture,
    /// Rows of each task per epoch.
    quotas: Vec<usize>,
    identity: u64,
    state: SamplerState,
    epoch: Epoch,
}

/// Where a sampler is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SamplerState {
    /// The epoch, from 0.
    pub epoch: u64,
    /// Units of it that were given.
    pub position: u64,
    /// A hash of settings and rows, without which the numbers mean nothing.
    pub identity: u64,
}

impl Sampler {
    /// A sampler at the beginning.
    pub fn new(sources: Vec<Source>, mixture: Mixture) -> Result<Self, DataError> {
        check(&sources, &mixture)?;
        let sizes: Vec<_> = sources.iter().map(|source| source.rows.len()).collect();
        let shares: Vec<_> = sources.iter().map(|source| source.share).collect();
        let samples = mixture.samples.unwrap_or_else(|| sizes.iter().sum());
        let quotas = quotas(&parts(&sizes, &shares, &mixture)?, samples)?;
        let identity = identity(&sources, &mixture);
        let epoch = Epoch::plan(&sources, &mixture, &quotas, 0);
        let state = SamplerState { epoch: 0, position: 0, identity };
        Ok(Self { sources, mixture, quotas, identity, state, epoch })
    }

    /// The next unit: a row, or a bin of rows. After an epoch the next one begins.
    pub fn next_unit(&mut self) -> Unit<'_> {
        if self.state.position as usize == self.epoch.len() {
            self.state.epoch += 1;
            self.state.position = 0;
            self.epoch = self.plan(self.state.epoch);
        }
        self.state.position += 1;
        self.epoch.unit(self.state.position as usize - 1)
    }

    /// The units of an epoch.
    pub fn plan(&self, epoch: u64) -> Epoch {
        Epoch::plan(&self.sources, &self.mixture, &self.quotas, epoch)
    }

    /// Whether rows are packed into bins.
    pub fn is_packed(&self) -> bool {
        self.mixture.packing.is_some()
    }

    /// Units of the epoch in which it is.
    pub fn epoch_len(&self) -> usize {
        self.epoch.len()
    }

    /// Where it is.
    pub fn state(&self) -> SamplerState {
        self.state
    }

    /// Goes to where another sampler of the same rows and settings was.
    pub fn restore(&mut self, state: SamplerState) -> Result<(), DataError> {
        let wrong = |message: &str| Err(DataError::setting("sampler state", message));
        if state.identity != self.identity {
            return wrong(
                "it belongs to other data or other settings of sampling; begin anew, or restore them",
            );
        }
        let epoch = self.plan(state.epoch);
        if state.position as usize > epoch.len() {
            return wrong("it is beyond the end of its epoch; the file is damaged");
        }
        (self.state, self.epoch) = (state, epoch);
        Ok(())
    }

    /// What an epoch will hold.
    pub fn preview(&self) -> Preview {
        plan::preview(&self.sources, &self.mixture, &self.plan(0))
    }
}

fn check(sources: &[Source], mixture: &Mixture) -> Result<(), DataError> {
    if sources.is_empty() {
        return Err(DataError::setting("tasks", "there are none"));
    }
    for source in sources {
        let wrong = |message: String| Err(DataError::setting(format!("tasks.{}", source.name), message));
        if source.rows.is_empty() {
            return wrong("there are no rows to learn from".to_owned());
        }
        if !(source.share.is_finite() && source.share > 0.0) {
            return wrong(format!("share: expected a number above 0, found {}", source.share));
        }
        let longest = source.lengths.iter().max().copied().unwrap_or(0);
        if let Some((_, length)) = mixture.packing.filter(|(_, length)| longest > *length) {
            return wrong(format!(
                "a row has {longest} tokens, packed rows have {length}; cut or drop longer ones"
            ));
        }
    }
    Ok(())
}

/// A hash of all that the order depends on.
fn identity(sources: &[Source], mixture: &Mixture) -> u64 {
    let mut hash = Xxh3::new();
    // Floats are written so that they can be read back, so equal text means equal settings.
    hash.update(format!("{mixture:?}").as_bytes());
    for Source { name, rows, lengths, share } in sources {
        hash.update(&(name.len() as u64).to_le_bytes());
        hash.update(name.as_bytes());
        hash.update(&share.to_bits().to_le_bytes());
        for numbers in [rows, lengths] {
            hash.update(&(numbers.len() as u64).to_le_bytes());
            numbers.iter().for_each(|number| hash.update(&number.to_le_bytes()));
        }
    }
    hash.digest()
}

#[cfg(test)]
mod tests;
