//! What tells the classes of a task: an expert's head, the model's own words, or the vectors of texts.

use std::path::Path;

use super::error::AdaptError;
use crate::config::{ClipConfig, ModelConfig};
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
}

impl Teller {
    /// The expert whose head it is.
    pub fn head(&self) -> Option<usize> {
        match self {
            Self::Head(expert) => Some(*expert),
            Self::Words | Self::Texts(_) => None,
        }
    }

    /// Whether the merged model keeps the head of a language model.
    pub(super) fn needs_words(&self) -> bool {
        *self == Self::Words
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
pub(super) fn vectors(
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
