//! `tasks`: their rows, and the heads of those that have classes.

use std::path::{Path, PathBuf};

use onefold_train::data::{DataError, TaskSettings, Validation};

use super::stop::{Split, Stop};
use crate::recipe::keys::Keys;
use crate::recipe::model_ref::ModelRef;
use crate::recipe::tune::TaskRecipe;
use crate::recipe::tune::tasks::{below, read_each, rows};

/// Names that directories of a round have already.
const TAKEN: [&str; 3] = ["model", "rounds", "start"];

/// Which rows are learnt from.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Rows {
    /// Those of `train` (the paper's PA).
    #[default]
    Train,
    /// Those of `validation` (the paper's PH).
    Validation,
}

/// What a recipe says of a task, beside what a joint training would say.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct AlternateTask {
    /// A model whose head is the task's.
    pub head: Option<ModelRef>,
    /// Rows that are neither learnt from nor validated on.
    pub dev: Vec<PathBuf>,
}

/// Reads `tasks`, in the order of their names.
pub(super) fn read(top: &mut Keys<'_, '_>, of: Rows) -> Vec<(TaskRecipe, AlternateTask)> {
    let mut tasks = read_each(top, |keys| task(keys, of), |(task, _)| &task.name);
    tasks.sort_by(|(a, _), (b, _)| a.name.cmp(&b.name));
    tasks
}

fn task(mut keys: Keys<'_, '_>, of: Rows) -> Option<(TaskRecipe, AlternateTask)> {
    let why = "each task is tuned by itself, and counts in the merge as `merge.parameters` say";
    keys.unused(&["share", "weight"], why);
    let read = rows(&mut keys, of == Rows::Train);
    if let Some(task) = &read {
        if TAKEN.contains(&task.name.as_str()) || task.name.ends_with(".run") {
            let message = format!("`{}` means something else in the directories of rounds", task.name);
            keys.error("name", message, Some("give the task another name"));
        }
        if of == Rows::Validation && task.validation == Validation::None {
            let help = "say which rows: files, a part such as 0.1, or `{rows: N}`";
            keys.error("validation", "no `validation`, and `data: validation` learns from it", Some(help));
        }
    }
    let path = keys.path("head");
    let head = keys.node("head").and_then(|node| ModelRef::read(node, &path, keys.problems));
    if head.as_ref().is_some_and(|head| head.lora.is_some() || head.override_architecture.is_some()) {
        keys.error("head", "a plain model is expected here, without adapter or other architecture", None);
    }
    let dev = keys.texts("dev", "paths").unwrap_or_default().into_iter().map(PathBuf::from).collect();
    keys.finish();
    Some((read?, AlternateTask { head, dev }))
}

/// `dev` is for scores where validation rows will not do, and for nothing else.
pub(super) fn check_dev(
    top: &mut Keys<'_, '_>,
    of: Rows,
    stop: Option<&Stop>,
    tasks: &[(TaskRecipe, AlternateTask)],
) {
    let is_read = of == Rows::Validation || stop.is_some_and(|stop| stop.split == Split::Dev);
    let place = top.place_of("tasks");
    for (task, more) in tasks {
        if !is_read && !more.dev.is_empty() {
            let message = format!("`dev` of task `{}` has no effect", task.name);
            let help = "it is read with `early_stop: {split: dev}` and with `data: validation`".to_owned();
            top.problems.ineffective(place, "tasks", message, Some(help));
        }
        if is_read && !more.dev.is_empty() && matches!(task.validation, Validation::Held(_)) {
            let message = format!(
                "task `{}` has `dev` in files and `validation` out of the training rows; give files for both",
                task.name
            );
            top.problems.error(place, "tasks", message, None);
        }
    }
}

/// The rows of a task as they are loaded: what is learnt from, and what is scored.
///
/// # Errors
/// If the description of another tool cannot be followed.
pub fn settings(
    (task, more): (&TaskRecipe, &AlternateTask),
    of: Rows,
    split: Option<Split>,
    dir: &Path,
    seed: u64,
) -> Result<TaskSettings, Box<DataError>> {
    let mut settings = task.settings(dir, seed)?;
    let dev = || match below(dir, &more.dev) {
        files if files.is_empty() => Validation::None,
        files => Validation::Files(files),
    };
    match (of, &settings.validation) {
        (Rows::Validation, Validation::Files(files)) => {
            settings.train.clone_from(files);
            settings.validation = dev();
        }
        (Rows::Train, _) if split == Some(Split::Dev) => settings.validation = dev(),
        _ => {}
    }
    Ok(settings)
}
