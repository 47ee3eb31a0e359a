//! Recipes of tuning and merging in turns: which model, which tasks, how a round tunes, and how it merges.
//!
//! What is said of tuning has the keys of a joint training and is kept as one ([`TuneRecipe`]), of a single task at a time; what
//! is said of merging has the methods and settings of merge recipes. Tasks are taken in the order of their names, whatever that
//! in the recipe, so that it changes nothing.

mod heads;
mod merge;
mod stop;
mod tasks;
#[cfg(test)]
mod tests;
mod write;

use onefold_train::data::sample::Mixture;
use onefold_train::tune::{
    Duration, Every, Form, NonFinite, ProgressSettings, ScheduleKind, ScheduleSettings, Settings, Span,
    ValidationSettings,
};
use serde_json::{Map, Value};

pub use heads::{Fit, HeadSettings};
pub use merge::{Adapters, MergeSettings, Reference};
pub use stop::{Split, Stop};
pub use tasks::{AlternateTask, Rows, settings};

use super::keys::{Keys, POSITIVE, SHARE, json};
use super::model_ref::ModelRef;
use super::node::{Data, Document, Node};
use super::problems::Problems;
use super::tune::training::{self, LOG};
use super::tune::{TuneRecipe, adapter, watching};
use super::{edit, fields, write as yaml_text};

/// What `data` may be.
const ROWS: [(&str, Rows); 2] = [("train", Rows::Train), ("validation", Rows::Validation)];
/// What `optimizer_state` may be.
const STATES: [(&str, bool); 2] = [("fresh", false), ("carried", true)];
/// As the papers have it: a constant rate, and no warm-up, since the optimiser begins anew so often.
const CONSTANT: ScheduleSettings =
    ScheduleSettings { kind: ScheduleKind::Constant, warmup: Span::Share(0.0), floor: 0.0 };
/// Rounds on training rows; at this many the authors' curve is nearly flat.
const ROUNDS: u64 = 10;
/// Rounds on validation rows, which are few: more of them overfit (the authors' best is the fifth).
const ROUNDS_POST_HOC: u64 = 5;
/// Passes over a task's rows in a round.
const EPOCHS: f64 = 1.0;

/// Where the first round begins.
#[derive(Debug, Clone, PartialEq)]
pub enum Start {
    /// At a model.
    Model(ModelRef),
    /// At what a merge makes: the text of its recipe.
    Merge(String),
    /// The same in a file of its own.
    MergeFile(String),
}

/// Tuning and merging in turns.
#[derive(Debug, Clone, PartialEq)]
pub struct AlternateRecipe {
    /// Where the first round begins.
    pub start: Start,
    /// How a round tunes. Its tasks are in the order of their names; its model is that of `start` once it is made.
    pub tuning: TuneRecipe,
    /// What else is said of each task, in the same order.
    pub tasks: Vec<AlternateTask>,
    /// Which rows are learnt from.
    pub rows: Rows,
    /// Rounds, at most.
    pub rounds: u64,
    /// How a round merges.
    pub merge: MergeSettings,
    /// How tasks with classes get their heads.
    pub heads: HeadSettings,
    /// Whether the optimiser of a task goes on where it was at the end of the round before.
    pub carried: bool,
    /// When it is enough.
    pub stop: Option<Stop>,
    /// Whether the rounds stay in the output.
    pub keep_rounds: bool,
}

impl AlternateRecipe {
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

    /// The text on which owners of data have to agree: the recipe without where things lie and what data are.
    pub fn shared(&self) -> String {
        let mut value = serde_json::to_value(self).unwrap_or_default();
        let Some(map) = value.as_object_mut() else { return String::new() };
        for place in ["base_model", "start"] {
            map.shift_remove(place);
        }
        for task in map.get_mut("tasks").and_then(Value::as_array_mut).into_iter().flatten() {
            let name = task["name"].take();
            *task = Value::Object(Map::from_iter([("name".to_owned(), name)]));
        }
        yaml_text::yaml(&value)
    }

    /// Names of the tasks, in their order.
    pub fn names(&self) -> Vec<String> {
        self.tuning.tasks.iter().map(|task| task.name.clone()).collect()
    }
}

fn read(document: &Document, command_seed: u64, problems: &mut Problems) -> Option<AlternateRecipe> {
    let mut top = Keys::of(&document.root, "", "a recipe", problems)?;
    let start = start(&mut top);
    let seed = super::tune::seed(&mut top, command_seed);
    let rows = top.choice("data", &ROWS).unwrap_or_default();
    let usual = if rows == Rows::Train { ROUNDS } else { ROUNDS_POST_HOC };
    let rounds = top.count("rounds", 1).unwrap_or(usual);
    let read = tasks::read(&mut top, rows);
    let names: Vec<String> = read.iter().map(|(task, _)| task.name.clone()).collect();
    let trainable = adapter::read(&mut top, seed);
    let adapted = trainable.adapter.is_some();
    let (optimizer, decay) = training::optimizer(&mut top, adapted);
    let schedule = training::schedule(&mut top, CONSTANT);
    let batch = training::batch(&mut top);
    let packing = batch.packing.zip(batch.length);
    let packing = packing.map(|(packing, length)| (packing, u32::try_from(length).unwrap_or(u32::MAX)));
    let (normalisation, smoothing) = training::loss(&mut top);
    let merge = merge::read(&mut top, names.len(), trainable.adapter.as_ref().map(|(settings, _)| settings));
    let heads = heads::read(&mut top);
    let carried = top.choice("optimizer_state", &STATES).unwrap_or_default();
    if carried && adapted {
        let help = "leave `optimizer_state` out, or train whole weights";
        top.error(
            "optimizer_state",
            "adapters begin anew in each round, and so do their moments",
            Some(help),
        );
    }
    let stop = stop::read(&mut top, rows, &read);
    tasks::check_dev(&mut top, rows, stop.as_ref(), &read);
    let keep_rounds = top.flag("keep_rounds").unwrap_or_default();
    let settings = Settings {
        seed,
        duration: budget(&mut top),
        batch: batch.settings,
        optimizer,
        decay,
        schedule,
        clip: training::clip(top.node("clip"), top.problems),
        checkpointing: top.flag("gradient_checkpointing").unwrap_or_default(),
        normalisation,
        smoothing,
        balancer: Map::from_iter([("kind".to_owned(), Value::from("uniform"))]),
        validation: ValidationSettings { every: Every::Never, batch: None },
        log: top.count("log", 1).unwrap_or(LOG),
        checkpoints: watching::checkpoints(&mut top),
        progress: ProgressSettings::default(),
        non_finite: top.choice("non_finite", &watching::NON_FINITE).unwrap_or(NonFinite::Stop),
    };
    let chat_template = top.text("chat_template", "a template, or a file with one").map(str::to_owned);
    let template_variables = top.json("template_variables", "a mapping of variables").unwrap_or_default();
    top.finish();
    let (of_tuning, tasks) = read.into_iter().unzip();
    let start = start?;
    let base_model = match &start {
        Start::Model(model) => model.clone(),
        // Until it is made.
        Start::Merge(_) | Start::MergeFile(_) => ModelRef::parse("start").ok()?,
    };
    let merge = merge?;
    let output = if merge.adapters == Adapters::Concatenate { Form::Adapter } else { Form::Model };
    let tuning = TuneRecipe {
        base_model,
        tasks: of_tuning,
        trainable,
        settings,
        mixture: Mixture { seed, packing, ..Mixture::default() },
        length: batch.length,
        too_long: batch.too_long,
        keep_best: Some(false),
        output,
        chat_template,
        template_variables,
        text: document.text.clone(),
    };
    Some(AlternateRecipe { start, tuning, tasks, rows, rounds, merge, heads, carried, stop, keep_rounds })
}

/// `base_model`, or `start`.
fn start(top: &mut Keys<'_, '_>) -> Option<Start> {
    let Some(node) = top.node("start") else {
        return super::tune::base_model(top, "the model that the first round begins at").map(Start::Model);
    };
    if top.has("base_model") {
        let help = "the merge recipe under `start` has a `base_model` of its own; leave this one out";
        top.error("base_model", "both `base_model` and `start`", Some(help));
    }
    top.node("base_model");
    merge_recipe(node, top.problems)
}

/// A merge recipe in place, or the path of one.
fn merge_recipe(node: &Node, problems: &mut Problems) -> Option<Start> {
    if matches!(node.data, Data::Map(_)) {
        return Some(Start::Merge(yaml_text::yaml(&json(node))));
    }
    let path = fields::text(node, "start", "a merge recipe, or the path of one", problems)?;
    Some(Start::MergeFile(path.to_owned()))
}

/// `budget`: how long a task is tuned in a round.
fn budget(top: &mut Keys<'_, '_>) -> Duration {
    top.unused(&["epochs", "steps"], "how long a round tunes each task is said by `budget: {epochs: 1}`");
    duration(top, "budget").unwrap_or(Duration::Epochs(EPOCHS))
}

/// `{epochs: X}`, `{steps: N}` or `{fraction: X}`, of which one is given.
fn duration(top: &mut Keys<'_, '_>, key: &'static str) -> Option<Duration> {
    let what = "how long, as in `{epochs: 1}`, `{steps: 100}` or `{fraction: 0.1}` of an epoch";
    let mut keys = top.mapping(key, what)?;
    let found = length(&mut keys);
    keys.finish();
    found
}

fn length(keys: &mut Keys<'_, '_>) -> Option<Duration> {
    let epochs = keys.number("epochs", &POSITIVE).map(Duration::Epochs);
    let steps = keys.count("steps", 1).map(Duration::Steps);
    let fraction = keys.number("fraction", &SHARE).map(Duration::Epochs);
    if fraction == Some(Duration::Epochs(0.0)) {
        keys.error("fraction", "no part of an epoch", None);
    }
    let given = ["epochs", "steps", "fraction"].iter().filter(|key| keys.has(key)).count();
    if given > 1 {
        let message = format!("expected one of `epochs`, `steps` and `fraction`, found {given}");
        keys.problems.error(keys.place, &keys.path, message, None);
    }
    epochs.or(steps).or(fraction)
}
