//! What a balancing method implements.

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::fmt::Debug;

use crate::contract::{Figure, Needs};
use crate::numeric::Matrix;
use crate::numeric::vector::{normalised, uniform};

/// A method with its settings and its state. [`crate::Balancer`] stands between it and the trainer: what arrives here is
/// checked, and is only of usable tasks.
pub trait Rule: Debug + Send {
    /// What it wants to know at a step.
    fn needs(&self, step: u64) -> Needs;

    /// Losses over all validation rows before training: finite, one for each task.
    fn begin(&mut self, _validation: &[f64]) {}

    /// The weights of the tasks of the step, in the order of [`View::tasks`].
    fn weights(&mut self, view: &View<'_>) -> Vec<f64>;

    /// What was found out after the step.
    fn observe(&mut self, _seen: &Seen) {}

    /// For methods that decide element by element.
    fn combiner(&self, _step: u64) -> Option<crate::kernels::Dropping> {
        None
    }

    /// Series for logs.
    fn figures(&self) -> Vec<Figure> {
        Vec::new()
    }

    /// Everything that it remembers.
    fn state(&self) -> Value {
        Value::Null
    }

    /// Takes up a [`Self::state`].
    ///
    /// # Errors
    /// If it is not one, with what is wrong.
    fn restore(&mut self, state: &Value) -> Result<(), String> {
        if state.is_null() { Ok(()) } else { Err(format!("expected none, found {state}")) }
    }
}

/// The part of a batch that can be used.
#[derive(Debug)]
pub struct View<'a> {
    /// Number of the step, from 0.
    pub step: u64,
    /// Number of the pass over the data, from 0.
    pub epoch: u64,
    /// Numbers of the tasks; everything below has an entry for each of these. Never empty.
    pub tasks: &'a [usize],
    /// Training losses, if they are known: finite, and positive if the method needs that. Empty otherwise.
    pub losses: Vec<f64>,
    /// Inner products, with a positive diagonal; or those of a trial step.
    pub products: Option<Matrix>,
    /// The numbers of [`crate::contract::Gradients::Excess`], positive; empty if they are not asked for.
    pub excess: Vec<f64>,
    /// Rate of the trial step.
    pub lr: f64,
}

impl View<'_> {
    /// The entries of the view's tasks.
    pub fn of<T: Copy>(&self, all: &[T]) -> Vec<T> {
        self.tasks.iter().map(|task| all[*task]).collect()
    }

    /// `1/K` for each.
    pub fn uniform(&self) -> Vec<f64> {
        uniform(self.tasks.len())
    }
}

/// The part of an outcome that can be used: one entry for each task, none where it is absent or not finite, and all none
/// if it was not asked for.
#[derive(Debug)]
pub struct Seen {
    /// Number of the step, from 0.
    pub step: u64,
    /// Number of the pass over the data, from 0.
    pub epoch: u64,
    /// Training losses.
    pub losses: Vec<Option<f64>>,
    /// Training losses of the same batch after the update.
    pub again: Vec<Option<f64>>,
    /// Validation losses.
    pub validation: Vec<Option<f64>>,
    /// Lengths of gradients; positive.
    pub norms: Vec<Option<f64>>,
}

/// What the weights of a loss add up to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scale {
    /// To one, whatever was published, so that a learning rate means the same with every balancer.
    Mean,
    /// To what was published.
    Paper,
}

impl Scale {
    /// `weights` as they were published, or divided by their sum.
    pub fn apply(self, weights: Vec<f64>) -> Vec<f64> {
        match self {
            Self::Mean => normalised(&weights),
            Self::Paper => weights,
        }
    }
}

/// What a method remembers.
pub trait Memory: Serialize + DeserializeOwned {
    /// What is wrong with it for so many tasks, if anything: a damaged state must not lead to a panic later.
    ///
    /// # Errors
    /// A sentence.
    fn check(&self, tasks: usize) -> Result<(), String>;

    /// As a value for the checkpoint.
    fn save(&self) -> Value {
        serde_json::to_value(self).expect("a struct of numbers is always a value")
    }

    /// From [`Self::save`].
    ///
    /// # Errors
    /// What is wrong with the value.
    fn load(state: &Value, tasks: usize) -> Result<Self, String> {
        let memory: Self = Self::deserialize(state).map_err(|e| e.to_string())?;
        memory.check(tasks)?;
        Ok(memory)
    }
}

/// Whether each list has an entry for each task.
///
/// # Errors
/// A sentence.
pub fn lengths(tasks: usize, lists: &[usize]) -> Result<(), String> {
    match lists.iter().find(|length| **length != tasks) {
        Some(length) => Err(format!("a list of {length} entries for {tasks} tasks")),
        None => Ok(()),
    }
}
