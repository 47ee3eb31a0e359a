//! `onefold tune`: recipe → model, data → doctor → plan → train → result and report.

pub(super) mod data;
pub(super) mod dry_run;
pub(super) mod memory;
mod record;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Instant;

use onefold_checkpoint::output::RunDir;
use onefold_train::data::Task;
use onefold_train::data::doctor::Report;
use onefold_train::tune::{self as training, Plan, Prepared, TuneError};

use super::data::{Reading, encoder, examine, paths, refused as data_refused};
use super::{dir_of, hub_config, identity, on_pool, place, tell_hub, threads};
use crate::cli::{Common, TuneArgs};
use crate::models::{Library, Model, Wanted};
use crate::progress::{Failure, Shell};
use crate::recipe::Problems;
use crate::recipe::tune::TuneRecipe;
use dry_run::dry_run;
use memory::Predicted;
use record::Run;

/// Runs the job.
///
/// # Errors
/// [`Failure::Usage`] with what is wrong with recipe, model, data or place, or [`Failure::Job`].
pub fn run(args: &TuneArgs, common: &Common, shell: &Shell) -> Result<(), Failure> {
    let begin = Instant::now();
    let (recipe, library) = read(args, common, shell)?;
    let model = library.get(&recipe.base_model);
    if model.extracted {
        let why = "is an EMR artefact; take the model of one task out of it with `onefold merge` first";
        return Err(Failure::usage(format!("base_model: {} {why}", model.label)));
    }
    let session = Session { args, common, shell, model, dir: model.checkpoint.dir(), begin };
    on_pool(threads(common), || session.tune(recipe.clone()))
}

/// Reads the recipe and opens its model, so that what is wrong with both comes in one answer.
fn read(args: &TuneArgs, common: &Common, shell: &Shell) -> Result<(TuneRecipe, Library), Failure> {
    let file = args.recipe.display().to_string();
    let text = std::fs::read_to_string(&args.recipe)
        .map_err(|e| Failure::usage(format!("{file}: cannot read the recipe: {e}")))?;
    let mut problems = Problems::new(&file, &args.sets, args.lenient);
    let Some(recipe) = TuneRecipe::parse(&text, &args.sets, common.seed, &mut problems) else {
        return Err(Failure::usage(problems.to_string()));
    };
    let wanted = [Wanted { model: &recipe.base_model, base: None }];
    let (dir, hub) = (dir_of(&args.recipe), hub_config(common)?);
    let library = Library::open(&wanted, &BTreeMap::new(), dir, &hub, &mut tell_hub(shell));
    let library = library.map_err(Failure::Usage)?;
    problems.warning_texts().iter().for_each(|warning| shell.warn(warning));
    Ok((recipe, library))
}

/// What the user asked for, and where to tell how it goes.
struct Session<'a> {
    args: &'a TuneArgs,
    common: &'a Common,
    shell: &'a Shell,
    model: &'a Model,
    /// Where the model lies.
    dir: &'a Path,
    begin: Instant,
}

impl Session<'_> {
    /// The training from data to output.
    fn tune(&self, mut recipe: TuneRecipe) -> Result<(), Failure> {
        let (args, shell, out) = (self.args, self.shell, self.args.output.as_path());
        data::read_template(&mut recipe, dir_of(&args.recipe))?;
        let reading = Reading {
            chat_template: recipe.chat_template.as_deref(),
            variables: Some(&recipe.template_variables),
            length: recipe.length,
            too_long: recipe.too_long,
        };
        let encoder = encoder(&reading, self.dir)?;
        let tasks = data::load(&recipe, encoder.as_ref(), dir_of(&args.recipe), shell)?;
        recipe.resolve_best(tasks.iter().any(|task| !task.validation.is_empty()));
        let all: Vec<&Task> = tasks.iter().collect();
        let inputs = identity::data_files(&all)?;
        let job = identity::identity(("tune", &recipe.to_yaml()), &[self.model], &all, &inputs);
        let is_done = identity::is_done(out, &job) && !args.force;
        if is_done && !args.dry_run {
            return self.is_there(&job);
        }
        let read: Vec<PathBuf> = self.model.dirs.iter().cloned().chain(paths(&tasks)).collect();
        let folders = recipe.tasks.iter().flat_map(|task| task.folders(dir_of(&args.recipe)));
        place::check_outside(out, &folders.collect::<Vec<_>>())?;
        if !is_done {
            place::check(out, &read, args.force).map_err(|e| Failure::usage(e.to_string()))?;
        }
        let prepared =
            Prepared::open(self.dir, &tasks, &recipe.trainable, recipe.settings.seed).map_err(refused)?;
        prepared.parameters.notes.iter().for_each(|note| shell.warn(note));
        let report = self.examine(&recipe, &tasks, encoder.as_ref(), &prepared)?;
        let shares: Vec<f64> = recipe.tasks.iter().map(|task| task.share).collect();
        let weights: Vec<f64> = recipe.tasks.iter().map(|task| task.weight).collect();
        let (settings, mixture) = (recipe.settings.clone(), recipe.mixture.clone());
        let (plan, sampler, balancer) =
            Plan::new(settings, &tasks, &prepared, (&shares, &weights), mixture).map_err(refused)?;
        let predicted = Predicted::of(self, &plan, &tasks, &prepared, &balancer)?;
        predicted.check(self.common.max_memory)?;
        if args.dry_run {
            dry_run(self, &recipe, &plan, &prepared, &predicted, &report);
            return Ok(());
        }
        let run = place::open_run(out, &job, &read, args.force)?;
        let name = self.model.label.as_str();
        let tuned = training::run(training::Job {
            plan: &plan,
            tasks: &tasks,
            parameters: prepared.parameters,
            sampler,
            balancer,
            base: self.dir,
            name,
            run: &run,
            carried: None,
            observer: shell,
        });
        let tuned = tuned.map_err(|error| interrupted(&run, error))?;
        let record =
            Run { session: self, recipe: &recipe, plan: &plan, report: &report, predicted: &predicted };
        record.finish(run, &tuned, &job, &inputs)
    }

    /// Looks at the data, tells what is seen, and refuses what cannot be learnt from.
    fn examine(
        &self,
        recipe: &TuneRecipe,
        tasks: &[Task],
        encoder: Option<&onefold_train::data::tokenize::Encoder>,
        prepared: &Prepared,
    ) -> Result<Report, Failure> {
        let limits = prepared.limits().map_err(refused)?;
        data::check_settings(recipe, tasks, self.shell)?;
        examine(tasks, encoder, limits.as_ref(), &[], self.shell)
    }

    /// The output of this very job is there.
    fn is_there(&self, job: &str) -> Result<(), Failure> {
        RunDir::settle(&self.args.output, job).map_err(Failure::job)?;
        let out = self.args.output.display();
        self.shell.event("done", &out.to_string());
        self.shell.say(&format!("{out} is there already, made from the same recipe and inputs"));
        Ok(())
    }
}

/// What is wrong before anything is trained.
fn refused(error: TuneError) -> Failure {
    match error {
        TuneError::Cancelled { .. } => Failure::job(error),
        TuneError::Data(error) => data_refused(*error),
        error => Failure::usage(error.to_string()),
    }
}

/// A training that ended before its time.
fn interrupted(run: &RunDir, error: TuneError) -> Failure {
    match (&error, run.checkpoints().last()) {
        (TuneError::Cancelled { .. } | TuneError::State { .. }, _) | (_, None) => Failure::job(error),
        (_, Some(step)) => {
            let place = run.checkpoint(*step);
            Failure::Job(format!("{error}; the checkpoint {} is intact", place.display()))
        }
    }
}
