//! The parameters of one task's part of a round: the trunk that all tasks share, and a head that is the task's own.
//!
//! Heads are never merged. A task with classes has one of its own, in a directory with `head.safetensors` and the names of the
//! classes in `head.json`; a task that writes uses the model's words, which are part of the trunk.

use std::path::Path;

use onefold_checkpoint::Checkpoint;
use onefold_engine::Buffer;
use serde::{Deserialize, Serialize};

use crate::config::{Head, ModelConfig, Problem};
use crate::data::Task;
use crate::data::shape::Kind;
use crate::families::TensorSpec;
use crate::model::{HeadStart, Parameters, ParametersError, finite, is_head, save_buffers};
use crate::tune::model::{check_frozen, chosen, heads};
use crate::tune::{Prepared, Trainable, TuneError};

/// What the head of a task is.
#[derive(Debug, Clone, Copy)]
pub enum HeadFrom<'a> {
    /// A new one, of random numbers.
    New,
    /// That of a model of the task.
    Model(&'a Path),
    /// What [`save_head`] has left in a directory.
    Kept(&'a Path),
}

/// What of a task's part is trained.
#[derive(Debug, Clone, Copy)]
pub struct PartSettings<'a> {
    /// Whether the trunk is.
    pub trunk: bool,
    /// Whether the head is.
    pub head: bool,
    /// Where the head comes from.
    pub from: HeadFrom<'a>,
}

/// What stands beside the numbers of a head.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct HeadFile {
    classes: Vec<String>,
}

/// The model in `dir` as it is trained on one task. Heads of its own that score classes stay as they are.
///
/// # Errors
/// If the model cannot be read or cannot learn the task, a setting names nothing in it, or the head is not of this task.
pub fn prepare(
    dir: &Path,
    task: &Task,
    trainable: &Trainable,
    part: &PartSettings<'_>,
    seed: u64,
) -> Result<Prepared, TuneError> {
    let config = ModelConfig::open(dir).map_err(ParametersError::Config)?;
    let kept = trunk_of(&config);
    let frozen = |spec: &TensorSpec| {
        !part.trunk || !kept(spec) || trainable.freeze.iter().any(|part| spec.name.contains(part))
    };
    let mut parameters = Parameters::open(dir, |spec| trainable.adapter.is_none() && !frozen(spec))?;
    check_frozen(&parameters, &trainable.freeze)?;
    heads(&config, std::slice::from_ref(task))?;
    if let Some((settings, targets)) = trainable.adapter.as_ref().filter(|_| part.trunk) {
        let chosen = chosen(&parameters, targets)?;
        parameters.adapt(settings, |spec| chosen.contains(&spec.name) && !frozen(spec))?;
    }
    let heads = vec![(task.kind != Kind::Generate).then_some(0)];
    if task.kind != Kind::Generate {
        add_head(&mut parameters, 0, (&task.name, &classes(task)), part.from, seed)?;
        parameters.train_head(0, part.head);
    }
    if parameters.trainable().next().is_none() {
        return Err(TuneError::setting("freeze", "nothing is left to be trained"));
    }
    Ok(Prepared { parameters, heads })
}

/// The model in `dir` as it is scored and written: frozen, with the heads of all tasks that have one. `parts` are names of tasks
/// with their classes, and where the head of each is kept; none of tasks that write.
///
/// # Errors
/// If the model or a head cannot be read, or a head is of another task.
pub fn merged(
    config: &ModelConfig,
    checkpoint: &Checkpoint,
    parts: &[(&str, Vec<String>, Option<&Path>)],
) -> Result<Prepared, TuneError> {
    let mut parameters = Parameters::load(config, checkpoint, |_| false)?;
    let mut heads = Vec::new();
    for (number, (name, classes, from)) in (0..).zip(parts) {
        heads.push(from.is_some().then_some(number));
        if let Some(dir) = from {
            add_head(&mut parameters, number, (name, classes), HeadFrom::Kept(dir), 0)?;
            parameters.train_head(number, false);
        }
    }
    Ok(Prepared { parameters, heads })
}

/// Writes the head of a task to the directory `dir`, for a later part to go on with.
///
/// # Errors
/// If the place is taken, or the system refuses.
pub fn save_head(parameters: &Parameters, task: &Task, dir: &Path) -> Result<(), TuneError> {
    let values = parameters.head_values(0);
    let mut text = serde_json::to_vec_pretty(&HeadFile { classes: classes(task) }).unwrap_or_default();
    text.push(b'\n');
    save_buffers(dir, "head", &values, &[("head.json", text)])?;
    Ok(())
}

/// Names of the classes of a task; none if it writes.
fn classes(task: &Task) -> Vec<String> {
    task.labels.as_ref().map(|labels| labels.names.clone()).unwrap_or_default()
}

/// Which tensors are of the trunk: all but those of a head that scores classes. A head that scores words belongs to it.
fn trunk_of(config: &ModelConfig) -> impl Fn(&TensorSpec) -> bool + Sync + use<> {
    let of_classes = !matches!(config.common().head, Head::Language);
    move |spec: &TensorSpec| !(of_classes && is_head(spec))
}

fn add_head(
    parameters: &mut Parameters,
    number: u32,
    (task, classes): (&str, &[String]),
    from: HeadFrom<'_>,
    seed: u64,
) -> Result<(), TuneError> {
    let wrong = |message: String| TuneError::task(task, message);
    let head = Head::Classes(classes.len());
    let config = parameters.config().with_head(head, classes.to_vec(), Problem::SingleLabel);
    match from {
        HeadFrom::New => parameters.add_head(number, &config, HeadStart { seed, ..HeadStart::default() })?,
        HeadFrom::Model(dir) => {
            let theirs = ModelConfig::open(dir).map_err(ParametersError::Config)?;
            check_classes(&dir.display().to_string(), &theirs.common().labels, classes).map_err(wrong)?;
            let checkpoint = Checkpoint::open(dir).map_err(ParametersError::Checkpoint)?;
            parameters.take_head(number, &theirs, &checkpoint)?;
        }
        HeadFrom::Kept(dir) => {
            let place = dir.join("head.json");
            let text = std::fs::read_to_string(&place)
                .map_err(|error| wrong(format!("{}: no head: {error}", place.display())))?;
            let file: HeadFile = serde_json::from_str(&text)
                .map_err(|error| wrong(format!("{}: no head: {error}", place.display())))?;
            check_classes(&place.display().to_string(), &file.classes, classes).map_err(wrong)?;
            parameters.add_head(number, &config, HeadStart::default())?;
            let stored =
                Checkpoint::open(&dir.join("head.safetensors")).map_err(ParametersError::Checkpoint)?;
            let read = |name: &str, len: usize| -> Option<Buffer> {
                let tensor = stored.tensors().get(name).filter(|tensor| tensor.len() == len)?;
                finite(tensor).ok()
            };
            parameters.put_head_values(number, read).map_err(|name| {
                wrong(format!("{}: `{name}` is missing, misshapen or not finite", dir.display()))
            })?;
        }
    }
    Ok(())
}

/// A head of other classes would be learnt to mean something else.
fn check_classes(place: &str, found: &[String], expected: &[String]) -> Result<(), String> {
    if found == expected {
        return Ok(());
    }
    let list = |names: &[String]| match names.len() {
        0 => "no names".to_owned(),
        n if n > 8 => format!("{n} classes from {} to {}", names[0], names[n - 1]),
        _ => names.join(", "),
    };
    Err(format!(
        "the head in {place} is of other classes ({}) than the rows ({}); say their order with `labels`, or take the head of this task",
        list(found),
        list(expected)
    ))
}
