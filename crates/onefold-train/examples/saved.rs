//! What is saved, for its readers: `cargo run -p onefold-train --example saved -- MODEL OUT`
//!
//! Saves what can be made of a model of text or images, none of it as it began, and beside each directory `NAME` what the
//! model answers to a fixed input, `NAME.json`. `testdata/families/check_saved.py` opens them with transformers and PEFT.
//!
//! * `head0`, `head1`: the trunk with a head of two classes, and with one that scores a number (the latter not of images).
//! * `lora`, `rslora`, `dora`: adapters on all linear maps of layers, with the model's own head.
//! * `lora0`: adapters with the head of the first task.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use onefold_checkpoint::output::write_file;
use onefold_train::config::{Head, ModelConfig, Problem};
use onefold_train::model::{
    AdapterSettings, Batch, Destination, HeadStart, Image, ImageBatch, Parameters, Sequence, TextModel,
    VisionModel,
};
use serde_json::json;

const IDS: [u32; 7] = [5, 17, 9, 28, 3, 11, 23];
const LORA: AdapterSettings =
    AdapterSettings { rank: 4, alpha: 6.0, rank_stabilised: false, decomposed: false, dropout: 0.1, seed: 7 };

fn main() -> Result<()> {
    let mut paths = std::env::args_os().skip(1).map(PathBuf::from);
    let (source, out) = paths.next().zip(paths.next()).context("usage: saved MODEL OUT")?;
    let mut parameters = Parameters::open(&source, |_| false)?;
    let config = parameters.config().clone();
    let labels = ["no", "yes"].map(str::to_owned).to_vec();
    let tasks = [
        config.with_head(Head::Classes(2), labels, Problem::SingleLabel),
        config.with_head(Head::Classes(1), Vec::new(), Problem::Regression),
    ];
    for (task, config) in (0..).zip(&tasks) {
        parameters.add_head(task, config, HeadStart { seed: 1, deviation: 0.3 })?;
        let to = out.join(format!("head{task}"));
        parameters.save_task(task, &Destination { source: &source, out: &to, replace: true })?;
        note(&parameters, Some(task), &to)?;
    }
    let stable = AdapterSettings { rank_stabilised: true, ..LORA };
    let decomposed = AdapterSettings { decomposed: true, ..LORA };
    let variants = [("lora", LORA, None), ("rslora", stable, None), ("dora", decomposed, None)];
    for (name, settings, task) in variants.into_iter().chain([("lora0", LORA, Some(0))]) {
        let mut parameters = Parameters::open(&source, |_| false)?;
        if let Some(task) = task {
            parameters.add_head(task, &tasks[0], HeadStart { seed: 1, deviation: 0.3 })?;
        }
        parameters.adapt(&settings, |spec| spec.layer.is_some() && spec.is_adaptable())?;
        learn(&mut parameters);
        let (to, base) = (out.join(name), source.to_string_lossy());
        parameters.save_adapter(task, &base, &Destination { source: &source, out: &to, replace: true })?;
        note(&parameters, task, &to)?;
    }
    Ok(())
}

/// Moves whatever can be trained.
fn learn(parameters: &mut Parameters) {
    let ids: Vec<_> = parameters.trainable().map(|(id, _)| id).collect();
    for id in ids {
        let Some(value) = parameters.value_mut(id) else { continue };
        let moved = value.to_vec().into_iter().enumerate();
        let moved = moved.map(|(i, v)| v + 0.05 * (i as f32 * 0.7 + id.index() as f32).sin());
        value.write(0, &moved.collect::<Vec<_>>());
    }
}

/// Writes down what the model answers.
fn note(parameters: &Parameters, task: Option<u32>, of: &Path) -> Result<()> {
    let (input, answer) = match parameters.config() {
        ModelConfig::Vision(config) => {
            let shape = [config.channels, config.image_size.0, config.image_size.1];
            let pixels: Vec<f32> =
                (0..shape.iter().product::<usize>()).map(|i| (i as f32 * 0.1).sin()).collect();
            let mut batch = ImageBatch::default();
            batch.push(&Image { shape, pixels: &pixels, ..Image::default() });
            let mut model = VisionModel::new(parameters)?;
            model.select_head(task)?;
            (json!({"shape": shape, "pixels": pixels}), model.classify(parameters, &batch)?.to_vec())
        }
        _ => {
            let mut batch = Batch::default();
            batch.push(&Sequence { ids: &IDS, ..Sequence::default() });
            let mut model = TextModel::new(parameters)?;
            model.select_head(task)?;
            let answer = match parameters.config().common().head {
                Head::Language if task.is_none() => model.logits(parameters, &batch, &[0, 1, 2, 3, 4, 5, 6]),
                _ => model.classify(parameters, &batch),
            };
            (json!({ "ids": IDS }), answer?.to_vec())
        }
    };
    let text = json!({"input": input, "logits": answer}).to_string();
    Ok(write_file(&of.with_extension("json"), text.as_bytes(), true)?)
}
