//! Steps of optimisers, each one pass over the weights, and the norm of the gradient.
//!
//! g is the gradient times a factor that is given: clipping by the global norm costs no pass of its own. Bias corrections
//! and step sizes are computed in f64 and rounded once; element-wise arithmetic is f32 in the order of the formulas.
//!
//! - AdamW (Loshchilov, Hutter: "Decoupled weight decay regularization", ICLR 2019), as `torch.optim.AdamW`:
//!   w ← w(1 − ηλ); m ← β₁m + (1−β₁)g; v ← β₂v + (1−β₂)g²; w ← w − η/(1−β₁ᵗ) · m / (√v/√(1−β₂ᵗ) + ε).
//! - SGD with momentum (Sutskever et al., ICML 2013, in the form of `torch.optim.SGD` without dampening):
//!   g ← g + λw; b ← μb + g; w ← w − ηb, with Nesterov w ← w − η(g + μb). λ is coupled, unlike AdamW's.
//! - Lion (Chen et al.: "Symbolic discovery of optimization algorithms", NeurIPS 2023, program 1 and algorithm 2):
//!   w ← w − η(sign(β₁m + (1−β₁)g) + λw); m ← β₂m + (1−β₂)g, sign(0) being 0.
//! - Clipping by norm (Pascanu et al., ICML 2013) as `torch.nn.utils.clip_grad_norm_`: factor min(1, c/(‖g‖ + 10⁻⁶)).

#[cfg(test)]
mod tests;

use multiversion::multiversion;
use rayon::prelude::*;

use crate::Buffer;

/// Elements of one task.
const TASK: usize = 16 * 1024;

/// AdamW. [`AdamW::default`] is PyTorch's.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdamW {
    /// Step size η.
    pub learning_rate: f64,
    /// Decay β₁ of the mean of gradients.
    pub beta1: f64,
    /// Decay β₂ of the mean of their squares.
    pub beta2: f64,
    /// ε, added to the root.
    pub epsilon: f64,
    /// λ; 0 for tensors without decay.
    pub weight_decay: f64,
}

impl Default for AdamW {
    fn default() -> Self {
        Self { learning_rate: 1e-3, beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weight_decay: 1e-2 }
    }
}

/// What the kernel of AdamW needs, rounded once.
#[derive(Debug, Clone, Copy)]
struct AdamWStep {
    factor: f32,
    keep: f32,
    beta1: [f32; 2],
    beta2: [f32; 2],
    root: f32,
    epsilon: f32,
    rate: f32,
}

impl AdamW {
    /// Step number `step`, counted from 1, with the gradient `factor · gradient`. `mean` and `square` are the state of this
    /// weight, zeros before the first step.
    ///
    /// # Panics
    /// If lengths differ or `step` is 0.
    pub fn step(
        &self,
        step: u64,
        factor: f32,
        weight: &mut Buffer,
        gradient: &Buffer,
        mean: &mut Buffer,
        square: &mut Buffer,
    ) {
        assert!(step > 0, "steps are counted from 1");
        assert_eq!(gradient.len(), weight.len(), "elements of the gradient");
        assert_eq!((mean.len(), square.len()), (weight.len(), weight.len()), "elements of AdamW's state");
        let step = self.rounded(step, factor);
        let weights = weight.host_mut().par_chunks_mut(TASK).zip(gradient.host().par_chunks(TASK));
        let state = mean.host_mut().par_chunks_mut(TASK).zip(square.host_mut().par_chunks_mut(TASK));
        weights.zip(state).for_each(|((w, g), (m, v))| adamw(&step, w, g, m, v));
    }

    fn rounded(&self, step: u64, factor: f32) -> AdamWStep {
        let correction = |beta: f64| 1.0 - beta.powf(step as f64);
        AdamWStep {
            factor,
            keep: (1.0 - self.learning_rate * self.weight_decay) as f32,
            beta1: [self.beta1 as f32, (1.0 - self.beta1) as f32],
            beta2: [self.beta2 as f32, (1.0 - self.beta2) as f32],
            root: correction(self.beta2).sqrt().recip() as f32,
            epsilon: self.epsilon as f32,
            rate: (self.learning_rate / correction(self.beta1)) as f32,
        }
    }
}

#[multiversion(targets("x86_64+avx512f+avx512bw+avx512vl+fma", "x86_64+avx2+fma", "aarch64+neon"))]
fn adamw(step: &AdamWStep, weight: &mut [f32], gradient: &[f32], mean: &mut [f32], square: &mut [f32]) {
    let AdamWStep { factor, keep, beta1, beta2, root, epsilon, rate } = *step;
    let state = mean.iter_mut().zip(square);
    for ((w, g), (m, v)) in weight.iter_mut().zip(gradient).zip(state) {
        let g = g * factor;
        *m = *m * beta1[0] + g * beta1[1];
        *v = *v * beta2[0] + g * g * beta2[1];
        *w = *w * keep - rate * *m / (v.sqrt() * root + epsilon);
    }
}

/// Gradient descent with momentum. [`Sgd::default`] is PyTorch's: no momentum, no decay.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sgd {
    /// Step size η.
    pub learning_rate: f64,
    /// μ; 0 for none.
    pub momentum: f64,
    /// Looks ahead (Nesterov).
    pub nesterov: bool,
    /// λ, added to the gradient.
    pub weight_decay: f64,
}

impl Default for Sgd {
    fn default() -> Self {
        Self { learning_rate: 1e-3, momentum: 0.0, nesterov: false, weight_decay: 0.0 }
    }
}

impl Sgd {
    /// One step with the gradient `factor · gradient`. `velocity` is the state of this weight, zeros before the first step;
    /// without momentum it is not used and may be empty.
    ///
    /// # Panics
    /// If lengths differ.
    pub fn step(&self, factor: f32, weight: &mut Buffer, gradient: &Buffer, velocity: &mut Buffer) {
        assert_eq!(gradient.len(), weight.len(), "elements of the gradient");
        let weights = weight.host_mut().par_chunks_mut(TASK).zip(gradient.host().par_chunks(TASK));
        if self.momentum == 0.0 {
            return weights.for_each(|(w, g)| descend(self, factor, w, g));
        }
        assert_eq!(velocity.len(), gradient.len(), "elements of SGD's state");
        let velocity = velocity.host_mut().par_chunks_mut(TASK);
        weights.zip(velocity).for_each(|((w, g), v)| descend_with_momentum(self, factor, w, g, v));
    }
}

#[multiversion(targets("x86_64+avx512f+avx512bw+avx512vl+fma", "x86_64+avx2+fma", "aarch64+neon"))]
fn descend(sgd: &Sgd, factor: f32, weight: &mut [f32], gradient: &[f32]) {
    let (rate, decay) = (sgd.learning_rate as f32, sgd.weight_decay as f32);
    for (w, g) in weight.iter_mut().zip(gradient) {
        *w -= rate * (g * factor + decay * *w);
    }
}

#[multiversion(targets("x86_64+avx512f+avx512bw+avx512vl+fma", "x86_64+avx2+fma", "aarch64+neon"))]
fn descend_with_momentum(sgd: &Sgd, factor: f32, weight: &mut [f32], gradient: &[f32], velocity: &mut [f32]) {
    let (rate, decay, momentum) = (sgd.learning_rate as f32, sgd.weight_decay as f32, sgd.momentum as f32);
    // g + μb for Nesterov, else b: two factors instead of a branch in the loop.
    let (of_gradient, of_velocity) = if sgd.nesterov { (1.0, momentum) } else { (0.0, 1.0) };
    for ((w, g), b) in weight.iter_mut().zip(gradient).zip(velocity) {
        let g = g * factor + decay * *w;
        *b = momentum * *b + g;
        *w -= rate * (of_gradient * g + of_velocity * *b);
    }
}

/// Lion. [`Lion::default`] has the authors' values.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Lion {
    /// Step size η: a third to a tenth of AdamW's.
    pub learning_rate: f64,
    /// β₁, of the direction.
    pub beta1: f64,
    /// β₂, of the state.
    pub beta2: f64,
    /// λ: three to ten times AdamW's.
    pub weight_decay: f64,
}

impl Default for Lion {
    fn default() -> Self {
        Self { learning_rate: 1e-4, beta1: 0.9, beta2: 0.99, weight_decay: 0.0 }
    }
}

impl Lion {
    /// One step with the gradient `factor · gradient`. `mean` is the state of this weight, zeros before the first step.
    ///
    /// # Panics
    /// If lengths differ.
    pub fn step(&self, factor: f32, weight: &mut Buffer, gradient: &Buffer, mean: &mut Buffer) {
        assert_eq!(gradient.len(), weight.len(), "elements of the gradient");
        assert_eq!(mean.len(), weight.len(), "elements of Lion's state");
        let weights = weight.host_mut().par_chunks_mut(TASK).zip(gradient.host().par_chunks(TASK));
        let means = mean.host_mut().par_chunks_mut(TASK);
        weights.zip(means).for_each(|((w, g), m)| lion(self, factor, w, g, m));
    }
}

#[multiversion(targets("x86_64+avx512f+avx512bw+avx512vl+fma", "x86_64+avx2+fma", "aarch64+neon"))]
fn lion(lion: &Lion, factor: f32, weight: &mut [f32], gradient: &[f32], mean: &mut [f32]) {
    let (rate, decay) = (lion.learning_rate as f32, lion.weight_decay as f32);
    let direction = [lion.beta1 as f32, (1.0 - lion.beta1) as f32];
    let state = [lion.beta2 as f32, (1.0 - lion.beta2) as f32];
    for ((w, g), m) in weight.iter_mut().zip(gradient).zip(mean) {
        let g = g * factor;
        let c = *m * direction[0] + g * direction[1];
        // NaN stays NaN: it must not become a step of size η.
        let sign = if c == 0.0 || c.is_nan() { c } else { 1f32.copysign(c) };
        *w -= rate * (sign + decay * *w);
        *m = *m * state[0] + g * state[1];
    }
}

/// Σ gᵢ² in f64: same bits on any number of threads. The global norm is the root of the sum over all tensors.
pub fn square_sum(gradient: &Buffer) -> f64 {
    inner_product(gradient, gradient)
}

/// Σ aᵢbᵢ in f64: same bits on any number of threads.
///
/// # Panics
/// If the lengths differ.
pub fn inner_product(a: &Buffer, b: &Buffer) -> f64 {
    assert_eq!(a.len(), b.len(), "lengths of an inner product");
    sum_of(a.host(), b.host())
}

/// A tree whose shape depends on the length alone.
fn sum_of(a: &[f32], b: &[f32]) -> f64 {
    if a.len() <= TASK {
        return products(a, b);
    }
    let middle = a.len().div_ceil(2 * TASK) * TASK;
    let ((a1, a2), (b1, b2)) = (a.split_at(middle), b.split_at(middle));
    let (left, right) = rayon::join(|| sum_of(a1, b1), || sum_of(a2, b2));
    left + right
}

#[multiversion(targets("x86_64+avx512f+avx512bw+avx512vl+fma", "x86_64+avx2+fma", "aarch64+neon"))]
fn products(a: &[f32], b: &[f32]) -> f64 {
    let mut lanes = [0.0f64; 32];
    let ((a, a_rest), (b, b_rest)) = (a.as_chunks::<32>(), b.as_chunks::<32>());
    let add = |lanes: &mut [f64; 32], a: &[f32], b: &[f32]| {
        lanes.iter_mut().zip(a).zip(b).for_each(|((l, a), b)| *l += f64::from(*a) * f64::from(*b));
    };
    a.iter().zip(b).for_each(|(a, b)| add(&mut lanes, a, b));
    add(&mut lanes, a_rest, b_rest);
    lanes.iter().sum()
}

/// The factor that brings a gradient of the given global norm down to `limit`; nothing if the norm is not finite, because
/// no factor makes a step of such a gradient.
pub fn clip_factor(norm: f64, limit: f64) -> Option<f32> {
    norm.is_finite().then(|| (limit / (norm + 1e-6)).min(1.0) as f32)
}
