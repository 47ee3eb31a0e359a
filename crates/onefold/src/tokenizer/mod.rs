//! The tokenizer of a merge's output, and where each row of its embedding comes from.
//!
//! Models with different vocabularies cannot be merged row by row: token 32000 of one is not token 32000 of
//! another. [`build`] chooses the output's vocabulary (the base's, another model's, or the union), says for each
//! model which stored row belongs in each output row ([`RowMap`]), and prepares the tokenizer files. Those are
//! the donor's own files: byte for byte if the vocabulary stays, else with only the token lists edited.
//!
//! Results follow mergekit's `tokenizer` section, except where its behaviour is a defect:
//! * The number of rows is the largest id plus one, never the number of entries: id gaps are padding rows.
//! * Padding survives: an output has at least the rows of its donor unless `pad_to_multiple_of` is
//!   given (mergekit always shrinks to the number of tokens, as `pad_to_multiple_of: 1` does).
//! * A token beyond its model's embedding is absent from that model, for every tokenizer model, and its merges
//!   go with it (mergekit: a crash, or BPE only).
//! * Order is that of the request, never that of a set.

mod assign;
mod chat;
mod edit;
mod error;
mod files;
mod load;
mod plan;
mod report;
mod request;
mod rows;
mod splice;
mod summary;
mod table;
#[cfg(test)]
mod tests;
mod vocabulary;

use std::ops::Range;
use std::sync::Arc;

use rayon::prelude::*;

pub use chat::{BUILT_IN, ChatTemplate, chat_template};
pub use error::TokenizerError;
pub use files::{FileContent, OutputFile, is_tokenizer_file};
pub use report::{ModelTokens, TokenClass, TokenReport};
pub use request::{MAX_MODELS, MAX_ROWS, ModelTokenizer, Request, Source, TokenName, TokenRule, TokenSource};
pub use rows::{Row, RowMap, Run};

use load::{Fast, Loaded};
use plan::Output;
use table::{ABSENT, Table};
use vocabulary::Vocabulary;

/// The output's tokenizer.
#[derive(Debug, Clone, PartialEq)]
pub struct Built {
    /// Its files, by name.
    pub files: Vec<OutputFile>,
    /// Rows of the output's embedding: `vocab_size` of its `config.json`.
    pub rows: usize,
    /// The largest token id plus one; at most `rows`. 0 if the tokenizers could be compared but not read.
    pub vocab_size: usize,
    /// For each model where its rows come from.
    pub maps: Vec<RowMap>,
    /// The output rows that hold a token: what [`Row::PaddingMean`] is the mean of.
    pub token_rows: Vec<Range<u32>>,
    /// What happened to the tokens.
    pub report: TokenReport,
}

/// Builds the output's tokenizer. Reads files, writes none; all problems found at one stage come back together.
pub fn build(request: &Request) -> Result<Built, TokenizerError> {
    request::check(request)?;
    match load::load(&request.models)? {
        Loaded::SameSlow => same_slow(request),
        Loaded::Fast { texts, distinct, of_model } => from_fast(request, &texts, &distinct, &of_model),
    }
}

fn from_fast(
    request: &Request,
    texts: &[String],
    distinct: &[Fast],
    of_model: &[usize],
) -> Result<Built, TokenizerError> {
    let parsed = parse(texts, distinct)?;
    let vocabularies: Vec<&Vocabulary<'_>> = of_model.iter().map(|number| &parsed[*number]).collect();
    let mut table = tabulate(request, &parsed, of_model);
    let donor = request.donor();
    let same = distinct.len() == 1 && request.models.iter().all(|model| model.rows == request.models[0].rows);
    let asks_nothing = request.rules.is_empty() && request.pad_to_multiple_of.is_none();
    let output = plan::output(request, donor, same && asks_nothing, &vocabularies, &mut table);
    let model = &request.models[donor];
    if output.token_at.is_empty() {
        return Err(TokenizerError::NoTokens { label: model.label.clone(), rows: model.rows });
    }
    edit::check_unknown(&model.label, model.rows, vocabularies[donor], &output)?;
    let rows = output_rows(request, model.rows, output.token_at.len())?;
    let assigned = assign::assign(request, &table, &output, rows)?;
    let mut report = summary::report(request, &vocabularies, &table, &output, &assigned, rows);
    let files = if output.is_changed() {
        let text = &texts[distinct[of_model[donor]].text];
        files::changed(&model.dir, text, vocabularies[donor], &output, &mut report)?
    } else {
        files::copies(&model.dir)?
    };
    let (vocab_size, token_rows) = (output.token_at.len(), token_rows(&output));
    Ok(Built { files, rows: rows as usize, vocab_size, maps: assigned.maps, token_rows, report })
}

fn parse<'a>(texts: &'a [String], distinct: &[Fast]) -> Result<Vec<Vocabulary<'a>>, TokenizerError> {
    let read = |fast: &Fast| vocabulary::parse(&fast.path, &texts[fast.text], &fast.decoder);
    let (mut vocabularies, mut problems) = (Vec::new(), Vec::new());
    for result in distinct.par_iter().map(read).collect::<Vec<_>>() {
        match result {
            Ok(vocabulary) => vocabularies.push(vocabulary),
            Err(problem) => problems.push(problem),
        }
    }
    TokenizerError::all(problems)?;
    Ok(vocabularies)
}

/// Numbers all tokens. Models alike in tokenizer and rows share one table.
fn tabulate<'a>(request: &Request, parsed: &[Vocabulary<'a>], of_model: &[usize]) -> Table<'a> {
    let mut table = Table::default();
    for (number, model) in request.models.iter().enumerate() {
        let alike =
            |other: &usize| of_model[*other] == of_model[number] && request.models[*other].rows == model.rows;
        let rows = match (0..number).find(alike) {
            Some(other) => Arc::clone(&table.models[other]),
            None => {
                let rows = u32::try_from(model.rows).expect("the request was checked against MAX_ROWS");
                Arc::new(table.model(&parsed[of_model[number]], rows))
            }
        };
        table.models.push(rows);
    }
    table
}

fn output_rows(request: &Request, donor_rows: usize, tokens: usize) -> Result<u32, TokenizerError> {
    let rows = plan::row_count(request, donor_rows, tokens);
    u32::try_from(rows).ok().filter(|_| rows <= MAX_ROWS).ok_or_else(|| TokenizerError::RowCount {
        label: "output".to_owned(),
        rows,
        limit: MAX_ROWS,
    })
}

fn token_rows(output: &Output) -> Vec<Range<u32>> {
    let mut ranges: Vec<Range<u32>> = Vec::new();
    let held = (0u32..).zip(&output.token_at).filter(|(_, token)| **token != ABSENT);
    for (row, _) in held {
        match ranges.last_mut() {
            Some(range) if range.end == row => range.end = row + 1,
            _ => ranges.push(row..row + 1),
        }
    }
    ranges
}

/// The output of models whose slow tokenizers are the same: nothing is known of the tokens, nothing changes.
fn same_slow(request: &Request) -> Result<Built, TokenizerError> {
    let only_copied = |what| Err(TokenizerError::OnlyCopied { what });
    let first = &request.models[0];
    if !request.rules.is_empty() {
        return only_copied("tokens");
    } else if request.pad_to_multiple_of.is_some() {
        return only_copied("pad_to_multiple_of");
    } else if request.models.iter().any(|model| model.rows != first.rows) {
        return only_copied("embeddings of different sizes");
    }
    let rows = u32::try_from(first.rows).expect("the request was checked against MAX_ROWS");
    let donor = &request.models[request.donor()];
    Ok(Built {
        files: files::copies(&donor.dir)?,
        rows: first.rows,
        vocab_size: 0,
        maps: request.models.iter().map(|_| RowMap::identity(rows)).collect(),
        token_rows: std::iter::once(0..rows).collect(),
        report: summary::same_slow(request, donor),
    })
}
