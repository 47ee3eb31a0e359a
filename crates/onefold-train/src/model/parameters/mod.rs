//! The numbers of a model: which tensors it computes with, in memory, each trainable or frozen.
//!
//! Trainable tensors are f32. Frozen matrices stay in 16 bits if they are stored so, in the mapped file itself; frozen
//! vectors are widened. Where a tensor came from is remembered, so that what was not trained is written back byte for byte.

mod adapt;
mod directory;
mod heads;
mod load;
mod peft;
mod save;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::ops::Index;

use onefold_checkpoint::{Dtype, Tensor};
use onefold_engine::{Buffer, Half as HalfWeight, Weight};

use crate::config::ModelConfig;
pub use crate::families::Part;
use crate::families::{Half, Role, TensorSpec};
pub(super) use adapt::Adapter;
pub use adapt::{AdaptError, AdapterSettings};
pub use directory::{Destination, save_buffers, save_checkpoint};
pub(crate) use heads::is_head;
pub use heads::{HeadError, HeadStart};
pub use load::ParametersError;
pub(crate) use load::finite;
pub use save::SaveError;

/// Number of a parameter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ParameterId(usize);

impl ParameterId {
    pub(crate) fn new(index: usize) -> Self {
        Self(index)
    }

    /// From 0, in the order of [`Parameters::iter`].
    pub fn index(self) -> usize {
        self.0
    }
}

/// One tensor.
#[derive(Debug)]
pub struct Parameter {
    /// Its name in the file, or as PEFT writes it.
    pub name: String,
    /// Its shape.
    pub shape: Vec<usize>,
    /// Where it came from.
    pub origin: Origin,
    value: Value,
}

/// Where a parameter came from.
#[derive(Debug)]
pub enum Origin {
    /// The checkpoint.
    Stored {
        /// What it does.
        spec: TensorSpec,
        /// As it lies there.
        tensor: Tensor,
    },
    /// An adapter that training began with.
    Adapter {
        /// Of which weight.
        of: ParameterId,
        /// Which part.
        factor: Factor,
    },
    /// A task whose head was added.
    Head {
        /// What it does.
        spec: TensorSpec,
        /// In which type it is written.
        dtype: Dtype,
    },
}

/// Part of an adapter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Factor {
    /// `[rank, inputs]`.
    A,
    /// `[outputs, rank]`.
    B,
    /// DoRA's length of each row, `[outputs]`.
    Magnitude,
}

#[derive(Debug)]
enum Value {
    Trainable(Buffer),
    Frozen(Buffer),
    /// Frozen, as stored.
    Half(HalfWeight),
}

impl Parameter {
    /// Number of elements.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Whether there is no element.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What it does, unless it is part of an adapter.
    pub fn spec(&self) -> Option<&TensorSpec> {
        match &self.origin {
            Origin::Stored { spec, .. } | Origin::Head { spec, .. } => Some(spec),
            Origin::Adapter { .. } => None,
        }
    }

    /// As operators read it.
    pub fn weight(&self) -> Weight<'_> {
        match &self.value {
            Value::Trainable(buffer) | Value::Frozen(buffer) => buffer.into(),
            Value::Half(half) => Weight::Half(half),
        }
    }

    /// The numbers, if they are trained.
    pub fn trained(&self) -> Option<&Buffer> {
        match &self.value {
            Value::Trainable(buffer) => Some(buffer),
            Value::Frozen(_) | Value::Half(_) => None,
        }
    }

    /// Bytes of memory of its own; what is read from the file has none.
    pub fn bytes(&self) -> usize {
        match &self.value {
            Value::Trainable(buffer) | Value::Frozen(buffer) => buffer.len() * size_of::<f32>(),
            Value::Half(_) => 0,
        }
    }
}

/// Where in a model a tensor is looked for.
type Place = (Half, Option<usize>, Role, Part);

/// All tensors that a model computes with: those of the checkpoint in the order of computation, then those of adapters.
#[derive(Debug)]
pub struct Parameters {
    config: ModelConfig,
    entries: Vec<Parameter>,
    places: BTreeMap<Place, ParameterId>,
    adapters: BTreeMap<ParameterId, Adapter>,
    /// Configurations of the tasks whose heads were added.
    heads: BTreeMap<u32, ModelConfig>,
    /// Tensors of the checkpoint that the model does not compute with, by name; and second names of tied ones.
    kept: Vec<(String, Kept)>,
    /// What the user should know about the checkpoint.
    pub notes: Vec<String>,
}

#[derive(Debug)]
enum Kept {
    AsStored(Tensor),
    /// The same as a parameter.
    Tied(ParameterId),
}

impl Index<ParameterId> for Parameters {
    type Output = Parameter;

    fn index(&self, id: ParameterId) -> &Parameter {
        &self.entries[id.0]
    }
}

/// Which part of a model has something to train, counted from its input.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Trained {
    /// What stands before the layers.
    Embeddings,
    /// This layer is the first.
    Layer(usize),
    /// Only what stands behind the layers, or nothing.
    Head,
}

impl Parameters {
    /// The configuration of the model whose parameters they are.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// Number of parameters.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// All parameters.
    pub fn iter(&self) -> impl Iterator<Item = (ParameterId, &Parameter)> {
        self.entries.iter().enumerate().map(|(index, entry)| (ParameterId(index), entry))
    }

    /// All names of a parameter in the checkpoint: its own, and second ones under which a tied tensor is stored again.
    pub fn names(&self, id: ParameterId) -> Vec<String> {
        let second = self.kept.iter().filter(|(_, kept)| matches!(kept, Kept::Tied(of) if *of == id));
        std::iter::once(&self[id].name).chain(second.map(|(name, _)| name)).cloned().collect()
    }

    /// Those that have gradients.
    pub fn trainable(&self) -> impl Iterator<Item = (ParameterId, &Parameter)> {
        self.iter().filter(|(id, _)| self.is_trainable(*id))
    }

    /// Whether a parameter has a gradient.
    pub fn is_trainable(&self, id: ParameterId) -> bool {
        matches!(self.entries[id.0].value, Value::Trainable(_))
    }

    /// The numbers of a trainable parameter, to be changed; `None` if it is frozen.
    pub fn value_mut(&mut self, id: ParameterId) -> Option<&mut Buffer> {
        match &mut self.entries[id.0].value {
            Value::Trainable(buffer) => Some(buffer),
            Value::Frozen(_) | Value::Half(_) => None,
        }
    }

    /// The parameter of a role.
    pub fn find(&self, half: Half, layer: Option<usize>, role: Role, part: Part) -> Option<ParameterId> {
        self.places.get(&(half, layer, role, part)).copied()
    }

    /// The first part of a half that has something to train.
    pub fn first_trained(&self, half: Half) -> Trained {
        let part = |parameter: &Parameter| match &parameter.origin {
            Origin::Adapter { of, .. } => self[*of].spec().and_then(|spec| place(spec, half)),
            Origin::Stored { spec, .. } | Origin::Head { spec, .. } => place(spec, half),
        };
        self.trainable().filter_map(|(_, parameter)| part(parameter)).min().unwrap_or(Trained::Head)
    }

    /// Bytes of memory of all parameters.
    pub fn bytes(&self) -> usize {
        self.entries.iter().map(Parameter::bytes).sum()
    }

    /// The numbers of a vector or of a factor of an adapter, which are always f32.
    pub(super) fn full(&self, id: ParameterId) -> &Buffer {
        match &self.entries[id.0].value {
            Value::Trainable(buffer) | Value::Frozen(buffer) => buffer,
            Value::Half(_) => panic!("`{}` is a matrix", self.entries[id.0].name),
        }
    }

    /// Whether weights have adapters.
    pub fn has_adapters(&self) -> bool {
        !self.adapters.is_empty()
    }

    pub(super) fn adapter(&self, weight: ParameterId) -> Option<&Adapter> {
        self.adapters.get(&weight)
    }
}

fn place(spec: &TensorSpec, half: Half) -> Option<Trained> {
    use Role::{
        ClassEmbedding, EmbeddingNorm, PatchEmbedding, PositionEmbedding, TokenEmbedding, TypeEmbedding,
    };
    let embeddings =
        [TokenEmbedding, PositionEmbedding, TypeEmbedding, ClassEmbedding, PatchEmbedding, EmbeddingNorm];
    let part = match spec.layer {
        Some(layer) => Trained::Layer(layer),
        None if embeddings.contains(&spec.role) => Trained::Embeddings,
        None => Trained::Head,
    };
    (spec.half == half).then_some(part)
}
