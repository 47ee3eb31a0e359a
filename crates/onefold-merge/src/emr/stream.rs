//! Running a plan into an artefact: one pass that writes the unified task vectors and the masks and keeps the sums that
//! λ needs.
//!
//! Masks and sums are taken from the unified vector *as stored*, after it was rounded to its type: the artefact's own
//! numbers fulfil λ_t = Σ|τ_t| / Σ|M_t ∘ unified|, and a value that rounds to 0 belongs to no task.

use std::ops::Range;

use onefold_checkpoint::emr::{mask_bytes, mask_name, unified_name};
use onefold_checkpoint::output::OutputTensor;
use onefold_checkpoint::{Dtype, convert};
use onefold_runtime::{Event, Observer};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::{Rescaler, Sums, mask, rescaler};
use crate::MergeError;
use crate::methods::{Kernel, ModelSurvey, Scratch};
use crate::scan::{View, with_buffers};
use crate::stream::{Merge, Partial, Planned, Sink, Statistics, Work, bytes_of, store, tell, total};

/// The tensors of an artefact: of each planned weight the unified vector and then the masks of all `tasks`.
pub fn outputs(plan: &[Planned], tasks: usize) -> Vec<OutputTensor> {
    let pair = |planned: &Planned| {
        let OutputTensor { name, dtype, shape } = &planned.output;
        let masks = vec![tasks, mask_bytes(shape.iter().product())];
        [
            OutputTensor { name: unified_name(name), dtype: *dtype, shape: shape.clone() },
            OutputTensor { name: mask_name(name), dtype: Dtype::U8, shape: masks },
        ]
    };
    plan.iter().flat_map(pair).collect()
}

/// What was seen of one weight; a finished tensor's note.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Seen {
    /// For the report; the result is the unified task vector.
    pub statistics: Statistics,
    /// Of each task.
    pub sums: Vec<Sums>,
}

/// Runs `plan`, whose every tensor is a merge, into a sink of [`outputs`], skipping what is in `finished`. `tasks` names
/// the model of each task: the order of the masks. A weight that a model lacks has no task vector there.
///
/// # Errors
/// As [`crate::stream::run`].
pub fn run(
    plan: &[Planned],
    tasks: &[&str],
    finished: &[Option<String>],
    sink: &dyn Sink,
    observer: &dyn Observer,
) -> Result<Vec<Seen>, MergeError> {
    // The unified vector's note says that both are done: it is left last.
    let done = |i: usize| finished.get(2 * i)?.as_deref().and_then(|note| serde_json::from_str(note).ok());
    let done: Vec<Option<Seen>> = (0..plan.len()).map(done).collect();
    let bytes = plan.iter().zip(&done).filter(|(_, done)| done.is_none()).map(|(p, _)| bytes_of(p)).sum();
    tell(observer, &Event::Phase { name: "merge", total: bytes })?;
    let one = |(i, done): (usize, Option<Seen>)| -> Result<Seen, MergeError> {
        if let Some(seen) = done {
            return Ok(seen);
        }
        let Work::Merge(merge) = &plan[i].work else { return Ok(Seen::default()) };
        let seen = Elected { i, planned: &plan[i], merge, tasks, sink }.run(observer)?;
        sink.finish(2 * i + 1, "")?;
        sink.finish(2 * i, &serde_json::to_string(&seen).unwrap_or_default())?;
        Ok(seen)
    };
    done.into_par_iter().enumerate().map(one).collect()
}

/// λ of each task. A weight that repeats another counts once.
pub fn rescalers(plan: &[Planned], seen: &[Seen], tasks: usize, rule: Rescaler) -> Vec<f64> {
    let counted = || plan.iter().zip(seen).filter(|(planned, _)| !planned.repeats).map(|(_, seen)| seen);
    let of = |task: usize| -> Vec<Sums> { counted().filter_map(|s| s.sums.get(task).copied()).collect() };
    (0..tasks).map(|task| rescaler(&of(task), rule)).collect()
}

/// One weight on its way.
struct Elected<'a> {
    i: usize,
    planned: &'a Planned,
    merge: &'a Merge,
    tasks: &'a [&'a str],
    sink: &'a dyn Sink,
}

/// What a block contributes.
type Part = (Partial, Vec<Sums>);

impl Elected<'_> {
    fn run(&self, observer: &dyn Observer) -> Result<Seen, MergeError> {
        let scan = &self.merge.scan;
        let kernel = self.merge.rule.prepare(scan, &ModelSurvey::default())?;
        let elements = scan.len().max(1) as u64;
        let one = |span: Range<usize>| -> Result<Vec<Part>, MergeError> {
            let bytes = bytes_of(self.planned) * span.len() as u64 / elements;
            let parts = self.span(&*kernel, span)?;
            tell(observer, &Event::Progress { bytes })?;
            Ok(parts)
        };
        let spans = scan.spans(kernel.grain()).into_par_iter();
        let parts: Vec<Vec<Part>> = spans.map(one).collect::<Result<_, _>>()?;
        let mut sums = vec![Sums::default(); self.tasks.len()];
        let mut partials = Vec::new();
        for (partial, more) in parts.into_iter().flatten() {
            sums.iter_mut().zip(more).for_each(|(sum, more)| *sum += more);
            partials.push(partial);
        }
        Ok(Seen { statistics: total(scan, &*kernel, vec![partials]), sums })
    }

    fn span(&self, kernel: &dyn Kernel, span: Range<usize>) -> Result<Vec<Part>, MergeError> {
        let dtype = self.planned.output.dtype;
        let mut stored = vec![0; span.len() * dtype.size()];
        let mut masks = vec![vec![0; mask_bytes(span.len())]; self.tasks.len()];
        let (mut scratch, mut unified) = (Scratch::default(), Vec::new());
        let parts = with_buffers(|buffers| -> Result<Vec<Part>, MergeError> {
            let mut parts = Vec::new();
            for block in self.merge.scan.blocks_of(span.clone(), kernel.grain()) {
                let view = self.merge.scan.load(block.clone(), buffers)?;
                let at = block.start - span.start;
                unified.resize(block.len(), 0.0);
                kernel.merge(&view, &mut scratch, &mut unified);
                let bytes = &mut stored[at * dtype.size()..(at + block.len()) * dtype.size()];
                self.store(block.start, &mut unified, bytes)?;
                // Blocks begin at multiples of 8, as spans do.
                let here = at / 8..at / 8 + mask_bytes(block.len());
                let rows = masks.iter_mut().map(|row| &mut row[here.clone()]);
                let mut partial = Partial::of(&self.merge.scan);
                partial.add(&view, &unified);
                parts.push((partial, self.masks(&view, &unified, rows)));
            }
            Ok(parts)
        })?;
        self.sink.write(2 * self.i, (span.start * dtype.size()) as u64, &stored)?;
        let width = mask_bytes(self.merge.scan.len());
        for (task, row) in masks.iter().enumerate() {
            self.sink.write(2 * self.i + 1, (task * width + span.start / 8) as u64, row)?;
        }
        Ok(parts)
    }

    /// Rounds a block to the stored type, and takes the rounded values back.
    fn store(&self, start: usize, unified: &mut [f32], bytes: &mut [u8]) -> Result<(), MergeError> {
        let output = &self.planned.output;
        store(output, &self.merge.scan, start, unified, bytes)?;
        convert::widen(output.dtype, bytes, unified);
        Ok(())
    }

    /// Writes the mask of each task and returns its sums.
    fn masks<'m>(
        &self,
        view: &View<'_>,
        unified: &[f32],
        rows: impl Iterator<Item = &'m mut [u8]>,
    ) -> Vec<Sums> {
        let operands = &self.merge.scan.operands;
        let sums = self.tasks.iter().zip(rows).map(|(task, row)| {
            let Some(k) = operands.iter().position(|o| o.model == **task) else { return Sums::default() };
            mask(&view.vectors[k], unified, row);
            Sums::of(&view.vectors[k], unified)
        });
        sums.collect()
    }
}
