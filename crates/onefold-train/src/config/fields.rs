//! Reading keys of one JSON object with defaults, and remembering which were read.
//!
//! A key that is absent has its class's default. `null` means "none" where the class allows it (`optional_…`), and the
//! default elsewhere, as old files have it.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::path::Path;

use serde_json::{Map, Value};

use super::ConfigError;
use crate::json::shown;

/// The keys of an object in a file.
#[derive(Debug)]
pub(super) struct Fields<'a> {
    pub(super) path: &'a Path,
    prefix: String,
    map: &'a Map<String, Value>,
    read: RefCell<BTreeSet<String>>,
}

/// Sizes beyond this are no model's; it keeps products of four sizes far from overflow.
const LARGEST: u64 = 1 << 31;

impl<'a> Fields<'a> {
    pub(super) fn new(path: &'a Path, prefix: &str, map: &'a Map<String, Value>) -> Self {
        Self { path, prefix: prefix.to_owned(), map, read: RefCell::default() }
    }

    /// The value of a key, if it is there and not null.
    pub(super) fn get(&self, key: &str) -> Option<&'a Value> {
        self.raw(key).filter(|value| !value.is_null())
    }

    /// The value of a key; null counts.
    fn raw(&self, key: &str) -> Option<&'a Value> {
        self.read.borrow_mut().insert(key.to_owned());
        self.map.get(key)
    }

    /// The object of a key.
    pub(super) fn object(&self, key: &str) -> Result<Option<Fields<'a>>, ConfigError> {
        let found = match self.get(key) {
            None => return Ok(None),
            Some(found) => found,
        };
        let map = found.as_object().ok_or_else(|| self.wrong(key, "an object", found))?;
        Ok(Some(Fields::new(self.path, &format!("{}{key}.", self.prefix), map)))
    }

    /// Keys that nobody asked for.
    pub(super) fn unread(&self) -> impl Iterator<Item = String> {
        let read = self.read.borrow();
        let unread: Vec<_> = self.map.keys().filter(|key| !read.contains(*key)).cloned().collect();
        unread.into_iter().map(move |key| format!("{}{key}", self.prefix))
    }

    pub(super) fn wrong(&self, key: &str, expected: impl Into<String>, found: &Value) -> ConfigError {
        ConfigError::Value {
            path: self.path.to_owned(),
            key: format!("{}{key}", self.prefix),
            expected: expected.into(),
            found: shown(found),
        }
    }

    pub(super) fn missing(&self, key: &str) -> ConfigError {
        ConfigError::Missing { path: self.path.to_owned(), key: format!("{}{key}", self.prefix) }
    }

    pub(super) fn unsupported(&self, key: &str, found: &Value, supported: impl Into<String>) -> ConfigError {
        ConfigError::Unsupported {
            path: self.path.to_owned(),
            key: format!("{}{key}", self.prefix),
            found: shown(found),
            supported: supported.into(),
        }
    }

    pub(super) fn contradiction(&self, message: String) -> ConfigError {
        ConfigError::Contradiction { path: self.path.to_owned(), message }
    }

    fn as_size(&self, key: &str, found: &Value) -> Result<usize, ConfigError> {
        let size = found.as_u64().filter(|size| (1..=LARGEST).contains(size));
        size.map(|size| size as usize).ok_or_else(|| self.wrong(key, "a positive integer below 2^31", found))
    }

    /// A size that may be absent.
    pub(super) fn size_if_there(&self, key: &str) -> Result<Option<usize>, ConfigError> {
        self.get(key).map(|found| self.as_size(key, found)).transpose()
    }

    /// A positive integer.
    pub(super) fn size(&self, key: &str, default: usize) -> Result<usize, ConfigError> {
        Ok(self.size_if_there(key)?.unwrap_or(default))
    }

    /// A positive integer or none.
    pub(super) fn optional_size(
        &self,
        key: &str,
        default: Option<usize>,
    ) -> Result<Option<usize>, ConfigError> {
        match self.raw(key) {
            None => Ok(default),
            Some(Value::Null) => Ok(None),
            Some(found) => self.as_size(key, found).map(Some),
        }
    }

    fn as_number(&self, key: &str, found: &Value, positive: bool) -> Result<f64, ConfigError> {
        let number = found.as_f64().filter(|x| x.is_finite() && if positive { *x > 0.0 } else { *x >= 0.0 });
        let expected = if positive { "a positive number" } else { "a number of at least 0" };
        number.ok_or_else(|| self.wrong(key, expected, found))
    }

    /// A positive number that may be absent.
    pub(super) fn positive_if_there(&self, key: &str) -> Result<Option<f64>, ConfigError> {
        self.get(key).map(|found| self.as_number(key, found, true)).transpose()
    }

    /// A positive number.
    pub(super) fn positive(&self, key: &str, default: f64) -> Result<f64, ConfigError> {
        Ok(self.positive_if_there(key)?.unwrap_or(default))
    }

    /// A positive number or none.
    pub(super) fn optional_positive(
        &self,
        key: &str,
        default: Option<f64>,
    ) -> Result<Option<f64>, ConfigError> {
        match self.raw(key) {
            None => Ok(default),
            Some(Value::Null) => Ok(None),
            Some(found) => self.as_number(key, found, true).map(Some),
        }
    }

    /// A number of at least 0 that may be absent.
    pub(super) fn number_if_there(&self, key: &str) -> Result<Option<f64>, ConfigError> {
        self.get(key).map(|found| self.as_number(key, found, false)).transpose()
    }

    /// A probability of dropping, in [0, 1).
    pub(super) fn dropout(&self, key: &str, default: f64) -> Result<f64, ConfigError> {
        let Some(found) = self.get(key) else { return Ok(default) };
        let probability = found.as_f64().filter(|x| (0.0..1.0).contains(x));
        probability.ok_or_else(|| self.wrong(key, "a probability in [0, 1)", found))
    }

    /// True or false.
    pub(super) fn flag(&self, key: &str, default: bool) -> Result<bool, ConfigError> {
        let Some(found) = self.get(key) else { return Ok(default) };
        found.as_bool().ok_or_else(|| self.wrong(key, "true or false", found))
    }

    /// A flag whose value true would ask for arithmetic that is not implemented.
    pub(super) fn must_be_false(&self, key: &str) -> Result<(), ConfigError> {
        match self.get(key) {
            Some(found) if self.flag(key, false)? => Err(self.unsupported(key, found, "false")),
            _ => Ok(()),
        }
    }

    /// A string that may be absent.
    pub(super) fn text(&self, key: &str) -> Result<Option<&'a str>, ConfigError> {
        let Some(found) = self.get(key) else { return Ok(None) };
        found.as_str().map(Some).ok_or_else(|| self.wrong(key, "a string", found))
    }

    /// A token id or none.
    pub(super) fn token(&self, key: &str, default: Option<u32>) -> Result<Option<u32>, ConfigError> {
        match self.raw(key) {
            None => Ok(default),
            Some(Value::Null) => Ok(None),
            Some(found) => {
                let id = found.as_u64().and_then(|id| u32::try_from(id).ok());
                id.map(Some).ok_or_else(|| self.wrong(key, "a token id", found))
            }
        }
    }

    /// Positive numbers that may be absent.
    pub(super) fn numbers(&self, key: &str) -> Result<Option<Vec<f64>>, ConfigError> {
        let Some(found) = self.get(key) else { return Ok(None) };
        let list = found.as_array().ok_or_else(|| self.wrong(key, "a list of numbers", found))?;
        list.iter().map(|item| self.as_number(key, item, true)).collect::<Result<_, _>>().map(Some)
    }
}
