//! Tensors of text encoders.

use super::{List, Part, Role, TensorSpec};
use crate::config::{EncoderConfig, EncoderFamily, Head};

/// Names of one family's modules.
struct Names {
    base: &'static str,
    layers: &'static str,
    /// Query, key, value, output, its norm, up, down, its norm.
    layer: [&'static str; 8],
}

const BERT: [&str; 8] = [
    "attention.self.query",
    "attention.self.key",
    "attention.self.value",
    "attention.output.dense",
    "attention.output.LayerNorm",
    "intermediate.dense",
    "output.dense",
    "output.LayerNorm",
];
const DISTILBERT: [&str; 8] = [
    "attention.q_lin",
    "attention.k_lin",
    "attention.v_lin",
    "attention.out_lin",
    "sa_layer_norm",
    "ffn.lin1",
    "ffn.lin2",
    "output_layer_norm",
];

fn names(family: EncoderFamily) -> Names {
    match family {
        EncoderFamily::Bert => Names { base: "bert.", layers: "bert.encoder.layer.", layer: BERT },
        EncoderFamily::Roberta => Names { base: "roberta.", layers: "roberta.encoder.layer.", layer: BERT },
        EncoderFamily::DistilBert => {
            Names { base: "distilbert.", layers: "distilbert.transformer.layer.", layer: DISTILBERT }
        }
    }
}

pub(super) fn tensors(config: &EncoderConfig) -> Vec<TensorSpec> {
    let mut list = List::default();
    let names = names(config.family);
    let (width, inner) = (config.hidden_size, config.intermediate_size);
    list.under(names.base);
    list.weight(Role::TokenEmbedding, "embeddings.word_embeddings", &[config.vocab_size, width]);
    list.weight(Role::PositionEmbedding, "embeddings.position_embeddings", &[config.max_positions, width]);
    if config.types > 0 {
        list.weight(Role::TypeEmbedding, "embeddings.token_type_embeddings", &[config.types, width]);
    }
    list.layer_norm(Role::EmbeddingNorm, "embeddings.LayerNorm", width);
    let [query, key, value, output, norm, up, down, last] = names.layer;
    for layer in 0..config.layers {
        list.in_layer(format!("{}{layer}.", names.layers), layer);
        list.linear(Role::Query, query, width, width, true);
        list.linear(Role::Key, key, width, width, true);
        list.linear(Role::Value, value, width, width, true);
        list.linear(Role::AttentionOutput, output, width, width, true);
        list.layer_norm(Role::AttentionNorm, norm, width);
        list.linear(Role::Up, up, inner, width, true);
        list.linear(Role::Down, down, width, inner, true);
        list.layer_norm(Role::FeedForwardNorm, last, width);
    }
    head(&mut list, config);
    list.specs
}

fn head(list: &mut List, config: &EncoderConfig) {
    list.under("");
    match config.common.head {
        Head::None => {}
        Head::Classes(classes) => classify(list, config, classes),
        Head::Tokens(classes) => list.linear(Role::Head, "classifier", classes, config.hidden_size, true),
        Head::Language => masked(list, config),
    }
}

fn classify(list: &mut List, config: &EncoderConfig, classes: usize) {
    let width = config.hidden_size;
    match config.family {
        EncoderFamily::Bert => {
            list.linear(Role::Pooler, "bert.pooler.dense", width, width, true);
            list.linear(Role::Head, "classifier", classes, width, true);
        }
        EncoderFamily::Roberta => {
            list.linear(Role::HeadDense, "classifier.dense", width, width, true);
            list.linear(Role::Head, "classifier.out_proj", classes, width, true);
        }
        EncoderFamily::DistilBert => {
            list.linear(Role::HeadDense, "pre_classifier", width, width, true);
            list.linear(Role::Head, "classifier", classes, width, true);
        }
    }
}

/// Modules of the head that scores masked words: the dense layer, its norm, the map to words, and what its bias is called.
fn masked_names(family: EncoderFamily) -> [&'static str; 4] {
    match family {
        EncoderFamily::Bert => [
            "cls.predictions.transform.dense",
            "cls.predictions.transform.LayerNorm",
            "cls.predictions.decoder",
            "cls.predictions.bias",
        ],
        EncoderFamily::Roberta => ["lm_head.dense", "lm_head.layer_norm", "lm_head.decoder", "lm_head.bias"],
        EncoderFamily::DistilBert => {
            ["vocab_transform", "vocab_layer_norm", "vocab_projector", "vocab_projector.bias"]
        }
    }
}

fn masked(list: &mut List, config: &EncoderConfig) {
    let width = config.hidden_size;
    let [dense, norm, map, bias] = masked_names(config.family);
    list.linear(Role::HeadDense, dense, width, width, true);
    list.layer_norm(Role::HeadNorm, norm, width);
    if !config.tied {
        list.weight(Role::Head, map, &[config.vocab_size, width]);
    }
    list.bare(Role::Head, Part::Bias, bias, &[config.vocab_size]);
}

/// What a tensor of the head that scores masked words is a copy of.
pub(super) fn tied(config: &EncoderConfig, name: &str) -> Option<(Role, Part)> {
    let [_, _, map, bias] = masked_names(config.family);
    match name.strip_prefix(map)? {
        ".weight" if config.tied => Some((Role::TokenEmbedding, Part::Weight)),
        ".bias" if name != bias => Some((Role::Head, Part::Bias)),
        _ => None,
    }
}
