//! JSON objects in which no key stands twice.
//!
//! serde_json keeps the last of two equal keys without a word; a row with two answers is a mistake to be told.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

use crate::data::error::RowProblem;

/// The object that `text` spells.
pub(super) fn object(text: &str) -> Result<Map<String, Value>, RowProblem> {
    let mut reader = serde_json::Deserializer::from_str(text);
    let value = Strict.deserialize(&mut reader).and_then(|value| reader.end().map(|()| value));
    match value {
        Ok(Value::Object(map)) => Ok(map),
        Ok(other) => Err(RowProblem::Syntax {
            message: format!("expected a JSON object, found {}", crate::json::shown(&other)),
        }),
        Err(error) => Err(described(&error)),
    }
}

const TWICE: &str = "key stands twice: ";

fn described(error: &serde_json::Error) -> RowProblem {
    let message = error.to_string();
    // The library counts lines from the beginning of the row, the place of the row counts those of the file.
    let message = message.rsplit_once(" at line ").map_or(message.as_str(), |(message, _)| message);
    match (message.strip_prefix(TWICE), error.line(), error.column()) {
        (Some(key), _, _) => RowProblem::DuplicateKey { key: key.to_owned() },
        (None, 0 | 1, column) => RowProblem::Syntax { message: format!("{message} (column {column})") },
        (None, line, column) => {
            RowProblem::Syntax { message: format!("{message} (line {line} of the row, column {column})") }
        }
    }
}

struct Strict;

impl<'de> DeserializeSeed<'de> for Strict {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Strict {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Value, E> {
        Number::from_f64(value).map(Value::Number).ok_or_else(|| E::custom("a number beyond f64"))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Value, A::Error> {
        let mut values = Vec::new();
        while let Some(value) = list.next_element_seed(Strict)? {
            values.push(value);
        }
        Ok(values.into())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut map = Map::new();
        while let Some(key) = entries.next_key::<String>()? {
            let value = entries.next_value_seed(Strict)?;
            if map.contains_key(&key) {
                return Err(A::Error::custom(format!("{TWICE}{key}")));
            }
            map.insert(key, value);
        }
        Ok(map.into())
    }
}
