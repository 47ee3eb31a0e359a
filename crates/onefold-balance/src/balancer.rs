//! The balancer that a trainer holds: a method of the table with its state, behind checks that all methods share.
//!
//! What the trainer gives is held to the contract (sizes, everything that was asked for), tasks are left out whose loss or
//! gradient cannot be used, and the state is wrapped with what must fit when it is taken up again.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::checks::{Checks, POSITIVE, view};
use crate::contract::{Batch, Figure, Needs, Outcome, Weights};
use crate::error::{BalanceError, SettingError, Skipped, Words};
use crate::kernels::Dropping;
use crate::methods::{BALANCERS, Method, find};
use crate::rule::Rule;
use crate::settings::{Context, Task, checked};

/// A balancing method with its settings and its state.
#[derive(Debug)]
pub struct Balancer {
    method: &'static Method,
    checks: Checks,
    rule: Box<dyn Rule>,
}

/// A saved state.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Saved {
    balancer: String,
    tasks: Vec<String>,
    state: Value,
}

impl Balancer {
    /// The balancer of a map of settings, whose `kind` is a name or an alias of [`BALANCERS`], for tasks in the recipe's order.
    ///
    /// # Errors
    /// Everything that is wrong with settings and tasks.
    pub fn new(settings: &Map<String, Value>, tasks: &[Task], seed: u64) -> Result<Self, Vec<SettingError>> {
        let mut errors = wrong_tasks(tasks);
        let mut given = settings.clone();
        let method = match named(given.shift_remove("kind")) {
            Ok(method) => method,
            Err(error) => {
                errors.push(error);
                return Err(errors);
            }
        };
        let settings = checked(method, &given).map_err(|wrong| errors.extend(wrong));
        let (Ok(settings), true) = (settings, errors.is_empty()) else { return Err(errors) };
        let context = Context::new(tasks, seed, &settings, &given);
        let rule = (method.build)(&context).map_err(|error| vec![error])?;
        let names = tasks.iter().map(|task| task.name.clone()).collect();
        Ok(Self { method, checks: Checks { balancer: method.name, names }, rule })
    }

    /// Its entry in the table.
    pub fn method(&self) -> &'static Method {
        self.method
    }

    /// What it wants to know at a step.
    pub fn needs(&self, step: u64) -> Needs {
        self.rule.needs(step)
    }

    /// Takes the mean loss of each task over all its validation rows, before the first step, if [`Needs::reference`] asks for
    /// them. A resumed balancer has them in its state.
    ///
    /// # Errors
    /// If they are not one for each task, or not finite.
    pub fn begin(&mut self, validation: &[f64]) -> Result<(), BalanceError> {
        self.checks.reference(validation)?;
        self.rule.begin(validation);
        Ok(())
    }

    /// The weights of a step. Call it once for each step.
    ///
    /// # Errors
    /// If something that was asked for is not there, or has another size than there are tasks.
    pub fn weights(&mut self, batch: &Batch<'_>) -> Result<Weights, BalanceError> {
        let needs = self.rule.needs(batch.step);
        if needs.reference {
            return Err(self.checks.missing(batch.step, "the validation losses before training (`begin`)"));
        }
        let mut skipped = Vec::new();
        let mut tasks = self.checks.usable_by_loss(batch, &needs, &mut skipped)?;
        self.checks.measured(batch, &needs, &mut tasks, &mut skipped)?;
        let mut values = vec![0.0; self.checks.names.len()];
        if tasks.is_empty() {
            return Ok(Weights { values, skipped });
        }
        let view = view(batch, &needs, &tasks);
        for (task, weight) in tasks.iter().zip(self.rule.weights(&view)) {
            if !weight.is_finite() {
                let (balancer, step, task) = (self.method.name, batch.step, self.checks.names[*task].clone());
                return Err(BalanceError::Undefined { balancer, step, task, found: weight });
            }
            values[*task] = weight;
        }
        Ok(Weights { values, skipped })
    }

    /// Takes what came of a step. Call it once after each.
    ///
    /// Returns the values that were not used because they are not finite (or, of lengths, not positive).
    ///
    /// # Errors
    /// If something that was asked for is not there, or has another size than there are tasks.
    pub fn observe(&mut self, outcome: &Outcome<'_>) -> Result<Vec<Skipped>, BalanceError> {
        let needs = self.rule.needs(outcome.step);
        let (seen, skipped) = self.checks.seen(outcome, &needs)?;
        self.rule.observe(&seen);
        Ok(skipped)
    }

    /// For [`crate::Gradients::Elements`]: how the gradients of a step are combined.
    pub fn combiner(&self, step: u64) -> Option<Dropping> {
        self.rule.combiner(step)
    }

    /// Series for logs, as of the latest call.
    pub fn figures(&self) -> Vec<Figure> {
        self.rule.figures()
    }

    /// Everything that it remembers. Take it between [`Self::observe`] and the next step.
    pub fn state(&self) -> Value {
        let (balancer, state) = (self.method.name.to_owned(), self.rule.state());
        serde_json::to_value(Saved { balancer, tasks: self.checks.names.clone(), state })
            .expect("names and a value are always a value")
    }

    /// Takes up a [`Self::state`]: what follows is as if there had been no break.
    ///
    /// # Errors
    /// If it is the state of another balancer or other tasks, or damaged; nothing is changed then.
    pub fn restore(&mut self, state: &Value) -> Result<(), BalanceError> {
        let differs = |what, expected: String, found: String| BalanceError::State { what, expected, found };
        let saved = Saved::deserialize(state)
            .map_err(|e| differs("its form", "that of a saved balancer".to_owned(), e.to_string()))?;
        if saved.balancer != self.method.name {
            return Err(differs("its kind", self.method.name.to_owned(), saved.balancer));
        }
        if saved.tasks != self.checks.names {
            return Err(differs("its list of tasks", self.checks.names.join(", "), saved.tasks.join(", ")));
        }
        self.rule
            .restore(&saved.state)
            .map_err(|found| differs("its content", "what this balancer saves".to_owned(), found))
    }
}

/// The method that `kind` names.
fn named(kind: Option<Value>) -> Result<&'static Method, SettingError> {
    let known = || Words(BALANCERS.iter().map(|method| method.name).collect());
    match kind {
        None => Err(SettingError::NoKind { known: known() }),
        Some(Value::String(name)) => find(&name)
            .ok_or_else(|| SettingError::UnknownKind { found: format!("`{name}`"), known: known() }),
        Some(other) => Err(SettingError::UnknownKind { found: other.to_string(), known: known() }),
    }
}

/// What is wrong with a list of tasks.
fn wrong_tasks(tasks: &[Task]) -> Vec<SettingError> {
    let mut errors = Vec::new();
    if tasks.is_empty() {
        errors.push(SettingError::NoTasks);
    }
    for (i, task) in tasks.iter().enumerate() {
        if tasks[..i].iter().any(|other| other.name == task.name) {
            errors.push(SettingError::SameName { name: task.name.clone() });
        }
        if !(POSITIVE.contains(&task.weight)) {
            errors.push(SettingError::TaskWeight { name: task.name.clone(), found: task.weight });
        }
    }
    errors
}
