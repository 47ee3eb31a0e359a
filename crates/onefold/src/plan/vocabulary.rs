//! The recipe's `tokenizer` section: from model references to row maps.

use std::sync::Arc;

use crate::models::Model;
use crate::plan::names::{has_token_rows, is_input_embedding};
use crate::recipe::{ModelRef, TokenName, TokenSource, TokenizerSource, TokenizerSpec};
use crate::tokenizer::{self, Built, ModelTokenizer, Request, Source, TokenRule};

/// Builds the output's tokenizer for `models`, of which number `base` is the donor.
///
/// # Errors
/// A sentence naming what cannot be done.
pub fn build(
    spec: &TokenizerSpec,
    models: &[&Model],
    base: usize,
    base_named: bool,
    index: &dyn Fn(&ModelRef) -> usize,
) -> Result<Arc<Built>, String> {
    let model = |m: &&Model| {
        let rows = embedding_rows(m).ok_or_else(|| {
            format!("model {}: no input embedding was found, so its vocabulary cannot be changed", m.label)
        })?;
        Ok(ModelTokenizer { label: m.label.clone(), dir: m.checkpoint.dir().to_owned(), rows })
    };
    let source = match &spec.source {
        TokenizerSource::Union => Source::Union,
        TokenizerSource::Base => Source::Base,
        TokenizerSource::Model(reference) => Source::Model(index(reference)),
    };
    let rule = |(token, rule): (&String, &crate::recipe::TokenSpec)| TokenRule {
        token: token.clone(),
        source: rule.source.as_ref().map(|s| token_source(s, index)),
        force: rule.force,
    };
    let request = Request {
        models: models.iter().map(model).collect::<Result<_, String>>()?,
        base,
        base_named,
        source,
        rules: spec.tokens.iter().map(rule).collect(),
        pad_to_multiple_of: spec.pad_to_multiple_of,
    };
    tokenizer::build(&request).map(Arc::new).map_err(|e| e.to_string())
}

fn token_source(source: &TokenSource, index: &dyn Fn(&ModelRef) -> usize) -> tokenizer::TokenSource {
    match source {
        TokenSource::Model(reference) => tokenizer::TokenSource::Model(index(reference)),
        TokenSource::Zero => tokenizer::TokenSource::Zero,
        TokenSource::ModelToken { model, token } => tokenizer::TokenSource::ModelToken {
            model: index(model),
            token: match token {
                TokenName::Text(text) => tokenizer::TokenName::Text(text.clone()),
                TokenName::Id(id) => tokenizer::TokenName::Id(*id),
            },
        },
    }
}

/// Rows of a model's input embedding.
pub fn embedding_rows(model: &Model) -> Option<usize> {
    let found =
        model.checkpoint.tensors().iter().find(|(name, t)| is_input_embedding(name) && t.shape.len() == 2);
    found.map(|(_, t)| t.shape[0])
}

/// Whether the rows of this tensor of a model are its tokens.
pub fn is_by_token(model: &Model, name: &str, shape: &[usize]) -> bool {
    has_token_rows(name) && !shape.is_empty() && shape.len() <= 2 && embedding_rows(model) == Some(shape[0])
}
