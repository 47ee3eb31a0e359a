//! What can be wrong with datasets: rows, which are counted, and everything else, which ends the reading.

mod row;

use std::path::{Path, PathBuf};

use crate::image::ImageError;
use crate::json::JsonError;
use crate::text::TextError;
pub use row::{Place, RowError, RowProblem, Unit};

/// A problem with a dataset.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DataError {
    /// A row. Loading counts these and goes on as long as `max_bad_rows` allows.
    #[error(transparent)]
    Row(#[from] RowError),
    /// More bad rows than allowed.
    #[error(
        "task `{task}`: {bad} of the first {read} rows cannot be used, {allowed} are allowed; correct them, or raise \
         `max_bad_rows`{list}", list = listed(first)
    )]
    BadRows {
        /// The task.
        task: String,
        /// Bad rows until reading stopped.
        bad: usize,
        /// Rows until reading stopped.
        read: usize,
        /// `max_bad_rows`.
        allowed: usize,
        /// The first of them.
        first: Vec<RowError>,
    },
    /// Labels where none are read.
    #[error(
        "task `{task}`: {path}: rows have a `{label}`, which is not read: classes are learnt from no label here; take it out, name \
         the file under `test` to score with it, or say `labels_in_inputs: ignore`", path = path.display()
    )]
    UnreadLabel {
        /// The task.
        task: String,
        /// The file.
        path: PathBuf,
        /// The key.
        label: String,
    },
    /// The operating system refused.
    #[error("{path}: cannot read: {source}", path = path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// A file as a whole is not what its name says.
    #[error("{path}: {message}", path = path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        message: String,
    },
    /// A directory without anything that is read here.
    #[error(
        "{path}: no data files{wanted}; read are .jsonl, .json, .csv, .tsv, .parquet, .txt, and folders of images \
         (<class>/<file>.png)", path = path.display()
    )]
    NoFiles {
        /// The directory.
        path: PathBuf,
        /// Which part of it was wanted, beginning with a blank.
        wanted: String,
    },
    /// Rows of no known shape.
    #[error("{place}: cannot tell the shape of rows with the keys {keys}; {remedy}")]
    NoShape {
        /// The first row.
        place: Place,
        /// Its keys.
        keys: String,
        /// What to do.
        remedy: String,
    },
    /// One task with rows of two kinds.
    #[error("task `{task}`: {first} has rows to {before}, {path} rows to {kind}; make two tasks of them", path = path.display(), first = first.display())]
    Kinds {
        /// The task.
        task: String,
        /// The first file.
        first: PathBuf,
        /// What its rows are for.
        before: &'static str,
        /// The file that differs.
        path: PathBuf,
        /// What its rows are for.
        kind: &'static str,
    },
    /// Nothing to learn from.
    #[error(
        "task `{task}`: no rows left to {part}: {read} read, {bad} bad, {too_long} too long, {masked} without anything to learn ({})",
        files.iter().map(|file| file.display().to_string()).collect::<Vec<_>>().join(", ")
    )]
    Empty {
        /// The task.
        task: String,
        /// train or validate.
        part: &'static str,
        /// Rows of the files.
        read: usize,
        /// Rows that could not be used.
        bad: usize,
        /// Rows that were dropped for their length.
        too_long: usize,
        /// Rows of which no token is learnt.
        masked: usize,
        /// The files.
        files: Vec<PathBuf>,
    },
    /// A class that the labels do not have.
    #[error("task `{task}`: {place}: label {label} is not one of {remedy}")]
    UnknownLabel {
        /// The task.
        task: String,
        /// Where it stands.
        place: Place,
        /// The label.
        label: String,
        /// The known ones, and what to do.
        remedy: String,
    },
    /// Names and numbers as labels of one task.
    #[error(
        "task `{task}`: labels are names ({name:?}) and numbers ({number}); make them one of the two, or list `labels`"
    )]
    MixedLabels {
        /// The task.
        task: String,
        /// One that is a name.
        name: String,
        /// One that is a number.
        number: i64,
    },
    /// A setting that cannot be followed.
    #[error("{setting}: {message}")]
    Setting {
        /// The key.
        setting: String,
        /// What is wrong with it.
        message: String,
    },
    /// A tokenizer, a template.
    #[error(transparent)]
    Text(#[from] TextError),
    /// An image.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// A JSON file beside the data.
    #[error(transparent)]
    Json(#[from] JsonError),
    /// The data doctor advises against it.
    #[error("the data cannot be learnt from as it is{list}", list = findings.iter().map(|finding| format!("\n  {finding}")).collect::<String>())]
    Fatal {
        /// Why.
        findings: Vec<super::doctor::Finding>,
    },
    /// The observer asked to stop.
    #[error("cancelled")]
    Cancelled,
}

impl DataError {
    pub(crate) fn setting(setting: impl Into<String>, message: impl Into<String>) -> Self {
        Self::Setting { setting: setting.into(), message: message.into() }
    }

    pub(crate) fn file(path: &Path, message: impl Into<String>) -> Self {
        Self::File { path: path.to_owned(), message: message.into() }
    }

    pub(crate) fn io(path: &Path) -> impl FnOnce(std::io::Error) -> Self + '_ {
        |source| Self::Io { path: path.to_owned(), source }
    }
}

fn listed(rows: &[RowError]) -> String {
    rows.iter().map(|row| format!("\n  {row}")).collect()
}
