//! Where each tensor will lie: names, headers and sizes of the shards, known from names, types and shapes alone.

use std::collections::BTreeMap;

use crate::{Dtype, header};

/// One tensor to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutputTensor {
    /// Name.
    pub name: String,
    /// Element type as written.
    pub dtype: Dtype,
    /// Shape.
    pub shape: Vec<usize>,
}

impl OutputTensor {
    pub(super) fn bytes(&self) -> u64 {
        (self.shape.iter().product::<usize>() * self.dtype.size()) as u64
    }
}

/// Where every tensor of the output will lie: known before any is computed.
#[derive(Debug, Clone)]
pub struct Layout {
    /// What the files' names begin with.
    pub(super) stem: String,
    pub(super) shards: Vec<Shard>,
    /// (shard, byte in file) of each tensor, in the order given.
    pub(super) places: Vec<(usize, u64)>,
    pub(super) tensors: Vec<OutputTensor>,
}

/// One file of weights.
#[derive(Debug, Clone)]
pub(super) struct Shard {
    pub(super) name: String,
    /// Length field and header, as they will stand at the start of the file.
    pub(super) header: Vec<u8>,
    /// Bytes of the whole file.
    pub(super) len: u64,
}

impl Layout {
    /// Places `tensors`, in their order, into shards of at most `max_shard` bytes of data (a larger tensor gets a
    /// shard of its own). Names follow `transformers`: `model.safetensors`, or `model-00001-of-0000N.safetensors`.
    pub fn new(tensors: Vec<OutputTensor>, max_shard: u64) -> Self {
        Self::with_stem("model", tensors, max_shard)
    }

    /// The same with names that begin with another `stem` than a model's.
    pub fn with_stem(stem: &str, tensors: Vec<OutputTensor>, max_shard: u64) -> Self {
        Self::with_metadata(stem, tensors, max_shard, &BTreeMap::new())
    }

    /// The same with more strings in the `__metadata__` of each file than its format.
    pub fn with_metadata(
        stem: &str,
        tensors: Vec<OutputTensor>,
        max_shard: u64,
        metadata: &BTreeMap<String, String>,
    ) -> Self {
        let mut metadata = metadata.clone();
        metadata.insert("format".to_owned(), "pt".to_owned());
        let mut groups: Vec<Vec<usize>> = vec![Vec::new()];
        let mut filled = 0;
        for (i, tensor) in tensors.iter().enumerate() {
            let bytes = tensor.bytes();
            if filled > 0 && filled + bytes > max_shard {
                groups.push(Vec::new());
                filled = 0;
            }
            filled += bytes;
            groups.last_mut().expect("starts with one group").push(i);
        }
        let mut places = vec![(0, 0); tensors.len()];
        let count = groups.len();
        let shards = groups
            .iter()
            .enumerate()
            .map(|(s, group)| {
                let name = match count {
                    1 => format!("{stem}.safetensors"),
                    _ => format!("{stem}-{:05}-of-{count:05}.safetensors", s + 1),
                };
                shard(s, name, (group, &tensors), &metadata, &mut places)
            })
            .collect();
        Self { stem: stem.to_owned(), shards, places, tensors }
    }

    /// The tensors in their order.
    pub fn tensors(&self) -> &[OutputTensor] {
        &self.tensors
    }

    /// Bytes of all shard files.
    pub fn file_bytes(&self) -> u64 {
        self.shards.iter().map(|s| s.len).sum()
    }

    /// Bytes of all tensors.
    pub fn data_bytes(&self) -> u64 {
        self.tensors.iter().map(OutputTensor::bytes).sum()
    }

    /// Names of the shard files.
    pub fn shard_names(&self) -> impl Iterator<Item = &str> {
        self.shards.iter().map(|s| s.name.as_str())
    }

    /// The text of `STEM.safetensors.index.json`, or `None` for a single shard.
    pub(super) fn index(&self) -> Option<Vec<u8>> {
        if self.shards.len() == 1 {
            return None;
        }
        let parameters: usize = self.tensors.iter().map(|t| t.shape.iter().product::<usize>()).sum();
        let map: BTreeMap<&str, &str> = self
            .tensors
            .iter()
            .zip(&self.places)
            .map(|(tensor, (shard, _))| (tensor.name.as_str(), self.shards[*shard].name.as_str()))
            .collect();
        let index = serde_json::json!({
            "metadata": {"total_parameters": parameters, "total_size": self.data_bytes()},
            "weight_map": map,
        });
        let mut text = serde_json::to_vec_pretty(&index).expect("strings and numbers serialise");
        text.push(b'\n');
        Some(text)
    }
}

fn shard(
    s: usize,
    name: String,
    (group, tensors): (&[usize], &[OutputTensor]),
    metadata: &BTreeMap<String, String>,
    places: &mut [(usize, u64)],
) -> Shard {
    let entry = |i: &usize| {
        let t = &tensors[*i];
        (t.name.as_str(), t.dtype, &t.shape[..], t.bytes())
    };
    let header = header::encode(group.iter().map(entry), metadata);
    let mut len = header.len() as u64;
    for i in group {
        places[*i] = (s, len);
        len += tensors[*i].bytes();
    }
    Shard { name, header, len }
}
