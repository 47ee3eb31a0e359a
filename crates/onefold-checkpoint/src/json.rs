//! JSON objects that are edited without touching what is not changed: `config.json` of a model that was made of another.
//!
//! Numbers keep their digits, keys their order, nested values their bytes.

use indexmap::IndexMap;
use serde_json::Value;
use serde_json::value::RawValue;

/// An object whose values are as they were written.
#[derive(Debug)]
pub struct Object {
    entries: IndexMap<String, Box<RawValue>>,
    /// Blanks before its closing brace.
    indent: usize,
    /// What follows that.
    end: &'static str,
}

impl Object {
    /// Of its text.
    ///
    /// # Errors
    /// If it is no JSON object.
    pub fn parse(text: &str) -> Result<Self, serde_json::Error> {
        let entries = serde_json::from_str(text)?;
        // The indentation of a nested object is that of its closing brace.
        let indent = text.lines().last().map_or(0, |l| l.len() - l.trim_start().len());
        Ok(Self { entries, indent, end: if text.ends_with('\n') { "\n" } else { "" } })
    }

    /// Whether there is a value, `null` included.
    pub fn contains(&self, key: &str) -> bool {
        self.entries.contains_key(key)
    }

    /// A value as it is written.
    pub fn text(&self, key: &str) -> Option<&str> {
        self.entries.get(key).map(|raw| raw.get())
    }

    /// A value.
    pub fn value(&self, key: &str) -> Option<Value> {
        // What was parsed as part of an object parses by itself.
        self.text(key).and_then(|text| serde_json::from_str(text).ok())
    }

    /// Sets a value; what is not there is added at the end. Returns whether that changes anything.
    pub fn set(&mut self, key: &str, value: &Value) -> bool {
        if self.value(key).as_ref() == Some(value) {
            return false;
        }
        self.set_text(key, self.printed(value));
        true
    }

    /// Sets a value by its text.
    ///
    /// # Panics
    /// If it is no JSON.
    pub fn set_text(&mut self, key: &str, text: String) {
        let raw = RawValue::from_string(text).expect("texts come from a JSON printer or parser");
        self.entries.insert(key.to_owned(), raw);
    }

    /// Takes a value out. Returns whether it was there.
    pub fn remove(&mut self, key: &str) -> bool {
        self.entries.shift_remove(key).is_some()
    }

    /// Its text, with the two blanks of `transformers`.
    pub fn print(&self) -> String {
        let pad = " ".repeat(self.indent + 2);
        let fields: Vec<String> = (self.entries.iter())
            .map(|(key, value)| format!("{pad}{}: {}", Value::from(key.as_str()), value.get()))
            .collect();
        format!("{{\n{}\n{}}}{}", fields.join(",\n"), " ".repeat(self.indent), self.end)
    }

    /// A value as it is to stand among the others: an object takes a line for each of its own.
    fn printed(&self, value: &Value) -> String {
        match value {
            Value::Object(map) if !map.is_empty() => {
                let pad = format!("\n{}", " ".repeat(self.indent + 2));
                format!("{value:#}").replace('\n', &pad)
            }
            _ => value.to_string(),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const TEXT: &str = "{\n  \"big\": 1000000000000000019884624838656,\n  \"small\": 1e-05,\n  \"gone\": null,\n  \"list\": [\n    1\n  ]\n}\n";

    #[test]
    fn only_what_is_set_changes() {
        let mut object = Object::parse(TEXT).unwrap();
        assert!(!object.set("small", &json!(1e-5)) && !object.set("list", &json!([1])));
        assert_eq!(object.print(), TEXT);
        assert!(object.set("names", &json!({"0": "a", "1": "b"})) && object.remove("gone"));
        assert!(object.contains("big") && !object.contains("gone") && !object.remove("gone"));
        let end = "\n  ],\n  \"names\": {\n    \"0\": \"a\",\n    \"1\": \"b\"\n  }\n}\n";
        assert_eq!(object.print(), TEXT.replace("  \"gone\": null,\n", "").replace("\n  ]\n}\n", end));
        assert_eq!(Object::parse(&object.print()).unwrap().value("names"), Some(json!({"0": "a", "1": "b"})));
    }

    #[test]
    fn what_is_no_object_is_refused() {
        for text in ["", "[1]", "{", "1", "{} {}", "\"a\"", "{\"a\": }"] {
            assert!(Object::parse(text).is_err(), "{text}");
        }
    }
}
