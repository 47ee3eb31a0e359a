//! Reading a decoder's keys, with the defaults of its family.

use serde_json::Value;

use super::DecoderFamily::{self, Gemma2, Gemma3, Gpt2, Llama, Mistral, Phi3, Qwen2, Qwen3};
use super::{AttentionScale, DecoderBias, DecoderConfig, DecoderDropout, DecoderNorm, LayerKind, Positions};
use crate::config::fields::Fields;
use crate::config::rope::{self, RopeDefaults};
use crate::config::{Activation, Common, ConfigError, activation, common, divided, layer_count};

/// Defaults of a family's configuration class.
struct Defaults {
    vocab: usize,
    hidden: usize,
    intermediate: usize,
    layers: usize,
    heads: usize,
    /// None: as many as heads.
    kv_heads: Option<usize>,
    /// None: hidden / heads.
    head_dim: Option<usize>,
    positions: usize,
    eps: f64,
    window: Option<usize>,
    pad: Option<u32>,
}

impl DecoderFamily {
    fn defaults(self) -> Defaults {
        let llama = Defaults {
            vocab: 32000,
            hidden: 4096,
            intermediate: 11008,
            layers: 32,
            heads: 32,
            kv_heads: None,
            head_dim: None,
            positions: 2048,
            eps: 1e-6,
            window: None,
            pad: None,
        };
        let window = Some(4096);
        let qwen = Defaults {
            vocab: 151_936,
            intermediate: 22016,
            kv_heads: Some(32),
            positions: 32768,
            window,
            ..llama
        };
        let gemma = Defaults {
            vocab: 256_000,
            hidden: 2304,
            intermediate: 9216,
            layers: 26,
            heads: 8,
            kv_heads: Some(4),
            head_dim: Some(256),
            positions: 8192,
            window,
            pad: Some(0),
            ..llama
        };
        match self {
            Llama => llama,
            Mistral => {
                Defaults { intermediate: 14336, kv_heads: Some(8), positions: 131_072, window, ..llama }
            }
            Qwen2 => qwen,
            Qwen3 => Defaults { head_dim: Some(128), ..qwen },
            Gemma2 => gemma,
            Gemma3 => Defaults { vocab: 262_208, positions: 131_072, ..gemma },
            Phi3 => Defaults {
                vocab: 32064,
                hidden: 3072,
                intermediate: 8192,
                positions: 4096,
                eps: 1e-5,
                pad: Some(32000),
                ..llama
            },
            Gpt2 => Defaults {
                vocab: 50257,
                hidden: 768,
                intermediate: 3072,
                layers: 12,
                heads: 12,
                positions: 1024,
                eps: 1e-5,
                ..llama
            },
        }
    }
}

pub(in crate::config) fn read(
    fields: &Fields<'_>,
    family: DecoderFamily,
) -> Result<DecoderConfig, ConfigError> {
    fields.must_be_false("use_bidirectional_attention")?;
    match family {
        Gpt2 => gpt2(fields),
        _ => rotary(fields, family),
    }
}

/// All but gpt2.
fn rotary(fields: &Fields<'_>, family: DecoderFamily) -> Result<DecoderConfig, ConfigError> {
    let usual = family.defaults();
    let hidden_size = fields.size("hidden_size", usual.hidden)?;
    let heads = fields.size("num_attention_heads", usual.heads)?;
    let kv_heads = fields.optional_size("num_key_value_heads", usual.kv_heads)?.unwrap_or(heads);
    divided(fields, ("num_attention_heads", heads), ("num_key_value_heads", kv_heads))?;
    let head_dim = match fields.optional_size("head_dim", usual.head_dim)? {
        Some(head_dim) => head_dim,
        None => divided(fields, ("hidden_size", hidden_size), ("num_attention_heads", heads))?,
    };
    let max_positions = fields.size("max_position_embeddings", usual.positions)?;
    let (layers, sliding_window) = layers(fields, family, &usual)?;
    let defaults = RopeDefaults {
        theta: if family == Gemma3 { 1e6 } else { 1e4 },
        local_theta: (family == Gemma3).then_some(1e4),
        head_dim,
        positions: max_positions,
        original: match family {
            Phi3 => Some(fields.size("original_max_position_embeddings", 4096)?),
            _ => fields.size_if_there("original_max_position_embeddings")?,
        },
        old_longrope: family == Phi3,
    };
    let (full, sliding) = rope::read(fields, &defaults)?;
    let attention = fields.dropout("attention_dropout", 0.0)?;
    let mut config = DecoderConfig {
        family,
        vocab_size: fields.size("vocab_size", usual.vocab)?,
        hidden_size,
        intermediate_size: fields.size("intermediate_size", usual.intermediate)?,
        layers,
        heads,
        kv_heads,
        head_dim,
        max_positions,
        positions: Positions::Rotary { full, sliding },
        sliding_window,
        norm: if family.is_gemma() { DecoderNorm::RmsPlusOne } else { DecoderNorm::Rms },
        norm_eps: fields.positive("rms_norm_eps", usual.eps)?,
        qk_norm: matches!(family, Qwen3 | Gemma3),
        activation: Activation::Silu,
        gated: true,
        fused: family == Phi3,
        bias: bias(fields, family)?,
        attention_scale: AttentionScale { factor: (head_dim as f64).powf(-0.5), by_layer: false },
        attention_softcap: None,
        logits_softcap: None,
        embedding_scale: None,
        tied: fields.flag("tie_word_embeddings", family.is_gemma())?,
        dropout: DecoderDropout { attention, ..DecoderDropout::default() },
        pad_token: fields.token("pad_token_id", usual.pad)?,
        common: Common::default(), // last, when it is known what was read
    };
    match family {
        Gemma2 | Gemma3 => gemma(fields, &mut config)?,
        Phi3 => {
            config.activation = activation::read(fields, "hidden_act", Activation::Silu)?;
            config.dropout.embedding = fields.dropout("embd_pdrop", 0.0)?;
            config.dropout.residual = fields.dropout("resid_pdrop", 0.0)?;
        }
        _ => config.activation = activation::read(fields, "hidden_act", Activation::Silu)?,
    }
    config.common = common(fields, true)?;
    Ok(config)
}

fn gemma(fields: &Fields<'_>, config: &mut DecoderConfig) -> Result<(), ConfigError> {
    let caps = config.family == Gemma2;
    config.attention_scale.factor = fields.positive("query_pre_attn_scalar", 256.0)?.powf(-0.5);
    config.attention_softcap = fields.optional_positive("attn_logit_softcapping", caps.then_some(50.0))?;
    config.logits_softcap = fields.optional_positive("final_logit_softcapping", caps.then_some(30.0))?;
    config.embedding_scale = Some((config.hidden_size as f64).sqrt());
    // The first files of gemma2 name the exact function in `hidden_act` and mean the other; both keys may be there.
    fields.get("hidden_act");
    config.activation = activation::read(fields, "hidden_activation", Activation::GeluTanh)?;
    Ok(())
}

fn bias(fields: &Fields<'_>, family: DecoderFamily) -> Result<DecoderBias, ConfigError> {
    let attention =
        matches!(family, Llama | Qwen3 | Gemma2 | Gemma3) && fields.flag("attention_bias", false)?;
    if matches!(family, Mistral | Phi3) {
        fields.must_be_false("attention_bias")?;
    }
    let feed_forward = family == Llama && fields.flag("mlp_bias", false)?;
    if family != Llama {
        fields.must_be_false("mlp_bias")?;
    }
    Ok(DecoderBias { qkv: attention || family == Qwen2, output: attention, feed_forward })
}

/// What each layer sees, and the window.
fn layers(
    fields: &Fields<'_>,
    family: DecoderFamily,
    usual: &Defaults,
) -> Result<(Vec<LayerKind>, Option<usize>), ConfigError> {
    let count = layer_count(fields, "num_hidden_layers", usual.layers)?;
    let mut window = match family {
        Llama => None,
        _ => fields.optional_size("sliding_window", usual.window)?,
    };
    let kinds = match family {
        Qwen2 | Qwen3 => {
            let from = fields.get("max_window_layers").and_then(Value::as_u64).unwrap_or(28) as usize;
            let slides = fields.flag("use_sliding_window", false)?;
            window = window.filter(|_| slides);
            listed(fields, count, |layer| window.is_some() && layer >= from)?
        }
        Gemma2 => listed(fields, count, |layer| layer % 2 == 0)?,
        Gemma3 => {
            let old = fields.size_if_there("sliding_window_pattern")?;
            let pattern = old.unwrap_or(fields.size("_sliding_window_pattern", 6)?);
            listed(fields, count, |layer| (layer + 1) % pattern != 0)?
        }
        // These classes give every layer the window, whatever `layer_types` says.
        _ => vec![if window.is_some() { LayerKind::Sliding } else { LayerKind::Full }; count],
    };
    let slides = kinds.contains(&LayerKind::Sliding);
    if slides && window.is_none() {
        return Err(fields.missing("sliding_window"));
    }
    Ok((kinds, window.filter(|_| slides)))
}

/// `layer_types` if it is there, else by rule.
fn listed(
    fields: &Fields<'_>,
    count: usize,
    slides: impl Fn(usize) -> bool,
) -> Result<Vec<LayerKind>, ConfigError> {
    let Some(found) = fields.get("layer_types") else {
        let kind = |layer| if slides(layer) { LayerKind::Sliding } else { LayerKind::Full };
        return Ok((0..count).map(kind).collect());
    };
    let list = found.as_array().filter(|list| list.len() == count);
    let list = list.ok_or_else(|| fields.wrong("layer_types", format!("{count} layer types"), found))?;
    let kind = |item: &Value| match item.as_str() {
        Some("full_attention") => Ok(LayerKind::Full),
        Some("sliding_attention") => Ok(LayerKind::Sliding),
        _ => Err(fields.unsupported("layer_types", item, "full_attention, sliding_attention")),
    };
    list.iter().map(kind).collect()
}

fn gpt2(fields: &Fields<'_>) -> Result<DecoderConfig, ConfigError> {
    let usual = Gpt2.defaults();
    fields.must_be_false("add_cross_attention")?;
    fields.flag("reorder_and_upcast_attn", false)?; // the same in f32
    let hidden_size = fields.size("n_embd", usual.hidden)?;
    let heads = fields.size("n_head", usual.heads)?;
    let head_dim = divided(fields, ("n_embd", hidden_size), ("n_head", heads))?;
    let scaled = fields.flag("scale_attn_weights", true)?;
    let factor = if scaled { (head_dim as f64).powf(-0.5) } else { 1.0 };
    Ok(DecoderConfig {
        family: Gpt2,
        vocab_size: fields.size("vocab_size", usual.vocab)?,
        hidden_size,
        intermediate_size: fields.optional_size("n_inner", None)?.unwrap_or(4 * hidden_size),
        layers: vec![LayerKind::Full; layer_count(fields, "n_layer", usual.layers)?],
        heads,
        kv_heads: heads,
        head_dim,
        max_positions: fields.size("n_positions", usual.positions)?,
        positions: Positions::Learned,
        sliding_window: None,
        norm: DecoderNorm::Layer,
        norm_eps: fields.positive("layer_norm_epsilon", usual.eps)?,
        qk_norm: false,
        activation: activation::read(fields, "activation_function", Activation::GeluTanh)?,
        gated: false,
        fused: true,
        bias: DecoderBias { qkv: true, output: true, feed_forward: true },
        attention_scale: AttentionScale {
            factor,
            by_layer: fields.flag("scale_attn_by_inverse_layer_idx", false)?,
        },
        attention_softcap: None,
        logits_softcap: None,
        embedding_scale: None,
        tied: fields.flag("tie_word_embeddings", true)?,
        dropout: DecoderDropout {
            embedding: fields.dropout("embd_pdrop", 0.1)?,
            attention: fields.dropout("attn_pdrop", 0.1)?,
            residual: fields.dropout("resid_pdrop", 0.1)?,
        },
        pad_token: fields.token("pad_token_id", None)?,
        common: common(fields, true)?,
    })
}
