//! The length of each row of an adapted weight.

use multiversion::multiversion;
use rayon::prelude::*;

use crate::cpu::gemm::{View, ViewMut, Workers, gemm};
use crate::cpu::linear::Layout;
use crate::cpu::lora::{Dims, Factors};
use crate::cpu::scratch;
use crate::cpu::widen::Source;
use crate::{Buffer, Weight, Write};

/// Outputs of a block of V whose norms are computed together.
const OUTPUTS: usize = 64;
/// Its inputs: 256 KiB, which second caches hold.
const INPUTS: usize = 1024;

/// ‖V‖ of each row, block by block: V never exists. Once per change of A and B is enough; it takes as long as a forward pass
/// of `rank` rows.
///
/// Expanding ‖W + s·B·A‖² would allow ‖W‖² to be kept, but the remaining ⟨W, B·A⟩ takes as many operations, and the terms
/// cancel where an adapter undoes a weight.
///
/// # Panics
/// If a length does not fit `dims`.
pub fn norms(dims: &Dims, weight: Weight<'_>, layout: Layout, factors: &Factors<'_>, norms: &mut Buffer) {
    factors.check(dims);
    assert_eq!(weight.len(), dims.outputs * dims.inputs, "elements of W, {dims:?}");
    assert_eq!(norms.len(), dims.outputs, "norms of rows, {dims:?}");
    norms.host_mut().par_chunks_mut(OUTPUTS).enumerate().for_each(|(i, norms)| {
        scratch::with(OUTPUTS * INPUTS, |block| {
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
    dims: &Dims,
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
