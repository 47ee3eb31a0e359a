//! From text to token ids: tokenizers, chat templates, and which tokens the loss looks at.

pub mod chat;
mod error;
pub mod mask;
pub mod special;
pub mod tokenizer;

pub use chat::{ChatTemplate, Conversation, Rendered};
pub use error::{JsonError, TextError};
pub use special::SpecialTokens;
pub use tokenizer::{Encoded, Input, Limit, Tokenizer};

#[cfg(test)]
pub(crate) mod tests;
