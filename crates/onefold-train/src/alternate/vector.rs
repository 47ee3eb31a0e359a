//! The file in which a task vector travels.
//!
//! `vector.safetensors`: `θ − θ₀` in f32 of every tensor of the trunk that was trained, under its name in the model; with adapters
//! what they add, and beside it their factors where they are wanted, under PEFT's names. The file's `__metadata__` says:
//!
//! | key | value |
//! |---|---|
//! | `kind` | `onefold.vector/1` |
//! | `task`, `round` | whose it is |
//! | `base` | the hash of the model that it begins at |
//! | `recipe` | the hash of what all owners agree on |
//! | `adapter` | with factors: the text of their `adapter_config.json` |

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use onefold_checkpoint::convert::narrow;
use onefold_checkpoint::output::{Layout, Opened, Output, OutputTensor};
use onefold_checkpoint::{Checkpoint, CheckpointError, Dtype, Tensor, adapter, header};
use onefold_engine::Buffer;
use rayon::prelude::*;

use crate::model::{Destination, Origin, Parameters, SaveError};

const KIND: &str = "onefold.vector/1";
const STEM: &str = "vector";
/// What names of factors begin with, as PEFT has it.
const FACTOR: &str = "base_model.model.";
/// Elements that are written at a time.
const PIECE: usize = 1 << 16;

/// Whose vector it is, and of what it is the difference.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stamp {
    /// The task.
    pub task: String,
    /// The round, from 1.
    pub round: u64,
    /// The hash of the model that it begins at.
    pub base: String,
    /// The hash of what all owners agree on.
    pub recipe: String,
}

/// A vector that cannot be written or read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VectorError {
    /// The system refused.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// Files that cannot be read.
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
    Files(Vec<CheckpointError>),
    /// Adapters that cannot be written.
    #[error(transparent)]
    Save(#[from] SaveError),
    /// Training went astray.
    #[error("tensor `{tensor}`: element {position} of the task vector is {value}; lower the learning rate")]
    NotFinite {
        /// The tensor.
        tensor: String,
        /// Which element.
        position: usize,
        /// Its value.
        value: f32,
    },
    /// No vector, or another than is wanted.
    #[error("{path}: {message}", path = path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        message: String,
    },
}

/// What was written.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Written {
    /// ‖τ‖; tensors that are stored twice count once.
    pub norm: f64,
    /// Numbers in the file.
    pub elements: u64,
}

/// Where the end of a vector's tensor comes from.
enum End<'a> {
    Trained(&'a Buffer),
    Computed(Tensor),
}

/// A tensor of the vector.
struct Moved<'a> {
    end: End<'a>,
    begin: Tensor,
    /// Whether it is a second name of another.
    repeats: bool,
}

/// Writes the vector of what was trained to the directory `out`, which is made of it and of `files`, all of it or nothing. `base` is
/// the directory of the model that was trained, and `name` what it is called. With `factors` those of the adapters are written too.
///
/// # Errors
/// If the system refuses, the place is taken, or a number is not finite.
pub fn save(
    parameters: &Parameters,
    (base, name): (&Path, &str),
    stamp: &Stamp,
    factors: bool,
    out: &Path,
    files: impl FnOnce(&Written) -> Vec<(&'static str, Vec<u8>)>,
) -> Result<Written, VectorError> {
    let mut tensors = trained(parameters);
    let aside = Aside::of(parameters, (base, name), out)?;
    let mut metadata = stamp.metadata();
    let mut extra: BTreeMap<String, Tensor> = BTreeMap::new();
    if let Some(aside) = &aside {
        tensors.extend(adapted(base, &aside.0)?);
        if factors {
            extra = Checkpoint::open(&aside.0.join("adapter_model.safetensors"))
                .map_err(VectorError::Files)?
                .tensors()
                .iter()
                .filter(|(name, _)| name.contains(".lora_"))
                .map(|(name, tensor)| (name.clone(), tensor.clone()))
                .collect();
            let path = aside.0.join("adapter_config.json");
            let text = std::fs::read_to_string(&path).map_err(CheckpointError::io(&path, "read"))?;
            metadata.insert("adapter".to_owned(), text);
        }
    }
    let shapes = tensors.iter().map(|(name, moved)| (name, &moved.begin.shape));
    let outputs: Vec<OutputTensor> = shapes
        .chain(extra.iter().map(|(name, tensor)| (name, &tensor.shape)))
        .map(|(name, shape)| OutputTensor { name: name.clone(), dtype: Dtype::F32, shape: shape.clone() })
        .collect();
    let elements = outputs.iter().map(|output| output.shape.iter().product::<usize>() as u64).sum();
    let layout = Layout::with_metadata(STEM, outputs, u64::MAX, &metadata);
    // Like no other: what an interrupted run left is never gone on with.
    let job = format!("vector {:?}", SystemTime::now());
    let Opened { output, .. } = Output::create(out, layout, &job, &[], true)?;
    let written = write_all(&output, &tensors, &extra).and_then(|norm| {
        let written = Written { norm, elements };
        files(&written).iter().try_for_each(|(name, bytes)| output.add_file(name, bytes))?;
        Ok(written)
    });
    match written {
        Ok(written) => {
            output.commit(None)?;
            Ok(written)
        }
        Err(error) => {
            output.discard();
            Err(error)
        }
    }
}

/// What was trained of the checkpoint itself, by name.
fn trained(parameters: &Parameters) -> BTreeMap<String, Moved<'_>> {
    let mut tensors = BTreeMap::new();
    for (id, parameter) in parameters.trainable() {
        let (Origin::Stored { tensor, .. }, Some(values)) = (&parameter.origin, parameter.trained()) else {
            continue;
        };
        for (number, name) in parameters.names(id).into_iter().enumerate() {
            let moved = Moved { end: End::Trained(values), begin: tensor.clone(), repeats: number > 0 };
            tensors.insert(name, moved);
        }
    }
    tensors
}

/// What the adapter in `dir` changes of the model in `base`.
fn adapted<'a>(base: &Path, dir: &Path) -> Result<BTreeMap<String, Moved<'a>>, VectorError> {
    let plain = Checkpoint::open(base).map_err(VectorError::Files)?;
    let begins = plain.tensors().clone();
    let applied = adapter::apply(plain, dir).map_err(VectorError::Files)?;
    let changed = |(name, tensor): (&String, &Tensor)| {
        let begin = begins.get(name).filter(|_| tensor.stored().is_none())?.clone();
        Some((name.clone(), Moved { end: End::Computed(tensor.clone()), begin, repeats: false }))
    };
    Ok(applied.tensors().iter().filter_map(changed).collect())
}

/// The adapters of a training in a directory of their own, which goes away again.
struct Aside(PathBuf);

impl Aside {
    fn of(
        parameters: &Parameters,
        (base, name): (&Path, &str),
        out: &Path,
    ) -> Result<Option<Self>, VectorError> {
        if !parameters.has_adapters() {
            return Ok(None);
        }
        let mut aside = out.file_name().unwrap_or_default().to_owned();
        aside.push(".adapter");
        let dir = out.with_file_name(aside);
        let head = parameters.heads().next().map(|(task, _)| task);
        parameters.save_adapter(head, name, &Destination { source: base, out: &dir, replace: true })?;
        Ok(Some(Self(dir)))
    }
}

impl Drop for Aside {
    fn drop(&mut self) {
        // Whatever is left of it is replaced by the next one.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Writes all tensors; the norm of the vector.
fn write_all(
    output: &Output,
    tensors: &BTreeMap<String, Moved<'_>>,
    extra: &BTreeMap<String, Tensor>,
) -> Result<f64, VectorError> {
    let of_vector: Vec<_> = tensors.iter().enumerate().collect();
    let write = |(index, (name, moved)): (usize, (&String, &Moved<'_>))| write(output, index, name, moved);
    let squares = of_vector.into_par_iter().map(write).collect::<Result<Vec<f64>, _>>()?;
    for (index, (name, tensor)) in (tensors.len()..).zip(extra) {
        write_pieces(output, index, name, tensor.len(), |start, out| tensor.read(start, out))?;
    }
    let counted = tensors.values().zip(squares).filter(|(moved, _)| !moved.repeats);
    Ok(counted.map(|(_, square)| square).sum::<f64>().sqrt())
}

impl Moved<'_> {
    fn end(&self, start: usize, out: &mut [f32]) {
        match &self.end {
            End::Trained(values) => values.read(start, out),
            End::Computed(tensor) => tensor.read(start, out),
        }
    }
}

/// Writes a tensor of the vector; the square of its norm.
fn write(output: &Output, index: usize, name: &str, moved: &Moved<'_>) -> Result<f64, VectorError> {
    let mut begin = vec![0.0; PIECE.min(moved.begin.len())];
    write_pieces(output, index, name, moved.begin.len(), |start, out| {
        moved.end(start, out);
        moved.begin.read(start, &mut begin[..out.len()]);
        out.iter_mut().zip(&begin).for_each(|(end, begin)| *end -= begin);
    })
}

/// Writes a tensor piece by piece; the square of its norm.
fn write_pieces(
    output: &Output,
    index: usize,
    name: &str,
    len: usize,
    mut read: impl FnMut(usize, &mut [f32]),
) -> Result<f64, VectorError> {
    let (mut numbers, mut bytes) = (vec![0.0; PIECE.min(len)], vec![0; PIECE.min(len) * size_of::<f32>()]);
    let mut square = 0.0;
    for start in (0..len).step_by(PIECE) {
        let count = PIECE.min(len - start);
        let (numbers, bytes) = (&mut numbers[..count], &mut bytes[..count * size_of::<f32>()]);
        read(start, numbers);
        if let Some(at) = numbers.iter().position(|number| !number.is_finite()) {
            let (tensor, position, value) = (name.to_owned(), start + at, numbers[at]);
            return Err(VectorError::NotFinite { tensor, position, value });
        }
        square += numbers.iter().map(|number| f64::from(*number).powi(2)).sum::<f64>();
        narrow(Dtype::F32, numbers, bytes);
        output.write(index, (start * size_of::<f32>()) as u64, bytes)?;
    }
    output.finish(index, "")?;
    Ok(square)
}

/// A vector, opened. Numbers are mapped, not read.
#[derive(Debug, Clone)]
pub struct Vector {
    /// Whose it is.
    pub stamp: Stamp,
    /// Its tensors.
    pub checkpoint: Checkpoint,
    /// Factors of adapters, if they travel with it, and their `adapter_config.json`.
    pub factors: Option<(BTreeMap<String, Tensor>, String)>,
    path: PathBuf,
}

impl Vector {
    /// The file that is meant by a path: itself, or the one in a directory.
    pub fn file(path: &Path) -> PathBuf {
        if path.is_dir() { path.join(format!("{STEM}.safetensors")) } else { path.to_owned() }
    }

    /// Opens what [`save`] wrote: the directory, or the file in it.
    ///
    /// # Errors
    /// If there is no such file, its header is damaged, or it holds something else.
    pub fn open(path: &Path) -> Result<Self, VectorError> {
        let path = Self::file(path);
        let checkpoint = Checkpoint::open(&path).map_err(VectorError::Files)?;
        let wrong = |message: String| VectorError::File { path: path.clone(), message };
        let file = checkpoint.files().first().ok_or_else(|| wrong("no weights".to_owned()))?;
        let metadata = header::parse(&path, file).map_err(VectorError::Files)?.metadata;
        let found = metadata.get("kind").map_or("none", String::as_str);
        if found != KIND {
            return Err(wrong(format!("this is no task vector (kind: {found}, expected {KIND})")));
        }
        let of = |key: &str| {
            metadata.get(key).cloned().ok_or_else(|| wrong(format!("its header does not say `{key}`")))
        };
        let round = of("round")?;
        let round = round.parse().map_err(|_| wrong(format!("`round` is {round}, expected a number")))?;
        let stamp = Stamp { task: of("task")?, round, base: of("base")?, recipe: of("recipe")? };
        let (factors, tensors): (BTreeMap<_, _>, BTreeMap<_, _>) =
            checkpoint.tensors().clone().into_iter().partition(|(name, _)| name.starts_with(FACTOR));
        let factors = metadata.get("adapter").map(|config| (factors, config.clone()));
        Ok(Self { stamp, checkpoint: checkpoint.seen_as(tensors), factors, path })
    }

    /// The file.
    pub fn place(&self) -> &Path {
        &self.path
    }

    /// Refuses the vector of another task, round, base or recipe than is `expected`.
    ///
    /// # Errors
    /// A sentence that says which.
    pub fn check(&self, expected: &Stamp) -> Result<(), VectorError> {
        let wrong = |message: String| Err(VectorError::File { path: self.path.clone(), message });
        let Stamp { task, round, base, recipe } = &self.stamp;
        if *task != expected.task {
            return wrong(format!("the vector of task `{task}`, expected that of `{}`", expected.task));
        }
        if *recipe != expected.recipe {
            return wrong(format!(
                "the vector of `{task}` was tuned by another recipe ({}, expected {}); owners have to agree on everything but their data",
                short(recipe),
                short(&expected.recipe)
            ));
        }
        if *round != expected.round {
            return wrong(format!(
                "the vector of `{task}` is of round {round}, expected round {}",
                expected.round
            ));
        }
        if *base != expected.base {
            return wrong(format!(
                "the vector of `{task}` begins at another model ({}) than the one it is to be merged on ({}); tune the task on that",
                short(base),
                short(&expected.base)
            ));
        }
        Ok(())
    }
}

impl Stamp {
    fn metadata(&self) -> BTreeMap<String, String> {
        let pairs = [
            ("kind", KIND.to_owned()),
            ("task", self.task.clone()),
            ("round", self.round.to_string()),
            ("base", self.base.clone()),
            ("recipe", self.recipe.clone()),
        ];
        pairs.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
    }
}

/// The beginning of a hash, which tells two apart.
fn short(hash: &str) -> &str {
    hash.get(..12).unwrap_or(hash)
}
