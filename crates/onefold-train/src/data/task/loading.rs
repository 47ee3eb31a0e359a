//! Reading the files of a task.
//!
//! Files are read row by row; blocks of rows are shaped and tokenised in parallel and kept in their order, so nothing
//! depends on the number of threads. A row that cannot be used is counted and told; `max_bad_rows` (0 if it is not given)
//! says how many a task may have, and reading stops with a list of them after the block in which there are more. Rows
//! that are too long and rows of which nothing is learnt are counted and left out.

use std::path::{Path, PathBuf};

use onefold_runtime::events::{Control, Event, Observer};
use rayon::prelude::*;

use super::prepare::{Prepared, check, prepare};
use super::{Content, Counts, Task, TaskSettings, Unlabelled, Validation};
use crate::data::error::{DataError, RowError};
use crate::data::labels::{Labels, Met};
use crate::data::shape::{Kind, Layout, Picture};
use crate::data::shuffle::permutation;
use crate::data::source::{self, Row};
use crate::data::split::split;
use crate::data::store::{Notes, Store};
use crate::data::tokenize::Encoder;

/// Rows that are prepared together.
const BLOCK: usize = 1024;
/// Bad rows that an error shows.
const SHOWN: usize = 10;
/// Rows of a task, which are numbered in 32 bits.
const MOST: usize = u32::MAX as usize;

/// A task while its files are read.
pub(super) struct Loading<'a> {
    settings: &'a TaskSettings,
    encoder: Option<&'a Encoder>,
    observer: &'a dyn Observer,
    layouts: Vec<(PathBuf, Layout)>,
    store: Store,
    pictures: Vec<Picture>,
    notes: Notes,
    met: Met,
    counts: Counts,
    bad: Vec<RowError>,
}

/// Where a part of the files ends.
#[derive(Debug, Clone, Copy)]
pub(super) struct End {
    rows: usize,
    labels: usize,
}

impl<'a> Loading<'a> {
    pub(super) fn new(
        settings: &'a TaskSettings,
        encoder: Option<&'a Encoder>,
        observer: &'a dyn Observer,
    ) -> Self {
        Self {
            settings,
            encoder,
            observer,
            layouts: Vec::new(),
            store: Store::default(),
            pictures: Vec::new(),
            notes: Notes::default(),
            met: Met::default(),
            counts: Counts::default(),
            bad: Vec::new(),
        }
    }

    /// Reads files.
    pub(super) fn files(&mut self, paths: &[PathBuf]) -> Result<(), DataError> {
        paths.iter().try_for_each(|path| self.file(path))
    }

    /// How many rows and labels there are so far.
    pub(super) fn end(&self) -> End {
        End { rows: self.notes.len(), labels: self.met.len() }
    }

    /// Reads a file, block by block.
    fn file(&mut self, path: &Path) -> Result<(), DataError> {
        let mut rows = source::open(path)?;
        let mut layout = None;
        loop {
            let mut block = Vec::with_capacity(BLOCK);
            for row in rows.by_ref().take(BLOCK) {
                match row {
                    Ok(row) => block.push(Ok(row)),
                    Err(DataError::Row(error)) => block.push(Err(error)),
                    Err(error) => return Err(error),
                }
            }
            if block.is_empty() {
                break;
            }
            if layout.is_none() {
                // As many rows as may be bad are no reason to give up.
                let mut rows =
                    block.iter().filter_map(|row| row.as_ref().ok()).take(self.settings.max_bad_rows + 1);
                let first = rows.next();
                layout = match self.layout(path, first) {
                    Err(error @ DataError::NoShape { .. }) => {
                        let other = rows.find_map(|row| self.layout(path, Some(row)).ok());
                        Some(other.ok_or(error)?.expect("there is a row"))
                    }
                    found => found?,
                };
            }
            self.block(block, layout.as_ref())?;
            let bytes = rows.take_bytes();
            if self.observer.event(&Event::Progress { bytes }) == Control::Cancel {
                return Err(DataError::Cancelled);
            }
        }
        self.layouts.extend(layout.map(|layout| (path.to_owned(), layout)));
        Ok(())
    }

    /// How the rows of a file are read, from the first that can be.
    fn layout(&self, path: &Path, first: Option<&Row>) -> Result<Option<Layout>, DataError> {
        let Some(first) = first else { return Ok(None) };
        let layout = match (&self.settings.layout, self.settings.unlabelled) {
            (Some(layout), _) => layout.clone(),
            (None, Some(unlabelled)) => self.unlabelled(path, first, unlabelled)?,
            (None, None) => Layout::detect(first, &self.settings.columns)?,
        };
        check(&layout, self.settings, self.encoder)?;
        let kind = layout.shape.kind();
        match self.layouts.first().filter(|(_, first)| first.shape.kind() != kind) {
            Some((before, other)) => Err(DataError::Kinds {
                task: self.settings.name.clone(),
                first: before.clone(),
                before: other.shape.kind().name(),
                path: path.to_owned(),
                kind: kind.name(),
            }),
            None => Ok(Some(layout)),
        }
    }

    /// The same of rows whose classes are to be told.
    fn unlabelled(&self, path: &Path, first: &Row, expected: Unlabelled) -> Result<Layout, DataError> {
        let layout = Layout::without_label(first, &self.settings.columns, expected.kind)?;
        match layout.unread_label().filter(|_| !expected.may_have_labels) {
            None => Ok(layout),
            Some(label) => Err(DataError::UnreadLabel {
                task: self.settings.name.clone(),
                path: path.to_owned(),
                label: label.to_owned(),
            }),
        }
    }

    fn block(&mut self, rows: Vec<Result<Row, RowError>>, layout: Option<&Layout>) -> Result<(), DataError> {
        let prepare = |row: Result<Row, RowError>| match layout {
            Some(layout) => prepare(row?, layout, self.settings, self.encoder).map(Some),
            None => row.map(|_| None), // without a layout every row is an error
        };
        let prepared: Vec<_> = rows.into_par_iter().map(prepare).collect();
        for row in prepared {
            self.counts.read += 1;
            match row {
                Ok(row) => row.into_iter().for_each(|row| self.take(row)),
                Err(error) => self.count(error),
            }
        }
        self.check_bad()
    }

    fn take(&mut self, row: Prepared) {
        let Prepared { place, label, picture, encoded, turns } = row;
        self.counts.turns += usize::from(turns);
        let label = label.map(|label| self.met.number(&label, &place));
        if let Some(picture) = picture {
            self.pictures.push(picture);
            self.notes.push(&place, label);
            return;
        }
        self.counts.too_long += usize::from(encoded.rows.is_empty());
        self.counts.cut += usize::from(encoded.cut > 0);
        self.counts.tokens_cut += encoded.cut;
        self.counts.merged += usize::from(encoded.merged);
        for tokens in &encoded.rows {
            let nothing = !tokens.learnt.iter().skip(1).any(|learnt| *learnt);
            if nothing && label.is_none() && self.settings.unlabelled.is_none() {
                self.counts.masked += 1;
                continue;
            }
            self.store.push(tokens);
            self.notes.push(&place, label);
        }
    }

    fn count(&mut self, error: RowError) {
        self.counts.bad += 1;
        if self.bad.len() < SHOWN {
            self.counts.first_bad.push(error.to_string());
            self.bad.push(error);
        }
    }

    fn check_bad(&mut self) -> Result<(), DataError> {
        if self.notes.len() > MOST {
            let message = format!("more than {MOST} rows; make several tasks of them");
            return Err(DataError::setting(format!("tasks.{}", self.settings.name), message));
        }
        if self.counts.bad <= self.settings.max_bad_rows {
            return Ok(());
        }
        Err(DataError::BadRows {
            task: self.settings.name.clone(),
            bad: self.counts.bad,
            read: self.counts.read,
            allowed: self.settings.max_bad_rows,
            first: std::mem::take(&mut self.bad),
        })
    }

    /// The task. Its training files end at `train`; `files` says whether there are files for validation.
    pub(super) fn finish(mut self, train: End, files: bool) -> Result<Task, DataError> {
        let settings = self.settings;
        let labels = self.labels(train.labels)?;
        let end = |rows: usize| rows as u32; // loading refuses more
        let (train, validation) = match settings.validation {
            Validation::Held(held) if train.rows > 0 => {
                split(train.rows, held, settings.seed, &settings.name)?
            }
            _ => ((0..end(train.rows)).collect(), (end(train.rows)..end(self.notes.len())).collect()),
        };
        let train = self.sampled(train);
        let wanted = files || matches!(settings.validation, Validation::Held(_));
        let kind = match self.layouts.first() {
            _ if train.is_empty() => return Err(self.empty("learn")),
            _ if wanted && validation.is_empty() => return Err(self.empty("validate")),
            Some((_, layout)) => layout.shape.kind(),
            None => return Err(self.empty("learn")),
        };
        let content = match kind {
            Kind::ImageClassify => Content::Images(self.pictures),
            _ => Content::Tokens(self.store),
        };
        let Self { layouts, notes, counts, .. } = self;
        Ok(Task {
            name: settings.name.clone(),
            kind,
            layouts,
            content,
            train,
            validation,
            labels,
            counts,
            notes,
        })
    }

    /// The classes, of which the first `train` labels have to give all; rows get their numbers.
    fn labels(&mut self, train: usize) -> Result<Option<Labels>, DataError> {
        if self.met.len() == 0 {
            return Ok(None);
        }
        let settings = self.settings;
        let (labels, classes) = self.met.classes(settings.labels.as_deref(), train, &settings.name)?;
        self.notes.renumber(&classes);
        Ok(Some(labels))
    }

    fn sampled(&mut self, mut train: Vec<u32>) -> Vec<u32> {
        let settings = self.settings;
        if let Some(samples) = settings.samples.filter(|samples| *samples < train.len()) {
            self.counts.not_sampled = train.len() - samples;
            let order = permutation(train.len(), settings.seed, &settings.name, "samples");
            train = order[..samples].iter().map(|place| train[*place as usize]).collect();
            train.sort_unstable();
        }
        train
    }

    fn empty(&self, part: &'static str) -> DataError {
        let Counts { read, bad, too_long, masked, .. } = self.counts;
        let files = self.settings.train.clone();
        DataError::Empty { task: self.settings.name.clone(), part, read, bad, too_long, masked, files }
    }
}
