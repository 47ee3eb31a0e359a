//! Changing lists and maps inside a JSON text while every other byte stays as it is.
//!
//! Parsing and writing a whole file would lose what the parser does not keep (number spellings such as
//! `1000000000000000019884624838656` in `tokenizer_config.json`, indentation), so the parts to change are found
//! as slices of the text and only those are rewritten.

use std::borrow::Cow;
use std::ops::Range;

use indexmap::IndexMap;
use serde_json::value::RawValue;

/// A JSON object with its values as slices of the text.
pub(super) type Object<'a> = IndexMap<Cow<'a, str>, &'a RawValue>;

/// Replacements in a text, applied together.
#[derive(Debug)]
pub(super) struct Splice<'a> {
    text: &'a str,
    changes: Vec<(Range<usize>, String)>,
}

impl<'a> Splice<'a> {
    pub(super) fn new(text: &'a str) -> Self {
        Self { text, changes: Vec::new() }
    }

    /// Replaces `part`, which must be a slice of the text, and not overlap another replaced part.
    pub(super) fn replace(&mut self, part: &'a RawValue, with: String) {
        let part = part.get();
        let start = part.as_ptr().addr().wrapping_sub(self.text.as_ptr().addr());
        self.changes.push((start..start.saturating_add(part.len()), with));
    }

    /// The changed text.
    pub(super) fn apply(mut self) -> String {
        self.changes.sort_by_key(|(range, _)| range.start);
        let mut result = String::with_capacity(self.text.len());
        let mut done = 0;
        for (range, with) in &self.changes {
            result
                .push_str(self.text.get(done..range.start).expect("parts are slices of the text, in order"));
            result.push_str(with);
            done = range.end;
        }
        result.push_str(self.text.get(done..).expect("parts are slices of the text"));
        result
    }
}

/// White space of a list or map: before its items and before its closing bracket.
struct Layout<'a> {
    open: &'a str,
    lead: &'a str,
    tail: &'a str,
    close: &'a str,
}

fn layout(container: &str) -> Layout<'_> {
    let inner = container.get(1..container.len().saturating_sub(1)).unwrap_or("");
    let lead = &inner[..inner.len() - inner.trim_start().len()];
    // An empty list is all white space; it must not be counted at both ends.
    let tail = if lead.len() == inner.len() { "" } else { &inner[inner.trim_end().len()..] };
    Layout { open: &container[..1], lead, tail, close: &container[container.len() - 1..] }
}

fn join<'t>(container: &str, items: impl Iterator<Item = Cow<'t, str>>) -> String {
    let Layout { open, lead, tail, close } = layout(container);
    let mut result = String::from(open);
    for (number, item) in items.enumerate() {
        result.push_str(if number == 0 { "" } else { "," });
        result.push_str(if number == 0 || !lead.is_empty() { lead } else { " " });
        result.push_str(&item);
    }
    result.push_str(tail);
    result.push_str(close);
    result
}

/// A value written for a place inside `container`: in several lines if its items stand on lines of their own.
pub(super) fn item(container: &str, value: &impl serde::Serialize) -> String {
    let lead = layout(container).lead;
    let result = match lead.rfind('\n') {
        // JSON strings hold no raw line ends, so every one of them is the printer's.
        Some(line) => serde_json::to_string_pretty(value)
            .map(|text| text.replace('\n', &format!("\n{}", &lead[line + 1..]))),
        None => serde_json::to_string(value),
    };
    result.expect("plain structures of strings, numbers and flags always serialise")
}

/// The list `container` with only the items `keep` accepts, and `new` ones after them.
pub(super) fn list(
    container: &RawValue,
    mut keep: impl FnMut(&str) -> bool,
    new: Vec<String>,
) -> serde_json::Result<String> {
    let items: Vec<&RawValue> = serde_json::from_str(container.get())?;
    let kept = items.iter().map(|raw| raw.get()).filter(|raw| keep(raw)).map(Cow::Borrowed);
    Ok(join(container.get(), kept.chain(new.into_iter().map(Cow::Owned))))
}

/// The map `container` with only the members `keep` accepts, and `new` ones after them.
pub(super) fn map(
    container: &RawValue,
    mut keep: impl FnMut(&str, &str) -> bool,
    new: &[(String, String)],
) -> serde_json::Result<String> {
    let members: Object<'_> = serde_json::from_str(container.get())?;
    let kept = members.iter().filter(|(key, raw)| keep(key, raw.get()));
    let kept = kept.map(|(key, raw)| member(key, raw.get()));
    let new = new.iter().map(|(key, value)| member(key, value));
    Ok(join(container.get(), kept.chain(new).map(Cow::Owned).collect::<Vec<_>>().into_iter()))
}

/// `"key": value`.
pub(super) fn member(key: &str, value: &str) -> String {
    format!("{}: {value}", serde_json::Value::from(key))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raw(text: &str) -> &RawValue {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn lists_keep_their_layout() {
        let value = serde_json::json!({"id": 3});
        let pretty = "[\n    1,\n    {\n      \"a\": 2e400\n    }\n  ]";
        let changed = list(raw(pretty), |text| text != "1", vec![item(pretty, &value)]).unwrap();
        assert_eq!(changed, "[\n    {\n      \"a\": 2e400\n    },\n    {\n      \"id\": 3\n    }\n  ]");
        assert_eq!(list(raw("[1,2]"), |_| true, vec![item("[1,2]", &value)]).unwrap(), r#"[1, 2, {"id":3}]"#);
        assert_eq!(list(raw("[]"), |_| true, vec!["9".into()]).unwrap(), "[9]");
        assert_eq!(list(raw("[ 1 ]"), |_| false, Vec::new()).unwrap(), "[ ]");
        assert_eq!(list(raw("[\n]"), |_| true, vec!["9".into()]).unwrap(), "[\n9]");
    }

    #[test]
    fn maps_keep_keys_escapes_and_numbers() {
        let text = r#"{"a\"é": 1000000000000000019884624838656, "b": 1}"#;
        let changed = map(raw(text), |key, _| key != "b", &[("ç\n".into(), "2".into())]).unwrap();
        assert_eq!(changed, r#"{"a\"é": 1000000000000000019884624838656, "ç\n": 2}"#);
    }

    #[test]
    fn parts_are_replaced_in_place() {
        let text = r#"{ "x" : [1], "y":{"z": [2]} }"#;
        let object: Object<'_> = serde_json::from_str(text).unwrap();
        let inner: Object<'_> = serde_json::from_str(object["y"].get()).unwrap();
        let mut splice = Splice::new(text);
        splice.replace(inner["z"], "[2, 3]".into());
        splice.replace(object["x"], "null".into());
        assert_eq!(splice.apply(), r#"{ "x" : null, "y":{"z": [2, 3]} }"#);
    }
}
