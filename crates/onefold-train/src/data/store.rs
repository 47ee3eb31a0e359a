//! Tokenised rows, held compactly.
//!
//! All rows of a task lie one behind the other: four bytes per token for its id and one bit for whether it is learnt; one
//! byte more per token if texts come in pairs. A row costs 28 bytes beside its tokens: where it ends, its class, where it
//! stands. A million rows of 300 tokens take 1.3 GB. The texts themselves are not kept.

use std::path::Path;
use std::sync::Arc;

use super::error::{Place, Unit};
use super::tokenize::Tokens;

/// What a row has instead of a class.
const NO_LABEL: u32 = u32::MAX;

/// Tokenised rows.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Store {
    ids: Vec<u32>,
    /// A bit per token.
    learnt: Vec<u64>,
    /// Per token; empty if all are 0.
    types: Vec<u8>,
    ends: Vec<u64>,
}

/// A tokenised row.
#[derive(Debug, Clone, Copy)]
pub struct RowTokens<'a> {
    store: &'a Store,
    start: usize,
    end: usize,
}

impl Store {
    /// Adds a row.
    pub fn push(&mut self, row: &Tokens) {
        let start = self.ids.len();
        self.ids.extend_from_slice(&row.ids);
        self.learnt.resize(self.ids.len().div_ceil(64), 0);
        for (i, _) in row.learnt.iter().enumerate().filter(|(_, learnt)| **learnt) {
            self.learnt[(start + i) / 64] |= 1 << ((start + i) % 64);
        }
        if !self.types.is_empty() || row.types.iter().any(|kind| *kind != 0) {
            self.types.resize(start, 0);
            // Models have two types or none: whatever is beyond a byte is refused by all of them.
            self.types.extend(row.types.iter().map(|kind| u8::try_from(*kind).unwrap_or(u8::MAX)));
            self.types.resize(self.ids.len(), 0);
        }
        self.ends.push(self.ids.len() as u64);
    }

    /// Number of rows.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// A row.
    pub fn row(&self, row: usize) -> RowTokens<'_> {
        let start = row.checked_sub(1).map_or(0, |before| self.ends[before] as usize);
        RowTokens { store: self, start, end: self.ends[row] as usize }
    }

    /// Bytes held.
    pub fn bytes(&self) -> usize {
        self.ids.len() * 4 + self.learnt.len() * 8 + self.types.len() + self.ends.len() * 8
    }
}

impl<'a> RowTokens<'a> {
    /// Token ids.
    pub fn ids(&self) -> &'a [u32] {
        &self.store.ids[self.start..self.end]
    }

    /// Whether a token is learnt.
    pub fn is_learnt(&self, token: usize) -> bool {
        let at = self.start + token;
        self.store.learnt[at / 64] >> (at % 64) & 1 == 1
    }

    /// For each token whether it is learnt.
    pub fn learnt(&self) -> Vec<bool> {
        (0..self.ids().len()).map(|token| self.is_learnt(token)).collect()
    }

    /// Tokens that a language model is scored on: learnt ones that have a token before them.
    pub fn targets(&self) -> usize {
        (1..self.ids().len()).filter(|token| self.is_learnt(*token)).count()
    }

    /// Token types; empty if all are 0.
    pub fn types(&self) -> &'a [u8] {
        if self.store.types.is_empty() { &[] } else { &self.store.types[self.start..self.end] }
    }
}

/// What rows have beside their contents.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Notes {
    files: Vec<Arc<Path>>,
    labels: Vec<u32>,
    places: Vec<(u32, u64, Unit)>,
}

impl Notes {
    pub(super) fn push(&mut self, place: &Place, label: Option<u32>) {
        if self.files.last() != Some(&place.path) {
            self.files.push(Arc::clone(&place.path));
        }
        self.labels.push(label.unwrap_or(NO_LABEL));
        self.places.push((self.files.len() as u32 - 1, place.number, place.unit));
    }

    pub(super) fn place(&self, row: usize) -> Place {
        let (file, number, unit) = self.places[row];
        Place { path: Arc::clone(&self.files[file as usize]), number, unit }
    }

    pub(super) fn label(&self, row: usize) -> Option<u32> {
        Some(self.labels[row]).filter(|label| *label != NO_LABEL)
    }

    pub(super) fn len(&self) -> usize {
        self.places.len()
    }

    /// Puts `numbers[label]` in place of each label.
    pub(super) fn renumber(&mut self, numbers: &[u32]) {
        for label in self.labels.iter_mut().filter(|label| **label != NO_LABEL) {
            *label = numbers[*label as usize];
        }
    }
}
