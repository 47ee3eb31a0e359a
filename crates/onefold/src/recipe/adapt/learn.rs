//! The road of AdaMerging: coefficients are learnt.

use onefold_runtime::params::Kind;
use onefold_train::adapt::{Adam, Aim, Method, Patience, Settings, Start};

use super::super::keys::{Keys, NOT_NEGATIVE, POSITIVE, SHARE, choice, number};
use super::super::node::Data;
use super::{AIMS, CLAMPS, GRANULARITIES, Road, TaskInputs};

/// What merges by learnt coefficients.
#[derive(Debug, Clone, PartialEq)]
pub struct Learning {
    /// Which vectors are merged.
    pub method: Method,
    /// How coefficients are learnt.
    pub settings: Settings,
}

const STARTS: [(&str, Option<Start>); 2] =
    [("uniform", Some(Start::Uniform)), ("metagpt", Some(Start::MetaGpt))];
/// Share of a task vector that AdaMerging++ keeps.
pub(super) const DENSITY: f64 = 0.2;
/// β of a moving average.
const BETA: Kind = Kind::Number { min: 0.0, max: 0.999_999_999, min_open: false };

/// Reads the keys of this road.
pub(super) fn read(
    top: &mut Keys<'_, '_>,
    method: Method,
    seed: u64,
    tokens: Option<u64>,
    batch: Option<(usize, usize)>,
    tasks: &[TaskInputs],
) -> Road {
    let method = density(top, method);
    let plain = Settings::default();
    let (examples, batches) = batch.unwrap_or((plain.batch, plain.batches));
    let settings = Settings {
        seed,
        steps: top.count("steps", 0).unwrap_or(plain.steps),
        granularity: top.choice("granularity", &GRANULARITIES).unwrap_or_default(),
        start: start(top),
        aim: top.choice("objective", &AIMS).unwrap_or_default(),
        diversity: top.number("diversity", &NOT_NEGATIVE).unwrap_or_default(),
        adam: adam(top),
        clamp: top.choice("clamp", &CLAMPS).unwrap_or_default(),
        normalise: top.flag("normalize").unwrap_or_default(),
        batch: examples,
        batches,
        tokens: tokens.unwrap_or(plain.tokens),
        weights: tasks.iter().map(|task| task.weight).collect(),
        checkpointing: top.flag("gradient_checkpointing").unwrap_or_default(),
        log: top.count("log", 1).unwrap_or(plain.log),
        score: every(top, "score").or(plain.score),
        save: every(top, "checkpoints").unwrap_or(plain.save),
        patience: patience(top),
    };
    if settings.normalise && top.has("clamp") {
        top.unused(&["clamp"], "normalised coefficients are within [0, 1] by themselves");
    }
    if top.has("score") && tasks.iter().all(|task| task.test.is_empty()) {
        top.unused(&["score"], "no task has rows to score with; name them by `test`");
    }
    if settings.aim == Aim::CrossEntropy && settings.diversity > 0.0 {
        top.error("diversity", "it goes with `objective: entropy`", None);
    }
    top.unused(
        &["statistics", "floor", "ratio", "transposed", "mean_elsewhere"],
        "it is of methods that measure (`fisher`, `fisher_nodes`, `regmean`); here coefficients are learnt",
    );
    Road::Learn(Learning { method, settings })
}

fn density(top: &mut Keys<'_, '_>, method: Method) -> Method {
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
