//! Looking at what passes the linear maps of a model, for statistics of its inputs.
//!
//! A tower without a tap asks once per map whether there is one, and that is all it costs.

use std::fmt::Debug;

use onefold_engine::Buffer;

use super::parameters::ParameterId;

/// Sees the inputs of linear maps on the way up, and their gradients on the way back. Maps are known by the number of their
/// weight. Heads of language models, whose scores are made in chunks, are not seen.
pub trait Tap: Debug + Send + Sync {
    /// A map takes `x`, `[rows, inputs]`.
    fn input(&self, weight: ParameterId, x: &Buffer);

    /// The gradient of a map's input `x` is `dx`. Seen only of maps without adapters that are alone in taking their input (or
    /// the first to add to its gradient), and in layers that are passed on the way back.
    fn input_gradient(&self, _weight: ParameterId, _x: &Buffer, _dx: &Buffer) {}
}
