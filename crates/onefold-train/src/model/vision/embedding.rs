//! Images to rows: patches, a class row before those of each image, positions, and a norm or dropout.

use onefold_engine::cpu::attention::Segment;
use onefold_engine::cpu::norm::{Input, Kind};
use onefold_engine::cpu::patches::{self, EmbedGradients, Images};
use onefold_engine::{Buffer, Write};

use super::images::ImageBatch;
use crate::config::VisionConfig;
use crate::families::{Half, Role};
use crate::model::batch::BatchError;
use crate::model::gradients::{Backward, Lent};
use crate::model::linear::{Linear, LinearSaved, LinearScratch};
use crate::model::memory::{BatchShape, held, size};
use crate::model::norm::Norm;
use crate::model::parameters::{ParameterId, Parameters, Part};
use crate::model::pass::{Pass, Site};
use crate::model::targets::Targets;
use crate::model::tower::Embed;

/// The embedding of a model that looks at images.
#[derive(Debug, Clone)]
pub struct PatchEmbedding {
    map: Linear,
    class: ParameterId,
    positions: ParameterId,
    norm: Option<Norm>,
    /// Channels, rows and columns of an image.
    shape: [usize; 3],
    /// Pixels of a patch, both ways.
    kernel: usize,
    dropout: f64,
}

/// What the forward pass leaves, and memory.
#[derive(Debug, Default)]
pub struct PatchSaved {
    patches: Buffer,
    embedded: Buffer,
    d_embedded: Buffer,
    /// What was normalised.
    sum: Buffer,
    statistics: Buffer,
    d_sum: Buffer,
    linear: LinearSaved,
    scratch: LinearScratch,
}

impl PatchEmbedding {
    /// The embedding of a half; `None` if the parameters lack a part of it.
    pub(super) fn find(parameters: &Parameters, half: Half, config: &VisionConfig) -> Option<Self> {
        let weight = |role| parameters.find(half, None, role, Part::Weight);
        // Vit has none, clip normalises before its first layer too.
        let norm = Norm::find(parameters, (half, None), Role::EmbeddingNorm, Kind::Layer, config.norm_eps);
        Some(Self {
            map: Linear::find(parameters, (half, None), Role::PatchEmbedding)?,
            class: weight(Role::ClassEmbedding)?,
            positions: weight(Role::PositionEmbedding)?,
            norm,
            shape: [config.channels, config.image_size.0, config.image_size.1],
            kernel: config.patch_size.0,
            dropout: config.hidden_dropout,
        })
    }

    fn images(&self, images: usize) -> Images {
        let [channels, height, width] = self.shape;
        Images { images, channels, height, width, kernel: self.kernel }
    }

    /// Rows of an image: its patches and the class row.
    pub(super) fn rows(&self) -> usize {
        self.images(1).patches() + 1
    }
}

impl Embed for PatchEmbedding {
    type Batch = ImageBatch;
    type Saved = PatchSaved;

    fn lay_out(&self, batch: &ImageBatch, segments: &mut Vec<Segment>) -> Result<(), BatchError> {
        let rows = self.rows();
        batch.check(self.shape, rows)?;
        segments.clear();
        segments.extend((0..batch.len()).map(|image| Segment::new(image * rows, rows)));
        Ok(())
    }

    fn positions(_: &ImageBatch) -> &[u32] {
        &[]
    }

    fn targets_mut(batch: &mut ImageBatch) -> &mut Targets {
        batch.targets_mut()
    }

    fn targets(batch: &ImageBatch) -> &Targets {
        batch.targets()
    }

    fn forward(&self, pass: &Pass<'_>, batch: &ImageBatch, y: &mut Buffer, saved: &mut PatchSaved) {
        let PatchSaved { patches, embedded, sum, statistics, linear, scratch, .. } = saved;
        let images = self.images(batch.len());
        patches.resize(batch.len() * images.patches() * images.row());
        patches::forward(patches, batch.pixels(), &images);
        self.map.forward(pass, patches, embedded, linear, scratch);
        let to = if self.norm.is_some() { &mut *sum } else { &mut *y };
        to.resize(batch.len() * self.rows() * self.width());
        let parameters = pass.parameters;
        patches::embed(to, embedded, parameters.full(self.class), parameters.full(self.positions));
        if let Some(norm) = &self.norm {
            norm.forward(pass, Input::Ready(sum), y, statistics);
        }
        if let Some(dropout) = pass.dropout(self.dropout, Site::Embeddings) {
            dropout.apply(y);
        }
    }

    fn backward(&self, back: &mut Backward<'_>, batch: &ImageBatch, d: &mut Buffer, saved: &mut PatchSaved) {
        let PatchSaved { patches, embedded, d_embedded, sum, statistics, d_sum, linear, scratch } = saved;
        if let Some(dropout) = back.pass.dropout(self.dropout, Site::Embeddings) {
            dropout.apply(d);
        }
        let mut d = &*d;
        if let Some(norm) = &self.norm {
            norm.backward(back, sum, statistics, d, (d_sum, Write::Set));
            d = d_sum;
        }
        let (mut class, mut positions) = (back.lend(Some(self.class)), back.lend(Some(self.positions)));
        d_embedded.resize(embedded.len());
        let gradients = EmbedGradients {
            x: (d_embedded, Write::Set),
            class: class.as_mut().map(Lent::parts),
            positions: positions.as_mut().map(Lent::parts),
        };
        patches::embed_backward(gradients, d, batch.len(), self.width());
        back.complete(class);
        back.complete(positions);
        self.map.backward(back, patches, d_embedded, None, linear, scratch);
    }

    fn width(&self) -> usize {
        self.map.outputs()
    }

    fn bytes_for(&self, shape: &BatchShape) -> usize {
        let patches = shape.rows - shape.sequences;
        let matrix = size(shape.rows * self.width());
        let copies = if shape.training() { 2 } else { 1 };
        let norm = self.norm.map_or(0, |norm| copies * matrix + norm.saved_bytes(shape.rows * self.width()));
        size(patches * self.map.inputs()) + copies * size(patches * self.width()) + norm
    }

    fn held_bytes(saved: &PatchSaved) -> usize {
        let PatchSaved { patches, embedded, d_embedded, sum, statistics, d_sum, linear, scratch } = saved;
        held([patches, embedded, d_embedded, sum, statistics, d_sum]) + linear.bytes() + scratch.bytes()
    }
}
