//! Models that read from left to right (llama, mistral, qwen2, qwen3, gemma2, gemma3 text, phi3, gpt2): from their
//! configuration to settings of blocks.

use onefold_checkpoint::Dtype;
use onefold_checkpoint::convert::{narrow, widen};
use onefold_engine::cpu::attention::Mask;
use onefold_engine::cpu::norm::Kind;
use onefold_engine::cpu::pool::Pooling;
use onefold_engine::cpu::rope::{self, Yarn};

use super::TextSettings;
use crate::config::{
    DecoderConfig, DecoderFamily, DecoderNorm, Head, LayerKind, Positions, Rope, RopeScaling,
};
use crate::model::attention::AttentionSettings;
use crate::model::embedding::EmbeddingSettings;
use crate::model::head::{ClassSettings, HeadSettings, LanguageSettings};
use crate::model::layer::{LayerSettings, Placement};
use crate::model::tower::StackSettings;

pub(super) fn settings(config: &DecoderConfig) -> TextSettings {
    let head = match config.common.head {
        Head::None | Head::Tokens(_) => HeadSettings::None,
        Head::Language => {
            let (tied, cap) = (config.tied, config.logits_softcap);
            HeadSettings::Language(LanguageSettings { tied, cap, transform: None })
        }
        Head::Classes(_) => HeadSettings::Classes(ClassSettings {
            pooling: Some(Pooling::Last),
            problem: config.common.problem,
            ..ClassSettings::default()
        }),
    };
    TextSettings {
        embedding: embedding(config),
        stack: StackSettings {
            layers: layers(config),
            final_norm: Some((norm_kind(config), config.norm_eps)),
            ropes: ropes(config),
        },
        head,
    }
}

/// The model's rotations: one for layers that see everything, and another for those with a window if it differs.
fn ropes(config: &DecoderConfig) -> Vec<rope::Rope> {
    match &config.positions {
        Positions::Learned => Vec::new(),
        Positions::Rotary { full, sliding } if full == sliding => vec![engine_rope(full)],
        Positions::Rotary { full, sliding } => vec![engine_rope(full), engine_rope(sliding)],
    }
}

fn engine_rope(rope: &Rope) -> rope::Rope {
    let kind = match rope.scaling.clone() {
        RopeScaling::None => rope::Kind::Default,
        RopeScaling::Linear { factor } => rope::Kind::Linear { factor },
        RopeScaling::Dynamic { factor, original } => rope::Kind::Dynamic { factor, max_positions: original },
        RopeScaling::Yarn {
            factor,
            original,
            attention_factor,
            beta_fast,
            beta_slow,
            mscale,
            mscale_all_dim,
            truncate,
        } => rope::Kind::Yarn(Yarn {
            factor,
            original_positions: original,
            beta_fast,
            beta_slow,
            truncate,
            attention_factor,
            mscale: mscale.zip(mscale_all_dim),
        }),
        RopeScaling::LongRope { short, long, original, attention_factor } => rope::Kind::LongRope {
            short,
            long,
            factor: 1.0,
            original_positions: original,
            attention_factor: Some(attention_factor),
        },
        RopeScaling::Llama3 { factor, low, high, original } => {
            rope::Kind::Llama3 { factor, low, high, original_positions: original }
        }
    };
    rope::Rope { theta: rope.theta, dims: rope.rotary_dim, kind }
}

fn norm_kind(config: &DecoderConfig) -> Kind {
    match config.norm {
        DecoderNorm::Rms => Kind::Rms,
        DecoderNorm::RmsPlusOne => Kind::RmsFromOne,
        DecoderNorm::Layer => Kind::Layer,
    }
}

/// The settings of each layer.
fn layers(config: &DecoderConfig) -> Vec<LayerSettings> {
    let norm = norm_kind(config);
    let placement =
        if config.norm == DecoderNorm::RmsPlusOne { Placement::Around } else { Placement::Before };
    let layer = |(number, kind): (usize, &LayerKind)| LayerSettings {
        placement,
        norm,
        epsilon: config.norm_eps,
        attention: attention(config, number, *kind),
        activation: config.activation,
        dropout: [config.dropout.residual; 2],
    };
    config.layers.iter().enumerate().map(layer).collect()
}

fn attention(config: &DecoderConfig, number: usize, kind: LayerKind) -> AttentionSettings {
    let scale = config.attention_scale;
    let window = config.sliding_window.filter(|_| kind == LayerKind::Sliding);
    let rope = match &config.positions {
        Positions::Learned => None,
        Positions::Rotary { full, sliding } => {
            Some(usize::from(full != sliding && kind == LayerKind::Sliding))
        }
    };
    AttentionSettings {
        heads: config.heads,
        kv_heads: config.kv_heads,
        head_dim: config.head_dim,
        scale: if scale.by_layer { scale.factor / (number + 1) as f64 } else { scale.factor },
        cap: config.attention_softcap,
        mask: window.map_or(Mask::CAUSAL, Mask::sliding),
        rope,
        head_norm: config.qk_norm.then_some((norm_kind(config), config.norm_eps)),
        dropout: config.dropout.attention,
    }
}

fn embedding(config: &DecoderConfig) -> EmbeddingSettings {
    let scale = config.embedding_scale.map(|scale| rounded(scale as f32, config.common.dtype));
    EmbeddingSettings {
        scale,
        norm: None,
        dropout: config.dropout.embedding,
        // gpt2's class has no padding row.
        padding: config.pad_token.filter(|_| config.family != DecoderFamily::Gpt2),
        first_position: 0,
    }
}

/// `value` as the type can hold it.
fn rounded(value: f32, dtype: Option<Dtype>) -> f32 {
    let Some(dtype) = dtype.filter(|dtype| dtype.is_float()) else { return value };
    let (mut bytes, mut out) = (vec![0; dtype.size()], [value]);
    narrow(dtype, &[value], &mut bytes);
    widen(dtype, &bytes, &mut out);
    out[0]
}
