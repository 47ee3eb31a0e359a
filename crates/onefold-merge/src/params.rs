//! How a merge method declares its parameters.
//!
//! A method states each parameter once, as a [`Param`]: name, [`Level`], [`Kind`] with its range, [`enum@Default`]
//! and a sentence of help. The recipe layer judges recipes by that table before anything is read, and the
//! method tables of the guide are generated from it, so a parameter cannot be checked one way and documented
//! another.

pub use onefold_runtime::params::{Default, Kind, Value, parse_number};

/// One parameter of a merge method.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Param {
    /// Key under `parameters` in a recipe.
    pub name: &'static str,
    /// Whether each model has its own value.
    pub level: Level,
    /// Values it accepts.
    pub kind: Kind,
    /// What holds if no recipe level gives a value.
    pub default: Default,
    /// One sentence for the guide and for error messages.
    pub help: &'static str,
}

/// Where a parameter may be set, and so how many values of it one tensor has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// One value for each model of each tensor: settable at a model, a slice, a module or for the recipe.
    Model,
    /// One value for all models of a tensor: settable at a slice, a module or for the recipe.
    Global,
}
