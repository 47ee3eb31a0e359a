//! Everything that can be wrong with files. Each variant carries the facts a user needs to act on.

use std::io;
use std::path::{Path, PathBuf};

use crate::Dtype;
use crate::adapter::AdapterError;
use crate::emr::EmrError;
use crate::pytorch::TorchError;

/// A problem with a checkpoint that is read or an output that is written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CheckpointError {
    /// The operating system refused an operation.
    #[error("{path}: cannot {action}: {source}", path = path.display())]
    Io {
        /// File or directory.
        path: PathBuf,
        /// What was tried, as a verb phrase.
        action: &'static str,
        /// The system's reason.
        source: io::Error,
    },
    /// No directory and no file has that name.
    #[error("{path}: no such file or directory; expected a Hugging Face model directory", path = path.display())]
    NotFound {
        /// The path that was given.
        path: PathBuf,
    },
    /// A directory without weights in a form that is read.
    #[error(
        "{dir}: no weights found; expected model.safetensors, model.safetensors.index.json, pytorch_model.bin \
         or pytorch_model.bin.index.json{hint}", dir = dir.display()
    )]
    NoWeights {
        /// The directory.
        dir: PathBuf,
        /// What is there instead, with the remedy; empty if nothing is recognised.
        hint: String,
    },
    /// The file ends before its header does.
    #[error("{path}: truncated: {expected} bytes expected, the file has {found}", path = path.display())]
    Truncated {
        /// The shard.
        path: PathBuf,
        /// Bytes that the header promises.
        expected: u64,
        /// Bytes in the file.
        found: u64,
    },
    /// The header's declared length is beyond what any safetensors reader accepts.
    #[error("{path}: the header declares {found} bytes, more than the format's limit of {limit}; this is not a safetensors file", path = path.display())]
    HeaderTooLarge {
        /// The shard.
        path: PathBuf,
        /// Declared length.
        found: u64,
        /// The limit.
        limit: u64,
    },
    /// The header is not the JSON that the format asks for.
    #[error("{path}: invalid safetensors header: {message}", path = path.display())]
    HeaderInvalid {
        /// The shard.
        path: PathBuf,
        /// Where and why.
        message: String,
    },
    /// An element type that no reader here knows.
    #[error("{path}: tensor `{tensor}` has dtype {found}, which is not supported; expected one of F64 F32 F16 BF16 F8_E4M3 F8_E5M2 (merged) or BOOL U8 I8 I16 U16 I32 U32 I64 U64 C64 F8_E8M0 (copied)", path = path.display())]
    UnknownDtype {
        /// The shard.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// The dtype as written.
        found: String,
    },
    /// Shape, dtype and byte range of a tensor contradict one another.
    #[error("{path}: tensor `{tensor}`: {dtype} of shape {shape:?} takes {expected} bytes, its offsets span {found}", path = path.display())]
    SizeMismatch {
        /// The shard.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// Its element type.
        dtype: Dtype,
        /// Its shape.
        shape: Vec<usize>,
        /// Bytes that dtype and shape ask for.
        expected: u64,
        /// Bytes between its offsets.
        found: u64,
    },
    /// A shape whose size does not fit the address space.
    #[error("{path}: tensor `{tensor}`: shape {shape:?} overflows", path = path.display())]
    ShapeOverflow {
        /// The shard.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// Its shape.
        shape: Vec<usize>,
    },
    /// Tensors overlap or leave bytes that belong to none.
    #[error("{path}: tensor `{tensor}` starts at byte {found} of the data, expected {expected} (overlap or hole)", path = path.display())]
    BadOffset {
        /// The shard.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// Where the previous tensor ends.
        expected: u64,
        /// Where this one starts.
        found: u64,
    },
    /// The same tensor twice.
    #[error("tensor `{tensor}` is stored twice: in {first} and in {second}", first = first.display(), second = second.display())]
    Duplicate {
        /// The tensor.
        tensor: String,
        /// First file.
        first: PathBuf,
        /// Second file.
        second: PathBuf,
    },
    /// An index that is not one.
    #[error("{path}: invalid index: {message}", path = path.display())]
    IndexInvalid {
        /// The index file.
        path: PathBuf,
        /// Where and why.
        message: String,
    },
    /// The index names a shard that is not there.
    #[error("{index}: shard `{shard}` ({tensors} tensors) is missing; download the model again", index = index.display())]
    MissingShard {
        /// The index file.
        index: PathBuf,
        /// The shard's name.
        shard: String,
        /// How many tensors it should hold.
        tensors: usize,
    },
    /// The index places a tensor in a shard that does not hold it.
    #[error("{index}: tensor `{tensor}` should be in `{shard}`, which does not hold it", index = index.display())]
    NotInShard {
        /// The index file.
        index: PathBuf,
        /// The tensor.
        tensor: String,
        /// The shard's name.
        shard: String,
    },
    /// A PyTorch file that is damaged, or that could run code.
    #[error("{path}: {source}", path = path.display())]
    Torch {
        /// The file.
        path: PathBuf,
        /// Why it is refused.
        source: TorchError,
    },
    /// An adapter that cannot be applied exactly.
    #[error("{path}: {source}", path = path.display())]
    Adapter {
        /// Directory or file of the adapter.
        path: PathBuf,
        /// What is wrong with it.
        source: Box<AdapterError>,
    },
    /// An EMR artefact that a task cannot be extracted from exactly.
    #[error("{path}: {source}", path = path.display())]
    Emr {
        /// Directory or manifest of the artefact.
        path: PathBuf,
        /// What is wrong with it or with its base.
        source: Box<EmrError>,
    },
    /// A `modules.json` that is not one.
    #[error("{path}: {message}", path = path.display())]
    Modules {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        message: String,
    },
    /// Files of a model's folders that lie elsewhere.
    #[error(
        "{dir}: links in the folders of a model may not lead out of it: {shown}; put the files themselves there",
        dir = dir.display(), shown = shown(links)
    )]
    LinkOutside {
        /// The model's directory.
        dir: PathBuf,
        /// Each link, and where it leads.
        links: Vec<(String, PathBuf)>,
    },
    /// The output directory exists already.
    #[error("{path}: exists already; give --force to replace it", path = path.display())]
    OutputExists {
        /// The output.
        path: PathBuf,
    },
    /// `--force` would delete something that is no model.
    #[error(
        "{path}: holds no model, so --force does not delete it; choose another -o, or remove it yourself", path = path.display()
    )]
    OutputIsNoModel {
        /// The output.
        path: PathBuf,
    },
    /// What stands where the unfinished output would be is not ours to clear.
    #[error(
        "{path}: the unfinished output would be here, but this is no unfinished output of onefold; move it away, or choose \
         another -o", path = path.display()
    )]
    PartialIsForeign {
        /// The place of the unfinished output.
        path: PathBuf,
    },
    /// The output would replace something that is read.
    #[error("{path}: the output would overwrite the input {input}; choose another -o", path = path.display(), input = input.display())]
    OutputIsInput {
        /// The output.
        path: PathBuf,
        /// The input.
        input: PathBuf,
    },
    /// Another run writes to the same place.
    #[error("{path}: another onefold run is writing here; wait for it or end it", path = path.display())]
    OutputBusy {
        /// The partial output.
        path: PathBuf,
    },
    /// An unfinished run of another job.
    #[error(
        "{path}: here lies an unfinished run of another recipe, other data or another version of onefold; go on with that one, \
         choose another -o, or discard it with --force", path = path.display()
    )]
    OtherRun {
        /// The directory of the run.
        path: PathBuf,
    },
    /// A log that has lost lines.
    #[error("{path}: the log has {found} bytes, the checkpoint knows of {expected}; remove the directory of the run (`OUT.run`) to begin anew", path = path.display())]
    ShortLog {
        /// The log.
        path: PathBuf,
        /// Bytes it had.
        expected: u64,
        /// Bytes it has.
        found: u64,
    },
    /// The file system cannot hold the result.
    #[error("{path}: not enough space: {needed} bytes needed, {available} available", path = path.display())]
    NoSpace {
        /// The output.
        path: PathBuf,
        /// Bytes still to be allocated.
        needed: u64,
        /// Bytes that the file system offers.
        available: u64,
    },
}

/// The first few links.
fn shown(links: &[(String, PathBuf)]) -> String {
    const SHOWN: usize = 4;
    let one = |(name, target): &(String, PathBuf)| format!("{} → {}", name.escape_debug(), target.display());
    let shown: Vec<String> = links.iter().take(SHOWN).map(one).collect();
    let rest = links.len().saturating_sub(SHOWN);
    shown.join(", ") + &if rest > 0 { format!(" and {rest} more") } else { String::new() }
}

impl CheckpointError {
    /// Wraps a system error with its path and the action that failed.
    pub fn io(path: &Path, action: &'static str) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { path, action, source }
    }

    /// Says of which artefact `source` is a problem.
    pub(crate) fn emr(path: &Path, source: EmrError) -> Self {
        Self::Emr { path: path.to_owned(), source: Box::new(source) }
    }

    /// Says of which adapter `source` is a problem.
    pub(crate) fn adapter(path: &Path, source: AdapterError) -> Self {
        Self::Adapter { path: path.to_owned(), source: Box::new(source) }
    }
}
