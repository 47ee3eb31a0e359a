//! What can be wrong with the settings of a balancer, and with what a trainer gives it.

use std::fmt;

use crate::contract::Quantity;

/// Something wrong with the settings. All of a recipe's are reported together.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum SettingError {
    /// No `kind`.
    #[error("`balancer.kind` is missing; give one of {known}")]
    NoKind {
        /// All names.
        known: Words,
    },
    /// A name that the table has not.
    #[error("`balancer.kind`: no balancer is called {found}; there are {known}")]
    UnknownKind {
        /// What was given.
        found: String,
        /// All names.
        known: Words,
    },
    /// A key that the balancer has not.
    #[error("`balancer.{key}`: {balancer} has no such setting; it has {known}")]
    UnknownKey {
        /// The balancer.
        balancer: &'static str,
        /// What was given.
        key: String,
        /// Its keys.
        known: Words,
    },
    /// A value out of its range or of another type.
    #[error(
        "`balancer.{key}` ({help}): expected {expected}, found {found}; correct it, or leave it out for {default}"
    )]
    Value {
        /// The setting.
        key: &'static str,
        /// What it is for.
        help: &'static str,
        /// Accepted values, in words.
        expected: String,
        /// The value, in words.
        found: String,
        /// What holds without it, in words.
        default: String,
    },
    /// Settings that do not fit each other.
    #[error("`balancer.{key}`: expected {expected}, found {found}; {remedy}")]
    Conflict {
        /// The setting.
        key: &'static str,
        /// What would fit.
        expected: String,
        /// What was given.
        found: String,
        /// What to do.
        remedy: String,
    },
    /// No task at all.
    #[error("a balancer needs at least one task; list them under `tasks`")]
    NoTasks,
    /// Two tasks of one name.
    #[error("two tasks are called `{name}`; give them names of their own")]
    SameName {
        /// The name.
        name: String,
    },
    /// A static weight that is no weight.
    #[error(
        "task `{name}`: `weight` must be a number greater than 0, found {found}; to leave a task out, remove it from `tasks`"
    )]
    TaskWeight {
        /// The task.
        name: String,
        /// What was given.
        found: f64,
    },
}

/// A call that does not keep the contract, or a state that does not fit.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum BalanceError {
    /// Something that [`crate::Needs`] asked for is not there.
    #[error("{balancer}, step {step}: {what} was asked for and not given; give what `needs` says")]
    Missing {
        /// The balancer.
        balancer: &'static str,
        /// The step.
        step: u64,
        /// What is missing.
        what: &'static str,
    },
    /// A list or matrix of another size than there are tasks.
    #[error(
        "{balancer}, step {step}: {what} has {found} entries for {expected} tasks; give one for each task, in the recipe's order"
    )]
    Size {
        /// The balancer.
        balancer: &'static str,
        /// The step.
        step: u64,
        /// Which list.
        what: &'static str,
        /// Number of tasks.
        expected: usize,
        /// Entries found.
        found: usize,
    },
    /// The losses before training, which later ones are compared with, are unusable.
    #[error(
        "task `{task}`: the loss over its validation rows before training is {found}; look for damaged rows, or for a base model that cannot read this task"
    )]
    Reference {
        /// The task.
        task: String,
        /// What was found.
        found: f64,
    },
    /// Inner products of finite gradients that are not finite, or a result that is no number.
    #[error(
        "{balancer}, step {step}: no weights can be computed from inner products of {found} between tasks `{first}` and `{second}`; accumulate them in f64"
    )]
    Products {
        /// The balancer.
        balancer: &'static str,
        /// The step.
        step: u64,
        /// One task.
        first: String,
        /// The other.
        second: String,
        /// The value.
        found: f64,
    },
    /// A result that is no number.
    #[error(
        "{balancer}, step {step}: the weight of task `{task}` came out as {found}; please report this with the run's metrics"
    )]
    Undefined {
        /// The balancer.
        balancer: &'static str,
        /// The step.
        step: u64,
        /// The task.
        task: String,
        /// The value.
        found: f64,
    },
    /// A saved state of something else.
    #[error(
        "the saved state of the balancer does not fit: {what} is {found}, expected {expected}; resume with the recipe that the checkpoint was made with, or start anew"
    )]
    State {
        /// What differs.
        what: &'static str,
        /// What this balancer has.
        expected: String,
        /// What the state says.
        found: String,
    },
}

/// A value that could not be used, and was left out.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Skipped {
    /// Number of the task.
    pub task: usize,
    /// What was given.
    pub quantity: Quantity,
    /// Its value.
    pub value: f64,
}

/// Names in a sentence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Words(pub Vec<&'static str>);

impl fmt::Display for Words {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let quoted: Vec<String> = self.0.iter().map(|word| format!("`{word}`")).collect();
        match quoted.split_last() {
            None => f.write_str("none"),
            Some((last, [])) => f.write_str(last),
            Some((last, first)) => write!(f, "{} and {last}", first.join(", ")),
        }
    }
}
