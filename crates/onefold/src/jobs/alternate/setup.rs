//! What all steps begin with: recipe, first model, heads that are given, rows.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use onefold_train::alternate::{HeadFrom, PartSettings, prepare};
use onefold_train::config::{Head, ModelConfig};
use onefold_train::data::doctor::Report;
use onefold_train::data::shape::Kind;
use onefold_train::data::{DataError, Task, Validation};
use onefold_train::tune::TuneError;

use super::hash;
use crate::cli::{Common, DEFAULT_SHARD, MergeArgs, ReadingArgs};
use crate::jobs::data::{Reading, encoder, examine, named, refused as data_refused};
use crate::jobs::place::with_suffix;
use crate::jobs::tune::data::{check_settings, read_template};
use crate::jobs::{dir_of, hub_config, merge, tell_hub};
use crate::models::{Library, Model, Wanted};
use crate::progress::{Failure, Shell};
use crate::recipe::alternate::{self, Adapters, AlternateRecipe, Rows, Start};
use crate::recipe::{ModelRef, Problems};

/// What every step knows.
pub(super) struct World<'a> {
    pub(super) recipe: AlternateRecipe,
    /// The recipe's file.
    pub(super) file: &'a Path,
    pub(super) common: &'a Common,
    pub(super) shell: &'a Shell,
    library: Library,
    /// The hash of what owners agree on.
    pub(super) shared: String,
}

impl<'a> World<'a> {
    /// Reads the recipe, makes its first model if that is a merge, and opens the models. For the whole run `output` is where it
    /// goes, and whether nothing is to be done: then there is no world if the first model is still to be made.
    pub(super) fn open(
        file: &'a Path,
        reading: &'a ReadingArgs,
        common: &'a Common,
        shell: &'a Shell,
        output: Option<(&Path, bool)>,
    ) -> Result<Option<Self>, Failure> {
        let name = file.display().to_string();
        let text = std::fs::read_to_string(file)
            .map_err(|e| Failure::usage(format!("{name}: cannot read the recipe: {e}")))?;
        let mut problems = Problems::new(&name, &reading.sets, reading.lenient);
        let recipe = AlternateRecipe::parse(&text, &reading.sets, common.seed, &mut problems);
        let Some(mut recipe) = recipe else { return Err(Failure::usage(problems.to_string())) };
        problems.warning_texts().iter().for_each(|warning| shell.warn(warning));
        let shared = hash::of_recipe(&recipe);
        if let Some(made) = start(&recipe.start, (file, reading, common, shell), output)? {
            if !made.is_dir() {
                shell.say("what follows is planned when this first model is made");
                return Ok(None);
            }
            let path = std::path::absolute(&made).unwrap_or(made);
            recipe.tuning.base_model =
                ModelRef { path: path.display().to_string(), ..recipe.tuning.base_model.clone() };
        }
        read_template(&mut recipe.tuning, dir_of(file))?;
        let heads = recipe.tasks.iter().filter_map(|task| task.head.as_ref());
        let wanted: Vec<Wanted<'_>> = std::iter::once(&recipe.tuning.base_model)
            .chain(heads)
            .map(|model| Wanted { model, base: None })
            .collect();
        let hub = hub_config(common)?;
        let library = Library::open(&wanted, &BTreeMap::new(), dir_of(file), &hub, &mut tell_hub(shell));
        let library = library.map_err(Failure::Usage)?;
        let world = Self { recipe, file, common, shell, library, shared };
        let model = world.base();
        if model.extracted {
            let why = "is an EMR artefact; take the model of one task out of it with `onefold merge` first";
            return Err(Failure::usage(format!("base_model: {} {why}", model.label)));
        }
        Ok(Some(world))
    }

    /// The model that the first round begins at.
    pub(super) fn base(&self) -> &Model {
        self.library.get(&self.recipe.tuning.base_model)
    }

    /// Where it lies.
    pub(super) fn base_dir(&self) -> &Path {
        self.base().checkpoint.dir()
    }

    /// All models that the recipe names.
    pub(super) fn models(&self) -> Vec<&Model> {
        self.library.all().collect()
    }

    /// Number of the task of that name.
    pub(super) fn task(&self, name: &str) -> Result<usize, Failure> {
        let names = self.recipe.names();
        names.iter().position(|known| known == name).ok_or_else(|| {
            let known = crate::recipe::listed(names.iter().map(String::as_str));
            Failure::usage(format!("--task {name}: there is no such task; the tasks are {known}"))
        })
    }

    /// Where the head of a task comes from before the first round, and whether it is to be fitted.
    pub(super) fn head(&self, number: usize, task: &Task) -> Result<(HeadFrom<'_>, bool), Failure> {
        if let Some(head) = &self.recipe.tasks[number].head {
            return Ok((HeadFrom::Model(self.library.get(head).checkpoint.dir()), false));
        }
        let config = ModelConfig::open(self.base_dir()).map_err(|e| Failure::usage(e.to_string()))?;
        let common = config.common();
        let names = task.labels.as_ref().map(|labels| &labels.names);
        if matches!(common.head, Head::Classes(_)) && names == Some(&common.labels) {
            return Ok((HeadFrom::Model(self.base_dir()), false));
        }
        Ok((HeadFrom::New, self.recipe.heads.fit.is_some()))
    }

    /// Reads the rows of some tasks, by their numbers, and refuses what cannot be learnt from.
    pub(super) fn load(&self, numbers: &[usize]) -> Result<(Vec<Task>, Report), Failure> {
        let tuning = &self.recipe.tuning;
        let reading = Reading {
            chat_template: tuning.chat_template.as_deref(),
            variables: Some(&tuning.template_variables),
            length: tuning.length,
            too_long: tuning.too_long,
        };
        let encoder = encoder(&reading, self.base_dir())?;
        let (mut tasks, mut problems) = (Vec::new(), Vec::new());
        for number in numbers {
            let task = self
                .settings(*number)
                .and_then(|settings| Task::load(&settings, encoder.as_ref(), self.shell).map_err(Box::new));
            match task.map_err(|error| *error) {
                Ok(task) => tasks.push(self.with_rows(*number, task)),
                Err(error @ DataError::Cancelled) => return Err(data_refused(error)),
                Err(error) => problems.push(named(&tuning.tasks[*number].name, &error)),
            }
        }
        if !problems.is_empty() {
            return Err(Failure::Usage(problems));
        }
        let said = crate::recipe::tune::TuneRecipe {
            tasks: numbers.iter().map(|number| tuning.tasks[*number].clone()).collect(),
            ..tuning.clone()
        };
        check_settings(&said, &tasks, self.shell)?;
        self.check_adapters(&tasks)?;
        for (number, task) in numbers.iter().zip(&tasks) {
            if task.kind == Kind::Generate && self.recipe.tasks[*number].head.is_some() {
                let why = "`head` has no effect: its rows are to be written, by the model's own words";
                return Err(Failure::usage(format!("task `{}`: {why}", task.name)));
            }
        }
        let limits = match tasks.first() {
            Some(task) => {
                let part = PartSettings { trunk: true, head: true, from: HeadFrom::New };
                let prepared =
                    prepare(self.base_dir(), task, &tuning.trainable, &part, 0).map_err(refused)?;
                prepared.parameters.notes.iter().for_each(|note| self.shell.warn(note));
                prepared.limits().map_err(refused)?
            }
            None => None,
        };
        let report = examine(&tasks, encoder.as_ref(), limits.as_ref(), &["no_validation"], self.shell)?;
        Ok((tasks, report))
    }

    /// What is loaded of a task. Its classes are those of the head that is given, in that order.
    fn settings(&self, number: usize) -> Result<onefold_train::data::TaskSettings, Box<DataError>> {
        let recipe = &self.recipe;
        let (task, more) = (&recipe.tuning.tasks[number], &recipe.tasks[number]);
        let split = recipe.stop.as_ref().map(|stop| stop.split);
        let seed = recipe.tuning.settings.seed;
        let mut settings = alternate::settings((task, more), recipe.rows, split, dir_of(self.file), seed)?;
        if let (None, Some(head)) = (&settings.labels, &more.head) {
            let config = ModelConfig::open(self.library.get(head).checkpoint.dir()).ok();
            settings.labels = config.map(|config| config.common().labels.clone()).filter(|l| !l.is_empty());
        }
        Ok(settings)
    }

    /// A task with the rows that are learnt from, and those that are scored.
    fn with_rows(&self, number: usize, mut task: Task) -> Task {
        let validation = &self.recipe.tuning.tasks[number].validation;
        if self.recipe.rows == Rows::Validation && matches!(validation, Validation::Held(_)) {
            task.train = std::mem::take(&mut task.validation);
        }
        task
    }

    /// Adapters side by side are one for a model with one head.
    fn check_adapters(&self, tasks: &[Task]) -> Result<(), Failure> {
        let with_head = tasks.iter().find(|task| task.kind != Kind::Generate);
        match with_head.filter(|_| self.recipe.merge.adapters == Adapters::Concatenate) {
            None => Ok(()),
            Some(task) => Err(Failure::usage(format!(
                "task `{}`: its classes have a head of their own, and `merge.adapters: concatenate` makes one adapter for all; take `fold`",
                task.name
            ))),
        }
    }
}

/// Where the first model is, if it is a merge: made if it is not there.
fn start(
    start: &Start,
    (file, reading, common, shell): (&Path, &ReadingArgs, &Common, &Shell),
    output: Option<(&Path, bool)>,
) -> Result<Option<PathBuf>, Failure> {
    let path = match start {
        Start::Model(_) => return Ok(None),
        Start::Merge(_) => file.to_owned(),
        Start::MergeFile(path) => dir_of(file).join(path),
    };
    let Some((out, dry_run)) = output else {
        return Err(Failure::usage(format!(
            "{}: `start` is a merge, which all who take part need: make it by `onefold merge`, and name it with --set start= --set \
             base_model=DIR",
            file.display()
        )));
    };
    let made = with_suffix(out, ".start");
    let with = |force: bool| MergeArgs {
        recipe: path.clone(),
        output: made.clone(),
        sets: Vec::new(),
        lenient: reading.lenient,
        dry_run,
        force,
        max_shard_size: DEFAULT_SHARD,
        allow_missing: false,
        crop_embeddings: false,
        intermediate: None,
    };
    let make = |force: bool| match start {
        Start::Merge(text) => merge::run_text(text, &with(force), common, shell),
        _ => merge::run(&with(force), common, shell),
    };
    // One that is there from the same recipe is never made anew: it would be another file, and the run another job.
    match make(false) {
        Err(Failure::Usage(_)) if reading.force => make(true)?,
        made => made?,
    }
    Ok(Some(made))
}

/// What is wrong before anything is trained.
pub(super) fn refused(error: TuneError) -> Failure {
    match error {
        TuneError::Cancelled { .. } => Failure::job(error),
        TuneError::Data(error) => data_refused(*error),
        error => Failure::usage(error.to_string()),
    }
}
