//! The donor's tokenizer files changed to the output's vocabulary.

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::Value;
use serde_json::value::RawValue;

use super::error::TokenizerError;
use super::plan::Output;
use super::splice::{Object, Splice, item, list, map};
use super::vocabulary::{AddedToken, Document, Model, Unknown, Vocabulary};

/// The donor's `tokenizer.json` with the output's vocabulary.
///
/// Where the donor's ids have gaps, readers would give the appended tokens ids of other tokens (see
/// `vocabulary`). There every added token is also written into the model's vocabulary with its id, which all
/// versions of the tokenizers library take as given.
pub(super) fn tokenizer_json(
    path: &Path,
    text: &str,
    donor: &Vocabulary<'_>,
    output: &Output,
) -> Result<String, TokenizerError> {
    edit_tokenizer(text, donor, output).map_err(|error| malformed(path, "tokenizer.json", &error))
}

fn edit_tokenizer(text: &str, donor: &Vocabulary<'_>, output: &Output) -> serde_json::Result<String> {
    let document: Document<'_> = serde_json::from_str(text)?;
    let model: Model<'_> = serde_json::from_str(document.model.get())?;
    let mut splice = Splice::new(text);
    let extra = donor.added[donor.added.len() - donor.extra..].iter();
    let extra = extra.filter(|added| !output.removed.contains(&added.content));
    let new: Vec<&AddedToken> = extra.chain(&output.promoted).chain(&output.appended).collect();
    if !donor.contiguous || !output.removed.is_empty() {
        let pinned: Vec<&AddedToken> = if donor.contiguous { Vec::new() } else { pinned(donor, output) };
        splice.replace(model.vocab, vocabulary(model.vocab, output, &pinned)?);
        if let Some(merges) = model.merges.filter(|_| !output.removed.is_empty()) {
            let prefix = model.continuing_subword_prefix.as_deref().unwrap_or("");
            splice.replace(merges, list(merges, |merge| keeps(merge, prefix, &output.removed), Vec::new())?);
        }
    }
    match document.added_tokens {
        Some(list_text) => {
            let new = new.iter().map(|added| item(list_text.get(), added)).collect();
            let keep = |raw: &str| !content(raw).is_some_and(|text| output.removed.contains(&text));
            splice.replace(list_text, list(list_text, keep, new)?);
            Ok(splice.apply())
        }
        // Without the list there is no place for it but before everything else.
        None => Ok(splice.apply().replacen(
            '{',
            &format!("{{\"added_tokens\":{},", serde_json::to_string(&new)?),
            1,
        )),
    }
}

/// The added tokens that need an entry in the vocabulary for their ids to hold.
fn pinned<'a>(donor: &'a Vocabulary<'_>, output: &'a Output) -> Vec<&'a AddedToken> {
    let kept = |text: &&str| !output.removed.contains(*text);
    let known: BTreeSet<&str> = donor.entries.iter().map(|(text, _)| &**text).filter(kept).collect();
    let own = donor.added.iter().filter(|added| !output.removed.contains(&added.content));
    own.chain(&output.appended).filter(|added| !known.contains(&*added.content)).collect()
}

fn vocabulary(vocab: &RawValue, output: &Output, pinned: &[&AddedToken]) -> serde_json::Result<String> {
    if vocab.get().starts_with('[') {
        // Unigram: tokens are numbered by place; those without a row are the last ones.
        let keep = |raw: &str| {
            let entry: Option<(String, serde::de::IgnoredAny)> = serde_json::from_str(raw).ok();
            !entry.is_some_and(|(text, _)| output.removed.contains(&text))
        };
        return list(vocab, keep, Vec::new());
    }
    let new: Vec<_> = pinned.iter().map(|added| (added.content.clone(), added.id.to_string())).collect();
    map(vocab, |token, _| !output.removed.contains(token), &new)
}

/// Whether a merge of a BPE model still has its parts and its result. One whose result is gone would keep the
/// tokenizers library from loading the file.
fn keeps(merge: &str, prefix: &str, removed: &BTreeSet<String>) -> bool {
    let (left, right) = match serde_json::from_str(merge) {
        Ok(Value::String(pair)) => match pair.split_once(' ') {
            Some((left, right)) => (left.to_owned(), right.to_owned()),
            None => return true,
        },
        Ok(Value::Array(pair)) => match &pair[..] {
            [Value::String(left), Value::String(right)] => (left.clone(), right.clone()),
            _ => return true,
        },
        _ => return true,
    };
    let result = format!("{left}{}", right.strip_prefix(prefix).unwrap_or(&right));
    [left, right, result].iter().all(|token| !removed.contains(token))
}

fn content(raw: &str) -> Option<String> {
    serde_json::from_str::<AddedToken>(raw).ok().map(|added| added.content)
}

/// The donor's `tokenizer_config.json` with `added_tokens_decoder`, if it has one, as in the output.
///
/// transformers 5 gives some tokenizer classes the added tokens of this map only, so one left behind would lose
/// the appended tokens. `None` if nothing changes.
pub(super) fn tokenizer_config(
    path: &Path,
    text: &str,
    output: &Output,
) -> Result<Option<String>, TokenizerError> {
    let failed = |error| malformed(path, "tokenizer_config.json", &error);
    let config: Object<'_> = serde_json::from_str(text).map_err(failed)?;
    let Some(decoder) = config.get("added_tokens_decoder").filter(|raw| raw.get() != "null") else {
        return Ok(None);
    };
    let new = output.promoted.iter().chain(&output.appended).map(|added| {
        let mut value = serde_json::to_value(added).unwrap_or_default();
        if let Some(fields) = value.as_object_mut() {
            fields.shift_remove("id");
        }
        (added.id.to_string(), item(decoder.get(), &value))
    });
    let new: Vec<(String, String)> = new.collect();
    let ids: BTreeSet<&str> = new.iter().map(|(id, _)| &**id).collect();
    let keep = |id: &str, raw: &str| {
        !ids.contains(id) && !content(raw).is_some_and(|text| output.removed.contains(&text))
    };
    let changed = map(decoder, keep, &new).map_err(failed)?;
    let mut splice = Splice::new(text);
    splice.replace(decoder, changed);
    Ok(Some(splice.apply()))
}

/// The donor's legacy `added_tokens.json` (token to id) as in the output.
pub(super) fn added_tokens(path: &Path, text: &str, output: &Output) -> Result<String, TokenizerError> {
    let failed = |error| malformed(path, "added_tokens.json", &error);
    let whole: &RawValue = serde_json::from_str(text).map_err(failed)?;
    let new = output.promoted.iter().chain(&output.appended);
    let new: Vec<_> = new.map(|added| (added.content.clone(), added.id.to_string())).collect();
    let names: BTreeSet<&str> = new.iter().map(|(name, _)| &**name).collect();
    let keep = |token: &str, _: &str| !output.removed.contains(token) && !names.contains(token);
    map(whole, keep, &new).map_err(failed)
}

/// The special tokens of a `tokenizer_config.json` that are not in the output's tokenizer any more: readers add
/// them again, at an id without an embedding row.
pub(super) fn dangling(path: &Path, text: &str, output: &Output) -> Result<Vec<String>, TokenizerError> {
    let config: Value =
        serde_json::from_str(text).map_err(|error| malformed(path, "tokenizer_config.json", &error))?;
    let members = config.as_object().into_iter().flatten().filter(|(key, _)| key.ends_with("_token"));
    let named = members.filter_map(|(key, value)| {
        let token = value.as_str().or_else(|| value.get("content")?.as_str())?;
        let gone =
            output.removed.contains(token) && !output.appended.iter().any(|added| added.content == token);
        gone.then(|| format!("{key} {token:?}"))
    });
    Ok(named.collect())
}

/// Refuses to take the unknown token out of a tokenizer.
pub(super) fn check_unknown(
    label: &str,
    rows: usize,
    donor: &Vocabulary<'_>,
    output: &Output,
) -> Result<(), TokenizerError> {
    let token = match &donor.unknown {
        Some(Unknown::Text(text)) if output.removed.contains(text) => text.clone(),
        Some(Unknown::Id(id)) if !output.removed.is_empty() && *id >= rows as u64 => id.to_string(),
        _ => return Ok(()),
    };
    Err(TokenizerError::UnknownTokenOutOfRange { label: label.to_owned(), token, rows })
}

fn malformed(path: &Path, what: &'static str, error: &serde_json::Error) -> TokenizerError {
    TokenizerError::Malformed { path: path.to_path_buf(), what, reason: error.to_string() }
}
