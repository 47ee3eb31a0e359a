//! Values of a row, and examples that are little more than their values.

use serde_json::Value;

use super::columns::Meaning;
use super::{Example, Label, Layout};
use crate::data::error::RowProblem;
use crate::data::source::Row;
use crate::json::shown;

/// The value under `key`; null is as good as absent.
pub(super) fn optional<'a>(row: &'a Row, key: &str) -> Option<&'a Value> {
    row.values.get(key).filter(|value| !value.is_null())
}

/// The value under `key`.
pub(super) fn required<'a>(row: &'a Row, key: &str) -> Result<&'a Value, RowProblem> {
    optional(row, key).ok_or_else(|| RowProblem::Missing { key: key.to_owned(), keys: row.keys() })
}

pub(super) fn wrong(key: impl Into<String>, expected: &'static str, found: &Value) -> RowProblem {
    RowProblem::Wrong { key: key.into(), expected, found: shown(found) }
}

/// The text under `key`.
pub(super) fn text<'a>(row: &'a Row, key: &str) -> Result<&'a str, RowProblem> {
    let value = required(row, key)?;
    value.as_str().ok_or_else(|| wrong(key, "text", value))
}

/// The text under the key with a meaning; none if there is no such key, or no text.
pub(super) fn optional_text<'a>(
    row: &'a Row,
    layout: &Layout,
    meaning: Meaning,
) -> Result<Option<&'a str>, RowProblem> {
    let Some(key) = layout.columns.get(meaning) else { return Ok(None) };
    match optional(row, key) {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.as_str()).filter(|text| !text.is_empty())),
        Some(other) => Err(wrong(key, "text", other)),
    }
}

/// The key with a meaning that the shape needs.
pub(super) fn key(layout: &Layout, meaning: Meaning) -> Result<&str, RowProblem> {
    let missing = || RowProblem::Missing {
        key: format!("columns.{}", meaning.name()),
        keys: layout.columns.to_string(),
    };
    layout.columns.get(meaning).ok_or_else(missing)
}

/// The class of a row: a number or a name; none if the layout has no label.
pub(super) fn optional_label(row: &Row, layout: &Layout) -> Result<Option<Label>, RowProblem> {
    layout.columns.get(Meaning::Label).map(|key| label(row, key)).transpose()
}

fn label(row: &Row, key: &str) -> Result<Label, RowProblem> {
    let value = required(row, key)?;
    let expected = "a class: a whole number or a name";
    match value {
        Value::Number(number) => number.as_i64().map(Label::Id).ok_or_else(|| wrong(key, expected, value)),
        Value::String(name) if !name.is_empty() => Ok(Label::Name(name.clone())),
        _ => Err(wrong(key, expected, value)),
    }
}

/// One text or two, with a class if the layout has one.
pub(super) fn classified(row: &Row, layout: &Layout) -> Result<Example, RowProblem> {
    let mut keys = layout.columns.all(Meaning::Text);
    let first = text(row, keys.next().unwrap_or("text"))?.to_owned();
    let second = keys.next().map(|key| text(row, key).map(str::to_owned)).transpose()?;
    Ok(Example::Classified { texts: (first, second), label: optional_label(row, layout)? })
}

/// A text to be learnt as a whole.
pub(super) fn plain(row: &Row, layout: &Layout) -> Result<Example, RowProblem> {
    Ok(Example::Text(text(row, key(layout, Meaning::Text)?)?.to_owned()))
}
