//! `balancer`: its kind and its settings, which the table of balancers judges.

use onefold_balance::{Balancer, SettingError, Task};
use serde_json::{Map, Value};

use super::defaults;
use super::tasks::TaskRecipe;
use crate::recipe::keys::{Keys, json};
use crate::recipe::node::Data;
use crate::recipe::problems::{Problems, suggestion};
use crate::recipe::scalar::Meaning;

/// The settings, with their `kind`. Weights of tasks that the balancer does not look at are reported and set to 1.
pub(super) fn read(top: &mut Keys<'_, '_>, tasks: &mut [TaskRecipe]) -> Map<String, Value> {
    let Some(node) = top.node("balancer") else {
        return judged(Map::from_iter([kind(defaults::BALANCER)]), top, tasks);
    };
    let settings = match (&node.data, json(node)) {
        (Data::Scalar { text, meaning: Meaning::Text }, _) => Map::from_iter([kind(text)]),
        (_, Value::Object(settings)) => settings,
        _ => {
            let what = "a balancer, as in `coba` or `{kind: coba, warmup: 100}`";
            crate::recipe::fields::unexpected(node, "balancer", what, top.problems);
            return Map::from_iter([kind(defaults::BALANCER)]);
        }
    };
    judged(settings, top, tasks)
}

fn kind(name: &str) -> (String, Value) {
    ("kind".to_owned(), name.into())
}

fn judged(
    settings: Map<String, Value>,
    top: &mut Keys<'_, '_>,
    tasks: &mut [TaskRecipe],
) -> Map<String, Value> {
    let named: Vec<Task> =
        tasks.iter().map(|task| Task { name: task.name.clone(), weight: task.weight }).collect();
    match Balancer::new(&settings, &named, 0) {
        Ok(balancer) => weights(balancer.method(), top, tasks),
        Err(errors) => errors.iter().for_each(|error| tell(error, top)),
    }
    settings
}

/// `weight` has an effect with some balancers alone.
fn weights(method: &onefold_balance::methods::Method, top: &mut Keys<'_, '_>, tasks: &mut [TaskRecipe]) {
    let Some(node) = top.node("tasks").filter(|_| !method.task_weights) else { return };
    let Data::List(items) = &node.data else { return };
    for (i, item) in items.iter().enumerate() {
        let Data::Map(entries) = &item.data else { continue };
        if let Some(entry) = entries.get("weight") {
            let message = format!("`weight` has no effect with the balancer `{}`", method.name);
            let help =
                "weights are those of `balancer: static`; how often rows of a task come is its `share`";
            let path = format!("tasks[{i}].weight");
            top.problems.ineffective(entry.place, &path, message, Some(help.to_owned()));
        }
    }
    tasks.iter_mut().for_each(|task| task.weight = 1.0);
}

/// An error of the table, at the key that it is about. What is wrong with tasks is told where they are read.
fn tell(error: &SettingError, top: &mut Keys<'_, '_>) {
    let node = top.node("balancer");
    let place_of = |key: &str| match node.map(|node| &node.data) {
        Some(Data::Map(entries)) => entries.get(key).map(|entry| entry.place),
        _ => None,
    };
    let whole = node.map_or(top.place, |node| node.place);
    let mut at = |key: &str, help: Option<String>| {
        let problems: &mut Problems = top.problems;
        problems.error(place_of(key).unwrap_or(whole), "", error.to_string(), help);
    };
    match error {
        SettingError::NoTasks | SettingError::SameName { .. } | SettingError::TaskWeight { .. } => {}
        SettingError::UnknownKind { found, known } => {
            let found = found.trim_matches(|c: char| "\"`".contains(c));
            at("kind", suggestion(found, known.0.iter().copied()));
        }
        SettingError::UnknownKey { key, known, .. } => at(key, suggestion(key, known.0.iter().copied())),
        SettingError::Value { key, .. } | SettingError::Conflict { key, .. } => at(key, None),
        _ => at("kind", None),
    }
}
