//! `tasks`: their names, their files, and what is said of each.

use std::path::{Path, PathBuf};

use onefold_runtime::params::Kind;
use onefold_train::data::foreign::{llama_factory, mftcoder};
use onefold_train::data::shape::{Columns, Turns};
use onefold_train::data::split::Held;
use onefold_train::data::{DataError, TaskSettings, Validation};

use super::watching::AGGREGATES;
use crate::recipe::fields;
use crate::recipe::keys::{Keys, POSITIVE, number, texts};
use crate::recipe::node::{self, Node, shortened};
use crate::recipe::problems::Problems;
use crate::recipe::scalar::Meaning;

/// What `turns` may be.
pub(in crate::recipe) const TURNS: [(&str, Turns); 2] = [("allow", Turns::Warn), ("refuse", Turns::Refuse)];
/// Names in the output that a task's directory must not have.
const TAKEN: [&str; 3] = ["language", "adapter", "runs"];

/// What a recipe says of a task.
#[derive(Debug, Clone, PartialEq)]
pub struct TaskRecipe {
    /// Its name, unique in the recipe, that can name a directory.
    pub name: String,
    /// What it is learnt from.
    pub train: Data,
    /// What progress is measured on; paths as they are written.
    pub validation: Validation,
    /// Its part of the mixture, beside its size.
    pub share: f64,
    /// Its static weight.
    pub weight: f64,
    /// Classes in their order.
    pub labels: Option<Vec<String>>,
    /// Most training rows.
    pub samples: Option<usize>,
    /// Meanings, and the keys of rows that have them.
    pub columns: Vec<(String, String)>,
    /// Rows that may be bad.
    pub max_bad_rows: usize,
    /// What of conversations whose roles do not alternate.
    pub turns: Turns,
}

/// Where rows come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Data {
    /// Files and directories, as they are written.
    Paths(Vec<PathBuf>),
    /// An entry of LLaMA-Factory's `dataset_info.json`.
    Dataset {
        /// Its name.
        name: String,
        /// The file, or its directory.
        info: PathBuf,
    },
    /// A directory as MFTCoder reads it.
    MftCoder(String),
}

/// Reads `tasks`; those that cannot be read are reported and left out.
pub(super) fn read(top: &mut Keys<'_, '_>) -> Vec<TaskRecipe> {
    read_each(top, task, |task| &task.name)
}

/// Reads `tasks`, each by `task`, which have different names.
pub(in crate::recipe) fn read_each<T>(
    top: &mut Keys<'_, '_>,
    task: impl Fn(Keys<'_, '_>) -> Option<T>,
    name: impl Fn(&T) -> &String,
) -> Vec<T> {
    let Some(node) = top.node("tasks") else {
        let help = "list them, as in `tasks: [{name: code, train: code.jsonl}]`";
        let place = top.place;
        top.problems.error(place, "", "no `tasks`", Some(help.to_owned()));
        return Vec::new();
    };
    let Some(items) = fields::list(node, "tasks", "a list of tasks", top.problems) else { return Vec::new() };
    let mut tasks: Vec<T> = Vec::new();
    for (i, item) in items.iter().enumerate() {
        let path = format!("tasks[{i}]");
        let Some(keys) = Keys::of(item, &path, "a task", top.problems) else { continue };
        let Some(task) = task(keys) else { continue };
        if tasks.iter().any(|before| name(before) == name(&task)) {
            let message = format!("two tasks are called `{}`", name(&task));
            top.problems.error(item.place, &format!("{path}.name"), message, None);
        }
        tasks.push(task);
    }
    tasks
}

fn task(mut keys: Keys<'_, '_>) -> Option<TaskRecipe> {
    let task = rows(&mut keys, true);
    let share = keys.number("share", &POSITIVE).unwrap_or(1.0);
    let weight = keys.number("weight", &POSITIVE).unwrap_or(1.0);
    keys.finish();
    Some(TaskRecipe { share, weight, ..task? })
}

/// What a task says of its rows. `train` may be missing if it is not `required`, where there are files for validation.
pub(in crate::recipe) fn rows(keys: &mut Keys<'_, '_>, required: bool) -> Option<TaskRecipe> {
    let name = name(keys);
    let path = keys.path("validation");
    let validation = keys.node("validation").and_then(|node| validation(node, &path, keys.problems));
    let validation = validation.unwrap_or_default();
    let train = match &validation {
        Validation::Files(files) if !required && !keys.has("train") => Some(Data::Paths(files.clone())),
        _ => train(keys),
    };
    let labels = labels(keys);
    let samples = keys.count("samples", 1).map(|samples| samples as usize);
    let columns = match &train {
        Some(Data::Dataset { .. }) => {
            keys.unused(&["columns"], "the entry of `dataset_info.json` says it");
            Vec::new()
        }
        _ => columns(keys),
    };
    let max_bad_rows = keys.count("max_bad_rows", 0).unwrap_or_default() as usize;
    let turns = keys.choice("turns", &TURNS).unwrap_or_default();
    let (share, weight) = (1.0, 1.0);
    let (name, train) = (name?, train?);
    Some(TaskRecipe { name, train, validation, share, weight, labels, samples, columns, max_bad_rows, turns })
}

/// The name of a task.
pub(in crate::recipe) fn name(keys: &mut Keys<'_, '_>) -> Option<String> {
    if !keys.has("name") {
        let place = keys.place;
        keys.problems.error(place, &keys.path, "no `name`", None);
    }
    let name = keys.text("name", "a name")?.to_owned();
    let letters = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    if !name.chars().all(letters) || name.starts_with('.') || name.len() > 100 {
        let message = format!("{} cannot name a task", shortened(&name));
        let help =
            "a name has up to 100 letters of A-Z, a-z, 0-9, `_`, `-` and `.`, and does not begin with a dot";
        keys.error("name", message, Some(help));
    } else if TAKEN.contains(&name.as_str()) || AGGREGATES.contains(&name.as_str()) || is_ours(&name) {
        let message = format!("`{name}` means something else in recipes or in the output");
        keys.error("name", message, Some("give the task another name"));
    }
    Some(name)
}

/// Whether an output has a file or directory of that name.
fn is_ours(name: &str) -> bool {
    let file = [".json", ".jsonl", ".md", ".html", ".yaml", ".safetensors"].iter().any(|e| name.ends_with(e));
    file || name.starts_with("checkpoint-") || name.ends_with(".partial")
}

fn train(keys: &mut Keys<'_, '_>) -> Option<Data> {
    let Some(node) = keys.node("train") else {
        let help = "name files or directories".to_owned();
        keys.problems.error(keys.place, &keys.path, "no `train`", Some(help));
        return None;
    };
    let path = keys.path("train");
    let what = "paths, `{dataset: …, dataset_info: …}` or `{mftcoder: …}`";
    if !matches!(node.data, node::Data::Map(_)) {
        return Some(Data::Paths(paths(texts(node, &path, what, keys.problems)?)));
    }
    let mut inner = Keys::of(node, &path, what, keys.problems)?;
    let named = inner.texts("path", "a path").or_else(|| inner.texts("paths", "paths"));
    let dataset = inner.text("dataset", "the name of a dataset").map(str::to_owned);
    let info = inner.text("dataset_info", "`dataset_info.json` or its directory").map(PathBuf::from);
    let directory = inner.text("mftcoder", "a directory").map(str::to_owned);
    let given = ["path", "paths", "dataset", "mftcoder"].iter().filter(|key| inner.has(key)).count();
    if given != 1 {
        let message = "expected one of `path`, `paths`, `dataset` and `mftcoder`";
        inner.problems.error(inner.place, &path, format!("{message}, found {given}"), None);
    }
    if dataset.is_none() {
        inner.unused(&["dataset_info"], "it stands beside `dataset`");
    }
    inner.finish();
    let dataset = dataset.map(|name| Data::Dataset { name, info: info.unwrap_or_else(|| ".".into()) });
    named.map(|texts| Data::Paths(paths(texts))).or(dataset).or(directory.map(Data::MftCoder))
}

fn paths(texts: Vec<String>) -> Vec<PathBuf> {
    texts.into_iter().map(PathBuf::from).collect()
}

/// Paths, a part of the training rows, or a number of them.
fn validation(node: &Node, path: &str, problems: &mut Problems) -> Option<Validation> {
    let what = "paths, a share such as 0.05, or `{rows: N}`";
    match &node.data {
        node::Data::Map(_) => {
            let mut inner = Keys::of(node, path, what, problems)?;
            let rows = inner.count("rows", 1);
            if !inner.has("rows") {
                inner.problems.error(inner.place, path, "no `rows`", None);
            }
            inner.finish();
            rows.map(|rows| Validation::Held(Held::Rows(rows as usize)))
        }
        node::Data::Scalar { meaning: Meaning::Int(_) | Meaning::Float(_), .. } => {
            let inside = Kind::Number { min: 0.0, max: 0.999_999, min_open: true };
            let share = number(node, path, &inside, problems)?;
            Some(Validation::Held(Held::Fraction(share)))
        }
        _ => Some(Validation::Files(paths(texts(node, path, what, problems)?))),
    }
}

/// Classes in their order.
pub(in crate::recipe) fn labels(keys: &mut Keys<'_, '_>) -> Option<Vec<String>> {
    let (node, path) = (keys.node("labels")?, keys.path("labels"));
    let items = fields::list(node, &path, "a list of classes", keys.problems)?;
    let mut labels: Vec<String> = Vec::new();
    for (i, item) in items.iter().enumerate() {
        let label = match &item.data {
            // Numbers are the classes of many datasets.
            node::Data::Scalar { text, meaning: Meaning::Int(_) } => text.as_str(),
            _ => fields::text(item, &format!("{path}[{i}]"), "a class", keys.problems)?,
        };
        if labels.iter().any(|before| before == label) {
            let message = format!("the class {} stands twice", shortened(label));
            keys.problems.error(item.place, &path, message, None);
        }
        labels.push(label.to_owned());
    }
    Some(labels)
}

/// Meanings, and the keys of rows that have them.
pub(in crate::recipe) fn columns(keys: &mut Keys<'_, '_>) -> Vec<(String, String)> {
    let Some(node) = keys.node("columns") else { return Vec::new() };
    let path = keys.path("columns");
    let node::Data::Map(entries) = &node.data else {
        fields::unexpected(node, &path, "a mapping from meanings to keys of rows", keys.problems);
        return Vec::new();
    };
    let mut pairs: Vec<(String, String)> = Vec::new();
    for (meaning, entry) in entries {
        let path = fields::join(&path, meaning);
        let named = texts(&entry.value, &path, "a key of rows", keys.problems).unwrap_or_default();
        let new = || named.iter().map(|key| (meaning.as_str(), key.as_str()));
        match Columns::parse(new()) {
            Ok(_) => pairs.extend(new().map(|(meaning, key)| (meaning.to_owned(), key.to_owned()))),
            Err(DataError::Setting { message, .. }) => {
                keys.problems.error(entry.place, &path, message, None);
            }
            Err(error) => keys.problems.error(entry.place, &path, error.to_string(), None),
        }
    }
    pairs
}

impl TaskRecipe {
    /// Files and directories that the recipe itself names, looked up in `dir`.
    pub fn folders(&self, dir: &Path) -> Vec<PathBuf> {
        let train = match &self.train {
            Data::Paths(paths) => below(dir, paths),
            Data::MftCoder(folder) => vec![dir.join(folder)],
            Data::Dataset { .. } => Vec::new(),
        };
        let validation = match &self.validation {
            Validation::Files(paths) => below(dir, paths),
            Validation::None | Validation::Held(_) => Vec::new(),
        };
        train.into_iter().chain(validation).collect()
    }

    /// The task's data as it is loaded; paths are looked up in `dir`.
    ///
    /// # Errors
    /// If the description of another tool cannot be followed.
    pub fn settings(&self, dir: &Path, seed: u64) -> Result<TaskSettings, Box<DataError>> {
        let found = match &self.train {
            Data::Paths(paths) => TaskSettings { train: below(dir, paths), ..TaskSettings::default() },
            Data::Dataset { name, info } => {
                let is_file = info.extension().is_some_and(|ending| ending == "json");
                let folder = if is_file { info.parent().unwrap_or(Path::new("")) } else { info };
                llama_factory(&dir.join(folder), name)?
            }
            Data::MftCoder(folder) => mftcoder(folder, dir)?.pop().unwrap_or_default(),
        };
        let validation = match &self.validation {
            Validation::Files(paths) => Validation::Files(below(dir, paths)),
            other => other.clone(),
        };
        let columns = self.columns.iter().map(|(meaning, key)| (meaning.as_str(), key.as_str()));
        Ok(TaskSettings {
            name: self.name.clone(),
            validation,
            columns: Columns::parse(columns)?,
            labels: self.labels.clone(),
            samples: self.samples.or(found.samples),
            max_bad_rows: self.max_bad_rows,
            turns: self.turns,
            seed,
            ..found
        })
    }
}

/// Paths that are looked up in `dir`.
pub(in crate::recipe) fn below(dir: &Path, paths: &[PathBuf]) -> Vec<PathBuf> {
    paths.iter().map(|path| dir.join(path)).collect()
}
