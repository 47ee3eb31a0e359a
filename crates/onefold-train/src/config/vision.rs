//! Models that look at images: vit, clip's image half; and clip as a whole, with its text half.
//!
//! An image is cut into patches, each a row; a class row stands before them, learned positions are added. Layers are
//! `x += attention(norm(x)); x += feed_forward(norm(x))` with layer norms and biases. Clip's image half normalises before
//! the first layer too; its text half is causal and answers with the row of the end token.

use serde_json::Value;

use super::fields::Fields;
use super::{Activation, Common, ConfigError, activation, common, divided, layer_count, unread};

/// Families of vision models.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names say it")]
pub enum VisionFamily {
    Vit,
    Clip,
}

/// An encoder of images.
#[derive(Debug, Clone, PartialEq)]
pub struct VisionConfig {
    /// Which tensors it has, and how they are named.
    pub family: VisionFamily,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Width of the feed-forward block.
    pub intermediate_size: usize,
    /// Number of layers.
    pub layers: usize,
    /// Heads of attention.
    pub heads: usize,
    /// Height and width of images, in pixels.
    pub image_size: (usize, usize),
    /// Height and width of patches, in pixels; both are the same.
    pub patch_size: (usize, usize),
    /// Channels of images.
    pub channels: usize,
    /// Whether queries, keys and values have a bias.
    pub qkv_bias: bool,
    /// Function of the feed-forward block.
    pub activation: Activation,
    /// What is added under the roots of norms.
    pub norm_eps: f64,
    /// Probability of dropping, of what a block adds.
    pub hidden_dropout: f64,
    /// Probability of dropping, of attention weights.
    pub attention_dropout: f64,
    /// What all configurations have.
    pub common: Common,
}

impl VisionConfig {
    /// Patches of an image.
    pub fn patches(&self) -> usize {
        (self.image_size.0 / self.patch_size.0) * (self.image_size.1 / self.patch_size.1)
    }
}

/// Clip's text half.
#[derive(Debug, Clone, PartialEq)]
pub struct ClipTextConfig {
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
    /// Function of the feed-forward block.
    pub activation: Activation,
    /// What is added under the roots of norms.
    pub norm_eps: f64,
    /// Probability of dropping, of attention weights.
    pub attention_dropout: f64,
    /// The token whose row is the answer: its first position. Old files say 2, which stands for the highest id.
    pub eos_token: Option<u32>,
}

/// Clip as a whole.
#[derive(Debug, Clone, PartialEq)]
pub struct ClipConfig {
    /// The half that reads.
    pub text: ClipTextConfig,
    /// The half that looks.
    pub vision: VisionConfig,
    /// Width of the space in which they meet.
    pub projection_dim: usize,
    /// What all configurations have.
    pub common: Common,
}

pub(super) fn read(fields: &Fields<'_>, family: VisionFamily) -> Result<VisionConfig, ConfigError> {
    let clip = family == VisionFamily::Clip;
    let hidden_size = fields.size("hidden_size", 768)?;
    let heads = fields.size("num_attention_heads", 12)?;
    divided(fields, ("hidden_size", hidden_size), ("num_attention_heads", heads))?;
    let image_size = pair(fields, "image_size", 224)?;
    let patch_size = pair(fields, "patch_size", if clip { 32 } else { 16 })?;
    if patch_size.0 > image_size.0 || patch_size.1 > image_size.1 {
        return Err(
            fields.contradiction(format!("`patch_size` {patch_size:?} exceeds `image_size` {image_size:?}"))
        );
    }
    if patch_size.0 != patch_size.1 {
        let found = serde_json::json!([patch_size.0, patch_size.1]);
        return Err(fields.unsupported("patch_size", &found, "square patches"));
    }
    if clip {
        fields.size("projection_dim", 512)?;
    }
    let (activation, eps) = if clip { (Activation::QuickGelu, 1e-5) } else { (Activation::Gelu, 1e-12) };
    let attention = if clip { "attention_dropout" } else { "attention_probs_dropout_prob" };
    Ok(VisionConfig {
        family,
        hidden_size,
        intermediate_size: fields.size("intermediate_size", 3072)?,
        layers: layer_count(fields, "num_hidden_layers", 12)?,
        heads,
        image_size,
        patch_size,
        channels: fields.size("num_channels", 3)?,
        qkv_bias: clip || fields.flag("qkv_bias", true)?,
        activation: activation::read(fields, "hidden_act", activation)?,
        norm_eps: fields.positive("layer_norm_eps", eps)?,
        hidden_dropout: if clip { 0.0 } else { fields.dropout("hidden_dropout_prob", 0.0)? },
        attention_dropout: fields.dropout(attention, 0.0)?,
        common: common(fields, false)?,
    })
}

/// A size for both directions, or height and width.
fn pair(fields: &Fields<'_>, key: &str, default: usize) -> Result<(usize, usize), ConfigError> {
    let Some(Value::Array(list)) = fields.get(key) else {
        let size = fields.size(key, default)?;
        return Ok((size, size));
    };
    let sides: Option<Vec<usize>> = list.iter().map(|side| side.as_u64().map(|side| side as usize)).collect();
    match sides.as_deref() {
        Some(&[height @ 1..=65_536, width @ 1..=65_536]) => Ok((height, width)),
        _ => Err(fields.wrong(key, "a size, or height and width", &list.clone().into())),
    }
}

pub(super) fn read_clip(fields: &Fields<'_>) -> Result<ClipConfig, ConfigError> {
    for key in ["text_config_dict", "vision_config_dict"] {
        fields.get(key); // what the first files had besides; the same values
    }
    let empty = serde_json::Map::new();
    let part = |key: &str| {
        Ok::<_, ConfigError>(fields.object(key)?.unwrap_or(Fields::new(fields.path, key, &empty)))
    };
    let vision = read(&part("vision_config")?, VisionFamily::Clip)?;
    let text_fields = part("text_config")?;
    let text = text(&text_fields)?;
    let projection_dim = fields.size("projection_dim", 512)?;
    fields.number_if_there("logit_scale_init_value")?;
    let mut common = common(fields, false)?;
    common.unread.extend(vision.common.unread.iter().cloned());
    common.unread.extend(unread(&text_fields));
    Ok(ClipConfig { text, vision, projection_dim, common })
}

fn text(fields: &Fields<'_>) -> Result<ClipTextConfig, ConfigError> {
    let hidden_size = fields.size("hidden_size", 512)?;
    let heads = fields.size("num_attention_heads", 8)?;
    fields.size("projection_dim", 512)?; // clip's own counts
    for key in ["bos_token_id", "pad_token_id", "dtype", "torch_dtype", "model_type"] {
        fields.get(key);
    }
    divided(fields, ("hidden_size", hidden_size), ("num_attention_heads", heads))?;
    Ok(ClipTextConfig {
        vocab_size: fields.size("vocab_size", 49408)?,
        hidden_size,
        intermediate_size: fields.size("intermediate_size", 2048)?,
        layers: layer_count(fields, "num_hidden_layers", 12)?,
        heads,
        max_positions: fields.size("max_position_embeddings", 77)?,
        activation: activation::read(fields, "hidden_act", Activation::QuickGelu)?,
        norm_eps: fields.positive("layer_norm_eps", 1e-5)?,
        attention_dropout: fields.dropout("attention_dropout", 0.0)?,
        eos_token: fields.token("eos_token_id", Some(49407))?,
    })
}
