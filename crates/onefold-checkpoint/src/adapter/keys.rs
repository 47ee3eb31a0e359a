//! Every key of a LoRA configuration that PEFT has written, and what it may be.

use serde_json::Value;

/// What a key may be.
pub(super) enum Rule {
    /// Does not change what a saved adapter adds to the weights.
    Informational,
    /// Read into `AdapterConfig`.
    Honoured,
    /// Must be null, false or empty; otherwise refused, with this reason.
    Neutral(&'static str),
}

use Rule::{Honoured, Informational, Neutral};

const MERGE: &str = "merge the adapter with PEFT and use the merged model";
pub(super) const KEYS: &[(&str, Rule)] = &[
    ("peft_type", Honoured),
    ("r", Honoured),
    ("lora_alpha", Honoured),
    ("use_rslora", Honoured),
    ("rank_pattern", Honoured),
    ("alpha_pattern", Honoured),
    ("use_dora", Honoured),
    ("lora_bias", Honoured),
    ("bias", Honoured),
    ("fan_in_fan_out", Honoured),
    ("modules_to_save", Honoured),
    ("trainable_token_indices", Honoured),
    ("init_lora_weights", Honoured),
    ("base_model_name_or_path", Honoured),
    ("revision", Honoured),
    ("task_type", Informational),
    ("auto_mapping", Informational),
    ("peft_version", Informational),
    ("inference_mode", Informational),
    ("lora_dropout", Informational),
    ("runtime_config", Informational),
    ("megatron_config", Informational),
    ("megatron_core", Informational),
    // Selection of modules: the file's tensors are the outcome.
    ("target_modules", Informational),
    ("exclude_modules", Informational),
    ("layers_to_transform", Informational),
    ("layers_pattern", Informational),
    // Settings of initialisers and of variants; whether one was used stands in another key.
    ("loftq_config", Informational),
    ("eva_config", Informational),
    ("corda_config", Informational),
    ("lora_ga_config", Informational),
    ("qalora_group_size", Informational),
    (
        "layer_replication",
        Neutral("the adapter was trained on a stack of repeated layers, which the base does not have"),
    ),
    ("target_parameters", Neutral("adapters of single parameters (mixture-of-experts weights) are not read")),
    ("ensure_weight_tying", Neutral("the adapter is shared by tied layers")),
    (
        "alora_invocation_tokens",
        Neutral("an activated LoRA acts on some tokens only and cannot be part of the weights"),
    ),
    ("arrow_config", Neutral("Arrow chooses adapters per token and cannot be part of the weights")),
    ("use_qalora", Neutral(MERGE)),
    ("use_bdlora", Neutral(MERGE)),
    ("kasa_config", Neutral(MERGE)),
    ("velora_config", Neutral(MERGE)),
    ("monteclora_config", Neutral(MERGE)),
];

/// Values of `init_lora_weights` that leave the base as it is; the others subtract the initial product from it.
pub(super) const PLAIN_STARTS: [&str; 4] = ["gaussian", "eva", "orthogonal", "mica"];
pub(super) const CHANGED_BASE: &str = "this initialisation changes the base weights in training, so the factors alone do not \
    give the trained model; save the adapter in converted form (PEFT: \
    save_pretrained(path_initial_model_for_weight_conversion=...)), which sets init_lora_weights to true";

/// Whether a value says that a feature is off.
pub(super) fn is_neutral(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.is_empty(),
        _ => false,
    }
}
