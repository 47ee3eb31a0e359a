//! Low-rank adaptation of a frozen linear map (Hu et al.: "LoRA: Low-rank adaptation of large language models", ICLR 2022):
//! y += s · B(A·x̃), with A `[rank, inputs]`, B `[outputs, rank]`, x̃ = dropout(x) and s = α/r, or α/√r for rsLoRA
//! (Kalajdzievski, 2023). What it is added to is the business of [`linear`](super::linear).
//!
//! Backward, with h = s·A·x̃ saved and dh = s·dy·B: dB = dyᵀ·h, dA = dhᵀ·x̃, dx += dropout′(dh·A). There is no dW.
//!
//! Dropout keeps an element with probability 1 − p and divides it by that. The coins are a function of key and position, so
//! the backward pass tosses them again: no mask is stored. They are not PyTorch's coins.

#[cfg(test)]
pub(crate) mod tests;

use crate::cpu::dropout::Dropout;
use crate::cpu::gemm::{View, ViewMut, Workers, gemm};
use crate::cpu::linear::{Right, multiply, outer};
use crate::{Buffer, Write};

/// Dimensions of an adapter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Dims {
    /// Rows of the activations.
    pub rows: usize,
    /// Width of x.
    pub inputs: usize,
    /// Width of y.
    pub outputs: usize,
    /// r.
    pub rank: usize,
}

/// The trained factors.
#[derive(Debug, Clone, Copy)]
pub struct Factors<'a> {
    /// A, `[rank, inputs]`.
    pub a: &'a Buffer,
    /// B, `[outputs, rank]`.
    pub b: &'a Buffer,
    /// s.
    pub scale: f32,
}

/// What the backward pass needs; one per adapted map and forward pass.
#[derive(Debug, Clone, Default)]
pub struct Saved {
    /// s·A·x̃, `[rows, rank]`.
    pub(crate) hidden: Buffer,
}

/// Memory for intermediate results, to be shared by all adapted maps.
#[derive(Debug, Clone, Default)]
pub struct Scratch {
    /// x̃, then its gradient, `[rows, inputs]`; only with dropout.
    dropped: Buffer,
    /// `[rows, rank]`.
    dhidden: Buffer,
}

impl Saved {
    /// Bytes that it holds.
    pub fn bytes(&self) -> usize {
        self.hidden.bytes()
    }
}

impl Scratch {
    /// Bytes that it holds.
    pub fn bytes(&self) -> usize {
        self.dropped.bytes() + self.dhidden.bytes()
    }
}

/// Where gradients of the factors go.
#[derive(Debug)]
pub struct Gradients<'a> {
    /// dA.
    pub a: &'a mut Buffer,
    /// dB.
    pub b: &'a mut Buffer,
    /// Whether they replace or add.
    pub write: Write,
}

impl Dims {
    pub(crate) fn check(&self, x: &Buffer, y: &Buffer, factors: &Factors<'_>) {
        factors.check(self);
        let Self { rows, inputs, outputs, .. } = *self;
        assert_eq!((x.len(), y.len()), (rows * inputs, rows * outputs), "elements of x and y, {self:?}");
    }
}

impl Factors<'_> {
    pub(crate) fn check(&self, dims: &Dims) {
        let Dims { inputs, outputs, rank, .. } = *dims;
        assert!(inputs > 0 && outputs > 0 && rank > 0, "an adapter of no width: {dims:?}");
        assert_eq!(self.a.len(), rank * inputs, "elements of A, {dims:?}");
        assert_eq!(self.b.len(), outputs * rank, "elements of B, {dims:?}");
    }
}

/// y += s·B(A·x̃).
///
/// # Panics
/// If a length does not fit `dims`.
pub fn forward(
    dims: &Dims,
    x: &Buffer,
    factors: &Factors<'_>,
    dropout: Option<&Dropout>,
    y: &mut Buffer,
    saved: &mut Saved,
    scratch: &mut Scratch,
) {
    dims.check(x, y, factors);
    let x = dropped(x, dropout, &mut scratch.dropped);
    let Dims { rows, inputs, outputs, rank } = *dims;
    saved.hidden.resize(rows * rank);
    let a = Right { weight: factors.a.into(), depth: inputs, columns: rank, transposed: true };
    multiply(saved.hidden.host_mut(), Write::Set, x.host(), rows, a);
    saved.hidden.host_mut().iter_mut().for_each(|h| *h *= factors.scale);
    let b = Right { weight: factors.b.into(), depth: rank, columns: outputs, transposed: true };
    multiply(y.host_mut(), Write::Add, saved.hidden.host(), rows, b);
}

/// dA, dB, and dx += s·dropout′(dy·B·A). `saved` is what [`forward`] left, `dropout` what it was given.
///
/// # Panics
/// If a length does not fit `dims`, or `saved` is of another shape.
#[allow(clippy::too_many_arguments, reason = "what forward had, and the gradients")]
pub fn backward(
    dims: &Dims,
    x: &Buffer,
    factors: &Factors<'_>,
    dropout: Option<&Dropout>,
    dy: &Buffer,
    saved: &Saved,
    scratch: &mut Scratch,
    gradients: Gradients<'_>,
    dx: Option<&mut Buffer>,
) {
    dims.check(x, dy, factors);
    let Dims { rows, inputs, outputs, rank } = *dims;
    assert_eq!(saved.hidden.len(), rows * rank, "elements saved by the forward pass, {dims:?}");
    let Gradients { a: da, b: db, write } = gradients;
    let Scratch { dropped: space, dhidden } = scratch;
    dhidden.resize(rows * rank);
    let b = View::new(factors.b.host(), outputs, rank, rank);
    let dhidden_view = ViewMut::new(dhidden.host_mut(), rows, rank, rank);
    gemm(
        dhidden_view,
        Write::Set,
        factors.scale,
        View::new(dy.host(), rows, outputs, outputs),
        b,
        Workers::Pool,
    );
    outer(db, write, 1.0, (dy, outputs), (&saved.hidden, rank), rows);
    let input = dropped(x, dropout, space);
    outer(da, write, 1.0, (dhidden, rank), (input, inputs), rows);
    if let Some(dx) = dx {
        assert_eq!(dx.len(), rows * inputs, "elements of the gradient of x, {dims:?}");
        let a = Right { weight: factors.a.into(), depth: rank, columns: inputs, transposed: false };
        match dropout {
            None => multiply(dx.host_mut(), Write::Add, dhidden.host(), rows, a),
            Some(dropout) => {
                multiply(space.host_mut(), Write::Set, dhidden.host(), rows, a);
                dropout.apply_to(dx, space, Write::Add);
            }
        }
    }
}

/// x̃, in `space` if it is not x itself.
fn dropped<'a>(x: &'a Buffer, dropout: Option<&Dropout>, space: &'a mut Buffer) -> &'a Buffer {
    let Some(dropout) = dropout else { return x };
    space.resize(x.len());
    dropout.apply_to(space, x, Write::Set);
    space
}
