//! From a checkpoint to numbers in memory.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use onefold_checkpoint::names::Name;
use onefold_checkpoint::{Checkpoint, CheckpointError, Dtype, Tensor};
use onefold_engine::{Buffer, Half as HalfWeight, HalfBits, HalfDtype};
use rayon::prelude::*;

use super::heads::HeadError;
use super::{Kept, Origin, Parameter, ParameterId, Parameters, Part, Value};
use crate::config::{ConfigError, ModelConfig};
use crate::families::{FamilyError, Role, TensorSpec, find, tied};

/// A checkpoint that cannot be run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ParametersError {
    /// A configuration that cannot be run.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// Files of weights that cannot be read.
    #[error("{}", lines(.0))]
    Checkpoint(Vec<CheckpointError>),
    /// Tensors are missing or misshapen.
    #[error(transparent)]
    Family(#[from] FamilyError),
    /// A head of a task cannot be added.
    #[error(transparent)]
    Head(#[from] HeadError),
    /// Tensors of a type that has no arithmetic.
    #[error(
        "{dir}: the model computes with {tensors}, which are not stored as floating-point numbers; convert the checkpoint \
         to bfloat16 or float32", dir = dir.display(), tensors = tensors.join(", ")
    )]
    NotFloat {
        /// The model's directory.
        dir: PathBuf,
        /// Name and type of each.
        tensors: Vec<String>,
    },
    /// Numbers that are none.
    #[error(
        "{dir}: NaN or infinity in {tensors}; the checkpoint is damaged or was saved from a run that diverged",
        dir = dir.display(), tensors = tensors.join(", ")
    )]
    NonFinite {
        /// The model's directory.
        dir: PathBuf,
        /// Name of each, and where the first such number is.
        tensors: Vec<String>,
    },
}

/// One problem a line.
fn lines(problems: &[CheckpointError]) -> String {
    problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}

impl Parameters {
    /// The model in `dir`, as its `config.json` describes it. Tensors for which `trainable` holds get gradients.
    ///
    /// # Errors
    /// If the configuration is of no model that can be run, or all that is wrong with the weights.
    pub fn open(dir: &Path, trainable: impl Fn(&TensorSpec) -> bool + Sync) -> Result<Self, ParametersError> {
        let config = ModelConfig::open(dir)?;
        let checkpoint = Checkpoint::open(dir).map_err(ParametersError::Checkpoint)?;
        Self::load(&config, &checkpoint, trainable)
    }

    /// The tensors of the model that `config` describes. Those for which `trainable` holds get gradients.
    ///
    /// # Errors
    /// All tensors that are missing or misshapen, or else all that are no numbers.
    pub fn load(
        config: &ModelConfig,
        checkpoint: &Checkpoint,
        trainable: impl Fn(&TensorSpec) -> bool + Sync,
    ) -> Result<Self, ParametersError> {
        let dir = checkpoint.dir();
        let stored = checkpoint.tensors();
        let found = find(config, stored, dir)?;
        let not_float = found.tensors.iter().filter(|(_, name)| !stored[name].dtype.is_float());
        let not_float: Vec<_> =
            not_float.map(|(_, name)| format!("`{name}` ({})", stored[name].dtype)).collect();
        if !not_float.is_empty() {
            return Err(ParametersError::NotFloat { dir: dir.to_owned(), tensors: not_float });
        }
        let read = |(spec, name): (TensorSpec, String)| {
            let tensor = &stored[&name];
            let value =
                read(&spec, tensor, trainable(&spec)).map_err(|at| format!("`{name}` (element {at})"))?;
            let origin = Origin::Stored { spec, tensor: tensor.clone() };
            Ok(Parameter { name, shape: tensor.shape.clone(), origin, value })
        };
        let entries = collect(found.tensors.into_par_iter().map(read).collect(), dir)?;
        let mut parameters = Self::of(config.clone(), entries);
        parameters.notes.extend(beyond(&found.unused));
        for name in found.unused {
            let kept = parameters.keep(&name, &stored[&name]);
            parameters.kept.push((name, kept));
        }
        Ok(parameters)
    }

    fn of(config: ModelConfig, entries: Vec<Parameter>) -> Self {
        let place = |(index, entry): (usize, &Parameter)| {
            entry.spec().map(|spec| ((spec.half, spec.layer, spec.role, spec.part), ParameterId(index)))
        };
        let places = entries.iter().enumerate().filter_map(place).collect();
        let (adapters, heads) = Default::default();
        Self { config, entries, places, adapters, heads, kept: Vec::new(), notes: Vec::new() }
    }

    /// What becomes of a tensor that the model has no role for.
    fn keep(&mut self, name: &str, tensor: &Tensor) -> Kept {
        let tied = tied(&self.config, name);
        let original = tied.and_then(|(role, part)| self.find(Default::default(), None, role, part));
        let Some(id) = original else { return Kept::AsStored(tensor.clone()) };
        let Origin::Stored { tensor: original, .. } = &self[id].origin else {
            unreachable!("what is found by its role is stored")
        };
        if !same(original, tensor) {
            let original = &self[id].name;
            self.notes.push(format!(
                "`{name}` differs from `{original}`, to which config.json ties it (`tie_word_embeddings`): `{original}` is \
                 used for both, and written for both"
            ));
        }
        Kept::Tied(id)
    }
}

/// What is said of tensors of layers that the configuration does not have.
fn beyond(unused: &[String]) -> Option<String> {
    let mut layers = unused.iter().filter(|name| Name::parse(name).layer.is_some());
    let first = layers.next()?;
    let more = layers.count();
    let others = if more > 0 { format!(" and {more} more") } else { String::new() };
    Some(format!(
        "`{first}`{others} stand in layers, and are no tensors of the model that config.json describes: they are not computed with"
    ))
}

fn same(a: &Tensor, b: &Tensor) -> bool {
    a.same_storage(b)
        || (a.dtype == b.dtype
            && a.shape == b.shape
            && a.stored().zip(b.stored()).is_some_and(|(a, b)| a.bytes == b.bytes))
}

/// All that was read, or all that could not be.
fn collect(read: Vec<Result<Parameter, String>>, dir: &Path) -> Result<Vec<Parameter>, ParametersError> {
    let (mut entries, mut tensors) = (Vec::new(), Vec::new());
    for entry in read {
        match entry {
            Ok(entry) => entries.push(entry),
            Err(problem) => tensors.push(problem),
        }
    }
    if tensors.is_empty() {
        return Ok(entries);
    }
    Err(ParametersError::NonFinite { dir: dir.to_owned(), tensors })
}

/// The numbers of a tensor, or where the first is that is none.
fn read(spec: &TensorSpec, tensor: &Tensor, trainable: bool) -> Result<Value, usize> {
    if let Some(half) = half(spec, tensor).filter(|_| !trainable) {
        return match first_non_finite(half.dtype, half.source.bits()) {
            Some(at) => Err(at),
            None => Ok(Value::Half(half)),
        };
    }
    let values = finite(tensor)?;
    Ok(if trainable { Value::Trainable(values) } else { Value::Frozen(values) })
}

/// The numbers of a tensor in f32, or where the first is that is none.
///
/// # Errors
/// That place.
pub(crate) fn finite(tensor: &Tensor) -> Result<Buffer, usize> {
    // Piece by piece: a second copy of a model would be the peak of its memory.
    const PIECE: usize = 1 << 16;
    let mut values = Buffer::zeros(tensor.len());
    let mut piece = vec![0.0; PIECE.min(tensor.len())];
    for start in (0..tensor.len()).step_by(PIECE) {
        let piece = &mut piece[..PIECE.min(tensor.len() - start)];
        tensor.read(start, piece);
        if let Some(at) = piece.iter().position(|value| !value.is_finite()) {
            return Err(start + at);
        }
        values.write(start, piece);
    }
    Ok(values)
}

/// The tensor as it is stored, if operators can take it so: matrices do, vectors and vision's positions do not.
fn half(spec: &TensorSpec, tensor: &Tensor) -> Option<HalfWeight> {
    use Role::{
        AttentionOutput, Down, Gate, GateUp, Head, HeadDense, Key, PatchEmbedding, Pooler, Projection, Query,
        QueryKeyValue, TokenEmbedding, Up, Value,
    };
    let matrices = [
        TokenEmbedding,
        PatchEmbedding,
        Query,
        Key,
        Value,
        QueryKeyValue,
        AttentionOutput,
        Gate,
        Up,
        GateUp,
        Down,
        Pooler,
        HeadDense,
        Head,
        Projection,
    ];
    let dtype = match tensor.dtype {
        Dtype::BF16 => HalfDtype::Bf16,
        Dtype::F16 => HalfDtype::F16,
        _ => return None,
    };
    if spec.part == Part::Bias || !matrices.contains(&spec.role) || cfg!(target_endian = "big") {
        return None;
    }
    let bits = StoredBits(tensor.clone());
    bits.slice().map(|_| ())?;
    Some(HalfWeight { dtype, source: Arc::new(bits) })
}

fn first_non_finite(dtype: HalfDtype, bits: &[u16]) -> Option<usize> {
    // All bits of the exponent.
    let exponent = match dtype {
        HalfDtype::Bf16 => 0x7f80,
        HalfDtype::F16 => 0x7c00,
    };
    bits.iter().position(|bits| bits & exponent == exponent)
}

/// A tensor of 16 bits in its mapped file.
struct StoredBits(Tensor);

impl StoredBits {
    /// `None` if it is in pieces, or at an odd byte.
    fn slice(&self) -> Option<&[u16]> {
        bytemuck::try_cast_slice(self.0.stored()?.bytes).ok()
    }
}

impl HalfBits for StoredBits {
    fn bits(&self) -> &[u16] {
        self.slice().expect("looked at when the tensor was loaded")
    }
}
