//! Fisher information, Gram matrices and mask nodes of tiny models, against gradients taken by hand, finite differences, and
//! `testdata/related/statistics.json`.

use std::collections::BTreeMap;
use std::path::Path;

use onefold_engine::cpu::linear::{self, Dims, Layout};
use onefold_engine::cpu::loss::small::{Gradient, classification};
use onefold_engine::cpu::loss::{Losses, Objective, Rows};
use onefold_engine::{Buffer, Write};
use serde_json::Value;

use super::labels::{Labelling, Scores};
use super::squares::Squares;
use super::*;
use crate::config::{Head, ModelConfig, Problem};
use crate::families::{self, Part, Role, TensorSpec};
use crate::model::testing::{Golden, PLAIN};
use crate::model::{
    Batch, GradientSink, Gradients, Image, ImageBatch, ParameterId, Parameters, SentencePooling, Sequence,
    TextModel, VisionModel,
};

fn related() -> Value {
    serde_json::from_str(include_str!("../../../../testdata/related/statistics.json")).unwrap()
}

fn flat(value: &Value) -> Vec<f64> {
    match value {
        Value::Array(items) => items.iter().flat_map(flat).collect(),
        number => vec![number.as_f64().unwrap()],
    }
}

fn single(value: &Value) -> Vec<f32> {
    flat(value).iter().map(|v| *v as f32).collect()
}

#[track_caller]
fn close(what: &str, found: &[f32], expected: &[f64], tolerance: f64) {
    assert_eq!(found.len(), expected.len(), "{what}");
    let size = expected.iter().fold(0.0f64, |m, v| m.max(v.abs()));
    for (i, (f, e)) in found.iter().zip(expected).enumerate() {
        assert!((f64::from(*f) - e).abs() <= tolerance * size, "{what} [{i}]: {f}, expected {e} (of {size})");
    }
}

// ---- the golden: softmax regression without a model

/// Three classes of two inputs.
struct Regression {
    weight: Buffer,
    x: Vec<f32>,
}

impl Regression {
    fn dims(&self) -> Dims {
        Dims { rows: self.x.len() / 2, inputs: 2, outputs: 3, layout: Layout::OutputsInputs }
    }

    fn scores(&self) -> Vec<f32> {
        let mut y = Buffer::zeros(self.dims().rows * 3);
        linear::forward(
            &self.dims(),
            &self.x.clone().into(),
            (&self.weight).into(),
            None,
            &mut y,
            Write::Set,
        );
        y.to_vec()
    }

    fn train(&self, labelling: &Labelling, sink: &mut dyn GradientSink) {
        let mut logits = Buffer::from(self.scores());
        let Labelling { classes, weights, .. } = labelling;
        let rows = Rows { targets: classes, weights: Some(weights), tasks: None };
        let losses = &mut Losses::new(1);
        classification(&mut logits, 3, Objective::CROSS_ENTROPY, &rows, Gradient::InPlace, losses);
        let (mut dw, write) = sink.lend(ParameterId::new(0), 6);
        linear::backward_weight(&self.dims(), &logits, &self.x.clone().into(), &mut dw, write);
        sink.take_back(ParameterId::new(0), dw, true);
    }
}

fn means(squares: Squares, examples: usize) -> Vec<f32> {
    let (_, sum) = squares.into_sums().next().unwrap();
    sum.to_vec().iter().map(|v| v / examples as f32).collect()
}

#[test]
fn goldens_of_the_three_kinds() {
    let golden = &related()["fisher"];
    let (weight, x) = (Buffer::from(single(&golden["W"])), single(&golden["X"]));
    let all = Regression { weight: weight.clone(), x: x.clone() };
    let (mut exact, mut empirical) = (Squares::default(), Squares::default());
    for (x, label) in x.chunks(2).zip([0, 2, 1]) {
        let one = Regression { weight: weight.clone(), x: x.to_vec() };
        let scores = one.scores();
        let scores = Scores { scores: &scores, classes: 3, counts: &[true] };
        scores.every_class().iter().for_each(|labelling| one.train(labelling, &mut exact));
        let gold = Labelling { classes: vec![label], weights: vec![1.0], ..Labelling::default() };
        one.train(&gold, &mut empirical);
    }
    close("exact", &means(exact, 3), &flat(&golden["diag_fisher_exact"]), 1e-6);
    let key = "diag_fisher_empirical_labels_0_2_1";
    close(key, &means(empirical, 3), &flat(&golden[key]), 1e-6);
    let (mut gradients, mut summed) = (Gradients::default(), Squares::default());
    gradients.begin();
    let scores = all.scores();
    let scores = Scores { scores: &scores, classes: 3, counts: &[true; 3] };
    scores.every_class().iter().for_each(|labelling| all.train(labelling, &mut gradients));
    summed.add_all(&gradients);
    close("summed", &means(summed, 3), &flat(&golden["diag_fisher_batch_summed"]), 2e-6);
}

#[test]
fn draws_have_the_probabilities_of_the_model() {
    let scores = [0.5f32, -1.0, 2.0, f32::NAN, f32::NAN, f32::NAN];
    let rows: Vec<f32> = scores.iter().copied().cycle().take(6 * 5000).collect();
    let counts: Vec<bool> = (0..10_000).map(|i| i % 2 == 0).collect();
    let scores = Scores { scores: &rows, classes: 3, counts: &counts };
    let stream = onefold_runtime::Stream::new(1, "fisher", "0:0:0");
    let drawn = scores.drawn(&stream, 0.5);
    assert!(drawn.classes.iter().zip(&counts).all(|(class, counts)| (*class >= 0) == *counts));
    assert!(drawn.weights.iter().zip(&counts).all(|(w, counts)| *w == if *counts { 0.5 } else { 0.0 }));
    let p = scores.probabilities()[0].clone().unwrap();
    for (class, p) in p.iter().enumerate() {
        let share = drawn.classes.iter().filter(|c| **c == class as i32).count() as f64 / 5000.0;
        assert!((share - p).abs() < 4.0 * (p * (1.0 - p) / 5000.0).sqrt(), "{class}: {share} {p}");
    }
}

// ---- tiny models

const IDS: [&[u32]; 3] = [&[3, 1, 4, 1, 5], &[2, 6, 5], &[7, 1, 8, 2]];

fn text(ids: &[&[u32]], targets: &[i32]) -> Batch {
    let mut batch = Batch::default();
    ids.iter().for_each(|ids| batch.push(&Sequence { ids, targets, weight: 1.0, ..Sequence::default() }));
    batch
}

fn model(name: &str) -> (Golden, Parameters, TextModel) {
    let golden = Golden::open(name);
    let parameters = golden.parameters(|_| true);
    let model = TextModel::new(&parameters).unwrap();
    (golden, parameters, model)
}

fn measured(
    model: &mut TextModel,
    parameters: &Parameters,
    settings: FisherSettings,
    batches: Vec<Batch>,
) -> BTreeMap<String, Vec<f32>> {
    let mut fisher = Fisher::new(settings);
    for mut batch in batches {
        fisher.add(model, parameters, &mut batch).unwrap();
    }
    let found = fisher.finish(parameters).unwrap();
    found.into_iter().map(|mut d| (d.names.remove(0), d.values.to_vec())).collect()
}

fn classes(golden: &Golden) -> usize {
    match golden.config.common().head {
        Head::Classes(count) | Head::Tokens(count) => count,
        _ => 0,
    }
}

/// Gradients of one example with one label.
fn gradients_of(model: &mut TextModel, parameters: &Parameters, batch: &Batch) -> BTreeMap<String, Vec<f64>> {
    let (mut gradients, mut losses) = (Gradients::default(), Losses::new(1));
    gradients.begin();
    model.train(parameters, batch, &PLAIN, &mut losses, &mut gradients).unwrap();
    let of = |(id, g): (ParameterId, &Buffer)| {
        (parameters[id].name.clone(), g.to_vec().iter().map(|v| f64::from(*v)).collect())
    };
    gradients.iter().map(of).collect()
}

fn add(sums: &mut BTreeMap<String, Vec<f64>>, gradients: BTreeMap<String, Vec<f64>>, factor: f64) {
    for (name, gradient) in gradients {
        let sum = sums.entry(name).or_insert_with(|| vec![0.0; gradient.len()]);
        sum.iter_mut().zip(gradient).for_each(|(s, g)| *s += factor * g * g);
    }
}

fn assert_same(found: &BTreeMap<String, Vec<f32>>, expected: &BTreeMap<String, Vec<f64>>, tolerance: f64) {
    assert_eq!(found.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>());
    let largest = |values: &[f64]| values.iter().fold(0.0f64, |m, v| m.max(*v));
    let most = expected.values().map(|v| largest(v)).fold(0.0, f64::max);
    for (name, expected) in expected {
        // What is 0 but for rounding (a key's bias) is compared with the rest.
        let size = largest(expected).max(1e-9 * most);
        for (f, e) in found[name].iter().zip(expected) {
            assert!((f64::from(*f) - e).abs() <= tolerance * size, "{name}: {f}, expected {e} (of {size})");
        }
    }
}

#[test]
fn exact_is_the_sum_over_labels_of_squares_by_hand() {
    for name in ["bert", "roberta", "distilbert", "llama_classify"] {
        let (golden, parameters, mut model) = model(name);
        let mut expected = BTreeMap::new();
        for ids in IDS {
            let plain = text(&[ids], &[0]);
            let scores = model.classify(&parameters, &plain).unwrap().to_vec();
            let size: f64 = scores.iter().map(|z| f64::from(*z).exp()).sum();
            for (y, z) in scores.iter().enumerate() {
                let gradients = gradients_of(&mut model, &parameters, &text(&[ids], &[y as i32]));
                add(&mut expected, gradients, f64::from(*z).exp() / size / 3.0);
            }
        }
        let batches = || IDS.iter().map(|ids| text(&[ids], &[])).collect();
        let settings = FisherSettings::default();
        let found = measured(&mut model, &parameters, settings, batches());
        assert_same(&found, &expected, 1e-4);
        assert!(classes(&golden) > 1);
        // Drawn labels have that mean.
        let drawn = FisherSettings { enumerate: 1, draws: 300, ..settings };
        let drawn = measured(&mut model, &parameters, drawn, batches());
        let sum = |of: &BTreeMap<String, Vec<f32>>| of.values().flatten().map(|v| f64::from(*v)).sum::<f64>();
        let (drawn, all) = (sum(&drawn), sum(&found));
        assert!((drawn - all).abs() < 0.15 * all, "{name}: {drawn} {all}");
    }
}

#[test]
fn empirical_and_summed_batches_are_squares_by_hand() {
    let (golden, parameters, mut model) = model("bert");
    let labels = [1, 0, 1];
    let mut expected = BTreeMap::new();
    for (ids, label) in IDS.iter().zip(labels) {
        let gradients = gradients_of(&mut model, &parameters, &text(&[ids], &[label]));
        add(&mut expected, gradients, 1.0 / 3.0);
    }
    let settings = FisherSettings { kind: FisherKind::Empirical, ..FisherSettings::default() };
    let batches = IDS.iter().zip(labels).map(|(ids, label)| text(&[ids], &[label])).collect();
    assert_same(&measured(&mut model, &parameters, settings, batches), &expected, 1e-4);

    let mut sums: BTreeMap<String, Vec<f64>> = BTreeMap::new();
    for ids in IDS {
        let scores = model.classify(&parameters, &text(&[ids], &[0])).unwrap().to_vec();
        let size: f64 = scores.iter().map(|z| f64::from(*z).exp()).sum();
        for (y, z) in scores.iter().enumerate() {
            let root = (f64::from(*z).exp() / size).sqrt();
            for (name, gradient) in gradients_of(&mut model, &parameters, &text(&[ids], &[y as i32])) {
                let sum = sums.entry(name).or_insert_with(|| vec![0.0; gradient.len()]);
                sum.iter_mut().zip(gradient).for_each(|(s, g)| *s += root * g);
            }
        }
    }
    sums.values_mut().flatten().for_each(|s| *s = *s * *s / 3.0);
    let settings = FisherSettings { kind: FisherKind::BatchSummed, ..settings };
    let found = measured(&mut model, &parameters, settings, vec![text(&IDS, &[])]);
    assert_same(&found, &sums, 1e-3);
    assert!(classes(&golden) > 1);
}

/// The derivatives themselves, by differences of the log-likelihood.
#[test]
fn empirical_is_the_square_of_a_finite_difference() {
    let (_, mut parameters, mut model) = model("bert");
    let batch = text(&[IDS[0]], &[1]);
    let settings = FisherSettings { kind: FisherKind::Empirical, ..FisherSettings::default() };
    let found = measured(&mut model, &parameters, settings, vec![batch.clone()]);
    let ids: Vec<ParameterId> = parameters.iter().map(|(id, _)| id).collect();
    let mut checked = 0;
    for id in ids {
        let name = parameters[id].name.clone();
        let most = found[&name].iter().fold(0.0f32, |m, v| m.max(*v));
        let at = found[&name].iter().position(|v| *v == most).unwrap();
        if most < 1e-4 {
            continue;
        }
        let mut loss_at = |by: f32| {
            let value = parameters.value_mut(id).unwrap();
            let mut old = [0.0];
            value.read(at, &mut old);
            value.write(at, &[old[0] + by]);
            let mut losses = Losses::new(1);
            model.evaluate(&parameters, &batch, Objective::CROSS_ENTROPY, &mut losses).unwrap();
            parameters.value_mut(id).unwrap().write(at, &old);
            losses.objective
        };
        let step = 1e-2;
        let slope = (loss_at(step) - loss_at(-step)) / (2.0 * f64::from(step));
        assert!((slope * slope - f64::from(most)).abs() < 0.05 * f64::from(most), "{name}: {slope} {most}");
        checked += 1;
    }
    assert!(checked > 10, "{checked}");
}

/// Σ_o var_o·(∂z_o)² for heads that learn numbers: of the last map that is var_o·features².
#[test]
fn heads_of_numbers_have_the_information_of_their_distributions() {
    for (name, problem) in
        [("bert_regression", Problem::Regression), ("bert_multi_label", Problem::MultiLabel)]
    {
        let (golden, parameters, mut model) = model(name);
        let found = measured(&mut model, &parameters, FisherSettings::default(), vec![text(&[IDS[0]], &[])]);
        let scores = model.classify(&parameters, &text(&[IDS[0]], &[])).unwrap().to_vec();
        assert_eq!(scores.len(), classes(&golden));
        let variance = |z: &f32| {
            let p = 1.0 / (1.0 + (-f64::from(*z)).exp());
            if problem == Problem::MultiLabel { p * (1.0 - p) } else { 1.0 }
        };
        close(name, &found["classifier.bias"], &scores.iter().map(variance).collect::<Vec<_>>(), 1e-5);
        // Drawn signs keep the cross terms of a single score out: the bias has none.
        let settings = FisherSettings { enumerate: 0, ..FisherSettings::default() };
        let drawn = measured(&mut model, &parameters, settings, vec![text(&[IDS[0]], &[])]);
        close(name, &drawn["classifier.bias"], &scores.iter().map(variance).collect::<Vec<_>>(), 1e-5);
        let gold = FisherSettings { kind: FisherKind::Empirical, ..settings };
        let mut batch = Batch::default();
        let values = vec![0.25; scores.len()];
        batch.push(&Sequence { ids: IDS[0], values: &values, weight: 1.0, ..Sequence::default() });
        let gold = measured(&mut model, &parameters, gold, vec![batch]);
        let slope = |z: &f32| match problem {
            Problem::MultiLabel => 1.0 / (1.0 + (-f64::from(*z)).exp()) - 0.25,
            _ => 2.0 * (f64::from(*z) - 0.25) / scores.len() as f64,
        };
        let squares: Vec<f64> = scores.iter().map(|z| slope(z).powi(2)).collect();
        close(name, &gold["classifier.bias"], &squares, 1e-5);
    }
}

/// One label per token, drawn from the model; the tied matrix has the square of its whole gradient.
#[test]
fn language_models_draw_their_tokens() {
    for name in ["llama", "gpt2", "bert_masked", "bert_tokens"] {
        let (_, parameters, mut model) = model(name);
        let settings = FisherSettings { seed: 5, ..FisherSettings::default() };
        let one = || vec![text(&[IDS[0]], &[0, -1, 0, 0, -1])];
        let found = measured(&mut model, &parameters, settings, one());
        assert_eq!(found, measured(&mut model, &parameters, settings, one()));
        let mut of = |seed| measured(&mut model, &parameters, FisherSettings { seed, ..settings }, one());
        assert!((6..16).any(|seed| of(seed) != found), "{name}");
        // What was drawn is one of the labellings: it is left in the batch.
        let (mut fisher, mut batch) = (Fisher::new(settings), one().remove(0));
        fisher.add(&mut model, &parameters, &mut batch).unwrap();
        assert_eq!(batch.targets().rows().targets.iter().filter(|t| **t >= 0).count(), 3, "{name}");
        let mut expected = BTreeMap::new();
        add(&mut expected, gradients_of(&mut model, &parameters, &batch), 1.0);
        assert_same(&found, &expected, 1e-5);
    }
}

#[test]
fn images_are_measured() {
    let golden = Golden::open("vit");
    let parameters = golden.parameters(|spec| spec.role == Role::Head);
    let mut model = VisionModel::new(&parameters).unwrap();
    let ModelConfig::Vision(config) = &golden.config else { panic!("vit looks at images") };
    let shape = [config.channels, config.image_size.0, config.image_size.1];
    let pixels: Vec<f32> = (0..shape.iter().product()).map(|i| (i as f32 * 0.37).sin()).collect();
    let mut batch = ImageBatch::default();
    batch.push(&Image { shape, pixels: &pixels, ..Image::default() });
    let scores = model.classify(&parameters, &batch).unwrap().to_vec();
    let size: f64 = scores.iter().map(|z| f64::from(*z).exp()).sum();
    let mut fisher = Fisher::new(FisherSettings::default());
    fisher.add(&mut model, &parameters, &mut batch).unwrap();
    let found = fisher.finish(&parameters).unwrap();
    let bias = found.iter().find(|d| d.names[0].ends_with("bias")).unwrap();
    // Σ_y p_y·([r = y] − p_r)² = p_r·(1 − p_r)
    let p = scores.iter().map(|z| f64::from(*z).exp() / size);
    close("bias", &bias.values.to_vec(), &p.map(|p| p * (1.0 - p)).collect::<Vec<_>>(), 1e-5);
}

#[test]
fn what_cannot_be_measured_is_refused() {
    let (_, parameters, mut model) = model("bert");
    let mut refused = |kind, mut batch: Batch, message: &str| {
        let mut fisher = Fisher::new(FisherSettings { kind, ..FisherSettings::default() });
        let error = fisher.add(&mut model, &parameters, &mut batch).unwrap_err().to_string();
        assert!(error.contains(message), "{error}");
        assert!(matches!(fisher.finish(&parameters), Err(StatisticsError::Nothing)));
    };
    refused(FisherKind::Exact, text(&IDS, &[]), "a batch of 3 examples");
    refused(FisherKind::Empirical, text(&[IDS[0]], &[]), "an example without labels");
    refused(FisherKind::Empirical, text(&[IDS[0]], &[-1]), "an example without labels");
    refused(FisherKind::BatchSummed, Batch::default(), "the batch has no sequence");
    refused(FisherKind::Exact, text(&[&[100_000]], &[]), "is not below");
    let golden = Golden::open("bert");
    let mut spoilt = golden.parameters(|_| true);
    let (id, _) = spoilt.iter().find(|(_, p)| p.name == "classifier.bias").unwrap();
    spoilt.value_mut(id).unwrap().write(0, &[f32::NAN]);
    let mut fisher = Fisher::new(FisherSettings::default());
    let error = fisher.add(&mut model, &spoilt, &mut text(&[IDS[0]], &[])).unwrap_err().to_string();
    assert!(error.starts_with("example 0: a score or a loss is NaN"), "{error}");
}

// ---- Gram matrices

fn weights(spec: &TensorSpec) -> bool {
    spec.part != Part::Bias
}

/// Every map is measured; that of the embeddings' own rows can be known otherwise.
#[test]
fn grams_are_products_of_the_inputs() {
    for name in ["bert", "gpt2", "llama_gqa", "phi3", "gemma2", "vit"] {
        let golden = Golden::open(name);
        let parameters = golden.parameters(|_| false);
        let mut grams = Grams::new(&parameters);
        if name == "vit" {
            let mut model = VisionModel::new(&parameters).unwrap();
            let ModelConfig::Vision(config) = &golden.config else { panic!("vit looks at images") };
            let shape = [config.channels, config.image_size.0, config.image_size.1];
            let pixels: Vec<f32> = (0..shape.iter().product()).map(|i| (i as f32 * 0.37).sin()).collect();
            let mut batch = ImageBatch::default();
            batch.push(&Image { shape, pixels: &pixels, ..Image::default() });
            grams.add(&mut model, &parameters, &batch).unwrap();
        } else {
            let mut model = TextModel::new(&parameters).unwrap();
            for ids in IDS {
                grams.add(&mut model, &parameters, &text(&[ids], &[])).unwrap();
            }
            assert_eq!(grams.examples(), 3);
        }
        let bytes = grams.bytes();
        let grams = grams.finish(&parameters).unwrap();
        assert!(grams.iter().map(|gram| gram.values.bytes()).sum::<usize>() <= bytes);
        let names: Vec<&String> = grams.iter().flat_map(|gram| &gram.names).collect();
        for (_, parameter) in parameters.iter() {
            let spec = parameter.spec().unwrap();
            let head = spec.role == Role::Head && golden.config.common().head == Head::Language;
            let map = spec.is_adaptable() && spec.shape.len() == 2 && !head;
            let wanted = map && spec.layer.is_some();
            assert!(!wanted || names.contains(&&parameter.name), "{name}: {}", parameter.name);
        }
        for gram in &grams {
            let (values, n) = (gram.values.to_vec(), gram.inputs);
            for i in 0..n {
                assert!(values[i * n + i] >= 0.0 && gram.samples > 0);
                for j in 0..i {
                    let most = (values[i * n + i] * values[j * n + j]).sqrt();
                    assert!((values[i * n + j] - values[j * n + i]).abs() <= 1e-5 * most, "{:?}", gram.names);
                    assert!(values[i * n + j].abs() <= most * (1.0 + 1e-5), "{:?}", gram.names);
                }
            }
        }
        assert_eq!(grams.iter().any(|gram| gram.transposed), name == "gpt2");
        assert_eq!(grams.iter().any(|gram| gram.names.len() == 3), !["gpt2", "phi3"].contains(&name));
    }
}

/// The last map takes what is known from outside: the pooled hidden states.
#[test]
fn grams_of_a_pooler_are_those_of_the_hidden_states() {
    let golden = Golden::open("bert");
    let parameters = golden.parameters(|_| false);
    let mut model = TextModel::new(&parameters).unwrap();
    let mut grams = Grams::new(&parameters);
    // Packed or one by one: the same rows.
    grams.add(&mut model, &parameters, &text(&IDS[..2], &[])).unwrap();
    grams.add(&mut model, &parameters, &text(&IDS[2..], &[])).unwrap();
    let grams = grams.finish(&parameters).unwrap();
    let pooler = grams.iter().find(|gram| gram.names == ["bert.pooler.dense.weight"]).unwrap();
    let how = SentencePooling { pooling: onefold_engine::cpu::pool::Pooling::First, normalise: false };
    let x = model.embed(&parameters, &text(&IDS, &[]), how).unwrap().to_vec();
    let d = pooler.inputs;
    let inner = |i: usize, j: usize| -> f64 {
        x.chunks(d).map(|row| f64::from(row[i]) * f64::from(row[j])).sum::<f64>() / 3.0
    };
    let expected: Vec<f64> = (0..d * d).map(|at| inner(at / d, at % d)).collect();
    close("pooler", &pooler.values.to_vec(), &expected, 1e-5);
    assert_eq!(pooler.samples, 3);
    let down = grams.iter().find(|gram| gram.names[0].ends_with("layer.0.output.dense.weight")).unwrap();
    assert_eq!(down.samples as usize, IDS.concat().len());
    assert!(matches!(Grams::new(&parameters).finish(&parameters), Err(StatisticsError::Nothing)));
}

// ---- files

#[test]
fn statistics_are_written_and_read() {
    let golden = Golden::open("gpt2");
    let parameters = golden.parameters(weights);
    let mut model = TextModel::new(&parameters).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let mut grams = Grams::new(&parameters);
    grams.add(&mut model, &parameters, &text(&IDS, &[])).unwrap();
    let grams = grams.finish(&parameters).unwrap();
    let stored: Vec<Stored<'_>> = grams.iter().map(Gram::stored).collect();
    let (out, options) = (dir.path().join("gram"), BTreeMap::from([("seed".to_owned(), "3".to_owned())]));
    save(&out, Kind::Gram, 3, &options, &stored, false).unwrap();
    let read = Statistics::open(&out).unwrap();
    assert_eq!((read.kind, read.examples, &read.options), (Kind::Gram, 3, &options));
    for gram in &grams {
        for name in &gram.names {
            let tensor = &read.tensors[name];
            let mut values = vec![0.0; tensor.len()];
            tensor.read(0, &mut values);
            assert_eq!((&tensor.shape[..], values), (&[gram.inputs; 2][..], gram.values.to_vec()));
            assert!(read.transposed.contains(name));
        }
    }

    let golden = Golden::open("bert");
    let parameters = golden.parameters(|_| true);
    let mut model = TextModel::new(&parameters).unwrap();
    let mut fisher = Fisher::new(FisherSettings::default());
    fisher.add(&mut model, &parameters, &mut text(&[IDS[0]], &[])).unwrap();
    let found = fisher.finish(&parameters).unwrap();
    let stored: Vec<Stored<'_>> = found.iter().map(Diagonal::stored).collect();
    let out = dir.path().join("fisher");
    save(&out, Kind::Fisher, 1, &BTreeMap::new(), &stored, false).unwrap();
    let read =
        Statistics::open(&out.join("statistics.safetensors")).unwrap().of_kind(Kind::Fisher, &out).unwrap();
    assert_eq!(read.tensors.len(), found.len());
    for Diagonal { names, shape, .. } in &found {
        let (found, stored) = (&read.tensors[&names[0]], &golden.checkpoint.tensors()[&names[0]]);
        assert_eq!((&found.shape, &stored.shape), (shape, shape));
    }

    let refused = |path: &Path, message: &str| {
        let error = Statistics::open(path).unwrap_err().to_string();
        assert!(error.contains(message), "{error}");
    };
    refused(&dir.path().join("nowhere"), "nowhere");
    refused(golden.checkpoint.files()[0].path(), "these are no statistics of a model (kind: none)");
}

// ---- mask nodes

#[test]
fn golden_of_factors() {
    let golden = &related()["fisher_nodes"];
    let heads: Vec<Vec<f64>> = golden["head_fisher"].as_array().unwrap().iter().map(flat).collect();
    let maps: Vec<Vec<f64>> = golden["W"].as_array().unwrap().iter().map(flat).collect();
    let spec = |role, name: &str| TensorSpec {
        role,
        part: Part::Weight,
        half: families::Half::Whole,
        layer: Some(0),
        name: name.to_owned(),
        shape: vec![2, 2],
    };
    let specs = named(vec![
        spec(Role::Query, "query"),
        spec(Role::Value, "value"),
        spec(Role::AttentionOutput, "output"),
    ]);
    let factors = |name: &str| -> Vec<Vec<f32>> {
        let of = |heads: &Vec<f64>| {
            let layers = [LayerNodes { heads: heads.clone(), neurons: Vec::new() }];
            let all = NodeFactors { layers: &layers, mean_elsewhere: false }.expand(&specs).unwrap();
            let mut values = vec![0.0; 4];
            all[name].read(0, &mut values);
            values
        };
        heads.iter().map(of).collect()
    };
    for (name, key) in [
        ("query", "merged_query_rows_per_head"),
        ("value", "merged_value_or_output_layer_mean"),
        ("output", "merged_value_or_output_layer_mean"),
    ] {
        let factors = factors(name);
        let at = |i: usize| {
            let sum: f64 = (0..2).map(|m| f64::from(factors[m][i]) * maps[m][i]).sum();
            (sum / (0..2).map(|m| f64::from(factors[m][i])).sum::<f64>()) as f32
        };
        close(key, &(0..4).map(at).collect::<Vec<_>>(), &flat(&golden[key]), 1e-6);
    }
}

/// Tensors as they are found in a file that has a head.
fn named(specs: Vec<TensorSpec>) -> Vec<(TensorSpec, String)> {
    specs.into_iter().map(|spec| (spec.clone(), spec.name)).collect()
}

/// A mask is a factor of the columns of the map behind it: its slope is ⟨column of W, gradient of the column⟩.
#[test]
fn nodes_are_squares_of_slopes_by_masks() {
    for name in ["bert", "llama_gqa", "gpt2", "gemma2", "phi3"] {
        let (_, parameters, mut model) = model(name);
        let causal = name != "bert";
        let batch = |ids: &[u32]| {
            let targets = if causal { vec![1; ids.len()] } else { vec![1] };
            text(&[ids], &targets)
        };
        let mut nodes = MaskNodes::new(&parameters).unwrap();
        let mut expected: BTreeMap<(usize, bool), Vec<f64>> = BTreeMap::new();
        for ids in IDS {
            nodes.add(&mut model, &parameters, &mut batch(ids)).unwrap();
            let labels = if causal { ids.len() } else { 1 };
            let gradients = gradients_of(&mut model, &parameters, &batch(ids));
            for (_, parameter) in parameters.iter() {
                let spec = parameter.spec().unwrap();
                let (Some(layer), true) = (spec.layer, spec.is_adaptable()) else { continue };
                let heads = match spec.role {
                    Role::AttentionOutput => true,
                    Role::Down => false,
                    _ => continue,
                };
                let (outputs, inputs, layout) = spec.linear_dims();
                let (w, dw) = (parameter.trained().unwrap().to_vec(), &gradients[&parameter.name]);
                let at = |o: usize, i: usize| {
                    if layout == Layout::OutputsInputs { o * inputs + i } else { i * outputs + o }
                };
                let slope =
                    |i: usize| (0..outputs).map(|o| f64::from(w[at(o, i)]) * dw[at(o, i)]).sum::<f64>();
                let slopes: Vec<f64> = (0..inputs).map(|i| slope(i) / labels as f64).collect();
                let sums = expected.entry((layer, heads)).or_insert_with(|| vec![0.0; inputs]);
                let count = if heads { head_count(&parameters) } else { inputs };
                for (sum, part) in sums.iter_mut().zip(slopes.chunks(inputs / count)) {
                    *sum += part.iter().sum::<f64>().powi(2) / 3.0;
                }
                sums.truncate(count);
            }
        }
        assert_eq!(nodes.examples(), 3);
        let layers = nodes.finish().unwrap();
        assert_eq!(2 * layers.len(), expected.len(), "{name}");
        for (layer, nodes) in layers.iter().enumerate() {
            for (heads, found) in [(true, &nodes.heads), (false, &nodes.neurons)] {
                let found: Vec<f32> = found.iter().map(|v| *v as f32).collect();
                close(name, &found, &expected[&(layer, heads)], 1e-3);
            }
        }
        // Every tensor of the model has its factors.
        let factors = NodeFactors { layers: &layers, mean_elsewhere: true };
        let (of_none, factors) = (
            factors.of_no_node(vec![2, 3]),
            factors.expand(&named(families::tensors(parameters.config()))).unwrap(),
        );
        let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len() as f64;
        let all: f64 = layers.iter().map(|l| mean(&l.heads) + mean(&l.neurons)).sum();
        let mut values = vec![0.0; 6];
        of_none.read(0, &mut values);
        close(name, &values, &[all / (2 * layers.len()) as f64; 6], 1e-6);
        for (_, parameter) in parameters.iter() {
            let tensor = &factors[&parameter.name];
            assert_eq!(tensor.shape, parameter.shape, "{name}");
            let mut values = vec![0.0; tensor.len()];
            tensor.read(0, &mut values);
            assert!(values.iter().all(|v| *v >= 0.0));
        }
    }
}

fn head_count(parameters: &Parameters) -> usize {
    match parameters.config() {
        ModelConfig::Decoder(config) => config.heads,
        ModelConfig::Encoder(config) => config.heads,
        ModelConfig::Vision(config) => config.heads,
        ModelConfig::Clip(_) => 1,
    }
}

#[test]
fn factors_of_fused_and_shared_heads_are_those_of_their_rows() {
    let layers: Vec<LayerNodes> = (0..3)
        .map(|l| LayerNodes {
            heads: (1..=8).map(|h| f64::from(10 * l + h)).collect(),
            neurons: (1..=64).map(|n| f64::from(n) / 64.0).collect(),
        })
        .collect();
    for name in ["llama_gqa", "gpt2", "phi3"] {
        let golden = Golden::open(name);
        let parameters = golden.parameters(|_| false);
        let heads = head_count(&parameters);
        let down = parameters.iter().find(|(_, p)| p.spec().unwrap().role == Role::Down).unwrap().1;
        let neurons = down.spec().unwrap().linear_dims().1;
        let layers: Vec<LayerNodes> = layers
            .iter()
            .map(|l| LayerNodes {
                heads: l.heads[..heads].to_vec(),
                neurons: (0..neurons).map(|n| n as f64).collect(),
            })
            .collect();
        let factors = NodeFactors { layers: &layers, mean_elsewhere: false };
        let specs = families::tensors(parameters.config());
        let found = named(specs.clone());
        let all = factors.expand(&found).unwrap();
        for spec in specs.iter().filter(|spec| spec.layer == Some(1)) {
            let (outputs, inputs, layout) = spec.linear_dims();
            let mut values = vec![0.0; outputs * inputs];
            all[&spec.name].read(0, &mut values);
            let by_output = layout == Layout::OutputsInputs || spec.part == Part::Bias;
            let of = |o: usize, i: usize| values[if by_output { o * inputs + i } else { i * outputs + o }];
            let mean = layers[1].heads.iter().sum::<f64>() / heads as f64;
            for o in 0..outputs {
                assert!((0..inputs).all(|i| of(o, i) == of(o, 0)), "{}", spec.name);
                let expected = match spec.role {
                    Role::Query => layers[1].heads[o * heads / outputs],
                    Role::Value | Role::AttentionOutput => mean,
                    Role::QueryKeyValue if o < outputs / 3 && name == "gpt2" => {
                        layers[1].heads[o * heads * 3 / outputs]
                    }
                    Role::QueryKeyValue if o >= outputs * 2 / 3 && name == "gpt2" => mean,
                    Role::Up | Role::Gate => o as f64,
                    Role::GateUp => (o % neurons) as f64,
                    Role::Down => (neurons - 1) as f64 / 2.0,
                    Role::AttentionNorm | Role::FeedForwardNorm => 1.0,
                    _ => continue,
                };
                assert!((f64::from(of(o, 0)) - expected).abs() < 1e-4, "{} {o}", spec.name);
            }
            if spec.role == Role::Key && spec.part == Part::Weight {
                let shared = outputs * heads / layers_rows(&specs);
                let group = heads / shared;
                let first = layers[1].heads[..group].iter().sum::<f64>() / group as f64;
                assert!((f64::from(of(0, 0)) - first).abs() < 1e-4, "{}", spec.name);
            }
        }
        let few = NodeFactors { layers: &layers[..1], mean_elsewhere: false };
        assert!(few.expand(&found).unwrap_err().to_string().contains("no nodes of its layer"));
        let mut other = layers.clone();
        other[0].neurons.pop();
        let other = NodeFactors { layers: &other, mean_elsewhere: false };
        assert!(other.expand(&found).unwrap_err().to_string().contains("not as many as were measured"));
    }
}

/// Width of all query heads together.
fn layers_rows(specs: &[TensorSpec]) -> usize {
    specs.iter().find(|spec| spec.role == Role::AttentionOutput).unwrap().linear_dims().1
}

#[test]
fn nodes_are_saved_and_need_a_way_back() {
    let golden = Golden::open("bert");
    let parameters = golden.parameters(|spec| spec.role == Role::Head);
    let mut model = TextModel::new(&parameters).unwrap();
    let mut nodes = MaskNodes::new(&parameters).unwrap();
    let error = nodes.add(&mut model, &parameters, &mut text(&[IDS[0]], &[1])).unwrap_err().to_string();
    assert!(error.contains("had no gradient: something in the first layer"), "{error}");
    let parameters = golden.parameters(|spec| spec.layer == Some(0) && spec.role == Role::Query);
    let mut model = TextModel::new(&parameters).unwrap();
    let mut nodes = MaskNodes::new(&parameters).unwrap();
    nodes.add(&mut model, &parameters, &mut text(&IDS, &[1])).unwrap();
    let layers = nodes.finish().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let buffers = LayerNodes::buffers(&layers);
    let stored: Vec<Stored<'_>> = buffers
        .iter()
        .map(|(name, values)| Stored {
            names: vec![name.clone()],
            transposed: false,
            shape: vec![values.len()],
            values,
        })
        .collect();
    let out = dir.path().join("nodes");
    save(&out, Kind::Nodes, 3, &BTreeMap::new(), &stored, false).unwrap();
    let read = LayerNodes::of(&Statistics::open(&out).unwrap()).unwrap();
    for (a, b) in layers.iter().zip(&read) {
        let close = |(a, b): (&f64, &f64)| (a - b).abs() <= 1e-6 * a;
        assert!(a.heads.iter().zip(&b.heads).all(close) && a.neurons.iter().zip(&b.neurons).all(close));
    }
    assert_eq!(layers.len(), read.len());
}
