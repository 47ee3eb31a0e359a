//! Running a plan: survey what must be known of the whole model, then stream every tensor into the sink.
//!
//! Tensors run in parallel, and so do the spans of a large tensor, on the caller's thread pool. Per worker there are a few
//! blocks in memory, whatever the model's size. While a block is in the cache the statistics of the health report are
//! taken from it, so that the report costs no further pass.

use std::collections::BTreeMap;
use std::ops::Range;

use onefold_checkpoint::output::{Output, OutputTensor};
use onefold_checkpoint::{CheckpointError, Tensor, convert};
use onefold_runtime::{Aligned, Control, Event, Observer};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::kernels::check::first_above;
use crate::kernels::reduce::{add_rough_gramian, packed_len};
use crate::kernels::{add_to_origin, conflict};
use crate::methods::{Group, Kernel, ModelSurvey, Rule, Scratch};
use crate::order::{self, Cut, Vectors};
use crate::scan::{Grain, Scan, View, with_buffers};
use crate::task::Task;
use crate::{MergeError, methods};

/// One tensor of the output and how it comes about.
#[derive(Debug)]
pub struct Planned {
    /// Name, dtype and shape as written.
    pub output: OutputTensor,
    /// Where the values come from.
    pub work: Work,
    /// Label of the layer it belongs to, for coefficients per layer.
    pub layer: String,
    /// The tensor repeats another (tied weights stored twice): it does not count in the norms of the model.
    pub repeats: bool,
}

/// Where the values of a tensor come from.
#[derive(Debug)]
pub enum Work {
    /// Byte for byte from one input.
    Copy(Tensor),
    /// From a merge method.
    Merge(Box<Merge>),
}

/// A task with the rule built from it.
#[derive(Debug)]
pub struct Merge {
    /// The inputs.
    pub scan: Scan,
    /// What is done with them.
    pub rule: Box<dyn Rule>,
}

impl Merge {
    /// Builds the rule of `method` for a task.
    ///
    /// # Errors
    /// If the method is not defined for the task's parameters; the sentence says why.
    pub fn new(method: &methods::Method, task: Task) -> Result<Box<Self>, String> {
        let rule = (method.build)(&task)?;
        let Task { mut scan, statistics, .. } = task;
        if rule.weighs_elements() {
            scan.statistics = statistics;
        }
        Ok(Box::new(Self { scan, rule }))
    }
}

/// Receives the bytes of the output, from any thread.
pub trait Sink: Sync {
    /// Writes at a byte offset of a tensor.
    ///
    /// # Errors
    /// If the bytes cannot be written.
    fn write(&self, tensor: usize, offset: u64, bytes: &[u8]) -> Result<(), CheckpointError>;

    /// A tensor is complete; `note` is to be given back to a resumed run.
    ///
    /// # Errors
    /// If that cannot be recorded.
    fn finish(&self, tensor: usize, note: &str) -> Result<(), CheckpointError>;
}

impl Sink for Output {
    fn write(&self, tensor: usize, offset: u64, bytes: &[u8]) -> Result<(), CheckpointError> {
        Self::write(self, tensor, offset, bytes)
    }

    fn finish(&self, tensor: usize, note: &str) -> Result<(), CheckpointError> {
        Self::finish(self, tensor, note)
    }
}

/// What was seen of one tensor while it was merged.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Statistics {
    /// Packed upper triangle of the inner products of: the origin (if there is one), each operand (as task vector if
    /// there is an origin), the result (as task vector if there is an origin).
    pub gramian: Vec<f64>,
    /// Positions at which at least two task vectors are not zero.
    pub active: u64,
    /// Those of them at which not all have the same sign.
    pub conflicts: u64,
    /// The coefficient of each operand, where the method has one.
    pub coefficients: Option<Vec<f64>>,
    /// The smallest and the greatest sum of a row's coefficients, where each row has its own.
    #[serde(default)]
    pub row_sums: Option<[f64; 2]>,
}

/// Runs `plan` into `sink`, skipping the tensors in `finished`. Returns the statistics of all merged tensors (those of
/// finished ones come from their notes).
///
/// # Errors
/// If an input is not finite, a method is undefined for it, a result does not fit its dtype, the sink refuses, or the
/// observer cancels.
pub fn run(
    plan: &[Planned],
    finished: &[Option<String>],
    sink: &dyn Sink,
    observer: &dyn Observer,
) -> Result<Vec<Option<Statistics>>, MergeError> {
    let surveys = survey(plan, observer)?;
    let total = plan.iter().zip(finished).filter(|(_, f)| f.is_none()).map(|(p, _)| bytes_of(p)).sum();
    tell(observer, &Event::Phase { name: "merge", total })?;
    let one = |i: usize| -> Result<Option<Statistics>, MergeError> {
        if let Some(note) = &finished[i] {
            return Ok(serde_json::from_str(note).unwrap_or_default());
        }
        let statistics = match &plan[i].work {
            Work::Copy(tensor) => copy(i, tensor, sink, observer).map(|()| None)?,
            Work::Merge(merge) => Some(merge_tensor(i, &plan[i], merge, &surveys[i], sink, observer)?),
        };
        sink.finish(i, &serde_json::to_string(&statistics).unwrap_or_default())?;
        Ok(statistics)
    };
    let (whole, streamed): (Vec<usize>, Vec<usize>) = (0..plan.len()).partition(|i| is_whole(&plan[*i]));
    let mut answers: Vec<(usize, Option<Statistics>)> =
        streamed.into_par_iter().map(|i| Ok((i, one(i)?))).collect::<Result<_, MergeError>>()?;
    for i in whole {
        answers.push((i, one(i)?));
    }
    answers.sort_by_key(|(i, _)| *i);
    Ok(answers.into_iter().map(|(_, s)| s).collect())
}

/// Bytes read and written for a tensor in its last pass.
pub(crate) fn bytes_of(planned: &Planned) -> u64 {
    let written = planned.output.shape.iter().product::<usize>() * planned.output.dtype.size();
    let read = match &planned.work {
        Work::Copy(tensor) => tensor.bytes(),
        Work::Merge(merge) => merge.scan.tensors().map(Tensor::bytes).sum(),
    };
    (written + read) as u64
}

fn is_whole(planned: &Planned) -> bool {
    matches!(&planned.work, Work::Merge(merge) if merge.rule.whole_tensor_bytes(&merge.scan) > 0)
}

pub(crate) fn tell(observer: &dyn Observer, event: &Event<'_>) -> Result<(), MergeError> {
    match observer.event(event) {
        Control::Continue => Ok(()),
        Control::Cancel => Err(MergeError::Cancelled),
    }
}

// ---- the survey of the whole model

/// What each tensor must know of the whole model.
///
/// # Errors
/// If an input cannot be read, or the observer cancels.
pub fn survey(plan: &[Planned], observer: &dyn Observer) -> Result<Vec<ModelSurvey>, MergeError> {
    let mut surveys = vec![ModelSurvey::default(); plan.len()];
    let merges: Vec<(usize, &Merge)> = plan
        .iter()
        .enumerate()
        .filter_map(|(i, p)| match &p.work {
            Work::Merge(merge) => Some((i, &**merge)),
            Work::Copy(_) => None,
        })
        .collect();
    let ranked: Vec<_> = merges.iter().copied().filter(|(_, m)| m.rule.needs().cuts).collect();
    let weighed: Vec<_> = merges.iter().copied().filter(|(_, m)| m.rule.needs().norms.is_some()).collect();
    if ranked.is_empty() && weighed.is_empty() {
        return Ok(surveys);
    }
    let total = weighed.iter().chain(&ranked).map(|(i, _)| bytes_of(&plan[*i])).sum();
    tell(observer, &Event::Phase { name: "survey", total })?;
    survey_cuts(&ranked, &mut surveys)?;
    survey_norms(plan, &weighed, &mut surveys, observer)?;
    Ok(surveys)
}

/// Sums the squared norms of the task vectors over the groups of tensors that share coefficients.
fn survey_norms(
    plan: &[Planned],
    merges: &[(usize, &Merge)],
    surveys: &mut [ModelSurvey],
    observer: &dyn Observer,
) -> Result<(), MergeError> {
    let found = &*surveys;
    let norms_of = |(i, merge): &(usize, &Merge)| {
        tell(observer, &Event::Progress { bytes: bytes_of(&plan[*i]) })?;
        merge.rule.squared_norms(&merge.scan, &found[*i])
    };
    let norms: Vec<Vec<f64>> = merges.par_iter().map(norms_of).collect::<Result<_, MergeError>>()?;
    let group_of = |(i, merge): &(usize, &Merge)| match merge.rule.needs().norms {
        Some(Group::Layer) => plan[*i].layer.as_str(),
        _ => "",
    };
    let mut groups: BTreeMap<&str, Norms<'_>> = BTreeMap::new();
    for (entry, norms) in merges.iter().zip(&norms) {
        let group = groups.entry(group_of(entry)).or_default();
        // A repeated tensor counts where it is all there is: alone in its layer, it must become what it repeats.
        let sums = if plan[entry.0].repeats { &mut group.repeated } else { &mut group.counted };
        for (operand, norm) in entry.1.scan.operands.iter().zip(norms) {
            add_to(sums, &operand.model, *norm);
        }
    }
    for entry in merges {
        let group = &groups[group_of(entry)];
        let sums = if group.counted.is_empty() { &group.repeated } else { &group.counted };
        let of = |model: &str| sums.iter().find(|(name, _)| *name == model).map_or(0.0, |(_, sum)| *sum);
        surveys[entry.0].squared_norms = Some(entry.1.scan.operands.iter().map(|o| of(&o.model)).collect());
    }
    Ok(())
}

/// Squared norms of the task vectors of a group of tensors, by model: a tensor may lack a model.
#[derive(Default)]
struct Norms<'m> {
    counted: Vec<(&'m str, f64)>,
    /// Of tensors that repeat others.
    repeated: Vec<(&'m str, f64)>,
}

/// Adds to the sum of a model. There are few models and many tensors.
fn add_to<'m>(sums: &mut Vec<(&'m str, f64)>, model: &'m str, norm: f64) {
    match sums.iter_mut().find(|(name, _)| *name == model) {
        Some((_, sum)) => *sum += norm,
        None => sums.push((model, norm)),
    }
}

/// Ranks the magnitudes of each model's task vector over all tensors of which a part is kept, in the plan's order.
fn survey_cuts(merges: &[(usize, &Merge)], surveys: &mut [ModelSurvey]) -> Result<(), MergeError> {
    let mut models: Vec<&str> = Vec::new();
    for operand in merges.iter().flat_map(|(_, m)| &m.scan.operands) {
        if !models.contains(&operand.model.as_str()) {
            models.push(&operand.model);
        }
    }
    for (i, merge) in merges {
        surveys[*i].cuts = Some(vec![Vec::new(); merge.scan.k()]);
    }
    for model in models {
        let parts: Vec<(usize, usize, Scan)> =
            merges.iter().filter_map(|(i, m)| ranked(m, model).map(|k| (*i, k, m.scan.only(k)))).collect();
        let scans: Vec<&Scan> = parts.iter().map(|(_, _, scan)| scan).collect();
        let n = scans.iter().map(|s| s.len() as u64).sum();
        let keep = ranks_of(merges, model, n)?;
        let cuts = order::cuts(&scans, Grain::Element, &Vectors, &[keep])?.remove(0);
        let mut offset = 0;
        for (i, k, scan) in &parts {
            let here: Vec<Cut> = cuts.iter().map(|c| c.within(offset)).collect();
            if let Some(all) = &mut surveys[*i].cuts {
                all[*k] = here;
            }
            offset += scan.len() as u64;
        }
    }
    Ok(())
}

/// Position of a model among the operands of a tensor, if its task vector is ranked there: not at density 1.
fn ranked(merge: &Merge, model: &str) -> Option<usize> {
    let k = merge.scan.operands.iter().position(|o| o.model == model)?;
    merge.rule.ranks(1).get(k).is_some_and(|keep| !keep.is_empty()).then_some(k)
}

/// How many elements of a model's task vector are kept: the same density must hold for all tensors that are ranked.
fn ranks_of(merges: &[(usize, &Merge)], model: &str, n: u64) -> Result<Vec<u64>, MergeError> {
    let mut ranks = merges.iter().filter_map(|(_, m)| {
        let k = ranked(m, model)?;
        Some((m, m.rule.ranks(n)[k].clone()))
    });
    let Some((_, first)) = ranks.next() else { return Ok(Vec::new()) };
    match ranks.find(|(_, r)| *r != first) {
        None => Ok(first),
        Some((merge, _)) => Err(MergeError::Undefined {
            tensor: merge.scan.name.clone(),
            message: format!(
                "`scope: model` ranks all tensors of {model} together, so its density cannot differ between them"
            ),
        }),
    }
}

// ---- one tensor

const COPY_PIECE: usize = 1 << 20;

fn copy(i: usize, tensor: &Tensor, sink: &dyn Sink, observer: &dyn Observer) -> Result<(), MergeError> {
    let size = tensor.dtype.size();
    let mut bytes = Vec::new();
    for start in (0..tensor.len()).step_by(COPY_PIECE / size) {
        let count = (tensor.len() - start).min(COPY_PIECE / size);
        bytes.resize(count * size, 0);
        assert!(tensor.read_bytes(start, &mut bytes), "only stored tensors are planned as copies");
        sink.write(i, (start * size) as u64, &bytes)?;
        tell(observer, &Event::Progress { bytes: 2 * bytes.len() as u64 })?;
    }
    Ok(())
}

/// What a block contributes to the statistics.
pub(crate) struct Partial {
    gramian: Vec<f64>,
    active: u64,
    conflicts: u64,
}

impl Partial {
    /// Nothing yet, of a block of this tensor.
    pub(crate) fn of(scan: &Scan) -> Self {
        Self { gramian: vec![0.0; packed_len(vectors_of(scan))], active: 0, conflicts: 0 }
    }

    /// Adds a strip of inputs and what became of it (still without the origin).
    pub(crate) fn add(&mut self, view: &View<'_>, merged: &[f32]) {
        let (origins, k) = (usize::from(view.origin.is_some()), view.vectors.len());
        let vector = |i: usize| match (i.checked_sub(origins), view.origin) {
            (None, Some(origin)) => origin,
            (Some(i), _) if i < k => &view.vectors[i],
            _ => merged,
        };
        add_rough_gramian(origins + k + 1, vector, &mut self.gramian);
        if view.origin.is_some() {
            let (active, conflicts) = conflict::count(view.vectors);
            self.active += active;
            self.conflicts += conflicts;
        }
    }
}

/// Number of vectors in the Gramian of a tensor: the origin, the operands, the result.
fn vectors_of(scan: &Scan) -> usize {
    usize::from(scan.origin.is_some()) + scan.k() + 1
}

fn merge_tensor(
    i: usize,
    planned: &Planned,
    merge: &Merge,
    survey: &ModelSurvey,
    sink: &dyn Sink,
    observer: &dyn Observer,
) -> Result<Statistics, MergeError> {
    let kernel = merge.rule.prepare(&merge.scan, survey)?;
    let spans = merge.scan.spans(kernel.grain());
    let elements = merge.scan.len().max(1) as u64;
    let one = |span: Range<usize>| -> Result<Vec<Partial>, MergeError> {
        let bytes = bytes_of(planned) * span.len() as u64 / elements;
        let partials = merge_span(i, &planned.output, &merge.scan, &*kernel, span, sink)?;
        tell(observer, &Event::Progress { bytes })?;
        Ok(partials)
    };
    let parts: Vec<Vec<Partial>> = match spans.len() {
        0 | 1 => spans.into_iter().map(one).collect::<Result<_, _>>()?,
        _ => spans.into_par_iter().map(one).collect::<Result<_, _>>()?,
    };
    Ok(total(&merge.scan, &*kernel, parts))
}

/// Adds the contributions of the blocks in their order.
pub(crate) fn total(scan: &Scan, kernel: &dyn Kernel, parts: Vec<Vec<Partial>>) -> Statistics {
    let mut sum = Statistics {
        gramian: vec![0.0; packed_len(vectors_of(scan))],
        coefficients: kernel.coefficients(),
        row_sums: kernel.row_sums(),
        ..Statistics::default()
    };
    for part in parts.into_iter().flatten() {
        sum.gramian.iter_mut().zip(&part.gramian).for_each(|(s, p)| *s += p);
        sum.active += part.active;
        sum.conflicts += part.conflicts;
    }
    sum
}

fn merge_span(
    i: usize,
    output: &OutputTensor,
    scan: &Scan,
    kernel: &dyn Kernel,
    span: Range<usize>,
    sink: &dyn Sink,
) -> Result<Vec<Partial>, MergeError> {
    let size = output.dtype.size();
    WORKSPACE.with(|cell| {
        let mut workspace = cell.take();
        let Workspace { scratch, out, bytes } = &mut workspace;
        bytes.resize(span.len() * size, 0);
        let merged = with_buffers(|buffers| {
            let mut partials = Vec::new();
            for block in scan.blocks_of(span.clone(), kernel.grain()) {
                let mut partial = Partial::of(scan);
                for strip in scan.strips(block, kernel.grain()) {
                    let view = scan.load(strip.clone(), buffers)?;
                    out.resize(strip.len());
                    kernel.merge(&view, scratch, out);
                    partial.add(&view, out);
                    if let Some(origin) = view.origin {
                        add_to_origin(out, origin);
                    }
                    let at = (strip.start - span.start) * size;
                    store(output, scan, strip.start, out, &mut bytes[at..at + out.len() * size])?;
                }
                partials.push(partial);
            }
            Ok(partials)
        });
        let written = merged.and_then(|partials| {
            sink.write(i, (span.start * size) as u64, bytes)?;
            Ok(partials)
        });
        cell.set(workspace);
        written
    })
}

/// Buffers of a worker thread, kept between spans.
#[derive(Default)]
struct Workspace {
    scratch: Scratch,
    out: Aligned,
    bytes: Vec<u8>,
}

thread_local! {
    static WORKSPACE: std::cell::Cell<Workspace> = std::cell::Cell::default();
}

/// Rounds merged values, the first of which is element `start`, to the bytes of the output.
pub(crate) fn store(
    output: &OutputTensor,
    scan: &Scan,
    start: usize,
    out: &[f32],
    bytes: &mut [u8],
) -> Result<(), MergeError> {
    let limit = convert::largest_finite(output.dtype);
    if !scan.options.allow_non_finite
        && let Some(e) = first_above(out, limit)
    {
        let (tensor, index, value) = (output.name.clone(), start + e, out[e]);
        return Err(MergeError::Overflow { tensor, index, value, dtype: output.dtype });
    }
    convert::narrow(output.dtype, out, bytes);
    Ok(())
}
