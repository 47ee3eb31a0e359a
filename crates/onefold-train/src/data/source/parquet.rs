//! Parquet: rows of flat or nested columns, one row group after the other.
//!
//! Values become JSON: integers and floats as numbers, strings as strings, lists as arrays, groups and maps as objects.
//! Binary values are kept beside the row; decimals, dates and times become the text that the library shows. A
//! damaged file can make the library panic, which is caught and told.

use std::fs::File;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::reader::{ReaderIter, TreeBuilder};
use parquet::record::{Field, Row as Record};
use serde_json::{Map, Number, Value};

use super::{Count, Place, Row, Unit};
use crate::data::error::{DataError, RowError, RowProblem};

/// The rows of a file.
pub(super) struct Groups {
    file: SerializedFileReader<File>,
    path: Arc<Path>,
    bytes: Count,
    next_group: usize,
    rows: Option<ReaderIter>,
    number: u64,
    ended: bool,
}

impl Groups {
    pub(super) fn open(path: &Path, bytes: &Count) -> Result<Self, DataError> {
        let file = File::open(path).map_err(DataError::io(path))?;
        let file = guarded(path, || SerializedFileReader::new(file))?;
        let (path, bytes) = (Arc::from(path), Arc::clone(bytes));
        Ok(Self { file, path, bytes, next_group: 0, rows: None, number: 0, ended: false })
    }

    /// The next record, from the next group with any.
    fn record(&mut self) -> Result<Option<Record>, DataError> {
        let path = Arc::clone(&self.path);
        guarded(&path, || {
            loop {
                if let Some(record) = self.rows.as_mut().and_then(Iterator::next) {
                    return record.map(Some);
                }
                if self.next_group == self.file.num_row_groups() {
                    return Ok(None);
                }
                let group = self.file.get_row_group(self.next_group)?;
                let schema = self.file.metadata().file_metadata().schema_descr_ptr();
                self.rows = Some(TreeBuilder::new().as_iter(schema, &*group)?);
                self.next_group += 1;
                let bytes = u64::try_from(group.metadata().compressed_size()).unwrap_or(0);
                self.bytes.fetch_add(bytes, Ordering::Relaxed);
            }
        })
    }

    fn row(&self, record: Record) -> Result<Row, DataError> {
        let place = Place { path: Arc::clone(&self.path), number: self.number, unit: Unit::Row };
        let mut binary = Vec::new();
        match group(record, "", &mut binary) {
            Ok(values) => Ok(Row { values, binary, place }),
            Err(problem) => Err(RowError { place, problem }.into()),
        }
    }
}

/// What `work` gives; the library's errors and panics as ours.
fn guarded<T>(path: &Path, work: impl FnOnce() -> parquet::errors::Result<T>) -> Result<T, DataError> {
    let broken = |message: String| DataError::file(path, format!("not a readable Parquet file: {message}"));
    // Nothing is used again after a panic: the caller ends the file.
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(result) => result.map_err(|error| broken(error.to_string())),
        Err(_) => Err(broken("its pages contradict its header".to_owned())),
    }
}

type Binary = Vec<(String, Vec<u8>)>;

fn group(record: Record, at: &str, binary: &mut Binary) -> Result<Map<String, Value>, RowProblem> {
    let mut map = Map::new();
    for (key, field) in record.into_columns() {
        let path = if at.is_empty() { key.clone() } else { format!("{at}.{key}") };
        let value = value(field, &path, binary)?;
        if map.insert(key, value).is_some() {
            return Err(RowProblem::DuplicateKey { key: path });
        }
    }
    Ok(map)
}

fn value(field: Field, at: &str, binary: &mut Binary) -> Result<Value, RowProblem> {
    Ok(match field {
        Field::Null => Value::Null,
        Field::Bool(x) => x.into(),
        Field::Byte(x) => x.into(),
        Field::Short(x) => x.into(),
        Field::Int(x) => x.into(),
        Field::Long(x) => x.into(),
        Field::UByte(x) => x.into(),
        Field::UShort(x) => x.into(),
        Field::UInt(x) => x.into(),
        Field::ULong(x) => x.into(),
        Field::Float16(x) => number(x.to_f64()),
        Field::Float(x) => number(x.into()),
        Field::Double(x) => number(x),
        Field::Str(text) => text.into(),
        Field::Bytes(bytes) => {
            binary.push((at.to_owned(), bytes.data().to_vec()));
            Value::Null
        }
        Field::Group(record) => group(record, at, binary)?.into(),
        Field::ListInternal(list) => {
            let element = |field: &Field| value(field.clone(), at, binary);
            Value::Array(list.elements().iter().map(element).collect::<Result<_, _>>()?)
        }
        Field::MapInternal(map) => {
            let mut entries = Map::new();
            for (key, field) in map.entries() {
                let Field::Str(key) = key else {
                    return Err(wrong(at, "a map whose keys are strings", key));
                };
                entries.insert(key.clone(), value(field.clone(), &format!("{at}.{key}"), binary)?);
            }
            entries.into()
        }
        other => Value::String(other.to_string()),
    })
}

/// A number; what is none as its name, which whoever reads the column refuses.
fn number(x: f64) -> Value {
    Number::from_f64(x).map_or_else(|| Value::String(x.to_string()), Value::Number)
}

fn wrong(at: &str, expected: &'static str, found: &Field) -> RowProblem {
    RowProblem::Wrong { key: at.to_owned(), expected, found: found.to_string() }
}

impl Iterator for Groups {
    type Item = Result<Row, DataError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        self.number += 1;
        let row = self.record().and_then(|record| record.map(|record| self.row(record)).transpose());
        self.ended =
            matches!(&row, Ok(None)) || matches!(&row, Err(error) if !matches!(error, DataError::Row(_)));
        row.transpose()
    }
}
