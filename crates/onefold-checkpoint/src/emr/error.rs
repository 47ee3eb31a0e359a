//! What can be wrong with an artefact or with the base it is put on. `CheckpointError::Emr` adds the path.

/// A reason why a task cannot be extracted exactly.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum EmrError {
    /// The manifest is larger than any real one.
    #[error("emr.json has {found} bytes, more than the limit of {limit}; this is not an artefact's manifest")]
    TooLarge {
        /// Its size.
        found: u64,
        /// The limit.
        limit: u64,
    },
    /// The manifest is not the JSON that it should be.
    #[error("emr.json is not a manifest: {message}; merge again with `merge_method: emr`")]
    Invalid {
        /// Where and why.
        message: String,
    },
    /// A version of the format that is not known.
    #[error("emr.json has the format {found}, expected {expected}; use the onefold version that wrote it")]
    Format {
        /// As written.
        found: String,
        /// What is read here.
        expected: &'static str,
    },
    /// A tensor that an artefact does not hold.
    #[error("tensor `{tensor}` belongs to no weight of the base; expected `unified.NAME` and `mask.NAME`")]
    UnknownTensor {
        /// The tensor.
        tensor: String,
    },
    /// Half of a pair.
    #[error("`{present}` is there but not `{missing}`; the artefact is incomplete, merge again")]
    Incomplete {
        /// What is there.
        present: String,
        /// What is not.
        missing: String,
    },
    /// A tensor of another type or shape than emr.json speaks of.
    #[error(
        "tensor `{tensor}` is {found}, expected {expected}; the files are not of one artefact, merge again"
    )]
    Shape {
        /// The tensor.
        tensor: String,
        /// Type and shape that it has.
        found: String,
        /// Those that it should have.
        expected: String,
    },
    /// The base is not the one that the task vectors were taken from.
    #[error(
        "tensor `{tensor}` of the base is {found}, expected {expected}: this is not the base that the artefact was made with; name that one as `base_model`"
    )]
    OtherBase {
        /// The tensor.
        tensor: String,
        /// What the base has.
        found: String,
        /// What the artefact was made with.
        expected: String,
    },
}
