//! Reading a mapping key by key, so that keys nobody asked for are known at the end.
//!
//! A reader takes its keys with [`Fields::get`] and ends with [`Fields::finish`], which reports every other
//! key: with the place it belongs to if it is a key of another level (the commonest error is `weight:` beside
//! `model:` instead of under `parameters:`), else with the most similar key, else with the keys there are.

use indexmap::IndexMap;

use super::node::{Data, Entry, Node, shortened};
use super::problems::{Place, Problems, listed, suggestion};
use super::scalar::Meaning;

/// A mapping that is being read.
#[derive(Debug)]
pub struct Fields<'n> {
    path: String,
    entries: &'n IndexMap<String, Entry>,
    known: Vec<&'static str>,
    /// Keys that are reported already and offered to nobody.
    unused: Vec<&'static str>,
}

/// Keys of the recipe's top level.
pub const TOP: [&str; 14] = [
    "merge_method",
    "base_model",
    "models",
    "slices",
    "modules",
    "parameters",
    "coefficients",
    "head",
    "dtype",
    "out_dtype",
    "tokenizer",
    "tokenizer_source",
    "chat_template",
    "name",
];

/// Settings that are often written outside `parameters:`. Only help texts depend on this list.
const SETTINGS: [&str; 19] = [
    "weight",
    "density",
    "gamma",
    "epsilon",
    "lambda",
    "normalize",
    "rescale",
    "int8_mask",
    "t",
    "scale",
    "filter_wise",
    "select_topk",
    "max_iter",
    "tol",
    "alpha",
    "floor",
    "ratio",
    "transposed",
    "mean_elsewhere",
];

impl<'n> Fields<'n> {
    /// The keys of `node`, which must be a mapping; `what` says what it describes.
    pub fn of(node: &'n Node, path: &str, what: &str, problems: &mut Problems) -> Option<Self> {
        match &node.data {
            Data::Map(entries) => {
                Some(Self { path: path.to_owned(), entries, known: Vec::new(), unused: Vec::new() })
            }
            _ => {
                let message = format!("expected {what} (a mapping), found {}", node.describe());
                problems.error(node.place, path, message, None);
                None
            }
        }
    }

    /// The value of `key`, if there is one.
    pub fn get(&mut self, key: &'static str) -> Option<&'n Node> {
        self.known.push(key);
        self.entries.get(key).map(|entry| &entry.value).filter(|value| !value.is_null())
    }

    /// Path of `key` in this mapping.
    pub fn path(&self, key: &str) -> String {
        join(&self.path, key)
    }

    /// Where `key` stands, if it does.
    pub fn place(&self, key: &str) -> Option<Place> {
        self.entries.get(key).map(|entry| entry.place)
    }

    /// Whether `key` has a value: an empty one is none.
    pub fn has(&self, key: &str) -> bool {
        self.entries.get(key).is_some_and(|entry| !entry.value.is_null())
    }

    /// Reports a key that is accepted elsewhere but read by nobody here.
    pub fn unused(&mut self, key: &'static str, help: &str, problems: &mut Problems) {
        self.unused.push(key);
        if let Some(entry) = self.entries.get(key) {
            let message = format!("`{key}` has no effect");
            problems.ineffective(entry.place, &self.path(key), message, Some(help.to_owned()));
        }
    }

    /// Reports all keys that were not asked for, as keys of a merge.
    pub fn finish(self, problems: &mut Problems) {
        self.finish_with(Self::home, problems);
    }

    /// The same; `home` says where a key belongs that is wrong here, if it knows.
    pub fn finish_with(self, home: impl Fn(&Self, &str) -> Option<String>, problems: &mut Problems) {
        for (key, entry) in self.entries {
            if self.known.contains(&key.as_str()) || self.unused.contains(&key.as_str()) {
                continue;
            }
            let keys = || format!("the keys here are {}", listed(self.known.iter().copied()));
            let help = home(&self, key).or_else(|| suggestion(key, self.known.iter().copied()));
            let message = format!("unknown key {}", quoted(key));
            problems.ineffective(entry.place, &self.path, message, help.or_else(|| Some(keys())));
        }
    }

    /// Where a known key that is wrong here belongs.
    fn home(&self, key: &str) -> Option<String> {
        if SETTINGS.contains(&key) && self.known.contains(&"parameters") {
            return Some("settings of the merge method stand under `parameters:`".to_owned());
        }
        match key {
            "layer_range" => Some("`layer_range` stands in the `sources` of `slices`".to_owned()),
            "sources" => Some("`sources` stands in an entry of `slices`".to_owned()),
            "model" if self.known.contains(&"models") => {
                Some("`model` stands in an entry of `models`, as in `models: [{model: …}]`".to_owned())
            }
            "statistics" => Some("`statistics` stands beside `model`".to_owned()),
            "task" => Some("`task` stands beside `model`".to_owned()),
            _ if TOP.contains(&key) && !self.path.is_empty() => {
                Some(format!("`{key}` stands at the top level of the recipe"))
            }
            _ => None,
        }
    }
}

/// `path` extended by `key`.
pub fn join(path: &str, key: &str) -> String {
    let plain = !key.is_empty() && key.chars().all(|c| c.is_alphanumeric() || c == '_' || c == '-');
    let key = if plain { key.to_owned() } else { shortened(key) };
    if path.is_empty() { key } else { format!("{path}.{key}") }
}

fn quoted(key: &str) -> String {
    if key.len() <= 40 && key.chars().all(|c| c.is_alphanumeric() || c == '_' || c == '-') {
        format!("`{key}`")
    } else {
        shortened(key)
    }
}

/// Reports that `node` is not what was `expected`.
pub fn unexpected(node: &Node, path: &str, expected: &str, problems: &mut Problems) {
    problems.error(node.place, path, format!("expected {expected}, found {}", node.describe()), None);
}

/// A text that is not empty. Numbers, booleans and nothing are no text unless quoted.
pub fn text<'n>(node: &'n Node, path: &str, what: &str, problems: &mut Problems) -> Option<&'n str> {
    match &node.data {
        Data::Scalar { text, meaning: Meaning::Text } if !text.is_empty() => return Some(text),
        Data::Scalar { text, meaning } if *meaning != Meaning::Text => {
            let help = Some(format!("write it in quotes: \"{text}\""));
            let message = format!("expected {what}, found {}", node.describe());
            problems.error(node.place, path, message, help);
        }
        _ => unexpected(node, path, what, problems),
    }
    None
}

/// A whole number that is not negative.
pub fn count(node: &Node, path: &str, what: &str, problems: &mut Problems) -> Option<usize> {
    const EXACT: f64 = 9_007_199_254_740_992.0; // 2^53
    let number = match &node.data {
        Data::Scalar { meaning: Meaning::Int(n), .. } => usize::try_from(*n).ok(),
        Data::Scalar { meaning: Meaning::Float(x), .. } if x.fract() == 0.0 && (0.0..=EXACT).contains(x) => {
            Some(*x as usize)
        }
        Data::Scalar { text, meaning: Meaning::Text } => text.trim().parse().ok(),
        _ => None,
    };
    if number.is_none() {
        unexpected(node, path, what, problems);
    }
    number
}

/// A boolean; 0 and 1 count as one.
pub fn flag(node: &Node, path: &str, problems: &mut Problems) -> Option<bool> {
    match &node.data {
        Data::Scalar { meaning: Meaning::Bool(value), .. } => return Some(*value),
        Data::Scalar { meaning: Meaning::Int(value @ (0 | 1)), .. } => return Some(*value == 1),
        _ => unexpected(node, path, "true or false", problems),
    }
    None
}

/// A list with at least one element.
pub fn list<'n>(node: &'n Node, path: &str, what: &str, problems: &mut Problems) -> Option<&'n [Node]> {
    match &node.data {
        Data::List(items) if !items.is_empty() => Some(items),
        _ => {
            unexpected(node, path, what, problems);
            None
        }
    }
}
