//! Linear maps y = x·Wᵀ + b, with W `[outputs, inputs]` as Hugging Face stores it, or `[inputs, outputs]` as GPT-2's
//! `Conv1D` does.
//!
//! The gradients are dx = dy·W, dW = dyᵀ·x and db = Σ dy over rows. Weights are f32, or frozen in 16 bits and widened
//! where they are used; a frozen weight has no gradient, so nothing here computes one for it. Destinations may be added to,
//! which makes the residual connection and the sum of the gradients of several users of one input free.

mod product;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;

use multiversion::multiversion;
use rayon::prelude::*;

use crate::cpu::gemm::{Onto, View, ViewMut, Workers, gemm};
use crate::cpu::parallel::for_rows;
use crate::{Buffer, Weight, Write};

pub(crate) use product::{Right, multiply};

/// Columns of one task of a sum over rows: runs of eight cache lines.
const COLUMNS: usize = 128;
/// Rows that are added in f32 before they enter a sum in f64.
const ROWS: usize = 32;

/// How a weight lies in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// `[outputs, inputs]`.
    OutputsInputs,
    /// `[inputs, outputs]`: GPT-2's `Conv1D`, PEFT's `fan_in_fan_out`.
    InputsOutputs,
}

/// Dimensions of a linear map.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Dims {
    /// Rows of the activations.
    pub rows: usize,
    /// Width of x; at least 1.
    pub inputs: usize,
    /// Width of y; at least 1.
    pub outputs: usize,
    /// How W lies.
    pub layout: Layout,
}

impl Dims {
    pub(crate) fn check(&self, x: &Buffer, y: &Buffer) {
        assert!(self.inputs > 0 && self.outputs > 0, "a linear map of no width: {self:?}");
        assert_eq!(x.len(), self.rows * self.inputs, "elements of x or its gradient, {self:?}");
        assert_eq!(y.len(), self.rows * self.outputs, "elements of y or its gradient, {self:?}");
    }

    fn check_weight(&self, len: usize) {
        assert_eq!(len, self.outputs * self.inputs, "elements of W or its gradient, {self:?}");
    }
}

/// y = x·Wᵀ + b, or adds that to y.
///
/// # Panics
/// If a length does not fit `dims`.
pub fn forward(
    dims: &Dims,
    x: &Buffer,
    weight: Weight<'_>,
    bias: Option<&Buffer>,
    y: &mut Buffer,
    write: Write,
) {
    dims.check(x, y);
    dims.check_weight(weight.len());
    let onto = match bias {
        Some(bias) => onto_bias(dims, bias, y, write),
        None => write.into(),
    };
    let transposed = dims.layout == Layout::OutputsInputs;
    let right = Right { weight, depth: dims.inputs, columns: dims.outputs, transposed };
    multiply(y.host_mut(), onto, x.host(), dims.rows, right);
}

/// A map of [`forward_each`].
#[derive(Debug)]
pub struct Map<'a> {
    /// As [`forward`] takes them.
    pub dims: Dims,
    /// W.
    pub weight: Weight<'a>,
    /// b.
    pub bias: Option<&'a Buffer>,
    /// What is written.
    pub y: &'a mut Buffer,
}

/// Every y = x·Wᵀ + b of one x. All at once: a worker that has nothing left to do for one goes on with another.
///
/// # Panics
/// If a length does not fit its `dims`.
pub fn forward_each(x: &Buffer, maps: &mut [Map<'_>]) {
    maps.par_iter_mut().with_max_len(1).for_each(|Map { dims, weight, bias, y }| {
        forward(dims, x, *weight, *bias, y, Write::Set);
    });
}

fn onto_bias<'a>(dims: &Dims, bias: &'a Buffer, y: &mut Buffer, write: Write) -> Onto<'a> {
    let bias = bias.host();
    assert_eq!(bias.len(), dims.outputs, "elements of the bias, {dims:?}");
    if write == Write::Set {
        return Onto::Row(bias);
    }
    for_rows(y.host_mut(), dims.outputs, |_, rows| {
        for row in rows.chunks_exact_mut(dims.outputs) {
            row.iter_mut().zip(bias).for_each(|(y, b)| *y += b);
        }
    });
    Onto::Itself
}

/// The gradients of x and of W that are wanted, as [`backward_input`] and [`backward_weight`] write them. Both at once: a worker
/// that has nothing left to do for one goes on with the other.
///
/// # Panics
/// If a length does not fit `dims`.
pub fn backward(
    dims: &Dims,
    x: &Buffer,
    dy: &Buffer,
    weight: Weight<'_>,
    dx: Option<(&mut Buffer, Write)>,
    dw: Option<(&mut Buffer, Write)>,
) {
    let input = |(dx, write)| backward_input(dims, dy, weight, dx, write);
    let weight = |(dw, write)| backward_weight(dims, dy, x, dw, write);
    rayon::join(|| dw.map(weight), || dx.map(input));
}

/// dx = dy·W, or adds that to dx.
///
/// # Panics
/// If a length does not fit `dims`.
pub fn backward_input(dims: &Dims, dy: &Buffer, weight: Weight<'_>, dx: &mut Buffer, write: Write) {
    dims.check(dx, dy);
    dims.check_weight(weight.len());
    let transposed = dims.layout == Layout::InputsOutputs;
    let right = Right { weight, depth: dims.outputs, columns: dims.inputs, transposed };
    multiply(dx.host_mut(), write, dy.host(), dims.rows, right);
}

/// dW = dyᵀ·x in the layout of W, or adds that to dW.
///
/// # Panics
/// If a length does not fit `dims`.
pub fn backward_weight(dims: &Dims, dy: &Buffer, x: &Buffer, dw: &mut Buffer, write: Write) {
    dims.check(x, dy);
    dims.check_weight(dw.len());
    match dims.layout {
        Layout::OutputsInputs => outer(dw, write, 1.0, (dy, dims.outputs), (x, dims.inputs), dims.rows),
        Layout::InputsOutputs => outer(dw, write, 1.0, (x, dims.inputs), (dy, dims.outputs), dims.rows),
    }
}

/// `out = alpha · aᵀ·b`, for matrices of `rows` rows, each given with its width.
pub(crate) fn outer(
    out: &mut Buffer,
    write: Write,
    alpha: f32,
    (a, m): (&Buffer, usize),
    (b, n): (&Buffer, usize),
    rows: usize,
) {
    assert_eq!(out.len(), m * n, "elements of the gradient of a weight");
    let (a, b) = (View::new(a.host(), rows, m, m).t(), View::new(b.host(), rows, n, n));
    gemm(ViewMut::new(out.host_mut(), m, n, n), write, alpha, a, b, Workers::Pool);
}

/// db = Σ dy over rows, or adds that to db.
///
/// # Panics
/// If a length does not fit `dims`.
pub fn backward_bias(dims: &Dims, dy: &Buffer, db: &mut Buffer, write: Write) {
    assert_eq!(dy.len(), dims.rows * dims.outputs, "elements of the gradient of y, {dims:?}");
    assert_eq!(db.len(), dims.outputs, "elements of the gradient of the bias, {dims:?}");
    sum_columns(dy.host(), None, db.host_mut(), write, |_, sum| sum);
}

/// `out[j] = finish(j, Σ a[r][j] · b[r][j])` over the rows r, b being 1 if it is not given; or adds that.
///
/// Tasks own columns, so nothing is shared or allocated. Rows enter in their order, in groups: the sum has the error of f64.
pub(crate) fn sum_columns(
    a: &[f32],
    b: Option<&[f32]>,
    out: &mut [f32],
    write: Write,
    finish: impl Fn(usize, f64) -> f64 + Sync,
) {
    let width = out.len();
    out.par_chunks_mut(COLUMNS).enumerate().for_each(|(i, out)| {
        let mut sums = [0.0; COLUMNS];
        let sums = &mut sums[..out.len()];
        add_columns(a, b, width, i * COLUMNS, sums);
        for (j, (out, sum)) in out.iter_mut().zip(sums).enumerate() {
            let value = finish(i * COLUMNS + j, *sum) as f32;
            *out = if write == Write::Add { *out + value } else { value };
        }
    });
}

#[multiversion(targets("x86_64+avx512f+avx512bw+avx512vl+fma", "x86_64+avx2+fma", "aarch64+neon"))]
fn add_columns(a: &[f32], b: Option<&[f32]>, width: usize, start: usize, sums: &mut [f64]) {
    let span = start..start + sums.len();
    for (i, group) in a.chunks(ROWS * width).enumerate() {
        let mut part = [0.0f32; COLUMNS];
        for (r, a) in group.chunks_exact(width).enumerate() {
            let a = &a[span.clone()];
            match b {
                Some(b) => {
                    let b = &b[(i * ROWS + r) * width..][span.clone()];
                    part.iter_mut().zip(a).zip(b).for_each(|((p, a), b)| *p += a * b);
                }
                None => part.iter_mut().zip(a).for_each(|(p, a)| *p += a),
            }
        }
        sums.iter_mut().zip(part).for_each(|(s, p)| *s += f64::from(p));
    }
}
