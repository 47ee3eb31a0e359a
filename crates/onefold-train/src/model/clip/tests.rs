use super::text::ends;
use super::*;
use crate::families::TensorSpec;
use crate::model::testing::{Golden, PLAIN, bits, losses};
use crate::model::{
    AdapterSettings, BatchError, BatchShape, GradientSink, Gradients, Image, Keep, Sequence, Training,
};

fn texts(golden: &Golden) -> Batch {
    let mut batch = Batch::default();
    push_texts(golden, &mut batch);
    batch
}

fn push_texts(golden: &Golden, batch: &mut Batch) {
    let [ids, mask] = ["input_ids", "attention_mask"].map(|key| golden.input(key).unwrap());
    for (ids, mask) in ids.iter().zip(&mask) {
        let length = mask.iter().filter(|mask| **mask == 1.0).count();
        let ids: Vec<u32> = ids[..length].iter().map(|id| *id as u32).collect();
        batch.push(&Sequence { ids: &ids, ..Sequence::default() });
    }
}

fn images(golden: &Golden, targets: [Option<i32>; 2]) -> ImageBatch {
    let mut batch = ImageBatch::default();
    push_images(golden, targets, &mut batch);
    batch
}

fn push_images(golden: &Golden, targets: [Option<i32>; 2], batch: &mut ImageBatch) {
    for (pixels, target) in golden.input("pixel_values").unwrap().iter().zip(targets) {
        let pixels: Vec<f32> = pixels.iter().map(|v| *v as f32).collect();
        batch.push(&Image { shape: [3, 16, 16], pixels: &pixels, target, weight: 0.5, ..Image::default() });
    }
}

fn pairs(golden: &Golden, parameters: &Parameters, training: &Training) -> (Gradients, f64) {
    let (mut model, mut gradients) = (ClipModel::new(parameters).unwrap(), Gradients::default());
    let batch = (&texts(golden), &images(golden, [None; 2]));
    let loss = model.train_pairs(parameters, batch, training, 1.0, Some(&mut gradients)).unwrap();
    (gradients, loss)
}

#[test]
fn embeddings_scores_losses_and_gradients_are_those_of_transformers() {
    let golden = Golden::open("clip");
    let parameters = golden.parameters(|_| true);
    let mut model = ClipModel::new(&parameters).unwrap();
    let (texts, images) = (texts(&golden), images(&golden, [None; 2]));
    golden.assert_close(
        &model.embed_texts(&parameters, &texts).unwrap().to_vec(),
        &golden.numbers("text_embeds"),
    );
    let found = model.embed_images(&parameters, &images).unwrap().to_vec();
    golden.assert_close(&found, &golden.numbers("image_embeds"));
    let found = model.compare(&parameters, &texts, &images).unwrap().to_vec();
    golden.assert_close(&found, &golden.numbers("logits"));
    let loss = model.train_pairs(&parameters, (&texts, &images), &PLAIN, 1.0, None).unwrap();
    golden.assert_close(&[loss as f32], &golden.numbers("loss"));
    let (gradients, again) = pairs(&golden, &parameters, &PLAIN);
    assert_eq!(again, loss);
    golden.assert_gradients(&parameters, &gradients);
}

#[test]
fn twenty_steps_of_adamw_are_those_of_pytorch() {
    let golden = Golden::open("clip");
    let mut parameters = golden.parameters(|_| true);
    let mut model = ClipModel::new(&parameters).unwrap();
    let (texts, images) = (texts(&golden), images(&golden, [None; 2]));
    golden.assert_trace(&mut parameters, |parameters, gradients| {
        model.train_pairs(parameters, (&texts, &images), &PLAIN, 1.0, Some(gradients)).unwrap()
    });
}

#[test]
fn a_classifier_is_made_of_texts() {
    let golden = Golden::open("clip");
    let parameters = golden.parameters(|_| false);
    let mut model = ClipModel::new(&parameters).unwrap();
    let whole = texts(&golden);
    let one = |ids: &[u32]| {
        let mut batch = Batch::default();
        batch.push(&Sequence { ids, ..Sequence::default() });
        batch
    };
    let split = [one(&whole.ids()[..9]), one(&whole.ids()[9..])];
    let classes = model.class_vectors(&parameters, &split).unwrap();
    assert_eq!(classes.classes(), 2);
    // A class of one text is that text, so scores are those of pairs.
    let images = images(&golden, [Some(0), Some(1)]);
    let found = model.classify(&parameters, &images, &classes).unwrap().to_vec();
    golden.assert_close(&found, &golden.numbers("logits"));
    // One of several is their mean, of length 1.
    let both = model.class_vectors(&parameters, std::slice::from_ref(&whole)).unwrap();
    let vectors: Vec<f64> = classes.vectors().to_vec().into_iter().map(f64::from).collect();
    let sum: Vec<f64> = vectors[..16].iter().zip(&vectors[16..]).map(|(a, b)| a + b).collect();
    let length = sum.iter().map(|v| v * v).sum::<f64>().sqrt();
    golden.assert_close(&both.vectors().to_vec(), &sum.iter().map(|v| v / length).collect::<Vec<_>>());
}

/// Images against fixed vectors: half of the loss of pairs, whose texts are fixed.
#[test]
fn the_image_half_learns_against_a_fixed_classifier() {
    let golden = Golden::open("clip");
    let parameters = golden.parameters(|spec| spec.half != Half::Text);
    let mut model = ClipModel::new(&parameters).unwrap();
    let vectors = model.embed_texts(&parameters, &texts(&golden)).unwrap().clone();
    let classes = ClassVectors { vectors, classes: 2 };
    let images = images(&golden, [Some(0), Some(1)]);
    let value = |parameters: &Parameters, model: &mut ClipModel, sink: Option<&mut dyn GradientSink>| {
        let mut losses = losses();
        model.train_images(parameters, (&images, &classes), &PLAIN, &mut losses, sink).unwrap();
        losses.objective
    };
    let mut gradients = Gradients::default();
    let objective = value(&parameters, &mut model, Some(&mut gradients));
    assert_eq!(value(&parameters, &mut model, None), objective);
    for (id, parameter) in parameters.trainable() {
        let gradient = gradients.get(id).unwrap().to_vec();
        let norm = gradient.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>().sqrt();
        let step = 2e-3 / norm.max(0.05);
        let at = |sign: f64| {
            let mut moved = golden.parameters(|spec| spec.half != Half::Text);
            let buffer = moved.value_mut(id).unwrap();
            let values = buffer.to_vec().into_iter().zip(&gradient);
            let values: Vec<f32> =
                values.map(|(v, g)| (f64::from(v) + sign * step * f64::from(*g)) as f32).collect();
            buffer.write(0, &values);
            value(&moved, &mut ClipModel::new(&moved).unwrap(), None)
        };
        let slope = (at(1.0) - at(-1.0)) / (2.0 * step);
        let expected = norm * norm;
        assert!((slope - expected).abs() < 0.05 * expected + 2e-4, "{}: {slope} {expected}", parameter.name);
    }
}

#[test]
fn checkpointing_threads_and_frozen_halves_change_no_bit() {
    let golden = Golden::open("clip");
    let parameters = golden.parameters(|_| true);
    let run = |parameters: &Parameters, checkpointing, threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            let (gradients, loss) = pairs(&golden, parameters, &Training { checkpointing, ..PLAIN });
            (bits(&gradients), loss)
        })
    };
    let one = run(&parameters, false, 1);
    for (checkpointing, threads) in [(true, 1), (false, 2), (true, 2), (false, 3)] {
        assert!(run(&parameters, checkpointing, threads) == one, "{checkpointing} {threads}");
    }
    let choices: [fn(&TensorSpec) -> bool; 3] = [
        |spec| spec.half == Half::Text,
        |spec| spec.role == Role::Projection,
        |spec| spec.role == Role::LogitScale,
    ];
    for choice in choices {
        let parameters = golden.parameters(choice);
        let (some, loss) = run(&parameters, false, 1);
        assert_eq!(loss, one.1);
        let trained: Vec<_> = parameters.trainable().map(|(id, _)| id.index()).collect();
        assert!(some == one.0.iter().filter(|(id, _)| trained.contains(id)).cloned().collect::<Vec<_>>());
    }
}

#[test]
fn what_does_not_fit_is_an_error() {
    let golden = Golden::open("clip");
    let parameters = golden.parameters(|_| true);
    let mut model = ClipModel::new(&parameters).unwrap();
    let (pairs, images) = (texts(&golden), images(&golden, [Some(0), Some(2)]));
    let mut refused = |ids: &[&[u32]], message: &str| {
        let mut batch = Batch::default();
        ids.iter().for_each(|ids| batch.push(&Sequence { ids, ..Sequence::default() }));
        let mut gradients = Gradients::default();
        let result = model.train_pairs(&parameters, (&batch, &images), &PLAIN, 1.0, Some(&mut gradients));
        let error = result.unwrap_err().to_string();
        assert!(error.contains(message), "{error}");
        assert_eq!(gradients.iter().count(), 0);
    };
    refused(&[&[62, 63]], "2 images and 1 texts are no pairs");
    refused(&[&[62, 63], &[62, 5]], "sequence 1 does not contain the token 63 that ends a text");
    refused(&[&[62, 63], &[64, 63]], "sequence 1, token 0: token id 64 is not below 64");
    refused(&[&[63; 17], &[63]], "sequence 0 has 17 tokens, the model has 16 positions");
    let error = model.class_vectors(&parameters, &[]).unwrap_err();
    assert_eq!(error, ModelError::Batch(BatchError::Empty));
    let classes = model.class_vectors(&parameters, &[pairs.clone(), pairs]).unwrap();
    let error =
        model.train_images(&parameters, (&images, &classes), &PLAIN, &mut losses(), None).unwrap_err();
    assert_eq!(error.to_string(), "target 1 is 2, the head has 2 classes");
    let other = ClassVectors { vectors: Buffer::zeros(30), classes: 2 };
    let error = model.classify(&parameters, &images, &other).unwrap_err();
    assert_eq!(error, ModelError::VectorWidth { found: 15, expected: 16 });
    let error = ClipModel::new(&Golden::open("vit").parameters(|_| false)).unwrap_err().to_string();
    assert_eq!(error, "a model of type `vit` does not compare images and texts: that does clip");
}

/// The first files named 2 as the end of a text, and meant the highest number.
#[test]
fn the_end_of_a_text() {
    let mut batch = Batch::default();
    batch.push(&Sequence { ids: &[62, 5, 63, 4], ..Sequence::default() });
    batch.push(&Sequence { ids: &[62, 63, 63], ..Sequence::default() });
    assert_eq!(ends(&batch, Some(63)), Ok(vec![2, 5]));
    assert_eq!(ends(&batch, None), Ok(vec![2, 5]));
    assert_eq!(ends(&batch, Some(4)), Err(BatchError::NoEnd { sequence: 1, token: 4 }));
    batch.push(&Sequence::default());
    assert_eq!(ends(&batch, None), Err(BatchError::EmptySequence { sequence: 2 }));
}

#[test]
fn memory_is_as_predicted_and_stays() {
    let golden = Golden::open("clip");
    // Four pairs: the smallest lists have room for as many.
    let (mut texts, mut images) = (texts(&golden), images(&golden, [None; 2]));
    push_texts(&golden, &mut texts);
    push_images(&golden, [None; 2], &mut images);
    let settings = AdapterSettings {
        rank: 3,
        alpha: 6.0,
        rank_stabilised: false,
        decomposed: true,
        dropout: 0.0,
        seed: 9,
    };
    let mut adapted = golden.parameters(|_| false);
    adapted.adapt(&settings, TensorSpec::is_adaptable).unwrap();
    for (parameters, whole) in [(golden.parameters(|_| true), true), (adapted, false)] {
        for keep in [Keep::Nothing, Keep::Inputs, Keep::Everything] {
            let mut model = ClipModel::new(&parameters).unwrap();
            let (mut gradients, back) = (Gradients::default(), keep != Keep::Nothing);
            let training = Training { checkpointing: keep == Keep::Inputs, ..PLAIN };
            let mut step = |model: &mut ClipModel| {
                let sink = back.then_some(&mut gradients as &mut dyn GradientSink);
                model.train_pairs(&parameters, (&texts, &images), &training, 1.0, sink).unwrap();
                model.held_bytes()
            };
            let held = step(&mut model);
            let shape = |rows| BatchShape { rows, sequences: 4, keep, dropout: false };
            let predicted = model.activation_bytes(&shape(texts.rows()), &shape(20));
            // Adapters leave embeddings frozen, which saves their plan and gradients.
            let exact = whole || !back;
            assert!(
                if exact { held == predicted } else { held <= predicted },
                "{keep:?}: {held} {predicted}"
            );
            assert!(held > predicted / 2);
            assert_eq!(step(&mut model), held, "{keep:?} allocates in its second step");
        }
    }
}
