//! RMSNorm and LayerNorm of rows, fused with the residual addition before them.
//!
//! With x̂ = (x − μ) r, where r = 1/√(mean((x − μ)²) + ε) and μ = mean(x) (LayerNorm, Ba et al., arXiv 1607.06450) or 0 (RMSNorm,
//! Zhang & Sennrich, arXiv 1910.07467), y = x̂ ∘ w + b. For g = dy ∘ w,
//!
//! dx = r (g − mean(g) − x̂ mean(g ∘ x̂)), dw = Σ dy ∘ x̂, db = Σ dy,
//!
//! the middle term belonging to LayerNorm only. Gemma stores w − 1. A row is a token, or one head of a token (the `q_norm` and
//! `k_norm` of Qwen 3 and Gemma 3: rows = tokens × heads, width = head size).
//! The forward pass keeps r, and μ before it for LayerNorm, of each row; x̂ is recomputed.

use multiversion::multiversion;
use rayon::prelude::*;

use super::{math, parallel, scratch};
use crate::{Buffer, Write};

/// Which norm.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// RMSNorm.
    Rms,
    /// RMSNorm whose weight is stored less 1.
    RmsFromOne,
    /// LayerNorm.
    Layer,
}

/// A norm of `rows` × `width` numbers.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Norm {
    /// Which one.
    pub kind: Kind,
    /// Rows.
    pub rows: usize,
    /// Elements of a row.
    pub width: usize,
    /// Added to the mean square.
    pub epsilon: f32,
}

/// What is normalised.
#[derive(Debug)]
pub enum Input<'a> {
    /// A matrix that is there.
    Ready(&'a Buffer),
    /// `x + delta`, which is also written to `sum`.
    Sum {
        /// Residual.
        x: &'a Buffer,
        /// What the sublayer before adds to it.
        delta: &'a Buffer,
        /// Their sum, which the backward pass takes as `x`.
        sum: &'a mut Buffer,
    },
    /// `x + delta`, which replaces `x`.
    InPlace {
        /// Residual, then the sum.
        x: &'a mut Buffer,
        /// What the sublayer before adds to it.
        delta: &'a Buffer,
    },
}

/// Where gradients go; `None` for what is frozen.
#[derive(Debug, Default)]
pub struct Gradients<'a> {
    /// Of the input: `[rows, width]`.
    pub x: Option<(&'a mut Buffer, Write)>,
    /// Of the weight: `[width]`.
    pub weight: Option<(&'a mut Buffer, Write)>,
    /// Of the bias: `[width]`.
    pub bias: Option<(&'a mut Buffer, Write)>,
}

impl Norm {
    /// How many numbers the forward pass keeps for the backward pass.
    pub fn statistics(&self) -> usize {
        self.rows * self.per_row()
    }

    fn per_row(&self) -> usize {
        if self.kind == Kind::Layer { 2 } else { 1 }
    }

    fn check(&self, name: &str, buffer: &Buffer) {
        assert_eq!(buffer.len(), self.rows * self.width, "{name} of a norm is rows × width");
    }

    fn check_parameter(&self, name: &str, buffer: &Buffer) {
        assert_eq!(buffer.len(), self.width, "{name} of a norm has its width");
    }

    /// What is added to a stored weight.
    fn offset(&self) -> f32 {
        if self.kind == Kind::RmsFromOne { 1.0 } else { 0.0 }
    }
}

/// Writes the normalised rows to `y` and their statistics to `statistics` ([`Norm::statistics`] numbers).
///
/// # Panics
/// If a length does not fit `norm`.
pub fn forward(
    norm: &Norm,
    input: Input<'_>,
    weight: &Buffer,
    bias: Option<&Buffer>,
    y: &mut Buffer,
    statistics: &mut Buffer,
) {
    norm.check_parameter("weight", weight);
    norm.check("y", y);
    assert_eq!(statistics.len(), norm.statistics(), "statistics of a norm");
    let affine = Affine { offset: norm.offset(), weight: weight.host(), bias: bias.map(Buffer::host) };
    if let Some(bias) = bias {
        norm.check_parameter("bias", bias);
    }
    let step = parallel::rows_per_task(norm.width);
    let outputs = (y.host_mut().par_chunks_mut((step * norm.width).max(1)))
        .zip(statistics.host_mut().par_chunks_mut(step * norm.per_row()));
    let piece = |i: usize, values: &[f32]| i * step * norm.width..i * step * norm.width + values.len();
    match input {
        Input::Ready(x) => {
            norm.check("x", x);
            outputs.enumerate().for_each(|(i, (y, statistics))| {
                normalise(norm, &x.host()[piece(i, y)], affine, y, statistics);
            });
        }
        Input::Sum { x, delta, sum } => {
            for (name, buffer) in [("x", x), ("delta", delta), ("sum", &*sum)] {
                norm.check(name, buffer);
            }
            let sums = sum.host_mut().par_chunks_mut((step * norm.width).max(1));
            outputs.zip(sums).enumerate().for_each(|(i, ((y, statistics), sum))| {
                add(&x.host()[piece(i, y)], &delta.host()[piece(i, y)], sum);
                normalise(norm, sum, affine, y, statistics);
            });
        }
        Input::InPlace { x, delta } => {
            for (name, buffer) in [("x", &*x), ("delta", delta)] {
                norm.check(name, buffer);
            }
            let sums = x.host_mut().par_chunks_mut((step * norm.width).max(1));
            outputs.zip(sums).enumerate().for_each(|(i, ((y, statistics), sum))| {
                add_to(&delta.host()[piece(i, y)], sum);
                normalise(norm, sum, affine, y, statistics);
            });
        }
    }
}

/// Writes the gradients for `d_y`, the gradient of `y`. `x` is what was normalised (the sum, if there was one).
///
/// # Panics
/// If a length does not fit `norm`.
pub fn backward(
    norm: &Norm,
    x: &Buffer,
    weight: &Buffer,
    statistics: &Buffer,
    d_y: &Buffer,
    gradients: Gradients<'_>,
) {
    for (name, buffer) in [("x", x), ("d_y", d_y)] {
        norm.check(name, buffer);
    }
    norm.check_parameter("weight", weight);
    assert_eq!(statistics.len(), norm.statistics(), "statistics of a norm");
    let Gradients { x: d_x, weight: d_weight, bias: d_bias } = gradients;
    let (rows, width) = (norm.rows, norm.width);
    // Pieces are the same for any number of threads, and few: each has its own sums.
    let step = parallel::rows_per_task(width).max(rows.div_ceil(32)).max(1);
    let piece = |i: usize| i * step..((i + 1) * step).min(rows);
    let read = |i: usize| {
        let (rows, per_row) = (piece(i), norm.per_row());
        let values = rows.start * width..rows.end * width;
        (
            &x.host()[values.clone()],
            &d_y.host()[values],
            &statistics.host()[rows.start * per_row..rows.end * per_row],
        )
    };
    if let Some((d_x, write)) = d_x {
        norm.check("gradient of x", d_x);
        let affine = Affine { offset: norm.offset(), weight: weight.host(), bias: None };
        d_x.host_mut().par_chunks_mut((step * width).max(1)).enumerate().for_each(|(i, d_x)| {
            let (x, d_y, statistics) = read(i);
            input_gradient(norm, x, d_y, statistics, affine, d_x, write == Write::Add);
        });
    }
    if d_weight.is_none() && d_bias.is_none() {
        return;
    }
    scratch::with(rows.div_ceil(step) * 2 * width, |sums| {
        sums.par_chunks_mut((2 * width).max(1)).enumerate().for_each(|(i, sums)| {
            let (x, d_y, statistics) = read(i);
            let (d_weight, d_bias) = sums.split_at_mut(width);
            parameter_sums(norm, x, d_y, statistics, d_weight, d_bias);
        });
        for (name, target, part) in [("weight", d_weight, 0), ("bias", d_bias, 1)] {
            let Some((target, write)) = target else { continue };
            norm.check_parameter(name, target);
            if write == Write::Set {
                target.host_mut().fill(0.0);
            }
            let parts = sums.chunks_exact(width.max(1)).skip(part).step_by(2);
            parts.for_each(|part| add_to(part, target.host_mut()));
        }
    });
}

#[derive(Clone, Copy)]
struct Affine<'a> {
    offset: f32,
    weight: &'a [f32],
    bias: Option<&'a [f32]>,
}

#[multiversion(targets("x86_64+avx512f+avx512bw+avx512vl+fma", "x86_64+avx2+fma", "aarch64+neon"))]
fn add(a: &[f32], b: &[f32], sum: &mut [f32]) {
    for ((sum, a), b) in sum.iter_mut().zip(a).zip(b) {
        *sum = a + b;
    }
}

#[multiversion(targets("x86_64+avx512f+avx512bw+avx512vl+fma", "x86_64+avx2+fma", "aarch64+neon"))]
fn add_to(a: &[f32], sum: &mut [f32]) {
    for (sum, a) in sum.iter_mut().zip(a) {
        *sum += a;
    }
}

#[multiversion(targets("x86_64+avx512f+avx512bw+avx512vl+fma", "x86_64+avx2+fma", "aarch64+neon"))]
fn normalise(norm: &Norm, x: &[f32], affine: Affine<'_>, y: &mut [f32], statistics: &mut [f32]) {
    let width = norm.width.max(1);
    let rows = x.chunks_exact(width).zip(y.chunks_exact_mut(width));
    for ((x, y), statistics) in rows.zip(statistics.chunks_exact_mut(norm.per_row())) {
        let mean = if norm.kind == Kind::Layer { math::sum(x) / width as f32 } else { 0.0 };
        let inverse = 1.0 / (square_distance(x, mean) / width as f32 + norm.epsilon).sqrt();
        for ((y, x), w) in y.iter_mut().zip(x).zip(affine.weight) {
            *y = (x - mean) * inverse * (w + affine.offset);
        }
        for (y, b) in y.iter_mut().zip(affine.bias.unwrap_or_default()) {
            *y += b;
        }
        statistics[0] = mean;
        statistics[norm.per_row() - 1] = inverse;
    }
}

/// Σ (x − mean)².
#[inline(always)]
fn square_distance(x: &[f32], mean: f32) -> f32 {
    math::fold_sum(x, |x| (x - mean) * (x - mean))
}

#[multiversion(targets("x86_64+avx512f+avx512bw+avx512vl+fma", "x86_64+avx2+fma", "aarch64+neon"))]
fn input_gradient(
    norm: &Norm,
    x: &[f32],
    d_y: &[f32],
    statistics: &[f32],
    affine: Affine<'_>,
    d_x: &mut [f32],
    add: bool,
) {
    let (width, weight, offset) = (norm.width.max(1), affine.weight, affine.offset);
    let rows = x.chunks_exact(width).zip(d_y.chunks_exact(width)).zip(d_x.chunks_exact_mut(width));
    for (((x, d_y), d_x), statistics) in rows.zip(statistics.chunks_exact(norm.per_row())) {
        let inverse = statistics[norm.per_row() - 1];
        let mean = if norm.kind == Kind::Layer { statistics[0] } else { 0.0 };
        let (g_sum, gx_sum) = math::two_sums(x, d_y, weight, |x, d, w| {
            let g = d * (w + offset);
            (g, g * (x - mean))
        });
        let g_mean = if norm.kind == Kind::Layer { g_sum / width as f32 } else { 0.0 };
        let slope = gx_sum / width as f32 * inverse * inverse;
        let gradient = |x: f32, d: f32, w: f32| inverse * (d * (w + offset) - g_mean - (x - mean) * slope);
        let elements = d_x.iter_mut().zip(x).zip(d_y).zip(weight);
        if add {
            elements.for_each(|(((out, x), d), w)| *out += gradient(*x, *d, *w));
        } else {
            elements.for_each(|(((out, x), d), w)| *out = gradient(*x, *d, *w));
        }
    }
}

#[multiversion(targets("x86_64+avx512f+avx512bw+avx512vl+fma", "x86_64+avx2+fma", "aarch64+neon"))]
fn parameter_sums(
    norm: &Norm,
    x: &[f32],
    d_y: &[f32],
    statistics: &[f32],
    d_weight: &mut [f32],
    d_bias: &mut [f32],
) {
    let width = norm.width.max(1);
    d_weight.fill(0.0);
    d_bias.fill(0.0);
    let rows = x.chunks_exact(width).zip(d_y.chunks_exact(width));
    for ((x, d_y), statistics) in rows.zip(statistics.chunks_exact(norm.per_row())) {
        let inverse = statistics[norm.per_row() - 1];
        let mean = if norm.kind == Kind::Layer { statistics[0] } else { 0.0 };
        for (((dw, db), x), d) in d_weight.iter_mut().zip(d_bias.iter_mut()).zip(x).zip(d_y) {
            *dw += d * ((x - mean) * inverse);
            *db += d;
        }
    }
}

#[cfg(test)]
mod tests;
