//! The steps alone: an owner tunes a task, the server merges a round, someone makes a model of it. What passes between them is the
//! merged model one way and task vectors the other; a vector says whose it is and where it begins, and others are refused.

use std::path::{Path, PathBuf};

use onefold_checkpoint::Checkpoint;
use onefold_train::alternate::{Stamp, Vector};
use serde_json::Value;

use super::hash;
use super::part::{Begin, HEAD, Part, RECORD, has_head};
use super::product;
use super::round::{Merging, ROUND, several};
use super::setup::World;
use crate::cli::{Common, MergeRoundArgs, ProductArgs, TuneTaskArgs};
use crate::jobs::data::paths;
use crate::jobs::{dir_of, identity, place};
use crate::progress::{Failure, Shell};
use crate::recipe::alternate::Adapters;

/// Tunes one task of a round, or fits its head.
pub(super) fn tune_task(args: &TuneTaskArgs, common: &Common, shell: &Shell) -> Result<(), Failure> {
    let world = open(&args.recipe, &args.reading, common, shell)?;
    let number = world.task(&args.task)?;
    let (tasks, _) = world.load(&[number])?;
    let task = &tasks[0];
    if args.round == 0 && !has_head(task) {
        let why = "its rows are to be written, by the model's own words: there is no head to be fitted";
        return Err(Failure::usage(format!("--round 0: task `{}`: {why}", task.name)));
    }
    let begin = begin_at(&world, args.round, args.model.as_deref())?;
    let needs = args.round > 0 && has_head(task) || args.round > 1 && world.recipe.carried;
    if needs && args.state.is_none() {
        let what = if args.round == 1 { "fit its head first, by --round 0, and name" } else { "name" };
        return Err(Failure::usage(format!(
            "task `{}`: no --state; {what} what `tune-task` made of round {}",
            task.name,
            args.round - 1
        )));
    }
    if let Some(state) = &args.state {
        check_state(state, &task.name, args.round)?;
    }
    let files = identity::data_files(&[task])?;
    let models = world.models();
    let kind = format!("alternate {} {} {}", args.round, task.name, begin.hash);
    let job = identity::identity((&kind, &world.recipe.to_yaml()), &models, &[task], &files);
    let out = args.output.as_path();
    let read: Vec<PathBuf> = models
        .iter()
        .flat_map(|model| model.dirs.iter().cloned())
        .chain(paths(&tasks))
        .chain(args.state.clone())
        .collect();
    let folders = world.recipe.tuning.tasks[number].folders(dir_of(world.file));
    place::check_outside(out, &folders)?;
    if args.reading.force && out.join(RECORD).is_file() {
        // What such a step has made; a directory of anything else is left alone.
        remove(out)?;
    }
    place::check(out, &read, false).map_err(|e| Failure::usage(e.to_string()))?;
    // Takes away what an interrupted run of another job has left.
    drop(place::open_run(out, &job, &read, args.reading.force)?);
    let part = Part {
        world: &world,
        task,
        number,
        round: args.round,
        begin: &begin,
        state: args.state.as_deref(),
        out,
        job: &job,
    };
    part.run()?;
    done(out, shell);
    Ok(())
}

/// Merges the vectors of a round.
pub(super) fn merge_round(args: &MergeRoundArgs, common: &Common, shell: &Shell) -> Result<(), Failure> {
    if args.round == 0 {
        let why = "rounds are counted from 1; the first one begins at the recipe's model";
        return Err(Failure::usage(format!("--round 0: {why}")));
    }
    let world = open(&args.recipe, &args.reading, common, shell)?;
    let begin = begin_at(&world, args.round, args.model.as_deref())?;
    let vectors = vectors(&world, &args.vectors, args.round, Some(&begin.hash))?;
    let previous = match args.previous.is_empty() {
        true => None,
        false => {
            let before = recorded_base(&begin.dir, args.round)?;
            Some(self::vectors(&world, &args.previous, args.round - 1, before.as_deref())?)
        }
    };
    if previous.is_none() && args.round > 1 && world.recipe.merge.momentum > 0.0 {
        let why = "the recipe has a momentum: name the vectors of the round before with --previous";
        return Err(Failure::usage(why));
    }
    let out = args.output.as_path();
    let read: Vec<PathBuf> = [begin.dir.clone()].into_iter().chain(args.vectors.clone()).collect();
    place::check(out, &read, args.reading.force).map_err(|e| Failure::usage(e.to_string()))?;
    let previous = previous.as_deref();
    Merging { world: &world, round: args.round, begin: &begin, vectors: &vectors, previous }.run(out)?;
    done(out, shell);
    Ok(())
}

/// Makes the model of a round.
pub(super) fn product(args: &ProductArgs, common: &Common, shell: &Shell) -> Result<(), Failure> {
    let world = open(&args.recipe, &args.reading, common, shell)?;
    let record = read(&args.model.join(ROUND))?;
    if record["recipe"] != world.shared.as_str() {
        let why = "is of another recipe; take the one that the rounds were made by";
        return Err(Failure::usage(format!("--model {}: {why}", args.model.display())));
    }
    let state = args.state.as_ref().map(|state| read(&state.join(RECORD)).map(|record| (state, record)));
    let (mut heads, mut name, mut classes) = (None, String::new(), Vec::new());
    if let Some((state, record)) = state.transpose()? {
        if world.recipe.merge.adapters == Adapters::Concatenate {
            return Err(Failure::usage("--state: an adapter has no head of a task"));
        }
        let dir = state.join(HEAD);
        let file = read(&dir.join("head.json"))?;
        let of = |value: &Value| value.as_str().map(str::to_owned);
        name = of(&record["task"]).unwrap_or_default();
        world.task(&name)?;
        classes = file["classes"].as_array().into_iter().flatten().filter_map(of).collect();
        heads = Some(dir);
    }
    let out = args.output.as_path();
    let kept = [args.model.clone(), world.base_dir().to_owned()];
    let force = args.reading.force;
    place::check(out, &kept, force).map_err(|e| Failure::usage(e.to_string()))?;
    let run = place::open_run(out, &format!("product {record}"), &kept, force)?;
    let tasks = [(name.as_str(), classes, heads.as_deref())];
    run.finish(|made| -> Result<(), Made> {
        product::write(&world, &args.model, &tasks, made).map_err(Made::Failure)
    })
    .map_err(|error| match error {
        Made::Failure(failure) => failure,
        Made::Written(error) => Failure::job(error),
    })?;
    done(out, shell);
    Ok(())
}

enum Made {
    Failure(Failure),
    Written(onefold_checkpoint::CheckpointError),
}

impl From<onefold_checkpoint::CheckpointError> for Made {
    fn from(error: onefold_checkpoint::CheckpointError) -> Self {
        Self::Written(error)
    }
}

fn open<'a>(
    recipe: &'a Path,
    reading: &'a crate::cli::ReadingArgs,
    common: &'a Common,
    shell: &'a Shell,
) -> Result<World<'a>, Failure> {
    let world = World::open(recipe, reading, common, shell, None)?;
    world.ok_or_else(|| Failure::usage("there is no first model".to_owned()))
}

/// The model that a round begins at.
fn begin_at(world: &World<'_>, round: u64, model: Option<&Path>) -> Result<Begin, Failure> {
    let dir = match (round, model) {
        (0 | 1, None) => world.base_dir().to_owned(),
        (0 | 1, Some(_)) => {
            let why = format!("--model: round {round} begins at the model of the recipe");
            return Err(Failure::usage(why));
        }
        (_, None) => {
            let why =
                format!("round {round} begins at the merge of round {}: name it with --model", round - 1);
            return Err(Failure::usage(why));
        }
        (_, Some(dir)) => {
            let record = read(&dir.join(ROUND))?;
            let found = record["round"].as_u64();
            if found != Some(round - 1) {
                return Err(Failure::usage(format!(
                    "--model {}: it is the merge of round {}, expected round {}",
                    dir.display(),
                    record["round"],
                    round - 1
                )));
            }
            if record["recipe"] != world.shared.as_str() {
                return Err(Failure::usage(format!(
                    "--model {}: it was merged by another recipe; owners have to agree on everything but their data",
                    dir.display()
                )));
            }
            dir.to_owned()
        }
    };
    let checkpoint = Checkpoint::open(&dir).map_err(|errors| match several(&errors) {
        Failure::Job(text) => Failure::usage(text),
        failure => failure,
    })?;
    Ok(Begin { hash: hash::of_model(&checkpoint), dir })
}

/// The hash of the model that the round before began at, as the merge of that round says it.
fn recorded_base(dir: &Path, round: u64) -> Result<Option<String>, Failure> {
    if round == 1 {
        return Err(Failure::usage("--previous: there is no round before the first"));
    }
    Ok(read(&dir.join(ROUND))?["base"].as_str().map(str::to_owned))
}

/// The vectors of all tasks, each once, in the order of the tasks.
fn vectors(
    world: &World<'_>,
    given: &[PathBuf],
    round: u64,
    base: Option<&str>,
) -> Result<Vec<Vector>, Failure> {
    let (mut found, mut problems): (Vec<Option<Vector>>, Vec<String>) = (Vec::new(), Vec::new());
    let names = world.recipe.names();
    found.resize(names.len(), None);
    for path in given {
        let vector = match Vector::open(path) {
            Ok(vector) => vector,
            Err(error) => {
                problems.push(error.to_string());
                continue;
            }
        };
        let Some(task) = names.iter().position(|name| *name == vector.stamp.task) else {
            let known = crate::recipe::listed(names.iter().map(String::as_str));
            let task = &vector.stamp.task;
            problems.push(format!("{}: there is no task `{task}`; the tasks are {known}", path.display()));
            continue;
        };
        let base = base.map_or_else(|| vector.stamp.base.clone(), str::to_owned);
        let expected = Stamp { task: names[task].clone(), round, base, recipe: world.shared.clone() };
        problems.extend(vector.check(&expected).err().map(|error| error.to_string()));
        if found[task].replace(vector).is_some() {
            problems.push(format!("{}: a second vector of `{}`", path.display(), names[task]));
        }
    }
    let missing: Vec<&str> = names
        .iter()
        .zip(&found)
        .filter(|(_, found)| found.is_none())
        .map(|(name, _)| name.as_str())
        .collect();
    if problems.is_empty() && !missing.is_empty() {
        problems
            .push(format!("round {round}: no vector of {}; a round merges all tasks", missing.join(", ")));
    }
    if problems.is_empty() {
        Ok(found.into_iter().flatten().collect())
    } else {
        Err(Failure::Usage(problems))
    }
}

/// Refuses the state of another task or round.
fn check_state(dir: &Path, task: &str, round: u64) -> Result<(), Failure> {
    let record = read(&dir.join(RECORD))?;
    let expected = round.saturating_sub(1);
    if record["task"] == task && record["round"] == expected {
        return Ok(());
    }
    Err(Failure::usage(format!(
        "--state {}: it is of task {} in round {}, expected `{task}` in round {expected}",
        dir.display(),
        record["task"],
        record["round"]
    )))
}

/// The record of a step before.
fn read(path: &Path) -> Result<Value, Failure> {
    let text = std::fs::read(path).map_err(|e| {
        let expected = "`--model` is the output of `merge-round`, `--state` that of `tune-task`";
        Failure::usage(format!("{}: cannot read: {e}; {expected}", path.display()))
    })?;
    serde_json::from_slice(&text).map_err(|e| Failure::usage(format!("{}: no record: {e}", path.display())))
}

fn remove(out: &Path) -> Result<(), Failure> {
    match std::fs::remove_dir_all(out) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(Failure::Job(format!("{}: cannot remove: {error}", out.display())))
        }
        _ => Ok(()),
    }
}

fn done(out: &Path, shell: &Shell) {
    shell.event("done", &out.display().to_string());
    shell.say(&out.display().to_string());
}
