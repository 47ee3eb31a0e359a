//! Tensors of decoders.

use super::{List, Role, TensorSpec};
use crate::config::{DecoderConfig, DecoderFamily, DecoderNorm, Head};

pub(super) fn tensors(config: &DecoderConfig) -> Vec<TensorSpec> {
    let mut list = List::default();
    match config.family {
        DecoderFamily::Gpt2 => gpt2(&mut list, config),
        _ => llama(&mut list, config),
    }
    head(&mut list, config);
    list.specs
}

fn head(list: &mut List, config: &DecoderConfig) {
    list.under("");
    match config.common.head {
        Head::Language if !config.tied => {
            list.weight(Role::Head, "lm_head", &[config.vocab_size, config.hidden_size]);
        }
        Head::Classes(classes) => list.weight(Role::Head, "score", &[classes, config.hidden_size]),
        Head::Language | Head::Tokens(_) | Head::None => {}
    }
}

/// All but gpt2.
fn llama(list: &mut List, config: &DecoderConfig) {
    let width = config.hidden_size;
    list.under("model.");
    list.weight(Role::TokenEmbedding, "embed_tokens", &[config.vocab_size, width]);
    for layer in 0..config.layers.len() {
        list.in_layer(format!("model.layers.{layer}."), layer);
        list.weight(Role::AttentionNorm, "input_layernorm", &[width]);
        attention(list, config);
        if config.norm == DecoderNorm::RmsPlusOne {
            list.weight(Role::AttentionPostNorm, "post_attention_layernorm", &[width]);
            list.weight(Role::FeedForwardNorm, "pre_feedforward_layernorm", &[width]);
        } else {
            list.weight(Role::FeedForwardNorm, "post_attention_layernorm", &[width]);
        }
        feed_forward(list, config);
        if config.norm == DecoderNorm::RmsPlusOne {
            list.weight(Role::FeedForwardPostNorm, "post_feedforward_layernorm", &[width]);
        }
    }
    list.under("model.");
    list.weight(Role::FinalNorm, "norm", &[width]);
}

fn attention(list: &mut List, config: &DecoderConfig) {
    let (width, bias) = (config.hidden_size, config.bias);
    let queries = config.heads * config.head_dim;
    let keys = config.kv_heads * config.head_dim;
    if config.fused {
        list.linear(Role::QueryKeyValue, "self_attn.qkv_proj", queries + 2 * keys, width, bias.qkv);
    } else {
        list.linear(Role::Query, "self_attn.q_proj", queries, width, bias.qkv);
        list.linear(Role::Key, "self_attn.k_proj", keys, width, bias.qkv);
        list.linear(Role::Value, "self_attn.v_proj", keys, width, bias.qkv);
    }
    if config.qk_norm {
        list.weight(Role::QueryNorm, "self_attn.q_norm", &[config.head_dim]);
        list.weight(Role::KeyNorm, "self_attn.k_norm", &[config.head_dim]);
    }
    list.linear(Role::AttentionOutput, "self_attn.o_proj", width, queries, bias.output);
}

fn feed_forward(list: &mut List, config: &DecoderConfig) {
    let (width, inner, bias) = (config.hidden_size, config.intermediate_size, config.bias.feed_forward);
    if config.fused {
        list.linear(Role::GateUp, "mlp.gate_up_proj", 2 * inner, width, bias);
    } else {
        list.linear(Role::Gate, "mlp.gate_proj", inner, width, bias);
        list.linear(Role::Up, "mlp.up_proj", inner, width, bias);
    }
    list.linear(Role::Down, "mlp.down_proj", width, inner, bias);
}

fn gpt2(list: &mut List, config: &DecoderConfig) {
    let (width, inner) = (config.hidden_size, config.intermediate_size);
    list.under("transformer.");
    list.weight(Role::TokenEmbedding, "wte", &[config.vocab_size, width]);
    list.weight(Role::PositionEmbedding, "wpe", &[config.max_positions, width]);
    for layer in 0..config.layers.len() {
        list.in_layer(format!("transformer.h.{layer}."), layer);
        list.layer_norm(Role::AttentionNorm, "ln_1", width);
        list.transposed(Role::QueryKeyValue, "attn.c_attn", 3 * width, width);
        list.transposed(Role::AttentionOutput, "attn.c_proj", width, width);
        list.layer_norm(Role::FeedForwardNorm, "ln_2", width);
        list.transposed(Role::Up, "mlp.c_fc", inner, width);
        list.transposed(Role::Down, "mlp.c_proj", width, inner);
    }
    list.under("transformer.");
    list.layer_norm(Role::FinalNorm, "ln_f", width);
}
