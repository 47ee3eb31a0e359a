//! From numbers in memory to a checkpoint.
//!
//! Names, types and shapes are those of the checkpoint that was loaded. What is frozen, or not part of the computation, is
//! copied byte for byte; what was trained is rounded once.

use std::collections::BTreeMap;
use std::path::PathBuf;

use onefold_checkpoint::convert::{largest_finite, narrow, widen};
use onefold_checkpoint::output::{Output, OutputTensor};
use onefold_checkpoint::{CheckpointError, Dtype, Tensor};
use onefold_engine::Buffer;
use rayon::prelude::*;

use super::heads::is_head;
use super::{Kept, Origin, ParameterId, Parameters, Value};
use crate::families::Half;

/// Elements that are converted at a time.
const PIECE: usize = 1 << 18;

/// Weights that cannot be written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SaveError {
    /// The system refused.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// A `config.json` that cannot be edited.
    #[error("{path}: no JSON object: {source}", path = path.display())]
    Config {
        /// The file.
        path: PathBuf,
        /// Why.
        source: serde_json::Error,
    },
    /// A task without a head of its own.
    #[error("task {task} has no head to be saved; add it to the parameters")]
    NoTaskHead {
        /// The task.
        task: u32,
    },
    /// There is no adapter.
    #[error("no weight of the model has an adapter; make adapters before training, or save the model itself")]
    NoAdapter,
    /// Adapters that one `adapter_config.json` cannot describe.
    #[error(
        "`{first}` and `{second}` have adapters that differ in more than rank and alpha, which PEFT cannot put in one          directory; train them with the same variant and dropout"
    )]
    MixedAdapters {
        /// A module.
        first: String,
        /// Another.
        second: String,
    },
    /// Something was trained that an adapter directory cannot hold.
    #[error(
        "`{tensor}` was trained and cannot be part of a PEFT adapter: {why}; freeze it, or save the model itself"
    )]
    NotInAdapter {
        /// The tensor.
        tensor: String,
        /// Why not.
        why: &'static str,
    },
    /// Training went astray.
    #[error(
        "tensor `{tensor}`: element {position} is {value}, which {dtype} cannot hold; lower the learning rate, or train a \
         checkpoint that is stored as bfloat16 or float32"
    )]
    Unstorable {
        /// The tensor.
        tensor: String,
        /// Which element.
        position: usize,
        /// Its value.
        value: f32,
        /// The type in which it is stored.
        dtype: Dtype,
    },
}

/// What a tensor of the output is made of.
#[derive(Clone, Copy)]
pub(super) enum Source<'a> {
    Stored(&'a Tensor),
    Trained(&'a Buffer, &'a Tensor),
    /// Of a head that was added.
    Added(&'a Buffer, Dtype, &'a [usize]),
}

impl Parameters {
    /// The tensors of the model's checkpoint, by name: what an output is laid out for.
    pub fn output_tensors(&self) -> Vec<OutputTensor> {
        laid_out(self.sources())
    }

    /// The tensors of the trunk with the head of a task, by the names of its family; none without such a head.
    pub fn task_tensors(&self, task: u32) -> Option<Vec<OutputTensor>> {
        self.task_sources(task).map(laid_out)
    }

    /// Writes all tensors. The layout of `output` is that of [`Parameters::output_tensors`]. Adapters are not part of it.
    ///
    /// # Errors
    /// If the system refuses, or a number does not fit the type in which it is stored.
    ///
    /// # Panics
    /// If the layout is another.
    pub fn write(&self, output: &Output) -> Result<(), SaveError> {
        write(self.sources(), output)
    }

    /// Writes the trunk with the head of a task. The layout of `output` is that of [`Parameters::task_tensors`].
    ///
    /// # Errors
    /// If the system refuses, or a number does not fit the type in which it is stored.
    ///
    /// # Panics
    /// If the layout is another, or the task has no head.
    pub fn write_task(&self, task: u32, output: &Output) -> Result<(), SaveError> {
        write(self.task_sources(task).expect("the task has a head"), output)
    }

    /// The trunk, and the head of a task, under the names of the family.
    fn task_sources(&self, task: u32) -> Option<Vec<(String, Source<'_>)>> {
        self.heads.get(&task)?;
        let mut sources = BTreeMap::new();
        for (name, kept) in &self.kept {
            if let (Some(name), Kept::AsStored(tensor)) = (self.trunk_name(name), kept) {
                sources.insert(name, Source::Stored(tensor));
            }
        }
        for (index, entry) in self.entries.iter().enumerate() {
            let Some(spec) = entry.spec() else { continue };
            match &entry.origin {
                Origin::Head { dtype, .. } if spec.half == Half::Task(task) => {
                    let values = self.full(ParameterId(index));
                    sources.insert(spec.name.clone(), Source::Added(values, *dtype, &entry.shape));
                }
                Origin::Stored { .. } if !is_head(spec) => {
                    sources.insert(spec.name.clone(), self.source(ParameterId(index))?);
                }
                _ => {}
            }
        }
        Some(sources.into_iter().collect())
    }

    /// Every tensor of the checkpoint with its name, in the order of names.
    fn sources(&self) -> Vec<(String, Source<'_>)> {
        let parameters = (0..self.entries.len())
            .filter_map(|index| Some((self.entries[index].name.clone(), self.source(ParameterId(index))?)));
        let kept = self.kept.iter().map(|(name, kept)| match kept {
            Kept::AsStored(tensor) => (name.clone(), Source::Stored(tensor)),
            Kept::Tied(id) => (name.clone(), self.source(*id).expect("tied to a stored tensor")),
        });
        let mut sources: Vec<_> = parameters.chain(kept).collect();
        sources.sort_by(|(a, _), (b, _)| a.cmp(b));
        sources
    }

    fn source(&self, id: ParameterId) -> Option<Source<'_>> {
        let Origin::Stored { tensor, .. } = &self[id].origin else { return None };
        Some(match &self[id].value {
            Value::Trainable(values) => Source::Trained(values, tensor),
            Value::Frozen(_) | Value::Half(_) => Source::Stored(tensor),
        })
    }
}

pub(super) fn laid_out(sources: Vec<(String, Source<'_>)>) -> Vec<OutputTensor> {
    let tensor = |(name, source)| {
        let (dtype, shape) = match source {
            Source::Stored(tensor) | Source::Trained(_, tensor) => (tensor.dtype, tensor.shape.clone()),
            Source::Added(_, dtype, shape) => (dtype, shape.to_vec()),
        };
        OutputTensor { name, dtype, shape }
    };
    sources.into_iter().map(tensor).collect()
}

pub(super) fn write(sources: Vec<(String, Source<'_>)>, output: &Output) -> Result<(), SaveError> {
    let layout = output.layout().tensors().iter().map(|tensor| &tensor.name);
    assert!(layout.eq(sources.iter().map(|(name, _)| name)), "the output is laid out for these tensors");
    sources.into_par_iter().enumerate().try_for_each(|(index, (name, source))| {
        match source {
            Source::Stored(tensor) => copy(output, index, tensor)?,
            Source::Trained(values, tensor) => {
                round(output, (index, &name), values, tensor.dtype, Some(tensor))?;
            }
            Source::Added(values, dtype, _) => round(output, (index, &name), values, dtype, None)?,
        }
        Ok(output.finish(index, "")?)
    })
}

/// Calls `each(first element, number of elements)` for all pieces.
fn pieces<E>(len: usize, mut each: impl FnMut(usize, usize) -> Result<(), E>) -> Result<(), E> {
    (0..len).step_by(PIECE).try_for_each(|start| each(start, PIECE.min(len - start)))
}

fn copy(output: &Output, index: usize, tensor: &Tensor) -> Result<(), SaveError> {
    let size = tensor.dtype.size();
    let mut bytes = vec![0; PIECE.min(tensor.len()) * size];
    pieces(tensor.len(), |start, len| {
        let bytes = &mut bytes[..len * size];
        if !tensor.read_bytes(start, bytes) {
            let mut values = vec![0.0; len];
            tensor.read(start, &mut values);
            narrow(tensor.dtype, &values, bytes);
        }
        Ok(output.write(index, (start * size) as u64, bytes)?)
    })
}

fn round(
    output: &Output,
    (index, name): (usize, &str),
    values: &Buffer,
    dtype: Dtype,
    before: Option<&Tensor>,
) -> Result<(), SaveError> {
    let (size, largest) = (dtype.size(), largest_finite(dtype));
    let most = PIECE.min(values.len());
    let (mut numbers, mut bytes) = (vec![0.0f32; most], vec![0; most * size]);
    pieces(values.len(), |start, len| {
        let (numbers, bytes) = (&mut numbers[..len], &mut bytes[..len * size]);
        values.read(start, numbers);
        if let Some(at) = numbers.iter().position(|v| !v.is_finite() || v.abs() > largest) {
            let (tensor, position, value) = (name.to_owned(), start + at, numbers[at]);
            return Err(SaveError::Unstorable { tensor, position, value, dtype });
        }
        narrow(dtype, numbers, bytes);
        if let Some(tensor) = before.filter(|_| dtype == Dtype::F64) {
            keep_unchanged(tensor, start, numbers, bytes);
        }
        Ok(output.write(index, (start * size) as u64, bytes)?)
    })
}

/// Numbers of 64 bits were rounded when they were read: where training has not changed them, they are written as they were.
fn keep_unchanged(tensor: &Tensor, start: usize, numbers: &[f32], bytes: &mut [u8]) {
    const SIZE: usize = size_of::<f64>();
    let mut stored = vec![0; bytes.len()];
    if !tensor.read_bytes(start, &mut stored) {
        return;
    }
    let mut before = vec![0.0; numbers.len()];
    widen(Dtype::F64, &stored, &mut before);
    for (at, (now, before)) in numbers.iter().zip(&before).enumerate() {
        if now.to_bits() == before.to_bits() {
            bytes[at * SIZE..][..SIZE].copy_from_slice(&stored[at * SIZE..][..SIZE]);
        }
    }
}
