#![allow(clippy::disallowed_methods, reason = "fixtures are written plainly")]

use std::fs;
use std::path::Path;

use onefold_checkpoint::{Checkpoint, adapter};
use onefold_engine::Buffer;

use super::*;
use crate::config::Problem;
use crate::model::testing::Golden;
use crate::model::{AdapterSettings, Batch, HeadStart, Image, ImageBatch, Sequence, TextModel, VisionModel};

/// What a model answers to a fixed input, with the head of a task or its own.
type Answers = fn(&Parameters, Option<u32>) -> Vec<f32>;

const PLAIN: AdapterSettings = AdapterSettings {
    rank: 4,
    alpha: 6.0,
    rank_stabilised: false,
    decomposed: false,
    dropout: 0.25,
    seed: 1,
};

fn variants() -> [AdapterSettings; 4] {
    let (stable, dora) =
        (AdapterSettings { rank_stabilised: true, ..PLAIN }, AdapterSettings { decomposed: true, ..PLAIN });
    [PLAIN, stable, dora, AdapterSettings { alpha: 2.5, rank_stabilised: true, ..dora }]
}

/// Parameters with adapters on all linear maps that have learnt something.
fn adapted(golden: &Golden, settings: &AdapterSettings, trainable: fn(&TensorSpec) -> bool) -> Parameters {
    let mut parameters = golden.parameters(trainable);
    parameters.adapt(settings, |spec| spec.is_adaptable() && spec.layer.is_some()).unwrap();
    move_all(&mut parameters);
    parameters
}

fn move_all(parameters: &mut Parameters) {
    let ids: Vec<_> = parameters.trainable().map(|(id, _)| id).collect();
    for id in ids {
        let value = parameters.value_mut(id).unwrap();
        let moved = value.to_vec().into_iter().enumerate();
        let moved = moved.map(|(i, v)| v + 0.05 * (i as f32 * 0.7 + id.index() as f32).sin());
        value.write(0, &moved.collect::<Vec<_>>());
    }
}

fn text(parameters: &Parameters, task: Option<u32>) -> Vec<f32> {
    let mut batch = Batch::default();
    batch.push(&Sequence { ids: &[5, 6, 7, 9], ..Sequence::default() });
    let mut model = TextModel::new(parameters).unwrap();
    model.select_head(task).unwrap();
    let found = match parameters.config().common().head {
        Head::Language if task.is_none() => model.logits(parameters, &batch, &[1, 3]),
        _ => model.classify(parameters, &batch),
    };
    found.unwrap().to_vec()
}

fn image(parameters: &Parameters, _: Option<u32>) -> Vec<f32> {
    let mut batch = ImageBatch::default();
    let pixels: Vec<f32> = (0..768).map(|i| (i as f32 * 0.1).sin()).collect();
    batch.push(&Image { shape: [3, 16, 16], pixels: &pixels, ..Image::default() });
    VisionModel::new(parameters).unwrap().classify(parameters, &batch).unwrap().to_vec()
}

#[track_caller]
fn assert_close(found: &[f32], expected: &[f32]) {
    assert_eq!(found.len(), expected.len());
    for (found, expected) in found.iter().zip(expected) {
        assert!((found - expected).abs() <= 1e-5 * expected.abs().max(1.0), "{found} {expected}");
    }
}

fn save(parameters: &Parameters, task: Option<u32>, out: &Path) -> Result<Map<String, Value>, SaveError> {
    let to = Destination { source: Path::new("base"), out, replace: false };
    parameters.save_adapter(task, "org/base", &to)?;
    Ok(crate::json::read_object(&out.join("adapter_config.json")).unwrap())
}

/// The reader of adapters, with another arithmetic, makes of base and directory the model that was trained.
#[test]
fn what_is_read_back_is_what_was_trained() {
    let answers: [(&str, Answers); 6] = [
        ("llama_gqa", text),
        ("gpt2", text),
        ("phi3", text),
        ("bert", text),
        ("distilbert_tokens", text),
        ("vit", image),
    ];
    for (name, answers) in answers {
        for settings in variants() {
            let (golden, dir) = (Golden::open(name), tempfile::tempdir().unwrap());
            let parameters = adapted(&golden, &settings, |_| false);
            let out = dir.path().join("adapter");
            let found = save(&parameters, None, &out).unwrap();
            assert_eq!(found["use_dora"], settings.decomposed, "{name}");
            let merged = adapter::apply(golden.checkpoint.clone(), &out).unwrap();
            let merged = Parameters::load(&golden.config, &merged, |_| false).unwrap();
            assert_close(&answers(&merged, None), &answers(&parameters, None));
            let apart = answers(&golden.parameters(|_| false), None);
            let difference = apart.iter().zip(answers(&merged, None)).map(|(a, b)| (a - b).abs());
            assert!(difference.fold(0.0, f32::max) > 1e-2, "{name}: nothing to see");
        }
    }
}

#[test]
fn the_configuration_says_what_peft_needs() {
    let dir = tempfile::tempdir().unwrap();
    let parameters = adapted(&Golden::open("gpt2"), &PLAIN, |_| false);
    let found = fs::read_to_string({
        save(&parameters, None, &dir.path().join("gpt2")).unwrap();
        dir.path().join("gpt2/adapter_config.json")
    });
    let expected = r#"{
  "alpha_pattern": {},
  "auto_mapping": null,
  "base_model_name_or_path": "org/base",
  "bias": "none",
  "fan_in_fan_out": true,
  "inference_mode": true,
  "init_lora_weights": true,
  "lora_alpha": 6,
  "lora_dropout": 0.25,
  "modules_to_save": null,
  "peft_type": "LORA",
  "r": 4,
  "rank_pattern": {},
  "revision": null,
  "target_modules": [
    "c_attn",
    "c_fc",
    "c_proj"
  ],
  "task_type": "CAUSAL_LM",
  "use_dora": false,
  "use_rslora": false
}
"#;
    assert_eq!(found.unwrap(), expected);
    // Further ranks are patterns of whole paths; a part of the layers is named by whole paths.
    let mut parameters = Golden::open("llama").parameters(|_| false);
    let second = AdapterSettings { rank: 2, alpha: 0.5, ..PLAIN };
    let of = |role, layer| move |spec: &TensorSpec| spec.role == role && spec.layer == Some(layer);
    parameters.adapt(&PLAIN, of(Role::Query, 0)).unwrap();
    parameters.adapt(&second, of(Role::Down, 1)).unwrap();
    let found = save(&parameters, None, &dir.path().join("llama")).unwrap();
    let [query, down] = ["model.layers.0.self_attn.q_proj", "model.layers.1.mlp.down_proj"];
    assert_eq!(found["target_modules"], json!([query, down]));
    assert_eq!((&found["rank_pattern"], &found["r"]), (&json!({down: 2}), &json!(4)));
    assert_eq!((&found["alpha_pattern"], &found["lora_alpha"]), (&json!({down: 0.5}), &json!(6)));
    let base = Golden::open("llama").checkpoint;
    assert!(adapter::apply(base, &dir.path().join("llama")).is_ok());
    let found =
        save(&adapted(&Golden::open("vit"), &PLAIN, |_| false), None, &dir.path().join("vit")).unwrap();
    let class = json!({"base_model_class": "ViTForImageClassification", "parent_library": "transformers.models.vit.modeling_vit"});
    assert_eq!((&found["auto_mapping"], &found["task_type"]), (&class, &Value::Null));
}

fn names(dir: &Path) -> Vec<String> {
    let file = Checkpoint::open(&dir.join("adapter_model.safetensors")).unwrap();
    file.tensors().keys().filter(|name| !name.contains(".lora_")).cloned().collect()
}

/// Heads of tasks go with the adapter of their trunk.
#[test]
fn heads_are_saved_whole() {
    for (name, whole) in [
        ("bert", vec!["bert.pooler.dense", "classifier"]),
        ("roberta", vec!["classifier"]),
        ("distilbert", vec!["classifier", "pre_classifier"]),
        ("llama_gqa", vec!["score"]),
    ] {
        let (golden, dir) = (Golden::open(name), tempfile::tempdir().unwrap());
        let mut parameters = golden.parameters(|_| false);
        for (task, classes) in [(0, 2), (1, 4)] {
            let config = golden.config.with_head(Head::Classes(classes), Vec::new(), Problem::SingleLabel);
            parameters.add_head(task, &config, HeadStart { seed: 2, deviation: 0.2 }).unwrap();
        }
        parameters
            .adapt(&PLAIN, |spec| spec.is_adaptable() && spec.half == Half::Whole && spec.layer.is_some())
            .unwrap();
        move_all(&mut parameters);
        for task in [0, 1] {
            let out = dir.path().join(format!("{task}"));
            let found = save(&parameters, Some(task), &out).unwrap();
            assert_eq!(found["modules_to_save"], json!(whole), "{name}");
            assert_eq!(found["task_type"], "SEQ_CLS");
            let config = parameters.heads().find(|(of, _)| *of == task).unwrap().1.clone();
            let merged = adapter::apply(golden.checkpoint.clone(), &out).unwrap();
            let merged = Parameters::load(&config, &merged, |_| false).unwrap();
            assert_close(&text(&merged, None), &text(&parameters, Some(task)));
        }
    }
    // What else was trained, with what it has that was not; a classifier's head in any case.
    let dir = tempfile::tempdir().unwrap();
    let golden = Golden::open("bert");
    let trained = |spec: &TensorSpec| spec.role == Role::AttentionNorm && spec.part == Part::Bias;
    let parameters = adapted(&golden, &PLAIN, trained);
    let found = save(&parameters, None, &dir.path().join("norms")).unwrap();
    let norm = |layer| format!("bert.encoder.layer.{layer}.attention.output.LayerNorm");
    assert_eq!(found["modules_to_save"], json!([norm(0), norm(1), "classifier".to_owned()]));
    let expected = [norm(0), norm(1), "classifier".into()]
        .map(|module| ["bias", "weight"].map(|part| format!("{ROOT}.{module}.{part}")));
    assert_eq!(names(&dir.path().join("norms")), expected.concat());
    let merged = adapter::apply(golden.checkpoint.clone(), &dir.path().join("norms")).unwrap();
    let merged = Parameters::load(&golden.config, &merged, |_| false).unwrap();
    assert_close(&text(&merged, None), &text(&parameters, None));
}

#[test]
fn what_peft_cannot_hold_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let refused = |parameters: &Parameters, task, message: &str| {
        let error = save(parameters, task, &dir.path().join("out")).unwrap_err().to_string();
        assert!(error.contains(message), "{error}");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    };
    let llama = Golden::open("llama_gqa");
    refused(&llama.parameters(|_| true), None, "no weight of the model has an adapter");
    refused(&adapted(&llama, &PLAIN, |_| false), Some(3), "task 3 has no head");
    let embedding = |spec: &TensorSpec| spec.role == Role::TokenEmbedding;
    refused(&adapted(&llama, &PLAIN, embedding), None, "`model.embed_tokens.weight` was trained");
    let class = |spec: &TensorSpec| spec.role == Role::ClassEmbedding;
    refused(&adapted(&Golden::open("vit"), &PLAIN, class), None, "it is no part of a module");
    refused(
        &adapted(&Golden::open("bert_masked"), &PLAIN, is_head),
        None,
        "the head that scores masked words",
    );
    let mut mixed = llama.parameters(|_| false);
    mixed.adapt(&PLAIN, |spec| spec.role == Role::Query && spec.is_adaptable()).unwrap();
    mixed
        .adapt(&AdapterSettings { decomposed: true, ..PLAIN }, |spec| {
            spec.role == Role::Key && spec.is_adaptable()
        })
        .unwrap();
    refused(&mixed, None, "differ in more than rank and alpha");
    let mut dense = Golden::open("roberta").parameters(|_| false);
    dense.adapt(&PLAIN, |spec| spec.role == Role::HeadDense && spec.is_adaptable()).unwrap();
    refused(
        &dense,
        None,
        "`classifier.dense.weight` was trained and cannot be part of a PEFT adapter: PEFT saves its module whole",
    );
    let mut astray = adapted(&llama, &PLAIN, |_| false);
    let (id, _) = astray.trainable().next().unwrap();
    *astray.value_mut(id).unwrap() = Buffer::from(vec![f32::INFINITY; astray[id].len()]);
    refused(&astray, None, "element 0 is inf");
}
