//! How much memory a layer takes.

use super::{Layer, LayerSaved, Placement, Scratch};
use crate::model::linear::LinearScratchBytes;
use crate::model::memory::{BatchShape, held, size};

impl LayerSaved {
    pub(in crate::model) fn bytes(&self) -> usize {
        let Self { normed, sums, statistics, raw, post_statistics, attention, feed_forward } = self;
        let buffers = normed.iter().chain(sums).chain(statistics).chain(raw).chain(post_statistics);
        held(buffers) + attention.bytes() + feed_forward.bytes()
    }
}

impl Scratch {
    pub(in crate::model) fn bytes(&self) -> usize {
        let Self { delta, d_normed, d_raw, attention, feed_forward, linear } = self;
        held([delta, d_normed, d_raw]) + attention.bytes() + feed_forward.bytes() + linear.bytes()
    }
}

/// Bytes of the parts of a [`Scratch`], each of which grows to what the largest layer needs.
#[derive(Debug, Clone, Copy, Default)]
pub(in crate::model) struct ScratchBytes {
    matrices: usize,
    attention: usize,
    feed_forward: usize,
    linear: LinearScratchBytes,
}

impl ScratchBytes {
    /// Of a scratch for both.
    pub(in crate::model) fn max(self, other: Self) -> Self {
        Self {
            matrices: self.matrices.max(other.matrices),
            attention: self.attention.max(other.attention),
            feed_forward: self.feed_forward.max(other.feed_forward),
            linear: self.linear.max(other.linear),
        }
    }

    pub(in crate::model) fn sum(self) -> usize {
        self.matrices + self.attention + self.feed_forward + self.linear.sum()
    }
}

impl Layer {
    /// Bytes of what is saved, for a stream of `width`.
    pub(in crate::model) fn saved_bytes(&self, shape: &BatchShape, width: usize) -> usize {
        let elements = shape.rows * width;
        let statistics = [&self.attention_norm, &self.feed_forward_norm]
            .map(|norm| norm.saved_bytes(elements))
            .iter()
            .sum::<usize>();
        let post = self.post_norms.iter().flatten().map(|norm| size(elements) + norm.saved_bytes(elements));
        // Two results of norms and a sum, or the other way round.
        3 * size(elements)
            + statistics
            + post.sum::<usize>()
            + self.attention.saved_bytes(shape)
            + self.feed_forward.saved_bytes(shape)
    }

    /// Bytes of the scratch.
    pub(in crate::model) fn scratch_bytes(&self, shape: &BatchShape, width: usize) -> ScratchBytes {
        let between = self.placement != Placement::Before;
        let matrices = if shape.training() { 2 + usize::from(between) } else { 1 };
        let (attention, of_attention) = self.attention.scratch_bytes(shape);
        let (feed_forward, of_feed_forward) = self.feed_forward.scratch_bytes(shape);
        let linear = of_attention.max(of_feed_forward);
        ScratchBytes { matrices: matrices * size(shape.rows * width), attention, feed_forward, linear }
    }
}
