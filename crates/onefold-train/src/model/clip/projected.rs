//! One half of clip: a tower, and behind it the way into the space in which images and texts meet.

use onefold_engine::cpu::{elementwise, pool};
use onefold_engine::{Buffer, Write};

use crate::families::{Half, Role};
use crate::model::error::ModelError;
use crate::model::gradients::{Backward, GradientSink};
use crate::model::linear::{Linear, LinearSaved, LinearScratch};
use crate::model::memory::{BatchShape, held, size};
use crate::model::parameters::Parameters;
use crate::model::pass::Pass;
use crate::model::pooled::SHORTEST;
use crate::model::tower::{Embed, Return, Tower, Way};

/// A tower whose answers are vectors of length 1.
#[derive(Debug)]
pub(super) struct Projected<E: Embed> {
    tower: Tower<E>,
    projection: Projection,
}

/// e = W·h / ‖W·h‖ of one row h of each sequence.
#[derive(Debug)]
struct Projection {
    map: Linear,
    pooled: Buffer,
    d_pooled: Buffer,
    embeddings: Buffer,
    d_embeddings: Buffer,
    norms: Buffer,
    linear: LinearSaved,
    scratch: LinearScratch,
}

impl<E: Embed> Projected<E> {
    /// A half; `None` if the parameters lack its projection.
    pub(super) fn find(parameters: &Parameters, half: Half, tower: Tower<E>) -> Option<Self> {
        let map = Linear::find(parameters, (half, None), Role::Projection)?;
        Some(Self { tower, projection: Projection::new(map) })
    }

    /// Bytes that a batch needs if everything is trained.
    pub(super) fn bytes_for(&self, shape: &BatchShape) -> usize {
        self.tower.bytes_for(shape) + self.projection.bytes_for(shape)
    }

    /// Bytes that are held since the largest batch.
    pub(super) fn held_bytes(&self) -> usize {
        self.tower.held_bytes() + self.projection.held_bytes()
    }

    /// Width of the embeddings.
    pub(super) fn width(&self) -> usize {
        self.projection.map.outputs()
    }

    /// The embeddings `[sequences, width]` that were made last.
    pub(super) fn embeddings(&self) -> &Buffer {
        &self.projection.embeddings
    }

    /// Embeds a batch, of each sequence the row in `rows`, or the first. `head` takes the embeddings, and if there is a sink,
    /// writes their gradient.
    pub(super) fn run<R>(
        &mut self,
        parameters: &Parameters,
        (batch, rows): (&E::Batch, Option<&[u32]>),
        way: Way,
        sink: Option<&mut dyn GradientSink>,
        head: impl FnOnce(&Buffer, Option<Return<'_, '_>>) -> Result<R, ModelError>,
    ) -> Result<R, ModelError> {
        let Self { tower, projection } = self;
        tower.run(parameters, batch, way, sink, |pass, hidden, back| {
            let first: Vec<u32>;
            let rows = match rows {
                Some(rows) => rows,
                None => {
                    first = pass.segments.iter().map(|segment| segment.query as u32).collect();
                    &first
                }
            };
            projection.forward(pass, hidden, rows);
            let Projection { embeddings, d_embeddings, .. } = &mut *projection;
            let Some((back, d_hidden)) = back else { return head(embeddings, None) };
            d_embeddings.resize(embeddings.len());
            let result = head(embeddings, Some((&mut *back, d_embeddings)))?;
            d_hidden.resize(hidden.len());
            projection.backward(back, d_hidden, rows);
            Ok(result)
        })
    }
}

impl Projection {
    fn new(map: Linear) -> Self {
        Self {
            map,
            pooled: Buffer::default(),
            d_pooled: Buffer::default(),
            embeddings: Buffer::default(),
            d_embeddings: Buffer::default(),
            norms: Buffer::default(),
            linear: LinearSaved::default(),
            scratch: LinearScratch::default(),
        }
    }

    fn bytes_for(&self, shape: &BatchShape) -> usize {
        let Self { map, .. } = self;
        let copies = if shape.training() { 2 } else { 1 };
        let matrices =
            copies * (size(shape.sequences * map.inputs()) + size(shape.sequences * map.outputs()));
        let shape = BatchShape { rows: shape.sequences, ..*shape };
        matrices + size(shape.sequences) + map.saved_bytes(&shape) + map.scratch_bytes(&shape).sum()
    }

    fn held_bytes(&self) -> usize {
        let Self { pooled, d_pooled, embeddings, d_embeddings, norms, linear, scratch, .. } = self;
        held([pooled, d_pooled, embeddings, d_embeddings, norms]) + linear.bytes() + scratch.bytes()
    }

    fn forward(&mut self, pass: &Pass<'_>, hidden: &Buffer, rows: &[u32]) {
        let Self { map, pooled, embeddings, norms, linear, scratch, .. } = self;
        pooled.resize(rows.len() * map.inputs());
        elementwise::gather_rows(pooled, hidden, map.inputs(), rows);
        map.forward(pass, pooled, embeddings, linear, scratch);
        norms.resize(rows.len());
        pool::normalise(embeddings, map.outputs(), SHORTEST, norms);
    }

    /// From the gradient of the embeddings to that of the hidden states.
    fn backward(&mut self, back: &mut Backward<'_>, d_hidden: &mut Buffer, rows: &[u32]) {
        let Self { map, pooled, d_pooled, embeddings, d_embeddings, norms, linear, scratch } = self;
        pool::normalise_backward(d_embeddings, embeddings, map.outputs(), SHORTEST, norms);
        map.backward(back, pooled, d_embeddings, Some((&mut *d_pooled, Write::Set)), linear, scratch);
        elementwise::scatter_rows(d_hidden, Write::Set, d_pooled, map.inputs(), rows);
    }
}
