//! A model's own tokenizer, read from its `tokenizer.json`.
//!
//! The arithmetic is that of the `tokenizers` crate, with `fancy-regex` as its engine (the default, oniguruma, is C).
//! Truncation and padding that `tokenizer.json` may carry are left off: both belong to the recipe, and a text that was
//! cut without being asked for would be a wrong result. A cut keeps the special tokens, as transformers does.

use std::path::{Path, PathBuf};

use rayon::prelude::*;
use tokenizers::utils::truncation::{TruncationParams, TruncationStrategy, truncate_encodings};
use tokenizers::{Encoding, TruncationDirection};

use super::error::beginning;
use super::{SpecialTokens, TextError};

/// A tokenizer with the special tokens of its model.
#[derive(Debug, Clone)]
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    special: SpecialTokens,
    path: PathBuf,
}

/// What is encoded as one row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Input<'a> {
    /// One text.
    Text(&'a str),
    /// Two texts, as sentence-pair tasks have them.
    Pair(&'a str, &'a str),
}

/// What becomes of a text that has too many tokens. The limit counts special tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Limit {
    /// Any length is taken.
    #[default]
    None,
    /// Longer texts are an error.
    Refuse(usize),
    /// The first tokens are kept; of a pair, the longer text is cut first.
    KeepStart(usize),
    /// The last tokens are kept; of a pair, the longer text is cut first.
    KeepEnd(usize),
}

/// A tokenised text.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Encoded {
    /// Token ids.
    pub ids: Vec<u32>,
    /// For each token 0, or 1 in the second text of a pair.
    pub types: Vec<u32>,
    /// For each token its span in the text, in bytes; `(0, 0)` for added special tokens.
    pub offsets: Vec<(usize, usize)>,
    /// How many tokens were cut off.
    pub cut: usize,
}

impl Tokenizer {
    /// The tokenizer of the model in `dir`.
    pub fn open(dir: &Path) -> Result<Self, TextError> {
        let path = dir.join("tokenizer.json");
        if !path.is_file() {
            return Err(TextError::NoTokenizer { path });
        }
        let wrong = |error: tokenizers::Error| TextError::Tokenizer {
            path: path.clone(),
            message: error.to_string(),
        };
        let mut inner = tokenizers::Tokenizer::from_file(&path).map_err(wrong)?;
        inner.with_truncation(None).map_err(wrong)?;
        inner.with_padding(None);
        let special = SpecialTokens::read(dir, |token| inner.token_to_id(token))?;
        Ok(Self { inner, special, path })
    }

    /// The special tokens.
    pub fn special(&self) -> &SpecialTokens {
        &self.special
    }

    /// The file it was read from.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The number of ids, added tokens included: one more than the highest id.
    pub fn vocabulary(&self) -> usize {
        let highest = self.inner.get_vocab(true).into_values().max();
        highest.map_or(0, |id| id as usize + 1)
    }

    /// The id of a token.
    pub fn id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// The tokens of `input`, with the special tokens of `tokenizer.json` if `special`.
    pub fn encode(&self, input: Input<'_>, special: bool, limit: Limit) -> Result<Encoded, TextError> {
        let (first, second) = match input {
            Input::Text(text) => (text, None),
            Input::Pair(first, second) => (first, Some(second)),
        };
        let failed = |error: tokenizers::Error| TextError::Encode {
            text: beginning(first),
            message: error.to_string(),
        };
        let a = self.sequence(first).map_err(failed)?;
        let mut b = second.map(|text| self.sequence(text)).transpose().map_err(failed)?;
        if let Some(b) = &mut b {
            b.set_type_ids(vec![1; b.len()]); // some post-processors keep what the sequence says
        }
        let added = if special { self.added(second.is_some()) } else { 0 };
        let full = a.len() + b.as_ref().map_or(0, Encoding::len) + added;
        let (a, b) = match limit.allowed(full, added, first)? {
            None => (a, b),
            Some(params) => truncate_encodings(a, b, &params).map_err(failed)?,
        };
        let whole = self.inner.post_process(a, b, special).map_err(failed)?;
        Ok(Encoded {
            ids: whole.get_ids().to_vec(),
            types: whole.get_type_ids().to_vec(),
            offsets: whole.get_offsets().to_vec(),
            cut: full.saturating_sub(whole.len()),
        })
    }

    /// Each input as [`Tokenizer::encode`] gives it, in the order of the inputs; in parallel.
    pub fn encode_all(
        &self,
        inputs: &[Input<'_>],
        special: bool,
        limit: Limit,
    ) -> Result<Vec<Encoded>, TextError> {
        inputs.par_iter().map(|&input| self.encode(input, special, limit)).collect()
    }

    /// The text of `ids`, without special tokens if `skip_special`.
    pub fn decode(&self, ids: &[u32], skip_special: bool) -> Result<String, TextError> {
        if let Some(&id) = ids.iter().find(|&&id| self.inner.id_to_token(id).is_none()) {
            return Err(TextError::Decode { message: format!("the vocabulary has no token {id}") });
        }
        self.inner.decode(ids, skip_special).map_err(|error| TextError::Decode { message: error.to_string() })
    }

    /// The same; ids that stand for nothing, as models with more rows than tokens may write them, are passed over.
    pub(crate) fn decode_known(&self, ids: &[u32]) -> Result<String, TextError> {
        let known: Vec<u32> =
            ids.iter().copied().filter(|id| self.inner.id_to_token(*id).is_some()).collect();
        self.decode(&known, true)
    }

    /// Tokens of one text before the post-processor adds to them.
    fn sequence(&self, text: &str) -> Result<Encoding, tokenizers::Error> {
        // Without special tokens post-processors add nothing; the tidying of offsets that some do is idempotent.
        self.inner.encode(text, false)
    }

    /// How many special tokens the post-processor adds.
    fn added(&self, pair: bool) -> usize {
        use tokenizers::PostProcessor;
        self.inner.get_post_processor().map_or(0, |processor| processor.added_tokens(pair))
    }
}

impl Limit {
    /// How a text of `full` tokens, `added` of them special, has to be cut; none if it fits.
    fn allowed(self, full: usize, added: usize, text: &str) -> Result<Option<TruncationParams>, TextError> {
        let (limit, direction) = match self {
            Self::None => return Ok(None),
            Self::Refuse(limit) if full > limit => {
                return Err(TextError::TooLong { text: beginning(text), limit, found: full });
            }
            Self::Refuse(_) => return Ok(None),
            Self::KeepStart(limit) => (limit, TruncationDirection::Right),
            Self::KeepEnd(limit) => (limit, TruncationDirection::Left),
        };
        if limit <= added {
            return Err(TextError::NoPlace { limit, special: added });
        }
        let strategy = TruncationStrategy::LongestFirst;
        let params = TruncationParams { max_length: limit - added, stride: 0, strategy, direction };
        Ok((full > limit).then_some(params))
    }
}
