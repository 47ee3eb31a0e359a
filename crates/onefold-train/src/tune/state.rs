//! Checkpoints: everything that has memory over steps, in `checkpoint-N/`.
//!
//! | file | what |
//! |---|---|
//! | the model, or its adapters | as they are after step N; loads in transformers or PEFT. Not if tasks have heads of their own |
//! | `trainer_state.json` | steps, epochs and the log, as the trainer of transformers writes them |
//! | `onefold/state.json` | counters, sampler, balancer, what validations have shown, lengths of the logs |
//! | `onefold/state.safetensors` | trained numbers and the optimiser's moments in f32, and what the balancer keeps of gradients |
//!
//! From the last two a training goes on as if it had not been interrupted. Random numbers are functions of the seed and of the
//! counters, so they have no state.

use std::collections::BTreeMap;
use std::path::Path;

use onefold_checkpoint::Checkpoint;
use onefold_checkpoint::output::write_file;
use onefold_engine::Buffer;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::error::TuneError;
use super::log::LogState;
use super::output::{self, Form, Product, Source};
use super::progress::Progress;
use super::trainer::{Counters, Trainer};
use crate::data::sample::SamplerState;
use crate::model::{GradientSink, ParameterId, Parameters, finite, save_buffers};
use crate::optimizer::{Moments, Optimizer};

/// Directory of what only onefold reads.
const DIR: &str = "onefold";
/// Of the form of the state.
const FORMAT: u32 = 1;
/// The optimiser's moments, by name.
const MOMENTS: [&str; 2] = ["moment1", "moment2"];

/// The part of the state that is no tensor.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct State {
    format: u32,
    pub(super) counters: Counters,
    sampler: SamplerState,
    balancer: Value,
    optimizer_steps: u64,
    /// Steps in which each parameter was moved, by its name.
    moved: BTreeMap<String, u64>,
    draws: u64,
    pub(super) progress: Progress,
    pub(super) log: LogState,
    /// Why the training is over, if it is.
    pub(super) ended: Option<String>,
    /// Whether what is due after the step is still to be done: it was interrupted in its validation.
    #[serde(default)]
    pub(super) pending: bool,
    /// How far the first epoch has come, of a part of something longer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) first_epoch: Option<f64>,
}

/// The state of an optimiser alone.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct OptimizerState {
    format: u32,
    steps: u64,
    /// Steps in which each parameter was moved, by its name.
    moved: BTreeMap<String, u64>,
}

/// Writes the state of an optimiser to the directory `dir`, for another training of the same parameters to go on with.
///
/// # Errors
/// If the place is taken, or the system refuses.
pub fn save_optimizer(optimizer: &Optimizer, parameters: &Parameters, dir: &Path) -> Result<(), TuneError> {
    let moved = optimizer.state().map(|(id, moments)| (parameters[id].name.clone(), moments.steps)).collect();
    let state = OptimizerState { format: FORMAT, steps: optimizer.steps(), moved };
    save_buffers(dir, "state", &moments(optimizer, parameters), &[("state.json", pretty(&json!(state)))])?;
    Ok(())
}

/// Takes up what [`save_optimizer`] has left.
pub(super) fn load_optimizer(trainer: &mut Trainer<'_>, dir: &Path) -> Result<(), TuneError> {
    let path = dir.join("state.json");
    let wrong = |message: String| TuneError::State { path: path.clone(), message };
    let text = std::fs::read_to_string(&path).map_err(|error| wrong(format!("cannot be read: {error}")))?;
    let state: OptimizerState =
        serde_json::from_str(&text).map_err(|error| wrong(format!("no state: {error}")))?;
    if state.format != FORMAT {
        return Err(wrong(format!("form {}, expected {FORMAT}", state.format)));
    }
    let moments =
        Stored::at(dir.join("state.safetensors"))?.moments(&trainer.runner.parameters, &state.moved)?;
    trainer.optimizer.restore(state.steps, moments);
    Ok(())
}

impl State {
    /// The state of a trainer after a step.
    pub(super) fn of(
        trainer: &Trainer<'_>,
        progress: &Progress,
        log: LogState,
        (ended, pending): (Option<String>, bool),
    ) -> Self {
        let name = |id: ParameterId| trainer.runner.parameters[id].name.clone();
        Self {
            format: FORMAT,
            moved: trainer.optimizer.state().map(|(id, moments)| (name(id), moments.steps)).collect(),
            counters: trainer.counters,
            sampler: trainer.sampler.state(),
            balancer: trainer.balancer.state(),
            optimizer_steps: trainer.optimizer.steps(),
            draws: trainer.draws.taken(),
            progress: progress.clone(),
            log,
            ended,
            pending,
            first_epoch: None,
        }
    }

    /// Writes a checkpoint to `dir`, which does not exist yet.
    pub(super) fn save(
        &self,
        trainer: &Trainer<'_>,
        source: &Source<'_>,
        products: &[Product],
        trainer_state: &Value,
        dir: &Path,
    ) -> Result<(), TuneError> {
        if let [product] = products
            && product.head.is_none()
        {
            let form = if source.parameters.has_adapters() { Form::Adapter } else { Form::Model };
            output::save(source, products, form, dir)?;
        }
        let state = pretty(&json!(self));
        save_buffers(&dir.join(DIR), "state", &tensors(trainer), &[("state.json", state)])?;
        write_file(&dir.join("trainer_state.json"), &pretty(trainer_state), false)?;
        Ok(())
    }

    /// Reads the state of a checkpoint into a trainer of the same plan.
    pub(super) fn load(trainer: &mut Trainer<'_>, dir: &Path) -> Result<Self, TuneError> {
        let path = dir.join(DIR).join("state.json");
        let wrong = |message: String| TuneError::State { path: path.clone(), message };
        let text =
            std::fs::read_to_string(&path).map_err(|error| wrong(format!("cannot be read: {error}")))?;
        let state: Self = serde_json::from_str(&text).map_err(|error| wrong(format!("no state: {error}")))?;
        if state.format != FORMAT {
            return Err(wrong(format!("form {}, expected {FORMAT}", state.format)));
        }
        trainer.sampler.restore(state.sampler)?;
        trainer.balancer.restore(&state.balancer)?;
        trainer.draws.restore(state.draws);
        trainer.counters = state.counters;
        let stored = Stored::open(dir)?;
        stored.parameters(&mut trainer.runner.parameters)?;
        let moments = stored.moments(&trainer.runner.parameters, &state.moved)?;
        trainer.optimizer.restore(state.optimizer_steps, moments);
        for task in 0..trainer.runner.tasks.len() {
            stored.kept(trainer, task)?;
        }
        Ok(state)
    }
}

/// Reads the trained numbers of a checkpoint.
pub(super) fn load_parameters(parameters: &mut Parameters, dir: &Path) -> Result<(), TuneError> {
    Stored::open(dir)?.parameters(parameters)
}

/// All tensors of the state, with their names.
fn tensors<'a>(trainer: &'a Trainer<'_>) -> Vec<(String, &'a Buffer)> {
    let parameters = &trainer.runner.parameters;
    let mut tensors = Vec::new();
    for (_, parameter) in parameters.trainable() {
        let buffer = parameter.trained().expect("it is trained");
        tensors.push((format!("parameter.{}", parameter.name), buffer));
    }
    tensors.extend(moments(&trainer.optimizer, parameters));
    for (task, kept) in trainer.apart.kept.iter().enumerate() {
        let of = |(id, buffer): (ParameterId, &'a Buffer)| (kept_name(task, parameters, id), buffer);
        tensors.extend(kept.iter().map(of));
    }
    tensors
}

/// The moments of an optimiser, with their names.
fn moments<'a>(optimizer: &'a Optimizer, parameters: &Parameters) -> Vec<(String, &'a Buffer)> {
    let mut tensors = Vec::new();
    for (id, moments) in optimizer.state() {
        let kept = moments.buffers.iter().filter(|buffer| !buffer.is_empty());
        for (kind, moment) in MOMENTS.iter().zip(kept) {
            tensors.push((format!("{kind}.{}", parameters[id].name), moment));
        }
    }
    tensors
}

fn kept_name(task: usize, parameters: &Parameters, id: ParameterId) -> String {
    format!("kept.{task}.{}", parameters[id].name)
}

/// The tensors of a saved state.
struct Stored {
    file: Checkpoint,
    path: std::path::PathBuf,
}

impl Stored {
    fn open(dir: &Path) -> Result<Self, TuneError> {
        Self::at(dir.join(DIR).join("state.safetensors"))
    }

    fn at(path: std::path::PathBuf) -> Result<Self, TuneError> {
        let file = Checkpoint::open(&path).map_err(crate::model::ParametersError::Checkpoint)?;
        Ok(Self { file, path })
    }

    fn wrong(&self, message: String) -> TuneError {
        TuneError::State { path: self.path.clone(), message }
    }

    /// The numbers of a tensor, if it is there; they have to be so many.
    fn find(&self, name: &str, len: usize) -> Result<Option<Buffer>, TuneError> {
        let Some(tensor) = self.file.tensors().get(name) else { return Ok(None) };
        if tensor.len() != len {
            return Err(self.wrong(format!("`{name}` has {} numbers, expected {len}", tensor.len())));
        }
        let finite =
            finite(tensor).map_err(|at| self.wrong(format!("`{name}`: number {at} is not finite")))?;
        Ok(Some(finite))
    }

    fn parameters(&self, parameters: &mut Parameters) -> Result<(), TuneError> {
        let trainable: Vec<_> = parameters.trainable().map(|(id, _)| id).collect();
        for id in trainable {
            let (name, len) = (format!("parameter.{}", parameters[id].name), parameters[id].len());
            let missing = || self.wrong(format!("`{name}` is missing"));
            let found = self.find(&name, len)?.ok_or_else(missing)?;
            *parameters.value_mut(id).expect("it is trained") = found;
        }
        Ok(())
    }

    fn moments(
        &self,
        parameters: &Parameters,
        moved: &BTreeMap<String, u64>,
    ) -> Result<Vec<(ParameterId, Moments)>, TuneError> {
        let mut state = Vec::new();
        for (id, parameter) in parameters.trainable() {
            let Some(steps) = moved.get(&parameter.name).copied() else { continue };
            let find = |kind: &str| self.find(&format!("{kind}.{}", parameter.name), parameter.len());
            let buffers = [find(MOMENTS[0])?.unwrap_or_default(), find(MOMENTS[1])?.unwrap_or_default()];
            state.push((id, Moments { steps, buffers }));
        }
        Ok(state)
    }

    fn kept(&self, trainer: &mut Trainer<'_>, task: usize) -> Result<(), TuneError> {
        let parameters = &trainer.runner.parameters;
        for (id, parameter) in parameters.trainable() {
            if let Some(found) = self.find(&kept_name(task, parameters, id), parameter.len())? {
                trainer.apart.kept.resize_with(trainer.runner.tasks.len(), Default::default);
                let kept = &mut trainer.apart.kept[task];
                drop(kept.lend(id, 0));
                kept.take_back(id, found, true);
            }
        }
        Ok(())
    }
}

fn pretty(value: &Value) -> Vec<u8> {
    let mut text = serde_json::to_vec_pretty(value).expect("values are always text");
    text.push(b'\n');
    text
}
