//! The rounds: each task is tuned from the same model, the vectors are merged, the merge is scored; and again.
//!
//! A round is the directory `OUT.run/round-NNN/`: `TASK/` of each task (`part`), `model/`, `round.json`, `validation.json`. Each is put
//! in place when all of it is on disk, so a run that was killed goes on at the first that is missing, and within a task's tuning
//! at its last checkpoint.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use onefold_checkpoint::output::{RunDir, write_file};
use onefold_checkpoint::{Checkpoint, CheckpointError};
use onefold_train::alternate::{HeadFrom, PartSettings, Stamp, Vector, VectorError, prepare};
use onefold_train::data::Task;
use onefold_train::data::doctor::Report;
use onefold_train::tune::{Memory, Plan, Prepared, Scored, scores};
use serde_json::{Value, json};

use super::part::{self, Begin, HEAD, Part, RECORD, has_head, pretty};
use super::product::{self, Headed};
use super::record::Record;
use super::round::{Merging, ROUND, several};
use super::setup::{World, refused};
use super::stop::{Judged, Scores, judge};
use super::{dry_run, hash};
use crate::cli::AlternateArgs;
use crate::jobs::data::paths;
use crate::jobs::tune::memory::FIXED;
use crate::jobs::{dir_of, identity, place};
use crate::progress::Failure;
use crate::recipe::alternate::Adapters;

const VALIDATION: &str = "validation.json";
const MODEL: &str = "model";

/// The whole job.
pub(super) struct Session<'a> {
    pub(super) args: &'a AlternateArgs,
    pub(super) output: &'a Path,
    pub(super) world: &'a World<'a>,
    pub(super) begin: Instant,
}

/// What is known before the first round.
pub(super) struct Ready {
    pub(super) tasks: Vec<Task>,
    pub(super) report: Report,
    /// The tuning of each task in a round.
    pub(super) plans: Vec<Plan>,
    /// Of the part that takes most.
    pub(super) memory: Memory,
    pub(super) trained: u64,
    /// Numbers of the model.
    pub(super) parameters: u64,
    /// The files of data, with their hashes.
    pub(super) files: Vec<Value>,
    pub(super) job: String,
}

/// What came of the rounds.
pub(super) struct Outcome {
    /// Rounds that were done.
    pub(super) rounds: u64,
    /// The round whose model is the result.
    pub(super) kept: u64,
    /// Why there were no more, if more were allowed.
    pub(super) ended: Option<String>,
    pub(super) history: BTreeMap<u64, Scores>,
    pub(super) judged: Judged,
}

impl Session<'_> {
    /// The job from data to output.
    pub(super) fn alternate(&self) -> Result<(), Failure> {
        let (world, out) = (self.world, self.output);
        let numbers: Vec<usize> = (0..world.recipe.tasks.len()).collect();
        let (tasks, report) = world.load(&numbers)?;
        let all: Vec<&Task> = tasks.iter().collect();
        let files = identity::data_files(&all)?;
        let models = world.models();
        let job = identity::identity(("alternate", &world.recipe.to_yaml()), &models, &all, &files);
        let is_done = identity::is_done(out, &job) && !self.args.reading.force;
        if is_done && !self.args.dry_run {
            RunDir::settle(out, &job).map_err(Failure::job)?;
            world.shell.event("done", &out.display().to_string());
            world
                .shell
                .say(&format!("{} is there already, made from the same recipe and inputs", out.display()));
            return Ok(());
        }
        let read: Vec<PathBuf> =
            models.iter().flat_map(|model| model.dirs.iter().cloned()).chain(paths(&tasks)).collect();
        let folders = world.recipe.tuning.tasks.iter().flat_map(|task| task.folders(dir_of(world.file)));
        place::check_outside(out, &folders.collect::<Vec<_>>())?;
        if !is_done {
            place::check(out, &read, self.args.reading.force).map_err(|e| Failure::usage(e.to_string()))?;
        }
        let ready = self.plan(tasks, report, files, job)?;
        dry_run::check(&ready.memory, world.common.max_memory)?;
        if self.args.dry_run {
            dry_run::show(self, &ready);
            return Ok(());
        }
        let run = place::open_run(out, &ready.job, &read, self.args.reading.force)?;
        let outcome = self.rounds(&run, &ready)?;
        Record { session: self, ready: &ready, outcome: &outcome }.finish(run)
    }

    /// Lays out the tuning of every task.
    fn plan(
        &self,
        tasks: Vec<Task>,
        report: Report,
        files: Vec<Value>,
        job: String,
    ) -> Result<Ready, Failure> {
        let world = self.world;
        let (settings, mixture, trainable) = part::settings(world, 1);
        let (mut plans, mut memory) = (Vec::new(), Memory::default());
        let (mut trained, mut parameters) = (0, 0);
        let mut prepared: Option<Prepared> = None;
        for (number, task) in tasks.iter().enumerate() {
            // What is wrong with a head that is given is known now.
            let (from, _) = if has_head(task) { world.head(number, task)? } else { (HeadFrom::New, false) };
            let is_given = matches!(from, HeadFrom::Model(_));
            if prepared.is_none() || is_given {
                let part = PartSettings { trunk: true, head: world.recipe.heads.train, from };
                let of_task = prepare(world.base_dir(), task, &trainable, &part, settings.seed);
                prepared = Some(of_task.map_err(refused)?);
            }
            let Some(prepared) = &mut prepared else { continue };
            prepared.heads = vec![has_head(task).then_some(0)];
            let of_one = part::plan(settings.clone(), mixture.clone(), task, prepared).map_err(refused)?;
            let (plan, _, balancer) = of_one;
            let place = (world.base_dir(), world.base().checkpoint.size());
            let one = plan.memory(std::slice::from_ref(task), &prepared.parameters, &balancer, place);
            let one = one.map_err(refused)?;
            memory = Memory {
                data: memory.data + one.data,
                ..if one.total() > memory.total() { one } else { memory }
            };
            trained = prepared.parameters.trainable().map(|(_, parameter)| parameter.len() as u64).sum();
            parameters = prepared.parameters.iter().map(|(_, parameter)| parameter.len() as u64).sum();
            // From the second round on what adapters are put on is not as it is stored.
            memory.parameters =
                memory.parameters.max(4 * parameters * u64::from(trainable.adapter.is_some()));
            plans.push(plan);
        }
        Ok(Ready { tasks, report, plans, memory, trained, parameters, files, job })
    }

    /// All rounds, but those that are there.
    fn rounds(&self, run: &RunDir, ready: &Ready) -> Result<Outcome, Failure> {
        let world = self.world;
        let begin = self.begin_at(world.base_dir())?;
        self.heads(run, ready, &begin)?;
        let mut history = BTreeMap::new();
        history.extend(self.scores(run, ready, 0)?.map(|scores| (0, scores)));
        let (mut round, mut ended) = (0, None);
        let last = (1..=world.recipe.rounds).rev().find(|round| run.round(*round).join(ROUND).is_file());
        while round < world.recipe.rounds && ended.is_none() {
            round += 1;
            if last.is_none_or(|last| round > last) {
                self.round(run, ready, round)?;
            }
            history.extend(self.scores(run, ready, round)?.map(|scores| (round, scores)));
            let judged = judge(world.recipe.stop.as_ref(), &history);
            if let Some(stop) = world.recipe.stop.as_ref().filter(|stop| judged.stalls >= stop.patience) {
                ended = Some(format!("no progress in {}", crate::report::counted(stop.patience, "round")));
            }
            self.prune(run, round, self.kept(round, &judged));
            self.note(run, ready, round, &history)?;
        }
        let judged = judge(world.recipe.stop.as_ref(), &history);
        let ended = ended.filter(|_| round < world.recipe.rounds);
        Ok(Outcome { rounds: round, kept: self.kept(round, &judged), ended, history, judged })
    }

    /// The round whose model would be the result after `round`.
    fn kept(&self, round: u64, judged: &Judged) -> u64 {
        let recipe = &self.world.recipe;
        // The first model has no adapter.
        let least = u64::from(recipe.merge.adapters == Adapters::Concatenate);
        recipe.stop.as_ref().and(judged.best).unwrap_or(round).max(least)
    }

    /// Fits or takes the heads of all tasks that have one.
    fn heads(&self, run: &RunDir, ready: &Ready, begin: &Begin) -> Result<(), Failure> {
        for number in (0..ready.tasks.len()).filter(|number| has_head(&ready.tasks[*number])) {
            self.part(run, ready, (0, number), begin)?;
        }
        Ok(())
    }

    /// One round.
    fn round(&self, run: &RunDir, ready: &Ready, round: u64) -> Result<(), Failure> {
        let (world, dir) = (self.world, run.round(round));
        let before = if round == 1 { world.base_dir().to_owned() } else { run.round(round - 1).join(MODEL) };
        let begin = self.begin_at(&before)?;
        for (number, task) in ready.tasks.iter().enumerate() {
            if !dir.join(&task.name).join(RECORD).is_file() {
                world.shell.say(&format!("round {round} of {}: {}", world.recipe.rounds, task.name));
            }
            self.part(run, ready, (round, number), &begin)?;
        }
        let (model, record) = (dir.join(MODEL), dir.join(ROUND));
        if !model.join(ROUND).is_file() {
            let vectors = self.vectors(run, ready, round, &begin.hash)?;
            let previous = match round {
                1 => None,
                _ => Some(self.vectors(run, ready, round - 1, &base_of(run, round - 1)?)?),
            };
            let previous = previous.as_deref();
            let merging = Merging { world, round, begin: &begin, vectors: &vectors, previous };
            merging.run(&model).map_err(|failure| kept(run, failure))?;
        }
        let text = fs::read(model.join(ROUND))
            .map_err(CheckpointError::io(&record, "read"))
            .map_err(Failure::job)?;
        write_file(&record, &text, true).map_err(Failure::job)
    }

    fn part(
        &self,
        run: &RunDir,
        ready: &Ready,
        (round, number): (u64, usize),
        begin: &Begin,
    ) -> Result<(), Failure> {
        let task = &ready.tasks[number];
        let dir = run.round(round);
        fs::create_dir_all(&dir).map_err(CheckpointError::io(&dir, "create")).map_err(Failure::job)?;
        let state = round.checked_sub(1).map(|before| run.round(before).join(&task.name));
        let state = state.filter(|dir| dir.is_dir());
        let job = format!("{} round {round} {}", ready.job, task.name);
        let (out, state) = (dir.join(&task.name), state.as_deref());
        Part { world: self.world, task, number, round, begin, state, out: &out, job: &job }.run()
    }

    fn begin_at(&self, dir: &Path) -> Result<Begin, Failure> {
        let checkpoint = Checkpoint::open(dir).map_err(|errors| several(&errors))?;
        Ok(Begin { dir: dir.to_owned(), hash: hash::of_model(&checkpoint) })
    }

    /// The vectors of a round that began at the model of that hash.
    fn vectors(&self, run: &RunDir, ready: &Ready, round: u64, base: &str) -> Result<Vec<Vector>, Failure> {
        let open = |task: &Task| -> Result<Vector, VectorError> {
            let vector = Vector::open(&run.round(round).join(&task.name))?;
            let (base, recipe) = (base.to_owned(), self.world.shared.clone());
            vector.check(&Stamp { task: task.name.clone(), round, base, recipe })?;
            Ok(vector)
        };
        ready.tasks.iter().map(|task| open(task).map_err(Failure::job)).collect()
    }

    /// Scores of the model of a round on rows that are not learnt from; none without any.
    fn scores(&self, run: &RunDir, ready: &Ready, round: u64) -> Result<Option<Scores>, Failure> {
        if ready.tasks.iter().all(|task| task.validation.is_empty()) {
            return Ok(None);
        }
        let path = run.round(round).join(VALIDATION);
        let known = fs::read(&path).ok().and_then(|text| serde_json::from_slice::<Value>(&text).ok());
        if let Some(found) = known.and_then(|mut known| serde_json::from_value(known["tasks"].take()).ok()) {
            return Ok(Some(found));
        }
        let now = Instant::now();
        let model = match round {
            0 => self.world.base_dir().to_owned(),
            _ => run.round(round).join(MODEL),
        };
        let heads = heads(run, round, &ready.tasks);
        let prepared = product::open(self.world, &model, &headed(&ready.tasks, &heads))?;
        let budget = ready.plans.iter().map(|plan| plan.budget).max().unwrap_or(1);
        let found = scores(prepared, &ready.tasks, (self.world.base_dir(), budget), self.world.shell);
        let found = found.map_err(Failure::job)?;
        let Some(found) = found else {
            let what = format!("stopped after round {round}; the same command goes on from there");
            return Err(Failure::Job(what));
        };
        let tasks = ready.tasks.iter().zip(found).filter(|(task, _)| !task.validation.is_empty());
        let tasks: BTreeMap<String, Scored> =
            tasks.map(|(task, scored)| (task.name.clone(), scored)).collect();
        let dir = run.round(round);
        fs::create_dir_all(&dir).map_err(CheckpointError::io(&dir, "create")).map_err(Failure::job)?;
        let record = json!({"round": round, "tasks": tasks, "seconds": now.elapsed().as_secs_f64()});
        write_file(&path, &pretty(&record), true).map_err(Failure::job)?;
        self.tell(round, &tasks);
        Ok(Some(tasks))
    }

    fn tell(&self, round: u64, scores: &Scores) {
        let one = |(name, scored): (&String, &Scored)| {
            let figure = |value: Option<f64>| value.map_or("–".to_owned(), |value| format!("{value:.4}"));
            format!("{name} {} ({:.1} %)", figure(scored.loss), 100.0 * scored.accuracy.unwrap_or_default())
        };
        let what = if round == 0 { "at the start".to_owned() } else { format!("after round {round}") };
        let text: Vec<String> = scores.iter().map(one).collect();
        self.world.shell.say(&format!("{what}: {}", text.join(", ")));
    }

    /// Removes what no later round needs: vectors and moments of all rounds before this one, and their models but the best one. What
    /// cannot be removed is in nobody's way.
    fn prune(&self, run: &RunDir, round: u64, best: u64) {
        if self.world.recipe.keep_rounds {
            return;
        }
        for old in 1..round {
            let dir = run.round(old);
            for task in self.world.recipe.names() {
                let _ = fs::remove_file(dir.join(&task).join("vector.safetensors"));
                let _ = fs::remove_dir_all(dir.join(&task).join("optimizer"));
            }
            if old != best {
                let _ = fs::remove_dir_all(dir.join(MODEL));
            }
        }
    }

    /// Keeps the log of the rounds so far where people look while it goes on.
    fn note(
        &self,
        run: &RunDir,
        ready: &Ready,
        round: u64,
        history: &BTreeMap<u64, Scores>,
    ) -> Result<(), Failure> {
        let judged = judge(self.world.recipe.stop.as_ref(), history);
        let lines = super::record::lines(run, &ready.tasks, round, history, &judged);
        let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
        if let Some(line) = lines.iter().rfind(|line| line["kind"] == "round") {
            self.world.shell.event("round", line);
        }
        write_file(&run.path().join(onefold_train::tune::METRICS), text.as_bytes(), true)
            .map_err(Failure::job)
    }
}

/// Where the heads of all tasks are kept after a round; none of tasks that write.
pub(super) fn heads(run: &RunDir, round: u64, tasks: &[Task]) -> Vec<Option<PathBuf>> {
    let of = |task: &Task| has_head(task).then(|| run.round(round).join(&task.name).join(HEAD));
    tasks.iter().map(of).collect()
}

/// The tasks as products have them.
pub(super) fn headed<'a>(tasks: &'a [Task], heads: &'a [Option<PathBuf>]) -> Vec<Headed<'a>> {
    let of = |(task, head): (&'a Task, &'a Option<PathBuf>)| {
        let classes = task.labels.as_ref().map(|labels| labels.names.clone()).unwrap_or_default();
        (task.name.as_str(), classes, head.as_deref())
    };
    tasks.iter().zip(heads).map(of).collect()
}

/// The directory of a round's model, or of the first one.
pub(super) fn model_of(world: &World<'_>, run: &RunDir, round: u64) -> PathBuf {
    if round == 0 { world.base_dir().to_owned() } else { run.round(round).join(MODEL) }
}

/// The hash of the model that a round began at.
fn base_of(run: &RunDir, round: u64) -> Result<String, Failure> {
    let path = run.round(round).join(ROUND);
    let text = fs::read(&path).map_err(CheckpointError::io(&path, "read")).map_err(Failure::job)?;
    let record: Value = serde_json::from_slice(&text).map_err(Failure::job)?;
    Ok(record["base"].as_str().unwrap_or_default().to_owned())
}

/// All memory.
pub(super) fn total(memory: &Memory) -> u64 {
    FIXED + memory.total()
}

/// A failure that left what was done.
fn kept(run: &RunDir, failure: Failure) -> Failure {
    match failure {
        Failure::Job(error) => Failure::Job(format!(
            "{error}; what was done is kept in {}, the same command goes on from there",
            run.path().display()
        )),
        failure => failure,
    }
}
