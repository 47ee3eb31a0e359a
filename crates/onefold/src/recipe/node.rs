//! The tree a recipe's text becomes: scalars with their YAML meaning, lists, mappings, each with its place.

use indexmap::IndexMap;
use onefold_merge::params::parse_number;

use super::problems::Place;
use super::scalar::Meaning;

/// A YAML value and where it stands.
#[derive(Debug, Clone, PartialEq)]
pub struct Node {
    /// Where it begins.
    pub place: Place,
    /// What it is.
    pub data: Data,
}

/// What a [`Node`] is.
#[derive(Debug, Clone, PartialEq)]
pub enum Data {
    /// A scalar: its text, and what that means.
    Scalar {
        /// The text, without quotes.
        text: String,
        /// What YAML 1.1 takes it for.
        meaning: Meaning,
    },
    /// A list.
    List(Vec<Node>),
    /// A mapping, in order.
    Map(IndexMap<String, Entry>),
}

/// The value of a key in a mapping.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// Where the key stands.
    pub place: Place,
    /// The value.
    pub value: Node,
}

/// One document of a stream.
#[derive(Debug, Clone, PartialEq)]
pub struct Document {
    /// Its value.
    pub root: Node,
    /// Its text, as written.
    pub text: String,
}

impl Node {
    /// A node that says nothing.
    pub fn null(place: Place) -> Self {
        Self { place, data: Data::Scalar { text: String::new(), meaning: Meaning::Null } }
    }

    /// Whether the node says "nothing" (`~`, `null`, or an empty value).
    pub fn is_null(&self) -> bool {
        matches!(self.data, Data::Scalar { meaning: Meaning::Null, .. })
    }

    /// What it is, in words for a message.
    pub fn describe(&self) -> String {
        match &self.data {
            Data::List(items) if items.is_empty() => "an empty list".to_owned(),
            Data::List(_) => "a list".to_owned(),
            Data::Map(_) => "a mapping".to_owned(),
            Data::Scalar { meaning: Meaning::Null, .. } => "nothing".to_owned(),
            Data::Scalar { text, meaning: Meaning::Bool(value) } if *text != value.to_string() => {
                format!("`{text}` (the boolean {value})")
            }
            Data::Scalar { text, meaning: Meaning::Bool(_) } => format!("the boolean `{text}`"),
            Data::Scalar { text, meaning: Meaning::Text } if !is_beyond_f64(text) => {
                format!("the text {}", shortened(text))
            }
            Data::Scalar { text, meaning: Meaning::Text | Meaning::Float(_) } if is_beyond_f64(text) => {
                format!("the number {}, which is out of range (at most 1.8e308)", shortened(text))
            }
            Data::Scalar { text, .. } => format!("the number `{text}`"),
        }
    }

    /// Memory this node stands for without its children, roughly in bytes.
    pub(super) fn own_cost(&self) -> usize {
        match &self.data {
            Data::Scalar { text, .. } => 64 + text.len(),
            Data::List(_) => 64,
            Data::Map(entries) => 64 + entries.keys().map(|key| 64 + key.len()).sum::<usize>(),
        }
    }

    /// Memory the whole subtree stands for, roughly in bytes.
    pub(super) fn cost(&self) -> usize {
        self.own_cost() + self.children().map(Self::cost).sum::<usize>()
    }

    /// Levels of the subtree, this node included.
    pub(super) fn depth(&self) -> usize {
        1 + self.children().map(Self::depth).max().unwrap_or(0)
    }

    /// The values alone, for comparisons in tests.
    #[cfg(test)]
    pub(super) fn json(&self) -> serde_json::Value {
        use serde_json::Value;
        match &self.data {
            Data::List(items) => items.iter().map(Self::json).collect(),
            Data::Map(entries) => {
                Value::Object(entries.iter().map(|(key, entry)| (key.clone(), entry.value.json())).collect())
            }
            Data::Scalar { text, meaning } => match meaning {
                Meaning::Null => Value::Null,
                Meaning::Bool(value) => (*value).into(),
                Meaning::Int(value) => (*value).into(),
                Meaning::Float(value) => (*value).into(),
                Meaning::Text => text.as_str().into(),
            },
        }
    }

    fn children(&self) -> Box<dyn Iterator<Item = &Self> + '_> {
        match &self.data {
            Data::Scalar { .. } => Box::new(std::iter::empty()),
            Data::List(items) => Box::new(items.iter()),
            Data::Map(entries) => Box::new(entries.values().map(|entry| &entry.value)),
        }
    }
}

/// Whether `text` is written as a number that no `f64` holds (`1e400`); `.inf` is written as what it is.
pub(super) fn is_beyond_f64(text: &str) -> bool {
    text.bytes().any(|b| b.is_ascii_digit()) && parse_number(text).is_some_and(f64::is_infinite)
}

/// `text` quoted, cut after 40 characters.
pub fn shortened(text: &str) -> String {
    match text.char_indices().nth(40) {
        Some((end, _)) => format!("{:?}…", &text[..end]),
        None => format!("{text:?}"),
    }
}
