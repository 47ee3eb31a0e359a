//! How much memory a model's activations take, before and after the fact.
//!
//! Each block says how many bytes its saved numbers and its scratch come to; a test holds the sums against what is held.
//! Not counted: weights, gradients, optimiser states, the batch itself, and a few hundred kilobytes per thread inside of
//! operators.

use onefold_engine::Buffer;

use super::stack::Keep;

/// Bytes of a buffer of so many elements.
pub(super) fn size(elements: usize) -> usize {
    Buffer::bytes_of(elements)
}

/// A batch as far as memory is concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchShape {
    /// Tokens of all sequences.
    pub rows: usize,
    /// Sequences.
    pub sequences: usize,
    /// What is kept of the forward pass.
    pub keep: Keep,
    /// Whether there are coins for dropout.
    pub dropout: bool,
}

impl BatchShape {
    /// Whether a backward pass follows.
    pub fn training(&self) -> bool {
        self.keep != Keep::Nothing
    }

    /// Whether something is dropped: in training alone.
    pub(super) fn drops(&self) -> bool {
        self.dropout && self.training()
    }
}

/// Bytes that buffers hold.
pub(super) fn held<'a>(buffers: impl IntoIterator<Item = &'a Buffer>) -> usize {
    buffers.into_iter().map(Buffer::bytes).sum()
}
