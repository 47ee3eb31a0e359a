//! What was measured of the models, handed to the merges of the tensors that it is about.

use std::collections::{BTreeMap, BTreeSet};

use onefold_checkpoint::Tensor;
use onefold_merge::params::Value;
use onefold_merge::task::Values;

use super::inputs::naming;
use super::sections::Part;
use super::wanted::Wanted;
use super::{Found, Planner, vocabulary};
use crate::measured::{Measured, OfTensors};
use crate::models::Model;
use crate::recipe::{ModelRef, Recipe};

/// The files of statistics that a recipe names, with their models.
fn given(recipe: &Recipe) -> impl Iterator<Item = (&ModelRef, &Measured)> {
    let sources = recipe.layout.sources().into_iter();
    sources.filter_map(|source| Some((&source.model, source.statistics.as_ref()?.read.as_deref()?)))
}

/// What was measured of each model, under the donor's names.
pub(super) fn of_models(
    recipe: &Recipe,
    models: &[&Model],
    donor: usize,
    index: &dyn Fn(&ModelRef) -> usize,
    problems: &mut Vec<String>,
) -> Vec<Option<OfTensors>> {
    let mut all: Vec<Option<OfTensors>> = models.iter().map(|_| None).collect();
    for (reference, measured) in given(recipe) {
        let model = index(reference);
        match measured.of_tensors(models[model]) {
            Ok(found) => all[model] = Some(renamed(found, models[donor], models[model])),
            Err(more) => problems.extend(more),
        }
    }
    all
}

fn renamed(found: OfTensors, donor: &Model, model: &Model) -> OfTensors {
    let naming = naming(donor, model);
    let all = |tensors: BTreeMap<String, Tensor>| -> BTreeMap<String, Tensor> {
        tensors.into_iter().map(|(name, tensor)| (naming.of(&name), tensor)).collect()
    };
    OfTensors {
        tensors: all(found.tensors),
        mean_elsewhere: found.mean_elsewhere.map(all),
        transposed: found.transposed.iter().map(|name| naming.of(name)).collect(),
    }
}

/// What was measured, a line for each model.
pub(super) fn notes(recipe: &Recipe) -> impl Iterator<Item = String> {
    given(recipe).map(|(model, measured)| format!("{model}: statistics {}", measured.describe()))
}

/// Warns of models that were measured in different ways: their numbers cannot be compared.
pub(super) fn ways(recipe: &Recipe) -> Option<String> {
    let ways: BTreeSet<_> = given(recipe).map(|(_, measured)| &measured.options).collect();
    (ways.len() > 1).then(|| {
        "the models' statistics were measured in different ways, so that their sizes say little; measure all alike".to_owned()
    })
}

impl<'r> Planner<'r> {
    /// What was measured of a tensor: of all operands, or of none. Says in `global` how its matrix is stored, where what was
    /// measured tells.
    pub(super) fn statistics(
        &self,
        wanted: &Wanted<'r, '_>,
        operands: &[(Part<'r>, &String, Tensor)],
        global: &mut Values,
        found: &mut Found,
    ) -> Option<Vec<Tensor>> {
        let mean_elsewhere = global.get("mean_elsewhere").and_then(Value::as_flag).unwrap_or(false);
        let of = |(part, name, _): &(Part<'r>, &String, Tensor)| self.measured(part, name, mean_elsewhere);
        let all: Vec<Option<&Tensor>> = operands.iter().map(of).collect();
        let statistics: Vec<Tensor> = all.iter().copied().flatten().cloned().collect();
        if statistics.is_empty() {
            return Some(statistics);
        }
        if statistics.len() < operands.len() {
            let lacking = operands.iter().zip(&all).filter(|(_, statistic)| statistic.is_none());
            let lacking: Vec<&str> =
                lacking.map(|((part, ..), _)| self.models[part.model].label.as_str()).collect();
            let who = lacking.join(", ");
            let sentence = format!("it was measured of other models, and not of {who}; measure all alike");
            found.problem(&wanted.output, sentence);
            return None;
        }
        let by_token = |(part, name, tensor): &(Part<'r>, &String, Tensor)| {
            vocabulary::is_by_token(self.models[part.model], name, &tensor.shape)
        };
        if self.vocabulary.is_some() && operands.iter().any(by_token) {
            let sentence = "its rows are those of another vocabulary than statistics were measured with; merge without \
                            `tokenizer`";
            found.problem(&wanted.output, sentence.to_owned());
            return None;
        }
        self.say_how_stored(wanted, operands, global);
        Some(statistics)
    }

    fn measured(&self, part: &Part<'r>, name: &str, mean_elsewhere: bool) -> Option<&Tensor> {
        let OfTensors { tensors, mean_elsewhere: other, .. } = self.measured[part.model].as_ref()?;
        let tensors = other.as_ref().filter(|_| mean_elsewhere).unwrap_or(tensors);
        let tied = || tensors.get(self.tied_to(part.model, name)?.0);
        if self.names[part.model].contains_key(name) { tensors.get(name) } else { tied() }
    }

    /// Adds the tensor to the weights that are stored [in, out], if it is said to be one.
    fn say_how_stored(
        &self,
        wanted: &Wanted<'r, '_>,
        operands: &[(Part<'r>, &String, Tensor)],
        global: &mut Values,
    ) {
        let is_transposed = |(part, name, _): &(Part<'r>, &String, Tensor)| {
            self.measured[part.model].as_ref().is_some_and(|measured| measured.transposed.contains(*name))
        };
        if self.method.param("transposed").is_none() || !operands.iter().any(is_transposed) {
            return;
        }
        let list = global.entry("transposed").or_insert_with(|| Value::TextList(Vec::new()));
        if let Value::TextList(names) = list {
            names.push(wanted.output.clone());
        }
    }
}
