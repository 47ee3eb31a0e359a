//! Reading the keys of a mapping into typed values, each judged where it stands.

use onefold_runtime::params::{Kind, Value};
use serde_json::{Map, Number, Value as Json};

use super::fields::{self, Fields};
use super::node::{Data, Node, is_beyond_f64, shortened};
use super::problems::{Place, Problems, listed, suggestion};
use super::scalar::Meaning;

/// A mapping that is being read, with where its problems go.
pub(in crate::recipe) struct Keys<'n, 'p> {
    fields: Fields<'n>,
    pub(in crate::recipe) problems: &'p mut Problems,
    pub(in crate::recipe) place: Place,
    /// Its own path.
    pub(in crate::recipe) path: String,
}

/// A finite number above zero.
pub(in crate::recipe) const POSITIVE: Kind = Kind::Number { min: 0.0, max: f64::INFINITY, min_open: true };
/// A finite number of at least zero.
pub(in crate::recipe) const NOT_NEGATIVE: Kind =
    Kind::Number { min: 0.0, max: f64::INFINITY, min_open: false };
/// From nothing to all.
pub(in crate::recipe) const SHARE: Kind = Kind::Number { min: 0.0, max: 1.0, min_open: false };

impl<'n, 'p> Keys<'n, 'p> {
    /// The keys of `node`, which describes `what`.
    pub(in crate::recipe) fn of(
        node: &'n Node,
        path: &str,
        what: &str,
        problems: &'p mut Problems,
    ) -> Option<Self> {
        let fields = Fields::of(node, path, what, problems)?;
        Some(Self { fields, problems, place: node.place, path: path.to_owned() })
    }

    /// What stands under `key`.
    pub(in crate::recipe) fn node(&mut self, key: &'static str) -> Option<&'n Node> {
        self.fields.get(key)
    }

    /// The keys of the mapping under `key`.
    pub(in crate::recipe) fn mapping(&mut self, key: &'static str, what: &str) -> Option<Keys<'n, '_>> {
        let node = self.fields.get(key)?;
        Keys::of(node, &self.fields.path(key), what, self.problems)
    }

    /// A number of a kind.
    pub(in crate::recipe) fn number(&mut self, key: &'static str, kind: &Kind) -> Option<f64> {
        let node = self.fields.get(key)?;
        number(node, &self.fields.path(key), kind, self.problems)
    }

    /// A whole number of at least `least`.
    pub(in crate::recipe) fn count(&mut self, key: &'static str, least: i64) -> Option<u64> {
        self.number(key, &Kind::Integer { min: least, max: i64::MAX }).map(|number| number as u64)
    }

    /// True or false.
    pub(in crate::recipe) fn flag(&mut self, key: &'static str) -> Option<bool> {
        let node = self.fields.get(key)?;
        fields::flag(node, &self.fields.path(key), self.problems)
    }

    /// One of the words of a table.
    pub(in crate::recipe) fn choice<T: Copy>(
        &mut self,
        key: &'static str,
        words: &[(&'static str, T)],
    ) -> Option<T> {
        let node = self.fields.get(key)?;
        choice(node, &self.fields.path(key), words, self.problems)
    }

    /// A text.
    pub(in crate::recipe) fn text(&mut self, key: &'static str, what: &str) -> Option<&'n str> {
        let node = self.fields.get(key)?;
        fields::text(node, &self.fields.path(key), what, self.problems)
    }

    /// A text, or a list of texts.
    pub(in crate::recipe) fn texts(&mut self, key: &'static str, what: &str) -> Option<Vec<String>> {
        let node = self.fields.get(key)?;
        texts(node, &self.fields.path(key), what, self.problems)
    }

    /// A mapping as JSON; numbers that YAML 1.1 takes for text stay text.
    pub(in crate::recipe) fn json(&mut self, key: &'static str, what: &str) -> Option<Map<String, Json>> {
        let node = self.fields.get(key)?;
        match json(node) {
            Json::Object(map) => Some(map),
            _ => {
                fields::unexpected(node, &self.fields.path(key), what, self.problems);
                None
            }
        }
    }

    /// Path of a key.
    pub(in crate::recipe) fn path(&self, key: &str) -> String {
        self.fields.path(key)
    }

    /// Where a key stands, else where the mapping does.
    pub(in crate::recipe) fn place_of(&self, key: &str) -> Place {
        self.fields.place(key).unwrap_or(self.place)
    }

    /// Whether a key has a value here.
    pub(in crate::recipe) fn has(&self, key: &str) -> bool {
        self.fields.has(key)
    }

    /// Reports something that is wrong with a key.
    pub(in crate::recipe) fn error(&mut self, key: &str, message: impl Into<String>, help: Option<&str>) {
        let (place, path) = (self.place_of(key), self.path(key));
        self.problems.error(place, &path, message, help.map(str::to_owned));
    }

    /// Reports keys that have no effect here, and why.
    pub(in crate::recipe) fn unused(&mut self, keys: &[&'static str], why: &str) {
        keys.iter().for_each(|key| self.fields.unused(key, why, self.problems));
    }

    /// Reports all keys that were not asked for.
    pub(in crate::recipe) fn finish(self) {
        self.fields.finish_with(|_, key| super::tune::spellings::home(key), self.problems);
    }
}

/// A number of a kind. Text that reads as a number is one: `2e-5` is text in YAML 1.1.
pub(in crate::recipe) fn number(
    node: &Node,
    path: &str,
    kind: &Kind,
    problems: &mut Problems,
) -> Option<f64> {
    let value = match &node.data {
        Data::Scalar { meaning: Meaning::Int(n), .. } => Value::Number(*n as f64),
        Data::Scalar { meaning: Meaning::Float(x), .. } => Value::Number(*x),
        Data::Scalar { text, meaning: Meaning::Text } if !is_beyond_f64(text) => Value::Text(text.clone()),
        _ => {
            fields::unexpected(node, path, &kind.to_string(), problems);
            return None;
        }
    };
    match kind.check(&value) {
        Ok(value) => value.as_number(),
        Err(_) => {
            fields::unexpected(node, path, &kind.to_string(), problems);
            None
        }
    }
}

/// One of the words of a table.
pub(in crate::recipe) fn choice<T: Copy>(
    node: &Node,
    path: &str,
    words: &[(&'static str, T)],
    problems: &mut Problems,
) -> Option<T> {
    let names = || words.iter().map(|(word, _)| *word);
    let text = match &node.data {
        Data::Scalar { text, .. } => text.as_str(),
        _ => {
            fields::unexpected(node, path, &format!("one of {}", listed(names())), problems);
            return None;
        }
    };
    let found = words.iter().find(|(word, _)| *word == text).map(|(_, value)| *value);
    if found.is_none() {
        let message = format!("expected one of {}, found {}", listed(names()), shortened(text));
        problems.error(node.place, path, message, suggestion(text, names()));
    }
    found
}

/// The word of a value in a table.
pub(in crate::recipe) fn word<T: PartialEq>(words: &[(&'static str, T)], value: &T) -> &'static str {
    words.iter().find(|(_, known)| known == value).map_or("", |(word, _)| word)
}

/// A text, or a list of texts, each not empty.
pub(in crate::recipe) fn texts(
    node: &Node,
    path: &str,
    what: &str,
    problems: &mut Problems,
) -> Option<Vec<String>> {
    if !matches!(node.data, Data::List(_)) {
        return Some(vec![fields::text(node, path, what, problems)?.to_owned()]);
    }
    let items = fields::list(node, path, what, problems)?;
    let texts = items.iter().enumerate();
    let texts = texts.map(|(i, item)| fields::text(item, &format!("{path}[{i}]"), what, problems));
    texts.map(|text| text.map(str::to_owned)).collect()
}

/// A node as JSON. Infinities, which JSON has not, become their text.
pub(in crate::recipe) fn json(node: &Node) -> Json {
    match &node.data {
        Data::List(items) => items.iter().map(json).collect(),
        Data::Map(entries) => {
            Json::Object(entries.iter().map(|(key, entry)| (key.clone(), json(&entry.value))).collect())
        }
        Data::Scalar { text, meaning } => match meaning {
            Meaning::Null => Json::Null,
            Meaning::Bool(value) => Json::from(*value),
            Meaning::Int(value) => Json::from(*value),
            Meaning::Float(value) => {
                Number::from_f64(*value).map_or_else(|| Json::from(text.as_str()), Json::Number)
            }
            Meaning::Text => Json::from(text.as_str()),
        },
    }
}
