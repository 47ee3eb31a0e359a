//! Models that read in both directions (bert, roberta, distilbert): from their configuration to settings of blocks.

use onefold_engine::cpu::attention::Mask;
use onefold_engine::cpu::norm::Kind;
use onefold_engine::cpu::pool::Pooling;

use super::TextSettings;
use crate::config::{Activation, EncoderConfig, EncoderFamily, Head};
use crate::families::Role;
use crate::model::attention::AttentionSettings;
use crate::model::embedding::EmbeddingSettings;
use crate::model::head::{ClassSettings, HeadSettings, LanguageSettings, TransformSettings};
use crate::model::layer::{LayerSettings, Placement};
use crate::model::tower::StackSettings;

pub(super) fn settings(config: &EncoderConfig) -> TextSettings {
    TextSettings {
        embedding: embedding(config),
        stack: StackSettings { layers: vec![layer(config); config.layers], ..StackSettings::default() },
        head: head(config),
    }
}

fn embedding(config: &EncoderConfig) -> EmbeddingSettings {
    EmbeddingSettings {
        scale: None,
        norm: Some((Kind::Layer, config.norm_eps)),
        dropout: config.dropout.hidden,
        padding: config.pad_token,
        first_position: match config.family {
            // Roberta's table begins behind the row of padding.
            EncoderFamily::Roberta => config.pad_token.unwrap_or(0).saturating_add(1),
            EncoderFamily::Bert | EncoderFamily::DistilBert => 0,
        },
    }
}

fn layer(config: &EncoderConfig) -> LayerSettings {
    let attention =
        AttentionSettings::plain(config.hidden_size, config.heads, Mask::NONE, config.dropout.attention);
    // Distilbert drops nothing of what attention adds.
    let attended = if config.family == EncoderFamily::DistilBert { 0.0 } else { config.dropout.hidden };
    LayerSettings {
        placement: Placement::After,
        norm: Kind::Layer,
        epsilon: config.norm_eps,
        attention,
        activation: config.activation,
        dropout: [attended, config.dropout.hidden],
    }
}

fn head(config: &EncoderConfig) -> HeadSettings {
    match config.common.head {
        Head::None => HeadSettings::None,
        Head::Classes(_) => HeadSettings::Classes(classes(config)),
        Head::Tokens(_) => HeadSettings::Classes(ClassSettings {
            dropout: [0.0, config.dropout.tokens],
            ..ClassSettings::default()
        }),
        Head::Language => {
            let activation = match config.family {
                EncoderFamily::Roberta => Activation::Gelu, // whatever the layers have
                EncoderFamily::Bert | EncoderFamily::DistilBert => config.activation,
            };
            let transform = Some(TransformSettings { activation, epsilon: config.norm_eps });
            HeadSettings::Language(LanguageSettings { tied: config.tied, cap: None, transform })
        }
    }
}

fn classes(config: &EncoderConfig) -> ClassSettings {
    let rate = config.dropout.classifier;
    let (dense, first) = match config.family {
        EncoderFamily::Bert => ((Role::Pooler, Activation::Tanh), 0.0),
        EncoderFamily::Roberta => ((Role::HeadDense, Activation::Tanh), rate),
        EncoderFamily::DistilBert => ((Role::HeadDense, Activation::Relu), 0.0),
    };
    ClassSettings {
        pooling: Some(Pooling::First),
        dense: Some(dense),
        dropout: [first, rate],
        problem: config.common.problem,
    }
}
