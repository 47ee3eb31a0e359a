//! One row of logits: its loss, and the gradient in its place. The largest logit is subtracted before any exponential, and
//! logarithms of probabilities are differences of logits, so that logits of any finite size give finite answers.

use multiversion::multiversion;

use super::super::math;
use super::{Objective, RowLoss};

/// What happens to the product of hidden state and weight before the softmax.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Shape<'a> {
    /// Added first.
    pub(super) bias: Option<&'a [f32]>,
    /// Then z ← cap·tanh(z/cap).
    pub(super) cap: Option<f32>,
}

/// Loss of the logits `z`. With a weight, `z` becomes weight · ∂loss/∂z with respect to the logits before bias and cap;
/// without, scratch.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512vl+fma", "x86_64+avx2+fma", "aarch64+neon"))]
pub(super) fn row(
    z: &mut [f32],
    target: usize,
    objective: Objective,
    shape: Shape<'_>,
    weight: Option<f32>,
) -> RowLoss {
    prepare(z, shape);
    let max = math::max(z);
    let correct = z[target] == max && z.iter().position(|v| *v == max) == Some(target);
    let loss = match objective {
        Objective::CrossEntropy { smoothing } => cross_entropy(z, target, smoothing, max, shape.cap, weight),
        Objective::Entropy | Objective::DiverseEntropy { .. } => entropy(z, max, shape.cap, weight),
    };
    RowLoss { loss, correct }
}

#[inline(always)]
fn prepare(z: &mut [f32], shape: Shape<'_>) {
    if let Some(bias) = shape.bias {
        z.iter_mut().zip(bias).for_each(|(z, b)| *z += b);
    }
    if let Some(cap) = shape.cap {
        let inverse = 1.0 / cap;
        z.iter_mut().for_each(|z| *z = cap * math::tanh(*z * inverse));
    }
}

/// ∂ cap·tanh(x/cap) / ∂x, from the capped value.
#[inline(always)]
fn cap_slope(z: f32, inverse: f32) -> f32 {
    let t = z * inverse;
    (1.0 - t) * (1.0 + t)
}

#[inline(always)]
fn cross_entropy(
    z: &mut [f32],
    target: usize,
    smoothing: f32,
    max: f32,
    cap: Option<f32>,
    weight: Option<f32>,
) -> f32 {
    let (at_target, classes) = (z[target], z.len() as f32);
    let mean = if smoothing > 0.0 { math::sum(z) / classes } else { 0.0 };
    let inverse = cap.map(|cap| 1.0 / cap);
    // Of capped logits the gradient needs the value beside its exponential.
    let sum = if inverse.is_some() { math::exp_moments(z, max).0 } else { math::exp_and_sum(z, max) };
    if let Some(weight) = weight {
        let (scale, even) = (weight / sum, weight * smoothing / classes);
        let mut one = weight * (1.0 - smoothing);
        if let Some(inverse) = inverse {
            for z in z.iter_mut() {
                *z = (math::exp(*z - max) * scale - even) * cap_slope(*z, inverse);
            }
            one *= cap_slope(at_target, inverse);
        } else {
            z.iter_mut().for_each(|z| *z = *z * scale - even);
        }
        z[target] -= one;
    }
    let total = f64::from(sum).ln() + f64::from(max);
    let expected = f64::from(1.0 - smoothing) * f64::from(at_target) + f64::from(smoothing) * f64::from(mean);
    (total - expected) as f32
}

#[inline(always)]
fn entropy(z: &mut [f32], max: f32, cap: Option<f32>, weight: Option<f32>) -> f32 {
    let (sum, first) = math::exp_moments(z, max);
    let log_sum = f64::from(sum).ln() as f32;
    let entropy = log_sum - first / sum;
    if let Some(weight) = weight {
        // ln p + entropy = (z − max) − first / sum.
        let (scale, shift) = (-weight / sum, first / sum);
        let inverse = cap.map_or(0.0, |cap| 1.0 / cap);
        for z in z.iter_mut() {
            let d = *z - max;
            *z = math::exp(d) * scale * (d - shift) * cap_slope(*z, inverse);
        }
    }
    not_negative(f64::from(entropy))
}

/// T²·KL(p_teacher ‖ p_student) of softmaxes at temperature T; with a weight, `student` becomes weight · ∂/∂student =
/// weight · T·(p_student − p_teacher).
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512vl+fma", "x86_64+avx2+fma", "aarch64+neon"))]
pub(super) fn divergence(student: &mut [f32], teacher: &[f32], temperature: f32, weight: Option<f32>) -> f32 {
    let inverse = 1.0 / temperature;
    let (max, teacher_max) = (math::max(student), math::max(teacher));
    let scaled = |z: f32, max: f32| (z - max) * inverse;
    let (mut sum, mut teacher_sum) = (0.0f64, 0.0f64);
    for (student, teacher) in student.iter().zip(teacher) {
        sum += f64::from(math::exp(scaled(*student, max)));
        teacher_sum += f64::from(math::exp(scaled(*teacher, teacher_max)));
    }
    let (log, teacher_log) = (sum.ln() as f32, teacher_sum.ln() as f32);
    let (scale, teacher_scale) = ((1.0 / sum) as f32, (1.0 / teacher_sum) as f32);
    let mut divergence = 0.0f64;
    for (student, teacher) in student.iter_mut().zip(teacher) {
        let (s, t) = (scaled(*student, max), scaled(*teacher, teacher_max));
        let p = math::exp(t) * teacher_scale;
        divergence += f64::from(p * ((t - teacher_log) - (s - log)));
        if let Some(weight) = weight {
            *student = weight * temperature * (math::exp(s) * scale - p);
        }
    }
    not_negative(divergence * f64::from(temperature) * f64::from(temperature))
}

/// Without the rounding below 0; unlike `max` this keeps NaN.
#[inline(always)]
fn not_negative(x: f64) -> f32 {
    if x < 0.0 { 0.0 } else { x as f32 }
}
