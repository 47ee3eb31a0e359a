//! Clip: images and texts in one space (Radford et al., "Learning transferable visual models from natural language
//! supervision", 2021).
//!
//! Scores are s·⟨image, text⟩ of vectors of length 1, with a learned s = exp(`logit_scale`). Training on pairs minimises the
//! mean of two cross-entropies: which text belongs to an image, and which image to a text. A classifier without training has
//! one text vector per class ([`ClassVectors`]).

mod classes;
mod pairs;
mod projected;
#[cfg(test)]
mod tests;
mod text;

use onefold_engine::cpu::loss::{Objective, head};
use onefold_engine::{Buffer, Weight};

pub use classes::ClassVectors;

use projected::Projected;

use super::batch::Batch;
use super::embedding::Embedding;
use super::error::ModelError;
use super::head::{Scores, Vectors};
use super::memory::BatchShape;
use super::parameters::{ParameterId, Parameters, Part};
use super::tower::Way;
use super::vision::{self, ImageBatch, PatchEmbedding};
use crate::config::{ClipConfig, ModelConfig};
use crate::families::{Half, Role};

/// Clip, and the memory in which it works.
#[derive(Debug)]
pub struct ClipModel {
    text: Projected<Embedding>,
    vision: Projected<PatchEmbedding>,
    scale: ParameterId,
    /// The token whose row speaks for a text; none: that of the highest number.
    end: Option<u32>,
    image_rows: usize,
    loss: head::Scratch,
    scores: Scores,
}

impl ClipModel {
    /// The model whose parameters these are. It goes with these alone: build it after adapters were made.
    ///
    /// # Errors
    /// If it is not clip.
    pub fn new(parameters: &Parameters) -> Result<Self, ModelError> {
        match parameters.config() {
            ModelConfig::Clip(config) => {
                Ok(Self::find(config, parameters).expect("families list what settings name"))
            }
            other => Err(ModelError::NotClip { model_type: other.common().model_type.clone() }),
        }
    }

    fn find(config: &ClipConfig, parameters: &Parameters) -> Option<Self> {
        let vision = vision::tower(&config.vision, parameters, Half::Vision)?;
        Some(Self {
            text: Projected::find(parameters, Half::Text, text::tower(&config.text, parameters)?)?,
            vision: Projected::find(parameters, Half::Vision, vision)?,
            scale: parameters.find(Half::Whole, None, Role::LogitScale, Part::Weight)?,
            // The first files named 2, and meant the highest number.
            end: config.text.eos_token.filter(|token| *token != 2),
            image_rows: config.vision.patches() + 1,
            loss: head::Scratch::default(),
            scores: Scores::default(),
        })
    }

    /// Bytes of activations that pairs need if everything is trained; the two shapes have as many sequences.
    pub fn activation_bytes(&self, texts: &BatchShape, images: &BatchShape) -> usize {
        let (vocabulary, width, scale, empty) = (images.sequences, self.text.width(), 1.0, Buffer::default());
        let weight = Weight::Full(&empty);
        let objective = Objective::CROSS_ENTROPY;
        let head = head::Head { weight, bias: None, vocabulary, width, scale, cap: None, objective };
        let loss = head::scratch_bytes(&head, images.sequences, images.training());
        self.text.bytes_for(texts) + self.vision.bytes_for(images) + loss
    }

    /// Bytes of activations that are held since the largest batch.
    pub fn held_bytes(&self) -> usize {
        let Self { text, vision, loss, scores, .. } = self;
        text.held_bytes() + vision.held_bytes() + loss.bytes() + scores.bytes()
    }

    /// Vectors `[texts, width]` of length 1.
    ///
    /// # Errors
    /// If the batch does not fit the model, or a text lacks its end.
    pub fn embed_texts(&mut self, parameters: &Parameters, texts: &Batch) -> Result<&Buffer, ModelError> {
        let ends = text::ends(texts, self.end)?;
        self.text.run(parameters, (texts, Some(&ends)), Way::FORWARD, None, |_, _| Ok(()))?;
        Ok(self.text.embeddings())
    }

    /// Vectors `[images, width]` of length 1.
    ///
    /// # Errors
    /// If the batch does not fit the model.
    pub fn embed_images(
        &mut self,
        parameters: &Parameters,
        images: &ImageBatch,
    ) -> Result<&Buffer, ModelError> {
        self.vision.run(parameters, (images, None), Way::FORWARD, None, |_, _| Ok(()))?;
        Ok(self.vision.embeddings())
    }

    /// Scores `[images, texts]`.
    ///
    /// # Errors
    /// If a batch does not fit the model, or a text lacks its end.
    pub fn compare(
        &mut self,
        parameters: &Parameters,
        texts: &Batch,
        images: &ImageBatch,
    ) -> Result<&Buffer, ModelError> {
        self.embed_texts(parameters, texts)?;
        self.embed_images(parameters, images)?;
        let (scale, width) = (self.scale(parameters), self.text.width());
        let vectors = Vectors { vectors: self.text.embeddings(), bias: None, width, scale, cap: None };
        vectors.forward(self.vision.embeddings(), &mut self.scores);
        Ok(&self.scores.logits)
    }

    fn scale(&self, parameters: &Parameters) -> f32 {
        let mut scale = [0.0];
        parameters.full(self.scale).read(0, &mut scale);
        scale[0].exp()
    }

    /// `vectors` with which pictures are compared.
    fn of<'a>(&self, parameters: &Parameters, vectors: &'a Buffer) -> Vectors<'a> {
        let (width, scale) = (self.text.width(), self.scale(parameters));
        Vectors { vectors, bias: None, width, scale, cap: None }
    }
}
