//! What was measured, in a safetensors file.
//!
//! A directory with `statistics.safetensors`; the file alone will do. Tensors are f32 and have the names of the tensors of the
//! checkpoint that they are about. Its `__metadata__` says:
//!
//! | key | value |
//! |---|---|
//! | `kind` | what was measured: a [`Kind`] |
//! | `examples` | of how many examples |
//! | `option.KEY` | how, in the words of whoever measured |
//! | `same.NAME` | the statistics of tensor NAME are those of this one, and stored once |
//! | `transposed.NAME` | NAME is stored [in, out] |

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use onefold_checkpoint::convert::narrow;
use onefold_checkpoint::output::{Layout, Opened, Output, OutputTensor};
use onefold_checkpoint::{Checkpoint, Dtype, Tensor, header};
use onefold_engine::Buffer;

use super::error::StatisticsError;

/// What was measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The diagonal of the Fisher information: of each tensor, in its shape.
    Fisher,
    /// Gram matrices of the inputs of linear maps: of their weights, [in, in].
    Gram,
    /// Fisher information of mask nodes: `LAYER.heads` and `LAYER.neurons`.
    Nodes,
    /// No statistic but what was learnt of one: the maps of a surgery.
    Surgery,
}

impl Kind {
    const ALL: [Self; 4] = [Self::Fisher, Self::Gram, Self::Nodes, Self::Surgery];

    /// As files say it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Fisher => "fisher",
            Self::Gram => "gram",
            Self::Nodes => "nodes",
            Self::Surgery => "surgery",
        }
    }
}

/// A tensor to be written.
#[derive(Debug, Clone)]
pub struct Stored<'a> {
    /// The tensor that it is about; and others of which it is just as true.
    pub names: Vec<String>,
    /// Those of them that are stored [in, out].
    pub transposed: bool,
    /// Shape.
    pub shape: Vec<usize>,
    /// Numbers.
    pub values: &'a Buffer,
}

/// Statistics of a model, read from a file. Numbers are mapped, not read.
#[derive(Debug, Clone)]
pub struct Statistics {
    /// What was measured.
    pub kind: Kind,
    /// Of how many examples.
    pub examples: u64,
    /// How.
    pub options: BTreeMap<String, String>,
    /// By the name of the tensor that they are about.
    pub tensors: BTreeMap<String, Tensor>,
    /// Names of weights that are stored [in, out].
    pub transposed: BTreeSet<String>,
}

const STEM: &str = "statistics";
/// Elements that are written at a time.
const PIECE: usize = 1 << 16;

/// Writes statistics to the directory `out`; all of it is there, or nothing.
///
/// # Errors
/// If the place is taken and `replace` is not set, or the system refuses.
pub fn save(
    out: &Path,
    kind: Kind,
    examples: u64,
    options: &BTreeMap<String, String>,
    tensors: &[Stored<'_>],
    replace: bool,
) -> Result<(), StatisticsError> {
    let mut metadata: BTreeMap<String, String> = BTreeMap::from([
        ("kind".to_owned(), kind.name().to_owned()),
        ("examples".to_owned(), examples.to_string()),
    ]);
    metadata.extend(options.iter().map(|(key, value)| (format!("option.{key}"), value.clone())));
    let mut listed = Vec::new();
    for stored in tensors {
        let Some((first, others)) = stored.names.split_first() else { continue };
        metadata.extend(others.iter().map(|name| (format!("same.{name}"), first.clone())));
        if stored.transposed {
            metadata.extend(stored.names.iter().map(|name| (format!("transposed.{name}"), String::new())));
        }
        listed.push((first, stored));
    }
    listed.sort_by_key(|(name, _)| *name);
    let outputs = listed.iter().map(|(name, stored)| OutputTensor {
        name: (*name).clone(),
        dtype: Dtype::F32,
        shape: stored.shape.clone(),
    });
    let layout = Layout::with_metadata(STEM, outputs.collect(), u64::MAX, &metadata);
    // Like no other: what an interrupted run left is never gone on with.
    let job = format!("statistics {:?}", SystemTime::now());
    let Opened { output, .. } = Output::create(out, layout, &job, &[], replace)?;
    let written = listed.iter().enumerate().try_for_each(|(i, (_, stored))| write(&output, i, stored.values));
    if let Err(error) = written {
        output.discard();
        return Err(error);
    }
    output.commit(None)?;
    Ok(())
}

fn write(output: &Output, index: usize, values: &Buffer) -> Result<(), StatisticsError> {
    let (mut numbers, mut bytes) = (vec![0.0; PIECE], vec![0; PIECE * size_of::<f32>()]);
    for start in (0..values.len()).step_by(PIECE) {
        let len = PIECE.min(values.len() - start);
        let (numbers, bytes) = (&mut numbers[..len], &mut bytes[..len * size_of::<f32>()]);
        values.read(start, numbers);
        narrow(Dtype::F32, numbers, bytes);
        output.write(index, (start * size_of::<f32>()) as u64, bytes)?;
    }
    Ok(output.finish(index, "")?)
}

impl Statistics {
    /// The file that is meant by a path: itself, or the one in a directory.
    pub fn file(path: &Path) -> PathBuf {
        if path.is_dir() { path.join(format!("{STEM}.safetensors")) } else { path.to_owned() }
    }

    /// Opens what [`save`] wrote: the directory, or the file in it.
    ///
    /// # Errors
    /// If there is no such file, its header is damaged, or it holds something else.
    pub fn open(path: &Path) -> Result<Self, StatisticsError> {
        let path = Self::file(path);
        let refused = |message: String| StatisticsError::File { path: path.clone(), message };
        let all = |errors: Vec<onefold_checkpoint::CheckpointError>| {
            refused(errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))
        };
        let checkpoint = Checkpoint::open(&path).map_err(all)?;
        let file = checkpoint.files().first().ok_or_else(|| refused("no weights".into()))?;
        let metadata = header::parse(&path, file).map_err(all)?.metadata;
        let other = |found: &str| {
            refused(format!("these are no statistics of a model (kind: {found}); measure them with onefold"))
        };
        let found = metadata.get("kind").map_or("none", String::as_str);
        let kind = Kind::ALL.into_iter().find(|kind| kind.name() == found).ok_or_else(|| other(found))?;
        let examples = metadata.get("examples").and_then(|n| n.parse().ok()).ok_or_else(|| other(found))?;
        let mut tensors = checkpoint.tensors().clone();
        let (mut options, mut transposed) = (BTreeMap::new(), BTreeSet::new());
        for (key, value) in &metadata {
            if let Some(key) = key.strip_prefix("option.") {
                options.insert(key.to_owned(), value.clone());
            } else if let Some(name) = key.strip_prefix("same.") {
                let tensor = checkpoint.tensors().get(value);
                let tensor = tensor.ok_or_else(|| {
                    refused(format!("`{name}` is said to be the same as `{value}`, which is not there"))
                })?;
                tensors.insert(name.to_owned(), tensor.clone());
            } else if let Some(name) = key.strip_prefix("transposed.") {
                transposed.insert(name.to_owned());
            }
        }
        Ok(Self { kind, examples, options, tensors, transposed })
    }

    /// The same, if that was measured.
    ///
    /// # Errors
    /// If something else was; `path` is for the message.
    pub fn of_kind(self, kind: Kind, path: &Path) -> Result<Self, StatisticsError> {
        if self.kind == kind {
            return Ok(self);
        }
        let (found, wanted) = (self.kind.name(), kind.name());
        let message = format!("holds statistics of kind `{found}`, expected `{wanted}`; measure those");
        Err(StatisticsError::File { path: path.to_owned(), message })
    }
}
