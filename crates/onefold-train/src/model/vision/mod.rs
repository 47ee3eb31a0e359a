//! Models that look at images: patches, layers that normalise first, a class row that answers.

mod embedding;
mod images;
#[cfg(test)]
mod tests;

use onefold_engine::Buffer;
use onefold_engine::cpu::attention::Mask;
use onefold_engine::cpu::loss::{Losses, Objective};
use onefold_engine::cpu::norm::Kind;
use onefold_engine::cpu::pool::Pooling;

pub(super) use embedding::PatchEmbedding;
pub use images::{Image, ImageBatch};

use super::attention::AttentionSettings;
use super::error::ModelError;
use super::gradients::GradientSink;
use super::head::{ClassSettings, Head, HeadSettings, Heads};
use super::layer::{LayerSettings, Placement};
use super::memory::BatchShape;
use super::parameters::Parameters;
use super::text::Training;
use super::tower::{StackSettings, Tower, Way};
use crate::config::{Head as HeadKind, ModelConfig, VisionConfig};
use crate::families::Half;

/// A model of images: its description, and the memory in which it works.
#[derive(Debug)]
pub struct VisionModel {
    tower: Tower<PatchEmbedding>,
    heads: Heads,
}

impl VisionModel {
    /// The model whose parameters these are. It goes with these alone: build it after adapters were made.
    ///
    /// # Errors
    /// If it is no model of images.
    pub fn new(parameters: &Parameters) -> Result<Self, ModelError> {
        match parameters.config() {
            ModelConfig::Vision(config) => {
                Ok(Self::find(config, parameters).expect("families list what settings name"))
            }
            other => Err(ModelError::NotVision { model_type: other.common().model_type.clone() }),
        }
    }

    fn find(config: &VisionConfig, parameters: &Parameters) -> Option<Self> {
        let tower = tower(config, parameters, Half::Whole)?;
        Some(Self { tower, heads: Heads::find(parameters, |config| Some(head(config)))? })
    }

    /// Uses the head of a task from now on, or the model's own.
    ///
    /// # Errors
    /// If the parameters have no head for the task.
    pub fn select_head(&mut self, task: Option<u32>) -> Result<(), ModelError> {
        self.heads.select(task)
    }

    /// Bytes of activations that a batch needs if everything is trained.
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
        batch: &ImageBatch,
        objective: Objective,
        losses: &mut Losses,
    ) -> Result<(), ModelError> {
        let Self { tower, heads } = self;
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
        batch: &ImageBatch,
        training: &Training,
        losses: &mut Losses,
        sink: &mut dyn GradientSink,
    ) -> Result<(), ModelError> {
        let Training { objective, checkpointing, coins } = *training;
        let Self { tower, heads } = self;
        let head = heads.head();
        tower.run(parameters, batch, Way::training(checkpointing, coins), Some(sink), |pass, hidden, back| {
            head.loss(pass, (hidden, batch.targets()), objective, back, losses)
        })
    }

    /// The result of the last layer, normalised: `[rows, width]`, for each image its class row and its patches.
    ///
    /// # Errors
    /// If the batch does not fit the model.
    pub fn hidden(&mut self, parameters: &Parameters, batch: &ImageBatch) -> Result<&Buffer, ModelError> {
        self.tower.run(parameters, batch, Way::FORWARD, None, |_, _, _| Ok(()))?;
        Ok(self.tower.hidden())
    }

    /// Scores `[images, classes]`.
    ///
    /// # Errors
    /// If the batch does not fit the model, or there is no head.
    pub fn classify(&mut self, parameters: &Parameters, batch: &ImageBatch) -> Result<&Buffer, ModelError> {
        let Self { tower, heads } = self;
        let head = heads.head();
        let Head::Classes(head, saved) = head else { return Err(ModelError::NoClassHead) };
        tower.run(parameters, batch, Way::FORWARD, None, |pass, hidden, _| {
            head.forward(pass, hidden, saved);
            Ok(())
        })?;
        Ok(saved.logits())
    }
}

/// The embedding and layers of a half; `None` if the parameters lack a part of them.
pub(super) fn tower(
    config: &VisionConfig,
    parameters: &Parameters,
    half: Half,
) -> Option<Tower<PatchEmbedding>> {
    let attention =
        AttentionSettings::plain(config.hidden_size, config.heads, Mask::NONE, config.attention_dropout);
    let layer = LayerSettings {
        placement: Placement::Before,
        norm: Kind::Layer,
        epsilon: config.norm_eps,
        attention,
        activation: config.activation,
        dropout: [config.hidden_dropout; 2],
    };
    let settings = StackSettings {
        layers: vec![layer; config.layers],
        final_norm: Some((Kind::Layer, config.norm_eps)),
        ropes: Vec::new(),
    };
    let embedding = PatchEmbedding::find(parameters, half, config)?;
    Tower::find(parameters, half, embedding, &settings)
}

fn head(config: &ModelConfig) -> HeadSettings {
    let common = config.common();
    match common.head {
        HeadKind::Classes(_) => HeadSettings::Classes(ClassSettings {
            pooling: Some(Pooling::First),
            problem: common.problem,
            ..ClassSettings::default()
        }),
        HeadKind::None | HeadKind::Language | HeadKind::Tokens(_) => HeadSettings::None,
    }
}
