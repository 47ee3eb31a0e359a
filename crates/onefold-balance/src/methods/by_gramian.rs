//! What all methods share that turn the Gramian of task gradients into coefficients: the update is d = Σ cᵢ gᵢ.
//!
//! No gradient is touched here. Projections, rotations and bargains are linear combinations of the gᵢ, and whatever they need
//! to know are inner products. Tasks without gradient take no part. A single task keeps its gradient as it is.

use onefold_runtime::params::{Default, Kind};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::fmt::Debug;

use super::COUNT;
use crate::contract::{Gradients, Losses, Needs};
use crate::error::SettingError;
use crate::numeric::Matrix;
use crate::numeric::vector::{mean, scaled};
use crate::rule::{Rule, View};
use crate::settings::{Context, Param};

/// Setting of all of them.
pub const UPDATE_EVERY: Param = Param {
    name: "update_every",
    kind: COUNT,
    default: Default::Number(1.0),
    help: "steps that coefficients are used for; between updates a step costs one backward pass",
};

/// Length of the update, for methods whose published coefficients have the size of a mean.
pub const LENGTH: Param = Param {
    name: "scale",
    kind: Kind::Choice(LENGTHS),
    default: Default::Choice("mean"),
    help: "length of the update: `mean` as published, or `gradient`, that of the mean gradient",
};

/// The same, where a sum over tasks is published.
pub const LENGTH_OF_SUM: Param = Param {
    help: "length of the update: `mean`, that published by the number of tasks, `gradient`, that of the mean gradient, or as in the `paper`",
    ..LENGTH
};

const LENGTHS: &[&str] = &["mean", "gradient", "paper"];

/// A method: Gramian in, coefficients out.
pub trait Solver: Debug + Send {
    /// Whether it needs training losses.
    fn losses(&self) -> Losses {
        Losses::Unneeded
    }

    /// Whether what is published is a sum over tasks, which `scale: mean` divides by their number.
    fn sums(&self) -> bool;

    /// The published coefficients of at least two tasks. The diagonal of the Gramian is positive.
    fn coefficients(&mut self, view: &View<'_>, gramian: &Matrix) -> Vec<f64>;

    /// What it remembers.
    fn state(&self) -> Value {
        Value::Null
    }

    /// Takes up a [`Self::state`].
    ///
    /// # Errors
    /// What is wrong with it.
    fn restore(&mut self, state: &Value) -> Result<(), String> {
        if state.is_null() { Ok(()) } else { Err(format!("expected none, found {state}")) }
    }
}

/// How long the update is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Length {
    /// As of a mean over tasks.
    Mean,
    /// As the mean gradient.
    Gradient,
    /// As published.
    Paper,
}

/// The names of the settings that all have.
pub const SHARED: &[&str] = &["scale", "update_every"];

/// Their values.
#[derive(Debug, Clone, Copy, Deserialize)]
struct Shared {
    scale: Length,
    update_every: u64,
}

/// A [`Solver`] as a [`Rule`].
#[derive(Debug)]
pub struct ByGramian<S> {
    solver: S,
    shared: Shared,
    /// The latest coefficients of each task, where they are used for more than a step.
    held: Vec<Option<f64>>,
}

/// The state of both.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Saved {
    held: Vec<Option<f64>>,
    solver: Value,
}

impl<S: Solver + 'static> ByGramian<S> {
    /// A rule of the solver that the settings make.
    pub fn rule(context: &Context<'_>, solver: S) -> Box<dyn Rule> {
        let shared = context.typed();
        Box::new(Self { solver, shared, held: vec![None; context.k()] })
    }
}

/// A solver that is nothing but its settings.
pub fn of_settings<S: Solver + DeserializeOwned + 'static>(
    context: &Context<'_>,
) -> Result<Box<dyn Rule>, SettingError> {
    Ok(ByGramian::rule(context, context.but::<S>(SHARED)))
}

impl<S: Solver> ByGramian<S> {
    fn fresh(&mut self, view: &View<'_>, gramian: &Matrix) -> Vec<f64> {
        if view.tasks.len() == 1 {
            return vec![1.0];
        }
        let published = self.solver.coefficients(view, gramian);
        match self.shared.scale {
            Length::Mean if self.solver.sums() => scaled(&published, 1.0 / published.len() as f64),
            Length::Mean | Length::Paper => published,
            Length::Gradient => as_long_as_mean(&published, gramian),
        }
    }

    /// Those of the last update; a task that it did not have counts as much as the others in the mean.
    fn kept(&self, view: &View<'_>) -> Vec<f64> {
        let known: Vec<f64> = view.of(&self.held).into_iter().flatten().collect();
        let usual = if known.is_empty() { 1.0 / view.tasks.len() as f64 } else { mean(&known) };
        view.of(&self.held).into_iter().map(|held| held.unwrap_or(usual)).collect()
    }
}

impl<S: Solver> Rule for ByGramian<S> {
    fn needs(&self, step: u64) -> Needs {
        let due = step.is_multiple_of(self.shared.update_every) || self.held.iter().all(Option::is_none);
        let losses = self.solver.losses();
        if due {
            Needs {
                losses,
                gradients: Gradients::Gramian,
                positive: losses == Losses::Before,
                ..Needs::default()
            }
        } else {
            Needs::default()
        }
    }

    fn weights(&mut self, view: &View<'_>) -> Vec<f64> {
        let Some(gramian) = &view.products else { return self.kept(view) };
        let coefficients = self.fresh(view, gramian);
        if self.shared.update_every > 1 {
            self.held.fill(None);
            view.tasks.iter().zip(&coefficients).for_each(|(task, c)| self.held[*task] = Some(*c));
        }
        coefficients
    }

    fn state(&self) -> Value {
        let saved = Saved { held: self.held.clone(), solver: self.solver.state() };
        serde_json::to_value(saved).expect("a struct of numbers is always a value")
    }

    fn restore(&mut self, state: &Value) -> Result<(), String> {
        let saved = Saved::deserialize(state).map_err(|e| e.to_string())?;
        crate::rule::lengths(self.held.len(), &[saved.held.len()])?;
        self.solver.restore(&saved.solver)?;
        self.held = saved.held;
        Ok(())
    }
}

/// `c`, such that Σ cᵢ gᵢ is as long as the mean gradient. Where the gradients cancel, so that only rounding is left of the sum,
/// Σ|cᵢ| = 1.
fn as_long_as_mean(coefficients: &[f64], gramian: &Matrix) -> Vec<f64> {
    let k = coefficients.len();
    let longest: f64 =
        coefficients.iter().zip(gramian.diagonal()).map(|(c, square)| c.abs() * square.sqrt()).sum();
    let length = gramian.length(coefficients);
    if length <= 1e-7 * longest {
        let sum: f64 = coefficients.iter().map(|c| c.abs()).sum();
        return scaled(coefficients, if sum > 0.0 { 1.0 / sum } else { 0.0 });
    }
    scaled(coefficients, gramian.length(&vec![1.0 / k as f64; k]) / length)
}
