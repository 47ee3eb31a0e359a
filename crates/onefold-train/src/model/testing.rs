//! What tests of models share: the goldens of `testdata/families`, and training steps on them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use onefold_checkpoint::convert::{narrow, widen};
use onefold_checkpoint::output::{Layout, Opened, Output, OutputTensor};
use onefold_checkpoint::{Checkpoint, Dtype, Tensor};
use onefold_engine::Buffer;
use onefold_engine::cpu::loss::{Losses, Objective};
use onefold_engine::cpu::optimizer::AdamW;
use serde_json::{Map, Value};

use super::{Gradients, Parameters, Training};
use crate::config::ModelConfig;
use crate::families::TensorSpec;
use crate::json::read_object;

pub(crate) const PLAIN: Training =
    Training { objective: Objective::CROSS_ENTROPY, checkpointing: false, coins: None };

/// A variant of a family with what transformers computes on it.
pub(crate) struct Golden {
    pub(crate) name: String,
    pub(crate) config: ModelConfig,
    pub(crate) checkpoint: Checkpoint,
    values: Map<String, Value>,
}

pub(crate) fn testdata() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../testdata/families"))
}

impl Golden {
    pub(crate) fn open(name: &str) -> Self {
        let dir = testdata().join(name);
        let values = read_object(&dir.join("golden.json")).unwrap();
        let checkpoint = Checkpoint::open(&testdata().join(values["weights"].as_str().unwrap())).unwrap();
        Self { name: name.to_owned(), config: ModelConfig::open(&dir).unwrap(), checkpoint, values }
    }

    pub(crate) fn parameters(&self, trainable: impl Fn(&TensorSpec) -> bool + Sync) -> Parameters {
        Parameters::load(&self.config, &self.checkpoint, trainable).unwrap()
    }

    /// All numbers of a value, however deeply nested.
    pub(crate) fn numbers(&self, key: &str) -> Vec<f64> {
        let mut numbers = Vec::new();
        flatten(&self.values[key], &mut numbers);
        numbers
    }

    /// Rows of a matrix of inputs.
    pub(crate) fn input(&self, key: &str) -> Option<Vec<Vec<f64>>> {
        let rows = self.values["inputs"].get(key)?.as_array().unwrap();
        let row = |row: &Value| {
            let mut numbers = Vec::new();
            flatten(row, &mut numbers);
            numbers
        };
        Some(rows.iter().map(row).collect())
    }

    #[track_caller]
    pub(crate) fn assert_close(&self, found: &[f32], expected: &[f64]) {
        assert_eq!(found.len(), expected.len(), "{}", self.name);
        for (i, (found, expected)) in found.iter().zip(expected).enumerate() {
            let off = (f64::from(*found) - expected).abs();
            assert!(off < 2e-5 * expected.abs().max(1.0), "{} [{i}]: {found} {expected}", self.name);
        }
    }

    /// Losses after each step, in the order of the trace.
    pub(crate) fn assert_trace(
        &self,
        parameters: &mut Parameters,
        mut step: impl FnMut(&Parameters, &mut Gradients) -> f64,
    ) {
        let expected = self.numbers("trace");
        let (mut gradients, mut state) = (Gradients::default(), Vec::new());
        for (i, expected) in expected.iter().enumerate() {
            gradients.begin();
            let loss = step(parameters, &mut gradients);
            assert!(
                (loss - expected).abs() < 2e-4 * expected.abs().max(0.1),
                "{} {i}: {loss} {expected}",
                self.name
            );
            adamw(parameters, &gradients, &mut state, i as u64 + 1);
        }
    }

    /// Every parameter's gradient: norm and samples.
    pub(crate) fn assert_gradients(&self, parameters: &Parameters, gradients: &Gradients) {
        let expected = self.values["gradients"].as_object().unwrap();
        let mut seen = 0;
        for (id, parameter) in parameters.iter() {
            let (name, record) = (&parameter.name, &expected[&parameter.name]);
            let found =
                gradients.get(id).unwrap_or_else(|| panic!("{}: no gradient of {name}", self.name)).to_vec();
            let (mut samples, norm) = (Vec::new(), record["norm"].as_f64().unwrap());
            flatten(&record["samples"], &mut samples);
            let size = found.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>().sqrt();
            assert!((size - norm).abs() <= 1e-4 * norm + 1e-7, "{} {name}: {size} {norm}", self.name);
            for (i, sample) in samples.iter().enumerate() {
                let found = f64::from(found[i * found.len() / samples.len()]);
                let most = 1e-4 * norm / (parameter.len() as f64).sqrt() + 2e-4 * sample.abs() + 1e-7;
                assert!((found - sample).abs() <= most, "{} {name}[{i}]: {found} {sample}", self.name);
            }
            seen += 1;
        }
        assert_eq!(seen, expected.len());
    }
}

fn flatten(value: &Value, out: &mut Vec<f64>) {
    match value {
        Value::Array(values) => values.iter().for_each(|value| flatten(value, out)),
        value => out.push(value.as_f64().unwrap()),
    }
}

/// Type, shape and bytes of tensors by name.
pub(crate) type Stored = BTreeMap<String, (Dtype, Vec<usize>, Vec<u8>)>;

pub(crate) fn stored(checkpoint: &Checkpoint) -> Stored {
    let tensor = |(name, tensor): (&String, &Tensor)| {
        let mut bytes = vec![0; tensor.bytes()];
        assert!(tensor.read_bytes(0, &mut bytes));
        (name.clone(), (tensor.dtype, tensor.shape.clone(), bytes))
    };
    checkpoint.tensors().iter().map(tensor).collect()
}

/// A checkpoint of these tensors.
pub(crate) fn write(dir: &Path, tensors: &Stored) -> Checkpoint {
    let of = |(name, (dtype, shape, _)): (&String, &(Dtype, Vec<usize>, Vec<u8>))| OutputTensor {
        name: name.clone(),
        dtype: *dtype,
        shape: shape.clone(),
    };
    let layout = Layout::new(tensors.iter().map(of).collect(), 1 << 30);
    let Opened { output, .. } = Output::create(dir, layout, "job", &[], true).unwrap();
    for (index, (_, _, bytes)) in tensors.values().enumerate() {
        output.write(index, 0, bytes).unwrap();
        output.finish(index, "").unwrap();
    }
    output.commit(Some(b"{}")).unwrap();
    Checkpoint::open(dir).unwrap()
}

/// All tensors in another type.
pub(crate) fn converted(tensors: &Stored, to: Dtype) -> Stored {
    let convert = |(name, (dtype, shape, bytes)): (&String, &(Dtype, Vec<usize>, Vec<u8>))| {
        let mut values = vec![0.0; bytes.len() / dtype.size()];
        widen(*dtype, bytes, &mut values);
        let mut bytes = vec![0; values.len() * to.size()];
        narrow(to, &values, &mut bytes);
        if to == Dtype::F64 {
            // What f32 cannot hold.
            bytes.iter_mut().step_by(8).for_each(|byte| *byte ^= 5);
        }
        (name.clone(), (to, shape.clone(), bytes))
    };
    tensors.iter().map(convert).collect()
}

/// One step with PyTorch's defaults and the goldens' decay.
pub(crate) fn adamw(
    parameters: &mut Parameters,
    gradients: &Gradients,
    state: &mut Vec<(Buffer, Buffer)>,
    step: u64,
) {
    let lens: Vec<usize> = parameters.iter().map(|(_, parameter)| parameter.len()).collect();
    state.resize_with(lens.len(), Default::default);
    for (id, gradient) in gradients.iter() {
        let (mean, square) = &mut state[id.index()];
        mean.resize(lens[id.index()]);
        square.resize(lens[id.index()]);
        let value = parameters.value_mut(id).expect("what has a gradient is trainable");
        AdamW { weight_decay: 0.01, ..AdamW::default() }.step(step, 1.0, value, gradient, mean, square);
    }
}

/// The bits of every gradient.
pub(crate) fn bits(gradients: &Gradients) -> Vec<(usize, Vec<u32>)> {
    let bits = |buffer: &Buffer| buffer.to_vec().into_iter().map(f32::to_bits).collect();
    gradients.iter().map(|(id, buffer)| (id.index(), bits(buffer))).collect()
}

pub(crate) fn losses() -> Losses {
    Losses::new(1)
}
