//! What the page needs of `onefold.json`. No key is required: a page of a run that told little is better than none.

use serde_json::{Map, Value};

use crate::recipe::to_yaml;

/// Facts of a run, in words.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Record {
    /// Heading of the page.
    pub(super) title: String,
    /// What was trained, and how: under the heading.
    pub(super) facts: Vec<(String, String)>,
    /// Time, memory, versions: at the foot.
    pub(super) run: Vec<(String, String)>,
    /// Sentences.
    pub(super) warnings: Vec<String>,
    /// Most memory that the process had, in words.
    pub(super) peak: Option<String>,
    /// The recipe, as it was written or as YAML with everything that was left to defaults.
    pub(super) recipe: Option<String>,
    /// A command line that does it again.
    pub(super) command: Option<String>,
}

impl Record {
    /// Takes what `onefold.json` has.
    pub(super) fn of(record: &Value) -> Self {
        let Some(record) = record.as_object() else {
            return Self { title: "Joint training".to_owned(), ..Self::default() };
        };
        let text = |key: &str| record.get(key).and_then(Value::as_str).map(str::to_owned);
        Self {
            title: text("title").or_else(|| text("name")).unwrap_or_else(|| "Joint training".to_owned()),
            facts: facts(record),
            run: run(record),
            peak: record.get("run").and_then(|run| scalar(run.get("peak memory")?)),
            warnings: record
                .get("warnings")
                .and_then(Value::as_array)
                .into_iter()
                .flatten()
                .filter_map(sentence)
                .collect(),
            recipe: record
                .get("recipe")
                .filter(|recipe| recipe.is_string() || recipe.is_object())
                .map(written),
            command: text("command"),
        }
    }
}

/// The balancer, the base, and what is trained, where the recipe tells.
fn facts(record: &Map<String, Value>) -> Vec<(String, String)> {
    let within = |path: &[&str]| {
        let recipe = record.get("recipe").into_iter().chain(record.get("resolved"));
        let own = record.get(path[0]).and_then(|value| descend(value, &path[1..]));
        recipe.filter_map(|recipe| descend(recipe, path)).chain(own).find_map(scalar)
    };
    let balancer = within(&["balancer", "kind"]).or_else(|| within(&["balancer"]));
    let facts = [
        ("balancer", balancer),
        ("base", within(&["base_model"])),
        ("adapter", within(&["adapter", "kind"])),
        ("ended early", within(&["result", "ended"])),
        ("result of step", within(&["result", "kept"])),
    ];
    facts.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?))).collect()
}

fn descend<'v>(value: &'v Value, path: &[&str]) -> Option<&'v Value> {
    path.iter().try_fold(value, |value, key| value.get(key))
}

/// Every plain value of `run`, `figures` and `versions`, and the seed.
fn run(record: &Map<String, Value>) -> Vec<(String, String)> {
    let maps = ["run", "figures", "versions"].iter().filter_map(|key| record.get(*key)?.as_object());
    let mut run: Vec<(String, String)> = Vec::new();
    let seed = record.get("seed").map(|seed| ("seed", seed));
    for (key, value) in maps.flatten().map(|(key, value)| (key.as_str(), value)).chain(seed) {
        if let Some(value) = scalar(value).filter(|_| run.iter().all(|(known, _)| known != key)) {
            run.push((key.to_owned(), value));
        }
    }
    run
}

fn scalar(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(_) | Value::Bool(_) => Some(value.to_string()),
        _ => None,
    }
}

fn sentence(warning: &Value) -> Option<String> {
    scalar(warning).or_else(|| scalar(warning.get("message")?))
}

fn written(recipe: &Value) -> String {
    recipe.as_str().map_or_else(|| to_yaml(recipe), str::to_owned)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_there_is_taken() {
        let record = Record::of(&json!({
            "title": "joint", "command": "onefold tune r.yaml -o out", "seed": 3,
            "recipe": {"base_model": "./base", "balancer": {"kind": "coba", "tau": 5}, "adapter": {"kind": "lora"}},
            "run": {"time": "2 s", "peak memory": "3 MB", "seed": "4", "threads": 2, "inner": {}}, "versions": {"onefold": "0.1.0"}, "result": {"kept": 40, "ended": "no progress"},
            "warnings": ["one", {"message": "two"}, [], {"code": 1}],
        }));
        let pairs = |pairs: &[(&str, &str)]| -> Vec<(String, String)> {
            pairs.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect()
        };
        assert_eq!(
            record.facts,
            pairs(&[
                ("balancer", "coba"),
                ("base", "./base"),
                ("adapter", "lora"),
                ("ended early", "no progress"),
                ("result of step", "40")
            ])
        );
        assert_eq!(
            record.run,
            pairs(&[
                ("time", "2 s"),
                ("peak memory", "3 MB"),
                ("seed", "4"),
                ("threads", "2"),
                ("onefold", "0.1.0")
            ])
        );
        assert_eq!(
            (record.warnings, record.title),
            (vec!["one".to_owned(), "two".to_owned()], "joint".to_owned())
        );
        assert!(record.recipe.unwrap().contains("balancer:\n  kind: coba\n  tau: 5\n"));
    }

    #[test]
    fn nothing_is_required() {
        for value in [
            json!(null),
            json!({}),
            json!({"recipe": [1], "run": 1, "versions": null, "seed": {}, "warnings": {}}),
        ] {
            let record = Record::of(&value);
            assert_eq!(record, Record { title: "Joint training".to_owned(), ..Record::default() }, "{value}");
        }
        let record = Record::of(&json!({"recipe": "tasks: []", "balancer": "uniform"}));
        assert_eq!(record.recipe.as_deref(), Some("tasks: []"));
        assert_eq!(record.facts, [("balancer".to_owned(), "uniform".to_owned())]);
    }
}
