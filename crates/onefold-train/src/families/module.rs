//! What transformers calls a module while it runs: the path that PEFT names adapters by.

use onefold_checkpoint::adapter::vit_module;

use super::base_prefix;
use crate::config::{Head, ModelConfig, VisionFamily};

/// The path of the module of a tensor in the class that `architectures` names; none for a tensor that is no module's
/// weight or bias.
pub(crate) fn module(config: &ModelConfig, tensor: &str) -> Option<String> {
    let path = tensor.strip_suffix(".weight").or_else(|| tensor.strip_suffix(".bias"))?;
    let prefix = base_prefix(config);
    let path = match config {
        ModelConfig::Vision(config) if config.family == VisionFamily::Vit => vit_module(path),
        _ => path.to_owned(),
    };
    match config.common().head {
        Head::None => Some(path.strip_prefix(prefix).unwrap_or(&path).to_owned()),
        Head::Language | Head::Classes(_) | Head::Tokens(_) => Some(path),
    }
}

/// The module of transformers in which the classes of a kind of model are, for PEFT's `auto_mapping`.
pub(crate) fn library(config: &ModelConfig) -> String {
    let name = match config.common().model_type.as_str() {
        "clip_vision_model" => "clip",
        "gemma3_text" => "gemma3",
        name => name,
    };
    format!("transformers.models.{name}.modeling_{name}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Problem;
    use crate::model::testing::Golden;

    #[test]
    fn modules_are_called_as_in_transformers() {
        let vit = Golden::open("vit").config;
        let path = |config: &ModelConfig, tensor| module(config, tensor).unwrap();
        assert_eq!(
            path(&vit, "vit.encoder.layer.1.attention.attention.key.bias"),
            "vit.layers.1.attention.k_proj"
        );
        assert_eq!(path(&vit, "vit.encoder.layer.0.output.dense.weight"), "vit.layers.0.mlp.fc2");
        assert_eq!(path(&vit, "vit.encoder.layer.0.layernorm_after.weight"), "vit.layers.0.layernorm_after");
        assert_eq!(path(&vit, "classifier.weight"), "classifier");
        assert_eq!(module(&vit, "vit.embeddings.cls_token"), None);
        let base = vit.with_head(Head::None, Vec::new(), Problem::default());
        assert_eq!(path(&base, "vit.encoder.layer.0.output.dense.weight"), "layers.0.mlp.fc2");
        let bert = Golden::open("bert").config;
        let (tensor, module) =
            ("bert.encoder.layer.0.output.dense.weight", "bert.encoder.layer.0.output.dense");
        assert_eq!(path(&bert, tensor), module);
        let base = bert.with_head(Head::None, Vec::new(), Problem::default());
        assert_eq!(path(&base, tensor), module["bert.".len()..]);
        assert_eq!(library(&vit), "transformers.models.vit.modeling_vit");
    }
}
