//! Opening a model directory: which files hold the weights, what is in them, and whether all of it holds together.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Deserialize;

use crate::mapped::MappedFile;
use crate::pytorch::{self, TorchTensor};
use crate::{CheckpointError, Tensor, header};

/// Weight files in the order in which they are looked for; an index wins over a single file of its kind.
const WEIGHTS: [(&str, bool); 4] = [
    ("model.safetensors.index.json", true),
    ("model.safetensors", false),
    ("pytorch_model.bin.index.json", true),
    ("pytorch_model.bin", false),
];

/// A checkpoint whose headers were all read and found consistent. Data is mapped, not read.
#[derive(Debug, Clone)]
pub struct Checkpoint {
    dir: PathBuf,
    files: Vec<Arc<MappedFile>>,
    tensors: BTreeMap<String, Tensor>,
}

impl Checkpoint {
    /// Opens a model directory, or a single `.safetensors`, `.bin`, `.pt` or `.pth` file.
    ///
    /// # Errors
    /// Every problem of every header and of the index, together.
    pub fn open(path: &Path) -> Result<Self, Vec<CheckpointError>> {
        if path.is_file() {
            let dir = path.parent().unwrap_or(Path::new(".")).to_owned();
            return Self::from_shards(dir, &[path.to_owned()]);
        }
        if !path.is_dir() {
            return Err(vec![CheckpointError::NotFound { path: path.to_owned() }]);
        }
        let found = WEIGHTS.iter().find(|(name, _)| path.join(name).is_file());
        match found {
            Some((name, true)) => Self::from_index(path, &path.join(name)),
            Some((name, false)) => Self::from_shards(path.to_owned(), &[path.join(name)]),
            None => Err(vec![CheckpointError::NoWeights { dir: path.to_owned(), hint: other_weights(path) }]),
        }
    }

    /// Opens safetensors whose names begin with another stem than a model's.
    pub(crate) fn open_stem(dir: &Path, stem: &str) -> Result<Self, Vec<CheckpointError>> {
        let index = dir.join(format!("{stem}.safetensors.index.json"));
        if index.is_file() {
            return Self::from_index(dir, &index);
        }
        Self::from_shards(dir.to_owned(), &[dir.join(format!("{stem}.safetensors"))])
    }

    /// Directory of the checkpoint: where config and tokenizer lie.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The weight files, in order of their names.
    pub fn files(&self) -> &[Arc<MappedFile>] {
        &self.files
    }

    /// All tensors by name.
    pub fn tensors(&self) -> &BTreeMap<String, Tensor> {
        &self.tensors
    }

    /// Bytes of all weight files.
    pub fn size(&self) -> u64 {
        self.files.iter().map(|f| f.len() as u64).sum()
    }

    /// This checkpoint with tensors replaced or added that also read from `files`; directory stays the same.
    pub(crate) fn with_changes(
        mut self,
        changed: BTreeMap<String, Tensor>,
        files: &[Arc<MappedFile>],
    ) -> Self {
        self.tensors.extend(changed);
        self.files.extend_from_slice(files);
        self
    }

    /// The same files seen as these tensors, and no others.
    #[must_use]
    pub fn seen_as(self, tensors: BTreeMap<String, Tensor>) -> Self {
        Self { tensors, ..self }
    }

    /// The same checkpoint with its config and tokenizer elsewhere.
    pub(crate) fn in_dir(self, dir: PathBuf) -> Self {
        Self { dir, ..self }
    }

    fn from_index(dir: &Path, index: &Path) -> Result<Self, Vec<CheckpointError>> {
        let map = read_index(index).map_err(|e| vec![e])?;
        let mut shards: BTreeMap<&str, usize> = BTreeMap::new();
        for shard in map.values() {
            *shards.entry(shard).or_default() += 1;
        }
        let missing: Vec<_> = shards
            .iter()
            .filter(|(shard, _)| !dir.join(shard).is_file())
            .map(|(shard, tensors)| CheckpointError::MissingShard {
                index: index.to_owned(),
                shard: (*shard).to_owned(),
                tensors: *tensors,
            })
            .collect();
        if !missing.is_empty() {
            return Err(missing);
        }
        let paths: Vec<PathBuf> = shards.keys().map(|s| dir.join(s)).collect();
        let checkpoint = Self::from_shards(dir.to_owned(), &paths)?;
        let lost: Vec<_> = map
            .iter()
            .filter(|(tensor, _)| !checkpoint.tensors.contains_key(*tensor))
            .map(|(tensor, shard)| CheckpointError::NotInShard {
                index: index.to_owned(),
                tensor: tensor.clone(),
                shard: shard.clone(),
            })
            .collect();
        if lost.is_empty() { Ok(checkpoint) } else { Err(lost) }
    }

    fn from_shards(dir: PathBuf, paths: &[PathBuf]) -> Result<Self, Vec<CheckpointError>> {
        let (mut files, mut errors) = (Vec::new(), Vec::new());
        let mut stored: Vec<(String, Tensor, &Path)> = Vec::new();
        for path in paths {
            match open_shard(path) {
                Ok((file, tensors)) => {
                    stored.extend(tensors.into_iter().map(|(name, tensor)| (name, tensor, path.as_path())));
                    files.push(file);
                }
                Err(more) => errors.extend(more),
            }
        }
        // The sort is stable: of two that share a name, the first file comes first.
        stored.sort_by(|a, b| a.0.cmp(&b.0));
        errors.extend(stored.windows(2).filter(|pair| pair[0].0 == pair[1].0).map(|pair| {
            CheckpointError::Duplicate {
                tensor: pair[0].0.clone(),
                first: pair[0].2.to_owned(),
                second: pair[1].2.to_owned(),
            }
        }));
        if !errors.is_empty() {
            return Err(errors);
        }
        // From what is sorted the map is built in one go.
        let tensors = stored.into_iter().map(|(name, tensor, _)| (name, tensor)).collect();
        Ok(Self { dir, files, tensors })
    }
}

type Shard = (Arc<MappedFile>, Vec<(String, Tensor)>);

fn open_shard(path: &Path) -> Result<Shard, Vec<CheckpointError>> {
    let file = Arc::new(MappedFile::open(path).map_err(|e| vec![e])?);
    let is_torch = path.extension().is_some_and(|e| e == "bin" || e == "pt" || e == "pth" || e == "ckpt");
    let tensors = if is_torch { torch_tensors(&file)? } else { safetensors_tensors(&file)? };
    Ok((file, tensors))
}

fn safetensors_tensors(file: &Arc<MappedFile>) -> Result<Vec<(String, Tensor)>, Vec<CheckpointError>> {
    let header = header::parse(file.path(), file)?;
    let tensor = |e: header::Entry| {
        let tensor = Tensor::in_file(file.clone(), e.dtype, e.shape, e.start..e.start + e.len);
        (e.name, tensor)
    };
    Ok(header.entries.into_iter().map(tensor).collect())
}

fn torch_tensors(file: &Arc<MappedFile>) -> Result<Vec<(String, Tensor)>, Vec<CheckpointError>> {
    let wrap = |source| vec![CheckpointError::Torch { path: file.path().to_owned(), source }];
    let tensors = pytorch::read_layout(file).map_err(wrap)?;
    Ok(tensors.into_iter().map(|t| (t.name.clone(), torch_tensor(file, t))).collect())
}

fn torch_tensor(file: &Arc<MappedFile>, t: TorchTensor) -> Tensor {
    let start = t.offset as usize;
    if is_contiguous(&t) {
        let bytes = t.shape.iter().product::<usize>() * t.dtype.size();
        Tensor::in_file(file.clone(), t.dtype, t.shape, start..start + bytes)
    } else {
        Tensor::strided(file.clone(), t.dtype, t.shape, t.strides, start)
    }
}

/// Row major without gaps; the stride of a dimension of size 1 does not matter.
fn is_contiguous(t: &TorchTensor) -> bool {
    let mut expected = 1;
    t.shape.iter().zip(&t.strides).rev().all(|(size, stride)| {
        let fits = *size <= 1 || *stride == expected;
        expected *= size;
        fits
    }) || t.shape.contains(&0)
}

#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

fn read_index(path: &Path) -> Result<BTreeMap<String, String>, CheckpointError> {
    let text = std::fs::read(path).map_err(CheckpointError::io(path, "read"))?;
    parse_index(path, &text)
}

/// Reads the `weight_map` of an index: the shard of each tensor. `path` is for messages only.
///
/// # Errors
/// If it is not an index, is empty, or names a shard that is not a plain file name.
pub fn parse_index(path: &Path, text: &[u8]) -> Result<BTreeMap<String, String>, CheckpointError> {
    let invalid = |message: String| CheckpointError::IndexInvalid { path: path.to_owned(), message };
    let index: Index = serde_json::from_slice(text).map_err(|e| invalid(e.to_string()))?;
    if index.weight_map.is_empty() {
        return Err(invalid("`weight_map` is empty".into()));
    }
    for shard in index.weight_map.values() {
        // A shard lies beside its index; anything else could read files that are not the model's.
        let plain = Path::new(shard).file_name().is_some_and(|name| name == shard.as_str());
        if !plain {
            return Err(invalid(format!("shard name `{shard}` is not a plain file name")));
        }
    }
    Ok(index.weight_map)
}

/// What else a directory holds, with the remedy.
fn other_weights(dir: &Path) -> String {
    let names: Vec<String> = std::fs::read_dir(dir)
        .map(|entries| entries.flatten().map(|e| e.file_name().to_string_lossy().into_owned()).collect())
        .unwrap_or_default();
    let has = |suffix: &str| names.iter().any(|n| n.ends_with(suffix));
    if names.iter().any(|n| n == "adapter_config.json") {
        "; this is an adapter: write it as `base+adapter`".into()
    } else if names.iter().any(|n| n == crate::emr::MANIFEST) {
        "; this is an EMR artefact: say which task's model is meant with `task`".into()
    } else if has(".gguf") {
        "; found GGUF: convert it to safetensors first".into()
    } else if has(".h5") || has(".msgpack") || has(".ckpt.index") {
        "; found TensorFlow or Flax weights: save them as safetensors with transformers first".into()
    } else if has(".safetensors") || has(".bin") {
        "; other weight files are there: name the file itself if it is the model".into()
    } else {
        String::new()
    }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "fixtures are written plainly")]
mod tests {
    use std::fs;

    use super::*;
    use crate::Dtype;

    fn shard(path: &Path, tensors: &[(&str, usize)]) {
        let shapes: Vec<[usize; 1]> = tensors.iter().map(|(_, n)| [*n]).collect();
        let entries =
            tensors.iter().zip(&shapes).map(|((name, n), s)| (*name, Dtype::F32, &s[..], 4 * *n as u64));
        let mut bytes = header::encode(entries, &BTreeMap::new());
        bytes.resize(bytes.len() + tensors.iter().map(|(_, n)| 4 * n).sum::<usize>(), 0);
        fs::write(path, bytes).unwrap();
    }

    fn index(dir: &Path, map: &[(&str, &str)]) {
        let map: BTreeMap<_, _> = map.iter().copied().collect();
        let json = serde_json::json!({"metadata": {"total_size": 1}, "weight_map": map});
        fs::write(dir.join("model.safetensors.index.json"), json.to_string()).unwrap();
    }

    fn errors(path: &Path) -> Vec<String> {
        Checkpoint::open(path).expect_err("must be refused").iter().map(ToString::to_string).collect()
    }

    #[test]
    fn an_index_wins_over_a_single_file_and_joins_its_shards() {
        let dir = tempfile::tempdir().unwrap();
        shard(&dir.path().join("model.safetensors"), &[("old", 1)]);
        shard(&dir.path().join("a.safetensors"), &[("x", 2)]);
        shard(&dir.path().join("b.safetensors"), &[("y", 3)]);
        index(dir.path(), &[("x", "a.safetensors"), ("y", "b.safetensors")]);
        let checkpoint = Checkpoint::open(dir.path()).unwrap();
        assert_eq!(checkpoint.tensors().keys().collect::<Vec<_>>(), ["x", "y"]);
        assert_eq!(checkpoint.files().len(), 2);
        assert_eq!(Checkpoint::open(&dir.path().join("a.safetensors")).unwrap().tensors().len(), 1);
    }

    #[test]
    fn every_missing_shard_is_named() {
        let dir = tempfile::tempdir().unwrap();
        index(dir.path(), &[("x", "a.safetensors"), ("y", "b.safetensors"), ("z", "b.safetensors")]);
        let errors = errors(dir.path());
        assert_eq!(errors.len(), 2);
        assert!(errors[1].contains("shard `b.safetensors` (2 tensors) is missing"), "{}", errors[1]);
    }

    #[test]
    fn contradictions_between_index_and_shards_are_errors() {
        let dir = tempfile::tempdir().unwrap();
        shard(&dir.path().join("a.safetensors"), &[("x", 2)]);
        shard(&dir.path().join("b.safetensors"), &[("x", 2)]);
        index(dir.path(), &[("x", "a.safetensors"), ("q", "a.safetensors")]);
        assert!(errors(dir.path())[0].contains("tensor `q` should be in `a.safetensors`"));
        index(dir.path(), &[("x", "a.safetensors"), ("q", "b.safetensors")]);
        assert!(errors(dir.path())[0].contains("stored twice"));
        index(dir.path(), &[("x", "../a.safetensors")]);
        assert!(errors(dir.path())[0].contains("not a plain file name"));
        index(dir.path(), &[]);
        assert!(errors(dir.path())[0].contains("empty"));
        fs::write(dir.path().join("model.safetensors.index.json"), "{").unwrap();
        assert!(errors(dir.path())[0].contains("invalid index"));
    }

    #[test]
    fn a_directory_without_weights_says_what_it_holds() {
        let dir = tempfile::tempdir().unwrap();
        assert!(errors(&dir.path().join("nowhere"))[0].contains("no such file or directory"));
        assert!(errors(dir.path())[0].contains("no weights found"));
        fs::write(dir.path().join("x.gguf"), "").unwrap();
        assert!(errors(dir.path())[0].contains("GGUF"));
        fs::write(dir.path().join("adapter_config.json"), "{}").unwrap();
        assert!(errors(dir.path())[0].contains("base+adapter"));
    }
}
