//! Recipes of joint trainings: which model learns which tasks, and how.
//!
//! ```text
//! text ─ yaml ─▶ tree ─ edit (--set) ─▶ tree ─ tasks, balancing, adapter, training, watching ─▶ TuneRecipe ─▶ jobs/tune
//! ```
//!
//! Values have the library's own types (`onefold_train::tune::Settings` and its kin), so that nothing is said twice; only their
//! YAML form is known here. What a recipe leaves out stands in `defaults`; `write` gives back the recipe with all of it.

pub(super) mod adapter;
mod balancing;
mod defaults;

pub(super) mod spellings;
pub(super) mod tasks;
#[cfg(test)]
mod tests;
pub(super) mod training;
pub(super) mod watching;
mod write;

use onefold_train::data::sample::Mixture;
use onefold_train::data::tokenize::TooLong;
use onefold_train::tune::{Every, Form, Settings, Trainable};
use serde_json::{Map, Value};

pub use tasks::{Data, TaskRecipe};
pub(super) use training::TOO_LONG;

use super::edit;
use super::keys::Keys;
use super::model_ref::ModelRef;
use super::node::Document;
use super::problems::Problems;
use super::write as yaml_text;

/// A joint training.
#[derive(Debug, Clone, PartialEq)]
pub struct TuneRecipe {
    /// The model that is trained.
    pub base_model: ModelRef,
    /// What it learns.
    pub tasks: Vec<TaskRecipe>,
    /// Which of its parameters are trained.
    pub trainable: Trainable,
    /// How to train. `progress.keep_best` follows from `keep_best`.
    pub settings: Settings,
    /// How tasks are mixed.
    pub mixture: Mixture,
    /// Most tokens of a row.
    pub length: Option<usize>,
    /// What becomes of longer rows.
    pub too_long: TooLong,
    /// Whether the best model is the result. If it is open: when there is something to judge it by.
    pub keep_best: Option<bool>,
    /// What is written.
    pub output: Form,
    /// The chat template: its text, or a file.
    pub chat_template: Option<String>,
    /// Further variables of the template.
    pub template_variables: Map<String, Value>,
    /// The text it was read from, verbatim, before any `--set`.
    pub text: String,
}

impl TuneRecipe {
    /// Reads the text of a recipe file, changed by the `--set` texts. `seed` is that of the command line. Nothing if something is
    /// wrong, which is reported.
    pub fn parse(text: &str, sets: &[String], seed: u64, problems: &mut Problems) -> Option<Self> {
        let document = edit::single(text, "recipe", sets, problems)?;
        let recipe = read(&document, seed, problems)?;
        problems.is_empty().then_some(recipe)
    }

    /// The recipe as it was understood, as YAML that reads back to an equal recipe (but for `text`).
    pub fn to_yaml(&self) -> String {
        yaml_text::yaml(&serde_json::to_value(self).unwrap_or_default())
    }

    /// Decides whether the best model is the result, if that was open: `judged` says whether there are validation rows.
    pub fn resolve_best(&mut self, judged: bool) {
        let keep = *self.keep_best.get_or_insert(judged);
        self.settings.progress.keep_best = keep;
    }
}

fn read(document: &Document, command_seed: u64, problems: &mut Problems) -> Option<TuneRecipe> {
    let mut top = Keys::of(&document.root, "", "a recipe", problems)?;
    let base_model = base_model(&mut top, "the model to be trained");
    let seed = seed(&mut top, command_seed);
    let mut tasks = tasks::read(&mut top);
    let names: Vec<String> = tasks.iter().map(|task| task.name.clone()).collect();
    let trainable = adapter::read(&mut top, seed);
    let adapted = trainable.adapter.is_some();
    let (optimizer, decay) = training::optimizer(&mut top, adapted);
    let schedule = training::schedule(&mut top, training::COSINE);
    let batch = training::batch(&mut top);
    let mut mixture = training::sampling(&mut top, seed);
    let packed = |(packing, length)| (packing, u32::try_from(length).unwrap_or(u32::MAX));
    mixture.packing = batch.packing.zip(batch.length).map(packed);
    let (normalisation, smoothing) = training::loss(&mut top);
    let validation = watching::validation(&mut top);
    let is_validated = validation.every != Every::Never;
    let (progress, keep_best) = watching::best(&mut top, &names, is_validated);
    let settings = Settings {
        seed,
        duration: training::duration(&mut top),
        batch: batch.settings,
        optimizer,
        decay,
        schedule,
        clip: training::clip(top.node("clip"), top.problems),
        checkpointing: top.flag("gradient_checkpointing").unwrap_or_default(),
        normalisation,
        smoothing,
        balancer: balancing::read(&mut top, &mut tasks),
        validation,
        log: top.count("log", 1).unwrap_or(defaults::LOG),
        checkpoints: watching::checkpoints(&mut top),
        progress,
        non_finite: top
            .choice("non_finite", &watching::NON_FINITE)
            .unwrap_or(onefold_train::tune::NonFinite::Stop),
    };
    let output = output(&mut top, adapted);
    let chat_template = top.text("chat_template", "a template, or a file with one").map(str::to_owned);
    let template_variables = top.json("template_variables", "a mapping of variables").unwrap_or_default();
    top.finish();
    Some(TuneRecipe {
        base_model: base_model?,
        tasks,
        trainable,
        settings,
        mixture,
        length: batch.length,
        too_long: batch.too_long,
        keep_best,
        output,
        chat_template,
        template_variables,
        text: document.text.clone(),
    })
}

/// `base_model`; `what` says what it is.
pub(super) fn base_model(top: &mut Keys<'_, '_>, what: &str) -> Option<ModelRef> {
    let Some(node) = top.node("base_model") else {
        let help = format!("name {what}: a directory, or a name on the hub");
        let place = top.place;
        top.problems.error(place, "", "no `base_model`", Some(help));
        return None;
    };
    let model = ModelRef::read(node, "base_model", top.problems)?;
    if model.lora.is_some() {
        let help = "merge it into a model first (`onefold merge` with `merge_method: linear`)";
        top.error("base_model", "a model with an adapter cannot be trained", Some(help));
    }
    if model.override_architecture.is_some() {
        top.error("base_model", "`override_architecture` is for merges", None);
    }
    Some(model)
}

/// The recipe's seed, else the command's.
pub(super) fn seed(top: &mut Keys<'_, '_>, command: u64) -> u64 {
    let Some(seed) = top.count("seed", 0) else { return command };
    if command != 0 && command != seed {
        let message = format!("{seed}, and `--seed {command}` on the command line");
        top.error("seed", message, Some("leave one of them out, or change the recipe by `--set seed=…`"));
    }
    seed
}

/// What is written: by default adapters if there are any.
fn output(top: &mut Keys<'_, '_>, adapted: bool) -> Form {
    let default = if adapted { Form::Adapter } else { Form::Model };
    match top.choice("output", &watching::FORMS) {
        Some(form) if form == Form::Model || adapted => form,
        Some(_) => {
            top.error(
                "output",
                "there is no adapter",
                Some("without `adapter` whole weights are trained: `model`"),
            );
            default
        }
        None => default,
    }
}
