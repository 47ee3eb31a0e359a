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

mod emr;
pub mod files;
mod finish;
pub mod gather;
mod inputs;
mod measured;
mod merged;
pub mod names;
pub mod sections;
mod tensor;
pub mod vocabulary;
mod wanted;

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use onefold_checkpoint::Tensor;
use onefold_merge::methods::Method;
use onefold_merge::stream::{Planned, Work};
use rayon::prelude::*;

use crate::measured::OfTensors;
use crate::models::{Library, Model};
use crate::recipe::{ModelRef, Recipe};
use crate::tokenizer::{Built, OutputFile};
use inputs::{named_like, quantised};
use wanted::Wanted;

pub use emr::{EmrPlan, EmrTask};
pub use finish::tied_groups;

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
    /// The inputs are compared, nothing is merged: what is said of tensors that a model lacks.
    pub only_compare: bool,
    /// The models but the base hold task vectors.
    pub deltas: bool,
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
    /// Names of the operands in the tensors' merges ([`Model::mask_name`]), in the same order.
    pub operand_names: Vec<String>,
    /// The config, as it will be written.
    pub config: Option<String>,
    /// Files beside the weights.
    pub files: Vec<OutputFile>,
    /// Tensors that are copied where a merge was asked for, and why.
    pub copied: BTreeMap<String, String>,
    /// Names that share their values in the donor.
    pub tied: Vec<Vec<String>>,
    /// The tokenizer, if it was built.
    pub vocabulary: Option<Arc<Built>>,
    /// Edits of the config and other facts.
    pub notes: Vec<String>,
    /// What the user should look at.
    pub warnings: Vec<String>,
    /// Where the product is not a model but an artefact: `tensors` are then the weights that have task vectors.
    pub artefact: Option<EmrPlan>,
}

impl Plan {
    /// Whether a tensor is taken over from one model: as bytes, or (an adapter's) computed.
    pub fn is_copy(&self, planned: &Planned) -> bool {
        matches!(planned.work, Work::Copy(_)) || self.copied.contains_key(&planned.output.name)
    }
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
    let misplaced = emr::misplaced_tasks(recipe, method, library);
    let planned = Planner::new(recipe, method, library, options).and_then(Planner::plan);
    match planned {
        Ok(plan) if misplaced.is_empty() => emr::finish(recipe, library, options, plan),
        planned => Err(misplaced.into_iter().chain(planned.err().unwrap_or_default()).collect()),
    }
}

struct Planner<'r> {
    recipe: &'r Recipe,
    method: &'static Method,
    options: Options,
    references: Vec<&'r ModelRef>,
    models: Vec<&'r Model>,
    /// Per model: its tensors under the donor's naming.
    names: Vec<Cow<'r, BTreeMap<String, Tensor>>>,
    donor: usize,
    vocabulary: Option<Arc<Built>>,
    /// Per model: what was measured of it, under the donor's naming.
    measured: Vec<Option<OfTensors>>,
}

/// Tensors that are planned together.
const PIECE: usize = 1024;

/// What accumulates while tensors are planned.
#[derive(Default)]
struct Found {
    /// Sentence → (tensors it holds for, the first of them).
    problems: BTreeMap<String, (usize, String)>,
    copied: BTreeMap<String, String>,
    /// Who lacks tensors and what becomes of them → those tensors.
    missing: BTreeMap<String, Vec<String>>,
    notes: BTreeSet<String>,
    warnings: BTreeSet<String>,
    cropped: Option<usize>,
    untie: bool,
}

impl Found {
    fn problem(&mut self, tensor: &str, sentence: String) {
        self.problems.entry(sentence).or_insert_with(|| (0, tensor.to_owned())).0 += 1;
    }

    /// Adds what was found of later tensors.
    fn absorb(&mut self, later: Self) {
        for (sentence, (count, first)) in later.problems {
            self.problems.entry(sentence).or_insert((0, first)).0 += count;
        }
        for (who, tensors) in later.missing {
            self.missing.entry(who).or_default().extend(tensors);
        }
        self.copied.extend(later.copied);
        self.notes.extend(later.notes);
        self.warnings.extend(later.warnings);
        self.cropped = later.cropped.or(self.cropped);
        self.untie |= later.untie;
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
        problems.extend(inputs::same_twice(&models));
        let vocabulary = match &recipe.tokenizer {
            Some(spec) => vocabulary::build(spec, &models, donor, recipe.base_model.is_some(), &index)
                .map_err(|e| problems.push(e))
                .ok(),
            None => None,
        };
        let measured = measured::of_models(recipe, &models, donor, &index, &mut problems);
        if !problems.is_empty() {
            return Err(problems);
        }
        let names = models.iter().map(|m| named_like(models[donor], m)).collect();
        Ok(Self { recipe, method, options, references, models, names, donor, vocabulary, measured })
    }

    fn plan(self) -> Result<Plan, Vec<String>> {
        let index = |r: &ModelRef| self.references.iter().position(|x| *x == r).unwrap_or(0);
        let sections = sections::sections(self.recipe, self.method, &index)?;
        let wanted = self.wanted(&sections)?;
        let planned = |wanted: &[Wanted<'_, '_>]| {
            let mut found = Found::default();
            let tensors: Vec<Planned> = wanted.iter().filter_map(|w| self.tensor(w, &mut found)).collect();
            (tensors, found)
        };
        let parts: Vec<(Vec<Planned>, Found)> = wanted.par_chunks(PIECE).map(planned).collect();
        let (mut tensors, mut found) = (Vec::with_capacity(wanted.len()), Found::default());
        for (more, later) in parts {
            tensors.extend(more);
            found.absorb(later);
        }
        self.check_nothing_dropped(&sections, &mut found);
        if !found.problems.is_empty() {
            let sentence = |(sentence, (count, first)): (&String, &(usize, String))| match count {
                1 => format!("tensor `{first}`: {sentence}"),
                n => format!("tensor `{first}` and {} more: {sentence}", n - 1),
            };
            return Err(found.problems.iter().map(sentence).collect());
        }
        tensors.par_sort_by(|a, b| names::natural_order(&a.output.name, &b.output.name));
        self.finish(&sections, tensors, found)
    }
}
