//! `merge`: how the task vectors of a round become one.

use onefold_merge::methods::{self, BaseRole, Method, measured};
use onefold_merge::params::Default as Given;
use onefold_runtime::params::Kind;
use onefold_train::model::AdapterSettings;

use crate::recipe::check::check_parameters;
use crate::recipe::keys::{Keys, NOT_NEGATIVE};
use crate::recipe::problems::{Located, Place, did_you_mean, listed};
use crate::recipe::setting::{self, Parameters, Plain, Setting};
use crate::recipe::{At, Layout, ModelRef, Recipe, Source};

/// The mean of the vectors: task arithmetic with 1/T.
const MEAN: &str = "mean";
pub(super) const REFERENCES: [(&str, Reference); 2] =
    [("current", Reference::Current), ("original", Reference::Original)];
pub(super) const ADAPTERS: [(&str, Adapters); 2] =
    [("fold", Adapters::Fold), ("concatenate", Adapters::Concatenate)];
/// Methods whose coefficients someone has to learn first.
const LEARNT: [&str; 2] = ["adamerging", "adamerging_plus"];
/// What a running mean may keep of the past.
const MOMENTUM: Kind = Kind::Number { min: 0.0, max: 0.999_999, min_open: false };

/// Against what vectors are taken, and on what they are merged.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Reference {
    /// The model that the round begins at.
    #[default]
    Current,
    /// The model that the first round began at.
    Original,
}

/// What becomes of adapters.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Adapters {
    /// What they add is merged, as any vector.
    #[default]
    Fold,
    /// The same, and their factors stand side by side in one adapter of the ranks' sum.
    Concatenate,
}

/// How a round merges.
#[derive(Debug, Clone, PartialEq)]
pub struct MergeSettings {
    /// The method, by its name in merge recipes.
    pub method: String,
    /// Its settings, for all tasks.
    pub parameters: Parameters,
    /// What the merged vector is multiplied with.
    pub alpha: f64,
    /// Against what vectors are taken.
    pub reference: Reference,
    /// What the vector of the round before counts beside a task's.
    pub momentum: f64,
    /// Whether vectors longer than the mean length are shortened to it.
    pub clip_norms: bool,
    /// What becomes of adapters.
    pub adapters: Adapters,
}

impl MergeSettings {
    /// The merge of `models` on `base`.
    pub fn recipe(&self, base: ModelRef, models: Vec<ModelRef>) -> Recipe {
        let source = |model| Source {
            model,
            layer_range: None,
            parameters: Parameters::default(),
            statistics: None,
            at: At { place: Place::START, path: String::new() },
        };
        Recipe {
            name: None,
            method: Located::new(self.method.clone(), Place::START),
            base_model: Some(base),
            layout: Layout::Models(models.into_iter().map(source).collect()),
            parameters: self.parameters.clone(),
            coefficients: None,
            head: None,
            dtype: None,
            out_dtype: None,
            tokenizer: None,
            chat_template: None,
            text: String::new(),
        }
    }
}

/// Reads `merge`. `adapter` are the settings of adapters, if there are any.
pub(super) fn read(
    top: &mut Keys<'_, '_>,
    tasks: usize,
    adapter: Option<&AdapterSettings>,
) -> Option<MergeSettings> {
    let mut plain = MergeSettings {
        method: "task_arithmetic".to_owned(),
        parameters: mean_weight(tasks),
        alpha: 1.0,
        reference: Reference::Current,
        momentum: 0.0,
        clip_norms: false,
        adapters: Adapters::Fold,
    };
    let what = "how vectors are merged, as in `{method: ties, parameters: {density: 0.2}, alpha: 1.0}`";
    let Some(mut keys) = top.mapping("merge", what) else { return Some(plain) };
    keys.unused(&["merge_method"], "it is called `method` here");
    let name = keys.text("method", "a merge method").unwrap_or(MEAN).to_owned();
    if name == MEAN {
        keys.unused(&["parameters"], "a mean has none; `method: task_arithmetic` takes a `weight`");
    } else {
        let (method, parameters) = with_method(&mut keys, &name, tasks)?;
        (plain.method, plain.parameters) = (method.name.to_owned(), parameters);
    }
    plain.alpha = keys.number("alpha", &NOT_NEGATIVE).unwrap_or(plain.alpha);
    plain.reference = keys.choice("reference", &REFERENCES).unwrap_or_default();
    plain.momentum = keys.number("momentum", &MOMENTUM).unwrap_or_default();
    plain.clip_norms = keys.flag("clip_norms").unwrap_or_default();
    if plain.momentum > 0.0 && plain.reference == Reference::Original {
        let help = "vectors against the original model hold all rounds before already";
        keys.error("momentum", "only vectors against the current model have a momentum", Some(help));
    }
    adapters(&mut keys, &mut plain, adapter);
    keys.finish();
    Some(plain)
}

/// The method with its settings. A weight that it requires is 1/T, so that what it makes is a mean.
fn with_method(keys: &mut Keys<'_, '_>, name: &str, tasks: usize) -> Option<(&'static Method, Parameters)> {
    let Some(method) = methods::find(name) else {
        let known =
            || methods::METHODS.iter().map(|method| method.name).filter(|name| is_suited(name)).chain([MEAN]);
        let help = match did_you_mean(name, known()) {
            Some(near) => format!("did you mean `{near}`?"),
            None => format!("the methods that merge task vectors are {}", listed(known())),
        };
        keys.error("method", format!("unknown merge method `{name}`"), Some(&help));
        return None;
    };
    if let Some(why) = unsuited(method, tasks) {
        keys.error("method", format!("`{name}` {why}"), Some("try `mean`, `ties`, `metagpt` or `pcgrad`"));
        return None;
    }
    let path = keys.path("parameters");
    let mut parameters = setting::read(keys.node("parameters"), &path, keys.problems);
    let needs_weight = method.param("weight").is_some_and(|param| param.default == Given::Required);
    if needs_weight && !parameters.contains_key("weight") {
        parameters.extend(mean_weight(tasks));
    }
    // Settings of a model hold for all tasks here.
    let settings = MergeSettings { method: name.to_owned(), parameters, ..MergeSettings::empty() };
    let models = (0..tasks.max(1)).filter_map(|task| ModelRef::parse(&format!("task-{task}")).ok()).collect();
    let recipe = settings.recipe(ModelRef::parse("base").ok()?, models);
    check_parameters(&recipe, method.params, keys.problems);
    Some((method, settings.parameters))
}

impl MergeSettings {
    fn empty() -> Self {
        Self {
            method: String::new(),
            parameters: Parameters::default(),
            alpha: 1.0,
            reference: Reference::Current,
            momentum: 0.0,
            clip_norms: false,
            adapters: Adapters::Fold,
        }
    }
}

fn is_suited(name: &str) -> bool {
    methods::find(name).is_some_and(|method| unsuited(method, usize::MAX).is_none())
}

/// Why a method cannot merge the vectors of a round.
fn unsuited(method: &Method, tasks: usize) -> Option<String> {
    if let Some(found) = measured::find(method.name) {
        let statistic = found.statistic.describe();
        return Some(format!(
            "needs statistics of each model's inputs ({statistic}), which rounds do not measure"
        ));
    }
    if LEARNT.contains(&method.name) {
        return Some("needs coefficients that are learnt from inputs, which rounds do not do".to_owned());
    }
    if method.name == "emr" {
        return Some("makes an artefact and no model to go on from".to_owned());
    }
    if !matches!(method.base, BaseRole::Origin | BaseRole::OptionalOrigin) {
        return Some("merges whole models and not task vectors".to_owned());
    }
    let (least, most) = method.operands;
    let wrong = tasks != usize::MAX && !(least..=most).contains(&tasks);
    wrong.then(|| {
        format!(
            "merges {least} task vectors or more, and the recipe has {}",
            crate::report::counted(tasks as u64, "task")
        )
    })
}

/// 1/T for every task.
fn mean_weight(tasks: usize) -> Parameters {
    let weight = Setting::Plain(Plain::Number(1.0 / tasks.max(1) as f64));
    Parameters::from_iter([("weight".to_owned(), Located::new(weight, Place::START))])
}

fn adapters(keys: &mut Keys<'_, '_>, merge: &mut MergeSettings, adapter: Option<&AdapterSettings>) {
    let Some(settings) = adapter else {
        keys.unused(&["adapters"], "there are none: whole weights are trained");
        return;
    };
    merge.adapters = keys.choice("adapters", &ADAPTERS).unwrap_or_default();
    if merge.adapters == Adapters::Fold {
        return;
    }
    let linear = merge.method == "task_arithmetic"
        && !merge
            .parameters
            .values()
            .any(|setting| !matches!(setting.value, Setting::Plain(Plain::Number(_) | Plain::Flag(_))));
    let why = if !linear {
        "only weighted sums (`mean`, `task_arithmetic` with plain numbers) are an adapter of the ranks' sum"
    } else if settings.decomposed {
        "`dora` scales rows, which is no product of factors"
    } else if merge.reference == Reference::Original {
        "vectors against the original model are no product of one round's factors"
    } else if merge.momentum > 0.0 {
        "a momentum would need the factors of all rounds before"
    } else {
        return;
    };
    keys.error("adapters", why, Some("`fold` merges what adapters add, by any method"));
}
