//! Tensors of vision models and of clip.

use super::{Half, List, Part, Role, TensorSpec};
use crate::config::{ClipConfig, ClipTextConfig, Head, VisionConfig, VisionFamily};

pub(super) fn tensors(config: &VisionConfig) -> Vec<TensorSpec> {
    let mut list = List::default();
    match config.family {
        VisionFamily::Vit => vit(&mut list, config),
        VisionFamily::Clip => clip_vision(&mut list, config),
    }
    list.specs
}

/// Both halves, their projections, and the scale of logits.
pub(super) fn clip(config: &ClipConfig) -> Vec<TensorSpec> {
    let mut list = List { half: Half::Text, ..List::default() };
    clip_text(&mut list, &config.text);
    list.under("");
    list.linear(Role::Projection, "text_projection", config.projection_dim, config.text.hidden_size, false);
    list.half = Half::Vision;
    clip_vision(&mut list, &config.vision);
    list.under("");
    list.linear(
        Role::Projection,
        "visual_projection",
        config.projection_dim,
        config.vision.hidden_size,
        false,
    );
    list.half = Half::Whole;
    list.bare(Role::LogitScale, Part::Weight, "logit_scale", &[]);
    list.specs
}

/// The patch embedding's shape: [width, channels, height, width of a patch].
fn patches(config: &VisionConfig) -> [usize; 4] {
    [config.hidden_size, config.channels, config.patch_size.0, config.patch_size.1]
}

fn vit(list: &mut List, config: &VisionConfig) {
    let (width, inner, bias) = (config.hidden_size, config.intermediate_size, config.qkv_bias);
    list.under("vit.embeddings.");
    list.bare(Role::ClassEmbedding, Part::Weight, "cls_token", &[1, 1, width]);
    list.weight(Role::PatchEmbedding, "patch_embeddings.projection", &patches(config));
    list.bare(Role::PatchEmbedding, Part::Bias, "patch_embeddings.projection.bias", &[width]);
    list.bare(
        Role::PositionEmbedding,
        Part::Weight,
        "position_embeddings",
        &[1, config.patches() + 1, width],
    );
    for layer in 0..config.layers {
        list.in_layer(format!("vit.encoder.layer.{layer}."), layer);
        list.layer_norm(Role::AttentionNorm, "layernorm_before", width);
        list.linear(Role::Query, "attention.attention.query", width, width, bias);
        list.linear(Role::Key, "attention.attention.key", width, width, bias);
        list.linear(Role::Value, "attention.attention.value", width, width, bias);
        list.linear(Role::AttentionOutput, "attention.output.dense", width, width, true);
        list.layer_norm(Role::FeedForwardNorm, "layernorm_after", width);
        list.linear(Role::Up, "intermediate.dense", inner, width, true);
        list.linear(Role::Down, "output.dense", width, inner, true);
    }
    list.under("vit.");
    list.layer_norm(Role::FinalNorm, "layernorm", width);
    if let Head::Classes(classes) = config.common.head {
        list.under("");
        list.linear(Role::Head, "classifier", classes, width, true);
    }
}

fn clip_vision(list: &mut List, config: &VisionConfig) {
    let width = config.hidden_size;
    list.under("vision_model.");
    list.bare(Role::ClassEmbedding, Part::Weight, "embeddings.class_embedding", &[width]);
    list.weight(Role::PatchEmbedding, "embeddings.patch_embedding", &patches(config));
    list.weight(Role::PositionEmbedding, "embeddings.position_embedding", &[config.patches() + 1, width]);
    list.layer_norm(Role::EmbeddingNorm, "pre_layrnorm", width);
    clip_layers(list, "vision_model.encoder.layers.", config.layers, width, config.intermediate_size);
    list.under("vision_model.");
    list.layer_norm(Role::FinalNorm, "post_layernorm", width);
}

fn clip_text(list: &mut List, config: &ClipTextConfig) {
    let width = config.hidden_size;
    list.under("text_model.");
    list.weight(Role::TokenEmbedding, "embeddings.token_embedding", &[config.vocab_size, width]);
    list.weight(Role::PositionEmbedding, "embeddings.position_embedding", &[config.max_positions, width]);
    clip_layers(list, "text_model.encoder.layers.", config.layers, width, config.intermediate_size);
    list.under("text_model.");
    list.layer_norm(Role::FinalNorm, "final_layer_norm", width);
}

fn clip_layers(list: &mut List, prefix: &str, layers: usize, width: usize, inner: usize) {
    for layer in 0..layers {
        list.in_layer(format!("{prefix}{layer}."), layer);
        list.layer_norm(Role::AttentionNorm, "layer_norm1", width);
        list.linear(Role::Query, "self_attn.q_proj", width, width, true);
        list.linear(Role::Key, "self_attn.k_proj", width, width, true);
        list.linear(Role::Value, "self_attn.v_proj", width, width, true);
        list.linear(Role::AttentionOutput, "self_attn.out_proj", width, width, true);
        list.layer_norm(Role::FeedForwardNorm, "layer_norm2", width);
        list.linear(Role::Up, "mlp.fc1", inner, width, true);
        list.linear(Role::Down, "mlp.fc2", width, inner, true);
    }
}
