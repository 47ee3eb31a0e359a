use onefold_engine::cpu::loss::Losses;

use super::*;
use crate::families::{Role, TensorSpec};
use crate::model::testing::{Golden, PLAIN, bits, losses};
use crate::model::{AdapterSettings, BatchError, BatchShape, Coins, Gradients, Keep, Training};

const ALL: [&str; 2] = ["vit", "vit_unbiased"];
/// The goldens' configurations drop nothing; adapters do.
const DROPPING: Training = Training { coins: Some(Coins { seed: 5, micro_batch: 3 }), ..PLAIN };

/// Some of the golden's images; the weights make the objective transformers' mean.
fn batch(golden: &Golden, images: &[usize]) -> ImageBatch {
    let (pixels, labels) = (golden.input("pixel_values").unwrap(), golden.input("labels").unwrap());
    let weight = 1.0 / pixels.len() as f32;
    images.iter().fold(ImageBatch::default(), |mut batch, &i| {
        let pixels: Vec<f32> = pixels[i].iter().map(|v| *v as f32).collect();
        let (shape, target) = ([3, 16, 16], Some(labels[i][0] as i32));
        batch.push(&Image { shape, pixels: &pixels, target, weight, ..Image::default() });
        batch
    })
}

fn gradients(golden: &Golden, parameters: &Parameters, training: &Training) -> (Gradients, Losses) {
    let mut model = VisionModel::new(parameters).unwrap();
    let (mut gradients, mut losses) = (Gradients::default(), losses());
    model.train(parameters, &batch(golden, &[0, 1]), training, &mut losses, &mut gradients).unwrap();
    (gradients, losses)
}

#[test]
fn logits_losses_and_gradients_are_those_of_transformers() {
    for name in ALL {
        let golden = Golden::open(name);
        let parameters = golden.parameters(|_| true);
        let mut model = VisionModel::new(&parameters).unwrap();
        let (batch, mut evaluated) = (batch(&golden, &[0, 1]), losses());
        golden
            .assert_close(&model.classify(&parameters, &batch).unwrap().to_vec(), &golden.numbers("logits"));
        model.evaluate(&parameters, &batch, PLAIN.objective, &mut evaluated).unwrap();
        golden.assert_close(&[evaluated.objective as f32], &golden.numbers("loss"));
        let (gradients, losses) = gradients(&golden, &parameters, &PLAIN);
        assert_eq!(losses, evaluated);
        golden.assert_gradients(&parameters, &gradients);
    }
}

#[test]
fn twenty_steps_of_adamw_are_those_of_pytorch() {
    for name in ALL {
        let golden = Golden::open(name);
        let mut parameters = golden.parameters(|_| true);
        let mut model = VisionModel::new(&parameters).unwrap();
        let (batch, mut losses) = (batch(&golden, &[0, 1]), losses());
        golden.assert_trace(&mut parameters, |parameters, gradients| {
            model.train(parameters, &batch, &PLAIN, &mut losses, gradients).unwrap();
            losses.objective
        });
    }
}

#[test]
fn images_do_not_see_each_other() {
    let golden = Golden::open("vit");
    let parameters = golden.parameters(|_| false);
    let mut model = VisionModel::new(&parameters).unwrap();
    let mut scores =
        |images: &[usize]| model.classify(&parameters, &batch(&golden, images)).unwrap().to_vec();
    let apart = [scores(&[1]), scores(&[0]), scores(&[1])].concat();
    let apart: Vec<f64> = apart.into_iter().map(f64::from).collect();
    golden.assert_close(&scores(&[1, 0, 1]), &apart);
}

#[test]
fn checkpointing_and_threads_change_no_bit() {
    let settings = AdapterSettings {
        rank: 3,
        alpha: 6.0,
        rank_stabilised: false,
        decomposed: false,
        dropout: 0.2,
        seed: 9,
    };
    for name in ALL {
        let golden = Golden::open(name);
        let mut adapted = golden.parameters(|_| false);
        adapted.adapt(&settings, TensorSpec::is_adaptable).unwrap();
        for parameters in [golden.parameters(|_| true), adapted] {
            let run = |checkpointing, threads| {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
                pool.install(|| {
                    let training = Training { checkpointing, ..DROPPING };
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

#[test]
fn frozen_tensors_have_no_gradient_and_change_no_other() {
    let golden = Golden::open("vit");
    let all = gradients(&golden, &golden.parameters(|_| true), &PLAIN).0;
    let choices: [fn(&TensorSpec) -> bool; 4] = [
        |spec| spec.role == Role::PatchEmbedding,
        |spec| spec.role == Role::ClassEmbedding,
        |spec| spec.role == Role::Head,
        |spec| spec.layer == Some(1),
    ];
    for choice in choices {
        let parameters = golden.parameters(choice);
        let some = gradients(&golden, &parameters, &PLAIN).0;
        let chosen = parameters.iter().filter(|(_, parameter)| choice(parameter.spec().unwrap()));
        let expected: Vec<_> = chosen.map(|(id, _)| (id, all.get(id).unwrap())).collect();
        assert!(some.iter().collect::<Vec<_>>() == expected);
    }
}

#[test]
fn memory_is_as_predicted_and_stays() {
    for name in ALL {
        let golden = Golden::open(name);
        let parameters = golden.parameters(|_| true);
        let batch = batch(&golden, &[0, 1]);
        for keep in [Keep::Inputs, Keep::Everything] {
            let mut model = VisionModel::new(&parameters).unwrap();
            let (mut gradients, mut losses) = (Gradients::default(), losses());
            let training = Training { checkpointing: keep == Keep::Inputs, ..PLAIN };
            let mut step = |model: &mut VisionModel| {
                model.train(&parameters, &batch, &training, &mut losses, &mut gradients).unwrap();
                model.held_bytes()
            };
            let held = step(&mut model);
            let rows = if name == "vit" { 10 } else { 34 };
            let shape = BatchShape { rows, sequences: 2, keep, dropout: false };
            assert_eq!(held, model.activation_bytes(&parameters, &shape), "{name} {keep:?}");
            assert_eq!(step(&mut model), held);
        }
    }
}

#[test]
fn what_does_not_fit_is_an_error_before_anything_is_computed() {
    let golden = Golden::open("vit");
    let parameters = golden.parameters(|_| true);
    let mut model = VisionModel::new(&parameters).unwrap();
    let mut refused = |shape: [usize; 3], target, message: &str| {
        let (mut batch, mut gradients) = (ImageBatch::default(), Gradients::default());
        let pixels = vec![0.5; shape.iter().product()];
        batch.push(&Image { shape, pixels: &pixels, target, weight: 1.0, ..Image::default() });
        let error =
            model.train(&parameters, &batch, &PLAIN, &mut losses(), &mut gradients).unwrap_err().to_string();
        assert!(error.contains(message), "{error}");
        assert_eq!(gradients.iter().count(), 0);
    };
    refused(
        [3, 16, 8],
        Some(0),
        "image 0 has [3, 16, 8] channels, rows and columns, the model takes [3, 16, 16]",
    );
    refused([1, 16, 16], Some(0), "image 0 has [1, 16, 16]");
    refused([3, 16, 16], Some(3), "target 0 is 3, the head has 3 classes");
    refused([3, 16, 16], None, "the batch has 0 targets, the head gives 1 answers");
    let error = model.classify(&parameters, &ImageBatch::default()).unwrap_err();
    assert_eq!(error, ModelError::Batch(BatchError::Empty));
    let text = Golden::open("bert").parameters(|_| false);
    let error = VisionModel::new(&text).unwrap_err().to_string();
    assert_eq!(error, "a model of type `bert` does not classify images");
}

/// Of vit it is the class row after the last norm.
#[test]
fn features_are_the_inputs_of_the_classifier() {
    let golden = Golden::open("vit");
    let parameters = golden.parameters(|_| false);
    let mut model = VisionModel::new(&parameters).unwrap();
    let (width, batch) = (model.feature_width().unwrap(), batch(&golden, &[0, 1]));
    let mut features = Vec::new();
    let show = &mut |found: &mut [f32]| features.extend_from_slice(found);
    let scores = model.classify_through(&parameters, &batch, show).unwrap().to_vec();
    golden.assert_close(&scores, &golden.numbers("logits"));
    let rows = model.rows();
    let hidden = model.hidden(&parameters, &batch).unwrap().to_vec();
    let first: Vec<f32> =
        hidden.chunks_exact(rows * width).flat_map(|image| image[..width].to_vec()).collect();
    assert_eq!(features, first);
}
