//! Goldens of every decoder; laws that hold for all models of text are in `laws`.

mod adapters;
mod laws;

use onefold_engine::cpu::loss::Losses;

use super::*;
use crate::families::TensorSpec;
use crate::model::testing::{Golden, PLAIN, losses};
use crate::model::{AdapterSettings, Gradients, Sequence, next_tokens};

const DECODERS: [&str; 24] = [
    "llama",
    "llama_gqa",
    "llama_linear",
    "llama_dynamic",
    "llama_yarn",
    "llama_yarn_mscale",
    "llama_llama3",
    "llama_longrope",
    "mistral",
    "mistral_full",
    "qwen2",
    "qwen2_sliding",
    "qwen3",
    "qwen3_bias",
    "gemma2",
    "gemma2_uncapped",
    "gemma3_text",
    "phi3",
    "phi3_longrope_short",
    "phi3_longrope_long",
    "phi3_partial",
    "gpt2",
    "gpt2_unscaled",
    "llama_classify",
];

/// The golden's rows without their padding; the weights make the objective transformers' mean.
fn batch(golden: &Golden) -> Batch {
    let labels = golden.input("labels").unwrap();
    let learnt = labels.iter().flatten().filter(|label| **label >= 0).count();
    rows(golden, 1.0 / learnt as f32).into_iter().fold(Batch::default(), |mut batch, row| {
        row.push(&mut batch);
        batch
    })
}

struct Row {
    ids: Vec<u32>,
    targets: Vec<i32>,
    weight: f32,
}

impl Row {
    fn push(&self, batch: &mut Batch) {
        let Self { ids, targets, weight } = self;
        batch.push(&Sequence { ids, targets, weight: *weight, ..Sequence::default() });
    }
}

fn rows(golden: &Golden, weight: f32) -> Vec<Row> {
    let [ids, mask, labels] = ["input_ids", "attention_mask", "labels"].map(|key| golden.input(key).unwrap());
    let row = |((ids, mask), labels): ((&Vec<i64>, &Vec<i64>), &Vec<i64>)| {
        let length = mask.iter().filter(|mask| **mask == 1).count();
        let ids: Vec<u32> = ids[..length].iter().map(|id| *id as u32).collect();
        let targets = match labels[..] {
            [class] => vec![class as i32],
            _ => next_tokens(&ids, &labels[..length].iter().map(|label| *label >= 0).collect::<Vec<_>>()),
        };
        Row { ids, targets, weight }
    };
    ids.iter().zip(&mask).zip(&labels).map(row).collect()
}

/// Trained once on the golden's batch.
fn gradients(golden: &Golden, parameters: &Parameters, training: &Training) -> (Gradients, Losses) {
    let mut model = TextModel::new(parameters).unwrap();
    let (mut gradients, mut losses) = (Gradients::default(), losses());
    model.train(parameters, &batch(golden), training, &mut losses, &mut gradients).unwrap();
    (gradients, losses)
}

#[track_caller]
fn assert_close(golden: &Golden, found: &[f32], expected: &[f64]) {
    assert_eq!(found.len(), expected.len(), "{}", golden.name);
    for (i, (found, expected)) in found.iter().zip(expected).enumerate() {
        let off = (f64::from(*found) - expected).abs();
        assert!(off < 2e-5 * expected.abs().max(1.0), "{} [{i}]: {found} {expected}", golden.name);
    }
}

/// The golden's logits without those of padding.
fn expected_logits(golden: &Golden) -> Vec<f64> {
    let (all, mask) = (golden.numbers("logits"), golden.input("attention_mask").unwrap().concat());
    let width = all.len() / mask.len();
    let counts = all.chunks(width).zip(&mask).filter(|(_, mask)| **mask == 1);
    counts.flat_map(|(row, _)| row.to_vec()).collect()
}

#[test]
fn logits_and_losses_are_those_of_transformers() {
    for name in DECODERS {
        let golden = Golden::open(name);
        let parameters = golden.parameters(|_| false);
        let mut model = TextModel::new(&parameters).unwrap();
        let batch = batch(&golden);
        if name == "llama_classify" {
            let logits = model.classify(&parameters, &batch).unwrap().to_vec();
            assert_close(&golden, &logits, &golden.numbers("logits"));
        } else {
            let rows: Vec<u32> = (0..batch.rows() as u32).collect();
            let logits = model.logits(&parameters, &batch, &rows).unwrap().to_vec();
            assert_close(&golden, &logits, &expected_logits(&golden));
        }
        let mut losses = losses();
        model.evaluate(&parameters, &batch, PLAIN.objective, &mut losses).unwrap();
        assert_close(&golden, &[losses.objective as f32], &golden.numbers("loss"));
    }
}

#[test]
fn gradients_are_those_of_transformers() {
    for name in DECODERS {
        let golden = Golden::open(name);
        let parameters = golden.parameters(|_| true);
        let (gradients, losses) = gradients(&golden, &parameters, &PLAIN);
        assert_close(&golden, &[losses.objective as f32], &golden.numbers("loss"));
        golden.assert_gradients(&parameters, &gradients);
    }
}

#[test]
fn twenty_steps_of_adamw_are_those_of_pytorch() {
    for name in DECODERS {
        let golden = Golden::open(name);
        let mut parameters = golden.parameters(|_| true);
        let mut model = TextModel::new(&parameters).unwrap();
        let (batch, mut losses) = (batch(&golden), losses());
        golden.assert_trace(&mut parameters, |parameters, gradients| {
            model.train(parameters, &batch, &PLAIN, &mut losses, gradients).unwrap();
            losses.objective
        });
    }
}

/// Everything that is dropped in training.
const DROPPING: Training = Training { coins: Some(Coins { seed: 5, micro_batch: 3 }), ..PLAIN };
const ADAPTER: AdapterSettings =
    AdapterSettings { rank: 3, alpha: 6.0, rank_stabilised: false, decomposed: false, dropout: 0.2, seed: 9 };

/// A golden's parameters, frozen, with adapters everywhere whose B is not 0.
fn adapted(golden: &Golden, settings: &AdapterSettings) -> Parameters {
    let mut parameters = golden.parameters(|_| false);
    parameters.adapt(settings, TensorSpec::is_adaptable).unwrap();
    let ids: Vec<_> = parameters.trainable().map(|(id, _)| id).collect();
    for id in ids {
        let value = parameters.value_mut(id).unwrap();
        let numbers = value.to_vec();
        let moved =
            numbers.iter().enumerate().map(|(i, v)| v + 0.05 * (i as f32 * 0.7 + id.index() as f32).sin());
        value.write(0, &moved.collect::<Vec<_>>());
    }
    parameters
}

fn adapters() -> [AdapterSettings; 3] {
    [
        ADAPTER,
        AdapterSettings { rank_stabilised: true, ..ADAPTER },
        AdapterSettings { decomposed: true, ..ADAPTER },
    ]
}
