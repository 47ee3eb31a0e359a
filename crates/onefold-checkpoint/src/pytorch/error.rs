//! Why a PyTorch checkpoint was refused. The caller knows the path and adds it.

use thiserror::Error;

/// A checkpoint that cannot be read, or that we refuse to read. Every text from the file is shortened and
/// escaped, so that a hostile file cannot write control characters to a terminal.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum TorchError {
    /// The first bytes belong to something else.
    #[error("not a PyTorch zip checkpoint: {found}")]
    NotTorch {
        /// What the first bytes look like, with the remedy.
        found: &'static str,
    },
    /// A checkpoint of `torch.save` before 1.6, or with `_use_new_zipfile_serialization=False`.
    #[error(
        "a pickle of the format before PyTorch 1.6, which is not read here: load it with \
         torch.load(file, weights_only=True) and write the result with safetensors.torch.save_file, or again \
         with torch.save"
    )]
    Legacy,
    /// `torch.jit.save` wrote code and weights, not a state dict.
    #[error("a TorchScript program, not a state dict: save model.state_dict() of the loaded program")]
    TorchScript,
    /// The zip container is damaged or of a kind torch does not write.
    #[error("the zip container is damaged: {reason}; fetch or save the file again")]
    Zip {
        /// What is wrong.
        reason: String,
    },
    /// No `<folder>/data.pkl`.
    #[error("the zip holds no <folder>/data.pkl, so torch.save did not write it")]
    NoPickle,
    /// Two folders each have a `data.pkl`.
    #[error("the zip holds two checkpoints, `{first}` and `{second}`: split it")]
    TwoFolders {
        /// First folder.
        first: String,
        /// Second folder.
        second: String,
    },
    /// An entry that is needed is compressed or encrypted, so its bytes cannot be read in place.
    #[error(
        "entry `{entry}` is {how}: torch.save stores entries as they are; unpack it and pack it with `zip -0`"
    )]
    NotStored {
        /// Path inside the zip.
        entry: String,
        /// `compressed` or `encrypted`.
        how: &'static str,
    },
    /// The file was written on a big-endian machine.
    #[error("byte order `{found}`, only `little` is read: save the file again on a little-endian machine")]
    ByteOrder {
        /// The entry `byteorder`.
        found: String,
    },
    /// A file format version this reader does not know.
    #[error(
        "file format version `{found}`, known are 1 to {known}: convert it to safetensors with the tool that made it"
    )]
    Version {
        /// The entry `version`.
        found: String,
        /// Newest version known.
        known: u32,
    },
    /// Larger than any checkpoint needs; refused before memory is taken.
    #[error("{what}: {found}, more than the {limit} a checkpoint may need")]
    TooLarge {
        /// What is too large, with its unit.
        what: &'static str,
        /// Its size.
        found: u64,
        /// The limit.
        limit: u64,
    },
    /// `data.pkl` is not what a pickler writes.
    #[error("data.pkl is damaged at byte {at}: {what}")]
    Malformed {
        /// Offset in `data.pkl` just after the instruction.
        at: usize,
        /// What is wrong.
        what: &'static str,
    },
    /// An instruction that `torch.save` does not use for a state dict.
    #[error(
        "data.pkl has instruction {opcode:#04x} at byte {at}, which no state dict needs: save \
         model.state_dict(), or convert it to safetensors with the tool that made it"
    )]
    Opcode {
        /// The instruction.
        opcode: u8,
        /// Its offset in `data.pkl`.
        at: usize,
    },
    /// The pickle asks for a function or class outside the allow-list. Nothing was called.
    #[error(
        "refused: `{global}`: loading this file in Python would run it, and it is not part of a state dict; \
         convert the file to safetensors with the tool that made it"
    )]
    Refused {
        /// `module.name`.
        global: String,
    },
    /// A kind of tensor that is not a plain array.
    #[error("refused: a {kind} tensor (`{global}`): save a plain dense one instead")]
    TensorKind {
        /// Quantised, sparse and so on.
        kind: &'static str,
        /// The function that would rebuild it.
        global: String,
    },
    /// An element type without a safetensors counterpart.
    #[error("element type `{found}` is not supported: cast the tensor before saving it")]
    ElementType {
        /// The torch name.
        found: String,
    },
    /// The top level is not a mapping.
    #[error("the file holds a {found}, not a mapping of names to tensors: save model.state_dict()")]
    TopLevel {
        /// Kind of value.
        found: &'static str,
    },
    /// A value of the state dict is not a tensor.
    #[error(
        "`{key}` holds a {found}, not a tensor: save only the state dict (of wrappers only a mapping of tensors \
         under state_dict, model or module is unwrapped)"
    )]
    NotTensor {
        /// Key in the mapping.
        key: String,
        /// Kind of value.
        found: &'static str,
    },
    /// A key of the state dict is not a string.
    #[error("a key of the state dict is a {found}, not a string")]
    KeyKind {
        /// Kind of key.
        found: &'static str,
    },
    /// Two keys could each be the state dict.
    #[error("`{first}` and `{second}` both hold tensors: save the wanted one alone")]
    Ambiguous {
        /// First key.
        first: &'static str,
        /// Second key.
        second: &'static str,
    },
    /// Nothing to read.
    #[error("the checkpoint holds no tensor")]
    NoTensors,
    /// The bytes of a tensor are not in the zip.
    #[error("tensor `{tensor}`: its storage, entry `{entry}`, is missing; fetch or save the file again")]
    MissingStorage {
        /// Name of the tensor.
        tensor: String,
        /// Path inside the zip.
        entry: String,
    },
    /// The entry is smaller than the pickle says.
    #[error("tensor `{tensor}`: its storage needs {needed} bytes, entry `{entry}` has {found}")]
    ShortStorage {
        /// Name of the tensor.
        tensor: String,
        /// Path inside the zip.
        entry: String,
        /// Bytes the pickle declares.
        needed: u64,
        /// Bytes in the zip.
        found: u64,
    },
    /// Two tensors declare different sizes for the storage they share.
    #[error("tensor `{tensor}`: storage `{entry}` has {here} bytes here, {before} for an earlier tensor")]
    StorageConflict {
        /// Name of the tensor.
        tensor: String,
        /// Path inside the zip.
        entry: String,
        /// Bytes declared here.
        here: u64,
        /// Bytes declared before.
        before: u64,
    },
    /// Offset, shape and strides reach past the storage.
    #[error("tensor `{tensor}`: offset, shape and strides reach past its storage of {storage} bytes")]
    OutOfStorage {
        /// Name of the tensor.
        tensor: String,
        /// Bytes of the storage.
        storage: u64,
    },
    /// A tensor description that makes no sense.
    #[error("tensor `{tensor}`: {what}")]
    BadTensor {
        /// Name of the tensor.
        tensor: String,
        /// What is wrong.
        what: &'static str,
    },
}

/// `text` fit for a message: control characters escaped, at most 200 characters.
pub(super) fn shown(text: &str) -> String {
    const LONGEST: usize = 200;
    let mut short: String = text.chars().take(LONGEST).flat_map(char::escape_debug).collect();
    if text.chars().nth(LONGEST).is_some() {
        short.push('…');
    }
    short
}
