//! Filling the report from what was planned and assigned.

use super::assign::Assigned;
use super::plan::Output;
use super::report::{ModelTokens, TokenClass, TokenReport};
use super::table::{ABSENT, Table};
use super::vocabulary::{AddedToken, Vocabulary};
use super::{ModelTokenizer, Request, Source};

/// The report, but for the files.
pub(super) fn report(
    request: &Request,
    vocabularies: &[&Vocabulary<'_>],
    table: &Table<'_>,
    output: &Output,
    assigned: &Assigned,
    rows: u32,
) -> TokenReport {
    let class = |tokens: &[u32]| TokenClass::collect(tokens.iter().map(|token| table.text(*token)));
    let added = |tokens: &[AddedToken]| TokenClass::collect(tokens.iter().map(|added| &*added.content));
    let tokens = output.token_at.iter().filter(|token| **token != ABSENT).count();
    let mut report = TokenReport {
        donor: request.models[request.donor()].label.clone(),
        tokens,
        rows: rows as usize,
        padding: rows as usize - tokens,
        appended: added(&output.appended),
        appended_ordinary: class(&output.ordinary),
        promoted: added(&output.promoted),
        removed: TokenClass::collect(output.removed.iter().map(|text| &**text)),
        attribute_conflicts: class(&output.conflicts),
        zero: class(&assigned.zero),
        forced: class(&assigned.forced),
        models: models(request, vocabularies, table, assigned),
        ..TokenReport::default()
    };
    count_tokens(&mut report, table, output);
    notes(request, &mut report);
    report
}

fn models(
    request: &Request,
    vocabularies: &[&Vocabulary<'_>],
    table: &Table<'_>,
    assigned: &Assigned,
) -> Vec<ModelTokens> {
    let one = |(number, model): (usize, &ModelTokenizer)| {
        let rows = &table.models[number];
        let over_range = rows.over_range.iter().map(|(token, _)| table.text(*token));
        let renumbered = vocabularies[number].renumbered.iter().map(|(text, _, _)| &**text);
        let shared = rows.shared_row.iter().map(|token| table.text(*token));
        ModelTokens {
            model: model.label.clone(),
            rows: model.rows,
            identity: assigned.maps[number].is_identity(),
            over_range: TokenClass::collect(over_range),
            id_conflicts: TokenClass::collect(shared.chain(renumbered)),
            padding_means: assigned.padding_means[number],
            ..ModelTokens::default()
        }
    };
    request.models.iter().enumerate().map(one).collect()
}

/// Counts who has which token of the output.
fn count_tokens(report: &mut TokenReport, table: &Table<'_>, output: &Output) {
    for (row, token) in (0u32..).zip(&output.token_at).filter(|(_, token)| **token != ABSENT) {
        let text = table.text(*token);
        let mut holders = 0;
        let mut last = 0;
        for (number, rows) in table.models.iter().enumerate() {
            match rows.row_of(*token) {
                None => report.models[number].missing.push(text),
                Some(own) => {
                    (holders, last) = (holders + 1, number);
                    if own != row {
                        report.models[number].moved.push(text);
                    }
                }
            }
        }
        if holders == table.models.len() {
            report.shared.push(text);
        } else if holders == 1 {
            report.models[last].only_here.push(text);
        }
    }
    for (number, rows) in table.models.iter().enumerate() {
        let dropped = rows.token_at.iter().filter(|token| **token != ABSENT && !output.has(**token));
        report.models[number].dropped = TokenClass::collect(dropped.map(|token| table.text(*token)));
    }
}

fn notes(request: &Request, report: &mut TokenReport) {
    if request.source == Source::Union && report.appended_ordinary.count > 0 {
        report.notes.push(
            "appended tokens that were ordinary ones now match wherever their text occurs, before the text is \
             split; their model's merges are not carried over"
                .to_owned(),
        );
    }
    if request.donor() != request.base {
        report.notes.push(
            "the tokenizer is not the base's: check the bos, eos and pad token ids in config.json".to_owned(),
        );
    }
}

/// The report on tokenizers that were compared but not read.
pub(super) fn same_slow(request: &Request, donor: &ModelTokenizer) -> TokenReport {
    let model = |model: &ModelTokenizer| ModelTokens {
        model: model.label.clone(),
        rows: model.rows,
        identity: true,
        ..ModelTokens::default()
    };
    TokenReport {
        donor: donor.label.clone(),
        rows: donor.rows,
        models: request.models.iter().map(model).collect(),
        notes: vec![
            "no tokenizer.json: the tokenizers are the same, byte for byte, and were not read".to_owned(),
        ],
        ..TokenReport::default()
    }
}
