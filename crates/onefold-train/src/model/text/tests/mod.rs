//! Goldens of every model of text; laws that hold for all of them are in `laws`.

mod adapters;
mod laws;

use onefold_engine::cpu::loss::Losses;

use super::*;
use crate::config::{Head, ModelConfig, Problem};
use crate::families::TensorSpec;
use crate::model::testing::{Golden, PLAIN, losses};
use crate::model::{AdapterSettings, Coins, Gradients, Sequence, Training, next_tokens};

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
const ENCODERS: [&str; 11] = [
    "bert",
    "bert_multi_label",
    "bert_regression",
    "bert_tokens",
    "bert_masked",
    "roberta",
    "roberta_tokens",
    "roberta_masked",
    "distilbert",
    "distilbert_tokens",
    "distilbert_masked",
];

fn all() -> impl Iterator<Item = &'static str> {
    DECODERS.into_iter().chain(ENCODERS)
}

/// The golden's rows without their padding; the weights make the objective transformers' mean.
fn batch(golden: &Golden) -> Batch {
    let learnt: usize =
        rows(golden, 1.0).iter().map(|row| row.targets.iter().filter(|target| **target >= 0).count()).sum();
    rows(golden, 1.0 / learnt as f32).into_iter().fold(Batch::default(), |mut batch, row| {
        row.push(&mut batch);
        batch
    })
}

#[derive(Default)]
struct Row {
    ids: Vec<u32>,
    types: Vec<u32>,
    targets: Vec<i32>,
    values: Vec<f32>,
    weight: f32,
}

impl Row {
    fn push(&self, batch: &mut Batch) {
        let Self { ids, types, targets, values, weight } = self;
        batch.push(&Sequence { ids, types, targets, values, weight: *weight, task: 0 });
    }
}

fn rows(golden: &Golden, weight: f32) -> Vec<Row> {
    let [ids, mask, labels] = ["input_ids", "attention_mask", "labels"].map(|key| golden.input(key).unwrap());
    let types = golden.input("token_type_ids").unwrap_or_else(|| vec![Vec::new(); ids.len()]);
    let row = |i: usize| {
        let length = mask[i].iter().filter(|mask| **mask == 1.0).count();
        let numbers = |row: &Vec<f64>| row.iter().take(length).map(|v| *v as u32).collect::<Vec<_>>();
        let (row, labels) =
            (Row { ids: numbers(&ids[i]), types: numbers(&types[i]), weight, ..Row::default() }, &labels[i]);
        let classes = |labels: &[f64]| labels.iter().map(|label| *label as i32).collect::<Vec<_>>();
        match (golden.config.common().head, golden.config.common().problem) {
            (Head::Classes(_), Problem::SingleLabel) => Row { targets: classes(labels), ..row },
            (Head::Classes(_), _) => {
                Row { targets: vec![0], values: labels.iter().map(|label| *label as f32).collect(), ..row }
            }
            (Head::Language, _) if matches!(golden.config, ModelConfig::Decoder(_)) => {
                let learnt: Vec<bool> = labels[..length].iter().map(|label| *label >= 0.0).collect();
                Row { targets: next_tokens(&row.ids, &learnt), ..row }
            }
            _ => Row { targets: classes(&labels[..length]), ..row },
        }
    };
    (0..ids.len()).map(row).collect()
}

/// Trained once on the golden's batch.
fn gradients(golden: &Golden, parameters: &Parameters, training: &Training) -> (Gradients, Losses) {
    let mut model = TextModel::new(parameters).unwrap();
    let (mut gradients, mut losses) = (Gradients::default(), losses());
    model.train(parameters, &batch(golden), training, &mut losses, &mut gradients).unwrap();
    (gradients, losses)
}

/// The golden's logits without those of padding.
fn expected_logits(golden: &Golden) -> Vec<f64> {
    let (all, mask) = (golden.numbers("logits"), golden.input("attention_mask").unwrap().concat());
    let width = all.len() / mask.len();
    let counts = all.chunks(width).zip(&mask).filter(|(_, mask)| **mask == 1.0);
    counts.flat_map(|(row, _)| row.to_vec()).collect()
}

#[test]
fn logits_and_losses_are_those_of_transformers() {
    for name in all() {
        let golden = Golden::open(name);
        let parameters = golden.parameters(|_| false);
        let mut model = TextModel::new(&parameters).unwrap();
        let batch = batch(&golden);
        let rows: Vec<u32> = (0..batch.rows() as u32).collect();
        let (logits, expected) = match golden.config.common().head {
            Head::Classes(_) => (model.classify(&parameters, &batch), golden.numbers("logits")),
            Head::Tokens(_) => (model.classify(&parameters, &batch), expected_logits(&golden)),
            _ => (model.logits(&parameters, &batch, &rows), expected_logits(&golden)),
        };
        golden.assert_close(&logits.unwrap().to_vec(), &expected);
        let mut losses = losses();
        model.evaluate(&parameters, &batch, PLAIN.objective, &mut losses).unwrap();
        golden.assert_close(&[losses.objective as f32], &golden.numbers("loss"));
    }
}

#[test]
fn gradients_are_those_of_transformers() {
    for name in all() {
        let golden = Golden::open(name);
        let parameters = golden.parameters(|_| true);
        let (gradients, losses) = gradients(&golden, &parameters, &PLAIN);
        golden.assert_close(&[losses.objective as f32], &golden.numbers("loss"));
        golden.assert_gradients(&parameters, &gradients);
    }
}

#[test]
fn twenty_steps_of_adamw_are_those_of_pytorch() {
    for name in all() {
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
