//! Models that read text in both directions: bert, roberta, distilbert.
//!
//! A layer is `x = norm(x + attention(x)); x = norm(x + feed_forward(x))` with layer norms and biases everywhere. Positions
//! are learned; roberta counts them from `pad_token + 1`.

use super::fields::Fields;
use super::{Activation, Common, ConfigError, activation, common, divided, layer_count};

/// Families of encoders, one per `model_type`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names say it")]
pub enum EncoderFamily {
    Bert,
    Roberta,
    DistilBert,
}

impl EncoderFamily {
    /// The family of a `model_type`.
    pub fn from_model_type(name: &str) -> Option<Self> {
        Some(match name {
            "bert" => Self::Bert,
            "roberta" => Self::Roberta,
            "distilbert" => Self::DistilBert,
            _ => return None,
        })
    }
}

/// Probabilities of dropping while training.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct EncoderDropout {
    /// Of embeddings and of what a block adds.
    pub hidden: f64,
    /// Of attention weights.
    pub attention: f64,
    /// Of what the head reads that classifies sequences.
    pub classifier: f64,
    /// Of what the head reads that classifies tokens.
    pub tokens: f64,
}

/// An encoder of text.
#[derive(Debug, Clone, PartialEq)]
pub struct EncoderConfig {
    /// Which tensors it has, and how they are named.
    pub family: EncoderFamily,
    /// Rows of the embedding.
    pub vocab_size: usize,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Width of the feed-forward block.
    pub intermediate_size: usize,
    /// Number of layers.
    pub layers: usize,
    /// Heads of attention.
    pub heads: usize,
    /// Rows of the position embedding.
    pub max_positions: usize,
    /// Rows of the segment embedding; 0 without one.
    pub types: usize,
    /// Function of the feed-forward block.
    pub activation: Activation,
    /// What is added under the roots of norms.
    pub norm_eps: f64,
    /// The token that pads rows.
    pub pad_token: Option<u32>,
    /// Whether the matrix of scores of masked words is the embedding.
    pub tied: bool,
    /// Dropout.
    pub dropout: EncoderDropout,
    /// What all configurations have.
    pub common: Common,
}

pub(super) fn read(fields: &Fields<'_>, family: EncoderFamily) -> Result<EncoderConfig, ConfigError> {
    for key in ["is_decoder", "add_cross_attention"] {
        fields.must_be_false(key)?;
    }
    if let Some(found) = fields.get("position_embedding_type").filter(|found| *found != "absolute") {
        return Err(fields.unsupported("position_embedding_type", found, "absolute"));
    }
    fields.flag("sinusoidal_pos_embds", false)?; // how positions began; they are stored as weights all the same
    match family {
        EncoderFamily::DistilBert => distilbert(fields),
        _ => bert(fields, family),
    }
}

fn bert(fields: &Fields<'_>, family: EncoderFamily) -> Result<EncoderConfig, ConfigError> {
    let roberta = family == EncoderFamily::Roberta;
    let hidden_size = fields.size("hidden_size", 768)?;
    let heads = fields.size("num_attention_heads", 12)?;
    divided(fields, ("hidden_size", hidden_size), ("num_attention_heads", heads))?;
    let hidden = fields.dropout("hidden_dropout_prob", 0.1)?;
    let classifier = fields.dropout("classifier_dropout", hidden)?;
    Ok(EncoderConfig {
        family,
        vocab_size: fields.size("vocab_size", if roberta { 50265 } else { 30522 })?,
        hidden_size,
        intermediate_size: fields.size("intermediate_size", 3072)?,
        layers: layer_count(fields, "num_hidden_layers", 12)?,
        heads,
        max_positions: fields.size("max_position_embeddings", 512)?,
        types: fields.size("type_vocab_size", 2)?,
        activation: activation::read(fields, "hidden_act", Activation::Gelu)?,
        norm_eps: fields.positive("layer_norm_eps", 1e-12)?,
        pad_token: fields.token("pad_token_id", Some(roberta.into()))?,
        tied: fields.flag("tie_word_embeddings", true)?,
        dropout: EncoderDropout {
            hidden,
            attention: fields.dropout("attention_probs_dropout_prob", 0.1)?,
            classifier,
            tokens: classifier,
        },
        common: common(fields, false)?,
    })
}

fn distilbert(fields: &Fields<'_>) -> Result<EncoderConfig, ConfigError> {
    let hidden_size = fields.size("dim", 768)?;
    let heads = fields.size("n_heads", 12)?;
    divided(fields, ("dim", hidden_size), ("n_heads", heads))?;
    let hidden = fields.dropout("dropout", 0.1)?;
    Ok(EncoderConfig {
        family: EncoderFamily::DistilBert,
        vocab_size: fields.size("vocab_size", 30522)?,
        hidden_size,
        intermediate_size: fields.size("hidden_dim", 3072)?,
        layers: layer_count(fields, "n_layers", 6)?,
        heads,
        max_positions: fields.size("max_position_embeddings", 512)?,
        types: 0,
        activation: activation::read(fields, "activation", Activation::Gelu)?,
        norm_eps: 1e-12,
        pad_token: fields.token("pad_token_id", Some(0))?,
        tied: fields.flag("tie_word_embeddings", true)?,
        dropout: EncoderDropout {
            hidden,
            attention: fields.dropout("attention_dropout", 0.1)?,
            classifier: fields.dropout("seq_classif_dropout", 0.2)?,
            tokens: hidden,
        },
        common: common(fields, false)?,
    })
}
