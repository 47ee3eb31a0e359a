use onefold_checkpoint::Dtype;
use onefold_engine::cpu::loss::Losses;
use onefold_engine::{Weight, Write};

use super::*;
use crate::config::{Head, ModelConfig, Problem};
use crate::families::{Role, TensorSpec};
use crate::model::testing::{Golden, PLAIN, bits, converted, losses, stored, write};
use crate::model::{
    AdapterSettings, Coins, Factor, Gradients, Keep, Origin, ParameterId, Part, Sequence, next_tokens,
};

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

#[test]
fn checkpointing_and_threads_change_no_bit() {
    for name in ["gpt2", "gemma2", "phi3", "llama_classify", "bert", "roberta", "distilbert_masked"] {
        let golden = Golden::open(name);
        for parameters in [golden.parameters(|_| true), adapted(&golden, &ADAPTER)] {
            for training in [PLAIN, DROPPING] {
                let run = |checkpointing, threads| {
                    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
                    let training = Training { checkpointing, ..training };
                    pool.install(|| {
                        let (gradients, losses) = gradients(&golden, &parameters, &training);
                        (bits(&gradients), losses)
                    })
                };
                let one = run(false, 1);
                for (checkpointing, threads) in [(true, 1), (false, 2), (true, 2), (false, 3)] {
                    assert!(run(checkpointing, threads) == one, "{name} {checkpointing} {threads}");
                }
            }
        }
    }
}

#[test]
fn dropout_drops_in_training_only() {
    let golden = Golden::open("gpt2");
    let parameters = golden.parameters(|_| true);
    let plain = gradients(&golden, &parameters, &PLAIN).1.objective;
    let first = gradients(&golden, &parameters, &DROPPING).1.objective;
    let other = Training { coins: Some(Coins { seed: 5, micro_batch: 4 }), ..PLAIN };
    let second = gradients(&golden, &parameters, &other).1.objective;
    assert!(plain != first && first != second && (first - plain).abs() < 1.0, "{plain} {first} {second}");
    // Llama's configuration drops nothing.
    let golden = Golden::open("llama");
    let parameters = golden.parameters(|_| true);
    let [plain, dropping] = [PLAIN, DROPPING].map(|training| gradients(&golden, &parameters, &training));
    assert!(bits(&plain.0) == bits(&dropping.0));
}

#[test]
fn frozen_tensors_have_no_gradient_and_change_no_other() {
    for name in ["llama_gqa", "qwen3", "gpt2", "bert", "roberta_masked", "distilbert_tokens"] {
        let golden = Golden::open(name);
        let all = gradients(&golden, &golden.parameters(|_| true), &PLAIN).0;
        let choices: [fn(&TensorSpec) -> bool; 5] = [
            |spec| spec.role == Role::AttentionOutput && spec.layer == Some(1),
            |spec| spec.part == Part::Bias,
            |spec| spec.role == Role::FinalNorm,
            |spec| matches!(spec.role, Role::TokenEmbedding | Role::PositionEmbedding),
            |_| false,
        ];
        for choice in choices {
            let parameters = golden.parameters(choice);
            let some = gradients(&golden, &parameters, &PLAIN).0;
            let chosen = parameters.iter().filter(|(_, parameter)| choice(parameter.spec().unwrap()));
            let expected: Vec<_> = chosen.map(|(id, _)| (id, all.get(id).unwrap())).collect();
            assert!(some.iter().collect::<Vec<_>>() == expected, "{name}");
        }
    }
}

/// Packed rows see nothing of each other.
#[test]
fn packed_sequences_are_those_alone() {
    for name in all() {
        let golden = Golden::open(name);
        let parameters = golden.parameters(|_| true);
        let mut model = TextModel::new(&parameters).unwrap();
        let (mut together, mut apart, mut losses) = (Gradients::default(), Gradients::default(), losses());
        // Of equal length, as some rotations follow the longest sequence.
        let mut rows = rows(&golden, 0.125);
        rows.retain(|row| row.ids.len() == 12);
        let mut other = rows.remove(0);
        other.ids.reverse();
        other.targets.reverse();
        let rows = [other, self::rows(&golden, 0.125).remove(0)];
        let mut batch = Batch::default();
        let mut objective = 0.0;
        for row in &rows {
            row.push(&mut batch);
            let mut alone = Batch::default();
            row.push(&mut alone);
            model.train(&parameters, &alone, &PLAIN, &mut losses, &mut apart).unwrap();
            objective += losses.objective;
        }
        model.train(&parameters, &batch, &PLAIN, &mut losses, &mut together).unwrap();
        assert!((losses.objective - objective).abs() < 1e-5 * objective, "{name}");
        for ((_, a), (_, b)) in together.iter().zip(apart.iter()) {
            let (a, b) = (a.to_vec(), b.to_vec());
            let size = a.iter().fold(1e-3f32, |m, v| m.max(v.abs()));
            assert!(a.iter().zip(&b).all(|(a, b)| (a - b).abs() < 2e-5 * size), "{name}");
        }
    }
}

/// Along a random direction through all factors of all adapters at once.
#[test]
fn gradients_of_adapters_are_finite_differences() {
    for (name, training) in [("llama_gqa", PLAIN), ("phi3", DROPPING), ("gpt2", PLAIN), ("qwen3", DROPPING)] {
        let golden = Golden::open(name);
        for settings in adapters() {
            // The norms of DoRA are constants in its gradient: only B changes them, so only the magnitude is moved there.
            let moved = |factor: Factor| !settings.decomposed || factor == Factor::Magnitude;
            let at = |step: f32| {
                let mut parameters = adapted(&golden, &settings);
                let ids: Vec<_> = parameters.trainable().map(|(id, _)| id).collect();
                for id in ids {
                    let Origin::Adapter { factor, .. } = parameters[id].origin else { panic!() };
                    let value = parameters.value_mut(id).unwrap();
                    let direction = direction(id.index(), value.len());
                    let values = value.to_vec().into_iter().zip(direction);
                    let step = if moved(factor) { step } else { 0.0 };
                    value.write(0, &values.map(|(v, d)| v + step * d).collect::<Vec<_>>());
                }
                let (gradients, losses) = gradients(&golden, &parameters, &training);
                (parameters, gradients, losses.objective)
            };
            let (parameters, gradients, _) = at(0.0);
            let slope: f64 = gradients
                .iter()
                .filter(|(id, _)| matches!(parameters[*id].origin, Origin::Adapter { factor, .. } if moved(factor)))
                .map(|(id, gradient)| inner(&gradient.to_vec(), &direction(id.index(), gradient.len())))
                .sum();
            let step = 2e-3;
            let difference = (at(step).2 - at(-step).2) / (2.0 * f64::from(step));
            assert!(
                (slope - difference).abs() < 2e-2 * slope.abs() + 2e-3,
                "{name} {settings:?}: {slope} {difference}"
            );
            assert!(slope.abs() > 1e-2, "{name}: nothing to see, {slope}");
        }
    }
}

fn direction(seed: usize, len: usize) -> Vec<f32> {
    (0..len).map(|i| ((i as f32 + 0.3) * 1.7 + seed as f32).sin()).collect()
}

fn inner(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
}

/// A fresh adapter is none: B is 0, and DoRA's magnitude the length of the rows.
#[test]
fn adapters_begin_as_the_model() {
    let golden = Golden::open("gpt2");
    let rows: Vec<u32> = (0..batch(&golden).rows() as u32).collect();
    let logits = |parameters: &Parameters| {
        let mut model = TextModel::new(parameters).unwrap();
        model.logits(parameters, &batch(&golden), &rows).unwrap().to_vec()
    };
    let expected: Vec<f64> = logits(&golden.parameters(|_| false)).into_iter().map(f64::from).collect();
    for settings in adapters() {
        let mut parameters = golden.parameters(|_| false);
        parameters.adapt(&settings, TensorSpec::is_adaptable).unwrap();
        golden.assert_close(&logits(&parameters), &expected);
    }
}

/// Frozen weights of 16 bits give the gradients of the same weights in 32 bits.
#[test]
fn weights_of_16_bits_are_the_same_weights() {
    for name in ["llama_gqa", "gpt2", "llama_classify"] {
        let mut golden = Golden::open(name);
        for dtype in [Dtype::BF16, Dtype::F16] {
            let (dir, narrow) = (tempfile::tempdir().unwrap(), converted(&stored(&golden.checkpoint), dtype));
            golden.checkpoint = write(&dir.path().join("wide"), &converted(&narrow, Dtype::F32));
            let (wide, _) = gradients(&golden, &adapted(&golden, &ADAPTER), &PLAIN);
            golden.checkpoint = write(&dir.path().join("narrow"), &narrow);
            let parameters = adapted(&golden, &ADAPTER);
            assert!(parameters.iter().any(|(_, parameter)| matches!(parameter.weight(), Weight::Half(_))));
            let (narrow, _) = gradients(&golden, &parameters, &PLAIN);
            for ((_, a), (_, b)) in wide.iter().zip(narrow.iter()) {
                golden.assert_close(&a.to_vec(), &b.to_vec().into_iter().map(f64::from).collect::<Vec<_>>());
            }
        }
    }
}

#[test]
fn memory_is_as_predicted_and_stays() {
    for name in all() {
        let golden = Golden::open(name);
        let mut batch = Batch::default();
        for row in rows(&golden, 1.0) {
            let every: Vec<i32> = row.ids.iter().map(|id| *id as i32).collect();
            let targets = match golden.config.common().head {
                Head::Language => every,
                _ => row.targets.clone(),
            };
            Row { targets, ..row }.push(&mut batch);
        }
        for (parameters, dropout) in [
            (golden.parameters(|_| true), false),
            (adapted(&golden, &ADAPTER), true),
            (adapted(&golden, &adapters()[2]), true),
        ] {
            for keep in [Keep::Nothing, Keep::Inputs, Keep::Everything] {
                let mut model = TextModel::new(&parameters).unwrap();
                let (mut gradients, mut losses) = (Gradients::default(), losses());
                let coins = DROPPING.coins.filter(|_| dropout);
                let training = Training { checkpointing: keep == Keep::Inputs, coins, ..PLAIN };
                let mut step = |model: &mut TextModel| match keep {
                    Keep::Nothing => {
                        model.evaluate(&parameters, &batch, training.objective, &mut losses).unwrap();
                    }
                    _ => model.train(&parameters, &batch, &training, &mut losses, &mut gradients).unwrap(),
                };
                step(&mut model);
                let (rows, sequences) = (batch.rows(), batch.segments().len());
                let shape = BatchShape { rows, sequences, keep, dropout };
                let (predicted, held) = (model.activation_bytes(&parameters, &shape), model.held_bytes());
                // Adapters leave the embedding frozen, which saves its plan.
                let plan = if dropout && keep != Keep::Nothing { rows * 8 } else { 0 };
                if ENCODERS.contains(&name) && dropout {
                    // Nor is there a gradient of what their embedding normalises.
                    assert!(held <= predicted, "{name} {keep:?}: {held} {predicted}");
                } else {
                    assert_eq!(held + plan, predicted, "{name} {keep:?}");
                }
                step(&mut model);
                assert_eq!(model.held_bytes(), held, "{name} {keep:?} allocates in its second step");
            }
        }
    }
}

/// A sink that looks at one gradient at a time and keeps none.
#[derive(Default)]
struct Visitor {
    spare: Vec<Buffer>,
    open: std::collections::BTreeMap<usize, Buffer>,
    lent: usize,
    most: usize,
    seen: Vec<(usize, Vec<u32>)>,
}

impl GradientSink for Visitor {
    fn lend(&mut self, id: ParameterId, len: usize) -> (Buffer, Write) {
        self.lent += 1;
        self.most = self.most.max(self.lent + self.open.len());
        if let Some(buffer) = self.open.remove(&id.index()) {
            return (buffer, Write::Add);
        }
        let mut buffer = self.spare.pop().unwrap_or_default();
        buffer.resize(len);
        (buffer, Write::Set)
    }

    fn take_back(&mut self, id: ParameterId, gradient: Buffer, complete: bool) {
        self.lent -= 1;
        if complete {
            self.seen.push((id.index(), gradient.to_vec().into_iter().map(f32::to_bits).collect()));
            self.spare.push(gradient);
        } else {
            self.open.insert(id.index(), gradient);
        }
    }
}

#[test]
fn a_sink_sees_every_gradient_once_and_whole() {
    for name in ["llama", "llama_gqa", "gpt2", "bert_masked", "roberta"] {
        let golden = Golden::open(name);
        let parameters = golden.parameters(|_| true);
        let mut model = TextModel::new(&parameters).unwrap();
        let (mut visitor, mut losses) = (Visitor::default(), losses());
        model.train(&parameters, &batch(&golden), &PLAIN, &mut losses, &mut visitor).unwrap();
        visitor.seen.sort();
        assert!(visitor.seen == bits(&gradients(&golden, &parameters, &PLAIN).0), "{name}");
        assert!(visitor.most <= 3 && visitor.open.is_empty(), "{name}: {} at a time", visitor.most);
    }
}

#[test]
fn what_does_not_fit_is_an_error_before_anything_is_computed() {
    let golden = Golden::open("gpt2");
    let parameters = golden.parameters(|_| true);
    let mut model = TextModel::new(&parameters).unwrap();
    let mut refused = |ids: &[u32], targets: &[i32], message: &str| {
        let (mut batch, mut gradients) = (Batch::default(), Gradients::default());
        batch.push(&Sequence { ids, targets, weight: 1.0, ..Sequence::default() });
        let error =
            model.train(&parameters, &batch, &PLAIN, &mut losses(), &mut gradients).unwrap_err().to_string();
        assert!(error.contains(message), "{error}");
        assert_eq!(gradients.iter().count(), 0);
    };
    refused(&[64], &[-1], "token id 64 is not below 64");
    refused(&[1; 65], &[-1; 65], "sequence 0 has 65 tokens, the model has 64 positions");
    refused(&[1, 2], &[64, -1], "target 0 is 64, the head has 64 classes");
    refused(&[1, 2], &[1], "the batch has 1 targets, the head gives 2 answers");
    let error = model.evaluate(&parameters, &Batch::default(), PLAIN.objective, &mut losses()).unwrap_err();
    assert_eq!(error.to_string(), "the batch has no sequence");
    let error = model.logits(&parameters, &batch(&golden), &[20]).unwrap_err();
    assert_eq!(error, ModelError::NoRow { row: 20, rows: 20 });
    assert_eq!(model.classify(&parameters, &batch(&golden)).unwrap_err(), ModelError::NoClassHead);
    let classifier = Golden::open("llama_classify");
    let parameters = classifier.parameters(|_| false);
    let mut model = TextModel::new(&parameters).unwrap();
    let batch = batch(&classifier);
    assert_eq!(model.logits(&parameters, &batch, &[0]).unwrap_err(), ModelError::NoLanguageHead);
    assert_eq!(model.hidden(&parameters, &batch).unwrap().len(), 20 * 32);
    let mut config = classifier.config.clone();
    let ModelConfig::Decoder(decoder) = &mut config else { panic!() };
    decoder.common.head = crate::config::Head::None;
    let parameters = Parameters::load(&config, &classifier.checkpoint, |_| false).unwrap();
    let mut model = TextModel::new(&parameters).unwrap();
    let error = model.evaluate(&parameters, &batch, PLAIN.objective, &mut losses()).unwrap_err();
    assert_eq!(error, ModelError::NoHead);
    let vision = Golden::open("vit").parameters(|_| false);
    let error = TextModel::new(&vision).unwrap_err().to_string();
    assert_eq!(error, "a model of type `vit` does not read text");
}
