//! From examples to token ids and what is learnt of them.
//!
//! * Conversations go through the model's chat template; the tokens of the assistant are learnt (see
//!   [`crate::text::mask`]).
//! * Prompt and completion are tokenised as one text, as they would be read; a token is learnt if it shares a byte with the
//!   completion. The end token follows and is learnt.
//! * A text is learnt as a whole, its end token included. If it may be split, its parts overlap by one token, so that
//!   every token but the first is predicted exactly once.
//! * Texts with a class carry the tokenizer's own special tokens; of what is too long the special tokens are kept.

use serde_json::{Map, Value};

use super::error::{DataError, RowProblem};
use super::shape::{Chat, Example};
use crate::text::chat::Date;
use crate::text::{ChatTemplate, Conversation, Input, Limit, TextError, Tokenizer, mask};

/// What becomes of a row with too many tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum TooLong {
    /// It is left out, and counted.
    #[default]
    Drop,
    /// The first tokens are kept.
    KeepStart,
    /// The last tokens are kept.
    KeepEnd,
    /// It becomes several rows; for texts only.
    Split,
}

/// Turns examples into tokens.
#[derive(Debug, Clone)]
pub struct Encoder {
    /// The model's tokenizer.
    pub tokenizer: Tokenizer,
    /// The model's chat template, if conversations are to be read.
    pub template: Option<ChatTemplate>,
    /// Further variables of the template.
    pub variables: Map<String, Value>,
    /// The date that the template is told.
    pub now: Option<Date>,
    /// Most tokens of a row; at least 2.
    pub limit: Option<usize>,
    /// What becomes of longer ones.
    pub too_long: TooLong,
}

/// Tokens of a row.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tokens {
    /// Token ids.
    pub ids: Vec<u32>,
    /// For each token whether it is learnt; all false if a class is.
    pub learnt: Vec<bool>,
    /// For each token its type; may be empty.
    pub types: Vec<u32>,
}

/// What an example gave.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Encoded {
    /// Rows: one, none if it was too long, several if it was split.
    pub rows: Vec<Tokens>,
    /// Tokens that were cut off.
    pub cut: usize,
    /// Whether one token holds both the end of the prompt and the beginning of the completion.
    pub merged: bool,
}

impl Encoder {
    /// An encoder without limit.
    pub fn new(tokenizer: Tokenizer, template: Option<ChatTemplate>) -> Self {
        let (variables, now, limit, too_long) = (Map::new(), None, None, TooLong::Drop);
        Self { tokenizer, template, variables, now, limit, too_long }
    }

    /// Judges the settings.
    pub(super) fn check(&self) -> Result<(), DataError> {
        match self.limit {
            Some(limit @ 0..2) => {
                Err(DataError::setting("length", format!("expected at least 2 tokens, found {limit}")))
            }
            _ => Ok(()),
        }
    }

    /// The tokens of `example`; none for an image.
    pub fn encode(&self, example: &Example) -> Result<Encoded, RowProblem> {
        let (tokens, merged) = match example {
            Example::Chat(chat) => (self.chat(chat)?, false),
            Example::Completion { prompt, completion } => self.completion(prompt, completion)?,
            Example::Text(text) => (self.text(text)?, false),
            Example::Classified { texts: (first, second), .. } => {
                return self.classified(first, second.as_deref());
            }
            Example::Image { .. } => return Ok(Encoded::default()),
        };
        let mut encoded = self.fitted(tokens);
        encoded.merged = merged;
        Ok(encoded)
    }

    fn chat(&self, chat: &Chat) -> Result<Tokens, RowProblem> {
        let Some(template) = &self.template else { return Err(RowProblem::NoTemplate) };
        let conversation = Conversation {
            messages: chat.messages.clone(),
            tools: chat.tools.clone(),
            variables: self.variables.clone(),
            now: self.now,
        };
        let made = mask::conversation_from(&self.tokenizer, template, &conversation, chat.learnt_from)?;
        Ok(Tokens { ids: made.ids, learnt: made.answer, types: Vec::new() })
    }

    fn completion(&self, prompt: &str, completion: &str) -> Result<(Tokens, bool), TextError> {
        let encoded =
            self.tokenizer.encode(Input::Text(&format!("{prompt}{completion}")), true, Limit::None)?;
        let learnt = encoded.offsets.iter().map(|&(start, end)| end > prompt.len() && end > start).collect();
        let merged = encoded.offsets.iter().any(|&(start, end)| start < prompt.len() && end > prompt.len());
        let mut tokens = Tokens { ids: encoded.ids, learnt, types: Vec::new() };
        self.end(&mut tokens);
        Ok((tokens, merged))
    }

    fn text(&self, text: &str) -> Result<Tokens, TextError> {
        let ids = self.tokenizer.encode(Input::Text(text), true, Limit::None)?.ids;
        let mut tokens = Tokens { learnt: vec![true; ids.len()], ids, types: Vec::new() };
        self.end(&mut tokens);
        Ok(tokens)
    }

    /// The end token, learnt; added if the tokenizer does not do it.
    fn end(&self, tokens: &mut Tokens) {
        let ends = &self.tokenizer.special().eos;
        match (tokens.ids.last().is_some_and(|last| ends.contains(last)), ends.first()) {
            (true, _) => tokens.learnt.iter_mut().next_back().into_iter().for_each(|last| *last = true),
            (false, Some(end)) => {
                tokens.ids.push(*end);
                tokens.learnt.push(true);
            }
            (false, None) => {} // loading refuses tokenizers without an end token
        }
    }

    fn classified(&self, first: &str, second: Option<&str>) -> Result<Encoded, RowProblem> {
        let input = second.map_or(Input::Text(first), |second| Input::Pair(first, second));
        let limit = match (self.limit, self.too_long) {
            (Some(limit), TooLong::KeepStart) => Limit::KeepStart(limit),
            (Some(limit), TooLong::KeepEnd) => Limit::KeepEnd(limit),
            _ => Limit::None,
        };
        let made = self.tokenizer.encode(input, true, limit)?;
        if made.ids.is_empty() {
            return Err(RowProblem::NoToken);
        }
        if self.limit.is_some_and(|limit| made.ids.len() > limit) {
            return Ok(Encoded::default());
        }
        let learnt = vec![false; made.ids.len()];
        let rows = vec![Tokens { ids: made.ids, learnt, types: made.types }];
        Ok(Encoded { rows, cut: made.cut, merged: false })
    }

    /// What is too long, dealt with.
    fn fitted(&self, mut tokens: Tokens) -> Encoded {
        let length = tokens.ids.len();
        let Some(limit) = self.limit.filter(|limit| length > *limit) else {
            return Encoded { rows: vec![tokens], ..Encoded::default() };
        };
        let cut = length - limit;
        match self.too_long {
            TooLong::Drop => return Encoded::default(),
            TooLong::Split => return Encoded { rows: parts(&tokens, limit), ..Encoded::default() },
            TooLong::KeepStart => {
                tokens.ids.truncate(limit);
                tokens.learnt.truncate(limit);
            }
            TooLong::KeepEnd => {
                tokens.ids.drain(..cut);
                tokens.learnt.drain(..cut);
            }
        }
        Encoded { rows: vec![tokens], cut, merged: false }
    }
}

/// Parts of `limit` tokens that overlap by one.
fn parts(tokens: &Tokens, limit: usize) -> Vec<Tokens> {
    let starts = (0..tokens.ids.len() - 1).step_by(limit.max(2) - 1);
    let part = |start: usize| {
        let range = start..(start + limit.max(2)).min(tokens.ids.len());
        Tokens {
            ids: tokens.ids[range.clone()].to_vec(),
            learnt: tokens.learnt[range].to_vec(),
            types: Vec::new(),
        }
    };
    starts.map(part).collect()
}

#[cfg(test)]
mod tests;
