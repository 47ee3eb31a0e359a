//! Recipes of merges that look at the tasks' inputs: a merge recipe's models, the inputs, and what is done with them. There are
//! two roads: coefficients are learnt (AdaMerging, `learn`), or experts are measured (Fisher merging and RegMean, `measure`). After
//! either features may be corrected (`surgery`).
//!
//! Values have the library's own types (`onefold_train::adapt::Settings`). What a recipe leaves out is the paper's choice, or the
//! library's default with its reason; [`AdaptRecipe::to_yaml`] gives the recipe back with all of it.

mod learn;
mod measure;
mod surgery;
mod tasks;
mod telling;
#[cfg(test)]
mod tests;
mod write;

use std::path::Path;

use onefold_merge::methods::measured;
use onefold_merge::params::Level;
use onefold_train::adapt::{Aim, Clamp, Granularity, Method};
use onefold_train::data::tokenize::TooLong;
use onefold_train::statistics::SurgerySettings;

pub use learn::Learning;
pub use measure::Measured;
pub use tasks::TaskInputs;
pub use telling::{Classes, Telling};
pub(super) use telling::{read_any as telling, written as written_telling};

use super::edit;
use super::fields;
use super::keys::Keys;
use super::model_ref::ModelRef;
use super::node::Document;
use super::problems::Problems;
use super::setting::Parameters;
use super::tune::TOO_LONG;
use super::write as yaml_text;

/// A road with the method that is at its end.
#[derive(Debug, Clone, Copy)]
enum Way {
    Learn(Method),
    Measure(&'static str),
}

/// What `merge_method` may be.
const METHODS: [(&str, Way); 5] = [
    ("adamerging", Way::Learn(Method::AdaMerging)),
    ("adamerging_plus", Way::Learn(Method::Plus { density: learn::DENSITY })),
    ("fisher", Way::Measure("fisher")),
    ("fisher_nodes", Way::Measure("fisher_nodes")),
    ("regmean", Way::Measure("regmean")),
];
pub(super) const GRANULARITIES: [(&str, Granularity); 3] =
    [("tensor", Granularity::Tensor), ("block", Granularity::Block), ("model", Granularity::Model)];
pub(super) const AIMS: [(&str, Aim); 2] = [("entropy", Aim::Entropy), ("ce", Aim::CrossEntropy)];
pub(super) const CLAMPS: [(&str, Clamp); 3] =
    [("project", Clamp::Project), ("forward", Clamp::Forward), ("none", Clamp::None)];

/// What is done with the inputs.
#[derive(Debug, Clone, PartialEq)]
pub enum Road {
    /// Coefficients are learnt.
    Learn(Learning),
    /// Experts are measured.
    Measure(Measured),
}

/// A merge of some models by their tasks' inputs.
#[derive(Debug, Clone, PartialEq)]
pub struct AdaptRecipe {
    /// The base θ₀.
    pub base_model: ModelRef,
    /// The experts, each with the task it tells, if it was tuned for one of the recipe's.
    pub models: Vec<(ModelRef, Option<String>)>,
    /// What is done with the inputs.
    pub road: Road,
    /// The tasks.
    pub tasks: Vec<TaskInputs>,
    /// How features of the merged model are corrected; none: they are not.
    pub surgery: Option<SurgerySettings>,
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
        let document = edit::single(text, "recipe", sets, problems)?;
        let recipe = read(&document, seed, transductive, problems)?;
        problems.is_empty().then_some(recipe)
    }

    /// The same with the classes that stand in files; paths are looked up in `dir`. Nothing if something is wrong, which is
    /// reported.
    pub fn with_classes(mut self, dir: &Path, problems: &mut Problems) -> Option<Self> {
        self.tasks.iter_mut().for_each(|task| task.telling.read_classes(dir, problems));
        problems.is_empty().then_some(self)
    }

    /// The recipe as it was understood, as YAML that reads back to an equal recipe (but for `text`).
    pub fn to_yaml(&self) -> String {
        yaml_text::yaml(&serde_json::to_value(self).unwrap_or_default())
    }

    /// The seed of everything random.
    pub fn seed(&self) -> u64 {
        match &self.road {
            Road::Learn(learning) => learning.settings.seed,
            Road::Measure(measured) => measured.seed,
        }
    }

    /// Whether labels of inputs are learnt.
    pub fn is_supervised(&self) -> bool {
        match &self.road {
            Road::Learn(learning) => learning.settings.aim == Aim::CrossEntropy,
            Road::Measure(measured) => measured.measure.needs_labels(),
        }
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
    let way = top.choice("merge_method", &METHODS).unwrap_or(METHODS[0].1);
    let base_model = super::tune::base_model(&mut top, "the model that the experts were fine-tuned from");
    let (models, of_models) = models(&mut top, way);
    let seed = super::tune::seed(&mut top, command_seed);
    let samples = matches!(way, Way::Measure(_)).then_some(measure::SAMPLES);
    let tasks = tasks::read(&mut top, transductive, samples);
    check_names(&mut top, &models, &tasks);
    let surgery = surgery::read(&mut top, seed);
    let Batch { rows, tokens, length, too_long } = batch(&mut top, way);
    let road = match way {
        Way::Learn(method) => Some(learn::read(&mut top, method, seed, tokens, rows, &tasks)),
        Way::Measure(method) => {
            check_experts(&mut top, &models, &tasks);
            measure::read(&mut top, method, seed, tokens, of_models, &tasks)
        }
    };
    top.finish();
    let text = document.text.clone();
    Some(AdaptRecipe {
        base_model: base_model?,
        models,
        road: road?,
        tasks,
        surgery,
        length,
        too_long,
        transductive,
        text,
    })
}

type Models = Vec<(ModelRef, Option<String>)>;

/// The experts with their tasks, and the settings of each.
fn models(top: &mut Keys<'_, '_>, way: Way) -> (Models, Vec<Parameters>) {
    let Some(node) = top.node("models") else {
        let help = "list the experts, as in `models: [{model: ./expert-code, task: code}]`".to_owned();
        let place = top.place;
        top.problems.error(place, "", "no `models`", Some(help));
        return Default::default();
    };
    let Some(items) = fields::list(node, "models", "a list of models", top.problems) else {
        return Default::default();
    };
    let (mut models, mut of_models) = (Models::new(), Vec::new());
    for (i, item) in items.iter().enumerate() {
        let path = format!("models[{i}]");
        let Some(mut keys) = Keys::of(item, &path, "an entry with `model`", top.problems) else { continue };
        let model =
            keys.node("model").map(|node| ModelRef::read(node, &format!("{path}.model"), keys.problems));
        if model.is_none() {
            keys.problems.error(item.place, &path, "no `model`", None);
        }
        let task = keys.text("task", "a task's name").map(str::to_owned);
        let parameters = match way {
            Way::Learn(_) => {
                let why = "coefficients are learnt; where they begin is said by `init`";
                keys.unused(&["parameters", "weight"], why);
                Parameters::default()
            }
            Way::Measure(method) => of_model(&mut keys, method),
        };
        keys.finish();
        let Some(Some(model)) = model else { continue };
        if models.iter().any(|(known, _)| *known == model) {
            top.problems.error(item.place, &path, format!("the model `{model}` stands twice"), None);
        }
        models.push((model, task));
        of_models.push(parameters);
    }
    (models, of_models)
}

/// The settings that a method which measures has for a model.
fn of_model(keys: &mut Keys<'_, '_>, method: &str) -> Parameters {
    let Some(found) = measured::find(method) else { return Parameters::default() };
    keys.unused(&["parameters"], "settings stand by their names: `weight` beside `model`");
    keys.unused(&["statistics"], "they are measured; `onefold merge` takes those that are there already");
    if found.method.param("weight").is_none() {
        keys.unused(&["weight"], "the method has no weights of models");
    }
    measure::parameters(keys, found.method, Level::Model)
}

/// Each expert is measured on its own task's inputs, and all inputs are for an expert.
fn check_experts(top: &mut Keys<'_, '_>, models: &Models, tasks: &[TaskInputs]) {
    let place = top.place_of("models");
    for (i, (model, _)) in models.iter().enumerate().filter(|(_, (_, task))| task.is_none()) {
        let help = "name one of `tasks`, as in `{model: ./expert, task: code}`".to_owned();
        let message = format!("no `task` for the model `{model}`, on whose inputs it could be measured");
        top.problems.error(place, &format!("models[{i}]"), message, Some(help));
    }
    let place = top.place_of("tasks");
    for (i, task) in tasks.iter().enumerate() {
        if !models.iter().any(|(_, of)| of.as_deref() == Some(&task.name)) {
            let message = format!("no model has `task: {}`, so nothing is measured on its inputs", task.name);
            top.problems.error(place, &format!("tasks[{i}]"), message, None);
        }
    }
}

/// What `batch` says.
#[derive(Debug, Default)]
struct Batch {
    /// Rows of a task in a batch, and batches in a step.
    rows: Option<(usize, usize)>,
    tokens: Option<u64>,
    length: Option<usize>,
    too_long: TooLong,
}

fn batch(top: &mut Keys<'_, '_>, way: Way) -> Batch {
    let Some(mut keys) = top.mapping("batch", "rows of a step, as in `{examples: 16, length: 128}`") else {
        return Batch::default();
    };
    let rows = match way {
        Way::Learn(_) => {
            let plain = onefold_train::adapt::Settings::default();
            let examples = keys.count("examples", 1).map_or(plain.batch, |n| n as usize);
            Some((examples, keys.count("batches", 1).map_or(plain.batches, |n| n as usize)))
        }
        Way::Measure(_) => {
            let why = "there are no steps; where rows are measured together `statistics.batch` says how many";
            keys.unused(&["examples", "batches"], why);
            None
        }
    };
    let tokens = keys.count("tokens", 1);
    let length = keys.count("length", 2).map(|length| length as usize);
    let too_long = keys.choice("too_long", &TOO_LONG);
    if length.is_none() {
        keys.unused(&["too_long"], "nothing is too long without a `length`");
    }
    keys.finish();
    Batch { rows, tokens, length, too_long: too_long.unwrap_or_default() }
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
