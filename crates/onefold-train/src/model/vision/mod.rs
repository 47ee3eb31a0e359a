//! Models that look at images: patches, layers that normalise first, a class row that answers.

mod embedding;
mod images;
#[cfg(test)]
mod tests;

use onefold_engine::cpu::attention::Mask;
use onefold_engine::cpu::norm::Kind;
use onefold_engine::cpu::pool::Pooling;

pub(super) use embedding::PatchEmbedding;
pub use images::{Image, ImageBatch};

use super::attention::AttentionSettings;
use super::error::ModelError;
use super::head::{ClassSettings, HeadSettings, Heads};
use super::layer::{LayerSettings, Placement};
use super::parameters::Parameters;
use super::tower::{StackSettings, Tower};
use super::whole::Model;
use crate::config::{Head as HeadKind, ModelConfig, VisionConfig};
use crate::families::Half;

/// A model of images.
pub type VisionModel = Model<PatchEmbedding>;

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

    /// Rows of an image: its patches and the class row.
    pub fn rows(&self) -> usize {
        self.tower.embedding().rows()
    }

    fn find(config: &VisionConfig, parameters: &Parameters) -> Option<Self> {
        let tower = tower(config, parameters, Half::Whole)?;
        Some(Self::of(tower, Heads::find(parameters, |config| Some(head(config)))?))
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
