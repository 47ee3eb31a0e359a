//! Coefficients in a file of their own: what `onefold adapt` has learnt, and what a merge reads by `coefficients: FILE`.
//!
//! ```json
//! {
//!   "format": "onefold.coefficients/1",
//!   "models": ["./expert-a", "./expert-b"],
//!   "granularity": "tensor",
//!   "coefficients": {"model.layers.0.self_attn.q_proj.weight": [0.31, 0.27]}
//! }
//! ```
//!
//! A key of `coefficients` is a tensor, a layer or module (the first part of its tensors' names, up to a dot), or `*`; the nearest
//! one counts. Its values are those of the models, in their order. Other keys of the file say how they came about and are not
//! read. Names may lack the prefix of the base model (`model.`, `bert.`) on either side.

use std::path::Path;

use indexmap::IndexMap;
use serde_json::{Map, Value, json};

use super::Recipe;
use super::problems::{Located, Problems};

/// The form of the file.
const FORMAT: &str = "onefold.coefficients/1";
/// What may stand in it beside what is read.
const KNOWN: [&str; 12] = [
    "format",
    "models",
    "base_model",
    "tasks",
    "granularity",
    "method",
    "density",
    "objective",
    "steps",
    "kept",
    "onefold",
    "coefficients",
];

/// Coefficients of tensors.
#[derive(Debug, Clone, PartialEq)]
pub struct Coefficients {
    /// The models as the file names them.
    pub models: Vec<String>,
    /// By tensor, layer, module or `*`: one number per model.
    pub values: IndexMap<String, Vec<f64>>,
}

/// The file that a recipe names, and what stands in it once it was read.
#[derive(Debug, Clone, PartialEq)]
pub struct Given {
    /// Path of the file, relative to the recipe.
    pub path: Located<String>,
    /// What stands in it.
    pub read: Option<Coefficients>,
}

impl Coefficients {
    /// Reads the text of a file.
    ///
    /// # Errors
    /// A sentence that says what is wrong with it.
    pub fn parse(text: &str) -> Result<Self, String> {
        let file: Map<String, Value> =
            serde_json::from_str(text).map_err(|error| format!("no JSON object: {error}"))?;
        match file.get("format").and_then(Value::as_str) {
            Some(FORMAT) => {}
            Some(other) => return Err(format!("`format` is {other:?}, expected {FORMAT:?}")),
            None => return Err(format!("no `format`, expected {FORMAT:?}")),
        }
        if let Some(key) = file.keys().find(|key| !KNOWN.contains(&key.as_str())) {
            let help = super::did_you_mean(key, KNOWN.iter().copied());
            let help = help.map_or(String::new(), |near| format!("; did you mean `{near}`?"));
            return Err(format!("unknown key `{key}`{help}"));
        }
        let models: Option<Vec<String>> =
            file.get("models").and_then(|v| serde_json::from_value(v.clone()).ok());
        let models = models.ok_or("`models`: expected a list of names")?;
        let entries = file.get("coefficients").and_then(Value::as_object);
        let entries = entries.ok_or("`coefficients`: expected an object from tensors to lists of numbers")?;
        let mut values = IndexMap::new();
        for (name, value) in entries {
            let numbers: Option<Vec<f64>> = serde_json::from_value(value.clone()).ok();
            match numbers.filter(|numbers| numbers.len() == models.len()) {
                Some(numbers) => drop(values.insert(name.clone(), numbers)),
                None => {
                    let shown = super::node::shortened(&value.to_string());
                    return Err(format!(
                        "`coefficients.{name}`: expected {} numbers, found {shown}",
                        models.len()
                    ));
                }
            }
        }
        if values.is_empty() {
            return Err("`coefficients` is empty".to_owned());
        }
        Ok(Self { models, values })
    }

    /// Those of a tensor: of its own name, else of the longest beginning that ends before a dot, else of `*`.
    pub fn of(&self, tensor: &str) -> Option<&[f64]> {
        let without = tensor.split_once('.').map(|(_, rest)| rest);
        let named = |name: &str| self.values.get(name);
        let beginnings = |name: &str| -> Option<&Vec<f64>> {
            let mut name = name;
            loop {
                if let Some(found) = named(name) {
                    return Some(found);
                }
                name = name.rsplit_once('.')?.0;
            }
        };
        // A key with a prefix that the tensor lacks.
        let prefixed = || {
            let ends = |key: &&String| key.split_once('.').is_some_and(|(_, rest)| rest == tensor);
            self.values.keys().find(ends).and_then(|key| named(key))
        };
        let found = beginnings(tensor).or_else(|| without.and_then(beginnings)).or_else(prefixed);
        found.or_else(|| named("*")).map(Vec::as_slice)
    }

    /// The text of a file with these coefficients; `more` says how they came about.
    pub fn to_json(&self, more: &Map<String, Value>) -> String {
        let mut file = Map::new();
        file.insert("format".to_owned(), json!(FORMAT));
        file.extend(more.clone());
        file.insert("models".to_owned(), json!(self.models));
        file.insert("coefficients".to_owned(), json!({}));
        let text = serde_json::to_string_pretty(&file).unwrap_or_default();
        // One line per tensor: thousands of lines of one number each are nothing to read.
        let line = |(name, values): (&String, &Vec<f64>)| format!("    {}: {}", json!(name), json!(values));
        let lines: Vec<String> = self.values.iter().map(line).collect();
        let made = text.replacen(
            "\"coefficients\": {}",
            &format!("\"coefficients\": {{\n{}\n  }}", lines.join(",\n")),
            1,
        );
        format!("{made}\n")
    }
}

impl Recipe {
    /// Reads the file that `coefficients` names, and judges it against the models; paths are looked up in `dir`.
    pub fn read_coefficients(&mut self, dir: &Path, problems: &mut Problems) {
        let Some(given) = &mut self.coefficients else { return };
        let path = dir.join(&given.path.value);
        let read = std::fs::read_to_string(&path).map_err(|error| format!("cannot be read: {error}"));
        match read.and_then(|text| Coefficients::parse(&text)) {
            Ok(found) => given.read = Some(found),
            Err(message) => {
                let message = format!("{}: {message}", path.display());
                return problems.error(given.path.place, "coefficients", message, None);
            }
        }
        let sources = self.layout.sources();
        let experts: Vec<_> =
            sources.iter().filter(|source| Some(&source.model) != self.base_model.as_ref()).collect();
        let found = given.read.as_ref().map_or(0, |read| read.models.len());
        if found != experts.len() {
            let message = format!(
                "{} has coefficients of {found} models, the recipe has {}",
                path.display(),
                experts.len()
            );
            let help = "list the models that it names, in its order".to_owned();
            problems.error(given.path.place, "coefficients", message, Some(help));
        }
        for source in experts.iter().filter(|source| source.parameters.contains_key("weight")) {
            let help = "leave one of them out".to_owned();
            let message = "`weight` beside `coefficients`, which gives the weights".to_owned();
            problems.error(source.at.place, &source.at.path, message, Some(help));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = r#"{"format": "onefold.coefficients/1", "models": ["a", "b"], "granularity": "tensor",
        "coefficients": {"bert.encoder.layer.1": [0.1, 0.2], "bert.encoder.layer.1.x.weight": [0.3, 0.4], "*": [0.5, 0.6]}}"#;

    #[test]
    fn the_nearest_entry_counts() {
        let read = Coefficients::parse(FILE).unwrap();
        for (tensor, expected) in [
            ("bert.encoder.layer.1.x.weight", 0.3),
            ("encoder.layer.1.x.weight", 0.3),
            ("bert.encoder.layer.1.y.bias", 0.1),
            ("bert.encoder.layer.10.y.bias", 0.5),
            ("norm.weight", 0.5),
        ] {
            assert_eq!(read.of(tensor).unwrap()[0], expected, "{tensor}");
        }
        let text = read.to_json(&Map::new());
        assert_eq!(Coefficients::parse(&text).unwrap(), read);
        assert!(text.contains("\n    \"*\": [0.5,0.6]\n  }"), "{text}");
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (from, to, part) in [
            ("coefficients/1", "coefficients/9", "expected \"onefold.coefficients/1\""),
            ("\"models\"", "\"model\"", "did you mean `models`?"),
            ("[0.3, 0.4]", "[0.3]", "`coefficients.bert.encoder.layer.1.x.weight`: expected 2 numbers"),
            ("[0.3, 0.4]", "\"x\"", "expected 2 numbers, found"),
            ("}}", "", "no JSON object"),
        ] {
            let error = Coefficients::parse(&FILE.replacen(from, to, 1)).unwrap_err();
            assert!(error.contains(part), "{error}");
        }
    }
}
