//! `validation`, `checkpoints`, `best`: when progress is measured and kept.

use onefold_runtime::params::Kind;
use onefold_train::tune::{
    Aggregate, CheckpointSettings, Every, Form, Measure, NonFinite, ProgressSettings, ValidationSettings,
};

use super::defaults;
use crate::recipe::keys::{Keys, NOT_NEGATIVE, POSITIVE};
use crate::recipe::node::{Data, Node};
use crate::recipe::problems::{Problems, listed, suggestion};
use crate::recipe::scalar::Meaning;

pub(in crate::recipe) const MEASURES: [(&str, Measure); 2] =
    [("loss", Measure::Loss), ("accuracy", Measure::Accuracy)];
pub(in crate::recipe) const NON_FINITE: [(&str, NonFinite); 2] =
    [("stop", NonFinite::Stop), ("skip", NonFinite::Skip)];
pub(super) const FORMS: [(&str, Form); 3] =
    [("model", Form::Model), ("adapter", Form::Adapter), ("both", Form::Both)];
/// Aggregates that are no task.
pub(super) const AGGREGATES: [&str; 2] = ["mean", "worst"];

/// How often all validation rows are passed. `false` means never; balancers that look at some of them still do.
pub(super) fn validation(top: &mut Keys<'_, '_>) -> ValidationSettings {
    let plain = ValidationSettings { every: Every::Epochs(defaults::VALIDATE_EPOCHS), batch: None };
    if let Some(node) = top.node("validation")
        && matches!(node.data, Data::Scalar { meaning: Meaning::Bool(false), .. })
    {
        return ValidationSettings { every: Every::Never, batch: None };
    }
    let what = "when to validate, as in `{every: {epochs: 0.5}}`, or `false`";
    let Some(mut keys) = top.mapping("validation", what) else { return plain };
    let every = every(&mut keys).unwrap_or(plain.every);
    let batch = keys.count("batch", 1).map(|batch| batch as usize);
    keys.finish();
    ValidationSettings { every, batch }
}

pub(in crate::recipe) fn checkpoints(top: &mut Keys<'_, '_>) -> CheckpointSettings {
    let plain =
        CheckpointSettings { every: Every::Steps(defaults::CHECKPOINT_STEPS), keep: defaults::KEEP as usize };
    let what = "when to save, as in `{every: {steps: 500}, keep: 2}`";
    let Some(mut keys) = top.mapping("checkpoints", what) else { return plain };
    let every = every(&mut keys).unwrap_or(plain.every);
    let keep = keys.count("keep", 1).map_or(plain.keep, |keep| keep as usize);
    keys.finish();
    CheckpointSettings { every, keep }
}

/// `{steps: N}`, `{epochs: X}` or `never`.
fn every(keys: &mut Keys<'_, '_>) -> Option<Every> {
    let (node, path) = (keys.node("every")?, keys.path("every"));
    let what = "`{steps: N}`, `{epochs: X}` or `never`";
    match &node.data {
        Data::Scalar { text, .. } if text == "never" => return Some(Every::Never),
        Data::Map(_) => {}
        _ => {
            let help = matches!(node.data, Data::Scalar { meaning: Meaning::Int(_), .. });
            let help = help.then(|| "say of what: `{steps: N}` or `{epochs: N}`".to_owned());
            let message = format!("expected {what}, found {}", node.describe());
            keys.problems.error(node.place, &path, message, help);
            return None;
        }
    }
    let mut inner = Keys::of(node, &path, what, keys.problems)?;
    let steps = inner.count("steps", 1);
    let epochs = inner.number("epochs", &POSITIVE);
    if inner.has("steps") == inner.has("epochs") {
        let message = format!("expected one of {}", listed(["steps", "epochs"]));
        inner.problems.error(inner.place, &path, message, None);
    }
    inner.finish();
    steps.map(Every::Steps).or_else(|| epochs.map(Every::Epochs))
}

/// What counts as progress. Whether the best model is kept may be open: then it is if there is anything to judge it by.
pub(super) fn best(
    top: &mut Keys<'_, '_>,
    tasks: &[String],
    validated: bool,
) -> (ProgressSettings, Option<bool>) {
    let plain = ProgressSettings::default();
    if !validated {
        top.unused(&["best"], "progress is judged by validations, and `validation` is off");
        return (plain, Some(false));
    }
    let Some(mut keys) = top.mapping("best", "what counts as progress, as in `{by: mean, patience: 3}`")
    else {
        return (plain, None);
    };
    let path = keys.path("by");
    let aggregate = keys.node("by").and_then(|node| by(node, &path, tasks, keys.problems));
    let measure = keys.choice("of", &MEASURES).unwrap_or(Measure::Loss);
    let keep = keys.flag("keep");
    let patience = keys.count("patience", 1);
    let task_patience = keys.count("task_patience", 1);
    let least = match measure {
        Measure::Loss => NOT_NEGATIVE,
        Measure::Accuracy => Kind::Number { min: 0.0, max: 1.0, min_open: false },
    };
    let least = keys.number("min_delta", &least).unwrap_or_default();
    keys.finish();
    let aggregate = aggregate.unwrap_or(Aggregate::Mean);
    (ProgressSettings { aggregate, measure, patience, task_patience, least, ..plain }, keep)
}

pub(in crate::recipe) fn by(
    node: &Node,
    path: &str,
    tasks: &[String],
    problems: &mut Problems,
) -> Option<Aggregate> {
    let what = "`mean`, `worst` or the name of a task";
    let name = crate::recipe::fields::text(node, path, what, problems)?;
    match name {
        "mean" => Some(Aggregate::Mean),
        "worst" => Some(Aggregate::Worst),
        _ if tasks.iter().any(|task| task == name) => Some(Aggregate::Task(name.to_owned())),
        _ => {
            let known = || AGGREGATES.into_iter().chain(tasks.iter().map(String::as_str));
            let message = format!("expected {what}, found {}", node.describe());
            let help = suggestion(name, known()).unwrap_or_else(|| format!("there are {}", listed(known())));
            problems.error(node.place, path, message, Some(help));
            None
        }
    }
}
