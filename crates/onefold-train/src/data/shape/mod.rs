//! From raw rows to typed examples.
//!
//! Rows come in the shapes that people have. The shape of a file is found from the keys of its first row
//! ([`detect`](Layout::detect)), or follows from `columns:`; it is stated ([`Layout`] shows itself), and every row of the
//! file has to have it.
//!
//! | shape | keys | becomes |
//! |---|---|---|
//! | messages | `messages`, `tools`? | a conversation |
//! | prompt and completion | `prompt`, `completion`: texts, or lists of messages | prompt and answer, or a conversation |
//! | ShareGPT | `conversations` of `from`, `value`; `system`?, `tools`? | a conversation |
//! | Alpaca | `instruction`, `input`?, `output`, `history`?, `system`? | a conversation; `instruction`, a line break, `input` as its last question |
//! | MFTCoder | `chat_rounds` of `role`, `content`; `system`? | a conversation |
//! | question and answer | `question`, `answer` and the like; `system`? | a conversation of two messages |
//! | text | `text` | text |
//! | classified text | `label` and `text`, `sentence`, `sentence1` and `sentence2`, … | one or two texts and a class |
//! | classified image | `image`, `label` | an image and a class |
//!
//! Where classes are to be told and not learnt ([`Layout::without_label`]), rows need no label.

mod chat;
mod columns;
mod detect;
mod fields;
mod image;

use std::fmt;
use std::path::PathBuf;

use serde::Serialize;
use serde_json::{Map, Value};

use super::error::RowError;
use super::source::Row;
use crate::image::{ImageError, Rgb};
pub use chat::turns;
pub use columns::{Columns, Meaning, Role, Tags};

/// A row as it is learnt from.
#[derive(Debug, Clone, PartialEq)]
pub enum Example {
    /// Messages; the answers of the assistant are learnt.
    Chat(Chat),
    /// A text and what follows it; the latter is learnt.
    Completion {
        /// What is given.
        prompt: String,
        /// What is learnt.
        completion: String,
    },
    /// A text, learnt as a whole.
    Text(String),
    /// One text or two, and their class.
    Classified {
        /// The texts.
        texts: (String, Option<String>),
        /// The class; none in an unlabelled row.
        label: Option<Label>,
    },
    /// An image and its class.
    Image {
        /// The image.
        picture: Picture,
        /// The class; none in an unlabelled row.
        label: Option<Label>,
    },
}

/// A conversation.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Chat {
    /// Objects with `role` (of Hugging Face's names) and `content`.
    pub messages: Vec<Map<String, Value>>,
    /// Schemas of the tools on offer.
    pub tools: Option<Vec<Value>>,
    /// The first message whose answer is learnt: those before it are a prompt.
    pub learnt_from: usize,
}

/// A class as a row names it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Label {
    /// Its number.
    Id(i64),
    /// Its name.
    Name(String),
}

impl fmt::Display for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Id(id) => write!(f, "{id}"),
            Self::Name(name) => write!(f, "{name:?}"),
        }
    }
}

/// An image that is not decoded yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Picture {
    /// A file.
    File(PathBuf),
    /// The bytes of a file, which stand in a dataset under this name.
    Bytes {
        /// For messages.
        name: PathBuf,
        /// PNG or JPEG.
        bytes: Vec<u8>,
    },
}

impl Picture {
    /// The image, decoded.
    pub fn decode(&self) -> Result<Rgb, ImageError> {
        match self {
            Self::File(path) => crate::image::open(path),
            Self::Bytes { name, bytes } => crate::image::decode(bytes, name),
        }
    }
}

/// What rows look like.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Shape {
    /// `messages`.
    Messages,
    /// `prompt` and `completion`.
    PromptCompletion,
    /// `conversations` of `from` and `value`.
    ShareGpt,
    /// `instruction`, `input`, `output`.
    Alpaca,
    /// `chat_rounds`.
    ChatRounds,
    /// A question and an answer.
    Pair,
    /// `text`.
    Text,
    /// Texts with a label.
    Classified,
    /// Images with a label.
    Image,
}

/// What is done with the examples of a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Text is produced.
    Generate,
    /// Texts are classified.
    Classify,
    /// Images are classified.
    ImageClassify,
}

impl Kind {
    /// Its name in recipes.
    pub fn name(self) -> &'static str {
        match self {
            Self::Generate => "generate",
            Self::Classify => "classify",
            Self::ImageClassify => "image_classify",
        }
    }
}

impl Shape {
    /// What its rows are for.
    pub fn kind(self) -> Kind {
        match self {
            Self::Classified => Kind::Classify,
            Self::Image => Kind::ImageClassify,
            _ => Kind::Generate,
        }
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Messages => "messages",
            Self::PromptCompletion => "prompt and completion",
            Self::ShareGpt => "ShareGPT",
            Self::Alpaca => "Alpaca",
            Self::ChatRounds => "MFTCoder chat rounds",
            Self::Pair => "question and answer",
            Self::Text => "text",
            Self::Classified => "classified text",
            Self::Image => "classified image",
        }
    }

    /// Whether rows become conversations, for which a chat template is needed. Prompts may be either.
    pub fn is_chat(self) -> bool {
        matches!(self, Self::Messages | Self::ShareGpt | Self::Alpaca | Self::ChatRounds | Self::Pair)
    }
}

/// Order of the speakers of a conversation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Turns {
    /// Rows whose roles do not alternate are counted and kept.
    #[default]
    Warn,
    /// Rows whose roles do not alternate are bad rows.
    Refuse,
}

/// How the rows of a file are read: their shape and the keys that are used.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Layout {
    /// The shape.
    pub shape: Shape,
    /// The keys.
    pub columns: Columns,
    /// Names of roles and of the keys inside of messages.
    #[serde(skip)]
    pub tags: Tags,
    /// Keys of the first row that are not used.
    pub unused: Vec<String>,
}

impl fmt::Display for Layout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.shape.name(), self.columns)?;
        if !self.unused.is_empty() {
            write!(f, "; not used: {}", self.unused.join(", "))?;
        }
        Ok(())
    }
}

impl Layout {
    /// A layout that is known.
    pub fn new(shape: Shape, columns: Columns, tags: Tags) -> Self {
        Self { shape, columns, tags, unused: Vec::new() }
    }

    /// The example that `row` is.
    pub fn read(&self, row: Row) -> Result<Example, RowError> {
        let place = row.place.clone();
        let example = match self.shape {
            Shape::Messages | Shape::ChatRounds | Shape::ShareGpt => chat::messages(&row, self),
            Shape::PromptCompletion => chat::prompt_completion(&row, self),
            Shape::Alpaca => chat::alpaca(&row, self),
            Shape::Pair => chat::pair(&row, self),
            Shape::Text => fields::plain(&row, self),
            Shape::Classified => fields::classified(&row, self),
            Shape::Image => image::classified(row, self),
        };
        example.map_err(|problem| RowError { place, problem })
    }
}

#[cfg(test)]
mod tests;
