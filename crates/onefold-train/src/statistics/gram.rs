//! Gram matrices of the inputs of linear maps.
//!
//! `G = XᵀX / samples`, [in, in], where the rows of X are all that a map takes: tokens or patches in the layers, sequences at a
//! pooled head (Jin et al., ICLR 2023, arXiv 2212.09849, section 4). No labels and no way back are needed.
//!
//! Sums are in f32: of a batch by the engine's product, and over batches. Their rounding is some 1e-6 of the diagonal after
//! thousands of rows; the merge solves with all but the diagonal multiplied by 0.9, which leaves no eigenvalue of the matrix
//! scaled to a diagonal of ones below 0.1. f64 would double a memory that is large already: a matrix of [in, in] for each
//! group of maps that share an input (queries, keys and values; gate and up), see [`Grams::bytes`].
//!
//! Not measured: heads of language models (and what stands before them), embeddings, patches, and adapters, which have to be
//! merged into their weights before.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use onefold_engine::cpu::elementwise;
use onefold_engine::cpu::linear::{self, Dims, Layout};
use onefold_engine::cpu::optimizer::square_sum;
use onefold_engine::{Buffer, Write};

use super::error::StatisticsError;
use super::file::Stored;
use crate::families::{Half, Part, Role};
use crate::model::{Answering, Embed, Model, ParameterId, Parameters, Tap};

/// Measures Gram matrices, batch by batch.
#[derive(Debug)]
pub struct Grams {
    recorder: Arc<Recorder>,
    examples: u64,
}

/// What was measured of the input that some maps share.
#[derive(Debug)]
pub struct Gram {
    /// Their weights.
    pub names: Vec<String>,
    /// Whether these are stored [in, out].
    pub transposed: bool,
    /// Width of the input.
    pub inputs: usize,
    /// Rows that it had.
    pub samples: u64,
    /// XᵀX / samples, [in, in].
    pub values: Buffer,
}

impl Gram {
    /// As it is written.
    pub fn stored(&self) -> Stored<'_> {
        Stored {
            names: self.names.clone(),
            transposed: self.transposed,
            shape: vec![self.inputs, self.inputs],
            values: &self.values,
        }
    }
}

/// Maps that take the same input.
#[derive(Debug)]
struct Group {
    inputs: usize,
    members: Vec<ParameterId>,
    transposed: bool,
}

#[derive(Debug, Default)]
struct Recorder {
    /// By the map that is measured for all of its group.
    groups: BTreeMap<ParameterId, Group>,
    sums: Mutex<BTreeMap<ParameterId, (Buffer, u64)>>,
}

impl Recorder {
    fn sums(&self) -> MutexGuard<'_, BTreeMap<ParameterId, (Buffer, u64)>> {
        self.sums.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Tap for Recorder {
    fn input(&self, weight: ParameterId, x: &Buffer) {
        let Some(Group { inputs, .. }) = self.groups.get(&weight) else { return };
        let rows = x.len() / inputs;
        let mut sums = self.sums();
        let (sum, samples) = sums.entry(weight).or_default();
        let write = if sum.is_empty() { Write::Set } else { Write::Add };
        sum.resize(inputs * inputs);
        let dims = Dims { rows, inputs: *inputs, outputs: *inputs, layout: Layout::OutputsInputs };
        linear::backward_weight(&dims, x, x, sum, write);
        *samples += rows as u64;
    }
}

/// Which of the maps that share an input is measured; none for what is no linear map.
fn leader(role: Role) -> Option<Role> {
    match role {
        Role::Query | Role::Key | Role::Value => Some(Role::Query),
        Role::Gate | Role::Up => Some(Role::Gate),
        Role::QueryKeyValue
        | Role::AttentionOutput
        | Role::GateUp
        | Role::Down
        | Role::Pooler
        | Role::HeadDense
        | Role::Head
        | Role::Projection => Some(role),
        _ => None,
    }
}

type Place = (Half, Option<usize>, Role);

impl Grams {
    /// Nothing measured yet, of the model with these parameters.
    pub fn new(parameters: &Parameters) -> Self {
        let mut places: BTreeMap<Place, Vec<ParameterId>> = BTreeMap::new();
        for (id, parameter) in parameters.iter() {
            let Some(spec) = parameter.spec() else { continue };
            if let Some(role) = leader(spec.role).filter(|_| spec.part != Part::Bias && spec.shape.len() == 2)
            {
                places.entry((spec.half, spec.layer, role)).or_default().push(id);
            }
        }
        let group = |members: Vec<ParameterId>| {
            let spec = parameters[members[0]].spec()?;
            let (_, inputs, layout) = spec.linear_dims();
            Some((members[0], Group { inputs, members, transposed: layout == Layout::InputsOutputs }))
        };
        let groups = places.into_values().filter_map(group).collect();
        Self { recorder: Arc::new(Recorder { groups, ..Recorder::default() }), examples: 0 }
    }

    /// Bytes of all matrices.
    pub fn bytes(&self) -> usize {
        self.recorder.groups.values().map(|group| Buffer::bytes_of(group.inputs * group.inputs)).sum()
    }

    /// Examples so far.
    pub fn examples(&self) -> u64 {
        self.examples
    }

    /// Measures a batch of any number of examples. Its labels do not matter.
    ///
    /// # Errors
    /// If the model cannot take it.
    pub fn add<E: Embed>(
        &mut self,
        model: &mut Model<E>,
        parameters: &Parameters,
        batch: &E::Batch,
    ) -> Result<(), StatisticsError> {
        let (examples, _) = model.sizes(batch)?;
        model.watch(Some(self.recorder.clone()));
        let passed = match model.answering() {
            Ok(Answering::Classes(..)) => model.scores(parameters, batch, &[]).map(drop),
            _ => model.hidden(parameters, batch).map(drop),
        };
        model.watch(None);
        self.examples += examples as u64;
        Ok(passed?)
    }

    /// The matrices of all maps that were passed.
    ///
    /// # Errors
    /// If nothing was measured, or a matrix is not finite.
    pub fn finish(self, parameters: &Parameters) -> Result<Vec<Gram>, StatisticsError> {
        let mut sums = std::mem::take(&mut *self.recorder.sums());
        let mut grams = Vec::new();
        for (id, group) in &self.recorder.groups {
            let Some((mut values, samples)) = sums.remove(id).filter(|(_, samples)| *samples > 0) else {
                continue;
            };
            elementwise::scale(&mut values, (1.0 / samples as f64) as f32);
            if !square_sum(&values).is_finite() {
                return Err(StatisticsError::Overflow { tensor: parameters[*id].name.clone() });
            }
            let names = group.members.iter().map(|id| parameters[*id].name.clone()).collect();
            grams.push(Gram { names, transposed: group.transposed, inputs: group.inputs, samples, values });
        }
        if grams.is_empty() { Err(StatisticsError::Nothing) } else { Ok(grams) }
    }
}
