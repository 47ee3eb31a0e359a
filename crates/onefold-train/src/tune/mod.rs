//! Several tasks, one model, trained together.
//!
//! ```text
//! tasks ─ Sampler ─▶ rows of a step ─ cut ─▶ micro-batches ─ Runner ─▶ gradients ─▶ Optimizer
//!                         │                     ▲ weights                              │
//!                         └──── Balancer ───────┘◀──── losses, gradients, validation ──┘
//! ```
//!
//! [`Plan::new`] lays everything out, [`run`] does it: a loop over steps, with validations, log lines and checkpoints in between.
//! Everything that has memory over steps is in `trainer.rs`, and saves and restores its state (`state`): a run that is killed goes
//! on from its last checkpoint as if nothing had been.
//!
//! Nothing depends on the number of threads, and the update does not depend on how a step is cut into micro-batches but for
//! rounding, and for dropout, whose coins are drawn per micro-batch.

mod apart;
mod error;
pub(crate) mod learner;
mod log;
pub(crate) mod micro;
pub(crate) mod model;
mod output;
pub(crate) mod plan;
mod progress;
mod runner;
mod settings;
mod state;
#[cfg(test)]
pub(crate) mod tests;
mod trainer;
mod validation;

use std::path::Path;

use onefold_balance::Balancer;
use onefold_checkpoint::output::RunDir;
use onefold_engine::cpu::loss::TaskLoss;
use onefold_runtime::events::{Control, Event, Observer};
use serde_json::{Value, json};

pub use error::TuneError;
pub use log::{EVENTS, METRICS};
pub use model::Prepared;
pub use output::{Form, Product, Source, products, save};
pub use plan::{Memory, Plan};
pub use settings::*;
pub use state::save_optimizer;
pub use validation::{Scored, scores};

use crate::data::Task;
use crate::data::sample::Sampler;
use crate::model::Parameters;
use crate::optimizer::Optimizer;
use learner::Learner;
use log::{At, Logs};
use progress::{Progress, Verdict};
use runner::{Runner, means};
use state::State;
use trainer::Trainer;

/// A training that is about to begin, or to go on.
#[allow(missing_debug_implementations, reason = "an observer need not have it")]
pub struct Job<'a> {
    /// What to do.
    pub plan: &'a Plan,
    /// The tasks' rows.
    pub tasks: &'a [Task],
    /// Numbers of the model.
    pub parameters: Parameters,
    /// Gives rows.
    pub sampler: Sampler,
    /// Gives weights.
    pub balancer: Balancer,
    /// Directory of the model that is trained.
    pub base: &'a Path,
    /// What the recipe calls it.
    pub name: &'a str,
    /// Where checkpoints and logs go.
    pub run: &'a RunDir,
    /// What [`save_optimizer`] has left of another training of the same parameters, to go on with; else the optimiser is new.
    pub carried: Option<&'a Path>,
    /// Is told how it goes.
    pub observer: &'a dyn Observer,
}

/// What came of a training.
#[derive(Debug)]
pub struct Tuned {
    /// Numbers of the model, those of the best step if that is wanted.
    pub parameters: Parameters,
    /// Steps that were made.
    pub steps: u64,
    /// The step after which the model was best, and its aggregate, if that was measured.
    pub best: Option<(u64, f64)>,
    /// The step whose numbers these are.
    pub kept: u64,
    /// Steps that were left out.
    pub skipped: u64,
    /// Tokens that were learnt from.
    pub tokens: u64,
    /// Why the training ended before its last step, if it did.
    pub ended: Option<String>,
    /// The optimiser after the last step.
    pub optimizer: Optimizer,
    /// How far the first epoch has come, if there were others and [`Plan::is_part`] asked for it.
    pub first_epoch: Option<f64>,
}

/// Trains. If `job.run` has a checkpoint, from there.
///
/// # Errors
/// If something cannot be read, run or written; the last checkpoint is intact then. If the observer asks to stop, a checkpoint
/// is made first.
pub fn run(job: Job<'_>) -> Result<Tuned, TuneError> {
    let mut session = Session::open(job)?;
    session.begin()?;
    while session.ended.is_none() && session.trainer.counters.step < session.plan.steps {
        session.step()?;
    }
    session.end()
}

/// A training under way.
struct Session<'a> {
    plan: &'a Plan,
    trainer: Trainer<'a>,
    progress: Progress,
    logs: Logs<'a>,
    base: &'a Path,
    name: &'a str,
    run: &'a RunDir,
    observer: &'a dyn Observer,
    /// Why it is over before its last step.
    ended: Option<String>,
    resumed: bool,
    /// The step of the last checkpoint.
    saved: Option<u64>,
    /// Whether what is due after the last step is still to be done.
    pending: bool,
    /// How far the first epoch has come.
    first_epoch: Option<f64>,
}

impl<'a> Session<'a> {
    fn open(job: Job<'a>) -> Result<Self, TuneError> {
        let Job { plan, tasks, parameters, sampler, balancer, base, name, run, carried, observer } = job;
        let learner = Learner::new(&parameters, base)?;
        let mut trainer = Trainer::new(plan, Runner::new(tasks, parameters, learner), sampler, balancer);
        let saved = run.checkpoints().last().copied();
        let state = match (saved, carried) {
            (Some(step), _) => Some(State::load(&mut trainer, &run.checkpoint(step))?),
            (None, Some(dir)) => {
                state::load_optimizer(&mut trainer, dir)?;
                None
            }
            (None, None) => None,
        };
        let resumed = state.is_some();
        let first_epoch = state.as_ref().and_then(|state| state.first_epoch);
        let (progress, log, ended, pending) = state
            .map_or_else(Default::default, |state| (state.progress, state.log, state.ended, state.pending));
        let logs = Logs::open(run.path(), log, &plan.names, observer)?;
        Ok(Self {
            plan,
            trainer,
            progress,
            logs,
            base,
            name,
            run,
            observer,
            ended,
            resumed,
            saved,
            pending,
            first_epoch,
        })
    }

    /// What comes before the first step: the losses that some balancers compare with, and the first validation.
    fn begin(&mut self) -> Result<(), TuneError> {
        let done = self.trainer.counters.step;
        self.observer.event(&Event::Steps { name: "train", done, total: self.plan.steps });
        if self.resumed {
            let message = format!("going on after step {done}");
            self.observer.event(&Event::Note { message: &message });
            return if self.pending { self.after("") } else { Ok(()) };
        }
        let reference = self.trainer.balancer.needs(0).reference;
        let validates = self.plan.validate_every.is_some() && self.has_validation();
        if !reference && !validates {
            return Ok(());
        }
        let stopped = TuneError::Cancelled { step: self.saved.unwrap_or(0) };
        let sums = self.losses()?.ok_or(stopped)?;
        if reference {
            let losses: Option<Vec<f64>> = means(&sums).into_iter().collect();
            let losses =
                losses.ok_or_else(|| TuneError::setting("validation", "a task has no validation rows"))?;
            self.trainer.balancer.begin(&losses)?;
        }
        if validates {
            let verdict = Verdict::of_beginning(&self.plan.settings.progress, &self.plan.names, &sums);
            self.logs.validation(self.at(), &sums, &verdict)?;
        }
        Ok(())
    }

    /// A step, and what is due after it.
    fn step(&mut self) -> Result<(), TuneError> {
        let stepped = self.trainer.step()?;
        for message in &stepped.warnings {
            self.observer.event(&Event::Warning { message });
        }
        self.logs.add(&stepped);
        let step = self.trainer.counters.step;
        let is_last = step >= self.plan.steps;
        if self.plan.is_part && self.plan.first_epoch() == Some(step) {
            self.first_epoch = crate::alternate::travelled(&self.trainer.runner.parameters);
        }
        if step.is_multiple_of(self.plan.settings.log) || is_last {
            let figures = self.trainer.balancer.figures();
            self.logs.train(self.at(), stepped.rate, &figures)?;
        }
        self.after(&status(&self.plan.names, &stepped.losses))
    }

    /// What is due after a step: a validation, a checkpoint.
    fn after(&mut self, status: &str) -> Result<(), TuneError> {
        let step = self.trainer.counters.step;
        let is_last = step >= self.plan.steps;
        let is_due = |every: Option<u64>| is_last || every.is_some_and(|every| step.is_multiple_of(every));
        let mut is_best = false;
        if is_due(self.plan.validate_every) && self.has_validation() {
            // The step is made, what follows it is not: both are saved.
            let was_pending = std::mem::replace(&mut self.pending, true);
            match self.losses()? {
                Some(sums) => is_best = self.judge(&sums)?,
                None if was_pending => return Err(TuneError::Cancelled { step }),
                None => return Err(self.cancel()),
            }
        }
        self.pending = false;
        let keeps = self.plan.settings.progress.keep_best && is_best;
        let is_kept_elsewhere = self.plan.is_part && is_last;
        if keeps || self.ended.is_some() || is_due(self.plan.checkpoint_every) && !is_kept_elsewhere {
            self.save()?;
        }
        if self.observer.event(&Event::Step { status }) == Control::Cancel {
            return Err(self.cancel());
        }
        Ok(())
    }

    /// Saves, and says that the training goes on from there.
    fn cancel(&mut self) -> TuneError {
        let step = self.trainer.counters.step;
        match if self.saved == Some(step) { Ok(()) } else { self.save() } {
            Ok(()) => TuneError::Cancelled { step },
            Err(error) => error,
        }
    }

    fn has_validation(&self) -> bool {
        self.trainer.runner.tasks.iter().any(|task| !task.validation.is_empty())
    }

    /// Losses of all validation rows; none if the observer asks to stop.
    fn losses(&mut self) -> Result<Option<Vec<TaskLoss>>, TuneError> {
        let Self { trainer, plan, observer, .. } = self;
        let go_on = || observer.event(&Event::Progress { bytes: 0 }) == Control::Continue;
        let step = trainer.counters.step;
        validation::all(&mut trainer.runner, &plan.heads, plan.budget, step, &go_on)
    }

    /// Writes down what validation shows; whether it is the best so far.
    fn judge(&mut self, sums: &[TaskLoss]) -> Result<bool, TuneError> {
        let settings = &self.plan.settings.progress;
        let step = self.trainer.counters.step;
        let mut verdict = self.progress.take(settings, &self.plan.names, sums, step);
        // A part is judged by what it is a part of.
        verdict.is_best &= !self.plan.is_part;
        self.logs.validation(self.at(), sums, &verdict)?;
        self.ended = verdict.end.clone();
        Ok(verdict.is_best)
    }

    fn at(&self) -> At {
        let counters = self.trainer.counters;
        let sampler = self.trainer.sampler.state();
        let length = self.trainer.sampler.epoch_len().max(1);
        At { counters, epoch: sampler.epoch as f64 + sampler.position as f64 / length as f64 }
    }

    /// Makes a checkpoint, and removes those that are not to be kept.
    fn save(&mut self) -> Result<(), TuneError> {
        let step = self.trainer.counters.step;
        let (ended, log) = (self.ended.clone(), self.logs.state()?);
        let mut state = State::of(&self.trainer, &self.progress, log, (ended, self.pending));
        state.first_epoch = self.first_epoch;
        let source = Source { parameters: &self.trainer.runner.parameters, base: self.base, name: self.name };
        let described = self.trainer_state()?;
        self.run.add(step, |dir| state.save(&self.trainer, &source, &self.plan.products, &described, dir))?;
        self.saved = Some(step);
        self.prune()
    }

    /// Removes checkpoints that are not to be kept.
    fn prune(&self) -> Result<(), TuneError> {
        let best = self.progress.best.filter(|_| self.plan.settings.progress.keep_best);
        let spare: Vec<u64> = best.map(|(_, step)| step).into_iter().collect();
        self.run.prune(self.plan.settings.checkpoints.keep, &spare)?;
        Ok(())
    }

    /// The state as the trainer of transformers writes it, for tools that read that.
    fn trainer_state(&self) -> Result<Value, TuneError> {
        let at = self.at();
        let best = self.progress.best;
        Ok(json!({
            "best_global_step": best.map(|(_, step)| step),
            "best_metric": best.map(|(value, _)| value),
            "best_model_checkpoint": best.map(|(_, step)| format!("checkpoint-{step}")),
            "epoch": at.epoch,
            "global_step": at.counters.step,
            "is_hyper_param_search": false,
            "is_local_process_zero": true,
            "is_world_process_zero": true,
            "log_history": self.logs.history()?,
            "logging_steps": self.plan.settings.log,
            "max_steps": self.plan.steps,
            "num_input_tokens_seen": at.counters.tokens,
            "save_steps": self.plan.checkpoint_every,
            "train_batch_size": self.plan.settings.batch.micro,
        }))
    }

    /// The result, with the numbers of the best step if that is wanted.
    fn end(mut self) -> Result<Tuned, TuneError> {
        let counters = self.trainer.counters;
        if self.saved == Some(counters.step) {
            // A run may have been killed between a checkpoint and the removal of older ones.
            self.prune()?;
        } else if !self.plan.is_part {
            self.save()?;
        }
        let best = self.progress.best.map(|(value, step)| (step, value));
        let mut parameters = self.trainer.runner.parameters;
        let wanted = best.filter(|_| self.plan.settings.progress.keep_best).map(|(step, _)| step);
        let kept = wanted.unwrap_or(counters.step);
        if kept != counters.step {
            state::load_parameters(&mut parameters, &self.run.checkpoint(kept))?;
        }
        let (steps, skipped, tokens, ended) = (counters.step, counters.skipped, counters.tokens, self.ended);
        let (optimizer, first_epoch) = (self.trainer.optimizer, self.first_epoch);
        Ok(Tuned { parameters, steps, best, kept, skipped, tokens, ended, optimizer, first_epoch })
    }
}

/// The mean losses of a step, for a progress bar.
fn status(names: &[String], losses: &[TaskLoss]) -> String {
    let shown =
        names.iter().zip(means(losses)).filter_map(|(name, loss)| Some(format!("{name} {:.3}", loss?)));
    shown.collect::<Vec<_>>().join(" ")
}
