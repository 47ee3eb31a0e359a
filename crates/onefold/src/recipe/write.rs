//! A tree of values as YAML text that YAML 1.1 and 1.2 readers understand alike.

use serde_json::Value;

use super::scalar::{self, Meaning};

/// `value` as a YAML document.
pub(crate) fn yaml(value: &Value) -> String {
    let mut out = String::new();
    block(value, 0, &mut out);
    out
}

/// Writes a collection in lines of its own, indented by `indent` blanks; scalars and flat lists in one line.
fn block(value: &Value, indent: usize, out: &mut String) {
    match value {
        Value::Object(map) if !map.is_empty() => {
            for (i, (key, value)) in map.iter().enumerate() {
                if i > 0 || !at_entry(out) {
                    pad(indent, out);
                }
                self::key(key, indent, out);
                child(value, indent, out);
            }
        }
        Value::Array(items) if !flat(items) => {
            for item in items {
                pad(indent, out);
                out.push('-');
                out.push(' ');
                block(item, indent + 2, out);
            }
        }
        _ => {
            out.push_str(&inline(value));
            out.push('\n');
        }
    }
}

/// A key and its colon. YAML allows 1024 characters before a colon in the same line.
fn key(key: &str, indent: usize, out: &mut String) {
    let key = text(key);
    if key.len() < 1000 {
        out.push_str(&key);
    } else {
        out.push_str("? ");
        out.push_str(&key);
        out.push('\n');
        pad(indent, out);
    }
    out.push(':');
}

/// Whether the text ends in `- `, after which a mapping's first key stands in the same line.
fn at_entry(out: &str) -> bool {
    out.ends_with("- ")
}

fn child(value: &Value, indent: usize, out: &mut String) {
    let (nested, deeper) = match value {
        Value::Object(map) => (!map.is_empty(), indent + 2),
        Value::Array(items) => (!flat(items), indent),
        _ => (false, indent),
    };
    out.push(if nested { '\n' } else { ' ' });
    block(value, deeper, out);
}

fn pad(indent: usize, out: &mut String) {
    out.extend(std::iter::repeat_n(' ', indent));
}

/// Whether a list holds scalars only.
fn flat(items: &[Value]) -> bool {
    !items.iter().any(|item| item.is_object() || item.is_array())
}

fn inline(value: &Value) -> String {
    match value {
        Value::Null => "null".to_owned(),
        Value::Bool(flag) => flag.to_string(),
        Value::Number(number) => match number.as_f64().filter(|_| number.is_f64()) {
            Some(number) => float(number),
            None => number.to_string(),
        },
        Value::String(string) => text(string),
        Value::Array(items) => format!("[{}]", items.iter().map(inline).collect::<Vec<_>>().join(", ")),
        Value::Object(_) => "{}".to_owned(),
    }
}

/// Shortest digits that read back equal, with the dot and the signed exponent that YAML 1.1 asks for.
fn float(number: f64) -> String {
    let digits = format!("{number:?}");
    let Some((mantissa, exponent)) = digits.split_once('e') else { return digits };
    let dot = if mantissa.contains('.') { "" } else { ".0" };
    let sign = if exponent.starts_with('-') { "" } else { "+" };
    format!("{mantissa}{dot}e{sign}{exponent}")
}

fn text(string: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '/' | '-');
    let begins = string.chars().next().is_some_and(|c| c.is_ascii_alphabetic() || matches!(c, '_' | '/'));
    let unlike_a_number = onefold_merge::params::parse_number(string).is_none();
    if begins && unlike_a_number && string.chars().all(plain) && scalar::plain(string) == Meaning::Text {
        return string.to_owned();
    }
    let mut out = String::from("\"");
    for c in string.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            // Control characters, and what YAML 1.1 takes for a line break or a byte order mark.
            c if c.is_control()
                || matches!(c, '\u{2028}' | '\u{2029}' | '\u{feff}' | '\u{fffe}' | '\u{ffff}') =>
            {
                out.push_str(&format!("\\u{:04x}", u32::from(c)));
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}
