//! Scores of classes of which each has one vector: z = cap(s·⟨x, v⟩ + b), few enough to be whole in memory.
//!
//! Clip compares pictures with the vectors of texts; a language model told by label words has the rows of its head.

use onefold_engine::cpu::loss::small::{Gradient, classification};
use onefold_engine::cpu::loss::{Losses, Objective, Rows};
use onefold_engine::cpu::{elementwise, linear};
use onefold_engine::{Buffer, Weight, Write};

use crate::model::memory::{BatchShape, held, size};

/// The vectors, and what is done with products.
#[derive(Debug, Clone, Copy)]
pub(in crate::model) struct Vectors<'a> {
    /// `[classes, width]`.
    pub(in crate::model) vectors: &'a Buffer,
    /// `[classes]`.
    pub(in crate::model) bias: Option<&'a Buffer>,
    /// Length of a vector.
    pub(in crate::model) width: usize,
    /// s.
    pub(in crate::model) scale: f32,
    /// Soft cap of the scores.
    pub(in crate::model) cap: Option<f32>,
}

/// Memory of scores.
#[derive(Debug, Default)]
pub(in crate::model) struct Scores {
    /// `[rows, classes]`; after a loss with gradients that of ⟨x, v⟩ + b/s.
    pub(in crate::model) logits: Buffer,
    /// Scores under a cap, which their gradient needs.
    capped: Buffer,
}

impl Vectors<'_> {
    /// Number of classes.
    pub(in crate::model) fn classes(&self) -> usize {
        self.vectors.len() / self.width
    }

    fn dims(&self, rows: usize) -> linear::Dims {
        let layout = linear::Layout::OutputsInputs;
        linear::Dims { rows, inputs: self.width, outputs: self.classes(), layout }
    }

    /// Scores of `x`, `[rows, width]`.
    pub(in crate::model) fn forward(&self, x: &Buffer, scores: &mut Scores) {
        let dims = self.dims(x.len() / self.width);
        let logits = &mut scores.logits;
        logits.resize(dims.rows * dims.outputs);
        linear::forward(&dims, x, Weight::Full(self.vectors), None, logits, Write::Set);
        elementwise::scale(logits, self.scale);
        if let Some(bias) = self.bias {
            elementwise::add_bias(logits, bias);
        }
        if let Some(cap) = self.cap {
            elementwise::soft_cap(logits, cap);
        }
    }

    /// Losses after [`Vectors::forward`]; with `back` scores become gradients, before their cap.
    pub(in crate::model) fn loss(
        &self,
        objective: Objective,
        rows: &Rows<'_>,
        back: bool,
        losses: &mut Losses,
        scores: &mut Scores,
    ) {
        let Scores { logits, capped } = scores;
        let cap = self.cap.filter(|_| back);
        if cap.is_some() {
            capped.resize(logits.len());
            elementwise::copy(capped, logits);
        }
        let gradient = if back { Gradient::InPlace } else { Gradient::None };
        classification(logits, self.classes(), objective, rows, gradient, losses);
        if let Some(cap) = cap {
            elementwise::soft_cap_backward(logits, capped, cap);
        }
    }

    /// The way back after [`Vectors::loss`]: gradients of `x`, and if they are wanted of bias and vectors.
    pub(in crate::model) fn backward(
        &self,
        x: &Buffer,
        dx: &mut Buffer,
        (d_bias, d_vectors): (Option<&mut Buffer>, Option<&mut Buffer>),
        scores: &mut Scores,
    ) {
        let dims = self.dims(x.len() / self.width);
        let logits = &mut scores.logits;
        if let Some(d_bias) = d_bias {
            d_bias.resize(dims.outputs);
            linear::backward_bias(&dims, logits, d_bias, Write::Set);
        }
        elementwise::scale(logits, self.scale);
        dx.resize(x.len());
        let d_vectors = d_vectors.map(|d| {
            d.resize(self.vectors.len());
            (d, Write::Set)
        });
        linear::backward(&dims, x, logits, Weight::Full(self.vectors), Some((dx, Write::Set)), d_vectors);
    }
}

impl Scores {
    /// Bytes that come to be held for so many classes; `capped` says whether scores have a cap.
    pub(in crate::model) fn bytes_for(shape: &BatchShape, classes: usize, capped: bool) -> usize {
        let copies = if capped && shape.training() { 2 } else { 1 };
        copies * size(shape.sequences * classes)
    }

    /// Bytes that are held.
    pub(in crate::model) fn bytes(&self) -> usize {
        held([&self.logits, &self.capped])
    }
}
