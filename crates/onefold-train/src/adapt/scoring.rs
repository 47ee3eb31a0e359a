//! What experts, the merged model and what was before it score, as lines of `metrics.jsonl`.

use std::path::Path;

use onefold_checkpoint::Checkpoint;
use onefold_runtime::events::{Control, Event, Observer};

use super::blend::{Blend, Expert};
use super::error::AdaptError;
use super::log::{LogState, Logs};
use super::score::{self, Predictions, Score};
use super::settings::at_once;
use crate::data::Task;
use crate::statistics::Surgery;
use crate::tune::learner::Learner;

/// What the experts, their plain mean and the merged model score; lines of it stand in `metrics.jsonl`.
#[allow(missing_debug_implementations, reason = "an observer need not have it")]
pub struct Scoring<'a> {
    pub(super) blend: Blend,
    pub(super) learner: Learner,
    pub(super) inputs: &'a [Task],
    tests: &'a [Task],
    /// Most tokens that pass at once.
    pub(super) tokens: u64,
    pub(super) observer: &'a dyn Observer,
    pub(super) logs: Logs<'a>,
}

impl<'a> Scoring<'a> {
    /// Begins a log in the directory `run`; what stands in it is written anew. `blend` is the model without the weights.
    ///
    /// # Errors
    /// If the model cannot be built, or the system refuses.
    pub fn open(
        blend: Blend,
        tasks: (&'a [Task], &'a [Task]),
        tokens: u64,
        source: &Path,
        run: &Path,
        observer: &'a dyn Observer,
    ) -> Result<Self, AdaptError> {
        Self::with_log(blend, tasks, tokens, source, (run, LogState::default()), observer)
    }

    /// The same behind what stands in the log already.
    ///
    /// # Errors
    /// As [`Scoring::open`].
    pub fn go_on(
        blend: Blend,
        tasks: (&'a [Task], &'a [Task]),
        tokens: u64,
        source: &Path,
        run: &Path,
        observer: &'a dyn Observer,
    ) -> Result<Self, AdaptError> {
        Self::with_log(blend, tasks, tokens, source, (run, LogState::found(run)), observer)
    }

    fn with_log(
        blend: Blend,
        (inputs, tests): (&'a [Task], &'a [Task]),
        tokens: u64,
        source: &Path,
        (run, log): (&Path, LogState),
        observer: &'a dyn Observer,
    ) -> Result<Self, AdaptError> {
        let learner = blend.learner(source)?;
        let tokens = at_once(tokens, &learner);
        let logs = Logs::open(run, log, inputs, observer)?;
        Ok(Self { blend, learner, inputs, tests, tokens, observer, logs })
    }

    /// Writes down on how many examples the expert of a task was measured.
    ///
    /// # Errors
    /// If the system refuses.
    pub fn measured(&mut self, task: usize, examples: u64) -> Result<(), AdaptError> {
        Ok(self.logs.measured(&self.inputs[task].name, examples)?)
    }

    /// Scores each task's expert (`experts` says which) on its rows, and the plain mean of all experts on all.
    ///
    /// # Errors
    /// If a model cannot be read or run, or the observer asks to stop.
    pub fn before(&mut self, experts: &[usize]) -> Result<(), AdaptError> {
        if self.tests.is_empty() {
            return Ok(());
        }
        for (task, expert) in experts.iter().enumerate() {
            self.blend.set_expert(*expert)?;
            if let Some(score) = self.task(task, None)? {
                self.logs.expert(&self.inputs[task].name, &score)?;
            }
        }
        let share = 1.0 / self.blend.experts() as f64;
        let mean = vec![vec![share; self.blend.experts()]; self.blend.groups().len()];
        self.blend.set(&mean)?;
        self.all(0, "the plain mean")
    }

    /// Scores the merged model on all tasks; `merged` is one of the models that came out.
    ///
    /// # Errors
    /// As [`Scoring::before`].
    pub fn after(&mut self, merged: &Checkpoint) -> Result<(), AdaptError> {
        if self.tests.is_empty() {
            return Ok(());
        }
        self.set_merged(merged)?;
        self.all(1, "merged")
    }

    /// Sets the weights to those of the merged model.
    pub(super) fn set_merged(&mut self, merged: &Checkpoint) -> Result<(), AdaptError> {
        self.blend.set_from(&Expert { name: "the merged model", checkpoint: merged })
    }

    fn all(&mut self, step: u64, when: &str) -> Result<(), AdaptError> {
        let mut scores = Vec::new();
        for task in 0..self.inputs.len() {
            scores.extend(self.task(task, None)?.map(|score| (self.inputs[task].name.clone(), score)));
        }
        self.logs.scores(step, when, &scores)?;
        scores.iter().for_each(|(name, score)| self.watch(when, name, score));
        Ok(())
    }

    /// Warns of predictions that seem to have collapsed.
    pub(super) fn watch(&self, when: &str, task: &str, score: &Score) {
        if let Some(why) = score.predictions.as_ref().and_then(Predictions::collapse) {
            let message = format!("{when}: task `{task}` seems to collapse: {why}");
            self.observer.event(&Event::Warning { message: &message });
        }
    }

    /// The score of a task, with its features corrected if `surgery` is there; none without rows for it.
    pub(super) fn task(
        &mut self,
        task: usize,
        surgery: Option<&Surgery>,
    ) -> Result<Option<Score>, AdaptError> {
        let go_on = || self.observer.event(&Event::Progress { bytes: 0 }) == Control::Continue;
        let tests = (self.inputs, self.tests);
        let found =
            score::of_task(&self.blend, &mut self.learner, tests, (task, surgery), self.tokens, &go_on)?;
        found.map_err(|()| AdaptError::Stopped)
    }
}
