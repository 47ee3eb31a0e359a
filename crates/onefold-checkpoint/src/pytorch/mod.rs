//! PyTorch `.bin` and `.pt` checkpoints, read without executing anything.
//!
//! `torch.save` (1.6 and later) writes a zip: a pickle that describes the tensors, and their bytes. A pickle is a
//! program, and `torch.load` without `weights_only` runs whatever it names. Here `pickle.rs` interprets the
//! instructions with an allow-list of inert values, so that reading a downloaded file is as safe as reading
//! safetensors. The result says where in the file each tensor lies; no bytes are copied.
//!
//! Which mapping is the state dict:
//! * If the top-level mapping holds a tensor, it is the one.
//! * Otherwise the mapping under exactly one of `state_dict`, `model`, `module` that holds a tensor; what lies
//!   beside it (optimizer, epoch) is not read.
//! * All values in it must be tensors, with string keys. Passed over are only attributes (where modules keep
//!   `_metadata`), an entry `_metadata`, and `_extra_state` entries that are not tensors.
//!
//! Deviations from `torch.load(weights_only=True)`, all stricter: the zip must be unambiguous (`archive.rs`),
//! conjugated or negated views, quantised, sparse and nested tensors are refused, one storage has one size, and
//! a tensor that repeats elements (stride 0) far beyond its storage is refused.

mod archive;
mod error;
mod globals;
mod objects;
mod op;
mod pickle;
mod value;

use std::collections::BTreeMap;
use std::ops::Range;

pub use error::TorchError;

use crate::Dtype;
use archive::Archive;
use error::shown;
use value::{Pickled, Slice, Tensor, Value};

/// Keys under which training scripts put the state dict.
const WRAPPERS: [&str; 3] = ["state_dict", "model", "module"];
/// Longest name of a tensor in bytes.
const MAX_NAME: usize = 4096;
/// Most tensors of a file, and most dimensions of a tensor: bound the memory of the result.
const MAX_TENSORS: usize = 1 << 18;
const MAX_DIMS: usize = 32;
/// A tensor with stride 0 can declare more elements than its storage has; up to this many bytes it may.
const MAX_REPEATED: u64 = 64 << 20;

/// One tensor of the file: where its bytes are, nothing is copied.
///
/// The reader has checked that all of its elements lie inside `storage`, and `storage` inside the file. Elements
/// may be unaligned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TorchTensor {
    /// Key in the state dict.
    pub name: String,
    /// Type of the elements.
    pub dtype: Dtype,
    /// Length of each dimension; empty for a scalar.
    pub shape: Vec<usize>,
    /// For each dimension the distance in elements between neighbours.
    pub strides: Vec<usize>,
    /// Byte offset in the file of element `[0, .., 0]`; of a tensor without elements, the start of `storage`.
    pub offset: u64,
    /// Bytes of the whole storage in the file; equal ranges = tied tensors.
    pub storage: Range<u64>,
}

/// Reads where the tensors of a checkpoint lie; `bytes` is the whole (memory-mapped) file. The order is that of
/// the state dict.
///
/// Touches the zip directory, one header per entry and the pickle, not the weights.
///
/// # Errors
/// If the file is damaged, is not a state dict, or names anything outside the allow-list; see [`TorchError`].
pub fn read_layout(bytes: &[u8]) -> Result<Vec<TorchTensor>, TorchError> {
    let archive = Archive::open(bytes)?;
    let (root, heap) = pickle::read(archive.pickle()?)?;
    let tensors = state_dict(root, &heap)?;
    let mut layout = Layout { archive: &archive, heap: &heap, sizes: BTreeMap::new() };
    tensors.into_iter().map(|(name, tensor)| layout.place(name, tensor)).collect()
}

/// The tensors of the state dict in its order.
fn state_dict<'a>(root: Value<'a>, heap: &Pickled<'a>) -> Result<Vec<(&'a str, Tensor)>, TorchError> {
    let Value::Mapping(top) = root else { return Err(TorchError::TopLevel { found: root.kind() }) };
    let mut entries = entries(heap, top)?;
    if !holds_tensor(&entries)
        && let Some(inner) = unwrap(&entries, heap)?
    {
        entries = inner;
    }
    let mut tensors = Vec::new();
    for (key, value) in entries {
        match value {
            Value::Tensor(index) => tensors.push((key, heap.tensors[index])),
            _ if is_metadata(key) => {}
            other => return Err(TorchError::NotTensor { key: shown(key), found: other.kind() }),
        }
    }
    match tensors.len() {
        0 => Err(TorchError::NoTensors),
        found if found > MAX_TENSORS => {
            Err(TorchError::TooLarge { what: "tensors", found: found as u64, limit: MAX_TENSORS as u64 })
        }
        _ => Ok(tensors),
    }
}

/// The entries of a mapping by the rules of Python: of equal keys the first gives the place, the last the value.
fn entries<'a>(heap: &Pickled<'a>, mapping: usize) -> Result<Vec<(&'a str, Value<'a>)>, TorchError> {
    let mut places = BTreeMap::new();
    let mut entries = Vec::new();
    for (key, value) in &heap.mappings[mapping] {
        let Value::Str(key) = *key else { return Err(TorchError::KeyKind { found: key.kind() }) };
        let place = *places.entry(key).or_insert(entries.len());
        match entries.get_mut(place) {
            Some(entry) => *entry = (key, *value),
            None => entries.push((key, *value)),
        }
    }
    Ok(entries)
}

fn holds_tensor(entries: &[(&str, Value<'_>)]) -> bool {
    entries.iter().any(|(_, value)| matches!(value, Value::Tensor(_)))
}

/// The entries under the one wrapper key that hold a tensor.
fn unwrap<'a>(
    entries_outside: &[(&'a str, Value<'a>)],
    heap: &Pickled<'a>,
) -> Result<Option<Vec<(&'a str, Value<'a>)>>, TorchError> {
    let mut found = None;
    for wrapper in WRAPPERS {
        let value = entries_outside.iter().find(|(key, _)| *key == wrapper);
        let Some((_, Value::Mapping(mapping))) = value else { continue };
        // A key that is not a string cannot be part of a state dict; `{'model': {0: ..}}` is something else.
        let Ok(inner) = entries(heap, *mapping) else { continue };
        if !holds_tensor(&inner) {
            continue;
        }
        if let Some((first, _)) = found {
            return Err(TorchError::Ambiguous { first, second: wrapper });
        }
        found = Some((wrapper, inner));
    }
    Ok(found.map(|(_, inner)| inner))
}

/// Entries that modules add for themselves and that are no weights.
fn is_metadata(key: &str) -> bool {
    key == "_metadata" || key == "_extra_state" || key.ends_with("._extra_state")
}

struct Layout<'f> {
    archive: &'f Archive<'f>,
    heap: &'f Pickled<'f>,
    /// Size in bytes of each storage seen.
    sizes: BTreeMap<&'f str, u64>,
}

impl<'f> Layout<'f> {
    fn place(&mut self, name: &str, tensor: Tensor) -> Result<TorchTensor, TorchError> {
        let bad = |what| TorchError::BadTensor { tensor: shown(name), what };
        if name.len() > MAX_NAME {
            return Err(bad("its name is longer than 4096 bytes"));
        }
        if tensor.lazy {
            return Err(bad(
                "it is a conjugated or negated view: save it with .resolve_conj().resolve_neg()",
            ));
        }
        let storage = self.storage(name, tensor.storage)?;
        let shape = self.sizes_of(tensor.shape).ok_or_else(|| bad("its shape is not made of sizes"))?;
        let strides =
            self.sizes_of(tensor.strides).ok_or_else(|| bad("its strides are not made of sizes"))?;
        if shape.len() != strides.len() || shape.len() > MAX_DIMS {
            return Err(bad("its shape and strides differ in length or have more than 32 dimensions"));
        }
        let before = u64::try_from(tensor.offset).map_err(|_| bad("its offset is negative"))?;
        let size = tensor.dtype.size() as u64;
        let bytes = storage.end - storage.start;
        let Some(span) = span(&shape, &strides) else {
            let offset = storage.start;
            return Ok(TorchTensor {
                name: name.to_owned(),
                dtype: tensor.dtype,
                shape,
                strides,
                offset,
                storage,
            });
        };
        let past = || TorchError::OutOfStorage { tensor: shown(name), storage: bytes };
        let offset = before.checked_mul(size).ok_or_else(past)?;
        let needed = span.reach.checked_mul(size).and_then(|reach| reach.checked_add(offset));
        needed.filter(|needed| *needed <= bytes).ok_or_else(past)?;
        let dense = span.count.checked_mul(size).filter(|dense| *dense <= bytes.max(MAX_REPEATED));
        dense.ok_or_else(|| bad("it repeats its elements too often: save it with .contiguous()"))?;
        let offset = storage.start + offset;
        Ok(TorchTensor { name: name.to_owned(), dtype: tensor.dtype, shape, strides, offset, storage })
    }

    /// Where the storage lies, checked against the entry and against earlier tensors.
    fn storage(&mut self, name: &str, index: usize) -> Result<Range<u64>, TorchError> {
        let storage = self.heap.storages[index];
        let tensor = || shown(name);
        let path = format!("data/{}", storage.key);
        let entry = || shown(&self.archive.full_name(&path));
        let needed =
            u64::try_from(storage.len).ok().and_then(|len| len.checked_mul(storage.element.size() as u64));
        let needed = needed.ok_or_else(|| TorchError::BadTensor {
            tensor: tensor(),
            what: "its storage has an impossible size",
        })?;
        let Some(range) = self.archive.range(&path)? else {
            return Err(TorchError::MissingStorage { tensor: tensor(), entry: entry() });
        };
        let found = range.end - range.start;
        if needed > found {
            return Err(TorchError::ShortStorage { tensor: tensor(), entry: entry(), needed, found });
        }
        let before = *self.sizes.entry(storage.key).or_insert(needed);
        if before != needed {
            return Err(TorchError::StorageConflict {
                tensor: tensor(),
                entry: entry(),
                here: needed,
                before,
            });
        }
        Ok(range.start..range.start + needed)
    }

    fn sizes_of(&self, slice: Slice) -> Option<Vec<usize>> {
        let values = self.heap.tuple(slice);
        let size = |value: &Value<'_>| match value {
            Value::Int(size) => usize::try_from(*size).ok(),
            _ => None,
        };
        values.get(..values.len().min(MAX_DIMS + 1))?.iter().map(size).collect()
    }
}

/// How far the elements of a tensor reach.
struct Span {
    /// Number of elements; saturates.
    count: u64,
    /// Elements from the first to the last, both included: 1 + Σ (shape − 1) · stride; saturates.
    reach: u64,
}

/// `None` if the tensor has no elements.
fn span(shape: &[usize], strides: &[usize]) -> Option<Span> {
    if shape.contains(&0) {
        return None;
    }
    let dims = || shape.iter().zip(strides).map(|(len, stride)| (*len as u64, *stride as u64));
    Some(Span {
        count: dims().fold(1, |count, (len, _)| count.saturating_mul(len)),
        reach: dims().fold(1, |reach, (len, stride)| reach.saturating_add((len - 1).saturating_mul(stride))),
    })
}

#[cfg(test)]
mod tests;
