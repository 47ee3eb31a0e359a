//! Recipes of AdaMerging: a merge recipe's models, the tasks' inputs, and how coefficients are learnt.
//!
//! Values have the library's own types (`onefold_train::adapt::Settings`). What a recipe leaves out is the paper's choice, or the
//! library's default with its reason; [`AdaptRecipe::to_yaml`] gives the recipe back with all of it.

mod tasks;
#[cfg(test)]
mod tests;
mod write;

use onefold_runtime::params::Kind;
use onefold_train::adapt::{Adam, Aim, Clamp, Granularity, Method, Patience, Settings, Start};
use onefold_train::data::tokenize::TooLong;

pub use tasks::TaskInputs;

use super::edit;
use super::fields;
use super::keys::{Keys, NOT_NEGATIVE, POSITIVE, SHARE, choice, number};
use super::model_ref::ModelRef;
use super::node::{Data, Document};
use super::problems::{Place, Problems};
use super::tune::TOO_LONG;
use super::{write as yaml_text, yaml};

/// What `merge_method` may be.
pub(super) const METHODS: [(&str, Method); 2] =
    [("adamerging", Method::AdaMerging), ("adamerging_plus", Method::Plus { density: DENSITY })];
pub(super) const GRANULARITIES: [(&str, Granularity); 3] =
    [("tensor", Granularity::Tensor), ("block", Granularity::Block), ("model", Granularity::Model)];
pub(super) const AIMS: [(&str, Aim); 2] = [("entropy", Aim::Entropy), ("ce", Aim::CrossEntropy)];
pub(super) const CLAMPS: [(&str, Clamp); 3] =
    [("project", Clamp::Project), ("forward", Clamp::Forward), ("none", Clamp::None)];
const STARTS: [(&str, Option<Start>); 2] =
    [("uniform", Some(Start::Uniform)), ("metagpt", Some(Start::MetaGpt))];
/// Share of a task vector that AdaMerging++ keeps.
const DENSITY: f64 = 0.2;
/// β of a moving average.
const BETA: Kind = Kind::Number { min: 0.0, max: 0.999_999_999, min_open: false };

/// AdaMerging of some models.
#[derive(Debug, Clone, PartialEq)]
pub struct AdaptRecipe {
    /// The base θ₀.
    pub base_model: ModelRef,
    /// The experts, each with the task it tells, if it was tuned for one of the recipe's.
    pub models: Vec<(ModelRef, Option<String>)>,
    /// Which vectors are merged.
    pub method: Method,
    /// The tasks.
    pub tasks: Vec<TaskInputs>,
    /// How coefficients are learnt.
    pub settings: Settings,
    /// Most tokens of a row.
    pub length: Option<usize>,
    /// What becomes of longer rows.
    pub too_long: TooLong,
    /// Whether inputs are those of the tests, as in the paper.
    pub transductive: bool,
    /// The text it was read from, verbatim, before any `--set`.
    pub text: String,
}

impl AdaptRecipe {
    /// Reads the text of a recipe file, changed by the `--set` texts. `seed` and `transductive` are those of the command line.
    /// Nothing if something is wrong, which is reported.
    pub fn parse(
        text: &str,
        sets: &[String],
        (seed, transductive): (u64, bool),
        problems: &mut Problems,
    ) -> Option<Self> {
        let mut documents = yaml::parse(text, problems)?;
        if documents.is_empty() {
            problems.error(Place::START, "", "the recipe is empty", None);
        }
        if let Some(second) = documents.get(1) {
            let help = "make a file of each".to_owned();
            problems.error(second.root.place, "", "a second recipe in the file", Some(help));
        }
        edit::apply(&mut documents, sets, problems);
        let recipe = read(documents.first()?, seed, transductive, problems)?;
        problems.is_empty().then_some(recipe)
    }

    /// The recipe as it was understood, as YAML that reads back to an equal recipe (but for `text`).
    pub fn to_yaml(&self) -> String {
        yaml_text::yaml(&serde_json::to_value(self).unwrap_or_default())
    }

    /// The number of the expert that tells a task.
    pub fn expert_of(&self, task: &str) -> Option<usize> {
        self.models.iter().position(|(_, of)| of.as_deref() == Some(task))
    }
}

fn read(
    document: &Document,
    command_seed: u64,
    transductive: bool,
    problems: &mut Problems,
) -> Option<AdaptRecipe> {
    let mut top = Keys::of(&document.root, "", "a recipe", problems)?;
    let method = method(&mut top);
    let base_model = super::tune::base_model(&mut top, "the model that the experts were fine-tuned from");
    let models = models(&mut top);
    let seed = super::tune::seed(&mut top, command_seed);
    let tasks = tasks::read(&mut top, transductive);
    check_names(&mut top, &models, &tasks);
    let (batch, length, too_long) = batch(&mut top);
    let plain = Settings::default();
    let settings = Settings {
        seed,
        steps: top.count("steps", 0).unwrap_or(plain.steps),
        granularity: top.choice("granularity", &GRANULARITIES).unwrap_or_default(),
        start: start(&mut top),
        aim: top.choice("objective", &AIMS).unwrap_or_default(),
        diversity: top.number("diversity", &NOT_NEGATIVE).unwrap_or_default(),
        adam: adam(&mut top),
        clamp: top.choice("clamp", &CLAMPS).unwrap_or_default(),
        normalise: top.flag("normalize").unwrap_or_default(),
        weights: tasks.iter().map(|task| task.weight).collect(),
        checkpointing: top.flag("gradient_checkpointing").unwrap_or_default(),
        log: top.count("log", 1).unwrap_or(plain.log),
        score: every(&mut top, "score").or(plain.score),
        save: every(&mut top, "checkpoints").unwrap_or(plain.save),
        patience: patience(&mut top),
        ..batch
    };
    if settings.normalise && top.has("clamp") {
        top.unused(&["clamp"], "normalised coefficients are within [0, 1] by themselves");
    }
    if settings.aim == Aim::CrossEntropy && settings.diversity > 0.0 {
        top.error("diversity", "it goes with `objective: entropy`", None);
    }
    top.finish();
    let text = document.text.clone();
    Some(AdaptRecipe {
        base_model: base_model?,
        models,
        method,
        tasks,
        settings,
        length,
        too_long,
        transductive,
        text,
    })
}

fn method(top: &mut Keys<'_, '_>) -> Method {
    let method = top.choice("merge_method", &METHODS).unwrap_or(Method::AdaMerging);
    match method {
        Method::AdaMerging => {
            top.unused(&["density"], "`adamerging` keeps whole task vectors; `adamerging_plus` trims them");
            method
        }
        Method::Plus { density } => {
            let open = Kind::Number { min: 0.0, max: 1.0, min_open: true };
            Method::Plus { density: top.number("density", &open).unwrap_or(density) }
        }
    }
}

fn models(top: &mut Keys<'_, '_>) -> Vec<(ModelRef, Option<String>)> {
    let Some(node) = top.node("models") else {
        let help = "list the experts, as in `models: [{model: ./expert-code, task: code}]`".to_owned();
        let place = top.place;
        top.problems.error(place, "", "no `models`", Some(help));
        return Vec::new();
    };
    let Some(items) = fields::list(node, "models", "a list of models", top.problems) else {
        return Vec::new();
    };
    let mut models: Vec<(ModelRef, Option<String>)> = Vec::new();
    for (i, item) in items.iter().enumerate() {
        let path = format!("models[{i}]");
        let Some(mut keys) = Keys::of(item, &path, "an entry with `model`", top.problems) else { continue };
        let model =
            keys.node("model").map(|node| ModelRef::read(node, &format!("{path}.model"), keys.problems));
        if model.is_none() {
            keys.problems.error(item.place, &path, "no `model`", None);
        }
        let task = keys.text("task", "a task's name").map(str::to_owned);
        keys.unused(&["parameters", "weight"], "coefficients are learnt; where they begin is said by `init`");
        keys.finish();
        let Some(Some(model)) = model else { continue };
        if models.iter().any(|(known, _)| *known == model) {
            top.problems.error(item.place, &path, format!("the model `{model}` stands twice"), None);
        }
        models.push((model, task));
    }
    models
}

/// Every expert's task is one of the recipe's, and no two tell the same.
fn check_names(top: &mut Keys<'_, '_>, models: &[(ModelRef, Option<String>)], tasks: &[TaskInputs]) {
    let place = top.place_of("models");
    for (i, (_, task)) in models.iter().enumerate() {
        let Some(task) = task else { continue };
        let path = format!("models[{i}].task");
        if !tasks.iter().any(|known| known.name == *task) {
            let names = || tasks.iter().map(|task| task.name.as_str());
            let help = super::did_you_mean(task, names()).map(|near| format!("did you mean `{near}`?"));
            let help = help.or_else(|| Some(format!("the tasks are {}", super::listed(names()))));
            top.problems.error(place, &path, format!("there is no task `{task}`"), help);
        } else if models[..i].iter().any(|(_, of)| of.as_ref() == Some(task)) {
            let message = format!("two models are of the task `{task}`");
            let help = "a task's classes are told by one head; leave `task` out of the other".to_owned();
            top.problems.error(place, &path, message, Some(help));
        }
    }
}

/// Rows of a step, and their lengths.
fn batch(top: &mut Keys<'_, '_>) -> (Settings, Option<usize>, TooLong) {
    let plain = Settings::default();
    let Some(mut keys) = top.mapping("batch", "rows of a step, as in `{examples: 16, length: 128}`") else {
        return (plain, None, TooLong::default());
    };
    let batch = keys.count("examples", 1).map_or(plain.batch, |n| n as usize);
    let batches = keys.count("batches", 1).map_or(plain.batches, |n| n as usize);
    let tokens = keys.count("tokens", 1).unwrap_or(plain.tokens);
    let length = keys.count("length", 2).map(|length| length as usize);
    let too_long = keys.choice("too_long", &TOO_LONG);
    if length.is_none() {
        keys.unused(&["too_long"], "nothing is too long without a `length`");
    }
    keys.finish();
    (Settings { batch, batches, tokens, ..plain }, length, too_long.unwrap_or_default())
}

/// Where coefficients begin: a number, a number for each model, or the name of a rule.
fn start(top: &mut Keys<'_, '_>) -> Start {
    let Some(node) = top.node("init") else { return Start::default() };
    let path = top.path("init");
    let any = Kind::NUMBER;
    let found = match &node.data {
        Data::List(items) => {
            let values = items.iter().enumerate();
            let values = values.map(|(i, item)| number(item, &format!("{path}[{i}]"), &any, top.problems));
            values.collect::<Option<Vec<f64>>>().map(Start::Each)
        }
        Data::Scalar { text, .. } if text.chars().next().is_some_and(char::is_alphabetic) => {
            let words: Vec<(&'static str, usize)> =
                STARTS.iter().enumerate().map(|(i, (word, _))| (*word, i)).collect();
            choice(node, &path, &words, top.problems).and_then(|i| STARTS[i].1.clone())
        }
        _ => number(node, &path, &any, top.problems).map(Start::Value),
    };
    found.unwrap_or_default()
}

fn adam(top: &mut Keys<'_, '_>) -> Adam {
    let plain = Adam::default();
    let Some(mut keys) = top.mapping("optimizer", "Adam, as in `{lr: 1e-3}`") else { return plain };
    // There is one; whoever names another is told.
    keys.choice("kind", &[("adam", ())]);
    let lr = keys.number("lr", &POSITIVE).unwrap_or(plain.lr);
    let beta1 = keys.number("beta1", &BETA).unwrap_or(plain.betas[0]);
    let beta2 = keys.number("beta2", &BETA).unwrap_or(plain.betas[1]);
    let epsilon = keys.number("epsilon", &POSITIVE).unwrap_or(plain.epsilon);
    keys.finish();
    Adam { lr, betas: [beta1, beta2], epsilon }
}

/// `{every: N}`.
fn every(top: &mut Keys<'_, '_>, key: &'static str) -> Option<u64> {
    let mut keys = top.mapping(key, "steps, as in `{every: 50}`")?;
    let every = keys.count("every", 1);
    keys.finish();
    every
}

fn patience(top: &mut Keys<'_, '_>) -> Option<Patience> {
    let mut keys =
        top.mapping("early_stopping", "when it is enough, as in `{patience: 5, min_delta: 0.001}`")?;
    let lines = keys.count("patience", 1);
    if lines.is_none() && !keys.has("patience") {
        let help = "say how many lines of the log without a lower loss are enough".to_owned();
        keys.problems.error(keys.place, &keys.path, "no `patience`", Some(help));
    }
    let least = keys.number("min_delta", &SHARE).unwrap_or_default();
    keys.finish();
    Some(Patience { lines: lines?, least })
}
