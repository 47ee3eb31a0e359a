//! The half that reads.

use onefold_engine::cpu::attention::{Mask, Segment};
use onefold_engine::cpu::norm::Kind;

use crate::config::ClipTextConfig;
use crate::families::Half;
use crate::model::attention::AttentionSettings;
use crate::model::batch::{Batch, BatchError};
use crate::model::embedding::{Embedding, EmbeddingSettings};
use crate::model::layer::{LayerSettings, Placement};
use crate::model::parameters::Parameters;
use crate::model::tower::{StackSettings, Tower};

/// Its layers: causal, and normalised first.
pub(super) fn tower(config: &ClipTextConfig, parameters: &Parameters) -> Option<Tower<Embedding>> {
    let embedding = Embedding::find(parameters, Half::Text, &EmbeddingSettings::default())?;
    let layer = LayerSettings {
        placement: Placement::Before,
        norm: Kind::Layer,
        epsilon: config.norm_eps,
        attention: AttentionSettings::plain(
            config.hidden_size,
            config.heads,
            Mask::CAUSAL,
            config.attention_dropout,
        ),
        activation: config.activation,
        dropout: [0.0; 2],
    };
    let settings = StackSettings {
        layers: vec![layer; config.layers],
        final_norm: Some((Kind::Layer, config.norm_eps)),
        ropes: Vec::new(),
    };
    Tower::find(parameters, Half::Text, embedding, &settings)
}

/// The row that speaks for each text: that of its first end token.
pub(super) fn ends(texts: &Batch, end: Option<u32>) -> Result<Vec<u32>, BatchError> {
    let row = |(sequence, segment): (usize, &Segment)| {
        let ids = &texts.ids()[segment.query..][..segment.queries];
        let token = match end {
            Some(token) => token,
            None => ids.iter().copied().max().ok_or(BatchError::EmptySequence { sequence })?,
        };
        let at = ids.iter().position(|id| *id == token).ok_or(BatchError::NoEnd { sequence, token })?;
        Ok((segment.query + at) as u32)
    };
    texts.segments().iter().enumerate().map(row).collect()
}
