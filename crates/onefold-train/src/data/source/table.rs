//! CSV and TSV: a header, then records; every cell is a string.
//!
//! A quotation mark that is never closed would make one cell of the rest of the file, so the bytes of a record are
//! counted while they are read, and so are quotation marks, which come in pairs.

use std::io::{self, Read};
use std::path::Path;
use std::sync::Arc;

use csv::{ByteRecord, Reader, ReaderBuilder};
use serde_json::{Map, Value};

use super::{Count, Counted, LONGEST_ROW, Place, Row, Unit};
use crate::data::error::{DataError, RowError, RowProblem};

/// The records of a file.
#[derive(Debug)]
pub(super) struct Records {
    reader: Reader<Bounded<Counted>>,
    path: Arc<Path>,
    header: Vec<String>,
    record: ByteRecord,
    /// The one before, whose memory is used again.
    before: ByteRecord,
    ended: bool,
}

/// A reader that stops after too many bytes for one record.
#[derive(Debug)]
struct Bounded<R> {
    inner: R,
    since: u64,
    /// Quotation marks so far.
    quotes: u64,
    /// Whether lines end in `\r\n`, once one has ended; and the last byte.
    crlf: Option<bool>,
    last: u8,
}

impl<R: Read> Read for Bounded<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if self.since > LONGEST_ROW {
            let problem = RowProblem::Endless { limit: LONGEST_ROW };
            return Err(io::Error::new(io::ErrorKind::InvalidData, problem.to_string()));
        }
        let read = self.inner.read(out)?;
        self.since += read as u64;
        for byte in &out[..read] {
            self.quotes += u64::from(*byte == b'"');
            if *byte == b'\n' {
                self.crlf.get_or_insert(self.last == b'\r');
            }
            self.last = *byte;
        }
        Ok(read)
    }
}

impl Records {
    pub(super) fn open(path: &Path, delimiter: u8, bytes: &Count) -> Result<Self, DataError> {
        let file = Counted::open(path, bytes)?;
        let mut builder = ReaderBuilder::new();
        builder.delimiter(delimiter).flexible(true).has_headers(true).buffer_capacity(1 << 18);
        let mut reader =
            builder.from_reader(Bounded { inner: file, since: 0, quotes: 0, crlf: None, last: 0 });
        let header = reader.byte_headers().map_err(|error| broken(path, &error))?.clone();
        let header = header.iter().map(|cell| name(path, cell)).collect::<Result<Vec<_>, _>>()?;
        if let Some((i, twice)) = header.iter().enumerate().find(|(i, name)| header[..*i].contains(name)) {
            return Err(DataError::file(
                path,
                format!("column {} of the header: {twice:?} stands twice", i + 1),
            ));
        }
        Ok(Self {
            reader,
            path: Arc::from(path),
            header,
            record: ByteRecord::new(),
            before: ByteRecord::new(),
            ended: false,
        })
    }

    /// The line at which the record begins. The library counts `\n`, and ends a record before that of `\r\n`.
    fn line(&self) -> u64 {
        let late = u64::from(self.reader.get_ref().crlf == Some(true));
        self.record.position().map_or(0, |position| position.line() + late)
    }

    /// At the end of the file: whether its last record is the rest of the file behind a quotation mark that is never closed.
    fn unclosed(&self) -> Option<DataError> {
        let odd = self.reader.get_ref().quotes % 2 == 1;
        let spans = self.record.iter().any(|cell| cell.contains(&b'\n'));
        (odd && spans).then(|| {
            let message = format!(
                "the row at line {} goes on to the end of the file: a quotation mark is never closed",
                self.line()
            );
            DataError::file(&self.path, message)
        })
    }

    fn values(&self) -> Result<Map<String, Value>, RowProblem> {
        let (expected, found) = (self.header.len(), self.record.len());
        if expected != found {
            return Err(RowProblem::Ragged { expected, found });
        }
        let cell = |(key, cell): (&String, &[u8])| {
            let text = std::str::from_utf8(cell);
            let text = text.map_err(|error| RowProblem::NotUtf8 { at: error.valid_up_to() })?;
            Ok((key.clone(), Value::from(text)))
        };
        self.header.iter().zip(self.record.iter()).map(cell).collect()
    }
}

fn name(path: &Path, cell: &[u8]) -> Result<String, DataError> {
    std::str::from_utf8(cell).map(str::to_owned).map_err(|_| {
        DataError::file(path, "the header is not UTF-8; convert the file, for example with iconv")
    })
}

fn broken(path: &Path, error: &csv::Error) -> DataError {
    DataError::file(path, error.to_string())
}

impl Iterator for Records {
    type Item = Result<Row, DataError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        self.reader.get_mut().since = 0;
        std::mem::swap(&mut self.record, &mut self.before);
        match self.reader.read_byte_record(&mut self.record) {
            Ok(true) => {}
            Ok(false) => {
                self.ended = true;
                std::mem::swap(&mut self.record, &mut self.before);
                return self.unclosed().map(Err);
            }
            Err(error) => {
                self.ended = true;
                return Some(Err(broken(&self.path, &error)));
            }
        }
        let number = self.line();
        let place = Place { path: Arc::clone(&self.path), number, unit: Unit::Line };
        Some(match self.values() {
            Ok(values) => Ok(Row::new(values, place)),
            Err(problem) => Err(RowError { place, problem }.into()),
        })
    }
}
