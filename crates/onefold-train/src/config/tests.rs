use std::path::PathBuf;

use serde_json::json;

use super::*;

fn testdata() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../testdata/families"))
}

#[allow(clippy::needless_pass_by_value, reason = "`json!` at every call")]
fn parse(keys: Value) -> Result<ModelConfig, ConfigError> {
    ModelConfig::parse(keys.as_object().unwrap(), &PathBuf::from("config.json"))
}

fn decoder(keys: Value) -> DecoderConfig {
    match parse(keys) {
        Ok(ModelConfig::Decoder(config)) => config,
        other => panic!("{other:?}"),
    }
}

/// A file that names nothing but its type is the same as one that names every default of transformers' class.
#[test]
fn defaults_are_those_of_the_classes() {
    let all = read_object(&testdata().join("defaults.json")).unwrap();
    assert!(all.len() >= 15);
    for (name, full) in &all {
        if name == "clip_text_model" {
            continue; // read as a part of clip
        }
        let mut bare = parse(json!({"model_type": name})).unwrap_or_else(|e| panic!("{name}: {e}"));
        let mut full = parse(full.clone()).unwrap_or_else(|e| panic!("{name}: {e}"));
        for config in [&mut bare, &mut full] {
            let common = match config {
                ModelConfig::Decoder(config) => &mut config.common,
                ModelConfig::Encoder(config) => &mut config.common,
                ModelConfig::Vision(config) => &mut config.common,
                ModelConfig::Clip(config) => {
                    config.vision.common = Common::default();
                    &mut config.common
                }
            };
            (common.labels, common.dtype) = (Vec::new(), None);
            common.unread.clear();
        }
        assert_eq!(bare, full, "{name}");
    }
}

/// Nothing that transformers writes is left unread; version 4 and 5 of a file describe the same model.
#[test]
fn both_spellings_of_every_variant() {
    let mut old = 0;
    for entry in std::fs::read_dir(testdata()).unwrap() {
        let dir = entry.unwrap().path();
        if !dir.is_dir() {
            continue;
        }
        let config = ModelConfig::open(&dir).unwrap();
        assert_eq!(config.common().unread, Vec::<String>::new(), "{}", dir.display());
        assert_eq!(config.common().dtype, Some(Dtype::F32));
        let path = dir.join("config.v4.json");
        if path.is_file() {
            let keys = read_object(&path).unwrap();
            assert_eq!(ModelConfig::parse(&keys, &path).unwrap(), config, "{}", dir.display());
            old += 1;
        }
    }
    assert!(old >= 20);
}

fn rope(config: &DecoderConfig) -> (Rope, Rope) {
    match &config.positions {
        Positions::Rotary { full, sliding } => (full.clone(), sliding.clone()),
        Positions::Learned => panic!("{config:?}"),
    }
}

#[test]
fn variants_say_what_they_are() {
    let open = |name: &str| match ModelConfig::open(&testdata().join(name)) {
        Ok(ModelConfig::Decoder(config)) => config,
        other => panic!("{other:?}"),
    };
    let gemma = open("gemma3_text");
    use LayerKind::{Full, Sliding};
    assert_eq!((gemma.layers.as_slice(), gemma.sliding_window), (&[Sliding, Sliding, Full][..], Some(4)));
    let (full, sliding) = rope(&gemma);
    assert_eq!((full.theta, full.scaling), (1e6, RopeScaling::Linear { factor: 8.0 }));
    assert_eq!((sliding.theta, sliding.scaling), (1e4, RopeScaling::None));
    assert_eq!(gemma.attention_scale.factor, 12f64.powf(-0.5));
    assert_eq!(open("qwen2_sliding").layers, [Full, Sliding]);
    assert_eq!(open("qwen2").sliding_window, None);
    assert_eq!(open("mistral").layers, [Sliding, Sliding]);
    assert_eq!(open("gemma2").attention_softcap, Some(2.0));
    assert_eq!(open("gemma2_uncapped").logits_softcap, None);
    assert_eq!(rope(&open("phi3_partial")).0.rotary_dim, 4);
    assert_eq!(open("gpt2_unscaled").attention_scale, AttentionScale { factor: 1.0, by_layer: true });
    assert_eq!(open("llama_classify").common.head, Head::Classes(3));
    let RopeScaling::LongRope { original, attention_factor, .. } =
        rope(&open("phi3_longrope_short")).0.scaling
    else {
        panic!()
    };
    assert_eq!(original, 64);
    assert!((attention_factor - (1.0 + 4f64.ln() / 64f64.ln()).sqrt()).abs() < 1e-12);
}

#[test]
fn old_names_of_rope() {
    let old = decoder(
        json!({"model_type": "llama", "rope_theta": 5.0, "rope_scaling": {"type": "linear", "factor": 2}}),
    );
    assert_eq!((rope(&old).0.theta, rope(&old).0.scaling), (5.0, RopeScaling::Linear { factor: 2.0 }));
    let factors = vec![1.0; 48];
    let su = decoder(json!({"model_type": "phi3", "max_position_embeddings": 131_072,
        "rope_scaling": {"type": "su", "short_factor": factors, "long_factor": factors}}));
    assert!(matches!(rope(&su).0.scaling, RopeScaling::LongRope { original: 4096, .. }));
}

#[test]
fn heads_and_what_their_scores_mean() {
    let common = |keys: Value| parse(keys).unwrap().common().clone();
    let bert = |architecture: &str, count: usize| {
        common(json!({"model_type": "bert", "architectures": [architecture], "num_labels": count}))
    };
    assert_eq!(bert("BertForTokenClassification", 5).head, Head::Tokens(5));
    assert_eq!(bert("BertForMaskedLM", 2).head, Head::Language);
    assert_eq!(bert("BertModel", 2).head, Head::None);
    assert_eq!(bert("BertForSequenceClassification", 3).problem, Problem::SingleLabel);
    // A single score is a number, as transformers has it.
    assert_eq!(bert("BertForSequenceClassification", 1).problem, Problem::Regression);
    assert_eq!(bert("BertForTokenClassification", 1).problem, Problem::SingleLabel);
    let several = json!({"model_type": "vit", "problem_type": "multi_label_classification"});
    assert_eq!(common(several).problem, Problem::MultiLabel);
}

#[test]
fn what_is_not_understood_is_refused() {
    let refused = |keys: Value, message: &str| {
        let error = parse(keys).unwrap_err().to_string();
        assert!(error.starts_with("config.json: ") && error.contains(message), "{error}");
    };
    refused(json!({}), "key `model_type` is missing");
    refused(
        json!({"model_type": "mamba"}),
        "key `model_type`: \"mamba\" is not supported; supported: llama, mistral",
    );
    let llama = |key: &str, value: Value| {
        let mut keys = json!({"model_type": "llama"});
        keys[key] = value;
        keys
    };
    refused(
        llama("hidden_act", json!("xielu")),
        "key `hidden_act`: \"xielu\" is not supported; supported: silu",
    );
    refused(llama("quantization_config", json!({"bits": 4})), "not quantised");
    refused(
        llama("hidden_size", json!(-1)),
        "key `hidden_size`: expected a positive integer below 2^31, found -1",
    );
    refused(llama("hidden_size", json!(1u64 << 40)), "positive integer below 2^31");
    refused(llama("num_hidden_layers", json!(2_000_000_000)), "at most 10000");
    refused(llama("num_key_value_heads", json!(5)), "`num_attention_heads` 32 is not a multiple of");
    refused(
        llama("hidden_size", json!(33)),
        "`hidden_size` 33 is not a multiple of `num_attention_heads` 32",
    );
    refused(llama("rms_norm_eps", json!("x")), "key `rms_norm_eps`: expected a positive number");
    refused(llama("attention_dropout", json!(1)), "a probability in [0, 1)");
    refused(llama("tie_word_embeddings", json!(1)), "true or false");
    refused(llama("dtype", json!("int8")), "key `dtype`");
    refused(llama("id2label", json!({"1": "a"})), "key `id2label`");
    refused(
        llama("rope_scaling", json!({"type": "mrope"})),
        "key `rope_scaling.type`: \"mrope\" is not supported",
    );
    refused(
        llama("rope_parameters", json!({"rope_type": "linear"})),
        "key `rope_parameters.factor` is missing",
    );
    refused(
        llama("rope_parameters", json!({"rope_type": "longrope", "short_factor": [1], "long_factor": [1]})),
        "64 numbers",
    );
    refused(
        llama(
            "rope_parameters",
            json!({"rope_type": "llama3", "factor": 8, "low_freq_factor": 4, "high_freq_factor": 4}),
        ),
        "is not below",
    );
    refused(
        llama("rope_parameters", json!({"short_mscale": 1})),
        "key `rope_parameters.short_mscale`: not a setting of",
    );
    refused(llama("rope_parameters", json!({"partial_rotary_factor": 1.5})), "rotate 192 dimensions");
    refused(json!({"model_type": "qwen2", "layer_types": ["full_attention"]}), "32 layer types");
    refused(json!({"model_type": "gemma2", "sliding_window": null}), "key `sliding_window` is missing");
    refused(
        json!({"model_type": "gemma3_text", "use_bidirectional_attention": true}),
        "use_bidirectional_attention",
    );
    refused(json!({"model_type": "bert", "is_decoder": true}), "key `is_decoder`: true is not supported");
    refused(json!({"model_type": "bert", "position_embedding_type": "relative_key"}), "absolute");
    refused(json!({"model_type": "vit", "patch_size": 300}), "exceeds `image_size`");
    refused(
        json!({"model_type": "distilbert", "n_layers": 2_000_000_000}),
        "key `n_layers`: expected at most 10000",
    );
    refused(json!({"model_type": "vit", "num_hidden_layers": 2_000_000_000}), "at most 10000");
    refused(json!({"model_type": "vit", "patch_size": [16, 8]}), "supported: square patches");
    refused(json!({"model_type": "bert", "problem_type": "ranking"}), "key `problem_type`: \"ranking\"");
    refused(json!({"model_type": "clip", "vision_config": 3}), "key `vision_config`: expected an object");
}
