//! How much memory learning takes, known before it begins.

use std::path::Path;

use super::blend::Blend;
use super::error::AdaptError;
use super::settings::{Settings, at_once};
use crate::data::Task;
use crate::model::{BatchShape, Keep};
use crate::tune::plan::data_bytes;

/// Bytes of memory, by what they are for; mapped files aside.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Memory {
    /// The merged model, in f32, and the tasks' heads.
    pub parameters: u64,
    /// Gradients: of the largest tensors, or of the whole model where rows need several passes.
    pub gradients: u64,
    /// Activations of the largest pass, of inputs or of the texts of classes.
    pub activations: u64,
    /// Tokenised rows.
    pub data: u64,
    /// Features of the task whose correction is learnt after the merge, and the correction ([`super::Correction`]).
    pub surgery: u64,
}

/// What learning takes.
///
/// # Errors
/// If the model cannot be built, or `source` has no image processor where one is needed.
pub fn memory(
    blend: &Blend,
    inputs: &[Task],
    settings: &Settings,
    source: &Path,
) -> Result<Memory, AdaptError> {
    let parameters = &blend.parameters;
    let learner = blend.learner(source)?;
    let per_token = learner.rows_per_token().max(1);
    let rows_of = settings.batch * settings.batches;
    // The longest rows that a step can draw of each task.
    let tokens = |task: &Task| -> usize {
        let mut lengths = task.lengths();
        lengths.sort_unstable_by(|a, b| b.cmp(a));
        lengths.iter().take(rows_of).map(|length| *length as usize).sum()
    };
    let each: Vec<usize> = inputs.iter().map(tokens).collect();
    let heads: std::collections::BTreeSet<Option<u32>> = blend.heads.iter().copied().collect();
    let limit = at_once(settings.tokens, &learner) as usize;
    let all: usize = each.iter().sum();
    let at_once = heads.len() == 1 && all <= limit;
    let longest = inputs.iter().flat_map(Task::lengths).max().unwrap_or(0) as usize;
    let most = if heads.len() == 1 { all } else { each.iter().copied().max().unwrap_or(0) };
    let rows = most.min(limit.max(longest)) * per_token;
    let sequences = if heads.len() == 1 { rows_of * inputs.len() } else { rows_of };
    let keep = if settings.checkpointing { Keep::Inputs } else { Keep::Everything };
    let shape = BatchShape { rows, sequences, keep, dropout: false };
    let scored = BatchShape { rows: limit * per_token, keep: Keep::Nothing, ..shape };
    let activations = [shape, scored].map(|shape| learner.activation_bytes(parameters, &shape));
    let sizes = || parameters.trainable().map(|(_, parameter)| parameter.len() * size_of::<f32>());
    // A layer's matrices are lent together at most.
    let gradients = if at_once { 4 * sizes().max().unwrap_or(0) } else { sizes().sum() };
    Ok(Memory {
        parameters: parameters.bytes() as u64,
        gradients: gradients as u64,
        activations: activations[0].max(activations[1]).max(blend.vectors_bytes()) as u64,
        data: inputs.iter().map(data_bytes).sum(),
        surgery: 0,
    })
}
