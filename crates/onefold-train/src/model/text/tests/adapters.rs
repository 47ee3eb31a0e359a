use onefold_checkpoint::Dtype;
use onefold_engine::Weight;

use super::*;
use crate::model::testing::{converted, stored, write};
use crate::model::{Factor, Origin};

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
