//! The feed-forward block: down(act(up(x))), or gated down(act(gate(x)) · up(x)).

use onefold_engine::cpu::activation::{self, Activation};
use onefold_engine::{Buffer, Write};

use super::gradients::Backward;
use super::linear::{Linear, LinearSaved, LinearScratch, LinearScratchBytes};
use super::memory::{BatchShape, held, size};
use super::parameters::Parameters;
use super::pass::Pass;
use crate::families::{Half, Role};

/// A feed-forward block.
#[derive(Debug, Clone)]
pub struct FeedForward {
    up: Up,
    down: Linear,
    activation: Activation,
}

#[derive(Debug, Clone)]
enum Up {
    Plain([Linear; 1]),
    /// Gate, then up.
    Gated([Linear; 2]),
    /// Both from one map, `[gate | up]`.
    Fused([Linear; 1]),
}

/// What the forward pass leaves.
#[derive(Debug, Default)]
pub struct FeedForwardSaved {
    /// What the activation takes; with a gate of its own map, the gate before the rest.
    up: [Buffer; 2],
    /// What `down` takes.
    inner: Buffer,
    linears: [LinearSaved; 3],
}

/// Memory of the backward pass, shared by all layers.
#[derive(Debug, Default)]
pub(super) struct FeedForwardScratch {
    d_inner: Buffer,
}

impl FeedForwardSaved {
    pub(super) fn bytes(&self) -> usize {
        held(self.up.iter().chain([&self.inner])) + self.linears.iter().map(LinearSaved::bytes).sum::<usize>()
    }
}

impl FeedForwardScratch {
    pub(super) fn bytes(&self) -> usize {
        self.d_inner.bytes()
    }
}

/// Place of `down` among the saved maps.
const DOWN: usize = 2;

impl FeedForward {
    /// The block of a layer; `None` if the parameters have none.
    pub fn find(
        parameters: &Parameters,
        (half, layer): (Half, usize),
        activation: Activation,
    ) -> Option<Self> {
        let linear = |role| Linear::find(parameters, (half, Some(layer)), role);
        let up = match (linear(Role::GateUp), linear(Role::Gate)) {
            (Some(map), _) => Up::Fused([map]),
            (None, Some(gate)) => Up::Gated([gate, linear(Role::Up)?]),
            (None, None) => Up::Plain([linear(Role::Up)?]),
        };
        Some(Self { up, down: linear(Role::Down)?, activation })
    }

    /// Writes to `y` what the block makes of `x`.
    pub fn forward(
        &self,
        pass: &Pass<'_>,
        x: &Buffer,
        y: &mut Buffer,
        saved: &mut FeedForwardSaved,
        scratch: &mut LinearScratch,
    ) {
        let FeedForwardSaved { up, inner, linears } = saved;
        Linear::forward_each(self.maps(), pass, x, &mut *up, linears, scratch);
        let (width, [first, second]) = (self.down.inputs(), up);
        inner.resize(x.len() / self.maps()[0].inputs() * width);
        match self.up {
            Up::Plain(_) => activation::forward(self.activation, inner, first),
            Up::Gated(_) => activation::gated_forward(self.activation, inner, first, second),
            Up::Fused(_) => activation::fused_gated_forward(self.activation, inner, first, width),
        }
        self.down.forward(pass, inner, y, &mut linears[DOWN], scratch);
    }

    /// Gradients of the parameters, and of `x` to `dx`, for `dy`. Overwrites what was saved.
    pub(super) fn backward(
        &self,
        back: &mut Backward<'_>,
        x: &Buffer,
        dy: &Buffer,
        dx: &mut Buffer,
        saved: &mut FeedForwardSaved,
        (scratch, linear): (&mut FeedForwardScratch, &mut LinearScratch),
    ) {
        let FeedForwardSaved { up, inner, linears } = saved;
        let d_inner = &mut scratch.d_inner;
        self.down.backward(back, inner, dy, Some((&mut *d_inner, Write::Set)), &linears[DOWN], linear);
        let (width, [first, second]) = (self.down.inputs(), &mut *up);
        match self.up {
            Up::Plain(_) => activation::backward(self.activation, first, d_inner),
            Up::Gated(_) => activation::gated_backward(self.activation, first, second, d_inner),
            Up::Fused(_) => activation::fused_gated_backward(self.activation, first, d_inner, width),
        }
        for (part, map) in self.maps().iter().enumerate() {
            let write = if part == 0 { Write::Set } else { Write::Add };
            map.backward(back, x, &up[part], Some((&mut *dx, write)), &linears[part], linear);
        }
    }

    /// Bytes of what is saved.
    pub(super) fn saved_bytes(&self, shape: &BatchShape) -> usize {
        let map = |map: &Linear| map.result_bytes(shape) + map.saved_bytes(shape);
        self.maps().iter().map(map).sum::<usize>() + self.inner_bytes(shape) + self.down.saved_bytes(shape)
    }

    /// Bytes of the scratch.
    pub(super) fn scratch_bytes(&self, shape: &BatchShape) -> (usize, LinearScratchBytes) {
        let own = if shape.training() { self.inner_bytes(shape) } else { 0 };
        let linear = self
            .maps()
            .iter()
            .fold(self.down.scratch_bytes(shape), |most, map| most.max(map.scratch_bytes(shape)));
        (own, linear)
    }

    fn inner_bytes(&self, shape: &BatchShape) -> usize {
        size(shape.rows * self.down.inputs())
    }

    fn maps(&self) -> &[Linear] {
        match &self.up {
            Up::Plain(maps) | Up::Fused(maps) => maps,
            Up::Gated(maps) => maps,
        }
    }
}
