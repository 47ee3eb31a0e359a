//! Lines of a text file, with their numbers, and never longer than [`LONGEST_ROW`].

use std::io::{BufRead, Read};
use std::path::Path;
use std::sync::Arc;

use super::{LONGEST_ROW, Place, Unit};
use crate::data::error::{DataError, RowError, RowProblem};

/// Lines that are not empty.
pub(super) struct Lines<R> {
    reader: R,
    pub(super) path: Arc<Path>,
    number: u64,
    line: Vec<u8>,
    ended: bool,
}

impl<R: BufRead> Lines<R> {
    pub(super) fn new(reader: R, path: Arc<Path>) -> Self {
        Self { reader, path, number: 0, line: Vec::new(), ended: false }
    }

    /// The place of the line that was read last.
    pub(super) fn place(&self) -> Place {
        Place { path: Arc::clone(&self.path), number: self.number, unit: Unit::Line }
    }

    /// The next line without its end, if it is text.
    pub(super) fn next_line(&mut self) -> Option<Result<&str, DataError>> {
        loop {
            if self.ended {
                return None;
            }
            match self.fill() {
                Ok(0) => return None,
                Ok(_) if blank(&self.line) => {}
                Ok(_) => break,
                Err(error) => {
                    self.ended = true;
                    return Some(Err(error));
                }
            }
        }
        let text = std::str::from_utf8(&self.line);
        let wrong = |error: std::str::Utf8Error| RowError {
            place: Place { path: Arc::clone(&self.path), number: self.number, unit: Unit::Line },
            problem: RowProblem::NotUtf8 { at: error.valid_up_to() },
        };
        Some(text.map_err(|error| wrong(error).into()))
    }

    /// Reads a line; 0 at the end of the file. A line that is too long ends the file: its end cannot be known.
    fn fill(&mut self) -> Result<usize, DataError> {
        self.line.clear();
        let mut limited = (&mut self.reader).take(LONGEST_ROW + 1);
        let read = limited.read_until(b'\n', &mut self.line).map_err(DataError::io(&self.path))?;
        self.number += u64::from(read > 0);
        if read as u64 > LONGEST_ROW {
            self.ended = true;
            let problem = RowProblem::Endless { limit: LONGEST_ROW };
            return Err(DataError::file(&self.path, format!("line {}: {problem}", self.number)));
        }
        while matches!(self.line.last(), Some(b'\n' | b'\r')) {
            self.line.pop();
        }
        if self.number == 1 && self.line.starts_with(BYTE_ORDER_MARK) {
            self.line.drain(..BYTE_ORDER_MARK.len());
        }
        Ok(read)
    }
}

/// What some editors put before UTF-8.
pub(super) const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

fn blank(line: &[u8]) -> bool {
    line.iter().all(u8::is_ascii_whitespace)
}
