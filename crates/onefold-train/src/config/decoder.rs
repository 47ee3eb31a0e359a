//! Models that read from left to right: llama, mistral, qwen2, qwen3, gemma2, gemma3 (text), phi3, gpt2.
//!
//! One description covers them all. A layer is `x += attention(norm(x)); x += feed_forward(norm(x))`; what differs is
//! written in the fields. Queries and keys have `heads` and `kv_heads` heads of `head_dim`; layers with a window see
//! the `sliding_window` last positions, themselves included.

mod read;

use super::{Activation, Common, Rope};
pub(super) use read::read;

/// Families of decoders, one per `model_type`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names say it")]
pub enum DecoderFamily {
    Llama,
    Mistral,
    Qwen2,
    Qwen3,
    Gemma2,
    Gemma3,
    Phi3,
    Gpt2,
}

use DecoderFamily::{Gemma2, Gemma3, Gpt2, Llama, Mistral, Phi3, Qwen2, Qwen3};

impl DecoderFamily {
    /// The family of a `model_type`.
    pub fn from_model_type(name: &str) -> Option<Self> {
        Some(match name {
            "llama" => Llama,
            "mistral" => Mistral,
            "qwen2" => Qwen2,
            "qwen3" => Qwen3,
            "gemma2" => Gemma2,
            "gemma3_text" => Gemma3,
            "phi3" => Phi3,
            "gpt2" => Gpt2,
            _ => return None,
        })
    }

    fn is_gemma(self) -> bool {
        matches!(self, Gemma2 | Gemma3)
    }
}

/// What is done to the rows of a matrix before and after a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DecoderNorm {
    /// `w · x / rms(x)`.
    Rms,
    /// `(1 + w) · x / rms(x)`, and a second norm behind each block.
    RmsPlusOne,
    /// `w · (x − mean) / std + b`.
    Layer,
}

/// How positions enter.
#[derive(Debug, Clone, PartialEq)]
#[allow(clippy::large_enum_variant, reason = "there is one per model")]
pub enum Positions {
    /// A learned vector per position is added to the embedding.
    Learned,
    /// Queries and keys are rotated.
    Rotary {
        /// In layers that see everything before them.
        full: Rope,
        /// In layers with a window.
        sliding: Rope,
    },
}

/// What a layer's attention sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LayerKind {
    /// Everything before it.
    Full,
    /// A window.
    Sliding,
}

/// Which matrices have a bias.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DecoderBias {
    /// Queries, keys and values.
    pub qkv: bool,
    /// The output of attention.
    pub output: bool,
    /// The feed-forward block.
    pub feed_forward: bool,
}

/// What attention scores are multiplied with.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AttentionScale {
    /// In every layer.
    pub factor: f64,
    /// Whether layer i (from 0) divides by i + 1 besides.
    pub by_layer: bool,
}

/// Probabilities of dropping while training.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct DecoderDropout {
    /// Of the embeddings.
    pub embedding: f64,
    /// Of attention weights.
    pub attention: f64,
    /// Of what a block adds.
    pub residual: f64,
}

/// A decoder.
#[derive(Debug, Clone, PartialEq)]
pub struct DecoderConfig {
    /// Which tensors it has, and how they are named.
    pub family: DecoderFamily,
    /// Rows of the embedding.
    pub vocab_size: usize,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Width of the feed-forward block.
    pub intermediate_size: usize,
    /// One per layer: what its attention sees.
    pub layers: Vec<LayerKind>,
    /// Heads of queries.
    pub heads: usize,
    /// Heads of keys and values; divides `heads`.
    pub kv_heads: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// `max_position_embeddings`.
    pub max_positions: usize,
    /// How positions enter.
    pub positions: Positions,
    /// How many positions a layer with a window sees.
    pub sliding_window: Option<usize>,
    /// Kind of the norms.
    pub norm: DecoderNorm,
    /// What is added under their roots.
    pub norm_eps: f64,
    /// Whether each head's queries and keys are normalised, before they are rotated.
    pub qk_norm: bool,
    /// Function of the feed-forward block.
    pub activation: Activation,
    /// Whether the block is `down(act(gate(x)) · up(x))`, else `down(act(up(x)))`.
    pub gated: bool,
    /// Whether queries, keys, values are rows of one matrix, and gate and up of another.
    pub fused: bool,
    /// Which matrices have a bias.
    pub bias: DecoderBias,
    /// What attention scores are multiplied with.
    pub attention_scale: AttentionScale,
    /// c in `c · tanh(score / c)`, before the mask.
    pub attention_softcap: Option<f64>,
    /// The same for logits.
    pub logits_softcap: Option<f64>,
    /// What embeddings are multiplied with, after rounding it to the model's dtype.
    pub embedding_scale: Option<f64>,
    /// Whether the output matrix is the embedding.
    pub tied: bool,
    /// Dropout.
    pub dropout: DecoderDropout,
    /// The token that pads rows; classification heads read the last token before the padding.
    pub pad_token: Option<u32>,
    /// What all configurations have.
    pub common: Common,
}
