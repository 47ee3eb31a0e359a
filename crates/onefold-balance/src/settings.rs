//! From a map of settings, as it stands in a recipe, to the typed settings of a method.

use onefold_runtime::params::{Default, Kind, Value};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value as Json};

use crate::error::{SettingError, Words};
use crate::methods::Method;

/// One setting of a balancer.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Param {
    /// Key under `balancer` in a recipe.
    pub name: &'static str,
    /// Values it accepts.
    pub kind: Kind,
    /// What holds if the recipe does not give it.
    pub default: Default,
    /// One sentence for the guide and for error messages.
    pub help: &'static str,
}

/// A learning task, as far as balancing is concerned.
#[derive(Debug, Clone, PartialEq)]
pub struct Task {
    /// Its name.
    pub name: String,
    /// Its static weight; 1 if the recipe gives none.
    pub weight: f64,
}

impl Task {
    /// A task of weight 1.
    pub fn new(name: impl Into<String>) -> Self {
        Self { name: name.into(), weight: 1.0 }
    }
}

/// What a method is built from.
#[derive(Debug, Clone, Copy)]
pub struct Context<'a> {
    /// The tasks, in the recipe's order.
    pub tasks: &'a [Task],
    /// Seed of the run.
    pub seed: u64,
    settings: &'a Map<String, Json>,
    given: &'a Map<String, Json>,
}

impl<'a> Context<'a> {
    /// From [`checked`] settings and those that were given.
    pub fn new(
        tasks: &'a [Task],
        seed: u64,
        settings: &'a Map<String, Json>,
        given: &'a Map<String, Json>,
    ) -> Self {
        Self { tasks, seed, settings, given }
    }

    /// Number of tasks.
    pub fn k(&self) -> usize {
        self.tasks.len()
    }

    /// Whether the recipe gives a key.
    pub fn given(&self, key: &str) -> bool {
        self.given.contains_key(key)
    }

    /// The settings as a struct, whose fields are the method's parameters; those without a value are missing.
    pub fn typed<T: DeserializeOwned>(&self) -> T {
        self.but(&[])
    }

    /// The same without some keys, which are read by themselves.
    pub fn but<T: DeserializeOwned>(&self, others: &[&str]) -> T {
        let mut settings = self.settings.clone();
        settings.retain(|key, _| !others.contains(&key.as_str()));
        serde_json::from_value(Json::Object(settings))
            .expect("a method's parameters and its struct agree, which a test over the table holds")
    }
}

/// The settings of a method, each in its parameter's own form, defaults filled in; or everything that is wrong.
///
/// # Errors
/// One for each key that is unknown or out of its range.
pub fn checked(
    method: &'static Method,
    given: &Map<String, Json>,
) -> Result<Map<String, Json>, Vec<SettingError>> {
    let known = || Words(method.params.iter().map(|p| p.name).collect());
    let mut errors: Vec<SettingError> = given
        .keys()
        .filter(|key| method.param(key).is_none())
        .map(|key| SettingError::UnknownKey { balancer: method.name, key: key.clone(), known: known() })
        .collect();
    let mut settings = Map::new();
    for param in method.params {
        let value = match given.get(param.name) {
            Some(json) => one(param, json).map(Some),
            None => Ok(param.default.value()),
        };
        match value {
            Ok(value) => {
                settings.extend(value.map(|v| (param.name.to_owned(), to_json(&param.kind, &v))));
            }
            Err(error) => errors.push(error),
        }
    }
    if errors.is_empty() { Ok(settings) } else { Err(errors) }
}

/// A value in its parameter's own form.
fn one(param: &Param, json: &Json) -> Result<Value, SettingError> {
    let wrong = |found: String| SettingError::Value {
        key: param.name,
        help: param.help,
        expected: param.kind.to_string(),
        found,
        default: match param.default {
            Default::Optional => "its default".to_owned(),
            default => format!("its default, {default}"),
        },
    };
    let value = from_json(json).ok_or_else(|| wrong(json.to_string()))?;
    param.kind.check(&value).map_err(|_| wrong(value.to_string()))
}

fn from_json(json: &Json) -> Option<Value> {
    match json {
        Json::Bool(flag) => Some(Value::Flag(*flag)),
        Json::Number(number) => number.as_f64().map(Value::Number),
        Json::String(text) => Some(Value::Text(text.clone())),
        Json::Null | Json::Array(_) | Json::Object(_) => None,
    }
}

fn to_json(kind: &Kind, value: &Value) -> Json {
    match (kind, value) {
        // A checked integer is whole and exact.
        (Kind::Integer { .. }, Value::Number(number)) => Json::from(*number as i64),
        (_, Value::Number(number)) => Json::from(*number),
        (_, Value::Flag(flag)) => Json::from(*flag),
        (_, Value::Text(text)) => Json::from(text.as_str()),
        (_, Value::TextList(texts)) => Json::from(texts.clone()),
    }
}
