//! Rows that cannot be used, and where they stand.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::text::TextError;

/// Where a row stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The file.
    pub path: Arc<Path>,
    /// Which part of it, from 1; 0 if the file is the row.
    pub number: u64,
    /// What is counted.
    pub unit: Unit,
}

/// What the rows of a file are counted in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// Lines of a text file.
    Line,
    /// Rows of a binary file.
    Row,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = self.path.display();
        match (self.number, self.unit) {
            (0, _) => write!(f, "{path}"),
            (number, Unit::Line) => write!(f, "{path}, line {number}"),
            (number, Unit::Row) => write!(f, "{path}, row {number}"),
        }
    }
}

/// A row that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{place}: {problem}")]
pub struct RowError {
    /// Where it stands.
    pub place: Place,
    /// What is wrong with it.
    #[source]
    pub problem: RowProblem,
}

/// What can be wrong with a row.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RowProblem {
    /// The bytes are no row of their format.
    #[error("cannot be read: {message}")]
    Syntax {
        /// The parser's reason.
        message: String,
    },
    /// Text of another encoding.
    #[error("not UTF-8 (byte {at} of the row); convert the file, for example with iconv")]
    NotUtf8 {
        /// The first byte that is none, from 0.
        at: usize,
    },
    /// A line or cell without end.
    #[error(
        "longer than {limit} bytes; a line break or a quotation mark is missing, or the row has to be cut"
    )]
    Endless {
        /// The limit.
        limit: u64,
    },
    /// A key twice in one object.
    #[error("key `{key}` stands twice in one object")]
    DuplicateKey {
        /// The key.
        key: String,
    },
    /// More or fewer cells than the header.
    #[error("{found} cells, the header has {expected}")]
    Ragged {
        /// Cells of the header.
        expected: usize,
        /// Cells of the row.
        found: usize,
    },
    /// A key that the shape needs.
    #[error("key `{key}` is missing; the row has {keys}")]
    Missing {
        /// The key.
        key: String,
        /// The keys that are there.
        keys: String,
    },
    /// A value of the wrong form.
    #[error("key `{key}`: expected {expected}, found {found}")]
    Wrong {
        /// Path of the key.
        key: String,
        /// What it may be.
        expected: &'static str,
        /// What it is, as JSON.
        found: String,
    },
    /// A text of which the tokenizer makes nothing.
    #[error("the text has no token: it is empty, and the tokenizer adds none of its own; leave the row out")]
    NoToken,
    /// An answer that is marked as one that is not to be learnt.
    #[error(
        "key `{key}` says that this answer is not to be learnt, and all answers of a conversation are; end the conversation before \
         it, or make rows of `prompt` and `completion`"
    )]
    NotToBeLearnt {
        /// Path of the key.
        key: String,
    },
    /// Who speaks is not known.
    #[error("key `{key}`: unknown role {role:?}; known are {known}")]
    UnknownRole {
        /// Path of the key.
        key: String,
        /// The role.
        role: String,
        /// All roles of the shape.
        known: String,
    },
    /// A conversation in an order that no template was made for.
    #[error(
        "message {at} ({role}) cannot follow {before}; roles have to alternate (`turns: warn` keeps such rows)"
    )]
    Turns {
        /// Which message, from 0.
        at: usize,
        /// Its role.
        role: String,
        /// The role before it, or the beginning.
        before: String,
    },
    /// An image that is not there.
    #[error("key `{key}`: no such file: {path}", path = path.display())]
    NoImage {
        /// The key.
        key: String,
        /// The file.
        path: PathBuf,
    },
    /// A conversation for a model without a chat template.
    #[error(
        "conversations need a chat template, which the model does not have; name one, or map the keys of rows to \
         `prompt` and `completion`"
    )]
    NoTemplate,
    /// Nothing that could be compared with what a model says.
    #[error("no target: key `{key}` says nothing of what is expected; rows that are scored need it")]
    NoTarget {
        /// The key.
        key: String,
    },
    /// A template that the row does not fit.
    #[error("template {template:?}: {message}")]
    Template {
        /// The template.
        template: String,
        /// What is wrong.
        message: String,
    },
    /// It cannot be tokenised.
    #[error(transparent)]
    Text(#[from] TextError),
}
