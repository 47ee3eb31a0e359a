//! `config.json` → one description per kind of model.
//!
//! Files omit keys that equal the defaults of their class, so each family's defaults are part of reading it; they are
//! those of transformers, against which tests hold them. Keys that would change the arithmetic and are not implemented
//! are errors. Keys that nobody asked for are listed in [`Common::unread`], for the caller to warn about.

mod activation;
mod decoder;
mod encoder;
mod error;
mod fields;
mod rope;
mod vision;

use std::path::Path;

use onefold_checkpoint::Dtype;
use serde_json::{Map, Value};

use crate::json::read_object;
pub use decoder::{
    AttentionScale, DecoderBias, DecoderConfig, DecoderDropout, DecoderFamily, DecoderNorm, LayerKind,
    Positions,
};
pub use encoder::{EncoderConfig, EncoderDropout, EncoderFamily};
pub use error::ConfigError;
use fields::Fields;
pub use onefold_engine::cpu::activation::Activation;
pub use rope::{Rope, RopeScaling};
pub use vision::{ClipConfig, ClipTextConfig, VisionConfig, VisionFamily};

/// A model that can be run.
#[derive(Debug, Clone, PartialEq)]
pub enum ModelConfig {
    /// Reads from left to right.
    Decoder(DecoderConfig),
    /// Reads in both directions.
    Encoder(EncoderConfig),
    /// Looks at an image.
    Vision(VisionConfig),
    /// Compares images and texts.
    Clip(ClipConfig),
}

/// What stands behind the last layer, from the name in `architectures`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Head {
    /// Nothing: the file is of a base model.
    #[default]
    None,
    /// Scores of the next token; of a masked one, in models that read in both directions.
    Language,
    /// Scores of this many classes for the whole input.
    Classes(usize),
    /// Scores of this many classes for each token.
    Tokens(usize),
}

/// What the scores of classes mean (`problem_type`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Problem {
    /// One class is right: softmax and cross-entropy.
    #[default]
    SingleLabel,
    /// Each class is right or wrong by itself: binary cross-entropy of each, and their mean.
    MultiLabel,
    /// Scores are the numbers that are wanted: mean squared error.
    Regression,
}

/// What configurations of all families have in common.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Common {
    /// The value of `model_type`.
    pub model_type: String,
    /// What stands behind the last layer.
    pub head: Head,
    /// Names of the classes, by class id; empty if there are none.
    pub labels: Vec<String>,
    /// What the scores of classes mean; if `problem_type` is missing, a single score is a number, and several are classes.
    pub problem: Problem,
    /// In which type the weights were saved.
    pub dtype: Option<Dtype>,
    /// Keys that were not read and are not known to be without effect.
    pub unread: Vec<String>,
}

const MODEL_TYPES: &str = "llama, mistral, qwen2, qwen3, gemma2, gemma3_text, phi3, gpt2, bert, roberta, distilbert, \
                           vit, clip, clip_text_model, clip_vision_model";

impl ModelConfig {
    /// The configuration of the model in `dir`.
    pub fn open(dir: &Path) -> Result<Self, ConfigError> {
        let path = dir.join("config.json");
        Self::parse(&read_object(&path)?, &path)
    }

    /// A configuration from its keys; `path` is for messages.
    pub fn parse(keys: &Map<String, Value>, path: &Path) -> Result<Self, ConfigError> {
        let fields = Fields::new(path, "", keys);
        let name = fields.text("model_type")?.ok_or_else(|| fields.missing("model_type"))?;
        if let Some(found) = fields.get("quantization_config") {
            return Err(fields.unsupported("quantization_config", found, "weights that are not quantised"));
        }
        if let Some(family) = DecoderFamily::from_model_type(name) {
            return decoder::read(&fields, family).map(Self::Decoder);
        }
        if let Some(family) = EncoderFamily::from_model_type(name) {
            return encoder::read(&fields, family).map(Self::Encoder);
        }
        match name {
            "vit" => vision::read(&fields, VisionFamily::Vit).map(Self::Vision),
            "clip_vision_model" => vision::read(&fields, VisionFamily::Clip).map(Self::Vision),
            "clip" => vision::read_clip(&fields).map(Self::Clip),
            "clip_text_model" => {
                Err(fields.unsupported("model_type", &name.into(), "clip, of which it is the text half"))
            }
            _ => Err(fields.unsupported("model_type", &name.into(), MODEL_TYPES)),
        }
    }

    /// That of the same trunk with another head. `labels` are the names of its classes, and may be absent.
    #[must_use]
    pub fn with_head(&self, head: Head, labels: Vec<String>, problem: Problem) -> Self {
        let mut config = self.clone();
        let common = match &mut config {
            Self::Decoder(config) => &mut config.common,
            Self::Encoder(config) => &mut config.common,
            Self::Vision(config) => &mut config.common,
            Self::Clip(config) => &mut config.common,
        };
        *common = Common { head, labels, problem, ..common.clone() };
        config
    }

    /// What all configurations have in common.
    pub fn common(&self) -> &Common {
        match self {
            Self::Decoder(config) => &config.common,
            Self::Encoder(config) => &config.common,
            Self::Vision(config) => &config.common,
            Self::Clip(config) => &config.common,
        }
    }
}

/// Keys that describe training, generation, provenance, or what a loader does with memory.
const WITHOUT_EFFECT: [&str; 33] = [
    "_name_or_path",
    "_sliding_window_pattern",
    "attn_implementation",
    "bos_token_id",
    "cache_implementation",
    "chunk_size_feed_forward",
    "encoder_stride",
    "eos_token_id",
    "finetuning_task",
    "gradient_checkpointing",
    "initializer_factor",
    "initializer_range",
    "is_encoder_decoder",
    "label2id",
    "model_max_length",
    "n_ctx",
    "output_attentions",
    "output_hidden_states",
    "pooler_act",
    "pooler_output_size",
    "pretraining_tp",
    "qa_dropout",
    "return_dict",
    "summary_activation",
    "summary_first_dropout",
    "summary_proj_to_labels",
    "summary_type",
    "summary_use_proj",
    "task_specific_params",
    "tokenizer_class",
    "torchscript",
    "transformers_version",
    "use_cache",
];

/// Reads what all configurations have, last of all, so that the rest is unread.
fn common(fields: &Fields<'_>, language: bool) -> Result<Common, ConfigError> {
    let labels = labels(fields)?;
    let count = fields.size("num_labels", if labels.is_empty() { 2 } else { labels.len() })?;
    if !labels.is_empty() && labels.len() != count {
        return Err(fields.contradiction(format!("`num_labels` is {count}, `id2label` has {}", labels.len())));
    }
    let architecture = fields.get("architectures").and_then(|names| names.get(0)).and_then(Value::as_str);
    let count = if labels.is_empty() { count } else { labels.len() };
    let head = match architecture {
        Some(name)
            if name.ends_with("ForSequenceClassification") || name.ends_with("ForImageClassification") =>
        {
            Head::Classes(count)
        }
        Some(name) if name.ends_with("ForTokenClassification") && !language => Head::Tokens(count),
        Some(name) if name.ends_with("ForMaskedLM") && !language => Head::Language,
        Some(name) if name.ends_with("ForCausalLM") || name.ends_with("LMHeadModel") => Head::Language,
        None if language => Head::Language,
        _ => Head::None,
    };
    let problem = problem(fields, head)?;
    let dtype = dtype(fields)?;
    let model_type = fields.text("model_type")?.unwrap_or_default().to_owned();
    let unread = unread(fields);
    Ok(Common { model_type, head, labels, problem, dtype, unread })
}

fn problem(fields: &Fields<'_>, head: Head) -> Result<Problem, ConfigError> {
    let known = "single_label_classification, multi_label_classification, regression";
    match fields.text("problem_type")? {
        None if head == Head::Classes(1) => Ok(Problem::Regression),
        None | Some("single_label_classification") => Ok(Problem::SingleLabel),
        Some("multi_label_classification") => Ok(Problem::MultiLabel),
        Some("regression") => Ok(Problem::Regression),
        Some(found) => Err(fields.unsupported("problem_type", &found.into(), known)),
    }
}

/// Keys that nobody asked for and that may have an effect.
fn unread(fields: &Fields<'_>) -> Vec<String> {
    let may_matter = |key: &String| !WITHOUT_EFFECT.contains(&key.rsplit('.').next().unwrap_or(key));
    fields.unread().filter(may_matter).collect()
}

/// The type the weights were saved in: `dtype` (version 5) wins over `torch_dtype`.
fn dtype(fields: &Fields<'_>) -> Result<Option<Dtype>, ConfigError> {
    let old = fields.text("torch_dtype")?;
    let Some(name) = fields.text("dtype")?.or(old) else { return Ok(None) };
    let known = match name.trim_start_matches("torch.") {
        "float32" | "float" => Some(Dtype::F32),
        "float64" => Some(Dtype::F64),
        "float16" | "half" => Some(Dtype::F16),
        "bfloat16" => Some(Dtype::BF16),
        "auto" => return Ok(None),
        _ => None,
    };
    let refused = || fields.unsupported("dtype", &name.into(), "float32, float64, float16, bfloat16");
    known.map(Some).ok_or_else(refused)
}

/// Class names by id; ids have to be 0, 1, 2 ….
fn labels(fields: &Fields<'_>) -> Result<Vec<String>, ConfigError> {
    let Some(found) = fields.get("id2label") else { return Ok(Vec::new()) };
    let wrong = || fields.wrong("id2label", "an object from \"0\", \"1\", … to names", found);
    let map = found.as_object().ok_or_else(wrong)?;
    let name =
        |id: usize| map.get(&id.to_string()).and_then(Value::as_str).map(str::to_owned).ok_or_else(wrong);
    (0..map.len()).map(name).collect()
}

/// The number of layers; bounded, because each takes a place in a list.
fn layer_count(fields: &Fields<'_>, key: &str, default: usize) -> Result<usize, ConfigError> {
    const MOST: usize = 10_000;
    let count = fields.size(key, default)?;
    if count <= MOST { Ok(count) } else { Err(fields.wrong(key, format!("at most {MOST}"), &count.into())) }
}

/// `whole / parts`, or the error that it does not come out even.
fn divided(fields: &Fields<'_>, whole: (&str, usize), parts: (&str, usize)) -> Result<usize, ConfigError> {
    if whole.1.is_multiple_of(parts.1) {
        return Ok(whole.1 / parts.1);
    }
    Err(fields
        .contradiction(format!("`{}` {} is not a multiple of `{}` {}", whole.0, whole.1, parts.0, parts.1)))
}

#[cfg(test)]
mod tests;
