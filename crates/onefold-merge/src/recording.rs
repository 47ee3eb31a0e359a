//! Masks of a tensor that are kept from one pass to the next, a bit per element, within a budget that all tensors share.
//! What does not fit is computed again: the same bits at a higher price.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use onefold_runtime::random::GROUP;

use crate::kernels::mix::mark;
use crate::scan::{Grain, Scan, View};

/// The mask of a block, laid out as [`GROUP`] says.
pub type Marks = Box<[u8]>;

/// Most bytes of masks that are kept at a time, over all tensors in work, if nothing else is said.
pub const MOST: u64 = 64 << 20;

/// What is left. Of the whole process, as its memory is.
static LEFT: AtomicUsize = AtomicUsize::new(MOST as usize);

/// Sets how many bytes of masks may be kept. Not to be called while a merge runs: what it holds would come on top.
pub fn set_budget(bytes: usize) {
    LEFT.store(bytes, Ordering::Relaxed);
}

/// Bytes that a number of masks of a tensor take.
pub fn bytes_of(scan: &Scan, masks: usize) -> usize {
    masks.saturating_mul(scan.len().div_ceil(8))
}

/// The marks of the elements of a block of which any bit is set.
pub fn marks_of(kept: &[f32]) -> Marks {
    let mut marks = vec![0; kept.len().div_ceil(GROUP) * (GROUP / 8)];
    mark(kept, &mut marks);
    marks.into()
}

/// The right to keep masks of one tensor.
#[derive(Debug)]
pub struct Recorder {
    share: Arc<Share>,
    block: usize,
    row: Option<usize>,
}

impl Recorder {
    /// For a number of masks of a tensor that is read in this grain; `None` if they do not fit the budget.
    pub fn new(scan: &Scan, grain: Grain, masks: usize) -> Option<Self> {
        let row = if let Grain::Rows(row) = grain { Some(row) } else { None };
        let share = Arc::new(Share::take(bytes_of(scan, masks))?);
        Some(Self { share, block: scan.block_len(grain), row })
    }

    /// A mask from its blocks, in their order.
    pub fn recording(&self, blocks: Vec<Marks>) -> Arc<Recording> {
        Arc::new(Recording { blocks, block: self.block, row: self.row, _share: self.share.clone() })
    }
}

/// A mask of a tensor.
#[derive(Debug)]
pub struct Recording {
    blocks: Vec<Marks>,
    block: usize,
    row: Option<usize>,
    /// Returns its bytes to the budget with the last mask of the tensor.
    _share: Arc<Share>,
}

impl Recording {
    /// The marks of a block, which must be one of those recorded, or of a strip of one.
    pub fn marks(&self, view: &View<'_>) -> &[u8] {
        let (block, within) = (view.start / self.block, view.start % self.block);
        &self.blocks[block][within / GROUP * (GROUP / 8)..]
    }

    /// Length of the rows that must stay whole, for the blocks to be the same.
    pub fn row(&self) -> Option<usize> {
        self.row
    }
}

/// A part of the budget.
#[derive(Debug)]
struct Share(usize);

impl Share {
    fn take(bytes: usize) -> Option<Self> {
        let rest = |left: usize| left.checked_sub(bytes);
        LEFT.fetch_update(Ordering::Relaxed, Ordering::Relaxed, rest).ok().map(|_| Self(bytes))
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        LEFT.fetch_add(self.0, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One test, since the budget is the process's own.
    #[test]
    fn a_share_is_taken_and_given_back() {
        let most = MOST as usize;
        assert!(Share::take(most + 1).is_none());
        let half = Share::take(most / 2 + 1).expect("it is free");
        assert!(Share::take(most / 2 + 1).is_none());
        drop(half);
        assert!(Share::take(most / 2 + 1).is_some());
    }
}
