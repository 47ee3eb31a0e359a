//! What can be wrong with the tokenizers of a merge, each with its remedy.

use std::path::PathBuf;

/// A problem that stops the building of the output tokenizer or chat template.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TokenizerError {
    /// Several problems at once.
    #[error("{} problems with the tokenizers:\n{}", .0.len(), list(.0))]
    Several(Vec<TokenizerError>),
    /// A file cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// A file is larger than any tokenizer.
    #[error("{} has {bytes} bytes; tokenizer files over {limit} bytes are not read", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Its size.
        bytes: u64,
        /// The largest size read.
        limit: u64,
    },
    /// A file is not the JSON it should be.
    #[error("{} is not a valid {what}: {reason}; save the tokenizer again with transformers", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What it should have been.
        what: &'static str,
        /// What is wrong.
        reason: String,
    },
    /// A tokenizer model this program does not know how to read.
    #[error(
        "{}: tokenizer model {kind:?} is not known; BPE, WordPiece, WordLevel and Unigram are",
        path.display()
    )]
    UnknownModel {
        /// The `tokenizer.json`.
        path: PathBuf,
        /// Its `model.type`.
        kind: String,
    },
    /// A model without a fast tokenizer among models that differ.
    #[error(
        "{label}: no tokenizer.json in {} ({}); differing vocabularies need one: load the tokenizer with \
         transformers' AutoTokenizer and save_pretrained() it there",
        dir.display(),
        if found.is_empty() { "no tokenizer files at all".to_owned() } else { format!("only {}", found.join(", ")) }
    )]
    NoFastTokenizer {
        /// The model.
        label: String,
        /// Its directory.
        dir: PathBuf,
        /// The tokenizer files it has.
        found: Vec<String>,
    },
    /// Token rules or padding were asked for, but the tokenizers cannot be read, only copied.
    #[error(
        "`{what}` needs the vocabulary, but the models have no tokenizer.json: load the tokenizer with \
         transformers' AutoTokenizer and save_pretrained() it into each model's directory"
    )]
    OnlyCopied {
        /// The part of the recipe that needs the vocabulary.
        what: &'static str,
    },
    /// The request has no models, or more than a map can number.
    #[error("{count} models given; a tokenizer is built from 1 to {limit}")]
    ModelCount {
        /// Number of models.
        count: usize,
        /// Largest number.
        limit: usize,
    },
    /// An index of a model beyond the request's models.
    #[error("{what} names model number {index}, but there are {count} models")]
    NoSuchModel {
        /// Which part of the request.
        what: String,
        /// The index.
        index: usize,
        /// Number of models.
        count: usize,
    },
    /// An embedding has no rows, or too many.
    #[error("{label}: {rows} embedding rows; between 1 and {limit} are supported")]
    RowCount {
        /// The model, or `output`.
        label: String,
        /// Number of rows.
        rows: usize,
        /// Largest number.
        limit: usize,
    },
    /// `pad_to_multiple_of: 0`.
    #[error("`pad_to_multiple_of` must be at least 1; leave it out for no padding")]
    PadToZero,
    /// The tokenizer of the output would have no tokens.
    #[error("{label}: no token of its tokenizer has a row in its embedding of {rows} rows")]
    NoTokens {
        /// The model whose tokenizer was chosen.
        label: String,
        /// Its embedding rows.
        rows: usize,
    },
    /// The unknown token is among the tokens without an embedding row.
    #[error(
        "{label}: the tokenizer's unknown token {token:?} has no row in the embedding of {rows} rows; \
         resize the model's embeddings or fix its tokenizer.json"
    )]
    UnknownTokenOutOfRange {
        /// The model whose tokenizer was chosen.
        label: String,
        /// The unknown token (its text, or its id for Unigram).
        token: String,
        /// Its embedding rows.
        rows: usize,
    },
    /// A token named by a rule is empty.
    #[error("`tokens` has an entry with an empty name")]
    EmptyToken,
    /// Two rules for one token.
    #[error("`tokens` names {token:?} twice; keep one entry")]
    DuplicateRule {
        /// The token.
        token: String,
    },
    /// A rule takes a token from a model that has no such token.
    #[error(
        "`tokens` entry {token:?}: {label} has no token {wanted:?} with an embedding row{}",
        hint(similar)
    )]
    TokenNotInModel {
        /// The entry.
        token: String,
        /// The model it names.
        label: String,
        /// The token looked for.
        wanted: String,
        /// The nearest token of that model.
        similar: Option<String>,
    },
    /// A rule takes a row the model does not have.
    #[error("`tokens` entry {token:?}: token id {id} is beyond the {rows} embedding rows of {label}")]
    IdOutOfRange {
        /// The entry.
        token: String,
        /// The model it names.
        label: String,
        /// The id.
        id: u32,
        /// The model's embedding rows.
        rows: usize,
    },
    /// `chat_template` is neither a built-in's name nor a template.
    #[error(
        "`chat_template: {text:?}` is neither auto, one of {}, nor a Jinja template (at least 20 characters \
         with a `{{`){}",
        known.join(", "),
        hint(similar)
    )]
    UnknownTemplate {
        /// What was given.
        text: String,
        /// The built-in names.
        known: Vec<&'static str>,
        /// The nearest name.
        similar: Option<String>,
    },
    /// The template is not valid Jinja.
    #[error("the chat template is not valid Jinja: {reason}")]
    TemplateSyntax {
        /// Line and reason.
        reason: String,
    },
    /// `auto`, but no model has a template.
    #[error(
        "`chat_template: auto` found no chat template in any of the {models} models; name a built-in one or \
         leave `chat_template` out"
    )]
    NoTemplate {
        /// Number of models looked at.
        models: usize,
    },
}

impl TokenizerError {
    /// One error for a list of them: itself if single, `Ok` if none.
    pub(super) fn all(mut problems: Vec<TokenizerError>) -> Result<(), TokenizerError> {
        match problems.len() {
            0 => Ok(()),
            1 => Err(problems.remove(0)),
            _ => Err(TokenizerError::Several(problems)),
        }
    }
}

fn list(problems: &[TokenizerError]) -> String {
    problems.iter().map(|problem| format!("- {problem}")).collect::<Vec<_>>().join("\n")
}

fn hint(similar: &Option<String>) -> String {
    similar.as_ref().map_or_else(String::new, |name| format!("; did you mean {name:?}?"))
}
