//! What can be wrong with tokenizers, templates and conversations.

use std::path::PathBuf;

pub use crate::json::JsonError;

/// A problem of turning text into token ids.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TextError {
    /// A JSON file beside the tokenizer cannot be read.
    #[error(transparent)]
    Json(#[from] JsonError),
    /// A file of the tokenizer or a template cannot be read.
    #[error("{path}: cannot read: {source}", path = path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// The directory has no `tokenizer.json`.
    #[error(
        "{path}: no such file; onefold reads the fast form of tokenizers: load the model with transformers' \
         AutoTokenizer and call save_pretrained to make it", path = path.display()
    )]
    NoTokenizer {
        /// The file that was looked for.
        path: PathBuf,
    },
    /// `tokenizer.json` is not what the tokenizers library reads.
    #[error("{path}: not a tokenizer: {message}", path = path.display())]
    Tokenizer {
        /// The file.
        path: PathBuf,
        /// The library's reason.
        message: String,
    },
    /// A key has a value of the wrong form.
    #[error("{path}: key `{key}`: expected {expected}, found {found}", path = path.display())]
    Key {
        /// The file.
        path: PathBuf,
        /// The key.
        key: String,
        /// What it may be.
        expected: &'static str,
        /// What it is, as JSON.
        found: String,
    },
    /// A special token that the vocabulary lacks.
    #[error(
        "{path}: key `{key}`: token {token:?} is not in the vocabulary of tokenizer.json; correct one of the two files",
        path = path.display()
    )]
    UnknownToken {
        /// The file that names it.
        path: PathBuf,
        /// The key.
        key: String,
        /// The token.
        token: String,
    },
    /// A text could not be encoded.
    #[error("cannot tokenise {text:?}: {message}")]
    Encode {
        /// The beginning of the text.
        text: String,
        /// The library's reason.
        message: String,
    },
    /// A text is longer than allowed and the policy is to refuse.
    #[error(
        "text of {found} tokens exceeds the limit of {limit}: {text:?}; raise `length` or choose a truncation"
    )]
    TooLong {
        /// The beginning of the text.
        text: String,
        /// The limit in tokens, special tokens included.
        limit: usize,
        /// Tokens of the text, special tokens included.
        found: usize,
    },
    /// A limit that leaves no place for text.
    #[error("a limit of {limit} tokens leaves no place beside {special} special tokens; raise `length`")]
    NoPlace {
        /// The limit.
        limit: usize,
        /// Special tokens that are added to each text.
        special: usize,
    },
    /// Ids that cannot be decoded.
    #[error("cannot decode token ids: {message}")]
    Decode {
        /// The reason.
        message: String,
    },
    /// No template anywhere in the directory.
    #[error(
        "{dir}: no chat template (chat_template.jinja, or the key `chat_template` in tokenizer_config.json); \
         name a template in the recipe", dir = dir.display()
    )]
    NoTemplate {
        /// The directory.
        dir: PathBuf,
    },
    /// Several named templates, none of them fits.
    #[error("{path}: no chat template named {wanted:?}; there are {}", names.join(", "), path = path.display())]
    NoSuchTemplate {
        /// Where the templates are.
        path: PathBuf,
        /// The name looked for.
        wanted: String,
        /// The names there are.
        names: Vec<String>,
    },
    /// A template does not compile.
    #[error("chat template {template}: {message}")]
    TemplateSyntax {
        /// Where the template stands.
        template: String,
        /// Where and why.
        message: String,
    },
    /// A template fails on a conversation.
    #[error("chat template {template}: cannot render a conversation of roles {roles}: {message}")]
    Render {
        /// Where the template stands.
        template: String,
        /// The roles of the conversation, in order.
        roles: String,
        /// Why.
        message: String,
    },
    /// A template that works on what its generation blocks wrote.
    #[error(
        "chat template {template}: it changes the text of its {{% generation %}} blocks, so their place in the result \
         cannot be told; let the blocks write to the result directly"
    )]
    Marks {
        /// Where the template stands.
        template: String,
    },
    /// The rendering of fewer messages is not the beginning of the rendering of more.
    #[error(
        "chat template {template}: the rendering of the first {messages} messages is no prefix of the whole in token \
         ids (they part at token {at}), so the tokens of the assistant cannot be told; add {{% generation %}} markers \
         to the template, or train on single-turn rows"
    )]
    NoPrefix {
        /// Where the template stands.
        template: String,
        /// How many messages were rendered.
        messages: usize,
        /// First token that differs.
        at: usize,
    },
}

/// The first characters of a text, for messages.
pub(crate) fn beginning(text: &str) -> String {
    text.chars().take(60).collect()
}
