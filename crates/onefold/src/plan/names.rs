//! What a tensor's name tells beside its layer: whether its rows are tokens, whether it is a head.

pub use onefold_checkpoint::names::{Name, natural_order};

/// Input embeddings, by the last parts of their names.
const EMBEDDINGS: [&str; 8] = [
    "embed_tokens.weight",
    "wte.weight",
    "word_embeddings.weight",
    "tok_embeddings.weight",
    "embed_in.weight",
    "shared.weight",
    "token_embedding.weight",
    "tokens_embed.weight",
];

/// Output embeddings and what has one entry per token beside them.
const HEADS: [&str; 7] = [
    "lm_head.weight",
    "embed_out.weight",
    "lm_head.bias",
    "lm_head.decoder.weight",
    "lm_head.decoder.bias",
    "predictions.decoder.weight",
    "predictions.decoder.bias",
];

fn ends_with_any(name: &str, endings: &[&str]) -> bool {
    endings.iter().any(|e| name == *e || (name.ends_with(e) && name[..name.len() - e.len()].ends_with('.')))
}

/// Whether the first dimension of the tensor counts tokens.
pub fn has_token_rows(name: &str) -> bool {
    is_input_embedding(name) || ends_with_any(name, &HEADS) || ends_with_any(name, &["predictions.bias"])
}

/// Whether it is the matrix that tokens are looked up in.
pub fn is_input_embedding(name: &str) -> bool {
    ends_with_any(name, &EMBEDDINGS)
}

/// Whether it is an output matrix that may be tied to the input embedding.
pub fn is_head(name: &str) -> bool {
    ends_with_any(
        name,
        &["lm_head.weight", "embed_out.weight", "lm_head.decoder.weight", "predictions.decoder.weight"],
    )
}

/// Whether a tensor outside of layers comes before them (embeddings) rather than behind (final norm, head).
pub fn comes_before_layers(name: &str) -> bool {
    let early =
        ["embed", "wte", "wpe", "shared", "conv1", "patch", "pre_layrnorm", "class_token", "cls_token"];
    !ends_with_any(name, &HEADS) && !name.contains("embed_out") && early.iter().any(|e| name.contains(e))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn token_rows_are_told_by_name() {
        for name in [
            "model.embed_tokens.weight",
            "lm_head.weight",
            "embeddings.word_embeddings.weight",
            "wte.weight",
            "cls.predictions.bias",
        ] {
            assert!(has_token_rows(name), "{name}");
        }
        for name in ["model.norm.weight", "embeddings.position_embeddings.weight", "my_lm_head.weight2"] {
            assert!(!has_token_rows(name), "{name}");
        }
        assert!(comes_before_layers("model.embed_tokens.weight") && !comes_before_layers("lm_head.weight"));
    }
}
