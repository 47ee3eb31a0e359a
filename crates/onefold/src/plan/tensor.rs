//! One tensor of the output: whether it is merged or copied, or why it can be neither.

use onefold_checkpoint::Tensor;
use onefold_checkpoint::output::OutputTensor;
use onefold_merge::methods::passthrough::PASSTHROUGH;
use onefold_merge::scan::{Operand, Scan, ScanOptions};
use onefold_merge::stream::{Merge, Planned, Work};
use onefold_merge::task::{Task, Values};

use super::names::Name;
use super::sections::Part;
use super::wanted::Wanted;
use super::{Found, Planner};

impl<'r> Planner<'r> {
    pub(super) fn tensor(&self, wanted: &Wanted<'r, '_>, found: &mut Found) -> Option<Planned> {
        let slice = wanted.slice;
        if let Some((model, why)) = self.taken(wanted) {
            return self.take(wanted, model, why, found);
        }
        let origin = slice.origin.and_then(|p| Some((p, self.input(p, wanted.origin.as_deref()?, found)?)));
        let operands: Vec<(Part<'r>, &String, Option<Tensor>)> = slice
            .operands
            .iter()
            .zip(&wanted.operands)
            .map(|(p, n)| (*p, n, self.input(*p, n, found)))
            .collect();
        if self.is_only_tied(wanted, &operands) {
            found.notes.insert(format!("{} is tied to the embedding and not written", wanted.output));
            return None;
        }
        let donor = origin
            .as_ref()
            .map(|(_, t)| t)
            .or_else(|| operands.iter().find_map(|(_, _, t)| t.as_ref()))?
            .clone();
        if !donor.dtype.is_float() {
            return self.copy(wanted, donor, &operands, "not floating point", found);
        }
        if let Some(who) = self.lacking(wanted, origin.is_some(), &operands) {
            let left = operands.iter().filter(|(_, _, t)| t.is_some()).count();
            let copied = left == 0 || (slice.origin.is_some() && origin.is_none());
            self.note_missing(wanted, &who, copied, found)?;
            if copied {
                return self.copy(wanted, donor, &operands, &format!("missing in {who}"), found);
            }
        }
        let present: Vec<(Part<'r>, &String, Tensor)> =
            operands.into_iter().filter_map(|(p, n, t)| Some((p, n, t?))).collect();
        self.merge(wanted, origin.map(|(_, t)| t), present, found)
    }

    /// A tensor of one model, as it is.
    fn take(&self, wanted: &Wanted<'r, '_>, model: usize, why: &str, found: &mut Found) -> Option<Planned> {
        match self.names[model].get(&wanted.output).cloned() {
            Some(tensor) => self.copy(wanted, tensor, &[], why, found),
            None => {
                let label = &self.models[model].label;
                found.problem(&wanted.output, format!("{why}, and missing in {label}"));
                None
            }
        }
    }

    /// The models that lack a tensor, as words.
    fn lacking(
        &self,
        wanted: &Wanted<'r, '_>,
        has_origin: bool,
        operands: &[(Part<'r>, &String, Option<Tensor>)],
    ) -> Option<String> {
        let label = |part: &Part<'_>| self.models[part.model].label.clone();
        let base = wanted.slice.origin.iter().filter(|_| !has_origin);
        let mut who: Vec<String> = base.map(|part| format!("the base model {}", label(part))).collect();
        for (part, _, _) in operands.iter().filter(|(_, _, t)| t.is_none()) {
            if !who.contains(&label(part)) {
                who.push(label(part));
            }
        }
        (!who.is_empty()).then(|| who.join(", "))
    }

    /// Says that models lack a tensor: as an error, unless the user allows it.
    fn note_missing(
        &self,
        wanted: &Wanted<'r, '_>,
        who: &str,
        copied: bool,
        found: &mut Found,
    ) -> Option<()> {
        if !self.options.allow_missing {
            let remedy = "give --allow-missing to merge it over the models that have it";
            found.problem(&wanted.output, format!("missing in {who}; {remedy}"));
            return None;
        }
        let outcome = match (self.options.only_compare, copied) {
            (true, _) => "left out of the comparison",
            (false, true) => "copied, not merged",
            (false, false) => "merged over the models that have it",
        };
        found.missing.entry(format!("missing in {who}, {outcome}")).or_default().push(wanted.output.clone());
        Some(())
    }

    fn copy(
        &self,
        wanted: &Wanted<'r, '_>,
        tensor: Tensor,
        operands: &[(Part<'r>, &String, Option<Tensor>)],
        why: &str,
        found: &mut Found,
    ) -> Option<Planned> {
        for (part, _, other) in operands {
            let Some(other) = other else { continue };
            let label = &self.models[part.model].label;
            if other.dtype.is_float() != tensor.dtype.is_float() {
                found.problem(
                    &wanted.output,
                    format!(
                        "{} in one model, {} in {label}: they cannot be merged",
                        tensor.dtype, other.dtype
                    ),
                );
                return None;
            }
            if differ(&tensor, other) {
                found.warnings.insert(format!(
                    "{} ({}) differs in {label}; the donor's is kept",
                    wanted.output, tensor.dtype
                ));
            }
        }
        found.copied.insert(wanted.output.clone(), why.to_owned());
        let output =
            OutputTensor { name: wanted.output.clone(), dtype: tensor.dtype, shape: tensor.shape.clone() };
        if tensor.dtype.is_float() {
            // A computed tensor (an adapter's) has no bytes to copy: it passes through the stream.
            let dtype = self.recipe.out_dtype.or(self.recipe.dtype).unwrap_or(tensor.dtype);
            let operand = Operand { model: "donor".into(), tensor };
            let task = Task {
                scan: self.scan(&wanted.output, None, vec![operand]),
                global: Values::new(),
                models: vec![Values::new()],
                statistics: Vec::new(),
                seed: 0,
            };
            let merge = Merge::new(&PASSTHROUGH, task).ok()?;
            return Some(self.planned(OutputTensor { dtype, ..output }, Work::Merge(merge), false));
        }
        Some(self.planned(output, Work::Copy(tensor), false))
    }

    pub(super) fn scan(&self, name: &str, origin: Option<Operand>, operands: Vec<Operand>) -> Scan {
        let shape = operands[0].tensor.shape.clone();
        let options =
            ScanOptions { allow_non_finite: self.options.allow_non_finite, ..ScanOptions::default() };
        let deltas = self.options.deltas && origin.is_some();
        Scan { name: name.to_owned(), shape, origin, operands, statistics: Vec::new(), deltas, options }
    }

    pub(super) fn planned(&self, output: OutputTensor, work: Work, repeats: bool) -> Planned {
        let layer = Name::parse(&output.name).layer_label();
        Planned { output, work, layer, repeats }
    }
}

/// Whether stored values differ.
fn differ(a: &Tensor, b: &Tensor) -> bool {
    match (a.stored(), b.stored()) {
        (Some(a), Some(b)) => a.bytes != b.bytes,
        _ => a.shape != b.shape || a.dtype != b.dtype,
    }
}
