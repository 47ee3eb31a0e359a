//! Fisher information of mask nodes: one number per attention head and per feed-forward neuron (thennal10's
//! fisher-nodes-merging).
//!
//! Think a factor of 1 on what each head gives, and on each neuron. The derivative of the loss by such a factor is
//! `∂L/∂mask = Σ ⟨value, its gradient⟩` over the rows of a batch, and `F = mean over batches of (∂L/∂mask)²`, with gold labels
//! and the loss a mean over the labels of the batch. Neurons are what the last map of the feed-forward block takes.
//!
//! Deviation: the code takes the sum over batches; the mean makes models comparable that were measured on different numbers
//! of batches, and is the same where the numbers agree. As in the code, gradients of a batch are added up before they are
//! squared; pass batches of one example to leave that out.
//!
//! [`NodeFactors`] makes factors of rows of these numbers.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use onefold_checkpoint::tensor::Elements;
use onefold_checkpoint::{Dtype, Tensor};
use onefold_engine::cpu::loss::{Losses, Objective};
use onefold_engine::{Buffer, Write};

use super::error::StatisticsError;
use super::file::Statistics;
use crate::config::ModelConfig;
use crate::families::{Role, TensorSpec};
use crate::model::{Embed, GradientSink, Model, ParameterId, Parameters, Tap, Training};

/// What was measured of a layer.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct LayerNodes {
    /// F of each attention head (of queries).
    pub heads: Vec<f64>,
    /// F of each neuron.
    pub neurons: Vec<f64>,
}

impl LayerNodes {
    /// All layers of a file of kind [`super::Kind::Nodes`].
    ///
    /// # Errors
    /// If a layer lacks a part.
    pub fn of(statistics: &Statistics) -> Result<Vec<Self>, StatisticsError> {
        let count = statistics.tensors.len().div_ceil(2);
        let part = |layer: usize, part: &str| {
            let name = format!("{layer}.{part}");
            let tensor = statistics.tensors.get(&name).ok_or_else(|| StatisticsError::Unfit {
                tensor: name,
                shape: Vec::new(),
                why: format!("is missing in a file of {count} layers; measure the nodes again"),
            })?;
            let mut values = vec![0.0f32; tensor.len()];
            tensor.read(0, &mut values);
            Ok::<_, StatisticsError>(values.into_iter().map(f64::from).collect())
        };
        (0..count).map(|l| Ok(Self { heads: part(l, "heads")?, neurons: part(l, "neurons")? })).collect()
    }

    /// Names and numbers of all layers, to be written as [`super::Stored`].
    pub fn buffers(layers: &[Self]) -> Vec<(String, Buffer)> {
        let single = |values: &[f64]| Buffer::from(values.iter().map(|v| *v as f32).collect::<Vec<_>>());
        let both = |(l, layer): (usize, &Self)| {
            [(format!("{l}.heads"), single(&layer.heads)), (format!("{l}.neurons"), single(&layer.neurons))]
        };
        layers.iter().enumerate().flat_map(both).collect()
    }
}

/// A map whose inputs are nodes.
#[derive(Debug)]
struct Watched {
    layer: usize,
    /// Whether inputs are of heads, or neurons.
    heads: bool,
    inputs: usize,
    /// Inputs that share a mask: those of a head, or one.
    width: usize,
}

#[derive(Debug, Default)]
struct Recorder {
    watched: BTreeMap<ParameterId, Watched>,
    /// ∂L/∂mask of the batch that is passed.
    slopes: Mutex<BTreeMap<ParameterId, Vec<f64>>>,
}

impl Recorder {
    fn slopes(&self) -> MutexGuard<'_, BTreeMap<ParameterId, Vec<f64>>> {
        self.slopes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Tap for Recorder {
    fn input(&self, _: ParameterId, _: &Buffer) {}

    fn input_gradient(&self, weight: ParameterId, x: &Buffer, dx: &Buffer) {
        let Some(Watched { inputs, width, .. }) = self.watched.get(&weight) else { return };
        let (mut values, mut gradients) = (vec![0.0; *inputs], vec![0.0; *inputs]);
        let mut slopes = vec![0.0; inputs / width];
        for row in (0..x.len()).step_by(*inputs) {
            x.read(row, &mut values);
            dx.read(row, &mut gradients);
            for (i, (value, gradient)) in values.iter().zip(&gradients).enumerate() {
                slopes[i / width] += f64::from(*value) * f64::from(*gradient);
            }
        }
        self.slopes().insert(weight, slopes);
    }
}

/// Forgets gradients.
#[derive(Debug, Default)]
struct Nowhere(Vec<Buffer>);

impl GradientSink for Nowhere {
    fn lend(&mut self, _: ParameterId, len: usize) -> (Buffer, Write) {
        let mut buffer = self.0.pop().unwrap_or_default();
        buffer.resize(len);
        (buffer, Write::Set)
    }

    fn take_back(&mut self, _: ParameterId, gradient: Buffer, _: bool) {
        self.0.push(gradient);
    }
}

/// Measures mask nodes, batch by batch.
#[derive(Debug)]
pub struct MaskNodes {
    recorder: Arc<Recorder>,
    sums: BTreeMap<ParameterId, Vec<f64>>,
    layers: usize,
    batches: u64,
    examples: u64,
    losses: Losses,
}

impl MaskNodes {
    /// Nothing measured yet, of the model with these parameters. Something in its first layer or before it has to be
    /// trainable, for the way back to get there; one vector is enough.
    ///
    /// # Errors
    /// If the model has no heads that are known, as clip.
    pub fn new(parameters: &Parameters) -> Result<Self, StatisticsError> {
        let heads = match parameters.config() {
            ModelConfig::Decoder(config) => config.heads,
            ModelConfig::Encoder(config) => config.heads,
            ModelConfig::Vision(config) => config.heads,
            ModelConfig::Clip(_) => {
                let (tensor, why) = ("clip".to_owned(), "nodes of two towers are not measured".to_owned());
                return Err(StatisticsError::Unfit { tensor, shape: Vec::new(), why });
            }
        };
        let (mut watched, mut layers) = (BTreeMap::new(), 0);
        for (id, parameter) in parameters.iter() {
            let Some(spec) = parameter.spec().filter(|spec| spec.is_adaptable()) else { continue };
            let (Some(layer), Role::AttentionOutput | Role::Down) = (spec.layer, spec.role) else { continue };
            let (_, inputs, _) = spec.linear_dims();
            let of_heads = spec.role == Role::AttentionOutput;
            let width = if of_heads { inputs / heads } else { 1 };
            watched.insert(id, Watched { layer, heads: of_heads, inputs, width });
            layers = layers.max(layer + 1);
        }
        let recorder = Arc::new(Recorder { watched, ..Recorder::default() });
        let losses = Losses::new(1);
        Ok(Self { recorder, sums: BTreeMap::new(), layers, batches: 0, examples: 0, losses })
    }

    /// Examples so far.
    pub fn examples(&self) -> u64 {
        self.examples
    }

    /// Measures a batch with its gold labels. Their weights and tasks are replaced.
    ///
    /// # Errors
    /// If the model cannot take it, it has no label, or a layer was not passed on the way back.
    pub fn add<E: Embed>(
        &mut self,
        model: &mut Model<E>,
        parameters: &Parameters,
        batch: &mut E::Batch,
    ) -> Result<(), StatisticsError> {
        let (examples, _) = model.sizes(batch)?;
        let targets = E::targets_mut(batch);
        let (classes, values) = (targets.rows().targets.to_vec(), targets.values().to_vec());
        let labels = classes.iter().filter(|class| **class >= 0).count();
        if labels == 0 {
            return Err(StatisticsError::NoLabels);
        }
        targets.replace(&classes, &values, &vec![1.0 / labels as f32; classes.len()]);
        let training = Training { objective: Objective::CROSS_ENTROPY, checkpointing: false, coins: None };
        model.watch(Some(self.recorder.clone()));
        let passed = model.train(parameters, batch, &training, &mut self.losses, &mut Nowhere::default());
        model.watch(None);
        passed?;
        let slopes = std::mem::take(&mut *self.recorder.slopes());
        if let Some(id) = self.recorder.watched.keys().find(|id| !slopes.contains_key(id)) {
            return Err(StatisticsError::NoGradient { tensor: parameters[*id].name.clone() });
        }
        for (id, slopes) in slopes {
            if let Some(value) = slopes.iter().find(|slope| !slope.is_finite()) {
                return Err(StatisticsError::NotFinite { example: self.examples, value: value.to_string() });
            }
            let sums = self.sums.entry(id).or_insert_with(|| vec![0.0; slopes.len()]);
            sums.iter_mut().zip(slopes).for_each(|(sum, slope)| *sum += slope * slope);
        }
        (self.batches, self.examples) = (self.batches + 1, self.examples + examples as u64);
        Ok(())
    }

    /// The mean over batches, layer by layer.
    ///
    /// # Errors
    /// If nothing was measured.
    pub fn finish(self) -> Result<Vec<LayerNodes>, StatisticsError> {
        if self.batches == 0 {
            return Err(StatisticsError::Nothing);
        }
        let mut layers = vec![LayerNodes::default(); self.layers];
        for (id, sums) in self.sums {
            let Some(Watched { layer, heads, .. }) = self.recorder.watched.get(&id) else { continue };
            let means = sums.into_iter().map(|sum| sum / self.batches as f64).collect();
            let part = if *heads { &mut layers[*layer].heads } else { &mut layers[*layer].neurons };
            *part = means;
        }
        Ok(layers)
    }
}

/// Factors of rows of a model's tensors, made of its nodes.
///
/// | tensor | factor of its outputs |
/// |---|---|
/// | query | F of the head that they belong to |
/// | key | the same; where several heads share a key, the mean of theirs |
/// | value, attention output | mean of the layer's heads |
/// | up, gate | F of the neuron |
/// | down | mean of the layer's neurons |
/// | all else | 1, or the mean over layers of both means |
///
/// Biases have the factors of their outputs. Given to Fisher merging as statistics, with a floor of 0, they give
/// `θ* = ΣFθ/ΣF`, and the mean where no model has any. Tensors are computed as they are read and take no memory.
/// Deviations: gates of gated blocks are not in the code, nor are keys that heads share.
#[derive(Debug)]
pub struct NodeFactors<'a> {
    /// Of each layer.
    pub layers: &'a [LayerNodes],
    /// Whether what belongs to no node has the mean of all as factor, and not 1.
    pub mean_elsewhere: bool,
}

impl NodeFactors<'_> {
    /// The factors of every tensor of a model, by its name in the file, in its shape: `found` is what
    /// [`crate::families::find()`] gives for a checkpoint.
    ///
    /// # Errors
    /// If the nodes are of another model.
    pub fn expand(
        &self,
        found: &[(TensorSpec, String)],
    ) -> Result<BTreeMap<String, Tensor>, StatisticsError> {
        found.iter().map(|(spec, name)| Ok((name.clone(), self.tensor(spec, found)?))).collect()
    }

    fn tensor(&self, spec: &TensorSpec, found: &[(TensorSpec, String)]) -> Result<Tensor, StatisticsError> {
        let (outputs, inputs, layout) = spec.linear_dims();
        let unfit = |why: &str| StatisticsError::Unfit {
            tensor: spec.name.clone(),
            shape: spec.shape.clone(),
            why: format!("{why}; measure the nodes on the model that is merged"),
        };
        let factors = match spec.layer {
            None => vec![self.elsewhere()],
            Some(layer) => {
                let nodes = self.layers.get(layer).ok_or_else(|| unfit("there are no nodes of its layer"))?;
                let attended =
                    |other: &&TensorSpec| other.layer == Some(layer) && other.role == Role::AttentionOutput;
                let attended =
                    found.iter().map(|(other, _)| other).filter(attended).find(|other| other.is_adaptable());
                let rows = attended.map_or(0, |other| other.linear_dims().1);
                self.factors(spec.role, nodes, outputs, rows)
                    .ok_or_else(|| unfit("its heads or neurons are not as many as were measured"))?
            }
        };
        let by_output = layout == onefold_engine::cpu::linear::Layout::OutputsInputs;
        let elements = Arc::new(Factors {
            factors: factors.into_iter().map(|f| f as f32).collect(),
            inputs: if by_output { inputs } else { 1 },
        });
        Ok(Tensor::new(Dtype::F32, spec.shape.clone(), elements))
    }

    /// The factors of a tensor that belongs to no node.
    pub fn of_no_node(&self, shape: Vec<usize>) -> Tensor {
        let factors = vec![self.elsewhere() as f32];
        Tensor::new(Dtype::F32, shape, Arc::new(Factors { factors, inputs: 1 }))
    }

    fn elsewhere(&self) -> f64 {
        if !self.mean_elsewhere {
            return 1.0;
        }
        let layer = |nodes: &LayerNodes| mean(&nodes.heads) + mean(&nodes.neurons);
        self.layers.iter().map(layer).sum::<f64>() / (2 * self.layers.len().max(1)) as f64
    }

    /// One for each of the outputs, or one for all; `rows` is the width of all heads together.
    fn factors(&self, role: Role, nodes: &LayerNodes, outputs: usize, rows: usize) -> Option<Vec<f64>> {
        let LayerNodes { heads, neurons } = nodes;
        let each = |values: &[f64], width: usize| -> Vec<f64> {
            values.iter().flat_map(|f| std::iter::repeat_n(*f, width)).collect()
        };
        let width = rows.checked_div(heads.len()).filter(|width| *width > 0 && width * heads.len() == rows);
        // Keys of so many heads.
        let keys = |shared: usize| -> Option<Vec<f64>> {
            let group = heads.len().checked_div(shared).filter(|group| *group > 0)?;
            let means: Vec<f64> = heads.chunks(group).map(mean).collect();
            (means.len() == shared).then(|| each(&means, width.unwrap_or(0)))
        };
        let found = match role {
            Role::Query => each(heads, width?),
            Role::Key => keys(outputs / width?)?,
            Role::QueryKeyValue => {
                let shared = outputs.checked_sub(rows)? / (2 * width?);
                let values = vec![mean(heads); shared * width?];
                [each(heads, width?), keys(shared)?, values].concat()
            }
            Role::Value | Role::AttentionOutput => return Some(vec![mean(heads)]),
            Role::Up | Role::Gate => neurons.clone(),
            Role::GateUp => neurons.repeat(2),
            Role::Down => return Some(vec![mean(neurons)]),
            _ => return Some(vec![self.elsewhere()]),
        };
        (found.len() == outputs).then_some(found)
    }
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len().max(1) as f64
}

/// Element i has factor number i / inputs, counted around.
#[derive(Debug)]
struct Factors {
    factors: Vec<f32>,
    /// Elements of an output that lie side by side.
    inputs: usize,
}

impl Elements for Factors {
    fn read(&self, start: usize, out: &mut [f32]) {
        for (i, out) in out.iter_mut().enumerate() {
            *out = self.factors[(start + i) / self.inputs % self.factors.len()];
        }
    }
}
