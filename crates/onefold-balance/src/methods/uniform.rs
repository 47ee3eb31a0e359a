//! Weights that do not change: the same for every task (linear scalarisation), or those of the recipe.

use serde::Deserialize;

use super::{Cost, Method, SCALE};
use crate::contract::Needs;
use crate::rule::{Rule, Scale, View};
use crate::settings::Context;

/// The table entry.
pub static UNIFORM: Method = Method {
    name: "uniform",
    aliases: &["none", "equal", "ls"],
    summary: "every task counts the same",
    source: "",
    cost: Cost::Nothing,
    validation: false,
    task_weights: false,
    simplex: true,
    params: &[SCALE],
    build: |context| Ok(Box::new(Fixed::new(context, vec![1.0; context.k()]))),
};

/// The table entry.
pub static STATIC: Method = Method {
    name: "static",
    aliases: &["fixed"],
    summary: "every task counts by the `weight` it has in the recipe",
    source: "",
    cost: Cost::Nothing,
    validation: false,
    task_weights: true,
    simplex: true,
    params: &[SCALE],
    build: |context| {
        let weights = context.tasks.iter().map(|task| task.weight).collect();
        Ok(Box::new(Fixed::new(context, weights)))
    },
};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Settings {
    scale: Scale,
}

#[derive(Debug)]
struct Fixed {
    scale: Scale,
    weights: Vec<f64>,
}

impl Fixed {
    fn new(context: &Context<'_>, weights: Vec<f64>) -> Self {
        Self { scale: context.typed::<Settings>().scale, weights }
    }
}

impl Rule for Fixed {
    fn needs(&self, _: u64) -> Needs {
        Needs::default()
    }

    fn weights(&mut self, view: &View<'_>) -> Vec<f64> {
        self.scale.apply(view.of(&self.weights))
    }
}
