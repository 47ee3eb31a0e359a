//! What tells the classes of a task: an expert's head, the model's own words, one word for each class, or the vectors of texts.

use std::path::Path;

use super::error::AdaptError;
use crate::config::{ClipConfig, Head, ModelConfig};
use crate::families::{Half, Role, TensorSpec};
use crate::model::{Batch, ClassVectors, ClipModel, Parameters, Sequence};
use crate::text::{Input, Limit, Tokenizer};

/// What tells a task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Teller {
    /// The head of an expert, by its number; it is not merged.
    Head(usize),
    /// The merged model itself, word by word.
    Words,
    /// Clip: texts of each class, as token ids, with which pictures are compared.
    Texts(Vec<Vec<Vec<u32>>>),
    /// A language model: a token for each class, whose scores at the end of a row are compared.
    LabelWords(Vec<u32>),
}

impl Teller {
    /// The expert whose head it is.
    pub fn head(&self) -> Option<usize> {
        match self {
            Self::Head(expert) => Some(*expert),
            Self::Words | Self::Texts(_) | Self::LabelWords(_) => None,
        }
    }

    /// Whether the merged model keeps the head of a language model.
    pub(super) fn needs_words(&self) -> bool {
        matches!(self, Self::Words | Self::LabelWords(_))
    }

    /// Each class in each of the templates, as the tokenizer of the model in `source` has it.
    ///
    /// # Errors
    /// If that is no clip, has no tokenizer, or a text has more tokens than the model takes.
    pub fn texts(source: &Path, classes: &[String], templates: &[String]) -> Result<Self, AdaptError> {
        let ModelConfig::Clip(config) = ModelConfig::open(source)? else {
            return Err(AdaptError::setting("classes", "they are told by models of type `clip` alone"));
        };
        let tokenizer = Tokenizer::open(source)?;
        let of_class = |class: &String| {
            let text = |template: &String| tokens(&tokenizer, &config, &template.replace("{}", class));
            templates.iter().map(text).collect::<Result<Vec<_>, _>>()
        };
        Ok(Self::Texts(classes.iter().map(of_class).collect::<Result<_, _>>()?))
    }

    /// A word for each class, by the tokenizer of the model in `source`; and what is to be told of them. A word of several tokens
    /// stands there with its first.
    ///
    /// # Errors
    /// If that is no language model, ends texts by itself, does not know a word, or two begin with the same token.
    pub fn label_words(source: &Path, words: &[(String, String)]) -> Result<(Self, Vec<String>), AdaptError> {
        let tokenizer = reader(source)?;
        let (mut ids, mut notes): (Vec<u32>, Vec<String>) = (Vec::new(), Vec::new());
        for (class, word) in words {
            let (first, count) = first(&tokenizer, class, word)?;
            if let Some(other) = ids.iter().position(|id| *id == first) {
                let (other, same) = &words[other];
                let message =
                    format!("{word:?} of `{class}` and {same:?} of `{other}` begin with the same token");
                return Err(AdaptError::setting("label_words", message));
            }
            if count > 1 {
                let shown = tokenizer.decode(&[first], false)?;
                notes.push(format!(
                    "{word:?}, the word of `{class}`, has {count} tokens; the first, {shown:?}, stands for it"
                ));
            }
            ids.push(first);
        }
        Ok((Self::LabelWords(ids), notes))
    }
}

/// The tokenizer of a language model behind whose texts a word may follow.
fn reader(source: &Path) -> Result<Tokenizer, AdaptError> {
    let wrong = |message: String| Err(AdaptError::setting("label_words", message));
    let config = ModelConfig::open(source)?;
    let common = config.common();
    if !matches!((&config, common.head), (ModelConfig::Decoder(_), Head::Language)) {
        let kind = &common.model_type;
        return wrong(format!("they are words of a language model; the base, of type `{kind}`, is none"));
    }
    let tokenizer = Tokenizer::open(source)?;
    let text = tokenizer.encode(Input::Text(BEFORE), true, Limit::None)?.ids;
    if text.last().is_some_and(|last| tokenizer.special().eos.contains(last)) {
        return wrong(format!("{} ends every text, so no word follows", tokenizer.path().display()));
    }
    Ok(tokenizer)
}

/// The first token of the word of a class, and how many there are.
fn first(tokenizer: &Tokenizer, class: &str, word: &str) -> Result<(u32, usize), AdaptError> {
    let unknown = tokenizer.special().named.get("unk_token").and_then(|token| tokenizer.id(token));
    let found = after(tokenizer, word)?;
    match found.first().filter(|first| Some(**first) != unknown) {
        Some(first) => Ok((*first, found.len())),
        None => {
            let message = format!("the tokenizer does not know {word:?}, the word of `{class}`");
            Err(AdaptError::setting("label_words", message))
        }
    }
}

/// What a word may follow.
const BEFORE: &str = ":";

/// The tokens of a word that follows something: tokenizers that begin each text with a space would give it one more.
fn after(tokenizer: &Tokenizer, word: &str) -> Result<Vec<u32>, AdaptError> {
    let ids = |text: &str| Ok::<_, AdaptError>(tokenizer.encode(Input::Text(text), false, Limit::None)?.ids);
    let (before, both) = (ids(BEFORE)?, ids(&format!("{BEFORE}{word}"))?);
    match both.strip_prefix(&before[..]) {
        Some(rest) if !rest.is_empty() => Ok(rest.to_vec()),
        _ => ids(word),
    }
}

fn tokens(tokenizer: &Tokenizer, config: &ClipConfig, text: &str) -> Result<Vec<u32>, AdaptError> {
    let ids = tokenizer.encode(Input::Text(text), true, Limit::None)?.ids;
    let most = config.text.max_positions;
    if ids.len() > most {
        let message = format!("{text:?} has {} tokens, the model takes {most}", ids.len());
        return Err(AdaptError::setting("classes", message));
    }
    Ok(ids)
}

/// Whether a tensor is merged: of clip the tower of images alone, which is what FusionBench merges, too. Texts and pictures then
/// still meet in the base's space.
pub(super) fn is_merged(config: &ModelConfig, spec: &TensorSpec) -> bool {
    !matches!(config, ModelConfig::Clip(_)) || spec.half == Half::Vision && spec.role != Role::Projection
}

/// The vectors of each class, by the text tower of `parameters`; and the bytes that this took.
///
/// # Errors
/// If a text does not fit the model.
pub(crate) fn vectors(
    parameters: &Parameters,
    texts: &[Vec<Vec<u32>>],
) -> Result<(ClassVectors, usize), AdaptError> {
    // A model for this alone: what it holds afterwards is of no further use.
    let mut model = ClipModel::new(parameters)?;
    let batch = |texts: &Vec<Vec<u32>>| {
        let mut batch = Batch::default();
        texts.iter().for_each(|ids| batch.push(&Sequence { ids, ..Sequence::default() }));
        batch
    };
    let batches: Vec<Batch> = texts.iter().map(batch).collect();
    let found = model.class_vectors(parameters, &batches)?;
    Ok((found, model.held_bytes()))
}
