//! Rows that are the same: by a hash of their tokens, made sure by comparing.

use std::collections::BTreeMap;

use xxhash_rust::xxh3::xxh3_64;

use crate::data::shape::Picture;
use crate::data::task::{Content, Task};

/// Equal rows of a task; classes do not count for equality.
#[derive(Debug, Default)]
pub(super) struct Same {
    /// Training rows equal to an earlier one, of the same class.
    pub(super) duplicates: usize,
    pub(super) first_duplicate: Option<(u32, u32)>,
    /// Training rows equal to an earlier one, of another class.
    pub(super) conflicts: usize,
    pub(super) first_conflict: Option<(u32, u32)>,
    /// Validation rows equal to a training row.
    pub(super) overlap: usize,
    pub(super) first_overlap: Option<(u32, u32)>,
}

impl Same {
    pub(super) fn of(task: &Task) -> Self {
        let mut same = Self::default();
        let mut seen = BTreeMap::new();
        for &row in &task.train {
            let first = *seen.entry(hash(task, row)).or_insert(row);
            if first == row || !equal(task, first, row) {
                continue;
            }
            if task.label(first) == task.label(row) {
                same.duplicates += 1;
                same.first_duplicate.get_or_insert((first, row));
            } else {
                same.conflicts += 1;
                same.first_conflict.get_or_insert((first, row));
            }
        }
        for &row in &task.validation {
            if let Some(first) = seen.get(&hash(task, row)).filter(|first| equal(task, **first, row)) {
                same.overlap += 1;
                same.first_overlap.get_or_insert((*first, row));
            }
        }
        same
    }
}

fn hash(task: &Task, row: u32) -> u64 {
    match &task.content {
        Content::Tokens(store) => xxh3_64(bytemuck::cast_slice(store.row(row as usize).ids())),
        Content::Images(pictures) => match &pictures[row as usize] {
            Picture::File(path) => xxh3_64(path.as_os_str().as_encoded_bytes()),
            Picture::Bytes { bytes, .. } => xxh3_64(bytes),
        },
    }
}

fn equal(task: &Task, a: u32, b: u32) -> bool {
    match (&task.content, a as usize, b as usize) {
        (Content::Tokens(store), a, b) => store.row(a).ids() == store.row(b).ids(),
        (Content::Images(pictures), a, b) => match (&pictures[a], &pictures[b]) {
            (Picture::Bytes { bytes: a, .. }, Picture::Bytes { bytes: b, .. }) => a == b,
            (a, b) => a == b,
        },
    }
}
