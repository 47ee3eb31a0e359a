//! Why a model cannot run.

use super::batch::BatchError;

/// Why a model cannot run.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ModelError {
    /// The model does not read text.
    #[error("a model of type `{model_type}` does not read text")]
    NotText {
        /// Its `model_type`.
        model_type: String,
    },
    /// The model does not look at images.
    #[error("a model of type `{model_type}` does not classify images")]
    NotVision {
        /// Its `model_type`.
        model_type: String,
    },
    /// The model does not compare images and texts.
    #[error("a model of type `{model_type}` does not compare images and texts: that does clip")]
    NotClip {
        /// Its `model_type`.
        model_type: String,
    },
    /// A classifier of another model.
    #[error(
        "the vectors of classes have {found} elements, the model's have {expected}; make them with the same model"
    )]
    VectorWidth {
        /// Elements of the classes' vectors.
        found: usize,
        /// Elements of the model's.
        expected: usize,
    },
    /// The batch does not fit.
    #[error(transparent)]
    Batch(#[from] BatchError),
    /// The checkpoint is of a base model.
    #[error(
        "the model has no head: its config.json names a base model in `architectures`, from which nothing can be learnt; use a \
         checkpoint saved with its head"
    )]
    NoHead,
    /// A task without a head of its own.
    #[error("task {task} has no head; add it to the parameters before the model is built")]
    NoTaskHead {
        /// The task.
        task: u32,
    },
    /// Scores of tokens are asked of a classifier.
    #[error(
        "the model's head classifies sequences and gives no scores of tokens; use a checkpoint of a language model"
    )]
    NoLanguageHead,
    /// A word for a class that the model does not have.
    #[error("the token {word} stands for a class, and the model has {vocabulary} tokens")]
    NoWord {
        /// The token.
        word: u32,
        /// Tokens of the model.
        vocabulary: usize,
    },
    /// Scores of classes are asked of a language model.
    #[error("the model's head gives no scores of classes; use a checkpoint of a sequence classifier")]
    NoClassHead,
    /// Text goes on from nothing.
    #[error("prompt {prompt} is empty; begin it with the model's first token (`bos_token`)")]
    EmptyPrompt {
        /// Which, from 0.
        prompt: usize,
    },
    /// Prompts with all that may be added to them.
    #[error(
        "generation: {rows} tokens at once, at most {most} are possible; give fewer prompts at a time or add fewer tokens"
    )]
    CacheTooLarge {
        /// Tokens of all texts.
        rows: usize,
        /// Limit.
        most: usize,
    },
    /// A way of choosing tokens that is none.
    #[error("generation: `{key}` is {found}, expected {expected}")]
    Sampling {
        /// Which setting.
        key: &'static str,
        /// Its value, as text.
        found: String,
        /// What it may be.
        expected: &'static str,
    },
    /// A row that is not in the batch.
    #[error("row {row} of a batch of {rows}")]
    NoRow {
        /// The row.
        row: u32,
        /// Rows of the batch.
        rows: usize,
    },
}
