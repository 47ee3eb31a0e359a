//! Models of text: an embedding, layers, a head. What kind of model it is, is a matter of its settings.

mod decoder;
#[cfg(test)]
mod tests;

use onefold_engine::Buffer;
use onefold_engine::cpu::attention::Segment;
use onefold_engine::cpu::loss::{Losses, Objective};
use onefold_engine::cpu::norm::Kind;
use onefold_engine::cpu::rope::{Rope, Table};

use super::attention::KeyValues;
use super::batch::{Batch, Limits};
use super::embedding::{Embedding, EmbeddingSaved, EmbeddingSettings};
use super::error::ModelError;
use super::gradients::{Backward, GradientSink};
use super::head::{Head, HeadSettings};
use super::layer::LayerSettings;
use super::memory::BatchShape;
use super::parameters::Parameters;
use super::pass::{Coins, Pass};
use super::stack::{Activations, Keep, Stack};
use crate::config::ModelConfig;
use crate::families::Half;

/// What a configuration says of a model of text.
#[derive(Debug, Clone, PartialEq)]
struct TextSettings {
    /// Its embedding.
    embedding: EmbeddingSettings,
    /// Its layers.
    layers: Vec<LayerSettings>,
    /// Kind and epsilon of the norm behind them.
    final_norm: Option<(Kind, f64)>,
    /// Its head.
    head: HeadSettings,
    /// The rotations that its layers name by number.
    ropes: Vec<Rope>,
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
    embedding: Embedding,
    stack: Stack,
    head: Head,
    ropes: Vec<Table>,
    embedded: EmbeddingSaved,
    activations: Activations,
}

impl TextModel {
    /// The model whose parameters these are. It goes with these alone: build it after adapters were made.
    ///
    /// # Errors
    /// If it is no model of text.
    pub fn new(parameters: &Parameters) -> Result<Self, ModelError> {
        let settings = match parameters.config() {
            ModelConfig::Decoder(config) => decoder::settings(config),
            other => return Err(ModelError::NotText { model_type: other.common().model_type.clone() }),
        };
        Ok(Self::find(&settings, parameters).expect("families list what settings name"))
    }

    fn find(settings: &TextSettings, parameters: &Parameters) -> Option<Self> {
        let TextSettings { embedding, layers, final_norm, head, ropes } = settings;
        Some(Self {
            embedding: Embedding::find(parameters, Half::Whole, embedding)?,
            stack: Stack::find(parameters, Half::Whole, layers, *final_norm)?,
            head: Head::find(parameters, head)?,
            ropes: ropes.iter().cloned().map(Table::new).collect(),
            embedded: EmbeddingSaved::default(),
            activations: Activations::default(),
        })
    }

    /// Bytes of activations that a batch needs, if all its rows have targets and everything is trained.
    pub fn activation_bytes(&self, parameters: &Parameters, shape: &BatchShape) -> usize {
        self.embedding.bytes(shape)
            + self.stack.bytes(shape, self.embedding.width())
            + self.head.bytes_for(parameters, shape)
    }

    /// Bytes of activations that are held since the largest batch.
    pub fn held_bytes(&self) -> usize {
        self.embedded.bytes() + self.activations.bytes() + self.head.bytes()
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
        let training = Training { objective, checkpointing: false, coins: None };
        self.run(parameters, batch, &training, None, losses)
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
        self.run(parameters, batch, training, Some(sink), losses)
    }

    fn run(
        &mut self,
        parameters: &Parameters,
        batch: &Batch,
        training: &Training,
        sink: Option<&mut dyn GradientSink>,
        losses: &mut Losses,
    ) -> Result<(), ModelError> {
        let keep = match (&sink, training.checkpointing) {
            (None, _) => Keep::Nothing,
            (Some(_), true) => Keep::Inputs,
            (Some(_), false) => Keep::Everything,
        };
        let coins = training.coins.filter(|_| sink.is_some());
        self.forward(parameters, batch, keep, coins)?;
        let Self { embedding, stack, head, ropes, embedded, activations } = self;
        let pass = pass(parameters, batch, ropes, keep, coins);
        let mut back = sink.map(|sink| Backward { pass: &pass, sink });
        let (hidden, d_hidden) = stack.output(activations);
        let to = back.as_mut().map(|back| (back, d_hidden));
        head.loss(&pass, (hidden, batch), training.objective, to, losses)?;
        if let Some(mut back) = back
            && let Some(d) = stack.backward(&mut back, activations, keep)
        {
            embedding.backward(&mut back, batch, d, embedded);
        }
        Ok(())
    }

    /// Runs the model up to its head.
    fn forward(
        &mut self,
        parameters: &Parameters,
        batch: &Batch,
        keep: Keep,
        coins: Option<Coins>,
    ) -> Result<(), ModelError> {
        batch.check(self.embedding.limits())?;
        self.ropes.iter_mut().for_each(|rope| rope.prepare(batch.longest()));
        let Self { embedding, stack, ropes, embedded, activations, .. } = self;
        let pass = pass(parameters, batch, ropes, keep, coins);
        embedding.forward(&pass, batch, stack.input(activations, keep), embedded)?;
        stack.forward(&pass, activations);
        Ok(())
    }

    /// The result of the last layer, normalised: `[rows, width]`.
    ///
    /// # Errors
    /// If the batch does not fit the model.
    pub fn hidden(&mut self, parameters: &Parameters, batch: &Batch) -> Result<&Buffer, ModelError> {
        self.forward(parameters, batch, Keep::Nothing, None)?;
        Ok(self.stack.output(&mut self.activations).0)
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
        self.forward(parameters, batch, Keep::Nothing, None)?;
        let Self { stack, head, activations, .. } = self;
        match head {
            Head::Language(head, scratch) => {
                Ok(head.logits(parameters, stack.output(activations).0, rows, scratch))
            }
            Head::Classes(..) => Err(ModelError::NoLanguageHead),
            Head::None => Err(ModelError::NoHead),
        }
    }

    /// Scores `[sequences, classes]`.
    ///
    /// # Errors
    /// If the batch does not fit the model, or the head gives no such scores.
    pub fn classify(&mut self, parameters: &Parameters, batch: &Batch) -> Result<&Buffer, ModelError> {
        self.forward(parameters, batch, Keep::Nothing, None)?;
        let Self { stack, head, ropes, activations, .. } = self;
        let pass = pass(parameters, batch, ropes, Keep::Nothing, None);
        match head {
            Head::Classes(head, saved) => Ok(head.forward(&pass, stack.output(activations).0, saved)),
            Head::Language(..) | Head::None => Err(ModelError::NoClassHead),
        }
    }
}

impl TextModel {
    /// What a batch may contain.
    pub fn limits(&self) -> &Limits {
        self.embedding.limits()
    }

    /// Whether the head gives scores of the next token.
    pub fn is_language_model(&self) -> bool {
        matches!(self.head, Head::Language(..))
    }

    /// A cache of so many rows.
    pub(super) fn cache(&self, rows: usize) -> Vec<KeyValues> {
        self.stack.cache(rows)
    }

    /// Scores `[rows.len(), vocabulary]` of the next token at some of the batch's rows, whose sequences go on from what is in
    /// `cache`; `segments` and `cache_rows` say where in it.
    pub(super) fn next_scores(
        &mut self,
        parameters: &Parameters,
        batch: &Batch,
        (cache, segments, cache_rows): (&mut [KeyValues], &[Segment], &[u32]),
        rows: &[u32],
    ) -> Result<&Buffer, ModelError> {
        batch.check(self.embedding.limits())?;
        self.ropes.iter_mut().for_each(|rope| rope.prepare(batch.longest()));
        let Self { embedding, stack, head, ropes, embedded, activations } = self;
        let Head::Language(head, scratch) = head else { return Err(ModelError::NoLanguageHead) };
        let keep = Keep::Nothing;
        let pass = Pass { segments, cache_rows, ..pass(parameters, batch, ropes, keep, None) };
        embedding.forward(&pass, batch, stack.input(activations, keep), embedded)?;
        stack.forward_cached(&pass, activations, cache);
        Ok(head.logits(parameters, stack.output(activations).0, rows, scratch))
    }
}

fn pass<'a>(
    parameters: &'a Parameters,
    batch: &'a Batch,
    ropes: &'a [Table],
    keep: Keep,
    coins: Option<Coins>,
) -> Pass<'a> {
    let (segments, positions) = (batch.segments(), batch.positions());
    Pass { parameters, segments, positions, ropes, cache_rows: &[], training: keep != Keep::Nothing, coins }
}
