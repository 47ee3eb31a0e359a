//! What can be wrong with an adapter, each with the facts and the remedy. `CheckpointError::Adapter` adds the path.

/// A reason why an adapter cannot be applied exactly.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum AdapterError {
    /// A file of the adapter is not there.
    #[error("no {expected} found{hint}")]
    MissingFile {
        /// The file, or its possible names.
        expected: &'static str,
        /// What is there instead, with the remedy; empty if nothing is recognised.
        hint: String,
    },
    /// The configuration is larger than any real one.
    #[error(
        "adapter_config.json has {found} bytes, more than the limit of {limit}; this is not an adapter's configuration"
    )]
    ConfigTooLarge {
        /// Its size.
        found: u64,
        /// The limit.
        limit: u64,
    },
    /// The configuration is not a JSON object.
    #[error("adapter_config.json is not a JSON object: {message}")]
    ConfigInvalid {
        /// Where and why.
        message: String,
    },
    /// A method other than LoRA.
    #[error(
        "peft_type {found} is not supported, only LORA is; merge the adapter with PEFT's merge_and_unload and use the merged model"
    )]
    PeftType {
        /// The method's name.
        found: String,
    },
    /// A known key with a value it cannot have.
    #[error("adapter_config.json: `{key}` is {found}; expected {expected}")]
    Value {
        /// The key.
        key: String,
        /// What it may be.
        expected: &'static str,
        /// What it is, shortened.
        found: String,
    },
    /// A known feature that is not supported.
    #[error("adapter_config.json: `{key}` is {found}, which is not supported: {why}")]
    Unsupported {
        /// The key.
        key: String,
        /// Its value, shortened.
        found: String,
        /// What it does and what to do instead.
        why: &'static str,
    },
    /// A key that is not known and whose value may change the result.
    #[error(
        "adapter_config.json: unknown key `{key}` with value {found}: it may change the weights; remove it if it does not, else merge with the PEFT version that wrote it"
    )]
    UnknownKey {
        /// The key.
        key: String,
        /// Its value, shortened.
        found: String,
    },
    /// A key of `rank_pattern` or `alpha_pattern` that is not a regular expression we can match.
    #[error("adapter_config.json: `{key}`: the pattern `{pattern}` cannot be used: {message}")]
    Pattern {
        /// `rank_pattern` or `alpha_pattern`.
        key: &'static str,
        /// The pattern.
        pattern: String,
        /// Why not.
        message: String,
    },
    /// The weight file holds no tensor.
    #[error("the adapter holds no tensors")]
    Empty,
    /// A tensor whose name PEFT does not write for LoRA.
    #[error(
        "adapter tensor `{tensor}` has a name that is not known; expected `base_model.model.<module>.lora_A.weight` and its like, or a whole tensor of the model"
    )]
    UnknownTensor {
        /// Its name in the file.
        tensor: String,
    },
    /// Half of a pair.
    #[error(
        "module `{module}` has `{present}` but no `{missing}`; the adapter was saved incompletely, save it again"
    )]
    Incomplete {
        /// The adapted module.
        module: String,
        /// The part in the file.
        present: &'static str,
        /// The part that belongs to it.
        missing: &'static str,
    },
    /// A tensor that the configuration says cannot be there, or one it asks for that is not.
    #[error(
        "module `{module}`: `{part}` is {state} the file, but adapter_config.json says `{key}: {value}`; config and weights belong to different adapters"
    )]
    Contradiction {
        /// The adapted module.
        module: String,
        /// The part.
        part: &'static str,
        /// `in` or `not in`.
        state: &'static str,
        /// The configuration's key.
        key: &'static str,
        /// Its value.
        value: String,
    },
    /// A module named in `modules_to_save` is in the base but not in the adapter.
    #[error(
        "adapter_config.json lists `{module}` in modules_to_save, the base has `{tensor}`, but the adapter does not hold it; save the adapter again"
    )]
    NotSaved {
        /// The module as listed.
        module: String,
        /// A tensor of the base.
        tensor: String,
    },
    /// No tensor of the base takes a tensor of the adapter.
    #[error(
        "adapter tensor `{tensor}` needs the base tensor `{wanted}`, which the base does not have; it was made for another base, or for a tensor that the base ties or quantises and does not store"
    )]
    NoTarget {
        /// The adapter's tensor.
        tensor: String,
        /// The base tensor that was looked for.
        wanted: String,
    },
    /// More than one tensor of the base could take a tensor of the adapter.
    #[error(
        "`{wanted}` of the adapter could be any of {candidates:?} of the base; save the adapter from the same model class as the base"
    )]
    AmbiguousTarget {
        /// The base tensor that was looked for.
        wanted: String,
        /// Base tensors whose names fit.
        candidates: Vec<String>,
    },
    /// Names of adapter and base differ in more than one way.
    #[error(
        "names of adapter and base differ inconsistently: `{first}` and `{second}`; it was made for another base"
    )]
    MixedPrefixes {
        /// One difference, as `adapter name -> base name`.
        first: String,
        /// Another.
        second: String,
    },
    /// Two tensors of the adapter replace or change the same tensor.
    #[error("two parts of the adapter, `{first}` and `{second}`, apply to the same base tensor `{target}`")]
    Conflict {
        /// The base tensor.
        target: String,
        /// One part.
        first: String,
        /// The other.
        second: String,
    },
    /// Shapes of adapter and base do not fit.
    #[error(
        "adapter for another base: `{tensor}` of the adapter has shape {found:?}, the base tensor `{target}` has shape {base:?}"
    )]
    Shape {
        /// The adapter's tensor.
        tensor: String,
        /// Its shape.
        found: Vec<usize>,
        /// The base tensor.
        target: String,
        /// Its shape.
        base: Vec<usize>,
    },
    /// The two factors do not belong together, or not to the configured rank.
    #[error(
        "module `{module}`: lora_A has shape {a:?} and lora_B {b:?}, the configuration says rank {rank}; config and weights belong to different adapters"
    )]
    Rank {
        /// The adapted module.
        module: String,
        /// Shape of A.
        a: Vec<usize>,
        /// Shape of B.
        b: Vec<usize>,
        /// Rank of the configuration for this module.
        rank: usize,
    },
    /// A square weight, and the other modules contradict `fan_in_fan_out`.
    #[error(
        "module `{module}`: its weight is square, and `fan_in_fan_out: {flag}` contradicts the shapes of other modules, so it cannot be known whether it is stored transposed; set fan_in_fan_out right for this module and split the adapter, or merge it with PEFT"
    )]
    Orientation {
        /// The adapted module.
        module: String,
        /// The configured flag.
        flag: bool,
    },
    /// A tensor that takes part in arithmetic is not floating point, or its values need scales kept elsewhere.
    #[error(
        "tensor `{tensor}` has dtype {dtype}: {what} cannot take a LoRA delta; use the unquantised model as base"
    )]
    NotFloat {
        /// The tensor.
        tensor: String,
        /// Its element type.
        dtype: crate::Dtype,
        /// What kind of tensor that is.
        what: &'static str,
    },
    /// `trainable_token_indices` and the saved rows do not fit.
    #[error("`{tensor}`: {message}")]
    Tokens {
        /// The saved rows' name.
        tensor: String,
        /// What does not fit.
        message: String,
    },
}
