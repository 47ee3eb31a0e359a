//! What is asked of the tokenizer of a merge, and the checks that need no files.

use std::collections::BTreeSet;
use std::path::PathBuf;

use super::error::TokenizerError;

/// The most rows an embedding may have: five hundred times the largest vocabularies known.
pub const MAX_ROWS: usize = 1 << 27;
/// The most models of one merge.
pub const MAX_MODELS: usize = 1024;

/// What one model brings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelTokenizer {
    /// How the recipe calls it.
    pub label: String,
    /// The directory of its tokenizer files.
    pub dir: PathBuf,
    /// Rows of its embedding as stored.
    pub rows: usize,
}

/// Whose vocabulary the output has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// The base's, with its ids, and after it all tokens only others have.
    Union,
    /// The base's.
    Base,
    /// That of the model with this index.
    Model(usize),
}

/// An entry of `tokens:` in the recipe. A token the output lacks is added to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenRule {
    /// The token's text as in the vocabulary.
    pub token: String,
    /// Where models that lack the token take its row; `None` leaves the choice to the default.
    pub source: Option<TokenSource>,
    /// Take it for models that have the token, too.
    pub force: bool,
}

/// Where a rule takes a row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TokenSource {
    /// The same token in this model.
    Model(usize),
    /// Any token of a model.
    ModelToken {
        /// Index of the model.
        model: usize,
        /// The token there.
        token: TokenName,
    },
    /// Zeros.
    Zero,
}

/// A token by text or id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TokenName {
    /// As in the vocabulary.
    Text(String),
    /// The stored row.
    Id(u32),
}

/// What to build.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// All models of the merge, in the recipe's order.
    pub models: Vec<ModelTokenizer>,
    /// The donor of the base vocabulary: `base_model`, else the first model.
    pub base: usize,
    /// Whether the recipe names `base_model`. Its row then stands in for a token that several but not all models
    /// have; else the mean of those models' rows does.
    pub base_named: bool,
    /// Whose vocabulary.
    pub source: Source,
    /// The recipe's `tokens`.
    pub rules: Vec<TokenRule>,
    /// Round the number of tokens up to a multiple of this (1: a row per token). Without it an output has at least the
    /// rows of its donor.
    pub pad_to_multiple_of: Option<usize>,
}

impl Request {
    /// The model whose tokenizer files the output has.
    pub(super) fn donor(&self) -> usize {
        match self.source {
            Source::Model(model) => model,
            Source::Union | Source::Base => self.base,
        }
    }
}

/// Everything wrong with a request that shows without reading files.
pub(super) fn check(request: &Request) -> Result<(), TokenizerError> {
    let count = request.models.len();
    if count == 0 || count > MAX_MODELS {
        return Err(TokenizerError::ModelCount { count, limit: MAX_MODELS });
    }
    let mut problems = Vec::new();
    for model in request.models.iter().filter(|model| model.rows == 0 || model.rows > MAX_ROWS) {
        let label = model.label.clone();
        problems.push(TokenizerError::RowCount { label, rows: model.rows, limit: MAX_ROWS });
    }
    for (what, index) in named_models(request) {
        if index >= count {
            problems.push(TokenizerError::NoSuchModel { what, index, count });
        }
    }
    if request.pad_to_multiple_of == Some(0) {
        problems.push(TokenizerError::PadToZero);
    }
    let mut seen = BTreeSet::new();
    for rule in &request.rules {
        if rule.token.is_empty() {
            problems.push(TokenizerError::EmptyToken);
        } else if !seen.insert(&rule.token) {
            problems.push(TokenizerError::DuplicateRule { token: rule.token.clone() });
        }
    }
    TokenizerError::all(problems)
}

/// Every place of the request that names a model by index.
fn named_models(request: &Request) -> Vec<(String, usize)> {
    let mut named = vec![("the base".to_owned(), request.base)];
    if let Source::Model(model) = request.source {
        named.push(("the tokenizer's source".to_owned(), model));
    }
    for rule in &request.rules {
        if let Some(TokenSource::Model(model) | TokenSource::ModelToken { model, .. }) = &rule.source {
            named.push((format!("`tokens` entry {:?}", rule.token), *model));
        }
    }
    named
}
