//! The vocabulary of the output: which tokens it has, at which rows, and how they are matched.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use super::table::{ABSENT, Table};
use super::vocabulary::{AddedToken, Vocabulary};
use super::{Request, Source};

/// The vocabulary of the output, as changes to that of the donor.
#[derive(Debug, Default)]
pub(super) struct Output {
    /// For each row its token, or [`ABSENT`] in an id gap; ends with the last token.
    pub(super) token_at: Vec<u32>,
    /// For each token its row, or [`ABSENT`].
    row_of: Vec<u32>,
    /// Tokens the donor does not have, with their ids, in order of id.
    pub(super) appended: Vec<AddedToken>,
    /// Tokens of the donor's vocabulary that another model matches as added tokens.
    pub(super) promoted: Vec<AddedToken>,
    /// Tokens of the donor that have no row and leave the tokenizer.
    pub(super) removed: BTreeSet<String>,
    /// Appended tokens that were ordinary ones in their own model.
    pub(super) ordinary: Vec<u32>,
    /// Tokens that the models match in different ways.
    pub(super) conflicts: Vec<u32>,
}

impl Output {
    /// Whether the donor's files would no longer describe the output.
    pub(super) fn is_changed(&self) -> bool {
        !(self.appended.is_empty() && self.promoted.is_empty() && self.removed.is_empty())
    }

    /// Whether the output has the token.
    pub(super) fn has(&self, token: u32) -> bool {
        self.row(token).is_some()
    }

    fn row(&self, token: u32) -> Option<u32> {
        self.row_of.get(token as usize).copied().filter(|row| *row != ABSENT)
    }
}

/// Plans the output of `request`, whose models have `vocabularies`. `untouched` says that all models have the
/// same tokenizer and nothing in the request changes it; its tokens without a row then stay as they are.
pub(super) fn output<'a>(
    request: &'a Request,
    donor: usize,
    untouched: bool,
    vocabularies: &[&Vocabulary<'a>],
    table: &mut Table<'a>,
) -> Output {
    let rules: Vec<u32> = request.rules.iter().map(|rule| table.intern(Cow::Borrowed(&rule.token))).collect();
    let mut output = keep(donor, untouched, table);
    let mut missing = Vec::new();
    if request.source == Source::Union {
        for model in (0..table.models.len()).filter(|model| *model != donor) {
            missing.extend(take_missing(&mut output, model, table));
        }
    }
    for token in rules {
        if output.row(token).is_none() {
            missing.push(push(&mut output, token));
        }
    }
    let settings = settings(donor, request, vocabularies, table, &mut output.conflicts);
    for (token, row) in missing {
        let found = settings.get(&token);
        if found.is_none() {
            output.ordinary.push(token);
        }
        let added = found.map_or_else(|| AddedToken::plain(table.text(token)), |added| (*added).clone());
        output.appended.push(added.with_id(row));
    }
    if request.source == Source::Union {
        promote(&mut output, vocabularies[donor], &settings, table);
    }
    output
}

/// The donor's own tokens that have a row.
fn keep(donor: usize, untouched: bool, table: &Table<'_>) -> Output {
    let rows = &table.models[donor];
    let used = rows.token_at.iter().rposition(|token| *token != ABSENT).map_or(0, |last| last + 1);
    let count = u32::try_from(table.tokens.len()).unwrap_or(u32::MAX);
    let removed = rows.over_range.iter().map(|(token, _)| table.text(*token).to_owned());
    Output {
        token_at: rows.token_at[..used].to_vec(),
        row_of: (0..count).map(|token| rows.row_of(token).unwrap_or(ABSENT)).collect(),
        removed: if untouched { BTreeSet::new() } else { removed.collect() },
        ..Output::default()
    }
}

/// Appends the tokens of `model` that the output lacks, in order of their ids there.
fn take_missing(output: &mut Output, model: usize, table: &Table<'_>) -> Vec<(u32, u32)> {
    let rows = &table.models[model];
    let mut missing: Vec<(u32, u32)> = (0..)
        .zip(&output.row_of)
        .filter(|(_, row)| **row == ABSENT)
        .filter_map(|(token, _)| Some((rows.row_of(token)?, token)))
        .collect();
    missing.sort_unstable();
    missing.into_iter().map(|(_, token)| push(output, token)).collect()
}

fn push(output: &mut Output, token: u32) -> (u32, u32) {
    let row = u32::try_from(output.token_at.len()).expect("fewer than 2^32 tokens fit in the capped files");
    output.token_at.push(token);
    output.row_of[token as usize] = row;
    (token, row)
}

/// How each added token is matched: as the donor does, else as the first model that has it does. Tokens on which
/// models of a union differ go to `conflicts`.
fn settings<'v>(
    donor: usize,
    request: &Request,
    vocabularies: &[&'v Vocabulary<'_>],
    table: &Table<'_>,
    conflicts: &mut Vec<u32>,
) -> BTreeMap<u32, &'v AddedToken> {
    let mut settings: BTreeMap<u32, &AddedToken> = BTreeMap::new();
    let others = (0..vocabularies.len()).filter(|model| *model != donor);
    for model in std::iter::once(donor).chain(others) {
        for added in &vocabularies[model].added {
            let Some(token) = table.find(&added.content) else { continue };
            if table.models[model].row_of(token).is_none() {
                continue;
            }
            let first = *settings.entry(token).or_insert(added);
            if request.source == Source::Union && !first.same_settings(added) {
                conflicts.push(token);
            }
        }
    }
    conflicts.sort_unstable();
    conflicts.dedup();
    settings
}

/// Makes added tokens of those the donor has in its vocabulary only.
fn promote(
    output: &mut Output,
    donor: &Vocabulary<'_>,
    settings: &BTreeMap<u32, &AddedToken>,
    table: &Table<'_>,
) {
    let listed: BTreeSet<u32> = donor.added.iter().filter_map(|added| table.find(&added.content)).collect();
    let first_new = output.appended.first().map_or(u64::MAX, |added| added.id);
    for (token, added) in settings {
        if let Some(row) = output.row(*token)
            && u64::from(row) < first_new
            && !listed.contains(token)
        {
            output.promoted.push(added.with_id(row));
        }
    }
    output.promoted.sort_by_key(|added| added.id);
}

/// Number of output rows: what was asked for, else as many as the donor has, so that its padding survives.
pub(super) fn row_count(request: &Request, donor_rows: usize, tokens: usize) -> usize {
    match request.pad_to_multiple_of {
        Some(multiple) => tokens.checked_next_multiple_of(multiple).unwrap_or(usize::MAX),
        None => tokens.max(donor_rows),
    }
}
