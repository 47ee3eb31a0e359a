//! Settings: what may stand under `parameters`, and the value it has for one tensor.
//!
//! A setting is a value, a gradient over the depth of a slice, or a list of cases by tensor name. With n values
//! and depth t in [0, 1] a gradient has, with s = t·(n−1) and i = ⌊s⌋, the value (1−f)·vᵢ + f·vᵢ₊₁ where
//! f = s−i; a list of booleans has vᵢ. Of a list of cases the first one counts whose `filter` is absent, `*`
//! or a substring of the tensor's name (no glob, no regular expression); if none fits, the next level is asked
//! ([`resolve`]).
//!
//! Deviation from mergekit 0.1.4: a single `{value, filter}` mapping works as it reads there, instead of failing
//! once the merge has begun.

use indexmap::IndexMap;
use serde::{Serialize, Serializer};

use onefold_merge::params::{Value, parse_number};

use super::fields::{self, Fields, join};
use super::node::{Data, Node, is_beyond_f64};
use super::problems::{Located, Problems};
use super::scalar::Meaning;

/// Most entries of a list of cases: they are compared with one another, and searched for every tensor.
const MAX_CASES: usize = 1000;

/// What stands under one `parameters` key, in the recipe's order.
pub type Parameters = IndexMap<String, Located<Setting>>;

/// The value of a key under `parameters`.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Setting {
    /// The same for all tensors of a depth.
    Plain(Plain),
    /// By tensor name; never empty.
    Conditional(Vec<Case>),
}

/// A setting that does not ask for the tensor's name.
#[derive(Debug, Clone, PartialEq)]
pub enum Plain {
    /// A number. Text that reads as a number is one.
    Number(f64),
    /// A boolean.
    Flag(bool),
    /// A text that is no number.
    Text(String),
    /// Numbers at equal distances from depth 0 to depth 1; never empty.
    Gradient(Vec<f64>),
    /// Booleans, each from its depth to the next one's; never empty.
    Flags(Vec<bool>),
    /// Texts, at least one of which is no number.
    TextList(Vec<String>),
}

/// One entry of a list of cases.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Case {
    /// Substring of the tensor names it is for; `None` for all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub filter: Option<String>,
    /// Its value.
    pub value: Located<Plain>,
}

/// The value of `name` for a tensor at depth `t`: of the first level that has one.
pub fn resolve(name: &str, levels: &[&Parameters], tensor_name: &str, t: f64) -> Option<Value> {
    levels.iter().find_map(|level| level.get(name)?.value.evaluate(tensor_name, t))
}

impl Setting {
    /// The value for a tensor at depth `t`; `None` if no case fits its name.
    pub fn evaluate(&self, tensor_name: &str, t: f64) -> Option<Value> {
        match self {
            Self::Plain(plain) => plain.evaluate(t),
            Self::Conditional(cases) => {
                cases.iter().find(|case| case.fits(tensor_name))?.value.value.evaluate(t)
            }
        }
    }
}

impl Case {
    /// Whether the case is for this tensor.
    pub fn fits(&self, tensor_name: &str) -> bool {
        self.filter.as_deref().is_none_or(|filter| tensor_name.contains(filter))
    }
}

impl Plain {
    /// The value at depth `t` (held to [0, 1]).
    pub fn evaluate(&self, t: f64) -> Option<Value> {
        Some(match self {
            Self::Number(number) => Value::Number(*number),
            Self::Flag(flag) => Value::Flag(*flag),
            Self::Text(text) => Value::Text(text.clone()),
            Self::TextList(texts) => Value::TextList(texts.clone()),
            Self::Flags(flags) => Value::Flag(*flags.get(position(t, flags.len()).0)?),
            Self::Gradient(values) => {
                let (low, share) = position(t, values.len());
                let first = *values.get(low)?;
                let second = values.get(low + 1).unwrap_or(&first);
                Value::Number((1.0 - share) * first + share * second)
            }
        })
    }
}

/// Where depth `t` lies between `n` values: the index below, and the share of the next one.
fn position(t: f64, n: usize) -> (usize, f64) {
    let scaled = if t.is_nan() { 0.0 } else { t.clamp(0.0, 1.0) } * n.saturating_sub(1) as f64;
    (scaled.floor() as usize, scaled.fract())
}

/// In the form it is read in.
impl Serialize for Plain {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Number(number) => serializer.serialize_f64(*number),
            Self::Flag(flag) => serializer.serialize_bool(*flag),
            Self::Text(text) => serializer.serialize_str(text),
            Self::Gradient(values) => serializer.collect_seq(values),
            Self::Flags(flags) => serializer.collect_seq(flags),
            Self::TextList(texts) => serializer.collect_seq(texts),
        }
    }
}

/// Reads a `parameters` mapping.
pub fn read(node: Option<&Node>, path: &str, problems: &mut Problems) -> Parameters {
    let mut parameters = Parameters::new();
    let Some(node) = node else { return parameters };
    let Data::Map(entries) = &node.data else {
        fields::unexpected(node, path, "a mapping of settings", problems);
        return parameters;
    };
    for (name, entry) in entries {
        if let Some(setting) = setting(&entry.value, &join(path, name), problems) {
            parameters.insert(name.clone(), Located::new(setting, entry.place));
        }
    }
    parameters
}

fn setting(node: &Node, path: &str, problems: &mut Problems) -> Option<Setting> {
    match &node.data {
        Data::Map(_) => Some(Setting::Conditional(vec![case(node, path, problems)?])),
        Data::List(items) if items.iter().any(is_map) => {
            if !items.iter().all(is_map) {
                let message = "expected a list of numbers or a list of `{filter, value}`, found a mixture";
                problems.error(node.place, path, message, None);
                return None;
            }
            if items.len() > MAX_CASES {
                let message = format!("{} cases, more than the {MAX_CASES} that are allowed", items.len());
                problems.error(node.place, path, message, None);
                return None;
            }
            let cases =
                items.iter().enumerate().map(|(i, item)| case(item, &format!("{path}[{i}]"), problems));
            // Read all before giving up, so that every case's problems are seen.
            let cases: Vec<_> = cases.collect();
            cases.into_iter().collect::<Option<_>>().map(Setting::Conditional)
        }
        _ => plain(node, path, problems).map(Setting::Plain),
    }
}

fn is_map(node: &Node) -> bool {
    matches!(node.data, Data::Map(_))
}

/// `{filter, value}`.
fn case(node: &Node, path: &str, problems: &mut Problems) -> Option<Case> {
    let mut fields = Fields::of(node, path, "a case", problems)?;
    let filter = match fields.get("filter") {
        Some(node) => Some(fields::text(node, &fields.path("filter"), "part of a tensor name", problems)?),
        None => None,
    };
    let value = match fields.get("value") {
        Some(node) => {
            let value = plain(node, &fields.path("value"), problems);
            value.map(|value| Located::new(value, node.place))
        }
        None => {
            let help = "a case is `{filter: part of a tensor name, value: …}`".to_owned();
            problems.error(node.place, path, "no `value`", Some(help));
            None
        }
    };
    fields.finish(problems);
    let filter = filter.filter(|filter| *filter != "*").map(str::to_owned);
    value.map(|value| Case { filter, value })
}

/// Reads a setting that does not ask for the tensor's name.
pub(super) fn plain(node: &Node, path: &str, problems: &mut Problems) -> Option<Plain> {
    match &node.data {
        Data::List(items) if items.is_empty() => {
            problems.error(node.place, path, "an empty list has no value", None);
            None
        }
        Data::List(items) => gradient(items, path, problems),
        Data::Map(_) => {
            fields::unexpected(node, path, "a value or a list of values", problems);
            None
        }
        Data::Scalar { meaning: Meaning::Null, .. } => {
            let help = "give it a value or remove the key".to_owned();
            problems.error(node.place, path, "no value", Some(help));
            None
        }
        Data::Scalar { text, meaning } => {
            let value = scalar(text, *meaning);
            if value.is_none() {
                fields::unexpected(node, path, "a finite number", problems);
            }
            value
        }
    }
}

/// `None` for nothing, for `.nan` and `.inf`, and for numbers beyond any `f64`: they are no value of any setting.
fn scalar(text: &str, meaning: Meaning) -> Option<Plain> {
    match meaning {
        Meaning::Null => None,
        Meaning::Bool(flag) => Some(Plain::Flag(flag)),
        Meaning::Int(number) => Some(Plain::Number(number as f64)),
        Meaning::Float(number) => number.is_finite().then_some(Plain::Number(number)),
        Meaning::Text if is_beyond_f64(text) => None,
        Meaning::Text => Some(match parse_number(text).filter(|number| number.is_finite()) {
            Some(number) => Plain::Number(number),
            None => Plain::Text(text.to_owned()),
        }),
    }
}

/// A list of scalars: numbers, booleans or texts. Booleans among numbers are 1 and 0.
fn gradient(items: &[Node], path: &str, problems: &mut Problems) -> Option<Plain> {
    let scalars: Vec<_> = items.iter().map(item).collect();
    let number = |value: &Option<Plain>| match value {
        Some(Plain::Number(number)) => Some(*number),
        Some(Plain::Flag(flag)) => Some(f64::from(u8::from(*flag))),
        _ => None,
    };
    let flag = |value: &Option<Plain>| if let Some(Plain::Flag(flag)) = value { Some(*flag) } else { None };
    let text = |item: &Node| match &item.data {
        Data::Scalar { text, meaning: Meaning::Text } => Some(text.clone()),
        _ => None,
    };
    if let Some(flags) = scalars.iter().map(flag).collect() {
        return Some(Plain::Flags(flags));
    }
    if let Some(numbers) = scalars.iter().map(number).collect() {
        return Some(Plain::Gradient(numbers));
    }
    if let Some(texts) = items.iter().map(text).collect() {
        return Some(Plain::TextList(texts));
    }
    let odd = items.iter().zip(&scalars).find(|(_, value)| number(value).is_none());
    if let Some((odd, _)) = odd {
        fields::unexpected(odd, path, "finite numbers in the list", problems);
    }
    None
}

fn item(node: &Node) -> Option<Plain> {
    match &node.data {
        Data::Scalar { text, meaning } => scalar(text, *meaning),
        _ => None,
    }
}
