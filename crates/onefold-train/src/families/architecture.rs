//! What transformers calls a model with its head.

use crate::config::{DecoderFamily, EncoderFamily, Head, ModelConfig, VisionFamily};

/// The class that transformers has for a configuration: what `architectures` has to name.
pub fn architecture(config: &ModelConfig) -> String {
    let (family, image) = match config {
        ModelConfig::Decoder(config) => (decoder(config.family), false),
        ModelConfig::Encoder(config) => (encoder(config.family), false),
        ModelConfig::Vision(config) => (vision(config.family), true),
        ModelConfig::Clip(_) => ("CLIP", true),
    };
    let head = match config.common().head {
        Head::None => "Model",
        Head::Language if matches!(config, ModelConfig::Encoder(_)) => "ForMaskedLM",
        Head::Language if family == "GPT2" => "LMHeadModel",
        Head::Language => "ForCausalLM",
        Head::Classes(_) if image => "ForImageClassification",
        Head::Classes(_) => "ForSequenceClassification",
        Head::Tokens(_) => "ForTokenClassification",
    };
    format!("{family}{head}")
}

fn decoder(family: DecoderFamily) -> &'static str {
    match family {
        DecoderFamily::Llama => "Llama",
        DecoderFamily::Mistral => "Mistral",
        DecoderFamily::Qwen2 => "Qwen2",
        DecoderFamily::Qwen3 => "Qwen3",
        DecoderFamily::Gemma2 => "Gemma2",
        DecoderFamily::Gemma3 => "Gemma3",
        DecoderFamily::Phi3 => "Phi3",
        DecoderFamily::Gpt2 => "GPT2",
    }
}

fn encoder(family: EncoderFamily) -> &'static str {
    match family {
        EncoderFamily::Bert => "Bert",
        EncoderFamily::Roberta => "Roberta",
        EncoderFamily::DistilBert => "DistilBert",
    }
}

fn vision(family: VisionFamily) -> &'static str {
    match family {
        VisionFamily::Vit => "ViT",
        VisionFamily::Clip => "CLIPVision",
    }
}
