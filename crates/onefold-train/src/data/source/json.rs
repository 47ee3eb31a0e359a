//! JSON: one object per line, or one array of objects.
//!
//! An array is cut into its elements by counting brackets outside of strings, so that only one element is in memory and
//! an error in one of them leaves the others readable.

use std::io::BufRead;
use std::path::Path;
use std::sync::Arc;

use serde_json::{Map, Value};

use super::text::{BYTE_ORDER_MARK, Lines as Text};
use super::{Count, Inner, LONGEST_ROW, Place, Row, Unit, buffered, strict};
use crate::data::error::{DataError, RowError, RowProblem};

/// Objects, one per line.
pub(super) struct Lines<R>(Text<R>);

impl<R: BufRead> Lines<R> {
    pub(super) fn new(text: Text<R>) -> Self {
        Self(text)
    }
}

impl<R: BufRead> Iterator for Lines<R> {
    type Item = Result<Row, DataError>;

    fn next(&mut self) -> Option<Self::Item> {
        let parsed = self.0.next_line()?.map(strict::object);
        let place = self.0.place();
        Some(parsed.and_then(|object| row(object, place)))
    }
}

fn row(object: Result<Map<String, Value>, RowProblem>, place: Place) -> Result<Row, DataError> {
    match object {
        Ok(values) => Ok(Row::new(values, place)),
        Err(problem) => Err(RowError { place, problem }.into()),
    }
}

/// Lines of text as rows `{"text": line}`.
pub(super) fn plain<R: BufRead>(mut text: Text<R>) -> impl Iterator<Item = Result<Row, DataError>> {
    std::iter::from_fn(move || {
        let line = text.next_line()?.map(Value::from);
        let place = text.place();
        Some(line.map(|line| Row::new(Map::from_iter([("text".to_owned(), line)]), place)))
    })
}

/// A `.json` file: an array, or objects line by line.
pub(super) fn open(path: &Path, bytes: &Count) -> Result<Inner, DataError> {
    let mut elements = Elements::new(buffered(path, bytes)?, Arc::from(path));
    match elements.opening()? {
        Some(b'[') => Ok(Box::new(elements)),
        Some(b'{') | None => Ok(Box::new(Lines::new(super::lines(path, bytes)?))),
        Some(_) => Err(DataError::file(path, "expected an array of JSON objects, or one object per line")),
    }
}

/// The elements of an array.
struct Elements<R> {
    reader: R,
    path: Arc<Path>,
    line: u64,
    started: bool,
    ended: bool,
}

impl<R: BufRead> Elements<R> {
    fn new(reader: R, path: Arc<Path>) -> Self {
        Self { reader, path, line: 1, started: false, ended: false }
    }

    /// The first byte that is no white space and no byte order mark; taken out.
    fn opening(&mut self) -> Result<Option<u8>, DataError> {
        let mut first = self.significant()?;
        for mark in BYTE_ORDER_MARK {
            if first == Some(*mark) {
                first = self.significant()?;
            }
        }
        Ok(first)
    }

    fn byte(&mut self) -> Result<Option<u8>, DataError> {
        let buffer = self.reader.fill_buf().map_err(DataError::io(&self.path))?;
        let byte = buffer.first().copied();
        self.reader.consume(usize::from(byte.is_some()));
        self.line += u64::from(byte == Some(b'\n'));
        Ok(byte)
    }

    fn significant(&mut self) -> Result<Option<u8>, DataError> {
        loop {
            match self.byte()? {
                Some(byte) if byte.is_ascii_whitespace() => {}
                other => return Ok(other),
            }
        }
    }

    fn broken(&self, message: &str) -> DataError {
        DataError::file(&self.path, format!("line {}: {message}", self.line))
    }

    /// The bytes of the next element, and the line it begins on.
    fn element(&mut self) -> Result<Option<(Vec<u8>, u64)>, DataError> {
        let first = match (self.significant()?, self.started) {
            (Some(b']'), _) => return self.end().map(|()| None),
            (Some(b','), true) => self.significant()?,
            (None, _) => None,
            (other, false) => other,
            (_, true) => return Err(self.broken("expected a comma or the end of the array")),
        };
        self.started = true;
        let line = self.line;
        let mut bytes = Vec::new();
        let mut cut = Cut::default();
        let mut next = first;
        while let Some(byte) = next {
            bytes.push(byte);
            if cut.is_over(byte) {
                return Ok(Some((bytes, line)));
            }
            if bytes.len() as u64 > LONGEST_ROW {
                return Err(self
                    .broken("an element of the array is too long; a bracket or quotation mark is missing"));
            }
            next = self.byte()?;
        }
        Err(self.broken("the array does not end; the file is cut off"))
    }

    fn end(&mut self) -> Result<(), DataError> {
        match self.significant()? {
            None => Ok(()),
            Some(_) => Err(self.broken("text after the end of the array")),
        }
    }
}

/// Where an element of an array is over: an object when its brackets are closed.
#[derive(Default)]
struct Cut {
    depth: usize,
    string: bool,
    escaped: bool,
}

impl Cut {
    /// Whether `byte` ends the element.
    fn is_over(&mut self, byte: u8) -> bool {
        if self.string {
            (self.escaped, self.string) = match byte {
                _ if self.escaped => (false, true),
                b'\\' => (true, true),
                other => (false, other != b'"'),
            };
        } else {
            match byte {
                b'"' => self.string = true,
                b'{' | b'[' => self.depth += 1,
                b'}' | b']' => self.depth = self.depth.saturating_sub(1),
                _ => {}
            }
        }
        // A number or a word as an element is not cut well, but it is no row either.
        self.depth == 0 && !self.string
    }
}

impl<R: BufRead> Iterator for Elements<R> {
    type Item = Result<Row, DataError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        let (bytes, line) = match self.element() {
            Ok(Some(element)) => element,
            Ok(None) => {
                self.ended = true;
                return None;
            }
            Err(error) => {
                self.ended = true;
                return Some(Err(error));
            }
        };
        let place = Place { path: Arc::clone(&self.path), number: line, unit: Unit::Line };
        let object = match std::str::from_utf8(&bytes) {
            Ok(text) => strict::object(text),
            Err(error) => Err(RowProblem::NotUtf8 { at: error.valid_up_to() }),
        };
        Some(row(object, place))
    }
}
