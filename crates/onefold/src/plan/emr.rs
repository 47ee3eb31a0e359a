//! What is different when the product is an EMR artefact and not a model: its tasks, what it can hold, where the files beside
//! the weights go. And what `task` means at a model.
//!
//! An artefact keeps the base's tensors as they are and adds task vectors. So whatever would change the base (another
//! vocabulary, other layers, a weight that it lacks) has no place in it.

use std::collections::BTreeMap;

use onefold_checkpoint::emr::{MODEL_FILES, STEM};
use onefold_checkpoint::output::Layout;
use onefold_merge::emr::{Rescaler, stream};
use onefold_merge::methods::Method;
use onefold_merge::methods::emr::EMR;
use onefold_merge::stream::{Planned, Work};

use super::{Options, Plan, files};
use crate::config::Changes;
use crate::models::{Library, Model};
use crate::recipe::{self, ModelRef, Recipe, Source};
use crate::tokenizer::{FileContent, OutputFile};

/// The artefact that a plan makes.
#[derive(Debug)]
pub struct EmrPlan {
    /// The tasks in the recipe's order, which is that of the masks.
    pub tasks: Vec<EmrTask>,
    /// How λ is computed.
    pub rescaler: Rescaler,
    /// The base.
    pub base: ModelRef,
}

/// A task and the model that was tuned for it.
#[derive(Debug)]
pub struct EmrTask {
    /// The task's name.
    pub name: String,
    /// The model's label.
    pub model: String,
}

impl Plan {
    /// Where every tensor of the product will lie.
    pub fn layout(&self, max_shard: u64) -> Layout {
        match &self.artefact {
            None => Layout::new(self.tensors.iter().map(|t| t.output.clone()).collect(), max_shard),
            Some(emr) => Layout::with_stem(STEM, stream::outputs(&self.tensors, emr.tasks.len()), max_shard),
        }
    }
}

fn makes_artefact(method: &Method) -> bool {
    method.name == EMR.name
}

/// `task` at a model that is no artefact, for a method that knows no tasks.
pub(super) fn misplaced_tasks(recipe: &Recipe, method: &Method, library: &Library) -> Vec<String> {
    if makes_artefact(method) {
        return Vec::new();
    }
    let sources = recipe.layout.sources();
    let misplaced = sources.iter().filter(|s| s.model.task.is_some() && !library.get(&s.model).extracted);
    let sentence = |source: &&Source| {
        let (path, label) = (&source.at.path, &library.get(&source.model).label);
        format!(
            "{path}: {label} is one model, so it has no `task` to choose; {} does not use task names, remove the key",
            method.name
        )
    };
    misplaced.map(sentence).collect()
}

/// Turns the plan of a merge with `emr` into that of an artefact. Other plans stay as they are.
pub(super) fn finish(
    recipe: &Recipe,
    library: &Library,
    options: Options,
    mut plan: Plan,
) -> Result<Plan, Vec<String>> {
    let Some(reference) = recipe.base_model.as_ref().filter(|_| makes_artefact(plan.method)) else {
        return Ok(plan);
    };
    let base = library.get(reference);
    let mut problems = unsuitable(recipe, options);
    let tasks = tasks(recipe, library, &mut problems);
    let (elected, others): (Vec<Planned>, Vec<Planned>) =
        plan.tensors.into_iter().partition(|planned| rescaler(planned).is_some());
    problems.extend(others.iter().filter(|t| !has(base, t)).map(|t| absent(t, base)));
    problems.extend(elected.iter().filter(|t| !has(base, t)).map(|t| absent(t, base)));
    let rules: Vec<Rescaler> = elected.iter().filter_map(rescaler).collect();
    if rules.windows(2).any(|pair| pair[0] != pair[1]) {
        problems
            .push("`rescaler`: factors are of the whole model, so it cannot differ between tensors".into());
    }
    if !problems.is_empty() {
        return Err(problems);
    }
    // The config goes with the extracted models, which have the base's types, whatever the task vectors are stored in.
    plan.notes.retain(|note| !note.starts_with("config.json: "));
    let config = files::config(base, &Changes::default(), &mut plan.notes).map_err(|e| vec![e])?;
    plan.files.iter_mut().for_each(|file| file.name = format!("{MODEL_FILES}/{}", file.name));
    plan.files.extend(config.map(|text| OutputFile {
        name: format!("{MODEL_FILES}/config.json"),
        content: FileContent::New(text.into_bytes()),
    }));
    let names: Vec<&str> = tasks.iter().map(|t| t.name.as_str()).collect();
    plan.notes.push(format!(
        "the product is an artefact, not a model: name it with `task: {}` in a recipe to get that task's model",
        names.join("` or `task: ")
    ));
    let rescaler = rules.first().copied().unwrap_or_default();
    let base = base.origin.clone();
    Ok(Plan {
        tensors: elected,
        config: None,
        copied: BTreeMap::new(),
        artefact: Some(EmrPlan { tasks, rescaler, base }),
        ..plan
    })
}

fn rescaler(planned: &Planned) -> Option<Rescaler> {
    match &planned.work {
        Work::Merge(merge) => merge.rule.artefact(),
        Work::Copy(_) => None,
    }
}

/// What of the recipe would change the base.
fn unsuitable(recipe: &Recipe, options: Options) -> Vec<String> {
    let dtype = recipe.out_dtype.or(recipe.dtype);
    let bad = [
        (
            !matches!(recipe.layout, recipe::Layout::Models(_)),
            "emr merges whole models: list them under `models`",
        ),
        (
            recipe.tokenizer.is_some(),
            "emr keeps the base's vocabulary: remove `tokenizer`, or give it where a task's model is extracted",
        ),
        (dtype.is_some_and(|d| !d.is_float()), "emr stores task vectors: the type must be floating point"),
        (
            options.allow_non_finite,
            "emr sums over all weights, which must be finite: remove --allow-non-finite, and repair the models if need be",
        ),
    ];
    bad.into_iter().filter(|(is, _)| *is).map(|(_, sentence)| sentence.to_owned()).collect()
}

/// The experts with the names of their tasks.
fn tasks(recipe: &Recipe, library: &Library, problems: &mut Vec<String>) -> Vec<EmrTask> {
    let sources = recipe.layout.sources();
    let experts = sources.into_iter().map(|s| &s.model).filter(|m| recipe.base_model.as_ref() != Some(m));
    let mut tasks: Vec<EmrTask> = Vec::new();
    for expert in experts {
        let (name, model) = (task_name(expert), library.get(expert).label.clone());
        if let Some(other) = tasks.iter().find(|t| t.name == name) {
            problems.push(format!(
                "two tasks are named `{name}`: of {} and of {model}; give each a name with `task: …` beside `model`",
                other.model
            ));
        } else if tasks.iter().any(|t| t.model == model) {
            problems.push(format!("the model {model} is listed twice"));
        }
        tasks.push(EmrTask { name, model });
    }
    tasks
}

/// As the recipe says, else the last part of the path: the adapter's, if there is one.
fn task_name(model: &ModelRef) -> String {
    let path = model.lora.as_ref().map_or(&model.path, |lora| &lora.path);
    let last = path.trim_end_matches('/').rsplit('/').next().unwrap_or(path);
    model.task.clone().unwrap_or_else(|| last.to_owned())
}

/// Whether the base stores the tensor, in the shape in which it was planned.
fn has(base: &Model, planned: &Planned) -> bool {
    let stored = base.checkpoint.tensors().get(&planned.output.name);
    stored.is_some_and(|tensor| tensor.shape == planned.output.shape)
}

fn absent(planned: &Planned, base: &Model) -> String {
    format!(
        "tensor `{}`: emr needs it in the base {} in the shape {:?}, and it is not: experts must have the base's tensors and \
         vocabulary",
        planned.output.name, base.label, planned.output.shape
    )
}
