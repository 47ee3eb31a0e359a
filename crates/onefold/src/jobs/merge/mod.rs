//! `onefold merge`: recipe → plan → stream → commit → report.

mod budget;
mod dry_run;
mod emr;
mod identity;
mod judge;
mod record;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use onefold_checkpoint::CheckpointError;
use onefold_checkpoint::output::{Layout, Opened, Output};
use onefold_merge::methods::measured;
use onefold_merge::{MergeError, methods, recording};

use super::place::{self, with_suffix};
use super::{dir_of, hub_config, on_pool, tell_hub, threads};
use crate::cli::{Common, MergeArgs};
use crate::models::{Library, Wanted};
use crate::plan::{self, Options, Plan};
use crate::progress::{Failure, Shell};
use crate::recipe::{self, ModelRef, Problems, Recipe};
use budget::Budget;
use dry_run::{dry_run, show_waiting};
use identity::identity;
use record::Run;

/// Runs the job.
///
/// # Errors
/// [`Failure::Usage`] with all problems of recipes, inputs and places, or [`Failure::Job`].
pub fn run(args: &MergeArgs, common: &Common, shell: &Shell) -> Result<(), Failure> {
    let file = args.recipe.display();
    let text = std::fs::read_to_string(&args.recipe)
        .map_err(|e| Failure::usage(format!("{file}: cannot read the recipe: {e}")))?;
    run_text(&text, args, common, shell)
}

/// The same with the text of the recipe; the file is where paths are looked up from, and what messages name.
pub(super) fn run_text(text: &str, args: &MergeArgs, common: &Common, shell: &Shell) -> Result<(), Failure> {
    let (recipes, opened) = read_recipes(text, args, common, shell)?;
    let steps = steps(&recipes, args);
    let named = steps.iter().filter_map(|s| Some((s.recipe.name.as_ref()?.value.clone(), s.out.clone())));
    let session = Session { args, common, shell, opened, named: named.collect() };
    if steps.iter().all(|step| step.out != args.output) {
        let out = args.output.display();
        shell.warn(&format!(
            "every merge has a `name`, so none of them makes {out}: leave it out of the final one"
        ));
    }
    let states = session.judge(&steps)?;
    steps.iter().zip(states).try_for_each(|(step, state)| session.one(step, state))?;
    // To free very many tensors takes a tenth of the time of a merge; nobody has to wait for it.
    let Session { opened, .. } = session;
    std::thread::spawn(move || drop(opened));
    Ok(())
}

/// Reads and judges all recipes of the file, and opens the models that exist already, so that everything that is wrong
/// comes in one answer. Returns the recipes in the order in which they run, and those models.
fn read_recipes(
    text: &str,
    args: &MergeArgs,
    common: &Common,
    shell: &Shell,
) -> Result<(Vec<Recipe>, Library), Failure> {
    let file = args.recipe.display().to_string();
    let mut problems = Problems::new(&file, &args.sets, args.lenient);
    let mut recipes = recipe::parse(text, &args.sets, &mut problems);
    let names: Vec<&str> = methods::all().map(|m| m.name).collect();
    for recipe in &mut recipes {
        recipe.read_coefficients(dir_of(&args.recipe), &mut problems);
        if recipe::check_method(recipe, &names, &mut problems)
            && let Some(method) = methods::find(&recipe.method.value)
        {
            recipe::check_parameters(recipe, method.params, &mut problems);
            let needs = measured::find(method.name).map(|m| m.statistic);
            recipe.read_statistics(dir_of(&args.recipe), needs, &mut problems);
        }
    }
    let order = if problems.is_empty() {
        recipe::order(&recipes, &mut problems).unwrap_or_default()
    } else {
        Vec::new()
    };
    let mut all: Vec<String> = if problems.is_empty() { Vec::new() } else { vec![problems.to_string()] };
    let opened = Library::open(
        &external(&recipes),
        &BTreeMap::new(),
        dir_of(&args.recipe),
        &hub_config(common)?,
        &mut tell_hub(shell),
    );
    let library = match opened {
        Ok(library) if all.is_empty() => library,
        opened => {
            all.extend(opened.err().unwrap_or_default());
            return Err(Failure::Usage(all));
        }
    };
    problems.warning_texts().iter().for_each(|w| shell.warn(w));
    let mut recipes: Vec<Option<Recipe>> = recipes.into_iter().map(Some).collect();
    Ok((order.into_iter().filter_map(|i| recipes[i].take()).collect(), library))
}

/// What the recipes read that none of them makes.
fn external(recipes: &[Recipe]) -> Vec<Wanted<'_>> {
    let merges: Vec<&str> =
        recipes.iter().filter_map(|r| r.name.as_ref()).map(|n| n.value.as_str()).collect();
    let is_made = |model: &ModelRef| merges.contains(&model.path.as_str());
    // What is put on a base that is still to be made (an artefact's task) cannot be opened before it.
    let waits = |w: &Wanted<'_>| is_made(w.model) || (w.model.task.is_some() && w.base.is_some_and(is_made));
    recipes.iter().flat_map(Wanted::of).filter(|w| !waits(w)).collect()
}

/// One merge of the file, and where its product goes.
struct Step<'r> {
    recipe: &'r Recipe,
    out: PathBuf,
    /// Products of earlier steps that it reads.
    needs: Vec<PathBuf>,
}

/// The merges in the order in which they run.
fn steps<'r>(recipes: &'r [Recipe], args: &MergeArgs) -> Vec<Step<'r>> {
    let intermediate = args.intermediate.clone().unwrap_or_else(|| with_suffix(&args.output, ".merges"));
    let target = |recipe: &Recipe| match &recipe.name {
        Some(name) if recipes.len() > 1 => intermediate.join(&name.value),
        _ => args.output.clone(),
    };
    let makes = |path: &str| recipes.iter().find(|r| r.name.as_ref().is_some_and(|n| n.value == path));
    let step = |recipe: &'r Recipe| {
        let references = recipe.references();
        let needs = references.iter().filter_map(|r| makes(&r.path)).map(target).collect();
        Step { recipe, out: target(recipe), needs }
    };
    recipes.iter().map(step).collect()
}

/// What the user asked for, and where to tell how it goes.
struct Session<'a> {
    args: &'a MergeArgs,
    common: &'a Common,
    shell: &'a Shell,
    /// The models that no step makes.
    opened: Library,
    /// Where the merges with names go.
    named: BTreeMap<String, PathBuf>,
}

/// A merge that is decided in every respect; nothing is written yet.
struct Prepared<'a> {
    recipe: &'a Recipe,
    out: &'a Path,
    library: Library,
    plan: Plan,
    layout: Layout,
    budget: Budget,
    /// Every directory that is read.
    inputs: Vec<PathBuf>,
    job: String,
    /// Time that it took to decide.
    planning: Duration,
}

/// What is to be done for a step.
enum State<'r> {
    /// Nothing: the product is there.
    Done,
    /// This.
    Ready(Box<Prepared<'r>>),
    /// What is not known before an earlier step has made what it reads.
    Waiting,
}

impl Session<'_> {
    /// One merge from recipe to output.
    fn one(&self, step: &Step<'_>, state: State<'_>) -> Result<(), Failure> {
        let merge = match state {
            State::Done => {
                self.shell.event("done", &step.out.display().to_string());
                let line =
                    format!("{} is there already, made from the same recipe and inputs", step.out.display());
                self.shell.say(&line);
                return Ok(());
            }
            State::Ready(merge) => merge,
            State::Waiting if self.args.dry_run => {
                show_waiting(&step.out, &step.needs, self.shell);
                return Ok(());
            }
            State::Waiting => Box::new(self.prepare(step)?),
        };
        if self.args.dry_run {
            let Prepared { plan, layout, budget, library, out, .. } = &*merge;
            dry_run(plan, layout, budget, library, out, self.shell);
            return Ok(());
        }
        self.merge(&merge)?;
        // As in `run`.
        let Prepared { library, plan, .. } = *merge;
        std::thread::spawn(move || drop((library, plan)));
        Ok(())
    }

    /// Opens the models and plans.
    fn prepare<'s>(&self, step: &'s Step<'_>) -> Result<Prepared<'s>, Failure> {
        let begin = Instant::now();
        self.decide(step, self.open_models(step, &self.named)?, begin)
    }

    /// The models of a step; those that other steps make are where `named` says.
    fn open_models(&self, step: &Step<'_>, named: &BTreeMap<String, PathBuf>) -> Result<Library, Failure> {
        let (hub, dir) = (hub_config(self.common)?, dir_of(&self.args.recipe));
        let wanted = Wanted::of(step.recipe);
        let events = &mut tell_hub(self.shell);
        self.opened.open_with(&wanted, named, dir, &hub, events).map_err(Failure::Usage)
    }

    fn decide<'s>(
        &self,
        step: &'s Step<'_>,
        library: Library,
        begin: Instant,
    ) -> Result<Prepared<'s>, Failure> {
        let (args, common) = (self.args, self.common);
        let Step { recipe, out, .. } = step;
        let method = methods::find(&recipe.method.value).expect("the method was checked");
        let plan = plan::plan(recipe, method, &library, self.options()).map_err(Failure::Usage)?;
        let layout = plan.layout(args.max_shard_size);
        let budget = Budget::of(&plan, threads(common), common.max_memory)?;
        let statistics = recipe.statistics().map(|measured| measured.file.clone());
        let inputs = library.all().flat_map(|m| m.dirs.clone()).chain(statistics).collect();
        let job = identity(recipe, &library, &plan, args, common);
        Ok(Prepared { recipe, out, library, plan, layout, budget, inputs, job, planning: begin.elapsed() })
    }

    fn options(&self) -> Options {
        Options {
            seed: self.common.seed,
            allow_missing: self.args.allow_missing,
            crop_embeddings: self.args.crop_embeddings,
            allow_non_finite: self.common.allow_non_finite,
            only_compare: false,
            deltas: false,
        }
    }

    /// Does what was prepared.
    fn merge(&self, merge: &Prepared<'_>) -> Result<(), Failure> {
        let Self { args, common, shell, .. } = *self;
        let now = Instant::now();
        let begin = now.checked_sub(merge.planning).unwrap_or(now);
        merge.plan.warnings.iter().for_each(|w| shell.warn(w));
        merge.plan.notes.iter().for_each(|n| shell.say(n));
        let Opened { output, finished } = self.open(merge)?;
        let (plan, library) = (&merge.plan, &merge.library);
        recording::set_budget(merge.budget.masks as usize);
        let streamed =
            on_pool(merge.budget.threads, || Ok(emr::run(plan, library, &finished, &output, shell)))?;
        let streamed = match streamed {
            Ok(streamed) => streamed,
            Err(error) if would_repeat(&error) => {
                output.discard();
                return Err(Failure::job(error));
            }
            Err(error) => return Err(suspend(output, Failure::job(error))),
        };
        let Prepared { recipe, out, library, plan, budget, job, .. } = merge;
        let run = Run { recipe, plan, library, out, job, args, common, budget, begin };
        match run.tell(&output, &streamed) {
            Ok(told) => run.finish(output, &told, shell),
            Err(failure) => Err(suspend(output, failure)),
        }
    }

    /// Makes the output directory, or finds in it what an interrupted run has left.
    fn open(&self, merge: &Prepared<'_>) -> Result<Opened, Failure> {
        let out = merge.out;
        if let Some(parent) = out.parent().filter(|p| !p.as_os_str().is_empty()) {
            std::fs::create_dir_all(parent)
                .map_err(|e| place::refused(CheckpointError::io(parent, "create")(e)))?;
        }
        let opened = Output::create(out, merge.layout.clone(), &merge.job, &merge.inputs, self.args.force)
            .map_err(place::refused)?;
        let resumed = opened.finished.iter().flatten().count();
        if resumed > 0 {
            let all = opened.finished.len();
            self.shell.say(&format!("resuming: {resumed} of {all} tensors are done"));
        }
        Ok(opened)
    }
}

/// Whether the same command would fail in the same way, so that nothing of the run is worth keeping.
fn would_repeat(error: &MergeError) -> bool {
    !matches!(error, MergeError::Cancelled | MergeError::Checkpoint(_))
}

/// Ends a failed run whose finished part can be gone on from.
fn suspend(output: Output, failure: Failure) -> Failure {
    match (failure, output.suspend()) {
        (Failure::Job(error), Ok(dir)) => Failure::Job(format!(
            "{error}; the finished part is kept in {}, the same command resumes",
            dir.display()
        )),
        // That even this failed has the same cause.
        (failure, _) => failure,
    }
}
