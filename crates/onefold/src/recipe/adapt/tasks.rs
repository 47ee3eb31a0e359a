//! `tasks`: their inputs, and rows to score with.

use std::path::{Path, PathBuf};

use onefold_train::data::shape::{Columns, Kind};
use onefold_train::data::{DataError, TaskSettings, Unlabelled};

use super::telling::{self, Telling};
use crate::recipe::fields;
use crate::recipe::keys::{Keys, POSITIVE};
use crate::recipe::tune::tasks::{below, columns, name};

/// What a recipe says of a task.
#[derive(Debug, Clone, PartialEq)]
pub struct TaskInputs {
    /// Its name, unique in the recipe, that can name a directory.
    pub name: String,
    /// Files and directories of inputs, as they are written; those of the tests if inputs are them.
    pub inputs: Vec<PathBuf>,
    /// Files and directories of rows to score with; empty: the task is not scored.
    pub test: Vec<PathBuf>,
    /// The weight of its loss.
    pub weight: f64,
    /// Most inputs, drawn at random.
    pub samples: Option<usize>,
    /// Meanings, and the keys of rows that have them.
    pub columns: Vec<(String, String)>,
    /// Rows that may be bad.
    pub max_bad_rows: usize,
    /// Whether inputs may have labels, which are not read.
    pub may_have_labels: bool,
    /// How its classes are told.
    pub telling: Telling,
}

/// Reads `tasks`; those that cannot be read are reported and left out. `samples` are taken of each that says nothing of it, where
/// experts are measured.
pub(super) fn read(top: &mut Keys<'_, '_>, transductive: bool, samples: Option<usize>) -> Vec<TaskInputs> {
    let Some(node) = top.node("tasks") else {
        let help = "list them, as in `tasks: [{name: code, inputs: code.jsonl}]`";
        let place = top.place;
        top.problems.error(place, "", "no `tasks`", Some(help.to_owned()));
        return Vec::new();
    };
    let Some(items) = fields::list(node, "tasks", "a list of tasks", top.problems) else { return Vec::new() };
    let mut tasks: Vec<TaskInputs> = Vec::new();
    for (i, item) in items.iter().enumerate() {
        let path = format!("tasks[{i}]");
        let Some(keys) = Keys::of(item, &path, "a task", top.problems) else { continue };
        let Some(mut task) = task(keys, transductive, samples.is_none()) else { continue };
        task.samples = task.samples.or(samples);
        if tasks.iter().any(|before| before.name == task.name) {
            let message = format!("two tasks are called `{}`", task.name);
            top.problems.error(item.place, &format!("{path}.name"), message, None);
        }
        tasks.push(task);
    }
    tasks
}

fn task(mut keys: Keys<'_, '_>, transductive: bool, learns: bool) -> Option<TaskInputs> {
    let name = name(&mut keys);
    let paths = |found: Option<Vec<String>>| -> Vec<PathBuf> {
        found.unwrap_or_default().into_iter().map(PathBuf::from).collect()
    };
    let test = paths(keys.texts("test", "files or directories with labelled rows"));
    let inputs = if transductive {
        keys.unused(&["inputs"], "with --transductive the inputs are those of `test`");
        if test.is_empty() {
            let help = "with --transductive it gives the inputs, too".to_owned();
            keys.problems.error(keys.place, &keys.path, "no `test`", Some(help));
        }
        test.clone()
    } else {
        if !keys.has("inputs") {
            let help = "name files or directories with rows to learn from; they need no labels".to_owned();
            keys.problems.error(keys.place, &keys.path, "no `inputs`", Some(help));
        }
        paths(keys.texts("inputs", "files or directories"))
    };
    let weight = keys.number("weight", &POSITIVE).unwrap_or(1.0);
    let samples = keys.count("samples", 1).map(|samples| samples as usize);
    let columns = columns(&mut keys);
    let max_bad_rows = keys.count("max_bad_rows", 0).unwrap_or_default() as usize;
    let labels = keys.choice("labels_in_inputs", &[("ignore", true), ("refuse", false)]);
    let telling = telling::read(&mut keys, learns);
    keys.unused(&["labels"], "classes and their order are those of the expert's head");
    keys.unused(
        &["train", "validation"],
        "inputs to learn from stand under `inputs`, rows to score with under `test`",
    );
    keys.finish();
    let may_have_labels = labels.unwrap_or(transductive);
    Some(TaskInputs {
        name: name?,
        inputs,
        test,
        weight,
        samples,
        columns,
        max_bad_rows,
        may_have_labels,
        telling,
    })
}

impl TaskInputs {
    /// The inputs as they are loaded; paths are looked up in `dir`. `kind` is what the expert does with them, and `supervised`
    /// says that labels are learnt.
    ///
    /// # Errors
    /// If `columns` cannot be followed.
    pub fn inputs(
        &self,
        dir: &Path,
        (kind, labels): (Kind, &[String]),
        supervised: bool,
        seed: u64,
    ) -> Result<TaskSettings, Box<DataError>> {
        let unlabelled = Unlabelled { kind, may_have_labels: self.may_have_labels };
        let is_told = kind != Kind::Generate && !supervised;
        let settings = self.settings(&self.inputs, dir, (kind, labels), seed)?;
        Ok(TaskSettings {
            samples: self.samples,
            unlabelled: is_told.then_some(unlabelled),
            labels: settings.labels.filter(|_| !is_told),
            ..settings
        })
    }

    /// The same of rows to score with; none if there are none.
    ///
    /// # Errors
    /// As [`TaskInputs::inputs`].
    pub fn test(
        &self,
        dir: &Path,
        told: (Kind, &[String]),
        seed: u64,
    ) -> Result<Option<TaskSettings>, Box<DataError>> {
        if self.test.is_empty() {
            return Ok(None);
        }
        self.settings(&self.test, dir, told, seed).map(Some)
    }

    fn settings(
        &self,
        paths: &[PathBuf],
        dir: &Path,
        (kind, labels): (Kind, &[String]),
        seed: u64,
    ) -> Result<TaskSettings, Box<DataError>> {
        let columns = self.columns.iter().map(|(meaning, key)| (meaning.as_str(), key.as_str()));
        Ok(TaskSettings {
            name: self.name.clone(),
            train: below(dir, paths),
            columns: Columns::parse(columns)?,
            labels: (kind != Kind::Generate).then(|| labels.to_vec()),
            max_bad_rows: self.max_bad_rows,
            seed,
            ..TaskSettings::default()
        })
    }
}
