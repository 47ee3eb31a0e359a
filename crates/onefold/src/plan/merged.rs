//! A tensor that is merged: inputs brought to one shape, the parameters' values for it, the type of the result.

use onefold_checkpoint::output::OutputTensor;
use onefold_checkpoint::tensor::Cropped;
use onefold_checkpoint::{Dtype, Tensor};
use onefold_merge::params::{Level, Value};
use onefold_merge::scan::Operand;
use onefold_merge::stream::{Merge, Planned, Work};
use onefold_merge::task::{Task, Values};

use super::sections::Part;
use super::wanted::Wanted;
use super::{Found, Planner, names};
use crate::recipe::{Parameters, resolve};

impl<'r> Planner<'r> {
    pub(super) fn merge(
        &self,
        wanted: &Wanted<'r, '_>,
        origin: Option<Tensor>,
        mut operands: Vec<(Part<'r>, &String, Tensor)>,
        found: &mut Found,
    ) -> Option<Planned> {
        if let Some((part, _, bad)) = operands.iter().find(|(_, _, t)| !t.dtype.is_float()) {
            let label = &self.models[part.model].label;
            found.problem(
                &wanted.output,
                format!("floating point in one model, {} in {label}: they cannot be merged", bad.dtype),
            );
            return None;
        }
        let mut origin = origin;
        self.align(wanted, &mut origin, &mut operands, found)?;
        let dtype = self.output_dtype(origin.as_ref(), &operands);
        let shape = operands[0].2.shape.clone();
        let repeats = names::is_head(&wanted.output)
            && operands.iter().all(|(p, n, _)| !self.stores_own_head(p.model, n));
        if names::is_head(&wanted.output) && !repeats {
            found.untie |= operands.iter().any(|(p, n, _)| self.stores_own_head(p.model, n));
        }
        let models: Option<Vec<Values>> = operands
            .iter()
            .map(|(p, n, _)| {
                let mut values = self.values(wanted, Some(p.parameters), n, Level::Model, found)?;
                values.extend(self.coefficient(wanted, p).map(|c| ("weight", Value::Number(c))));
                Some(values)
            })
            .collect();
        let mut global = self.values(wanted, None, &wanted.output, Level::Global, found)?;
        let statistics = self.statistics(wanted, &operands, &mut global, found)?;
        let name = |model: usize| self.models[model].mask_name.clone();
        let origin =
            origin.zip(wanted.slice.origin).map(|(tensor, p)| Operand { model: name(p.model), tensor });
        let operands: Vec<Operand> =
            operands.into_iter().map(|(p, _, tensor)| Operand { model: name(p.model), tensor }).collect();
        let task = Task {
            scan: self.scan(&wanted.output, origin, operands),
            global,
            models: models?,
            statistics,
            seed: self.options.seed,
        };
        let output = OutputTensor { name: wanted.output.clone(), dtype, shape };
        match Merge::new(self.method, task) {
            Ok(merge) => Some(self.planned_merge(output, merge, repeats)),
            Err(sentence) => {
                found.problem(&wanted.output, sentence);
                None
            }
        }
    }

    /// The coefficient of a model for a tensor, if a file gives them.
    fn coefficient(&self, wanted: &Wanted<'r, '_>, part: &Part<'r>) -> Option<f64> {
        let of_tensor = self.recipe.coefficients.as_ref()?.read.as_ref()?.of(&wanted.output)?;
        let position = wanted.slice.operands.iter().position(|other| other.model == part.model)?;
        of_tensor.get(position).copied()
    }

    /// Why a tensor is not merged but taken from one model as it is, if it is.
    pub(super) fn taken(&self, wanted: &Wanted<'r, '_>) -> Option<(usize, &'static str)> {
        let name = &wanted.output;
        if self.recipe.head.as_ref().is_some_and(|head| head.has(name)) {
            return Some((self.donor, "part of the head"));
        }
        let read = self.recipe.coefficients.as_ref()?.read.as_ref()?;
        let base = wanted.slice.origin?.model;
        read.of(name).is_none().then_some((base, "without a coefficient"))
    }

    /// Brings all inputs of a tensor to one shape.
    fn align(
        &self,
        wanted: &Wanted<'r, '_>,
        origin: &mut Option<Tensor>,
        operands: &mut [(Part<'r>, &String, Tensor)],
        found: &mut Found,
    ) -> Option<()> {
        let mut all: Vec<&mut Tensor> =
            origin.iter_mut().chain(operands.iter_mut().map(|(_, _, t)| t)).collect();
        if all.windows(2).all(|pair| pair[0].shape == pair[1].shape) {
            return Some(());
        }
        let shapes: Vec<String> = all.iter().map(|t| format!("{:?}", t.shape)).collect();
        let by_token = names::has_token_rows(&wanted.output)
            && all.iter().all(|t| t.shape.len() == 2 && t.shape[1] == all[0].shape[1]);
        if by_token && self.options.crop_embeddings {
            let rows = all.iter().map(|t| t.shape[0]).min()?;
            for tensor in &mut all {
                **tensor = Cropped::tensor(tensor.clone(), rows, tensor.shape[1]);
            }
            found.cropped = Some(rows);
            found.warnings.insert(format!("{}: {} cropped to {rows} rows", wanted.output, shapes.join(", ")));
            return Some(());
        }
        let remedy = match by_token {
            true => {
                "the vocabularies differ: add `tokenizer: {source: union}` (or base), or give --crop-embeddings to cut to the smallest"
            }
            false => "the models have different architectures",
        };
        found.problem(&wanted.output, format!("shapes differ: {}; {remedy}", shapes.join(", ")));
        None
    }

    fn output_dtype(&self, origin: Option<&Tensor>, operands: &[(Part<'r>, &String, Tensor)]) -> Dtype {
        let stored = origin.map(|t| t.dtype).unwrap_or_else(|| {
            operands.iter().map(|(_, _, t)| t.dtype).reduce(promote).unwrap_or(Dtype::F32)
        });
        self.recipe.out_dtype.or(self.recipe.dtype).unwrap_or(stored)
    }

    /// The values of all parameters of one level for a tensor.
    fn values(
        &self,
        wanted: &Wanted<'r, '_>,
        source: Option<&'r Parameters>,
        name: &str,
        level: Level,
        found: &mut Found,
    ) -> Option<Values> {
        let mut levels: Vec<&Parameters> = source.into_iter().collect();
        levels.extend([wanted.slice.parameters, wanted.section.parameters, &self.recipe.parameters]);
        let mut values = Values::new();
        for param in self.method.params.iter().filter(|p| p.level == level) {
            let Some(value) = resolve(param.name, &levels, name, wanted.depth) else { continue };
            match param.kind.check(&value) {
                Ok(value) => drop(values.insert(param.name, value)),
                Err(sentence) => {
                    found.problem(&wanted.output, format!("`{}`: {sentence}", param.name));
                    return None;
                }
            }
        }
        Some(values)
    }

    /// A merge that changes nothing is a copy of bytes.
    fn planned_merge(&self, output: OutputTensor, merge: Box<Merge>, repeats: bool) -> Planned {
        let tensor = &merge.scan.operands[0].tensor;
        let copies = merge.rule.is_identity() && tensor.dtype == output.dtype && tensor.stored().is_some();
        let work = if copies { Work::Copy(tensor.clone()) } else { Work::Merge(merge) };
        self.planned(output, work, repeats)
    }
}

/// What torch makes of two floating types.
fn promote(a: Dtype, b: Dtype) -> Dtype {
    if a == b {
        return a;
    }
    if a == Dtype::F64 || b == Dtype::F64 { Dtype::F64 } else { Dtype::F32 }
}
