//! What stands between the hidden states and the scores of masked words: a dense layer and a norm.

use onefold_engine::cpu::activation::Activation;
use onefold_engine::cpu::norm::{Input, Kind};
use onefold_engine::{Buffer, Write};

use super::dense::{Dense, DenseSaved};
use crate::families::{Half, Role};
use crate::model::gradients::Backward;
use crate::model::linear::LinearScratch;
use crate::model::memory::{BatchShape, held, size};
use crate::model::norm::Norm;
use crate::model::parameters::Parameters;
use crate::model::pass::Pass;

/// What a configuration says of it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TransformSettings {
    /// Function of the dense layer.
    pub activation: Activation,
    /// Epsilon of the norm.
    pub epsilon: f64,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Transform {
    dense: Dense,
    norm: Norm,
}

/// What the forward pass leaves.
#[derive(Debug, Default)]
pub(super) struct TransformSaved {
    features: Buffer,
    d_features: Buffer,
    normed: Buffer,
    statistics: Buffer,
    dense: DenseSaved,
    scratch: LinearScratch,
}

impl Transform {
    /// The transform; `None` if the parameters lack a part of it.
    pub(super) fn find(parameters: &Parameters, settings: &TransformSettings) -> Option<Self> {
        let (half, TransformSettings { activation, epsilon }) = (Half::Whole, *settings);
        let dense = Dense::find(parameters, half, Role::HeadDense, activation)?;
        let norm = Norm::find(parameters, (half, None), Role::HeadNorm, Kind::Layer, epsilon)?;
        Some(Self { dense, norm })
    }

    pub(super) fn forward<'a>(
        &self,
        pass: &Pass<'_>,
        x: &Buffer,
        saved: &'a mut TransformSaved,
    ) -> &'a Buffer {
        let TransformSaved { features, normed, statistics, dense, scratch, .. } = saved;
        self.dense.forward(pass, x, features, dense, scratch);
        self.norm.forward(pass, Input::Ready(features), normed, statistics);
        normed
    }

    /// Gradients of the parameters for `d`, the gradient of the result, which becomes that of `x`.
    pub(super) fn backward(
        &self,
        back: &mut Backward<'_>,
        x: &Buffer,
        d: &mut Buffer,
        saved: &mut TransformSaved,
    ) {
        let TransformSaved { features, d_features, statistics, dense, scratch, .. } = saved;
        self.norm.backward(back, features, statistics, d, (d_features, Write::Set));
        self.dense.backward(back, (x, d_features), d, dense, scratch);
    }

    /// Bytes that come to be held.
    pub(super) fn bytes(&self, shape: &BatchShape) -> usize {
        let elements = shape.rows * self.dense.outputs();
        let matrices = if shape.training() { 3 } else { 2 };
        let norm = self.norm.saved_bytes(elements);
        matrices * size(elements) + norm + self.dense.bytes(shape.rows, shape)
    }
}

impl TransformSaved {
    pub(super) fn bytes(&self) -> usize {
        let Self { features, d_features, normed, statistics, dense, scratch } = self;
        held([features, d_features, normed, statistics]) + dense.bytes() + scratch.bytes()
    }
}
