//! Which tensors a model has: for each its role, its Hugging Face name and its shape.
//!
//! Names are those of files as transformers writes them with a head; files of base models lack the first part
//! (`model.`, `transformer.`, `bert.` …), and [`find()`] accepts both. It reports everything that is missing or
//! misshapen together.

mod architecture;
mod decoder;
mod encoder;
mod find;
mod module;
mod vision;

use std::borrow::Cow;

pub use self::architecture::architecture;
use crate::config::{Head, ModelConfig};
pub use find::{FamilyError, Found, find};
pub(crate) use module::{library, module};

/// What a tensor does, whatever its family calls it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs, reason = "the names say it")]
pub enum Role {
    TokenEmbedding,
    PositionEmbedding,
    TypeEmbedding,
    ClassEmbedding,
    PatchEmbedding,
    EmbeddingNorm,
    /// Before attention in models that normalise first, behind it in those that normalise last.
    AttentionNorm,
    Query,
    Key,
    Value,
    /// Queries, keys and values in one matrix.
    QueryKeyValue,
    QueryNorm,
    KeyNorm,
    AttentionOutput,
    /// Behind attention, besides [`Role::AttentionNorm`] (gemma).
    AttentionPostNorm,
    /// Before the feed-forward block in models that normalise first, behind it in those that normalise last.
    FeedForwardNorm,
    Gate,
    Up,
    /// Gate and up in one matrix.
    GateUp,
    Down,
    /// Behind the feed-forward block, besides [`Role::FeedForwardNorm`] (gemma).
    FeedForwardPostNorm,
    FinalNorm,
    Pooler,
    /// A dense layer before the head.
    HeadDense,
    /// Behind that.
    HeadNorm,
    Head,
    /// Into the space in which image and text meet.
    Projection,
    LogitScale,
}

/// Which part of its role a tensor is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    /// A matrix of [out, in], an embedding of [rows, width], or the factor of a norm.
    Weight,
    /// A matrix of [in, out], as gpt2 stores it.
    Transposed,
    /// What is added.
    Bias,
}

/// Which half of a model of two halves.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Half {
    /// The whole of any other model.
    #[default]
    Whole,
    /// Clip's text half.
    Text,
    /// Clip's image half.
    Vision,
    /// The head of one of several tasks.
    Task(u32),
}

/// A tensor that a model has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorSpec {
    /// What it does.
    pub role: Role,
    /// Which part of that.
    pub part: Part,
    /// In which half.
    pub half: Half,
    /// In which layer, from 0.
    pub layer: Option<usize>,
    /// Its name in a file that has a head.
    pub name: String,
    /// Its shape.
    pub shape: Vec<usize>,
}

/// All tensors of a model, in the order of computation. Of tied ones the embedding alone.
pub fn tensors(config: &ModelConfig) -> Vec<TensorSpec> {
    match config {
        ModelConfig::Decoder(config) => decoder::tensors(config),
        ModelConfig::Encoder(config) => encoder::tensors(config),
        ModelConfig::Vision(config) => vision::tensors(config),
        ModelConfig::Clip(config) => vision::clip(config),
    }
}

/// The first part of names that files of base models lack; empty if there is none.
pub fn base_prefix(config: &ModelConfig) -> &'static str {
    use crate::config::{DecoderFamily, EncoderFamily, VisionFamily};
    match config {
        ModelConfig::Decoder(config) if config.family == DecoderFamily::Gpt2 => "transformer.",
        ModelConfig::Decoder(_) => "model.",
        ModelConfig::Encoder(config) => match config.family {
            EncoderFamily::Bert => "bert.",
            EncoderFamily::Roberta => "roberta.",
            EncoderFamily::DistilBert => "distilbert.",
        },
        ModelConfig::Vision(config) if config.family == VisionFamily::Vit => "vit.",
        ModelConfig::Vision(_) | ModelConfig::Clip(_) => "",
    }
}

/// What a further tensor of a file is a copy of: heads that are tied to the embedding are stored all the same in some.
pub(crate) fn tied(config: &ModelConfig, name: &str) -> Option<(Role, Part)> {
    let common = config.common();
    match config {
        ModelConfig::Decoder(config) if config.tied && common.head == Head::Language => {
            (name == "lm_head.weight").then_some((Role::TokenEmbedding, Part::Weight))
        }
        ModelConfig::Encoder(config) if common.head == Head::Language => encoder::tied(config, name),
        _ => None,
    }
}

/// A list of tensors under construction.
#[derive(Debug, Default)]
struct List {
    specs: Vec<TensorSpec>,
    half: Half,
    layer: Option<usize>,
    prefix: Cow<'static, str>,
}

impl List {
    /// What follows stands under `prefix`, in no layer.
    fn under(&mut self, prefix: &'static str) {
        (self.prefix, self.layer) = (Cow::Borrowed(prefix), None);
    }

    /// What follows stands in a layer.
    fn in_layer(&mut self, prefix: String, layer: usize) {
        (self.prefix, self.layer) = (Cow::Owned(prefix), Some(layer));
    }

    /// A tensor whose name is not `.weight` or `.bias` of a module.
    fn bare(&mut self, role: Role, part: Part, name: &str, shape: &[usize]) {
        let name = format!("{}{name}", self.prefix);
        let (half, layer, shape) = (self.half, self.layer, shape.to_vec());
        self.specs.push(TensorSpec { role, part, half, layer, name, shape });
    }

    /// The weight of a module.
    fn weight(&mut self, role: Role, module: &str, shape: &[usize]) {
        self.bare(role, Part::Weight, &format!("{module}.weight"), shape);
    }

    /// A matrix [out, in] and its bias, if it has one.
    fn linear(&mut self, role: Role, module: &str, out: usize, width: usize, bias: bool) {
        self.weight(role, module, &[out, width]);
        if bias {
            self.bare(role, Part::Bias, &format!("{module}.bias"), &[out]);
        }
    }

    /// A matrix [in, out] and its bias.
    fn transposed(&mut self, role: Role, module: &str, out: usize, width: usize) {
        self.bare(role, Part::Transposed, &format!("{module}.weight"), &[width, out]);
        self.bare(role, Part::Bias, &format!("{module}.bias"), &[out]);
    }

    /// A layer norm.
    fn layer_norm(&mut self, role: Role, module: &str, width: usize) {
        self.weight(role, module, &[width]);
        self.bare(role, Part::Bias, &format!("{module}.bias"), &[width]);
    }
}

#[cfg(test)]
mod tests;
