//! What a training leaves behind.

use super::*;
use crate::model::{Batch, Sequence, TextModel};

fn save_all(world: &World, form: Form) -> PathBuf {
    let tuned = world.tune(&world.out("out"), &Silent).unwrap();
    let prepared = world.prepared().unwrap();
    let names: Vec<_> = world.tasks.iter().map(|task| task.name.clone()).collect();
    let products = output::products(&names, &prepared.heads);
    let out = world.out("saved");
    let source = Source { parameters: &tuned.parameters, base: &world.model, name: "base" };
    save(&source, &products, form, &out).unwrap();
    out
}

fn logits(dir: &Path) -> Vec<f32> {
    let parameters = Parameters::open(dir, |_| false).unwrap();
    let mut model = TextModel::new(&parameters).unwrap();
    let mut batch = Batch::default();
    batch.push(&Sequence { ids: &[5, 9, 17, 3], ..Sequence::default() });
    match model.classify(&parameters, &batch) {
        Ok(logits) => logits.to_vec(),
        Err(_) => model.logits(&parameters, &batch, &[3]).unwrap().to_vec(),
    }
}

/// The logits of the trained model itself.
#[test]
fn adapters_are_merged_into_models() {
    let mut world = World::writing();
    world.trainable.adapter = Some((LORA, Targets::AllLinear));
    let out = save_all(&world, Form::Both);
    for name in [
        "config.json",
        "model.safetensors",
        "adapter/adapter_config.json",
        "adapter/adapter_model.safetensors",
    ] {
        assert!(out.join(name).is_file(), "{name}");
    }
    let mut tuned = world.tune(&world.out("out"), &Silent).unwrap();
    let mut model = TextModel::new(&tuned.parameters).unwrap();
    let mut batch = Batch::default();
    batch.push(&Sequence { ids: &[5, 9, 17, 3], ..Sequence::default() });
    let expected = model.logits(&tuned.parameters, &batch, &[3]).unwrap().to_vec();
    let base = logits(&world.model);
    let merged = logits(&out);
    let off = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(off(&merged, &expected) < 1e-5 && off(&merged, &base) > 1e-3);
    tuned.steps = 0;
}

#[test]
fn each_head_is_a_model() {
    let mut world = World::classifying();
    world.settings.duration = Duration::Steps(3);
    let out = save_all(&world, Form::Model);
    for (name, classes) in [("two", 2), ("four", 4)] {
        assert_eq!(logits(&out.join(name)).len(), classes);
        let config: Value =
            serde_json::from_str(&std::fs::read_to_string(out.join(name).join("config.json")).unwrap())
                .unwrap();
        assert_eq!(config["id2label"]["1"], "c1");
    }
    assert!(!world.out("out.run/checkpoint-3/config.json").exists());
}

#[test]
fn heads_and_adapters_are_merged_too() {
    let mut world = World::classifying();
    world.settings.duration = Duration::Steps(3);
    world.trainable.adapter = Some((LORA, Targets::AllLinear));
    let out = save_all(&world, Form::Both);
    for (name, classes) in [("two", 2), ("four", 4)] {
        assert_eq!(logits(&out.join(name)).len(), classes);
        assert!(out.join(name).join("adapter/adapter_config.json").is_file());
    }
    let inside: Vec<_> = std::fs::read_dir(&out).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(inside.len(), 2, "{inside:?}");
}

/// A checkpoint is a model that loads, as it is after its step.
#[test]
fn checkpoints_load() {
    let mut world = World::writing();
    world.settings.duration = Duration::Steps(3);
    let tuned = world.tune(&world.out("out"), &Silent).unwrap();
    let saved = world.out("saved");
    let products = [Product { dir: None, head: None }];
    let source = Source { parameters: &tuned.parameters, base: &world.model, name: "base" };
    save(&source, &products, Form::Model, &saved).unwrap();
    let checkpoint = world.out("out.run/checkpoint-3");
    assert_eq!(logits(&checkpoint), logits(&saved));
    let state: Value =
        serde_json::from_str(&std::fs::read_to_string(checkpoint.join("trainer_state.json")).unwrap())
            .unwrap();
    assert_eq!((state["global_step"].as_u64(), state["max_steps"].as_u64()), (Some(3), Some(3)));
}
