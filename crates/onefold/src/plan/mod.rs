//! From a recipe and the headers of its models to a plan: every tensor of the output, where its values come from, and
//! which files stand beside it. Whatever can be wrong with the inputs is found here, all of it together, before any
//! value is read.
//!
//! Tensors match by name and shape across the models; there is no list of architectures. Policies:
//! * Types that are not floating point are copied from the donor (base model, else the first).
//! * A tensor that some models lack is an error, unless the user allows it: then it is merged over those that have it, and
//!   one that the base lacks is copied from the first that has it.
//! * A head that a model lacks because its weights are tied is its embedding.
//! * Embeddings of different heights need a `tokenizer` section, or the user's word that they may be cropped.
//! * Every other difference of shape is an error.

pub mod files;
pub mod gather;
pub mod names;
pub mod sections;
pub mod vocabulary;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use onefold_checkpoint::output::OutputTensor;
use onefold_checkpoint::tensor::Cropped;
use onefold_checkpoint::{Dtype, Tensor};
use onefold_merge::methods::Method;
use onefold_merge::params::Level;
use onefold_merge::scan::{Operand, Scan, ScanOptions};
use onefold_merge::stream::{Merge, Planned, Work};
use onefold_merge::task::{Task, Values};

use crate::config::Changes;
use crate::models::{Library, Model};
use crate::recipe::{ModelRef, Parameters, Recipe, resolve};
use crate::tokenizer::{Built, OutputFile};
use gather::Gathered;
use names::Name;
use sections::{Part, Section, Slice};

/// Choices of the user that are not in the recipe.
#[derive(Debug, Clone, Copy, Default)]
pub struct Options {
    /// Seed of random masks.
    pub seed: u64,
    /// Merge over the models that have a tensor.
    pub allow_missing: bool,
    /// Cut embeddings of different heights to the smallest.
    pub crop_embeddings: bool,
    /// Accept NaN and infinities.
    pub allow_non_finite: bool,
}

/// All that a merge will do.
#[derive(Debug)]
pub struct Plan {
    /// The method.
    pub method: &'static Method,
    /// Tensors in the order of the output.
    pub tensors: Vec<Planned>,
    /// Labels of the models by their role, for the report.
    pub origin: Option<String>,
    /// Labels of the operands, in the recipe's order.
    pub operands: Vec<String>,
    /// The config, as it will be written.
    pub config: Option<String>,
    /// Files beside the weights.
    pub files: Vec<OutputFile>,
    /// Tensors that are copied, and why.
    pub copied: Vec<(String, &'static str)>,
    /// Names that share their values in the donor.
    pub tied: Vec<Vec<String>>,
    /// The tokenizer, if it was built.
    pub vocabulary: Option<Arc<Built>>,
    /// Edits of the config and other facts.
    pub notes: Vec<String>,
    /// What the user should look at.
    pub warnings: Vec<String>,
}

/// Makes the plan.
///
/// # Errors
/// Everything that is wrong, one sentence each.
pub fn plan(
    recipe: &Recipe,
    method: &'static Method,
    library: &Library,
    options: Options,
) -> Result<Plan, Vec<String>> {
    let planner = Planner::new(recipe, method, library, options)?;
    planner.plan()
}

/// A tensor of the output, before its inputs were judged.
struct Wanted<'r, 's> {
    output: String,
    /// Position between the first (0) and the last (1) layer of its slice.
    depth: f64,
    section: &'s Section<'r>,
    slice: &'s Slice<'r>,
    /// Name of the tensor in each model of the slice: the origin's, then the operands'.
    origin: Option<String>,
    operands: Vec<String>,
}

struct Planner<'r> {
    recipe: &'r Recipe,
    method: &'static Method,
    options: Options,
    references: Vec<&'r ModelRef>,
    models: Vec<&'r Model>,
    /// Per model: its tensors under the donor's naming.
    names: Vec<BTreeMap<String, Tensor>>,
    donor: usize,
    vocabulary: Option<Arc<Built>>,
}

/// What accumulates while tensors are planned.
#[derive(Default)]
struct Found {
    /// Sentence → (tensors it holds for, the first of them).
    problems: BTreeMap<String, (usize, String)>,
    copied: Vec<(String, &'static str)>,
    notes: BTreeSet<String>,
    warnings: BTreeSet<String>,
    cropped: Option<usize>,
    untie: bool,
}

impl Found {
    fn problem(&mut self, tensor: &str, sentence: String) {
        self.problems.entry(sentence).or_insert_with(|| (0, tensor.to_owned())).0 += 1;
    }
}

impl<'r> Planner<'r> {
    fn new(
        recipe: &'r Recipe,
        method: &'static Method,
        library: &'r Library,
        options: Options,
    ) -> Result<Self, Vec<String>> {
        let mut references: Vec<&ModelRef> = Vec::new();
        for reference in recipe.references() {
            if !references.contains(&reference) {
                references.push(reference);
            }
        }
        let models: Vec<&Model> = references.iter().map(|r| library.get(r)).collect();
        let index = |r: &ModelRef| references.iter().position(|x| *x == r).unwrap_or(0);
        let donor = recipe.donor().map_or(0, index);
        let mut problems: Vec<String> = models.iter().filter_map(|m| quantised(m)).collect();
        let vocabulary = match &recipe.tokenizer {
            Some(spec) => vocabulary::build(spec, &models, donor, recipe.base_model.is_some(), &index)
                .map_err(|e| problems.push(e))
                .ok(),
            None => None,
        };
        if !problems.is_empty() {
            return Err(problems);
        }
        let names = models.iter().map(|m| named_like(models[donor], m)).collect();
        Ok(Self { recipe, method, options, references, models, names, donor, vocabulary })
    }

    fn plan(self) -> Result<Plan, Vec<String>> {
        let index = |r: &ModelRef| self.references.iter().position(|x| *x == r).unwrap_or(0);
        let sections = sections::sections(self.recipe, self.method, &index)?;
        let wanted = self.wanted(&sections)?;
        let mut found = Found::default();
        let mut tensors: Vec<Planned> = Vec::new();
        for wanted in &wanted {
            tensors.extend(self.tensor(wanted, &mut found));
        }
        self.check_nothing_dropped(&sections, &mut found);
        if !found.problems.is_empty() {
            let sentence = |(sentence, (count, first)): (&String, &(usize, String))| match count {
                1 => format!("tensor `{first}`: {sentence}"),
                n => format!("tensor `{first}` and {} more: {sentence}", n - 1),
            };
            return Err(found.problems.iter().map(sentence).collect());
        }
        tensors.sort_by(|a, b| names::natural_order(&a.output.name, &b.output.name));
        self.finish(&sections, tensors, found)
    }

    // ---- which tensors

    /// All tensors of the output with the names of their inputs.
    fn wanted<'s>(&self, sections: &'s [Section<'r>]) -> Result<Vec<Wanted<'r, 's>>, Vec<String>> {
        let mut wanted = Vec::new();
        let mut problems = Vec::new();
        for section in sections {
            if section.cut {
                self.cut_section(section, &mut wanted, &mut problems);
            } else {
                self.whole_section(section, &mut wanted);
            }
        }
        if problems.is_empty() { Ok(wanted) } else { Err(problems) }
    }

    fn whole_section<'s>(&self, section: &'s Section<'r>, wanted: &mut Vec<Wanted<'r, 's>>) {
        let slice = &section.slices[0];
        let names = self.names_in(section, slice);
        let mut layers: BTreeMap<&str, usize> = BTreeMap::new();
        for name in names.iter().map(|n| Name::parse(n)) {
            let count = layers.entry(name.stack).or_default();
            *count = (*count).max(name.layer.map_or(0, |l| l + 1));
        }
        for output in &names {
            let name = Name::parse(output);
            let depth = name.layer.map_or(0.0, |layer| depth(layer, layers[name.stack]));
            wanted.push(Wanted {
                output: output.clone(),
                depth,
                section,
                slice,
                origin: slice.origin.map(|_| output.clone()),
                operands: vec![output.clone(); slice.operands.len()],
            });
        }
    }

    fn cut_section<'s>(
        &self,
        section: &'s Section<'r>,
        wanted: &mut Vec<Wanted<'r, 's>>,
        problems: &mut Vec<String>,
    ) {
        let mut first = 0;
        let last = section.slices.len() - 1;
        for (number, slice) in section.slices.iter().enumerate() {
            let names = self.names_in(section, slice);
            let layers = slice.layers.unwrap_or(0);
            self.check_ranges(slice, layers, problems);
            let stacks: BTreeSet<&str> =
                names.iter().map(|n| Name::parse(n)).filter(|n| n.layer.is_some()).map(|n| n.stack).collect();
            if stacks.len() > 1 {
                problems.push(format!(
                    "`slices` cuts one stack of layers, the model has {}: {}; use `modules`",
                    stacks.len(),
                    stacks.into_iter().collect::<Vec<_>>().join(", ")
                ));
                return;
            }
            // Every name of a layer, with the number taken out, occurs in each layer of the slice that has it.
            let templates: BTreeSet<(&str, &str)> = names
                .iter()
                .map(|n| Name::parse(n))
                .filter(|n| n.layer.is_some())
                .map(|n| (n.stack, n.rest))
                .collect();
            for (stack, rest) in templates {
                let template = Name { stack, layer: None, rest };
                for layer in 0..layers {
                    let of = |part: &Part<'_>| template.with_layer(part.first_layer + layer);
                    let (origin, operands): (Option<String>, Vec<String>) =
                        (slice.origin.as_ref().map(of), slice.operands.iter().map(of).collect());
                    let exists = |part: &Part<'_>, name: &String| self.names[part.model].contains_key(name);
                    let any = slice.operands.iter().zip(&operands).any(|(p, n)| exists(p, n))
                        || slice.origin.iter().zip(&origin).any(|(p, n)| exists(p, n));
                    if any {
                        wanted.push(Wanted {
                            output: template.with_layer(first + layer),
                            depth: depth(layer, layers),
                            section,
                            slice,
                            origin,
                            operands,
                        });
                    }
                }
            }
            for name in names.iter().filter(|n| Name::parse(n).layer.is_none()) {
                let early = names::comes_before_layers(name);
                if (early && number == 0) || (!early && number == last) {
                    let operands = vec![name.clone(); slice.operands.len()];
                    wanted.push(Wanted {
                        output: name.clone(),
                        depth: 0.0,
                        section,
                        slice,
                        origin: slice.origin.map(|_| name.clone()),
                        operands,
                    });
                }
            }
            first += layers;
        }
    }

    fn check_ranges(&self, slice: &Slice<'_>, layers: usize, problems: &mut Vec<String>) {
        for part in slice.operands.iter().chain(&slice.origin) {
            let count =
                self.names[part.model].keys().filter_map(|n| Name::parse(n).layer).max().map_or(0, |l| l + 1);
            if part.first_layer + layers > count {
                problems.push(format!(
                    "layer_range [{}, {}] of {}: the model has {count} layers",
                    part.first_layer,
                    part.first_layer + layers,
                    self.models[part.model].label
                ));
            }
        }
    }

    /// Names that any model of the slice has, within the section.
    fn names_in(&self, section: &Section<'_>, slice: &Slice<'_>) -> BTreeSet<String> {
        let parts = slice.operands.iter().chain(&slice.origin);
        let all = parts.flat_map(|p| self.names[p.model].keys());
        all.filter(|n| section.module.is_none_or(|m| in_module(m, n))).cloned().collect()
    }

    /// Modules must cover all tensors of the donor.
    fn check_nothing_dropped(&self, sections: &[Section<'_>], found: &mut Found) {
        let modules: Vec<&str> = sections.iter().filter_map(|s| s.module).collect();
        if modules.is_empty() {
            return;
        }
        for name in self.names[self.donor].keys().filter(|n| !modules.iter().any(|m| in_module(m, n))) {
            found.problem(
                name,
                format!(
                    "belongs to none of the modules {}; name one by the first part of the tensor's name",
                    modules.join(", ")
                ),
            );
        }
    }

    // ---- one tensor

    fn tensor(&self, wanted: &Wanted<'r, '_>, found: &mut Found) -> Option<Planned> {
        let slice = wanted.slice;
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
        let missing: Vec<&str> = operands
            .iter()
            .filter(|(_, _, t)| t.is_none())
            .map(|(p, _, _)| self.models[p.model].label.as_str())
            .collect();
        let base_lacks = slice.origin.is_some() && origin.is_none();
        let donor = origin
            .as_ref()
            .map(|(_, t)| t)
            .or_else(|| operands.iter().find_map(|(_, _, t)| t.as_ref()))?
            .clone();
        if !donor.dtype.is_float() {
            return self.copy(wanted, donor, &operands, "not floating point", found);
        }
        if !missing.is_empty() || base_lacks {
            let who = if base_lacks { "the base model" } else { missing[0] };
            if !self.options.allow_missing {
                found.problem(
                    &wanted.output,
                    format!(
                        "missing in {who}; give --allow-missing to merge it over the models that have it"
                    ),
                );
                return None;
            }
            found.warnings.insert(format!("{}: missing in {who}", wanted.output));
            if base_lacks || missing.len() == operands.len() {
                return self.copy(wanted, donor, &operands, "no task vector exists for it", found);
            }
        }
        let present: Vec<(Part<'r>, &String, Tensor)> =
            operands.into_iter().filter_map(|(p, n, t)| Some((p, n, t?))).collect();
        self.merge(wanted, origin.map(|(_, t)| t), present, found)
    }

    /// The tensor of a model, or what stands for it: the embedding for a tied head; rebuilt for the output's vocabulary.
    fn input(&self, part: Part<'r>, name: &str, found: &mut Found) -> Option<Tensor> {
        let own = |model: usize| self.names[model].get(name).cloned().or_else(|| self.tied_head(model, name));
        let tensor = own(part.model)?;
        let Some(built) = &self.vocabulary else { return Some(tensor) };
        if !vocabulary::is_by_token(self.models[part.model], name, &tensor.shape) {
            return Some(tensor);
        }
        let all: Vec<Option<Tensor>> = (0..self.models.len()).map(own).collect();
        let widths: BTreeSet<&[usize]> = all.iter().flatten().map(|t| &t.shape[1..]).collect();
        if widths.len() > 1 {
            found.problem(name, format!("the models' embeddings differ in width: {widths:?}"));
            return None;
        }
        Gathered::tensor(&all, part.model, built)
    }

    /// The embedding of a model that stores no head because both are one.
    fn tied_head(&self, model: usize, name: &str) -> Option<Tensor> {
        let tied =
            self.models[model].config_value("tie_word_embeddings").and_then(serde_json::Value::as_bool);
        if !names::is_head(name) || tied == Some(false) {
            return None;
        }
        self.names[model]
            .iter()
            .find(|(n, t)| names::is_input_embedding(n) && t.shape.len() == 2)
            .map(|(_, t)| t.clone())
    }

    /// Whether a head is wanted only because some model stores the copy of its tied embedding; then it is not written,
    /// as the donor does not. If a head differs from its embedding the output is untied.
    fn is_only_tied(
        &self,
        wanted: &Wanted<'_, '_>,
        operands: &[(Part<'r>, &String, Option<Tensor>)],
    ) -> bool {
        if !names::is_head(&wanted.output) {
            return false;
        }
        let parts = operands
            .iter()
            .map(|(p, n, _)| (p.model, *n))
            .chain(wanted.slice.origin.iter().zip(&wanted.origin).map(|(p, n)| (p.model, n)));
        let stored: Vec<bool> = parts.map(|(m, n)| self.stores_own_head(m, n)).collect();
        !stored.contains(&true) && !self.names[self.donor].contains_key(&wanted.output)
    }

    /// Whether a model stores a head that is not a copy of its embedding.
    fn stores_own_head(&self, model: usize, name: &str) -> bool {
        let Some(head) = self.names[model].get(name) else { return false };
        let Some((_, embedding)) = self.names[model].iter().find(|(n, _)| names::is_input_embedding(n))
        else {
            return true;
        };
        match (head.stored(), embedding.stored()) {
            (Some(a), Some(b)) => a.dtype != b.dtype || a.bytes != b.bytes,
            _ => true,
        }
    }

    fn copy(
        &self,
        wanted: &Wanted<'r, '_>,
        tensor: Tensor,
        operands: &[(Part<'r>, &String, Option<Tensor>)],
        why: &'static str,
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
        found.copied.push((wanted.output.clone(), why));
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
                seed: 0,
            };
            let merge = Merge::new(&onefold_merge::methods::passthrough::PASSTHROUGH, task).ok()?;
            return Some(self.planned(OutputTensor { dtype, ..output }, Work::Merge(merge), false));
        }
        Some(self.planned(output, Work::Copy(tensor), false))
    }

    fn merge(
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
            .map(|(p, n, _)| self.values(wanted, Some(p.parameters), n, Level::Model, found))
            .collect();
        let global = self.values(wanted, None, &wanted.output, Level::Global, found)?;
        let label = |model: usize| self.models[model].label.clone();
        let origin =
            origin.zip(wanted.slice.origin).map(|(tensor, p)| Operand { model: label(p.model), tensor });
        let operands: Vec<Operand> =
            operands.into_iter().map(|(p, _, tensor)| Operand { model: label(p.model), tensor }).collect();
        let task = Task {
            scan: self.scan(&wanted.output, origin, operands),
            global,
            models: models?,
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

    fn scan(&self, name: &str, origin: Option<Operand>, operands: Vec<Operand>) -> Scan {
        let shape = operands[0].tensor.shape.clone();
        let options =
            ScanOptions { allow_non_finite: self.options.allow_non_finite, ..ScanOptions::default() };
        Scan { name: name.to_owned(), shape, origin, operands, options }
    }

    /// A merge that changes nothing is a copy of bytes.
    fn planned_merge(&self, output: OutputTensor, merge: Box<Merge>, repeats: bool) -> Planned {
        let tensor = &merge.scan.operands[0].tensor;
        let copies = merge.rule.is_identity() && tensor.dtype == output.dtype && tensor.stored().is_some();
        let work = if copies { Work::Copy(tensor.clone()) } else { Work::Merge(merge) };
        self.planned(output, work, repeats)
    }

    fn planned(&self, output: OutputTensor, work: Work, repeats: bool) -> Planned {
        let layer = Name::parse(&output.name).layer_label();
        Planned { output, work, layer, repeats }
    }

    // ---- what stands beside the tensors

    fn finish(
        &self,
        sections: &[Section<'r>],
        tensors: Vec<Planned>,
        found: Found,
    ) -> Result<Plan, Vec<String>> {
        let donor = self.models[self.donor];
        let mut notes: Vec<String> = found.notes.into_iter().collect();
        let mut warnings: Vec<String> = found.warnings.into_iter().collect();
        let dtype = self.recipe.out_dtype.or(self.recipe.dtype).map(Dtype::torch_name);
        let tied = donor.config_value("tie_word_embeddings").and_then(serde_json::Value::as_bool);
        let has_head = tensors.iter().any(|t| names::is_head(&t.output.name));
        let changes = Changes {
            dtype,
            layers: self.layer_sources(sections),
            vocab_size: self.vocabulary.as_ref().map(|b| b.rows).or(found.cropped),
            untie: has_head
                && found.untie
                && (tied == Some(true)
                    || (tied.is_none() && !self.names[self.donor].keys().any(|n| names::is_head(n)))),
        };
        let config = files::config(donor, &changes, &mut notes).map_err(|e| vec![e])?;
        let files = files::beside(
            self.recipe,
            &self.models,
            donor,
            self.vocabulary.as_deref(),
            &mut notes,
            &mut warnings,
        )?;
        let roles = &sections[0].slices[0];
        let label = |p: &Part<'_>| self.models[p.model].label.clone();
        // Slices may merge different models: the report then speaks of them by position.
        let mut operands: Vec<String> = Vec::new();
        for part in sections.iter().flat_map(|s| &s.slices).flat_map(|s| &s.operands) {
            if !operands.contains(&label(part)) {
                operands.push(label(part));
            }
        }
        Ok(Plan {
            method: self.method,
            tensors,
            origin: roles.origin.as_ref().map(label),
            operands,
            config,
            files,
            copied: found.copied,
            tied: tied_groups(donor),
            vocabulary: self.vocabulary.clone(),
            notes,
            warnings,
        })
    }

    /// For `slices`: the donor's layer behind each layer of the output (the first source's position).
    fn layer_sources(&self, sections: &[Section<'_>]) -> Option<Vec<usize>> {
        let [section] = sections else { return None };
        if !section.cut {
            return None;
        }
        let layers = section.slices.iter().flat_map(|slice| {
            let first = slice.origin.or(slice.operands.first().copied()).map_or(0, |p| p.first_layer);
            first..first + slice.layers.unwrap_or(0)
        });
        Some(layers.collect())
    }
}

fn depth(layer: usize, layers: usize) -> f64 {
    if layers <= 1 { 1.0 } else { layer as f64 / (layers - 1) as f64 }
}

/// What torch makes of two floating types.
fn promote(a: Dtype, b: Dtype) -> Dtype {
    if a == b {
        return a;
    }
    if a == Dtype::F64 || b == Dtype::F64 { Dtype::F64 } else { Dtype::F32 }
}

/// Whether stored values differ.
fn differ(a: &Tensor, b: &Tensor) -> bool {
    match (a.stored(), b.stored()) {
        (Some(a), Some(b)) => a.bytes != b.bytes,
        _ => a.shape != b.shape || a.dtype != b.dtype,
    }
}

/// Quantised weights are packed integers: averaging their scales, or copying them, would be silently wrong.
fn quantised(model: &Model) -> Option<String> {
    let config = model.config.as_ref()?;
    let quantisation = config
        .get("quantization_config")
        .or_else(|| config.get("text_config")?.get("quantization_config"))?;
    if quantisation.is_null() {
        return None;
    }
    let kind = quantisation.get("quant_method").and_then(|v| v.as_str()).unwrap_or("unknown method");
    Some(format!(
        "model {}: its weights are quantised ({kind}); dequantise it with transformers first",
        model.label
    ))
}

/// A model's tensors under the donor's naming: some checkpoints are saved with the base model's prefix (`model.`,
/// `bert.`), some without.
fn named_like(donor: &Model, model: &Model) -> BTreeMap<String, Tensor> {
    let (theirs, ours) = (donor.checkpoint.tensors(), model.checkpoint.tensors());
    let common = |rename: &dyn Fn(&str) -> Option<String>| {
        ours.keys().filter(|n| rename(n).is_some_and(|n| theirs.contains_key(&n))).count()
    };
    let as_is = common(&|n| Some(n.to_owned()));
    let prefixes: BTreeSet<&str> =
        theirs.keys().chain(ours.keys()).filter_map(|n| n.split_once('.')).map(|(p, _)| p).collect();
    if as_is * 2 >= ours.len() {
        return ours.clone();
    }
    let add = |prefix: &str, n: &str| format!("{prefix}.{n}");
    let strip = |prefix: &str, n: &str| n.strip_prefix(prefix)?.strip_prefix('.').map(str::to_owned);
    let best = prefixes
        .iter()
        .flat_map(|p| [(common(&|n| Some(add(p, n))), *p, true), (common(&|n| strip(p, n)), *p, false)])
        .max_by_key(|(count, _, _)| *count);
    let Some((count, prefix, adds)) = best.filter(|(count, _, _)| *count > as_is) else {
        return ours.clone();
    };
    debug_assert!(count > 0);
    let rename = |n: &String| {
        if theirs.contains_key(n) {
            return n.clone();
        }
        if adds { add(prefix, n) } else { strip(prefix, n).unwrap_or_else(|| n.clone()) }
    };
    ours.iter().map(|(n, t)| (rename(n), t.clone())).collect()
}

/// Groups of the donor's names that are one piece of storage.
pub fn tied_groups(donor: &Model) -> Vec<Vec<String>> {
    let mut groups: BTreeMap<(usize, usize), Vec<String>> = BTreeMap::new();
    for (name, tensor) in donor.checkpoint.tensors() {
        if let Some(stored) = tensor.stored().filter(|s| !s.bytes.is_empty()) {
            groups
                .entry((stored.bytes.as_ptr() as usize, stored.bytes.len()))
                .or_default()
                .push(name.clone());
        }
    }
    groups.into_values().filter(|g| g.len() > 1).collect()
}

/// mergekit's names of modules, and the parts of tensor names that they stand for.
const MODULE_ALIASES: [(&str, &[&str]); 3] = [
    ("text_decoder", &["language_model", "text_model"]),
    ("vision_tower", &["vision_tower", "visual", "vision_model"]),
    ("multi_modal_projector", &["multi_modal_projector", "connector", "mm_projector"]),
];

fn in_module(module: &str, name: &str) -> bool {
    if module == "default" {
        return true;
    }
    let aliases = MODULE_ALIASES.iter().find(|(m, _)| *m == module).map_or(&[][..], |(_, a)| a);
    name.split('.').any(|part| part == module || aliases.contains(&part))
        || name.strip_prefix(module).is_some_and(|r| r.starts_with('.'))
}
