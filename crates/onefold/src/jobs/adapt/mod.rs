//! `onefold adapt`: recipe → models, inputs → coefficients (`learn`) or statistics (`measure`) → the merge that they make,
//! corrections of its features (`surgery`) if they are asked for, and report.

mod dry_run;
mod learn;
mod measure;
mod products;
mod record;
mod surgery;
mod told;

use std::path::{Path, PathBuf};
use std::time::Instant;

use onefold_checkpoint::output::RunDir;
use onefold_train::adapt::{self, AdaptError, Blend, Expert, Granularity, Method, Teller};
use onefold_train::data::shape::Kind;
use onefold_train::data::{DataError, Task, TaskSettings};

use self::told::Told;
use super::data::{Reading, encoder, examine, named, paths, refused as data_refused};
use super::{dir_of, hub_config, identity, on_pool, place, tell_hub, threads};
use crate::cli::{AdaptArgs, Common};
use crate::models::{Library, Model, Wanted};
use crate::progress::{Failure, Shell};
use crate::recipe::Problems;
use crate::recipe::adapt::{AdaptRecipe, Road};

/// Runs the job.
///
/// # Errors
/// [`Failure::Usage`] with what is wrong with recipe, models, data or place, or [`Failure::Job`].
pub fn run(args: &AdaptArgs, common: &Common, shell: &Shell) -> Result<(), Failure> {
    let begin = Instant::now();
    let (recipe, library) = read(args, common, shell)?;
    let session = Session { args, common, shell, recipe: &recipe, library: &library, begin };
    on_pool(threads(common), || session.adapt())
}

/// Reads the recipe and opens its models, so that what is wrong with both comes in one answer.
fn read(args: &AdaptArgs, common: &Common, shell: &Shell) -> Result<(AdaptRecipe, Library), Failure> {
    let file = args.recipe.display().to_string();
    let text = std::fs::read_to_string(&args.recipe)
        .map_err(|e| Failure::usage(format!("{file}: cannot read the recipe: {e}")))?;
    let mut problems = Problems::new(&file, &args.sets, args.lenient);
    let said = (common.seed, args.transductive);
    let dir = dir_of(&args.recipe);
    let recipe = AdaptRecipe::parse(&text, &args.sets, said, &mut problems);
    let Some(recipe) = recipe.and_then(|recipe| recipe.with_classes(dir, &mut problems)) else {
        return Err(Failure::usage(problems.to_string()));
    };
    let base = &recipe.base_model;
    let mut wanted = vec![Wanted { model: base, base: None }];
    wanted.extend(recipe.models.iter().map(|(model, _)| Wanted { model, base: Some(base) }));
    let hub = hub_config(common)?;
    let library = Library::open(&wanted, &std::collections::BTreeMap::new(), dir, &hub, &mut tell_hub(shell));
    let library = library.map_err(Failure::Usage)?;
    problems.warning_texts().iter().for_each(|warning| shell.warn(warning));
    Ok((recipe, library))
}

/// What the user asked for, and where to tell how it goes.
struct Session<'a> {
    args: &'a AdaptArgs,
    common: &'a Common,
    shell: &'a Shell,
    recipe: &'a AdaptRecipe,
    library: &'a Library,
    begin: Instant,
}

/// The rows of all tasks.
#[derive(Default)]
struct Data {
    inputs: Vec<Task>,
    /// Of those that are scored.
    tests: Vec<Task>,
    /// What tells each task.
    tellers: Vec<Teller>,
    /// The expert that each task is measured against; none of what is written.
    experts: Vec<Option<usize>>,
}

impl Data {
    fn all(&self) -> Vec<&Task> {
        self.inputs.iter().chain(&self.tests).collect()
    }
}

/// A job whose data are read and whose place is free.
struct Ready {
    data: Data,
    /// The files of data, with their content's hashes.
    files: Vec<serde_json::Value>,
    /// What makes the job another.
    job: String,
    /// All that is read.
    read: Vec<PathBuf>,
}

impl Session<'_> {
    /// The job from data to output.
    fn adapt(&self) -> Result<(), Failure> {
        let (args, recipe, shell) = (self.args, self.recipe, self.shell);
        let out = args.output.as_path();
        let data = self.load()?;
        let files = identity::data_files(&data.all())?;
        let models = self.models();
        let kind = format!("adapt {}", args.max_shard_size);
        let job = identity::identity((&kind, &recipe.to_yaml()), &models, &data.all(), &files);
        let is_done = identity::is_done(out, &job) && !args.force;
        if is_done && !args.dry_run {
            RunDir::settle(out, &job).map_err(Failure::job)?;
            shell.event("done", &out.display().to_string());
            shell.say(&format!("{} is there already, made from the same recipe and inputs", out.display()));
            return Ok(());
        }
        let dirs = models.iter().flat_map(|model| model.dirs.iter().cloned());
        let read: Vec<PathBuf> = dirs.chain(paths(&data.inputs)).chain(paths(&data.tests)).collect();
        let named = recipe.tasks.iter().flat_map(|task| task.inputs.iter().chain(&task.test));
        let folders: Vec<PathBuf> = named.map(|path| dir_of(&args.recipe).join(path)).collect();
        place::check_outside(out, &folders)?;
        if !is_done {
            place::check(out, &read, args.force).map_err(|e| Failure::usage(e.to_string()))?;
        }
        let ready = Ready { data, files, job, read };
        match &recipe.road {
            Road::Learn(learning) => learn::run(self, learning, &ready),
            Road::Measure(measured) => measure::run(self, measured, &ready),
        }
    }

    fn base(&self) -> &Model {
        self.library.get(&self.recipe.base_model)
    }

    fn experts(&self) -> Vec<&Model> {
        self.recipe.models.iter().map(|(model, _)| self.library.get(model)).collect()
    }

    /// The base and the experts.
    fn models(&self) -> Vec<&Model> {
        std::iter::once(self.base()).chain(self.experts()).collect()
    }

    /// Where tokenizer and image processor lie.
    fn source(&self) -> &Path {
        self.base().checkpoint.dir()
    }

    fn blend(&self, data: &Data, method: Method, granularity: Granularity) -> Result<Blend, Failure> {
        let models = self.experts();
        let experts: Vec<Expert<'_>> = models.iter().map(|model| expert(model)).collect();
        let base = &self.base().checkpoint;
        Blend::open(base, &experts, &data.tellers, method, granularity, self.shell).map_err(refused)
    }

    /// Reads the rows of all tasks, as their experts can tell them.
    fn load(&self) -> Result<Data, Failure> {
        let recipe = self.recipe;
        let reading = Reading { length: recipe.length, too_long: recipe.too_long, ..Reading::default() };
        let encoder = encoder(&reading, self.source())?;
        let (dir, seed) = (dir_of(&self.args.recipe), recipe.seed());
        let supervised = recipe.is_supervised();
        let mut data = Data::default();
        let mut problems = Vec::new();
        let load =
            |settings: TaskSettings| Task::load(&settings, encoder.as_ref(), self.shell).map_err(Box::new);
        for task in &recipe.tasks {
            let Told { kind, classes: labels, teller } = self.told(task)?;
            let inputs = task.inputs(dir, (kind, &labels), supervised, seed).and_then(load);
            let test =
                task.test(dir, (kind, &labels), seed).and_then(|settings| settings.map(load).transpose());
            for (loaded, list) in [(inputs.map(Some), &mut data.inputs), (test, &mut data.tests)] {
                match loaded.map_err(|error| *error) {
                    Ok(Some(found)) if found.kind != kind => {
                        let lacks_labels = supervised && found.kind == Kind::Generate;
                        let (found, kind) = (found.kind.name(), kind.name());
                        let labels = if lacks_labels {
                            "; labels are needed here, and its rows seem to have none: say with `columns` which key they have"
                        } else {
                            ""
                        };
                        let problem = format!(
                            "task `{}`: its rows are to {found}, its expert is to {kind}{labels}",
                            task.name
                        );
                        problems.push(problem);
                    }
                    Ok(found) => list.extend(found),
                    Err(error @ DataError::Cancelled) => return Err(data_refused(error)),
                    Err(error) => problems.push(named(&task.name, &error)),
                }
            }
            data.experts.push(recipe.expert_of(&task.name).filter(|_| kind != Kind::Generate));
            data.tellers.push(teller);
        }
        if !problems.is_empty() {
            return Err(Failure::Usage(problems));
        }
        // Inputs of one class are inputs; what is scored stands elsewhere.
        let ignored = ["no_validation", "one_class", "no_rows_of_class"];
        examine(&data.inputs, encoder.as_ref(), None, &ignored, self.shell)?;
        self.check_overlap(&data)?;
        match &recipe.road {
            Road::Learn(learning) => adapt::check(&learning.settings, &data.inputs).map_err(refused)?,
            Road::Measure(_) => measure::check(&data.inputs)?,
        }
        Ok(data)
    }

    /// Scores of rows that were learnt from are no scores, unless the user wants them.
    fn check_overlap(&self, data: &Data) -> Result<(), Failure> {
        if self.recipe.transductive {
            self.shell.warn(
                "--transductive: inputs are those of the tests, so scores are of rows that were learnt from",
            );
            return Ok(());
        }
        let files = |task: &Task| -> Vec<PathBuf> {
            let canonical = |path: &PathBuf| path.canonicalize().unwrap_or_else(|_| path.clone());
            task.layouts.iter().map(|(path, _)| canonical(path)).collect()
        };
        for test in &data.tests {
            let Some(inputs) = data.inputs.iter().find(|inputs| inputs.name == test.name) else { continue };
            let inputs = files(inputs);
            if let Some(path) = files(test).iter().find(|path| inputs.contains(path)) {
                return Err(Failure::usage(format!(
                    "task `{}`: {} is among both `inputs` and `test`; take other rows to score with, or say --transductive",
                    test.name,
                    path.display()
                )));
            }
        }
        Ok(())
    }
}

fn expert(model: &Model) -> Expert<'_> {
    Expert { name: &model.label, checkpoint: &model.checkpoint }
}

/// What is wrong before anything is learnt.
fn refused(error: AdaptError) -> Failure {
    match error {
        AdaptError::Cancelled { .. } | AdaptError::Stopped => Failure::job(error),
        AdaptError::Data(error) => data_refused(*error),
        error => Failure::usage(error.to_string()),
    }
}
