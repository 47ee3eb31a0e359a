//! How many threads a merge may have, and how much memory it takes at most: known from the plan.

use onefold_merge::recording;
use onefold_merge::scan::BLOCK;
use onefold_merge::stream::Work;

use crate::jobs::show_bytes;
use crate::plan::Plan;
use crate::progress::Failure;

/// Threads and anonymous memory of a run.
#[derive(Debug)]
pub(super) struct Budget {
    pub(super) threads: usize,
    pub(super) bytes: u64,
    /// Of these, what masks may take that are kept between passes.
    pub(super) masks: u64,
}

/// The program itself, its tables and stacks.
const FIXED: u64 = 24 << 20;

impl Budget {
    /// As many threads as asked for and as fit into `limit`.
    pub(super) fn of(plan: &Plan, threads: usize, limit: Option<u64>) -> Result<Self, Failure> {
        let merges = || {
            plan.tensors.iter().filter_map(|t| match &t.work {
                Work::Merge(merge) => Some((merge, t.output.dtype)),
                Work::Copy(_) => None,
            })
        };
        // Per worker: inputs, masked copies, results and temporaries as blocks, one span of output, one histogram.
        let rows = merges().map(|(m, _)| m.scan.width().max(BLOCK)).max().unwrap_or(BLOCK) as u64;
        let worker = merges()
            .map(|(m, dtype)| {
                ((2 * m.scan.k() + m.scan.statistics.len()) as u64 + 8) * 4 * rows.min(1 << 22)
                    + (m.scan.options.span * dtype.size()) as u64
                    + (1 << 19)
            })
            .max()
            .unwrap_or(1 << 20);
        let whole = merges().map(|(m, _)| m.rule.whole_tensor_bytes(&m.scan)).max().unwrap_or(0);
        let tables = plan.tensors.len() as u64 * 2048;
        let total = |threads: usize| FIXED + whole + tables + worker * threads as u64;
        let fits = |threads: &usize| limit.is_none_or(|limit| total(*threads) <= limit);
        let wanted: u64 = merges().map(|(m, _)| m.rule.recorded_bytes(&m.scan)).sum();
        match (1..=threads).rev().find(fits) {
            Some(threads) => {
                // Masks are only kept to save time: they have what is left.
                let left = limit.map_or(recording::MOST, |limit| limit - total(threads));
                let masks = wanted.min(left).min(recording::MOST);
                Ok(Self { threads, bytes: total(threads) + masks, masks })
            }
            None => Err(Failure::usage(format!(
                "--max-memory {}: the merge needs {} even with one thread",
                show_bytes(limit.unwrap_or(0)),
                show_bytes(total(1))
            ))),
        }
    }
}
