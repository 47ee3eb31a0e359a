//! From files to raw rows: JSON objects with the place they stand at.
//!
//! Rows are read one after the other; a file is never in memory as a whole. What is wrong with one row comes back as
//! [`DataError::Row`] and the next row can be read; everything else ends the file.
//!
//! * `.jsonl`, `.ndjson`: one object per line. `.json`: the same, or one array of objects.
//! * `.csv`, `.tsv`: a header and one row per record; every cell is a string.
//! * `.parquet`: flat and nested columns; binary values are kept beside the row.
//! * `.txt`: every line that is not empty is a row `{"text": line}`.
//! * folders of images: see [`images`].
//!
//! A byte order mark at the beginning and CRLF line ends are taken as what they are; empty lines are no rows.

mod files;
pub mod images;
mod json;
mod parquet;
mod strict;
mod table;
mod text;

use std::fmt;
use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::{Map, Value};

use super::error::{DataError, Place, RowError, RowProblem, Unit};
pub use files::{Part, data_files};

/// The longest row: what is longer is taken for a missing line break.
pub const LONGEST_ROW: u64 = 64 << 20;

/// A row as it stands in its file.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    /// Its values by key.
    pub values: Map<String, Value>,
    /// Binary values by path (`image.bytes`), which JSON cannot hold; `values` has null in their place.
    pub binary: Vec<(String, Vec<u8>)>,
    /// Where it stands.
    pub place: Place,
}

/// The rows of a file, in its order.
pub struct Rows {
    rows: Inner,
    bytes: Count,
}

type Inner = Box<dyn Iterator<Item = Result<Row, DataError>> + Send>;

/// Bytes that were read.
type Count = Arc<AtomicU64>;

impl Rows {
    /// Bytes read since the last call.
    pub fn take_bytes(&self) -> u64 {
        self.bytes.swap(0, Ordering::Relaxed)
    }
}

impl Iterator for Rows {
    type Item = Result<Row, DataError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.rows.next()
    }
}

impl fmt::Debug for Rows {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rows").finish_non_exhaustive()
    }
}

/// The rows of `path`, which [`data_files`] gave.
pub fn open(path: &Path) -> Result<Rows, DataError> {
    let bytes = Count::default();
    let rows = if path.is_dir() { images::open(path)? } else { rows(path, &bytes)? };
    Ok(Rows { rows, bytes })
}

fn rows(path: &Path, bytes: &Count) -> Result<Inner, DataError> {
    Ok(match ending(path).as_str() {
        "jsonl" | "ndjson" => Box::new(json::Lines::new(lines(path, bytes)?)),
        "json" => json::open(path, bytes)?,
        "csv" => Box::new(table::Records::open(path, b',', bytes)?),
        "tsv" => Box::new(table::Records::open(path, b'\t', bytes)?),
        "parquet" => Box::new(parquet::Groups::open(path, bytes)?),
        "txt" => Box::new(json::plain(lines(path, bytes)?)),
        _ => return Err(DataError::file(path, "read are .jsonl, .json, .csv, .tsv, .parquet and .txt")),
    })
}

/// A file that counts what is read of it.
#[derive(Debug)]
struct Counted {
    file: File,
    bytes: Count,
}

impl Counted {
    fn open(path: &Path, bytes: &Count) -> Result<Self, DataError> {
        let file = File::open(path).map_err(DataError::io(path))?;
        Ok(Self { file, bytes: Arc::clone(bytes) })
    }
}

impl Read for Counted {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read(out)?;
        self.bytes.fetch_add(read as u64, Ordering::Relaxed);
        Ok(read)
    }
}

fn ending(path: &Path) -> String {
    path.extension().map(|ending| ending.to_string_lossy().to_lowercase()).unwrap_or_default()
}

fn buffered(path: &Path, bytes: &Count) -> Result<BufReader<Counted>, DataError> {
    Ok(BufReader::with_capacity(1 << 18, Counted::open(path, bytes)?))
}

fn lines(path: &Path, bytes: &Count) -> Result<text::Lines<BufReader<Counted>>, DataError> {
    Ok(text::Lines::new(buffered(path, bytes)?, Arc::from(path)))
}

impl Row {
    fn new(values: Map<String, Value>, place: Place) -> Self {
        Self { values, binary: Vec::new(), place }
    }

    /// An error of this row.
    pub(crate) fn wrong(&self, problem: RowProblem) -> RowError {
        RowError { place: self.place.clone(), problem }
    }

    /// Its keys, for messages.
    pub(crate) fn keys(&self) -> String {
        let keys: Vec<_> = self.values.keys().map(String::as_str).collect();
        if keys.is_empty() { "no keys".to_owned() } else { keys.join(", ") }
    }
}

#[cfg(test)]
mod tests;
