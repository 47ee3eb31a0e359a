//! Which tokens of a conversation the loss looks at: those that the assistant has to produce.
//!
//! If the template has generation blocks, their spans are mapped to tokens by offsets: a token belongs to the answer if
//! it shares a byte with a span. Otherwise conversations are rendered prefix after prefix: with `P` the token ids of
//! everything before an assistant message, prompt included, and `F` those up to its end, the answer is `F` without its
//! first `|P|` ids. This is right only if `P` begins `F` and `F` begins the whole in token ids, which is checked;
//! templates that rewrite earlier messages (as those that drop reasoning) are refused by name, not guessed.

use super::TextError;
use super::chat::{ChatTemplate, Conversation, Rendered};
use super::tokenizer::{Encoded, Input, Limit, Tokenizer};

/// A tokenised conversation.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Masked {
    /// Token ids.
    pub ids: Vec<u32>,
    /// For each token whether the assistant has to produce it.
    pub answer: Vec<bool>,
}

/// The tokens of a whole conversation and which of them are answers.
pub fn conversation(
    tokenizer: &Tokenizer,
    template: &ChatTemplate,
    conversation: &Conversation,
) -> Result<Masked, TextError> {
    conversation_from(tokenizer, template, conversation, 0)
}

/// The tokens of a whole conversation and which of them are answers of the messages from number `first` on.
pub fn conversation_from(
    tokenizer: &Tokenizer,
    template: &ChatTemplate,
    conversation: &Conversation,
    first: usize,
) -> Result<Masked, TextError> {
    let rendered = template.render(conversation, false)?;
    let encoded = tokens(tokenizer, &rendered)?;
    let prefixes = Prefixes { tokenizer, template, conversation, whole: &encoded.ids };
    let answer = if template.has_generation_blocks() {
        let given = prefixes.length(first, false)?;
        let mut answer = by_spans(&encoded, &rendered);
        answer[..given].fill(false);
        answer
    } else {
        prefixes.answers(first)?
    };
    Ok(Masked { ids: encoded.ids, answer })
}

/// The tokens of a rendered conversation; its special tokens stand in its text.
fn tokens(tokenizer: &Tokenizer, rendered: &Rendered) -> Result<Encoded, TextError> {
    tokenizer.encode(Input::Text(&rendered.text), false, Limit::None)
}

fn by_spans(encoded: &Encoded, rendered: &Rendered) -> Vec<bool> {
    let inside = |&(start, end): &(usize, usize)| {
        rendered.generated.iter().any(|span| start < span.end && span.start < end)
    };
    encoded.offsets.iter().map(inside).collect()
}

/// Beginnings of a conversation.
struct Prefixes<'a> {
    tokenizer: &'a Tokenizer,
    template: &'a ChatTemplate,
    conversation: &'a Conversation,
    whole: &'a [u32],
}

impl Prefixes<'_> {
    fn answers(&self, first: usize) -> Result<Vec<bool>, TextError> {
        let mut answer = vec![false; self.whole.len()];
        for (i, message) in self.conversation.messages.iter().enumerate().skip(first) {
            if message.get("role").and_then(|role| role.as_str()) == Some("assistant") {
                let start = self.length(i, i > 0)?;
                let end = self.length(i + 1, false)?;
                answer[start.min(end)..end].fill(true);
            }
        }
        Ok(answer)
    }

    /// How many tokens the first `count` messages take.
    fn length(&self, count: usize, prompt: bool) -> Result<usize, TextError> {
        if count == 0 && !prompt {
            return Ok(0);
        }
        let rendered = self.template.render_first(self.conversation, count, prompt)?;
        let ids = tokens(self.tokenizer, &rendered)?.ids;
        match ids.iter().zip(self.whole).position(|(a, b)| a != b) {
            None if ids.len() <= self.whole.len() => Ok(ids.len()),
            at => Err(TextError::NoPrefix {
                template: self.template.name().to_owned(),
                messages: count,
                at: at.unwrap_or(self.whole.len()),
            }),
        }
    }
}

#[cfg(test)]
mod tests;
