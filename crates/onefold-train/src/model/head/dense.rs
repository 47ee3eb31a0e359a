//! The dense layer of a head: drop, map, function, drop (bert's pooler, roberta's and distilbert's heads).

use onefold_engine::cpu::activation::{self, Activation};
use onefold_engine::{Buffer, Write};

use crate::families::{Half, Role};
use crate::model::gradients::Backward;
use crate::model::linear::{Linear, LinearSaved, LinearScratch};
use crate::model::memory::{BatchShape, held};
use crate::model::parameters::Parameters;
use crate::model::pass::Pass;

/// A linear map and a function.
#[derive(Debug, Clone, Copy)]
pub(super) struct Dense {
    map: Linear,
    activation: Activation,
}

/// What the forward pass leaves.
#[derive(Debug, Default)]
pub(super) struct DenseSaved {
    /// What the function takes, then its gradient.
    raw: Buffer,
    linear: LinearSaved,
}

impl Dense {
    /// The layer of a role; `None` if the parameters lack it.
    pub(super) fn find(
        parameters: &Parameters,
        half: Half,
        role: Role,
        activation: Activation,
    ) -> Option<Self> {
        Some(Self { map: Linear::find(parameters, (half, None), role)?, activation })
    }

    pub(super) fn forward(
        &self,
        pass: &Pass<'_>,
        x: &Buffer,
        y: &mut Buffer,
        saved: &mut DenseSaved,
        scratch: &mut LinearScratch,
    ) {
        self.map.forward(pass, x, &mut saved.raw, &mut saved.linear, scratch);
        y.resize(saved.raw.len());
        activation::forward(self.activation, y, &saved.raw);
    }

    /// Gradients of the parameters, and of `x` to `dx`, for `dy`.
    pub(super) fn backward(
        &self,
        back: &mut Backward<'_>,
        (x, dy): (&Buffer, &Buffer),
        dx: &mut Buffer,
        saved: &mut DenseSaved,
        scratch: &mut LinearScratch,
    ) {
        activation::backward(self.activation, &mut saved.raw, dy);
        self.map.backward(back, x, &saved.raw, Some((dx, Write::Set)), &saved.linear, scratch);
    }

    pub(super) fn inputs(&self) -> usize {
        self.map.inputs()
    }

    pub(super) fn outputs(&self) -> usize {
        self.map.outputs()
    }

    /// Bytes of what is saved for so many rows, and of the scratch.
    pub(super) fn bytes(&self, rows: usize, shape: &BatchShape) -> usize {
        let shape = BatchShape { rows, ..*shape };
        self.map.result_bytes(&shape) + self.map.saved_bytes(&shape) + self.map.scratch_bytes(&shape).sum()
    }
}

impl DenseSaved {
    pub(super) fn bytes(&self) -> usize {
        held([&self.raw]) + self.linear.bytes()
    }
}
