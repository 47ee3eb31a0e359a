//! `onefold merge`: recipe → plan → stream → commit → report.

mod budget;
mod dry_run;
mod emr;
mod identity;
mod record;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Instant;

use onefold_checkpoint::CheckpointError;
use onefold_checkpoint::output::{Layout, Opened, Output, check_target};
use onefold_merge::{METHODS, MergeError, methods, recording};

use super::{dir_of, hub_config, on_pool, tell_hub, threads};
use crate::cli::{Common, MergeArgs};
use crate::models::{Library, Wanted};
use crate::plan::{self, Options, Plan};
use crate::progress::{Failure, Shell};
use crate::recipe::{self, ModelRef, Problems, Recipe};
use budget::Budget;
use dry_run::dry_run;
use identity::{identity, is_done};
use record::Run;

/// Runs the job.
///
/// # Errors
/// [`Failure::Usage`] with all problems of recipe and inputs, or [`Failure::Job`].
pub fn run(args: &MergeArgs, common: &Common, shell: &Shell) -> Result<(), Failure> {
    let session = Session { args, common, shell };
    let recipes = read_recipes(args, common, shell)?;
    let intermediate = args.intermediate.clone().unwrap_or_else(|| with_suffix(&args.output, ".merges"));
    let alone = recipes.len() == 1;
    let mut named = BTreeMap::new();
    for recipe in &recipes {
        let target = match &recipe.name {
            Some(name) if !alone => intermediate.join(&name.value),
            _ => args.output.clone(),
        };
        session.one(recipe, &target, &named)?;
        if let Some(name) = &recipe.name {
            named.insert(name.value.clone(), target);
        }
    }
    Ok(())
}

/// Reads and judges all recipes of the file, and opens the models that exist already, so that everything that is wrong
/// comes in one answer. Returns them in the order in which they run.
fn read_recipes(args: &MergeArgs, common: &Common, shell: &Shell) -> Result<Vec<Recipe>, Failure> {
    let file = args.recipe.display().to_string();
    let text = std::fs::read_to_string(&args.recipe)
        .map_err(|e| Failure::usage(format!("{file}: cannot read the recipe: {e}")))?;
    let mut problems = Problems::new(&file, &args.sets, args.lenient);
    let recipes = recipe::parse(&text, &args.sets, &mut problems);
    let names: Vec<&str> = METHODS.iter().map(|m| m.name).collect();
    for recipe in &recipes {
        if recipe::check_method(recipe, &names, &mut problems)
            && let Some(method) = methods::find(&recipe.method.value)
        {
            recipe::check_parameters(recipe, method.params, &mut problems);
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
    all.extend(opened.err().unwrap_or_default());
    if !all.is_empty() {
        return Err(Failure::Usage(all));
    }
    problems.warning_texts().iter().for_each(|w| shell.warn(w));
    let mut recipes: Vec<Option<Recipe>> = recipes.into_iter().map(Some).collect();
    Ok(order.into_iter().filter_map(|i| recipes[i].take()).collect())
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

/// What the user asked for, and where to tell how it goes.
#[derive(Clone, Copy)]
struct Session<'a> {
    args: &'a MergeArgs,
    common: &'a Common,
    shell: &'a Shell,
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
    begin: Instant,
}

impl Session<'_> {
    /// One merge from recipe to output.
    fn one(&self, recipe: &Recipe, out: &Path, named: &BTreeMap<String, PathBuf>) -> Result<(), Failure> {
        if let Some(dir) = self.waits_for(recipe, named) {
            self.shell.say(&format!("{}: planned once {} exists", out.display(), dir.display()));
            return Ok(());
        }
        let merge = self.prepare(recipe, out, named)?;
        if is_done(out, &merge.job, &merge.layout) && !self.args.force {
            self.shell.event("done", &out.display().to_string());
            self.shell
                .say(&format!("{} is there already, made from the same recipe and inputs", out.display()));
            return Ok(());
        }
        check_target(out, &merge.inputs, self.args.force).map_err(|e| Failure::usage(e.to_string()))?;
        if self.args.dry_run {
            let Prepared { plan, layout, budget, library, .. } = &merge;
            dry_run(plan, layout, budget, library, out, self.shell);
            return Ok(());
        }
        self.merge(&merge)?;
        // To free very many tensors takes a tenth of the time of a merge; nobody has to wait for it.
        let Prepared { library, plan, .. } = merge;
        std::thread::spawn(move || drop((library, plan)));
        Ok(())
    }

    /// The output of an earlier merge without which a dry run cannot plan this one.
    fn waits_for<'n>(&self, recipe: &Recipe, named: &'n BTreeMap<String, PathBuf>) -> Option<&'n PathBuf> {
        let references = recipe.references();
        let absent = references.iter().find_map(|r| named.get(&r.path)).filter(|dir| !dir.exists());
        absent.filter(|_| self.args.dry_run)
    }

    /// Opens the models and plans.
    fn prepare<'r>(
        &self,
        recipe: &'r Recipe,
        out: &'r Path,
        named: &BTreeMap<String, PathBuf>,
    ) -> Result<Prepared<'r>, Failure> {
        let Self { args, common, shell } = *self;
        let begin = Instant::now();
        let (hub, dir) = (hub_config(common)?, dir_of(&args.recipe));
        let library = Library::open(&Wanted::of(recipe), named, dir, &hub, &mut tell_hub(shell))
            .map_err(Failure::Usage)?;
        let method = methods::find(&recipe.method.value).expect("the method was checked");
        let plan = plan::plan(recipe, method, &library, self.options()).map_err(Failure::Usage)?;
        let layout = plan.layout(args.max_shard_size);
        let budget = Budget::of(&plan, threads(common), common.max_memory)?;
        let inputs = library.all().flat_map(|m| m.dirs.clone()).collect();
        let job = identity(recipe, &library, &plan, args, common);
        Ok(Prepared { recipe, out, library, plan, layout, budget, inputs, job, begin })
    }

    fn options(&self) -> Options {
        Options {
            seed: self.common.seed,
            allow_missing: self.args.allow_missing,
            crop_embeddings: self.args.crop_embeddings,
            allow_non_finite: self.common.allow_non_finite,
            only_compare: false,
        }
    }

    /// Does what was prepared.
    fn merge(&self, merge: &Prepared<'_>) -> Result<(), Failure> {
        let Self { args, common, shell } = *self;
        merge.plan.warnings.iter().for_each(|w| shell.warn(w));
        merge.plan.notes.iter().for_each(|n| shell.say(n));
        let Opened { output, finished } = self.open(merge)?;
        let (plan, library) = (&merge.plan, &merge.library);
        recording::set_budget(merge.budget.masks as usize);
        let streamed =
            on_pool(merge.budget.threads, || Ok(emr::run(plan, library, &finished, &output, shell)))?;
        let streamed = match streamed {
            Ok(streamed) => streamed,
            Err(error) => return Err(give_up(output, error)),
        };
        let Prepared { recipe, out, library, plan, budget, job, begin, .. } = merge;
        let run = Run { recipe, plan, library, out, job, args, common, budget, begin: *begin };
        run.finish(output, &streamed, shell).map_err(Failure::job)
    }

    /// Makes the output directory, or finds in it what an interrupted run has left.
    fn open(&self, merge: &Prepared<'_>) -> Result<Opened, Failure> {
        let out = merge.out;
        if let Some(parent) = out.parent().filter(|p| !p.as_os_str().is_empty()) {
            std::fs::create_dir_all(parent)
                .map_err(|e| Failure::job(CheckpointError::io(parent, "create")(e)))?;
        }
        let opened = Output::create(out, merge.layout.clone(), &merge.job, &merge.inputs, self.args.force)
            .map_err(|e| Failure::usage(e.to_string()))?;
        let resumed = opened.finished.iter().flatten().count();
        if resumed > 0 {
            let all = opened.finished.len();
            self.shell.say(&format!("resuming: {resumed} of {all} tensors are done"));
        }
        Ok(opened)
    }
}

/// Ends a failed run: what can be resumed is kept, what would fail again is not.
fn give_up(output: Output, error: MergeError) -> Failure {
    if matches!(error, MergeError::Cancelled | MergeError::Checkpoint(_)) {
        let kept = output
            .suspend()
            .map(|dir| format!("; the finished part is kept in {}, the same command resumes", dir.display()));
        return Failure::Job(format!("{error}{}", kept.unwrap_or_default()));
    }
    output.discard();
    Failure::job(error)
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(suffix);
    path.with_file_name(name)
}
