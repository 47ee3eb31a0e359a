//! The tokens of one `tokenizer.json`, with the ids its readers give them.
//!
//! The ids written beside `added_tokens` are not what the `tokenizers` library uses: on loading it numbers every
//! added token that is not in the model's vocabulary afresh, in file order, from the number of vocabulary
//! entries. Where the vocabulary's ids are 0..n without gaps, all versions of the library agree and those are
//! the ids the embedding was trained with, so they are used here too. Where the vocabulary has gaps the versions
//! disagree, and the ids in the file (what the saving version used) are kept. Either way a difference between
//! the two is reported. Tokens that only `added_tokens_decoder` of `tokenizer_config.json` names are added after
//! those of `tokenizer.json`, as transformers does.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::Path;

use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize as Derive, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;

use super::error::TokenizerError;

/// Stands for ids of more than 32 bits: beyond every embedding.
pub(super) const OUT_OF_REACH: u32 = u32::MAX - 1;

/// An id as written, or [`OUT_OF_REACH`].
pub(super) fn narrow(id: u64) -> u32 {
    u32::try_from(id).map_or(OUT_OF_REACH, |id| id.min(OUT_OF_REACH))
}

/// An entry of `added_tokens`. Unknown attributes are carried along.
#[derive(Debug, Clone, PartialEq, Derive, Serialize)]
pub(super) struct AddedToken {
    /// Absent in `added_tokens_decoder`, where it is the key.
    #[serde(default)]
    pub(super) id: u64,
    pub(super) content: String,
    #[serde(default)]
    pub(super) single_word: bool,
    #[serde(default)]
    pub(super) lstrip: bool,
    #[serde(default)]
    pub(super) rstrip: bool,
    #[serde(default = "yes")]
    pub(super) normalized: bool,
    #[serde(default)]
    pub(super) special: bool,
    #[serde(flatten)]
    pub(super) other: BTreeMap<String, Value>,
}

fn yes() -> bool {
    true
}

impl AddedToken {
    /// A token as `add_tokens("text")` makes it: found anywhere in the text, after normalisation, not special.
    pub(super) fn plain(content: &str) -> Self {
        Self {
            id: 0,
            content: content.to_owned(),
            single_word: false,
            lstrip: false,
            rstrip: false,
            normalized: true,
            special: false,
            other: BTreeMap::new(),
        }
    }

    pub(super) fn with_id(&self, id: u32) -> Self {
        Self { id: u64::from(id), ..self.clone() }
    }

    /// Whether both are matched alike, whatever their ids.
    pub(super) fn same_settings(&self, other: &Self) -> bool {
        Self { id: other.id, ..self.clone() } == *other
    }
}

/// The unknown token as the model names it.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Unknown {
    Text(String),
    Id(u64),
}

/// The tokens of one model. Ids that do not fit in 32 bits are [`OUT_OF_REACH`].
#[derive(Debug)]
pub(super) struct Vocabulary<'a> {
    /// Tokens of the tokenizer's model in file order.
    pub(super) entries: Vec<(Cow<'a, str>, u32)>,
    /// Added tokens in file order with the ids readers give them.
    pub(super) added: Vec<AddedToken>,
    /// How many of `added`, at its end, `tokenizer.json` does not list.
    pub(super) extra: usize,
    /// Whether the ids of `entries` are 0..n, each once.
    pub(super) contiguous: bool,
    pub(super) unknown: Option<Unknown>,
    /// Added tokens whose id in the file is not the one readers give them: token, file's, readers'.
    pub(super) renumbered: Vec<(String, u64, u64)>,
}

/// The parts of a `tokenizer.json` that matter here, as slices of its text.
#[derive(Debug, Derive)]
pub(super) struct Document<'a> {
    #[serde(borrow, default)]
    pub(super) added_tokens: Option<&'a RawValue>,
    #[serde(borrow)]
    pub(super) model: &'a RawValue,
}

/// The parts of `model` that matter here.
#[derive(Debug, Derive)]
pub(super) struct Model<'a> {
    #[serde(rename = "type")]
    pub(super) kind: Option<String>,
    #[serde(borrow)]
    pub(super) vocab: &'a RawValue,
    #[serde(borrow, default)]
    pub(super) merges: Option<&'a RawValue>,
    #[serde(default)]
    pub(super) continuing_subword_prefix: Option<String>,
    #[serde(default)]
    unk_token: Option<String>,
    #[serde(default)]
    unk_id: Option<u64>,
}

/// Reads the tokens of `text`, the content of `path`, and of the `added_tokens_decoder` beside it.
pub(super) fn parse<'a>(
    path: &Path,
    text: &'a str,
    decoder: &[AddedToken],
) -> Result<Vocabulary<'a>, TokenizerError> {
    let malformed = |error: serde_json::Error| TokenizerError::Malformed {
        path: path.to_path_buf(),
        what: "tokenizer.json",
        reason: error.to_string(),
    };
    let document: Document<'a> = serde_json::from_str(text).map_err(malformed)?;
    let model: Model<'a> = serde_json::from_str(document.model.get()).map_err(malformed)?;
    let entries = match model.kind.as_deref() {
        Some("BPE" | "WordPiece" | "WordLevel") => {
            serde_json::from_str::<Mapping<'a>>(model.vocab.get()).map_err(malformed)?.0
        }
        Some("Unigram") => serde_json::from_str::<Scored<'a>>(model.vocab.get()).map_err(malformed)?.0,
        // Files of the library's first versions do not name the model; only Unigram's vocabulary is a list.
        None if model.vocab.get().starts_with('[') => {
            serde_json::from_str::<Scored<'a>>(model.vocab.get()).map_err(malformed)?.0
        }
        None => serde_json::from_str::<Mapping<'a>>(model.vocab.get()).map_err(malformed)?.0,
        Some(kind) => {
            return Err(TokenizerError::UnknownModel { path: path.to_path_buf(), kind: kind.to_owned() });
        }
    };
    let added = document.added_tokens.map_or(Ok(Vec::new()), |raw| serde_json::from_str(raw.get()));
    let unknown = model.unk_token.map(Unknown::Text).or(model.unk_id.map(Unknown::Id));
    Ok(number(entries, added.map_err(malformed)?, decoder, unknown))
}

/// Gives every added token the id readers give it.
fn number<'a>(
    entries: Vec<(Cow<'a, str>, u32)>,
    mut added: Vec<AddedToken>,
    decoder: &[AddedToken],
    unknown: Option<Unknown>,
) -> Vocabulary<'a> {
    let contiguous = is_contiguous(&entries);
    let listed: BTreeSet<String> = added.iter().map(|token| token.content.clone()).collect();
    let wanted: BTreeSet<&str> = added.iter().chain(decoder).map(|token| &*token.content).collect();
    let mut ids: BTreeMap<String, u32> = entries
        .iter()
        .filter(|(text, _)| wanted.contains(&**text))
        .map(|(text, id)| (text.to_string(), *id))
        .collect();
    let before = added.len();
    added.extend(
        decoder
            .iter()
            .filter(|token| !listed.contains(&token.content) && !ids.contains_key(&token.content))
            .cloned(),
    );
    let extra = added.len() - before;
    let mut next = u32::try_from(entries.len()).unwrap_or(OUT_OF_REACH);
    let mut renumbered = Vec::new();
    for token in &mut added {
        let read = *ids.entry(token.content.clone()).or_insert_with(|| {
            let id = next;
            next = next.saturating_add(1);
            if contiguous { id } else { narrow(token.id) }
        });
        if token.id != u64::from(read) {
            renumbered.push((token.content.clone(), token.id, u64::from(read)));
        }
        token.id = u64::from(read);
    }
    Vocabulary { entries, added, extra, contiguous, unknown, renumbered }
}

fn is_contiguous(entries: &[(Cow<'_, str>, u32)]) -> bool {
    let mut seen = vec![false; entries.len()];
    entries
        .iter()
        .all(|(_, id)| seen.get_mut(*id as usize).is_some_and(|seen| !std::mem::replace(seen, true)))
}

/// A vocabulary as a map of token to id.
struct Mapping<'a>(Vec<(Cow<'a, str>, u32)>);

impl<'de> Deserialize<'de> for Mapping<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries;
        impl<'de> Visitor<'de> for Entries {
            type Value = Mapping<'de>;
            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("a vocabulary: a map of token to id")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut entries = Vec::new();
                while let Some((Text(text), id)) = map.next_entry::<Text<'de>, u64>()? {
                    entries.push((text, narrow(id)));
                }
                Ok(Mapping(entries))
            }
        }
        deserializer.deserialize_map(Entries)
    }
}

/// A vocabulary as a list of token and score: the id is the place in the list.
struct Scored<'a>(Vec<(Cow<'a, str>, u32)>);

impl<'de> Deserialize<'de> for Scored<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries;
        impl<'de> Visitor<'de> for Entries {
            type Value = Scored<'de>;
            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("a vocabulary: a list of token and score")
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
                let mut entries = Vec::new();
                while let Some((Text(text), IgnoredAny)) = seq.next_element::<(Text<'de>, IgnoredAny)>()? {
                    let id = u32::try_from(entries.len()).unwrap_or(OUT_OF_REACH);
                    entries.push((text, id));
                }
                Ok(Scored(entries))
            }
        }
        deserializer.deserialize_seq(Entries)
    }
}

/// A string borrowed from the file wherever it has no escapes.
struct Text<'a>(Cow<'a, str>);

impl<'de> Deserialize<'de> for Text<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Borrow;
        impl<'de> Visitor<'de> for Borrow {
            type Value = Text<'de>;
            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("a token")
            }
            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Self::Value, E> {
                Ok(Text(Cow::Borrowed(text)))
            }
            fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
                Ok(Text(Cow::Owned(text.to_owned())))
            }
        }
        deserializer.deserialize_str(Borrow)
    }
}
