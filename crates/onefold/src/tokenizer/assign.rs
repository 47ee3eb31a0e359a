//! The row maps: for each output row and model, which stored row is taken.
//!
//! A model keeps its own row of a token it has, unless a rule forces another. Where it lacks the token, the
//! token's stand-in is taken: the rule's source; else the only model that has the token; else the base model, if
//! the recipe names one and it has the token; else the mean of those that have it; else zeros. A row without a
//! token is each model's own row there, if that holds no token there either, else the mean of its token rows.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::error::TokenizerError;
use super::plan::Output;
use super::rows::{Means, Origin, RowMap, collect};
use super::table::{ABSENT, Table};
use super::{Request, TokenName, TokenRule, TokenSource};

/// The maps and what the report says about them.
#[derive(Debug, Default)]
pub(super) struct Assigned {
    pub(super) maps: Vec<RowMap>,
    /// Tokens whose row is zero in at least one model.
    pub(super) zero: Vec<u32>,
    /// Tokens whose row a rule forced on all models.
    pub(super) forced: Vec<u32>,
    /// For each model its padding rows that are means.
    pub(super) padding_means: Vec<usize>,
}

/// A rule with its source found.
#[derive(Debug, Clone, Copy)]
struct Ruling {
    source: Option<Origin>,
    force: bool,
}

/// Makes the maps of all models onto `rows` output rows.
pub(super) fn assign(
    request: &Request,
    table: &Table<'_>,
    output: &Output,
    rows: u32,
) -> Result<Assigned, TokenizerError> {
    let rulings = rulings(request, table)?;
    let mut assigned = Assigned::default();
    let mut means = Means::default();
    let stand_ins: Vec<Option<Origin>> = output
        .token_at
        .iter()
        .map(|token| stand_in(request, table, *token, rulings.get(token), &mut means, &mut assigned))
        .collect();
    let means = Arc::new(means);
    for (number, model) in (0u16..).zip(&table.models) {
        let origins = (0..rows).map(|row| {
            let token = output.token_at.get(row as usize).copied().unwrap_or(ABSENT);
            if token == ABSENT {
                return if model.is_padding(row) {
                    Origin::Stored { model: number, row }
                } else {
                    Origin::PaddingMean
                };
            }
            let forced = rulings.get(&token).is_some_and(|ruling| ruling.force);
            match model.row_of(token).filter(|_| !forced) {
                Some(row) => Origin::Stored { model: number, row },
                None => stand_ins[row as usize].unwrap_or(Origin::Zero),
            }
        });
        let own_rows = u32::try_from(model.token_at.len()).unwrap_or(u32::MAX);
        let map = collect(number, own_rows, origins, &means);
        assigned.padding_means.push(padding_means(&map));
        assigned.maps.push(map);
    }
    Ok(assigned)
}

fn padding_means(map: &RowMap) -> usize {
    map.runs().filter(|run| run.first == super::Row::PaddingMean).map(|run| run.len as usize).sum()
}

/// What models without the token take; `None` where every model has its own row.
fn stand_in(
    request: &Request,
    table: &Table<'_>,
    token: u32,
    ruling: Option<&Ruling>,
    means: &mut Means,
    assigned: &mut Assigned,
) -> Option<Origin> {
    let forced = ruling.is_some_and(|ruling| ruling.force);
    let holders =
        || (0u16..).zip(&table.models).filter_map(|(model, rows)| Some((model, rows.row_of(token)?)));
    let count = if token == ABSENT { table.models.len() } else { holders().count() };
    if count == table.models.len() && !forced {
        return None;
    }
    if forced {
        assigned.forced.push(token);
    }
    let base = || holders().find(|(model, _)| request.base_named && usize::from(*model) == request.base);
    let origin = match (ruling.and_then(|ruling| ruling.source), count) {
        (Some(source), _) => source,
        (None, 0) => Origin::Zero,
        (None, 1) => holders().next().map_or(Origin::Zero, |(model, row)| Origin::Stored { model, row }),
        (None, _) => match base() {
            Some((model, row)) => Origin::Stored { model, row },
            None => Origin::Mean(means.push(holders().map(|(model, row)| (u32::from(model), row)))),
        },
    };
    if origin == Origin::Zero {
        assigned.zero.push(token);
    }
    Some(origin)
}

/// The rules by token, with every problem in them.
fn rulings(request: &Request, table: &Table<'_>) -> Result<BTreeMap<u32, Ruling>, TokenizerError> {
    let mut rulings = BTreeMap::new();
    let mut problems = Vec::new();
    for rule in &request.rules {
        let Some(token) = table.find(&rule.token) else { continue };
        match rule.source.as_ref().map(|source| locate(request, table, rule, source)).transpose() {
            Ok(source) => drop(rulings.insert(token, Ruling { source, force: rule.force })),
            Err(problem) => problems.push(problem),
        }
    }
    TokenizerError::all(problems)?;
    Ok(rulings)
}

/// The stored row a rule's source means.
fn locate(
    request: &Request,
    table: &Table<'_>,
    rule: &TokenRule,
    source: &TokenSource,
) -> Result<Origin, TokenizerError> {
    match source {
        TokenSource::Zero => Ok(Origin::Zero),
        TokenSource::Model(model) => by_text(request, table, rule, *model, &rule.token),
        TokenSource::ModelToken { model, token: TokenName::Text(text) } => {
            by_text(request, table, rule, *model, text)
        }
        TokenSource::ModelToken { model, token: TokenName::Id(id) } => {
            let rows = request.models[*model].rows;
            if *id as usize >= rows {
                let label = request.models[*model].label.clone();
                return Err(TokenizerError::IdOutOfRange { token: rule.token.clone(), label, id: *id, rows });
            }
            Ok(Origin::Stored { model: number(*model), row: *id })
        }
    }
}

fn by_text(
    request: &Request,
    table: &Table<'_>,
    rule: &TokenRule,
    model: usize,
    wanted: &str,
) -> Result<Origin, TokenizerError> {
    match table.find(wanted).and_then(|token| table.models[model].row_of(token)) {
        Some(row) => Ok(Origin::Stored { model: number(model), row }),
        None => Err(TokenizerError::TokenNotInModel {
            token: rule.token.clone(),
            label: request.models[model].label.clone(),
            wanted: wanted.to_owned(),
            similar: similar(table, model, wanted),
        }),
    }
}

/// The token of `model` most like `wanted`, if it is near enough to be a slip.
fn similar(table: &Table<'_>, model: usize, wanted: &str) -> Option<String> {
    let tokens = table.models[model].token_at.iter().filter(|token| **token != ABSENT);
    let scored = tokens.map(|token| (strsim::jaro_winkler(table.text(*token), wanted), *token));
    let best = scored.max_by(|left, right| left.0.total_cmp(&right.0).then(right.1.cmp(&left.1)))?;
    (best.0 > 0.85).then(|| table.text(best.1).to_owned())
}

fn number(model: usize) -> u16 {
    u16::try_from(model).expect("the request was checked to have at most 65,535 models")
}
