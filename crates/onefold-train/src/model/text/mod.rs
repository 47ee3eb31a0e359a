//! Models of text: an embedding, layers, a head. What kind of model it is, is a matter of its settings.

mod decoder;
mod encoder;
mod sentence;
#[cfg(test)]
mod tests;

use onefold_engine::Buffer;
use onefold_engine::cpu::loss::{Losses, Objective};

pub use sentence::{SentenceError, SentencePooling};

use sentence::SentenceScratch;

use super::attention::KeyValues;
use super::batch::{Batch, Limits};
use super::embedding::{Embedding, EmbeddingSettings};
use super::error::ModelError;
use super::gradients::GradientSink;
use super::head::{Head, HeadSettings, Heads};
use super::memory::BatchShape;
use super::parameters::Parameters;
use super::pass::Coins;
use super::tower::{Cached, StackSettings, Tower, Way};
use crate::config::ModelConfig;
use crate::families::Half;

/// What a configuration says of a model of text.
#[derive(Debug, Clone, PartialEq)]
struct TextSettings {
    /// Its embedding.
    embedding: EmbeddingSettings,
    /// Its layers.
    stack: StackSettings,
    /// Its head.
    head: HeadSettings,
}

/// Those of a model; `None` if it does not read text.
fn settings(config: &ModelConfig) -> Option<TextSettings> {
    match config {
        ModelConfig::Decoder(config) => Some(decoder::settings(config)),
        ModelConfig::Encoder(config) => Some(encoder::settings(config)),
        ModelConfig::Vision(_) | ModelConfig::Clip(_) => None,
    }
}

/// How to train on a batch.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Training {
    /// What is minimised.
    pub objective: Objective,
    /// Whether layers are run again on the way back, instead of keeping all that they leave.
    pub checkpointing: bool,
    /// Coins of dropout; none: nothing is dropped.
    pub coins: Option<Coins>,
}

/// A model of text: its description, and the memory in which it works.
#[derive(Debug)]
pub struct TextModel {
    tower: Tower<Embedding>,
    heads: Heads,
    sentences: SentenceScratch,
    /// Whether each token sees the earlier ones alone: what its head gives is then of the next token.
    causal: bool,
}

impl TextModel {
    /// The model whose parameters these are. It goes with these alone: build it after adapters were made.
    ///
    /// # Errors
    /// If it is no model of text.
    pub fn new(parameters: &Parameters) -> Result<Self, ModelError> {
        match settings(parameters.config()) {
            Some(settings) => {
                Ok(Self::find(&settings, parameters).expect("families list what settings name"))
            }
            None => Err(ModelError::NotText { model_type: parameters.config().common().model_type.clone() }),
        }
    }

    fn find(text: &TextSettings, parameters: &Parameters) -> Option<Self> {
        let embedding = Embedding::find(parameters, Half::Whole, &text.embedding)?;
        let tower = Tower::find(parameters, Half::Whole, embedding, &text.stack)?;
        let heads = Heads::find(parameters, |config| settings(config).map(|settings| settings.head))?;
        let causal = matches!(parameters.config(), ModelConfig::Decoder(_));
        Some(Self { tower, heads, sentences: SentenceScratch::default(), causal })
    }

    /// Uses the head of a task from now on, or the model's own.
    ///
    /// # Errors
    /// If the parameters have no head for the task.
    pub fn select_head(&mut self, task: Option<u32>) -> Result<(), ModelError> {
        self.heads.select(task)
    }

    /// Bytes of activations that a batch needs, if all its rows have targets and everything is trained.
    pub fn activation_bytes(&self, parameters: &Parameters, shape: &BatchShape) -> usize {
        self.tower.bytes_for(shape) + self.heads.bytes_for(parameters, shape)
    }

    /// Bytes of activations that are held since the largest batch.
    pub fn held_bytes(&self) -> usize {
        self.tower.held_bytes() + self.heads.bytes()
    }

    /// Losses of a batch.
    ///
    /// # Errors
    /// If the batch does not fit the model, or there is no head.
    pub fn evaluate(
        &mut self,
        parameters: &Parameters,
        batch: &Batch,
        objective: Objective,
        losses: &mut Losses,
    ) -> Result<(), ModelError> {
        let Self { tower, heads, .. } = self;
        let head = heads.head();
        tower.run(parameters, batch, Way::FORWARD, None, |pass, hidden, back| {
            head.loss(pass, (hidden, batch.targets()), objective, back, losses)
        })
    }

    /// Losses of a batch, and the gradients of all trainable parameters.
    ///
    /// # Errors
    /// If the batch does not fit the model, or there is no head; the sink has seen nothing then.
    pub fn train(
        &mut self,
        parameters: &Parameters,
        batch: &Batch,
        training: &Training,
        losses: &mut Losses,
        sink: &mut dyn GradientSink,
    ) -> Result<(), ModelError> {
        let Training { objective, checkpointing, coins } = *training;
        let Self { tower, heads, .. } = self;
        let head = heads.head();
        tower.run(parameters, batch, Way::training(checkpointing, coins), Some(sink), |pass, hidden, back| {
            head.loss(pass, (hidden, batch.targets()), objective, back, losses)
        })
    }

    /// The result of the last layer, normalised: `[rows, width]`.
    ///
    /// # Errors
    /// If the batch does not fit the model.
    pub fn hidden(&mut self, parameters: &Parameters, batch: &Batch) -> Result<&Buffer, ModelError> {
        self.tower.run(parameters, batch, Way::FORWARD, None, |_, _, _| Ok(()))?;
        Ok(self.tower.hidden())
    }

    /// Scores `[rows, vocabulary]` of the next token at some of the batch's rows.
    ///
    /// # Errors
    /// If the batch does not fit the model, or has no such row, or the head gives no such scores.
    pub fn logits(
        &mut self,
        parameters: &Parameters,
        batch: &Batch,
        rows: &[u32],
    ) -> Result<&Buffer, ModelError> {
        if let Some(row) = rows.iter().find(|row| **row as usize >= batch.rows()) {
            return Err(ModelError::NoRow { row: *row, rows: batch.rows() });
        }
        let Self { tower, heads, .. } = self;
        let head = heads.head();
        let (head, scratch) = match head {
            Head::Language(head, scratch) => (head, scratch),
            Head::Classes(..) => return Err(ModelError::NoLanguageHead),
            Head::None => return Err(ModelError::NoHead),
        };
        tower.run(parameters, batch, Way::FORWARD, None, |pass, hidden, _| {
            head.logits(pass, hidden, rows, scratch);
            Ok(())
        })?;
        Ok(scratch.logits())
    }

    /// Scores `[answers, classes]`: one answer per sequence, or per token if the head classifies tokens.
    ///
    /// # Errors
    /// If the batch does not fit the model, or the head gives no such scores.
    pub fn classify(&mut self, parameters: &Parameters, batch: &Batch) -> Result<&Buffer, ModelError> {
        let Self { tower, heads, .. } = self;
        let head = heads.head();
        let Head::Classes(head, saved) = head else { return Err(ModelError::NoClassHead) };
        tower.run(parameters, batch, Way::FORWARD, None, |pass, hidden, _| {
            head.forward(pass, hidden, saved);
            Ok(())
        })?;
        Ok(saved.logits())
    }
}

impl TextModel {
    /// What a batch may contain.
    pub fn limits(&self) -> &Limits {
        self.tower.embedding().limits()
    }

    /// Whether the head gives scores of the next token.
    pub fn is_language_model(&self) -> bool {
        self.causal && matches!(self.heads.used(), Head::Language(..))
    }

    /// A cache of so many rows.
    pub(super) fn cache(&self, rows: usize) -> Vec<KeyValues> {
        self.tower.cache(rows)
    }

    /// Scores `[rows.len(), vocabulary]` of the next token at some of the batch's rows, whose sequences go on from what is in
    /// `cached`.
    pub(super) fn next_scores(
        &mut self,
        parameters: &Parameters,
        batch: &Batch,
        cached: Cached<'_>,
        rows: &[u32],
    ) -> Result<&Buffer, ModelError> {
        let Self { tower, heads, .. } = self;
        let Head::Language(head, scratch) = heads.head() else { return Err(ModelError::NoLanguageHead) };
        tower.go_on(parameters, batch, cached, |pass, hidden| head.logits(pass, hidden, rows, scratch))?;
        Ok(scratch.logits())
    }
}
