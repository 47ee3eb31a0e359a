//! Runs any method on tensors in memory.

use std::sync::{Arc, Mutex};

use onefold_checkpoint::output::OutputTensor;
use onefold_checkpoint::tensor::{Elements, Stored};
use onefold_checkpoint::{CheckpointError, Dtype, Tensor, convert};
use onefold_merge::MergeError;
use onefold_merge::methods::{BaseRole, Method, find};
use onefold_merge::params::Value;
use onefold_merge::scan::{Operand, Scan, ScanOptions};
use onefold_merge::stream::{self, Merge, Planned, Sink, Statistics, Work};
use onefold_merge::task::{Task, Values};
use onefold_runtime::Stream;
use onefold_runtime::events::Silent;

/// An expert: how the recipe names it and its own parameters.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Expert {
    pub(crate) label: String,
    pub(crate) values: Values,
}

/// The inputs of one tensor.
#[derive(Debug, Clone)]
pub(crate) struct Input {
    pub(crate) name: String,
    pub(crate) layer: String,
    pub(crate) shape: Vec<usize>,
    pub(crate) base: Option<Vec<f32>>,
    pub(crate) experts: Vec<Vec<f32>>,
    pub(crate) repeats: bool,
    pub(crate) statistics: Vec<Statistic>,
}

/// What was measured on one expert's inputs.
#[derive(Debug, Clone)]
pub(crate) struct Statistic {
    pub(crate) shape: Vec<usize>,
    pub(crate) values: Vec<f32>,
}

impl Input {
    pub(crate) fn new(name: &str, shape: &[usize], base: Option<Vec<f32>>, experts: Vec<Vec<f32>>) -> Self {
        let (name, layer) = (name.to_owned(), name.to_owned());
        Self { name, layer, shape: shape.to_vec(), base, experts, repeats: false, statistics: Vec::new() }
    }

    /// Random weights: a base of standard deviation 1 and experts that differ from it by 0.1.
    pub(crate) fn random(seed: u64, shape: &[usize], k: usize) -> Self {
        let n = shape.iter().product();
        let base = normal(seed, "base", n);
        let expert = |i: usize| {
            let delta = normal(seed, &format!("expert {i}"), n);
            base.iter().zip(delta).map(|(b, d)| b + 0.1 * d).collect()
        };
        Self::new(&format!("w{seed}"), shape, Some(base.clone()), (0..k).map(expert).collect())
    }

    /// The task vectors as the product sees them: subtracted in f32.
    pub(crate) fn deltas(&self) -> Vec<Vec<f64>> {
        let base = self.base.clone().expect("task vectors need a base");
        let delta = |x: &Vec<f32>| x.iter().zip(&base).map(|(x, b)| f64::from(x - b)).collect();
        self.experts.iter().map(delta).collect()
    }
}

/// Numbers of a bell shape with standard deviation 1, the same on every machine.
pub(crate) fn normal(seed: u64, what: &str, n: usize) -> Vec<f32> {
    let mut numbers = vec![0; 4 * n];
    Stream::new(seed, "test", what).fill(0, &mut numbers);
    let unit = |r: &u32| f64::from(*r) / f64::from(u32::MAX) - 0.5;
    numbers.chunks(4).map(|four| (four.iter().map(unit).sum::<f64>() * 3f64.sqrt()) as f32).collect()
}

/// A merge.
#[derive(Debug, Clone)]
pub(crate) struct Job {
    pub(crate) method: &'static Method,
    pub(crate) global: Values,
    pub(crate) experts: Vec<Expert>,
    pub(crate) inputs: Vec<Input>,
    pub(crate) seed: u64,
    pub(crate) options: ScanOptions,
    pub(crate) dtype: Dtype,
}

/// Why there is no result.
#[derive(Debug)]
#[allow(dead_code, reason = "the contents are for messages of failing tests")]
pub(crate) enum Failure {
    /// The parameters were refused.
    Build(String),
    /// The run ended.
    Run(MergeError),
}

/// A finished merge.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Outcome {
    pub(crate) bytes: Vec<Vec<u8>>,
    pub(crate) notes: Vec<String>,
    pub(crate) statistics: Vec<Option<Statistics>>,
}

impl Outcome {
    /// The values of a tensor written as f32.
    pub(crate) fn values(&self, tensor: usize) -> Vec<f32> {
        let mut out = vec![0.0; self.bytes[tensor].len() / 4];
        convert::widen(Dtype::F32, &self.bytes[tensor], &mut out);
        out
    }

    pub(crate) fn coefficients(&self, tensor: usize) -> Option<Vec<f64>> {
        self.statistics[tensor].as_ref().and_then(|s| s.coefficients.clone())
    }
}

impl Job {
    /// A job with the method's defaults and no parameter.
    pub(crate) fn new(method: &str, inputs: Vec<Input>) -> Self {
        let k = inputs[0].experts.len();
        let expert = |i: usize| Expert { label: format!("model {i}"), values: Values::new() };
        Self {
            method: find(method).unwrap_or_else(|| panic!("no method `{method}`")),
            global: Values::new(),
            experts: (0..k).map(expert).collect(),
            inputs,
            seed: 7,
            options: ScanOptions::default(),
            dtype: Dtype::F32,
        }
    }

    /// With a parameter for all models.
    pub(crate) fn with(mut self, name: &str, value: impl Into<Setting>) -> Self {
        self.global.insert(self.key(name), value.into().0);
        self
    }

    /// With a parameter of each model.
    pub(crate) fn each(mut self, name: &str, values: &[f64]) -> Self {
        assert_eq!(values.len(), self.experts.len());
        let key = self.key(name);
        for (expert, value) in self.experts.iter_mut().zip(values) {
            expert.values.insert(key, Value::Number(*value));
        }
        self
    }

    fn key(&self, name: &str) -> &'static str {
        self.method.param(name).unwrap_or_else(|| panic!("{} has no `{name}`", self.method.name)).name
    }

    pub(crate) fn plan(&self) -> Result<Vec<Planned>, String> {
        self.inputs.iter().map(|input| self.planned(input)).collect()
    }

    fn planned(&self, input: &Input) -> Result<Planned, String> {
        let operand = |(expert, values): (&Expert, &Vec<f32>)| operand(&expert.label, &input.shape, values);
        let mut operands: Vec<Operand> = self.experts.iter().zip(&input.experts).map(operand).collect();
        let mut models: Vec<Values> = self.experts.iter().map(|e| e.values.clone()).collect();
        let mut base = input.base.as_ref().map(|b| self::operand("base", &input.shape, b));
        match self.method.base {
            BaseRole::Donor => base = None,
            BaseRole::Operand | BaseRole::OptionalOperand => {
                if let Some(base) = base.take() {
                    operands.insert(0, base);
                    models.insert(0, Values::new());
                }
            }
            BaseRole::Origin => assert!(base.is_some(), "{} needs a base", self.method.name),
            BaseRole::OptionalOrigin => {}
        }
        let (name, shape) = (input.name.clone(), input.shape.clone());
        let options = self.options;
        let scan =
            Scan { name, shape, origin: base, operands, statistics: Vec::new(), deltas: false, options };
        let of = |s: &Statistic| self::operand("", &s.shape, &s.values).tensor;
        let statistics = input.statistics.iter().map(of).collect();
        let global = self.global.clone();
        let task = Task { scan, global, models, statistics, seed: self.seed };
        let merge = Merge::new(self.method, task)?;
        Ok(planned(input, self.dtype, Work::Merge(merge)))
    }

    pub(crate) fn run(&self) -> Result<Outcome, Failure> {
        let plan = self.plan().map_err(Failure::Build)?;
        run(&plan, &vec![None; plan.len()], Memory::new(&plan)).map_err(Failure::Run)
    }

    /// Runs a job that must succeed.
    pub(crate) fn done(&self) -> Outcome {
        self.run().unwrap_or_else(|e| panic!("{}: {e:?}", self.method.name))
    }

    /// The merged values of the first tensor.
    pub(crate) fn values(&self) -> Vec<f32> {
        self.done().values(0)
    }
}

/// A parameter's value from what a test writes.
pub(crate) struct Setting(Value);

impl From<f64> for Setting {
    fn from(number: f64) -> Self {
        Self(Value::Number(number))
    }
}
impl From<bool> for Setting {
    fn from(flag: bool) -> Self {
        Self(Value::Flag(flag))
    }
}
impl From<&str> for Setting {
    fn from(word: &str) -> Self {
        Self(Value::Text(word.to_owned()))
    }
}
impl From<Value> for Setting {
    fn from(value: Value) -> Self {
        Self(value)
    }
}

pub(crate) fn planned(input: &Input, dtype: Dtype, work: Work) -> Planned {
    let output = OutputTensor { name: input.name.clone(), dtype, shape: input.shape.clone() };
    Planned { output, work, layer: input.layer.clone(), repeats: input.repeats }
}

/// Runs a plan into memory, from a given state.
pub(crate) fn run(
    plan: &[Planned],
    finished: &[Option<String>],
    sink: Memory,
) -> Result<Outcome, MergeError> {
    let statistics = stream::run(plan, finished, &sink, &Silent)?;
    let tensors = sink.0.into_iter().map(|t| t.into_inner().expect("no panic")).collect::<Vec<_>>();
    for (tensor, planned) in tensors.iter().zip(plan) {
        let once = tensor.written.iter().all(|count| *count == 1);
        assert!(once && tensor.finished == 1, "{}: every byte once, then finished", planned.output.name);
    }
    let (bytes, notes) = tensors.into_iter().map(|t| (t.bytes, t.note)).unzip();
    Ok(Outcome { bytes, notes, statistics })
}

/// A sink that keeps everything.
#[derive(Debug)]
pub(crate) struct Memory(Vec<Mutex<Written>>);

#[derive(Debug, Clone)]
struct Written {
    bytes: Vec<u8>,
    /// How often each byte was written.
    written: Vec<u8>,
    finished: u8,
    note: String,
}

impl Memory {
    pub(crate) fn new(plan: &[Planned]) -> Self {
        let size = |p: &Planned| p.output.shape.iter().product::<usize>() * p.output.dtype.size();
        // 0xff is NaN: what is not written does not look like a result.
        let empty = |n: usize| Written {
            bytes: vec![0xff; n],
            written: vec![0; n],
            finished: 0,
            note: String::new(),
        };
        Self(plan.iter().map(|p| Mutex::new(empty(size(p)))).collect())
    }

    /// As an earlier run left it: `finished` tensors are complete.
    pub(crate) fn resumed(plan: &[Planned], finished: &[Option<String>], earlier: &Outcome) -> Self {
        let mut memory = Self::new(plan);
        for (i, note) in finished.iter().enumerate() {
            if let Some(note) = note {
                let bytes = earlier.bytes[i].clone();
                let written = vec![1; bytes.len()];
                memory.0[i] = Mutex::new(Written { bytes, written, finished: 1, note: note.clone() });
            }
        }
        memory
    }
}

impl Sink for Memory {
    fn write(&self, tensor: usize, offset: u64, bytes: &[u8]) -> Result<(), CheckpointError> {
        let mut guard = self.0[tensor].lock().expect("no panic");
        let range = offset as usize..offset as usize + bytes.len();
        guard.bytes[range.clone()].copy_from_slice(bytes);
        guard.written[range].iter_mut().for_each(|count| *count += 1);
        Ok(())
    }

    fn finish(&self, tensor: usize, note: &str) -> Result<(), CheckpointError> {
        let mut guard = self.0[tensor].lock().expect("no panic");
        guard.finished += 1;
        note.clone_into(&mut guard.note);
        Ok(())
    }
}

#[derive(Debug)]
struct InMemory {
    values: Vec<f32>,
    bytes: Vec<u8>,
}

impl Elements for InMemory {
    fn read(&self, start: usize, out: &mut [f32]) {
        out.copy_from_slice(&self.values[start..start + out.len()]);
    }

    fn stored(&self) -> Option<Stored<'_>> {
        Some(Stored { dtype: Dtype::F32, bytes: &self.bytes })
    }
}

/// A tensor with these values.
pub(crate) fn operand(model: &str, shape: &[usize], values: &[f32]) -> Operand {
    assert_eq!(values.len(), shape.iter().product::<usize>(), "{model} {shape:?}");
    let bytes = values.iter().flat_map(|v| v.to_le_bytes()).collect();
    let elements = Arc::new(InMemory { values: values.to_vec(), bytes });
    Operand { model: model.to_owned(), tensor: Tensor::new(Dtype::F32, shape.to_vec(), elements) }
}

pub(crate) fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|v| v.to_bits()).collect()
}

/// Fails unless `found` is `expected` within `tolerance` of the largest magnitude among `expected` and `scale`.
pub(crate) fn close(what: &str, found: &[f32], expected: &[f64], scale: f64, tolerance: f64) {
    assert_eq!(found.len(), expected.len(), "{what}: length");
    let scale = expected.iter().fold(scale, |s, v| s.max(v.abs()));
    for (i, (f, e)) in found.iter().zip(expected).enumerate() {
        let off = (f64::from(*f) - e).abs();
        assert!(off <= tolerance * scale, "{what}: element {i} is {f}, expected {e} (scale {scale})");
    }
}

/// The largest magnitude.
pub(crate) fn largest(values: &[f32]) -> f64 {
    values.iter().fold(0.0, |s, v| s.max(f64::from(v.abs())))
}
