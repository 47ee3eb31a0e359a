use onefold_engine::Write;

use super::*;
use crate::families::Role;
use crate::model::testing::bits;
use crate::model::{BatchShape, GradientSink, Keep, ParameterId, Part};

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

/// What `classify_through` shows is what the last map reads, and scores follow from what is left there.
#[test]
fn features_are_the_inputs_of_the_classifier() {
    for name in ["bert", "roberta", "distilbert", "llama_classify"] {
        let golden = Golden::open(name);
        let parameters = golden.parameters(|_| true);
        let mut model = TextModel::new(&parameters).unwrap();
        let width = model.feature_width().unwrap();
        let batch = batch(&golden);
        let mut features = Vec::new();
        let show = &mut |found: &mut [f32]| features.extend_from_slice(found);
        let scores = model.classify_through(&parameters, &batch, show).unwrap().to_vec();
        golden.assert_close(&scores, &golden.numbers("logits"));
        golden.assert_close(&mapped(&parameters, Role::Head, &features, width), &golden.numbers("logits"));
        let zeros =
            model.classify_through(&parameters, &batch, &mut |found| found.fill(0.0)).unwrap().to_vec();
        let nothing = vec![0.0; features.len()];
        let expected: Vec<f64> =
            mapped(&parameters, Role::Head, &nothing, width).into_iter().map(f64::from).collect();
        golden.assert_close(&zeros, &expected);
        if name == "bert" {
            // Of bert it is what the pooler makes of the first row.
            let hidden = model.hidden(&parameters, &batch).unwrap().to_vec();
            let (mut first, mut begin) = (Vec::new(), 0);
            for row in rows(&golden, 1.0) {
                first.extend_from_slice(&hidden[begin..begin + width]);
                begin += row.ids.len() * width;
            }
            let pooled = mapped(&parameters, Role::Pooler, &first, width);
            let expected: Vec<f64> = pooled.into_iter().map(|v| f64::from(v.tanh())).collect();
            golden.assert_close(&features, &expected);
        }
    }
    for name in ["bert_tokens", "bert_masked"] {
        let golden = Golden::open(name);
        let model = TextModel::new(&golden.parameters(|_| false)).unwrap();
        assert_eq!(model.feature_width().unwrap_err(), ModelError::NoClassHead, "{name}");
    }
}

/// A linear map of the model, of rows `[n, width]`.
fn mapped(parameters: &Parameters, role: Role, rows: &[f32], width: usize) -> Vec<f32> {
    use crate::families::Half;
    let find = |part| parameters.find(Half::Whole, None, role, part).map(|id| &parameters[id]);
    let read = |parameter: &crate::model::Parameter| parameter.trained().unwrap().to_vec();
    let weight = read(find(Part::Weight).unwrap());
    let bias = find(Part::Bias).map_or(vec![0.0; weight.len() / width], read);
    let one = |x: &[f32]| {
        let dot = |row: &[f32]| row.iter().zip(x).map(|(w, x)| w * x).sum::<f32>();
        weight.chunks_exact(width).zip(&bias).map(|(row, bias)| dot(row) + bias).collect::<Vec<_>>()
    };
    rows.chunks_exact(width).flat_map(one).collect()
}
