//! AdaMerging: how much of each expert goes into a merge, learnt from inputs without labels (Yang et al., ICLR 2024,
//! arXiv 2310.02575).
//!
//! ```text
//! coefficients λ ─ Blend::set ─▶ merged weights ─ rows ─▶ entropy ─ back ─▶ gradient of a tensor ─ ⟨·, vₖ⟩ ─▶ ∂L/∂λ
//!       ▲                                                                                                   │
//!       └────────────────────────────────────────────── Adam ◀──────────────────────────────────────────────┘
//! ```
//!
//! [`Blend::open`] matches a base and its experts, [`run`] learns; what comes out are numbers, of which `onefold merge` makes the
//! model. Memory holds one merged model, activations, and one tensor's gradient; experts stay in their files.
//!
//! Everything is a function of the recipe and of the number of the step, so that a run that is stopped goes on as if nothing had
//! been; nothing depends on the number of threads.

mod blend;
mod coefficients;
mod error;
mod log;
mod measure;
mod memory;
mod score;
mod scoring;
mod settings;
mod state;
mod step;
mod surgery;
mod teller;
#[cfg(test)]
mod tests;

use std::path::Path;

use onefold_checkpoint::output::RunDir;
use onefold_runtime::events::{Control, Event, Observer};

pub use blend::{Blend, Expert, Method, head_tensors, tells};
pub use error::AdaptError;
pub use log::METRICS;
pub use measure::{Measure, Measuring, measuring_memory};
pub use memory::{Memory, memory};
pub use score::{Predictions, Score};
pub use scoring::Scoring;
pub use settings::{Adam, Aim, Clamp, Granularity, Patience, Settings, Start};
pub use surgery::{Corrected, Correction, Distance, Operation, corrections};
pub use teller::Teller;
pub(crate) use teller::vectors as class_vectors;

use crate::data::Task;
use crate::data::shape::Kind;
use crate::tune::learner::Learner;
use coefficients::Coefficients;
use log::Logs;
use settings::at_once;
use state::State;
use step::{Draws, Stepper};

/// Learning that is about to begin, or to go on.
#[allow(missing_debug_implementations, reason = "an observer need not have it")]
pub struct Job<'a> {
    /// How.
    pub settings: &'a Settings,
    /// The model; its weights are set here.
    pub blend: Blend,
    /// The tasks' inputs, as their `train` rows.
    pub inputs: &'a [Task],
    /// Rows to score with, of each task by name; may be fewer.
    pub tests: &'a [Task],
    /// The expert of each task, against which it is measured; none of what all models do.
    pub experts: &'a [Option<usize>],
    /// Directory with the tokenizer's and image processor's files.
    pub source: &'a Path,
    /// Where states and logs go.
    pub run: &'a RunDir,
    /// Is told how it goes.
    pub observer: &'a dyn Observer,
}

/// What came of it.
#[derive(Debug)]
pub struct Adapted {
    /// The coefficients as they multiply task vectors: `[group][expert]`.
    pub lambda: Vec<Vec<f64>>,
    /// Labels of the groups.
    pub groups: Vec<String>,
    /// Steps that were made.
    pub steps: u64,
    /// The step whose coefficients these are.
    pub kept: u64,
    /// Why learning ended before its last step, if it did.
    pub ended: Option<String>,
}

/// Learns. If `job.run` has a saved state, from there.
///
/// # Errors
/// If something cannot be read, run or written. If the observer asks to stop, the state is saved first.
pub fn run(job: Job<'_>) -> Result<Adapted, AdaptError> {
    check(job.settings, job.inputs)?;
    let mut session = Session::open(job)?;
    session.begin()?;
    while session.state.ended.is_none() && session.state.step < session.settings.steps {
        session.step()?;
    }
    session.end()
}

/// Judges what can be known before anything runs.
///
/// # Errors
/// If a task has fewer inputs than a step takes, or none, or there is not one weight for each.
pub fn check(settings: &Settings, inputs: &[Task]) -> Result<(), AdaptError> {
    let wanted = settings.batch * settings.batches;
    for task in inputs {
        let rows = task.train.len();
        if rows == 0 {
            return Err(AdaptError::task(&task.name, "it has no inputs"));
        }
        if wanted > rows {
            let message = format!(
                "{rows} inputs, and a step takes {wanted} of each task (`batch.examples` times `batch.batches`); lower these, or \
                 give more inputs"
            );
            return Err(AdaptError::task(&task.name, message));
        }
    }
    if settings.diversity > 0.0
        && let Some(task) = inputs.iter().find(|task| task.kind == Kind::Generate)
    {
        let message = format!("it is of predictions of classes, and task `{}` is written", task.name);
        return Err(AdaptError::setting("diversity", message));
    }
    if settings.weights.len() != inputs.len() {
        let message = format!("{} weights for {} tasks", settings.weights.len(), inputs.len());
        return Err(AdaptError::setting("tasks", message));
    }
    Ok(())
}

/// Learning under way.
struct Session<'a> {
    settings: &'a Settings,
    blend: Blend,
    learner: Learner,
    stepper: Stepper,
    draws: Draws,
    inputs: &'a [Task],
    tests: &'a [Task],
    experts: &'a [Option<usize>],
    run: &'a RunDir,
    observer: &'a dyn Observer,
    state: State,
    logs: Logs<'a>,
    resumed: bool,
    saved: Option<u64>,
}

impl<'a> Session<'a> {
    fn open(job: Job<'a>) -> Result<Self, AdaptError> {
        let Job { settings, mut blend, inputs, tests, experts, source, run, observer } = job;
        let learner = blend.learner(source)?;
        let start = Coefficients::new(blend.start(&settings.start)?, settings);
        let saved = run.checkpoints().last().copied();
        let state = match saved {
            Some(step) => State::load(&run.checkpoint(step), &start)?,
            None => State::new(start),
        };
        let logs = Logs::open(run.path(), state.log, inputs, observer)?;
        blend.set(&state.coefficients.used(settings))?;
        Ok(Self {
            settings,
            blend,
            learner,
            stepper: Stepper::new(inputs.len()),
            draws: Draws::new(inputs.len(), settings),
            inputs,
            tests,
            experts,
            run,
            observer,
            state,
            logs,
            resumed: saved.is_some(),
            saved,
        })
    }

    /// What comes before the first step: what experts and the beginning score.
    fn begin(&mut self) -> Result<(), AdaptError> {
        let (done, total) = (self.state.step, self.settings.steps);
        self.observer.event(&Event::Steps { name: "adapt", done, total });
        if self.resumed {
            let message = format!("going on after step {done}");
            self.observer.event(&Event::Note { message: &message });
            return Ok(());
        }
        self.score_experts()?;
        self.blend.set(&self.state.coefficients.used(self.settings))?;
        self.score()?;
        Ok(())
    }

    /// Scores each expert on its own task: what the merged model is measured against.
    fn score_experts(&mut self) -> Result<(), AdaptError> {
        for (task, expert) in self.experts.iter().enumerate() {
            let Some(expert) = *expert else { continue };
            let name = self.inputs[task].name.clone();
            if self.tests.iter().any(|test| test.name == name) {
                self.blend.set_expert(expert)?;
                if let Some(score) = self.score_task(task)? {
                    self.logs.expert(&name, &score)?;
                }
            }
        }
        Ok(())
    }

    /// Scores all tasks that have rows for it.
    fn score(&mut self) -> Result<(), AdaptError> {
        let mut scores = Vec::new();
        for task in 0..self.inputs.len() {
            scores.extend(self.score_task(task)?.map(|score| (self.inputs[task].name.clone(), score)));
        }
        let step = self.state.step;
        self.logs.scores(step, &format!("step {step}"), &scores)?;
        for (name, score) in &scores {
            if let Some(why) = score.predictions.as_ref().and_then(Predictions::collapse) {
                let message = format!("step {}: task `{name}` seems to collapse: {why}", self.state.step);
                self.observer.event(&Event::Warning { message: &message });
            }
        }
        Ok(())
    }

    /// The score of a task by its number among the inputs; none without rows for it.
    fn score_task(&mut self, task: usize) -> Result<Option<Score>, AdaptError> {
        let tokens = at_once(self.settings.tokens, &self.learner);
        let tests = (self.inputs, self.tests);
        let go_on = || self.observer.event(&Event::Progress { bytes: 0 }) == Control::Continue;
        let cancelled = || AdaptError::Cancelled { step: self.saved.unwrap_or(0) };
        score::of_task(&self.blend, &mut self.learner, tests, (task, None), tokens, &go_on)?
            .map_err(|()| cancelled())
    }

    /// A step, and what is due after it.
    fn step(&mut self) -> Result<(), AdaptError> {
        let Self { settings, blend, learner, stepper, draws, inputs, state, .. } = self;
        let rows = draws.rows(inputs, state.step);
        let stepped = stepper.step(blend, learner, (inputs, rows), settings, state.step)?;
        state.coefficients.step(&stepped.gradients, settings);
        state.step += 1;
        let used = state.coefficients.used(settings);
        blend.set(&used)?;
        self.logs.add(&stepped);
        let step = self.state.step;
        let is_last = step >= self.settings.steps;
        let is_due = |every: u64| is_last || step.is_multiple_of(every);
        if is_due(self.settings.log) {
            let loss = self.logs.train(step, &used, self.settings)?;
            self.state.judge(loss, self.settings);
        }
        if is_last || self.state.ended.is_some() || self.settings.score.is_some_and(is_due) {
            self.score()?;
        }
        if self.state.ended.is_some() || is_due(self.settings.save) {
            self.save()?;
        }
        let status = self.logs.status();
        if self.observer.event(&Event::Step { status: &status }) == Control::Cancel {
            if self.saved != Some(step) {
                self.save()?;
            }
            return Err(AdaptError::Cancelled { step });
        }
        Ok(())
    }

    fn save(&mut self) -> Result<(), AdaptError> {
        let step = self.state.step;
        self.state.log = self.logs.state()?;
        self.run.add(step, |dir| self.state.save(dir))?;
        self.saved = Some(step);
        self.run.prune(1, &[])?;
        Ok(())
    }

    fn end(mut self) -> Result<Adapted, AdaptError> {
        let step = self.state.step;
        if self.saved != Some(step) {
            self.save()?;
        }
        let groups = self.blend.groups().to_vec();
        let (lambda, kept) = match self.state.best {
            Some(best) => (best.lambda, best.step),
            None => (self.state.coefficients.used(self.settings), step),
        };
        Ok(Adapted { lambda, groups, steps: step, kept, ended: self.state.ended })
    }
}
