//! A norm with its parameters.

use onefold_engine::cpu::norm::{self, Gradients, Input, Kind};
use onefold_engine::{Buffer, Write};

use super::gradients::{Backward, Lent};
use super::memory::size;
use super::parameters::{ParameterId, Parameters, Part};
use super::pass::Pass;
use crate::families::{Half, Role};

/// RMSNorm or LayerNorm of rows.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Norm {
    weight: ParameterId,
    bias: Option<ParameterId>,
    kind: Kind,
    width: usize,
    epsilon: f32,
}

impl Norm {
    /// The norm of a role; `None` if the model has none.
    pub fn find(
        parameters: &Parameters,
        (half, layer): (Half, Option<usize>),
        role: Role,
        kind: Kind,
        epsilon: f64,
    ) -> Option<Self> {
        let weight = parameters.find(half, layer, role, Part::Weight)?;
        let bias = parameters.find(half, layer, role, Part::Bias);
        let width = parameters[weight].len();
        Some(Self { weight, bias, kind, width, epsilon: epsilon as f32 })
    }

    /// Normalises to `y`; `statistics` are for the backward pass.
    pub fn forward(&self, pass: &Pass<'_>, input: Input<'_>, y: &mut Buffer, statistics: &mut Buffer) {
        let elements = match &input {
            Input::Ready(x) | Input::Sum { x, .. } => x.len(),
            Input::InPlace { x, .. } => x.len(),
        };
        let norm = self.of(elements);
        y.resize(elements);
        statistics.resize(norm.statistics());
        let parameters = pass.parameters;
        let bias = self.bias.map(|bias| parameters.full(bias));
        norm::forward(&norm, input, parameters.full(self.weight), bias, y, statistics);
    }

    /// Gradients of the parameters, and of `x`, which is what was normalised, for `dy`.
    pub(super) fn backward(
        &self,
        back: &mut Backward<'_>,
        x: &Buffer,
        statistics: &Buffer,
        dy: &Buffer,
        (dx, write): (&mut Buffer, Write),
    ) {
        dx.resize(x.len());
        let parameters = back.pass.parameters;
        let (mut weight, mut bias) = (back.lend(Some(self.weight)), back.lend(self.bias));
        let gradients = Gradients {
            x: Some((dx, write)),
            weight: weight.as_mut().map(Lent::parts),
            bias: bias.as_mut().map(Lent::parts),
        };
        norm::backward(&self.of(x.len()), x, parameters.full(self.weight), statistics, dy, gradients);
        back.complete(weight);
        back.complete(bias);
    }

    /// Bytes of the statistics of a matrix of so many elements.
    pub(super) fn saved_bytes(&self, elements: usize) -> usize {
        size(self.of(elements).statistics())
    }

    fn of(&self, elements: usize) -> norm::Norm {
        let Self { kind, width, epsilon, .. } = *self;
        norm::Norm { kind, rows: elements / width, width, epsilon }
    }
}
