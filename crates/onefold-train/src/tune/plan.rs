//! What a training will do, from its settings and its data alone: steps, when what happens, how much memory it takes.

use onefold_balance::losses::Normalisation;
use onefold_balance::{Balancer, Task as Balanced};
use serde::Serialize;

use super::apart::are_kept;
use super::error::TuneError;
use super::learner::Learner;
use super::micro::{Rows, group};
use super::model::Prepared;
use super::output::{Product, products};
use super::settings::{Aggregate, Duration, Settings};
use crate::data::Content;
use crate::data::Task;
use crate::data::sample::{Mixture, Preview, Sampler, Source};
use crate::model::{BatchShape, Keep, Parameters};
use crate::schedule::Schedule;

/// A training, laid out.
#[derive(Debug, Clone)]
pub struct Plan {
    /// How to train.
    pub settings: Settings,
    /// Names of the tasks.
    pub names: Vec<String>,
    /// For each task whose head it has; none: the model's own.
    pub heads: Vec<Option<u32>>,
    /// The models that come out.
    pub products: Vec<Product>,
    /// Optimiser steps in all.
    pub steps: u64,
    /// Rows, or packed bins, in all, if the training is measured in epochs.
    pub units: Option<u64>,
    /// Steps of an epoch.
    pub steps_per_epoch: f64,
    /// The learning rate.
    pub schedule: Schedule,
    /// Steps between two validations.
    pub validate_every: Option<u64>,
    /// Steps between two checkpoints.
    pub checkpoint_every: Option<u64>,
    /// Rows of a draw of validation rows.
    pub draw: usize,
    /// Most tokens (or images) that pass the model at once when nothing is learnt of them.
    pub budget: u64,
    /// What an epoch holds.
    pub preview: Preview,
    /// Tokens and sequences of the largest micro-batch of the first epoch.
    pub largest: (usize, usize),
    /// Whether it is a part of something longer (`crate::alternate`), which keeps the result itself: then there is no
    /// checkpoint after the last step, and how far the first epoch has come is measured.
    pub is_part: bool,
}

/// Bytes of memory, by what they are for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Memory {
    /// Files of the model that are mapped: as far as they are read they count as memory of the process.
    pub files: u64,
    /// Numbers of the model in memory of their own.
    pub parameters: u64,
    /// Gradients: of the sum, and of each task if the balancer looks at them.
    pub gradients: u64,
    /// The optimiser's moments, and what the balancer keeps of gradients.
    pub state: u64,
    /// Activations of the largest micro-batch.
    pub activations: u64,
    /// Tokenised rows.
    pub data: u64,
}

impl Memory {
    /// All of it.
    pub fn total(&self) -> u64 {
        let Self { files, parameters, gradients, state, activations, data } = *self;
        files + parameters + gradients + state + activations + data
    }
}

impl Plan {
    /// Lays out the training of `prepared` on `tasks`, each with its share in the mixture; with the sampler and the balancer at
    /// their beginning. `weights` are the tasks' static weights.
    ///
    /// # Errors
    /// All that is wrong with settings of the balancer, or the first other setting that cannot be followed.
    pub fn new(
        settings: Settings,
        tasks: &[Task],
        prepared: &Prepared,
        (shares, weights): (&[f64], &[f64]),
        mixture: Mixture,
    ) -> Result<(Self, Sampler, Balancer), TuneError> {
        check(&settings, tasks)?;
        let packed = mixture.packing.map(|(_, length)| u64::from(length));
        let sources = tasks.iter().zip(shares).map(|(task, share)| Source::of(task, *share)).collect();
        let sampler = Sampler::new(sources, mixture)?;
        let balancer = balancer(&settings, tasks, weights)?;
        let epoch = sampler.plan(0).len() as u64;
        let examples = settings.batch.examples as u64;
        let (units, steps) = match settings.duration {
            Duration::Steps(steps) => (None, steps),
            Duration::Epochs(epochs) => {
                let units = units(&sampler, epochs);
                (Some(units), units.div_ceil(examples))
            }
        };
        let steps_per_epoch = epoch as f64 / examples as f64;
        let names: Vec<_> = tasks.iter().map(|task| task.name.clone()).collect();
        let heads = prepared.heads.clone();
        let plan = Self {
            schedule: settings.schedule.over(steps)?,
            validate_every: settings.validation.every.steps(steps_per_epoch),
            checkpoint_every: settings.checkpoints.every.steps(steps_per_epoch),
            draw: settings.validation.batch.unwrap_or(settings.batch.micro).max(tasks.len()),
            budget: budget(tasks, settings.batch.micro as u64, packed),
            preview: sampler.preview(),
            largest: largest(
                &settings,
                tasks,
                &heads,
                (&sampler, is_apart(&balancer, steps)),
                (steps, units),
            ),
            products: products(&names, &heads),
            settings,
            names,
            heads,
            steps,
            units,
            steps_per_epoch,
            is_part: false,
        };
        Ok((plan, sampler, balancer))
    }

    /// The memory of the training.
    ///
    /// # Errors
    /// If the model cannot be built.
    pub fn memory(
        &self,
        tasks: &[Task],
        parameters: &Parameters,
        balancer: &Balancer,
        (base, files): (&std::path::Path, u64),
    ) -> Result<Memory, TuneError> {
        use onefold_balance::Gradients as Kind;
        let trained: usize = parameters.trainable().map(|(_, parameter)| parameter.len()).sum();
        let kind = balancer.needs(self.settings_steps()).gradients;
        let apart = if are_kept(&kind) { tasks.len() } else { 0 };
        let kept = if matches!(kind, Kind::Averages { .. } | Kind::Excess) { tasks.len() } else { 0 };
        let twice = usize::from(matches!(kind, Kind::Lookahead { .. }));
        let learner = Learner::new(parameters, base)?;
        let keep = if self.settings.checkpointing { Keep::Inputs } else { Keep::Everything };
        let (rows, sequences) = self.largest;
        let rows = rows * learner.rows_per_token();
        let shape = BatchShape { rows, sequences, keep, dropout: true };
        let seen = self.budget as usize * learner.rows_per_token();
        // Whatever the number of its sequences: they take next to nothing beside their rows.
        let validation = BatchShape { rows: seen, sequences, keep: Keep::Nothing, dropout: false };
        let activations = [shape, validation].map(|shape| learner.activation_bytes(parameters, &shape));
        let bytes = trained * size_of::<f32>();
        Ok(Memory {
            files,
            parameters: parameters.bytes() as u64,
            gradients: ((1 + apart + twice) * bytes) as u64,
            state: (self.settings.optimizer.moments() * bytes + kept * bytes) as u64,
            activations: activations[0].max(activations[1]) as u64,
            data: tasks.iter().map(data_bytes).sum(),
        })
    }

    /// The step that ends the first epoch, if there are others after it.
    pub(super) fn first_epoch(&self) -> Option<u64> {
        let step = self.steps_per_epoch.ceil() as u64;
        (step < self.steps).then_some(step)
    }

    /// A step at which balancers have begun to balance.
    fn settings_steps(&self) -> u64 {
        self.steps.saturating_sub(1)
    }
}

fn check(settings: &Settings, tasks: &[Task]) -> Result<(), TuneError> {
    let positive = |key: &str, number: u64| match number {
        0 => Err(TuneError::setting(key, "expected at least 1, found 0")),
        _ => Ok(()),
    };
    positive("batch.examples", settings.batch.examples as u64)?;
    positive("batch.micro", settings.batch.micro as u64)?;
    positive("log", settings.log)?;
    positive("checkpoints.keep", settings.checkpoints.keep as u64)?;
    if let Duration::Epochs(epochs) = settings.duration
        && !(epochs.is_finite() && epochs > 0.0)
    {
        return Err(TuneError::setting("epochs", format!("expected a number above 0, found {epochs}")));
    }
    if let Duration::Steps(steps) = settings.duration {
        positive("steps", steps)?;
    }
    if let Aggregate::Task(name) = &settings.progress.aggregate {
        let task = tasks.iter().find(|task| task.name == *name);
        let task = task.ok_or_else(|| TuneError::setting("best.by", format!("there is no task `{name}`")))?;
        if task.validation.is_empty() {
            return Err(TuneError::setting("best.by", format!("task `{name}` has no validation rows")));
        }
    }
    let progress = &settings.progress;
    let watched = progress.keep_best || progress.patience.is_some() || progress.task_patience.is_some();
    if watched && tasks.iter().all(|task| task.validation.is_empty()) {
        let message = "no task has validation rows to judge progress by; give some tasks `validation`, or leave the key out";
        return Err(TuneError::setting("best", message));
    }
    Ok(())
}

fn balancer(settings: &Settings, tasks: &[Task], weights: &[f64]) -> Result<Balancer, TuneError> {
    let of = |(task, weight): (&Task, &f64)| Balanced { name: task.name.clone(), weight: *weight };
    let balanced: Vec<_> = tasks.iter().zip(weights).map(of).collect();
    let made = Balancer::new(&settings.balancer, &balanced, settings.seed);
    let balancer = made.map_err(TuneError::BalancerSettings)?;
    let method = balancer.method();
    if matches!(settings.normalisation, Normalisation::Case1 | Normalisation::Case2)
        && method.name != "uniform"
    {
        let message = format!(
            "`tokens` and `rows` count all tasks' tokens or rows alike, and the weights of the balancer `{}` would have no effect; take \
             `tasks` or `tasks_rows`, or `balancer: uniform`",
            method.name
        );
        return Err(TuneError::setting("loss.normalisation", message));
    }
    if let Some(task) = tasks.iter().find(|task| method.validation && task.validation.is_empty()) {
        let message = format!(
            "the balancer `{}` needs validation rows of every task; give this one `validation` (a file, or a part such as 0.05), or \
             choose another balancer",
            method.name
        );
        return Err(TuneError::task(&task.name, message));
    }
    if let Some((task, _)) =
        tasks.iter().zip(weights).find(|(_, weight)| !method.task_weights && **weight != 1.0)
    {
        let message =
            format!("`weight` has no effect with the balancer `{}`; use `kind: static`", method.name);
        return Err(TuneError::task(&task.name, message));
    }
    Ok(balancer)
}

/// Units of so many epochs.
fn units(sampler: &Sampler, epochs: f64) -> u64 {
    let whole = epochs.floor() as u64;
    // Packed epochs differ in their bins; beyond these they are taken to be as long as the first.
    let counted = if sampler.is_packed() { whole.min(COUNTED) } else { 0 };
    let others = (whole - counted).saturating_mul(sampler.epoch_len() as u64);
    let full = (0..counted).map(|epoch| sampler.plan(epoch).len() as u64).sum::<u64>().saturating_add(others);
    let rest = epochs - epochs.floor();
    let part = if rest > 0.0 { (rest * sampler.plan(whole).len() as f64).round() as u64 } else { 0 };
    full.saturating_add(part).max(1)
}

/// Tokens that pass the model at once in validation: as many as in training, about.
fn budget(tasks: &[Task], micro: u64, packed: Option<u64>) -> u64 {
    let longest = || tasks.iter().flat_map(Task::lengths).max().unwrap_or(1);
    micro * packed.unwrap_or_else(|| u64::from(longest()))
}

/// Epochs whose bins are counted one by one.
const COUNTED: u64 = 1000;
/// Rows, or bins, that are looked at for the largest micro-batch.
const LOOKED_AT: usize = 200_000;

/// Whether the balancer wants micro-batches of one task, once it balances.
fn is_apart(balancer: &Balancer, steps: u64) -> bool {
    let kind = balancer.needs(steps.saturating_sub(1)).gradients;
    are_kept(&kind) || kind == onefold_balance::Gradients::Norms
}

/// Tokens and sequences of the largest micro-batch of the training, or of its beginning if it is long.
fn largest(
    settings: &Settings,
    tasks: &[Task],
    heads: &[Option<u32>],
    (sampler, apart): (&Sampler, bool),
    (steps, units): (u64, Option<u64>),
) -> (usize, usize) {
    let examples = settings.batch.examples;
    let all = units.unwrap_or_else(|| steps.saturating_mul(examples as u64));
    let most = usize::try_from(all).unwrap_or(usize::MAX).min(LOOKED_AT.max(examples));
    let mut groups = Vec::new();
    for epoch in 0.. {
        let epoch = sampler.plan(epoch);
        groups.extend(epoch.units().take(most - groups.len()).map(|unit| group(tasks, unit)));
        if groups.len() >= most || epoch.is_empty() {
            break;
        }
    }
    let mut largest = (0, 0);
    for step in groups.chunks(examples) {
        let rows = Rows::cut(step.to_vec(), heads, settings.batch.micro, apart);
        for at in &rows.micro {
            let passed = &rows.rows[at.rows.clone()];
            let tokens: u64 = passed.iter().map(|row| row.tokens).sum();
            largest = largest.max((tokens as usize, passed.len()));
        }
    }
    largest
}

pub(crate) fn data_bytes(task: &Task) -> u64 {
    match &task.content {
        Content::Tokens(store) => store.bytes() as u64,
        Content::Images(pictures) => (pictures.len() * size_of::<crate::data::shape::Picture>()) as u64,
    }
}
