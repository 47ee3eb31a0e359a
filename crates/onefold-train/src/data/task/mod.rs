//! A task: from what a recipe says of it to rows that a model can be fed.

mod loading;
mod prepare;

use std::path::PathBuf;

use onefold_runtime::events::{Event, Observer};
use serde::Serialize;

use super::error::{DataError, Place};
use super::labels::Labels;
use super::shape::{Columns, Kind, Layout, Picture, Turns};
use super::source::{Part, data_files};
use super::split::Held;
use super::store::{Notes, RowTokens, Store};
use super::tokenize::Encoder;
use crate::model::{Batch, Sequence, next_tokens};
use loading::Loading;

/// What a recipe says of a task's data.
#[derive(Debug, Clone, Default)]
pub struct TaskSettings {
    /// Its name.
    pub name: String,
    /// Files and directories to learn from.
    pub train: Vec<PathBuf>,
    /// What progress is measured on.
    pub validation: Validation,
    /// What the keys of rows mean, as far as the recipe says it.
    pub columns: Columns,
    /// How rows are read, if it is known; then `columns` says nothing.
    pub layout: Option<Layout>,
    /// Classes in their order.
    pub labels: Option<Vec<String>>,
    /// What is done with rows that need no label, as classes are told and not learnt. None: rows show it.
    pub unlabelled: Option<Unlabelled>,
    /// At most this many training rows, drawn at random.
    pub samples: Option<usize>,
    /// How many rows may be bad.
    pub max_bad_rows: usize,
    /// What of conversations whose roles do not alternate.
    pub turns: Turns,
    /// For random choices.
    pub seed: u64,
}

/// Rows whose classes are to be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unlabelled {
    /// What is done with them: texts or images are classified.
    pub kind: Kind,
    /// Whether rows may have a label, which is not read.
    pub may_have_labels: bool,
}

/// Where validation rows come from.
#[derive(Debug, Clone, Default, PartialEq)]
pub enum Validation {
    /// There are none, unless a directory among the training files has a part of that name.
    #[default]
    None,
    /// Files and directories.
    Files(Vec<PathBuf>),
    /// Rows held back.
    Held(Held),
}

/// A task's data.
#[derive(Debug)]
pub struct Task {
    /// Its name.
    pub name: String,
    /// What is done with it.
    pub kind: Kind,
    /// How each file is read.
    pub layouts: Vec<(PathBuf, Layout)>,
    /// The rows: token ids or images.
    pub content: Content,
    /// Rows to learn from.
    pub train: Vec<u32>,
    /// Rows to measure progress on.
    pub validation: Vec<u32>,
    /// Classes.
    pub labels: Option<Labels>,
    /// What became of the rows of the files.
    pub counts: Counts,
    notes: Notes,
}

/// The rows of a task.
#[derive(Debug)]
pub enum Content {
    /// Tokenised rows.
    Tokens(Store),
    /// Images, decoded when they are needed.
    Images(Vec<Picture>),
}

/// What became of rows.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// Rows of all files.
    pub read: usize,
    /// Rows that cannot be used.
    pub bad: usize,
    /// The first of them.
    pub first_bad: Vec<String>,
    /// Rows left out for their length.
    pub too_long: usize,
    /// Rows cut to length.
    pub cut: usize,
    /// Tokens that were cut off.
    pub tokens_cut: usize,
    /// Rows left out because no token of them is learnt.
    pub masked: usize,
    /// Conversations whose roles do not alternate.
    pub turns: usize,
    /// Rows with a token across the end of the prompt.
    pub merged: usize,
    /// Training rows beyond `samples`.
    pub not_sampled: usize,
}

impl Task {
    /// Reads a task. `encoder` may be absent for images.
    pub fn load(
        settings: &TaskSettings,
        encoder: Option<&Encoder>,
        observer: &dyn Observer,
    ) -> Result<Self, DataError> {
        encoder.map_or(Ok(()), Encoder::check)?;
        let (train, validation) = files(settings)?;
        let bytes = |path: &PathBuf| std::fs::metadata(path).map_or(0, |found| found.len());
        observer
            .event(&Event::Phase { name: "read", total: train.iter().chain(&validation).map(bytes).sum() });
        let mut loading = Loading::new(settings, encoder, observer);
        loading.files(&train)?;
        let train_only = loading.end();
        loading.files(&validation)?;
        loading.finish(train_only, !validation.is_empty())
    }

    /// The tokens of a row; none if rows are images.
    pub fn tokens(&self, row: u32) -> Option<RowTokens<'_>> {
        match &self.content {
            Content::Tokens(store) => Some(store.row(row as usize)),
            Content::Images(_) => None,
        }
    }

    /// Adds a row of tokens to a batch. The rows of a packed row are sequences of their own, which do not see one another.
    pub fn push(&self, row: u32, task: u32, weight: f32, batch: &mut Batch) {
        let Some(tokens) = self.tokens(row) else { return };
        let ids = tokens.ids();
        let targets = match self.target(row) {
            Some(label) => vec![label],
            None => next_tokens(ids, &tokens.learnt()),
        };
        let types: Vec<_> = tokens.types().iter().copied().map(u32::from).collect();
        batch.push(&Sequence { ids, types: &types, targets: &targets, values: &[], weight, task });
    }

    /// The image of a row; none if rows are texts.
    pub fn picture(&self, row: u32) -> Option<&Picture> {
        match &self.content {
            Content::Tokens(_) => None,
            Content::Images(pictures) => pictures.get(row as usize),
        }
    }

    /// The class of a row.
    pub fn label(&self, row: u32) -> Option<u32> {
        self.notes.label(row as usize)
    }

    /// The class to be learnt of a row, as batches take it; without a label class 0, which counts as a row with something to be
    /// learnt. None if tokens are learnt.
    pub fn target(&self, row: u32) -> Option<i32> {
        match self.kind {
            Kind::Generate => None,
            // Beyond every head, which says so.
            _ => Some(self.label(row).map_or(0, |label| i32::try_from(label).unwrap_or(i32::MAX))),
        }
    }

    /// Where a row stands.
    pub fn place(&self, row: u32) -> Place {
        self.notes.place(row as usize)
    }

    /// Tokens of each training row; 1 for images.
    pub fn lengths(&self) -> Vec<u32> {
        let length = |row: &u32| self.tokens(*row).map_or(1, |tokens| tokens.ids().len() as u32);
        self.train.iter().map(length).collect()
    }
}

/// Sources for training and for validation.
fn files(settings: &TaskSettings) -> Result<(Vec<PathBuf>, Vec<PathBuf>), DataError> {
    let all = |paths: &[PathBuf], part| -> Result<Vec<PathBuf>, DataError> {
        Ok(paths.iter().map(|path| data_files(path, part)).collect::<Result<Vec<_>, _>>()?.concat())
    };
    let none_of = |part: &str| {
        let path = settings.train.first().cloned().unwrap_or_default();
        DataError::NoFiles { path, wanted: format!(" for {part}") }
    };
    let train = all(&settings.train, Part::Train)?;
    if train.is_empty() {
        return Err(none_of("training"));
    }
    let validation = match &settings.validation {
        Validation::Held(_) => Vec::new(),
        Validation::None => all(&settings.train, Part::Validation).map(|found| without(found, &train))?,
        Validation::Files(paths) => {
            let mut found = all(paths, Part::Validation)?;
            if found.is_empty() {
                found = all(paths, Part::Train)?; // a directory of its own, without words in its names
            }
            found
        }
    };
    Ok((train, validation))
}

/// Files that stand for themselves are found for every part.
fn without(mut found: Vec<PathBuf>, train: &[PathBuf]) -> Vec<PathBuf> {
    found.retain(|path| !train.contains(path));
    found
}
