//! Weight-decomposed adaptation (Liu et al.: "DoRA: Weight-decomposed low-rank adaptation", ICML 2024) of a frozen linear map:
//! V = W + s·B·A, y = g ⊙ (x·Vᵀ) + b with the gain g = m/‖V‖, the norm being that of a row of V (one number per output)
//! and m the trained magnitude.
//!
//! The norm is held constant in the backward pass (section 4.3 of the paper, and PEFT): with dz = g ⊙ dy,
//! dm = Σ dy ⊙ (x·Vᵀ)/‖V‖, dx = dz·V, and A and B have LoRA's gradients for dz.
//!
//! With dropout x̃ of x, PEFT leaves the base map on x and puts all that the adapter changes on x̃:
//! y = x·Wᵀ + b + (g − 1) ⊙ x̃·Wᵀ + g ⊙ s·B(A·x̃). Here that is (x − x̃)·Wᵀ + b + g ⊙ (x̃·Vᵀ), two products as well.
//!
//! Deviation: a row of V without length has gain 0 (PEFT: NaN or infinite); its output is 0 whatever the gain.

#[cfg(test)]
mod tests;

use multiversion::multiversion;
use rayon::prelude::*;

use crate::cpu::gemm::{View, ViewMut, Workers, gemm};
use crate::cpu::linear::{self, Layout, sum_columns};
use crate::cpu::lora::{self, Dropout, Factors};
use crate::cpu::parallel::{for_rows, with_scratch};
use crate::cpu::widen::Source;
use crate::{Buffer, Weight, Write};

/// Outputs of a block of V whose norms are computed together.
const OUTPUTS: usize = 64;
/// Its inputs: 256 KiB, which second caches hold.
const INPUTS: usize = 1024;

/// An adapted linear map.
#[derive(Debug, Clone, Copy)]
pub struct Map<'a> {
    /// Dimensions.
    pub dims: lora::Dims,
    /// W.
    pub weight: Weight<'a>,
    /// How W lies; A, B and m lie the same for both.
    pub layout: Layout,
    /// b.
    pub bias: Option<&'a Buffer>,
    /// A, B and s.
    pub factors: Factors<'a>,
    /// m, `[outputs]`.
    pub magnitude: &'a Buffer,
    /// ‖V‖ of each row, `[outputs]`, as [`norms`] computed it after the last change of A and B.
    pub norms: &'a Buffer,
}

/// What the backward pass needs; one per map and forward pass.
#[derive(Debug, Clone, Default)]
pub struct Saved {
    adapter: lora::Saved,
    /// x̃·Vᵀ, `[rows, outputs]`.
    product: Buffer,
}

/// Memory for intermediate results, to be shared by all maps.
#[derive(Debug, Clone, Default)]
pub struct Scratch {
    adapter: lora::Scratch,
    /// g, `[outputs]`.
    gain: Buffer,
    /// dz, `[rows, outputs]`.
    scaled: Buffer,
    /// x̃, `[rows, inputs]`; only with dropout, as the next.
    dropped: Buffer,
    /// x − x̃, then the gradient of x̃.
    rest: Buffer,
}

/// Where gradients go.
#[derive(Debug)]
pub struct Gradients<'a> {
    /// dA and dB.
    pub factors: lora::Gradients<'a>,
    /// dm, written as the others.
    pub magnitude: &'a mut Buffer,
}

impl Map<'_> {
    fn base(&self) -> linear::Dims {
        let lora::Dims { rows, inputs, outputs, .. } = self.dims;
        linear::Dims { rows, inputs, outputs, layout: self.layout }
    }

    fn gain(&self, gain: &mut Buffer) {
        let outputs = self.dims.outputs;
        assert_eq!(self.magnitude.len(), outputs, "elements of the magnitude");
        assert_eq!(self.norms.len(), outputs, "norms of rows");
        gain.resize(outputs);
        for ((g, m), n) in gain.host_mut().iter_mut().zip(self.magnitude.host()).zip(self.norms.host()) {
            *g = if *n > 0.0 { m / n } else { 0.0 };
        }
    }
}

/// ‖V‖ of each row, block by block: V never exists. Once per change of A and B is enough; it takes as long as a forward pass
/// of `rank` rows.
///
/// Expanding ‖W + s·B·A‖² would allow ‖W‖² to be kept, but the remaining ⟨W, B·A⟩ takes as many operations, and the terms
/// cancel where an adapter undoes a weight.
///
/// # Panics
/// If a length does not fit `dims`.
pub fn norms(
    dims: &lora::Dims,
    weight: Weight<'_>,
    layout: Layout,
    factors: &Factors<'_>,
    norms: &mut Buffer,
) {
    factors.check(dims);
    assert_eq!(weight.len(), dims.outputs * dims.inputs, "elements of W, {dims:?}");
    assert_eq!(norms.len(), dims.outputs, "norms of rows, {dims:?}");
    norms.host_mut().par_chunks_mut(OUTPUTS).enumerate().for_each(|(i, norms)| {
        with_scratch(OUTPUTS * INPUTS, |block| {
            let mut sums = [0.0; OUTPUTS];
            let sums = &mut sums[..norms.len()];
            for from in (0..dims.inputs).step_by(INPUTS) {
                let inputs = INPUTS.min(dims.inputs - from);
                let block = &mut block[..sums.len() * inputs];
                fill_block(
                    dims,
                    weight.into(),
                    layout,
                    factors,
                    (i * OUTPUTS, sums.len()),
                    (from, inputs),
                    block,
                );
                add_squares(block, layout, sums);
            }
            norms.iter_mut().zip(sums).for_each(|(n, s)| *n = s.sqrt() as f32);
        });
    });
}

/// V of some outputs and inputs (each: first, number), in the layout of W.
fn fill_block(
    dims: &lora::Dims,
    weight: Source<'_>,
    layout: Layout,
    factors: &Factors<'_>,
    (output, outputs): (usize, usize),
    (input, inputs): (usize, usize),
    block: &mut [f32],
) {
    let rank = dims.rank;
    let a = View::new(&factors.a.host()[input..], rank, inputs, dims.inputs);
    let b = View::new(&factors.b.host()[output * rank..], outputs, rank, rank);
    let block = match layout {
        Layout::OutputsInputs => {
            weight.copy_rows(output * dims.inputs + input, dims.inputs, inputs, block);
            ViewMut::new(block, outputs, inputs, inputs)
        }
        Layout::InputsOutputs => {
            weight.copy_rows(input * dims.outputs + output, dims.outputs, outputs, block);
            ViewMut::new(block, inputs, outputs, outputs).t()
        }
    };
    gemm(block, Write::Add, factors.scale, b, a, Workers::One);
}

#[multiversion(targets("x86_64+avx512f+avx512bw+avx512vl+fma", "x86_64+avx2+fma", "aarch64+neon"))]
fn add_squares(block: &[f32], layout: Layout, sums: &mut [f64]) {
    match layout {
        Layout::OutputsInputs => {
            for (row, sum) in block.chunks_exact(block.len() / sums.len()).zip(sums) {
                let mut lanes = [0.0f64; 16];
                for values in row.chunks(16) {
                    lanes.iter_mut().zip(values).for_each(|(l, v)| *l += f64::from(*v) * f64::from(*v));
                }
                *sum += lanes.iter().sum::<f64>();
            }
        }
        Layout::InputsOutputs => {
            for row in block.chunks_exact(sums.len()) {
                sums.iter_mut().zip(row).for_each(|(s, v)| *s += f64::from(*v) * f64::from(*v));
            }
        }
    }
}

/// y of the head of this file, or adds that to y.
///
/// # Panics
/// If a length does not fit the map's dimensions, or p is not in [0, 1).
pub fn forward(
    map: &Map<'_>,
    x: &Buffer,
    dropout: Option<&Dropout>,
    y: &mut Buffer,
    write: Write,
    saved: &mut Saved,
    scratch: &mut Scratch,
) {
    let (dims, base) = (&map.dims, map.base());
    dims.check(x, y, &map.factors);
    let Scratch { adapter, gain, dropped, rest, .. } = scratch;
    map.gain(gain);
    let (input, bias, write) = match dropout {
        None => (x, map.bias, write),
        Some(dropout) => {
            split(dims, x, dropout, dropped, rest);
            linear::forward(&base, rest, map.weight, map.bias, y, write);
            (&*dropped, None, Write::Add)
        }
    };
    let Saved { adapter: hidden, product } = saved;
    product.resize(y.len());
    linear::forward(&base, input, map.weight, None, product, Write::Set);
    lora::forward(dims, input, &map.factors, None, product, hidden, adapter);
    scale_columns(product, gain, 0.0, bias, y, write);
}

/// x̃ and x − x̃.
fn split(dims: &lora::Dims, x: &Buffer, dropout: &Dropout, dropped: &mut Buffer, rest: &mut Buffer) {
    drop_into(dims, x, dropout, dropped);
    rest.resize(x.len());
    let dropped = dropped.host();
    for_rows(rest.host_mut(), dims.inputs, |row, rest| {
        let start = row * dims.inputs;
        let inputs = x.host()[start..].iter().zip(&dropped[start..]);
        rest.iter_mut().zip(inputs).for_each(|(r, (x, d))| *r = x - d);
    });
}

fn drop_into(dims: &lora::Dims, x: &Buffer, dropout: &Dropout, dropped: &mut Buffer) {
    dropped.resize(x.len());
    dropout.apply(dims.inputs, x.host(), dropped.host_mut(), Write::Set);
}

/// dA, dB, dm and dx, the last as its `Write` says. `saved` is what [`forward`] left, `dropout` what it was given. The gradient
/// of the bias is [`linear::backward_bias`].
///
/// # Panics
/// If a length does not fit the map's dimensions, or `saved` is of another shape.
#[allow(clippy::too_many_arguments, reason = "what forward had, and the gradients")]
pub fn backward(
    map: &Map<'_>,
    x: &Buffer,
    dropout: Option<&Dropout>,
    dy: &Buffer,
    saved: &Saved,
    scratch: &mut Scratch,
    gradients: Gradients<'_>,
    dx: Option<(&mut Buffer, Write)>,
) {
    let (dims, base) = (&map.dims, map.base());
    dims.check(x, dy, &map.factors);
    assert_eq!(saved.product.len(), dy.len(), "elements saved by the forward pass, {dims:?}");
    let Scratch { adapter, gain, scaled, dropped, rest } = scratch;
    map.gain(gain);
    scaled.resize(dy.len());
    magnitude_gradient(map, dy, &saved.product, gradients.magnitude, gradients.factors.write);
    let factors = gradients.factors;
    let Some(dropout) = dropout else {
        scale_columns(dy, gain, 0.0, None, scaled, Write::Set);
        let dx = dx.map(|(dx, write)| {
            linear::backward_input(&base, scaled, map.weight, dx, write);
            dx
        });
        return lora::backward(dims, x, &map.factors, None, scaled, &saved.adapter, adapter, factors, dx);
    };
    drop_into(dims, x, dropout, dropped);
    if dx.is_some() {
        // Of x̃·Wᵀ: g from the adapted map, −1 from x − x̃.
        rest.resize(x.len());
        scale_columns(dy, gain, 1.0, None, scaled, Write::Set);
        linear::backward_input(&base, scaled, map.weight, rest, Write::Set);
    }
    scale_columns(dy, gain, 0.0, None, scaled, Write::Set);
    let drest = dx.is_some().then_some(&mut *rest);
    lora::backward(dims, dropped, &map.factors, None, scaled, &saved.adapter, adapter, factors, drest);
    if let Some((dx, write)) = dx {
        linear::backward_input(&base, dy, map.weight, dx, write);
        dropout.apply(dims.inputs, rest.host(), dx.host_mut(), Write::Add);
    }
}

fn magnitude_gradient(map: &Map<'_>, dy: &Buffer, product: &Buffer, dm: &mut Buffer, write: Write) {
    assert_eq!(dm.len(), map.dims.outputs, "elements of the gradient of the magnitude");
    let norms = map.norms.host();
    sum_columns(dy.host(), Some(product.host()), dm.host_mut(), write, |j, sum| {
        if norms[j] > 0.0 { sum / f64::from(norms[j]) } else { 0.0 }
    });
}

/// `out[r][j] = (gain[j] − less) · x[r][j] + bias[j]`, or adds that.
fn scale_columns(
    x: &Buffer,
    gain: &Buffer,
    less: f32,
    bias: Option<&Buffer>,
    out: &mut Buffer,
    write: Write,
) {
    let width = gain.len();
    assert!(bias.is_none_or(|bias| bias.len() == width), "elements of the bias");
    for_rows(out.host_mut(), width, |first, rows| {
        let x = &x.host()[first * width..][..rows.len()];
        scale_rows(x, gain.host(), less, bias.map(Buffer::host), rows, write);
    });
}

#[multiversion(targets("x86_64+avx512f+avx512bw+avx512vl+fma", "x86_64+avx2+fma", "aarch64+neon"))]
fn scale_rows(x: &[f32], gain: &[f32], less: f32, bias: Option<&[f32]>, out: &mut [f32], write: Write) {
    for (x, out) in x.chunks_exact(gain.len()).zip(out.chunks_exact_mut(gain.len())) {
        let values = out.iter_mut().zip(x).zip(gain);
        match write {
            Write::Set => values.for_each(|((o, x), g)| *o = (g - less) * x),
            Write::Add => values.for_each(|((o, x), g)| *o += (g - less) * x),
        }
        if let Some(bias) = bias {
            out.iter_mut().zip(bias).for_each(|(o, b)| *o += b);
        }
    }
}
