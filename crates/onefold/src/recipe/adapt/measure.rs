//! The road of Fisher merging and RegMean: experts are measured on their own tasks' inputs.

use onefold_merge::methods::Method;
use onefold_merge::methods::measured::{self, Statistic};
use onefold_merge::params::Level;
use onefold_train::adapt::Measure;
use onefold_train::statistics::{FisherKind, FisherSettings};

use super::super::keys::Keys;
use super::super::problems::Located;
use super::super::setting::{self, Parameters, Setting};
use super::{Road, TaskInputs};

/// What merges by what was measured.
#[derive(Debug, Clone, PartialEq)]
pub struct Measured {
    /// Name of the merge method.
    pub method: &'static str,
    /// What is measured.
    pub measure: Measure,
    /// Settings of the method.
    pub parameters: Parameters,
    /// Of each model, those that the method has for it.
    pub of_models: Vec<Parameters>,
    /// Seed of labels that are drawn, and of the choice of inputs.
    pub seed: u64,
    /// Most tokens that pass the model at once.
    pub tokens: u64,
}

/// Inputs of a task that are measured, unless the recipe says how many: the usual number.
pub(super) const SAMPLES: usize = 256;
/// Rows whose gradients are added up before they are squared: FusionBench's, and that of mask nodes.
const BATCH: usize = 32;
/// Most tokens that pass at once.
const TOKENS: u64 = 8192;
/// Kinds of Fisher information.
pub(super) const KINDS: [(&str, FisherKind); 3] = [
    ("exact", FisherKind::Exact),
    ("empirical", FisherKind::Empirical),
    ("batch_summed", FisherKind::BatchSummed),
];
/// Keys of learning.
const LEARNT: [&str; 13] = [
    "density",
    "granularity",
    "init",
    "objective",
    "diversity",
    "steps",
    "optimizer",
    "clamp",
    "score",
    "early_stopping",
    "checkpoints",
    "log",
    "gradient_checkpointing",
];
/// Settings of other methods of this road.
const SETTINGS: [&str; 5] = ["floor", "normalize", "ratio", "transposed", "mean_elsewhere"];

/// Reads the keys of this road.
pub(super) fn read(
    top: &mut Keys<'_, '_>,
    method: &'static str,
    seed: u64,
    tokens: Option<u64>,
    of_models: Vec<Parameters>,
    tasks: &[TaskInputs],
) -> Option<Road> {
    let found = measured::find(method)?;
    let parameters = parameters(top, found.method, Level::Global);
    let foreign: Vec<&'static str> =
        SETTINGS.into_iter().filter(|name| found.method.param(name).is_none()).collect();
    top.unused(&foreign, &format!("`{method}` has no such setting"));
    top.unused(&LEARNT, &format!("`{method}` measures the experts and learns nothing"));
    let measure = match found.statistic {
        Statistic::Fisher => fisher(top, seed),
        Statistic::Nodes => Measure::Nodes(nodes(top)),
        Statistic::Gram => {
            top.unused(&["statistics"], "there is one way to measure Gram matrices");
            Measure::Grams
        }
    };
    check_tasks(top, tasks);
    let tokens = tokens.unwrap_or(TOKENS);
    Some(Road::Measure(Measured { method, measure, parameters, of_models, seed, tokens }))
}

/// The settings of a level that a method takes, by their names.
pub(super) fn parameters(keys: &mut Keys<'_, '_>, method: &'static Method, level: Level) -> Parameters {
    let mut found = Parameters::default();
    for param in method.params.iter().filter(|param| param.level == level) {
        let Some(node) = keys.node(param.name) else { continue };
        let path = keys.path(param.name);
        let Some(plain) = setting::plain(node, &path, keys.problems) else { continue };
        match plain.evaluate(0.0).map(|value| param.kind.check(&value)) {
            Some(Ok(_)) => {
                found.insert(param.name.to_owned(), Located::new(Setting::Plain(plain), node.place));
            }
            Some(Err(message)) => keys.problems.error(node.place, &path, message, None),
            None => {}
        }
    }
    found
}

fn fisher(top: &mut Keys<'_, '_>, seed: u64) -> Measure {
    let plain = FisherSettings { seed, ..FisherSettings::default() };
    let Some(mut keys) = top.mapping("statistics", "how to measure, as in `{kind: exact, draws: 1}`") else {
        return Measure::Fisher(plain, BATCH);
    };
    let kind = keys.choice("kind", &KINDS).unwrap_or_default();
    if kind == FisherKind::Empirical {
        keys.unused(
            &["enumerate", "draws"],
            "the empirical Fisher information takes the labels that are given",
        );
    }
    if kind != FisherKind::BatchSummed {
        keys.unused(&["batch"], "each example is measured by itself; only `batch_summed` adds up");
    }
    let enumerate = keys.count("enumerate", 0).map_or(plain.enumerate, |n| n as usize);
    let draws = keys.count("draws", 1).map_or(plain.draws, |n| u32::try_from(n).unwrap_or(u32::MAX));
    let batch = keys.count("batch", 1).map_or(BATCH, |n| n as usize);
    keys.finish();
    Measure::Fisher(FisherSettings { kind, enumerate, draws, seed }, batch)
}

fn nodes(top: &mut Keys<'_, '_>) -> usize {
    let Some(mut keys) = top.mapping("statistics", "how to measure, as in `{batch: 32}`") else {
        return BATCH;
    };
    keys.unused(&["kind", "enumerate", "draws"], "mask nodes are measured with the labels that are given");
    let batch = keys.count("batch", 1).map_or(BATCH, |n| n as usize);
    keys.finish();
    batch
}

/// Every expert has a task, on which it is measured, and every task an expert.
fn check_tasks(top: &mut Keys<'_, '_>, tasks: &[TaskInputs]) {
    for (i, task) in tasks.iter().enumerate() {
        if task.weight != 1.0 {
            let (place, path) = (top.place_of("tasks"), format!("tasks[{i}].weight"));
            let help = "give models a `weight`, where the method has one".to_owned();
            let message = "no loss is learnt that it could weigh";
            top.problems.error(place, &path, message, Some(help));
        }
    }
}
