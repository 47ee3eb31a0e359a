use std::collections::BTreeSet;
use std::path::PathBuf;

use onefold_checkpoint::Checkpoint;

use super::*;
use crate::json::read_object;

fn testdata() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../testdata/families"))
}

/// The variants of the goldens: name, configuration, the checkpoint it uses.
fn variants() -> Vec<(String, ModelConfig, Checkpoint)> {
    let mut variants = Vec::new();
    for entry in std::fs::read_dir(testdata()).unwrap() {
        let dir = entry.unwrap().path();
        if !dir.is_dir() {
            continue;
        }
        let golden = read_object(&dir.join("golden.json")).unwrap();
        let weights = Checkpoint::open(&testdata().join(golden["weights"].as_str().unwrap())).unwrap();
        let name = dir.file_name().unwrap().to_str().unwrap().to_owned();
        variants.push((name, ModelConfig::open(&dir).unwrap(), weights));
    }
    assert!(variants.len() >= 38);
    variants
}

/// Names and shapes are exactly those that transformers wrote.
#[test]
fn every_tensor_has_its_place() {
    for (name, config, checkpoint) in variants() {
        let found =
            find(&config, checkpoint.tensors(), checkpoint.dir()).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert_eq!(found.unused, Vec::<String>::new(), "{name}");
        let roles: BTreeSet<_> =
            found.tensors.iter().map(|(s, _)| (s.half, s.layer, s.role, s.part)).collect();
        assert_eq!(roles.len(), found.tensors.len(), "{name}: two tensors of one role");
    }
}

/// The goldens have a gradient for every tensor, under its stored name.
#[test]
fn every_tensor_has_its_gradient() {
    for (name, config, _) in variants() {
        let golden = read_object(&testdata().join(&name).join("golden.json")).unwrap();
        let names: BTreeSet<_> = tensors(&config).into_iter().map(|spec| spec.name).collect();
        let gradients: BTreeSet<_> = golden["gradients"].as_object().unwrap().keys().cloned().collect();
        assert_eq!(names, gradients, "{name}");
        assert_eq!(golden["trace"].as_array().unwrap().len(), 21);
        assert_eq!(golden["architecture"], architecture(&config), "{name}");
    }
}

#[test]
fn names_of_base_models_and_old_files() {
    let (_, config, checkpoint) = variants().into_iter().find(|(name, ..)| name == "bert").unwrap();
    let mut stored = checkpoint.tensors().clone();
    stored = stored
        .into_iter()
        .map(|(name, tensor)| {
            let name = name.trim_start_matches("bert.").to_owned();
            let name = name
                .replace("LayerNorm.weight", "LayerNorm.gamma")
                .replace("LayerNorm.bias", "LayerNorm.beta");
            (name, tensor)
        })
        .collect();
    stored.insert("embeddings.position_ids".to_owned(), stored["classifier.bias"].clone());
    let found = find(&config, &stored, checkpoint.dir()).unwrap();
    assert_eq!(found.unused, ["embeddings.position_ids"]);
}

#[test]
fn all_problems_are_reported_together() {
    let (_, config, checkpoint) = variants().into_iter().find(|(name, ..)| name == "llama_gqa").unwrap();
    let mut stored = checkpoint.tensors().clone();
    stored.remove("model.norm.weight");
    stored.insert(
        "model.layers.1.self_attn.k_proj.weight".to_owned(),
        stored["model.embed_tokens.weight"].clone(),
    );
    let error = find(&config, &stored, checkpoint.dir()).unwrap_err().to_string();
    assert!(error.contains("2 tensors are not as config.json says"), "{error}");
    assert!(error.contains("`model.norm.weight` of shape [32] is missing"), "{error}");
    assert!(error.contains("k_proj.weight` has shape [64, 32], expected [16, 32]"), "{error}");
}

/// Heads of masked words that files store once more.
#[test]
fn tied_names_of_masked_heads() {
    let variants = variants();
    let config = |name: &str| variants.iter().find(|(found, ..)| found == name).unwrap().1.clone();
    let (embedding, bias) = ((Role::TokenEmbedding, Part::Weight), (Role::Head, Part::Bias));
    for (name, stored, expected) in [
        ("bert_masked", "cls.predictions.decoder.weight", Some(embedding)),
        ("bert_masked", "cls.predictions.decoder.bias", Some(bias)),
        ("bert_masked", "cls.seq_relationship.weight", None),
        ("roberta_masked", "lm_head.decoder.weight", Some(embedding)),
        ("roberta_masked", "lm_head.decoder.bias", Some(bias)),
        ("distilbert_masked", "vocab_projector.weight", Some(embedding)),
        ("distilbert_masked", "vocab_projector.bias", None), // it is the head's own
        ("bert", "cls.predictions.decoder.weight", None),
        ("llama_gqa", "lm_head.weight", Some(embedding)),
    ] {
        assert_eq!(tied(&config(name), stored), expected, "{name} {stored}");
    }
    let ModelConfig::Encoder(mut encoder) = config("bert_masked") else { panic!() };
    encoder.tied = false;
    let config = ModelConfig::Encoder(encoder);
    assert_eq!(tied(&config, "cls.predictions.decoder.weight"), None);
    assert!(tensors(&config).iter().any(|spec| spec.name == "cls.predictions.decoder.weight"));
}
