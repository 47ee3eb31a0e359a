//! One task's part of a round: it is tuned from the round's first model, and leaves its vector. Before the first round the head of
//! a task with classes is fitted.
//!
//! | file | what |
//! |---|---|
//! | `vector.safetensors` | the task vector, for the merge: all that leaves its owner |
//! | `head/` | the head of a task with classes |
//! | `optimizer/` | the optimizer's moments, if it is carried on |
//! | `metrics.jsonl` | how the tuning went |
//! | `task.json` | what came of it |

use std::path::{Path, PathBuf};
use std::time::Instant;

use onefold_balance::Balancer;
use onefold_checkpoint::CheckpointError;
use onefold_checkpoint::output::{RunDir, link, write_file};
use onefold_train::alternate::{
    self, HeadFrom, PartSettings, Stamp, VectorError, Written, prepare, save_head,
};
use onefold_train::data::Task;
use onefold_train::data::sample::{Mixture, Sampler};
use onefold_train::data::shape::Kind;
use onefold_train::optimizer::{AdamW, Decay, Rule};
use onefold_train::tune::{
    self, METRICS, Plan, Prepared, ScheduleKind, ScheduleSettings, Settings, Span, Trainable, TuneError,
    Tuned,
};
use serde_json::{Value, json};

use super::dry_run;
use super::setup::{World, refused};
use crate::jobs::place;
use crate::progress::Failure;
use crate::recipe::alternate::Adapters;

/// What came of a part.
pub(super) const RECORD: &str = "task.json";
/// Where a head is kept.
pub(super) const HEAD: &str = "head";
const OPTIMIZER: &str = "optimizer";
/// How to go on from what was done.
const GOES_ON: &str = "the same command goes on from there";

/// A model to begin at.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Begin {
    pub(super) dir: PathBuf,
    /// Its hash.
    pub(super) hash: String,
}

/// A part to be done.
pub(super) struct Part<'a> {
    pub(super) world: &'a World<'a>,
    pub(super) task: &'a Task,
    /// The task's number in the recipe.
    pub(super) number: usize,
    /// From 1; 0 fits the head.
    pub(super) round: u64,
    pub(super) begin: &'a Begin,
    /// What this task's part of the round before has left.
    pub(super) state: Option<&'a Path>,
    pub(super) out: &'a Path,
    /// What makes the job another.
    pub(super) job: &'a str,
}

/// How far it went wrong.
enum Failed {
    Tune(TuneError),
    Vector(VectorError),
    Written(CheckpointError),
}

impl From<CheckpointError> for Failed {
    fn from(error: CheckpointError) -> Self {
        Self::Written(error)
    }
}

impl From<TuneError> for Failed {
    fn from(error: TuneError) -> Self {
        Self::Tune(error)
    }
}

impl From<VectorError> for Failed {
    fn from(error: VectorError) -> Self {
        Self::Vector(error)
    }
}

/// Whether a task has a head of its own.
pub(super) fn has_head(task: &Task) -> bool {
    task.kind != Kind::Generate
}

/// The settings by which a round tunes a task. Each round draws rows in another order.
pub(super) fn settings(world: &World<'_>, round: u64) -> (Settings, Mixture, Trainable) {
    let tuning = &world.recipe.tuning;
    let seed = tuning.settings.seed.wrapping_add(round.saturating_sub(1));
    let mut trainable = tuning.trainable.clone();
    trainable.adapter.iter_mut().for_each(|(adapter, _)| adapter.seed = seed);
    (Settings { seed, ..tuning.settings.clone() }, Mixture { seed, ..tuning.mixture.clone() }, trainable)
}

/// The plan of a training of one task.
pub(super) fn plan(
    settings: Settings,
    mixture: Mixture,
    task: &Task,
    prepared: &Prepared,
) -> Result<(Plan, Sampler, Balancer), TuneError> {
    let (mut plan, sampler, balancer) =
        Plan::new(settings, std::slice::from_ref(task), prepared, (&[1.0], &[1.0]), mixture)?;
    plan.is_part = true;
    Ok((plan, sampler, balancer))
}

impl Part<'_> {
    /// Does it, unless it is done. What came of it is in its directory.
    pub(super) fn run(&self) -> Result<(), Failure> {
        if self.out.join(RECORD).is_file() {
            return Ok(());
        }
        let run = place::open_run(self.out, self.job, &[], false)?;
        let place = run.path().to_owned();
        let done = if self.round == 0 { self.fit(run) } else { self.tune(run) };
        done.map_err(|failure| match failure {
            // One that was stopped says so itself.
            Failure::Job(error) if error.ends_with(GOES_ON) => {
                Failure::Job(format!("round {}, task `{}`: {error}", self.round, self.task.name))
            }
            Failure::Job(error) => {
                let kept = format!("what was done is in {}, {GOES_ON}", place.display());
                Failure::Job(format!("round {}, task `{}`: {error}; {kept}", self.round, self.task.name))
            }
            failure => failure,
        })
    }

    /// Makes the head: fitted on the first model, or taken from the model that is named.
    fn fit(&self, run: RunDir) -> Result<(), Failure> {
        let (from, fits) = self.world.head(self.number, self.task)?;
        let (mut settings, mixture, _) = settings(self.world, 0);
        let part = PartSettings { trunk: false, head: true, from };
        let prepared = prepare(&self.begin.dir, self.task, &Trainable::default(), &part, settings.seed);
        let prepared = prepared.map_err(refused)?;
        let Some(fit) = self.world.recipe.heads.fit.filter(|_| fits) else {
            return self.finish_head(run, &prepared.parameters, &json!({"round": 0, "task": self.task.name}));
        };
        let rule = AdamW { learning_rate: fit.lr, weight_decay: 0.0, ..AdamW::default() };
        (settings.optimizer, settings.decay) = (Rule::AdamW(rule), Decay::default());
        settings.duration = fit.duration;
        settings.schedule =
            ScheduleSettings { kind: ScheduleKind::Constant, warmup: Span::Share(0.0), floor: 0.0 };
        let begin = Instant::now();
        let tuned = self.train(&run, (settings, mixture), prepared, None)?;
        let record = self.record(&tuned, begin.elapsed().as_secs_f64(), &run)?;
        self.finish_head(run, &tuned.parameters, &record)
    }

    fn finish_head(
        &self,
        run: RunDir,
        parameters: &onefold_train::model::Parameters,
        record: &Value,
    ) -> Result<(), Failure> {
        let metrics = run.path().join(METRICS);
        run.prune(0, &[]).map_err(Failure::job)?;
        let made = run.finish(|made| -> Result<(), Failed> {
            std::fs::create_dir(made).map_err(CheckpointError::io(made, "create"))?;
            save_head(parameters, self.task, &made.join(HEAD))?;
            keep_metrics(&metrics, made)?;
            Ok(write_file(&made.join(RECORD), &pretty(record), false)?)
        });
        made.map_err(failed)
    }

    /// Tunes, and writes the vector.
    fn tune(&self, run: RunDir) -> Result<(), Failure> {
        let recipe = &self.world.recipe;
        let (settings, mixture, trainable) = settings(self.world, self.round);
        let head = self.state.map(|dir| dir.join(HEAD));
        let from = match &head {
            Some(dir) if has_head(self.task) => HeadFrom::Kept(dir),
            _ => HeadFrom::New,
        };
        let part = PartSettings { trunk: true, head: recipe.heads.train, from };
        let prepared =
            prepare(&self.begin.dir, self.task, &trainable, &part, settings.seed).map_err(refused)?;
        let carried = self.state.map(|dir| dir.join(OPTIMIZER)).filter(|_| recipe.carried && self.round > 1);
        let begin = Instant::now();
        let tuned = self.train(&run, (settings, mixture), prepared, carried.as_deref())?;
        let seconds = begin.elapsed().as_secs_f64();
        run.prune(0, &[]).map_err(Failure::job)?;
        let stamp = Stamp {
            task: self.task.name.clone(),
            round: self.round,
            base: self.begin.hash.clone(),
            recipe: self.world.shared.clone(),
        };
        let metrics = run.path().join(METRICS);
        let factors = recipe.merge.adapters == Adapters::Concatenate;
        let mut record = self.record(&tuned, seconds, &run)?;
        let label = self.world.base().label.as_str();
        let made = run.finish(|made| -> Result<(), Failed> {
            let base = (self.begin.dir.as_path(), label);
            alternate::save(&tuned.parameters, base, &stamp, factors, made, |written| {
                of_vector(&mut record, written, tuned.first_epoch);
                vec![(RECORD, pretty(&record))]
            })?;
            self.keep_head(&tuned, head.as_deref(), made)?;
            if recipe.carried {
                tune::save_optimizer(&tuned.optimizer, &tuned.parameters, &made.join(OPTIMIZER))?;
            }
            Ok(keep_metrics(&metrics, made)?)
        });
        made.map_err(failed)
    }

    /// The head goes on with the task: as it was trained, or as it was.
    fn keep_head(&self, tuned: &Tuned, before: Option<&Path>, made: &Path) -> Result<(), Failed> {
        if !has_head(self.task) {
            return Ok(());
        }
        let to = made.join(HEAD);
        match before.filter(|_| !self.world.recipe.heads.train) {
            None => save_head(&tuned.parameters, self.task, &to)?,
            Some(from) => {
                std::fs::create_dir(&to).map_err(CheckpointError::io(&to, "create"))?;
                for name in ["head.safetensors", "head.json"] {
                    link(&from.join(name), &to.join(name))?;
                }
            }
        }
        Ok(())
    }

    fn train(
        &self,
        run: &RunDir,
        (settings, mixture): (Settings, Mixture),
        prepared: Prepared,
        carried: Option<&Path>,
    ) -> Result<Tuned, Failure> {
        let (plan, sampler, balancer) = plan(settings, mixture, self.task, &prepared).map_err(refused)?;
        let tasks = std::slice::from_ref(self.task);
        let (world, place) = (self.world, (self.begin.dir.as_path(), self.world.base().checkpoint.size()));
        let memory = plan.memory(tasks, &prepared.parameters, &balancer, place).map_err(refused)?;
        dry_run::check(&memory, world.common.max_memory)?;
        let tuned = tune::run(tune::Job {
            plan: &plan,
            tasks,
            parameters: prepared.parameters,
            sampler,
            balancer,
            base: &self.begin.dir,
            name: &world.base().label,
            run,
            carried,
            observer: world.shell,
        });
        tuned.map_err(Failure::job)
    }

    /// What came of it.
    fn record(&self, tuned: &Tuned, seconds: f64, run: &RunDir) -> Result<Value, Failure> {
        let path = run.path().join(METRICS);
        let text = std::fs::read_to_string(&path)
            .map_err(CheckpointError::io(&path, "read"))
            .map_err(Failure::job)?;
        let lines: Vec<Value> = text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
        let last = lines.iter().rfind(|line| line["kind"] == "validation");
        Ok(json!({
            "round": self.round,
            "task": self.task.name,
            "rows": self.task.train.len(),
            "steps": tuned.steps,
            "skipped": tuned.skipped,
            "tokens": tuned.tokens,
            "validation": last.map(|line| line["tasks"][&self.task.name].clone()),
            "seconds": seconds,
        }))
    }
}

/// Adds what is known of the vector.
fn of_vector(record: &mut Value, written: &Written, first_epoch: Option<f64>) {
    record["norm"] = json!(written.norm);
    // All of it, if there was no second epoch.
    let share = first_epoch.map_or(1.0, |first| first / written.norm);
    record["first_epoch"] = json!(Some(share).filter(|share| share.is_finite()));
}

fn keep_metrics(from: &Path, made: &Path) -> Result<(), CheckpointError> {
    match std::fs::read(from) {
        Ok(bytes) => write_file(&made.join(METRICS), &bytes, false),
        Err(_) => Ok(()),
    }
}

fn failed(error: Failed) -> Failure {
    match error {
        Failed::Tune(error) => Failure::job(error),
        Failed::Vector(error) => Failure::job(error),
        Failed::Written(error) => Failure::job(error),
    }
}

pub(super) fn pretty(value: &Value) -> Vec<u8> {
    let mut text = serde_json::to_vec_pretty(value).unwrap_or_default();
    text.push(b'\n');
    text
}
