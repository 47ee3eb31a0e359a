//! What has to be done to the gradients themselves, on chunks of them: the trainer owns the memory and the order.
//!
//! Every kernel is local to an element, so that no result depends on how tensors are cut. Gradients are f32, the arithmetic is
//! f64.

use onefold_runtime::Stream;

use crate::numeric::guard;

/// One task's running average, `average ← keep·average + (1 − keep)·gradient·scale`; see
/// [`crate::contract::Gradients::Averages`]. For gradients of the loss itself, `scale` = 1/(L + 1e-8) makes them those of its
/// logarithm.
pub fn average(average: &mut [f32], gradient: &[f32], scale: f64, keep: f64) {
    for (average, gradient) in average.iter_mut().zip(gradient) {
        let new = f64::from(*gradient) * scale;
        *average = (new + keep * (f64::from(*average) - new)) as f32;
    }
}

/// Adds g² to `squares`, and returns `Σ g²/√(squares + 1e-7)` of the chunk; see [`crate::contract::Gradients::Excess`].
/// Add up the chunks of all shared parameters.
pub fn excess(squares: &mut [f32], gradient: &[f32]) -> f64 {
    let element = |(sum, gradient): (&mut f32, &f32)| {
        let square = f64::from(*gradient).powi(2);
        *sum = (f64::from(*sum) + square) as f32;
        square / (f64::from(*sum) + 1e-7).sqrt()
    };
    squares.iter_mut().zip(gradient).map(element).sum()
}

/// Gradient sign dropout (GradDrop) at one step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Dropping {
    /// Seed of the run.
    pub seed: u64,
    /// The step.
    pub step: u64,
    /// Share of a dropped gradient that passes.
    pub leak: f64,
    /// Whether the sum is divided by the number of gradients.
    pub mean: bool,
}

impl Dropping {
    /// Writes the update of a chunk of a tensor that begins at element `start`, from the gradients of the tasks that have a
    /// weight, each as long as `out`.
    pub fn combine(&self, tensor: &str, start: u64, gradients: &[&[f32]], out: &mut [f32]) {
        let stream = Stream::new(self.seed, &format!("graddrop {}", self.step), tensor);
        let mut draws = vec![0; out.len()];
        stream.fill(start, &mut draws);
        let mut values = vec![0.0; gradients.len()];
        let factor = if self.mean { 1.0 / gradients.len().max(1) as f64 } else { 1.0 };
        for (i, (out, draw)) in out.iter_mut().zip(draws).enumerate() {
            values.iter_mut().zip(gradients).for_each(|(value, g)| *value = f64::from(g[i]));
            let u = (f64::from(draw) + 0.5) / 4_294_967_296.0;
            *out = (factor * kept_sum(&values, &values, u, self.leak)) as f32;
        }
    }
}

/// `½ (1 + Σs/(Σ|s| + guard))` of the signed gradients of one element: 1 if all are positive, 0 if all are negative.
pub fn sign_purity(signed: &[f64]) -> f64 {
    let (sum, size) = signed.iter().fold((0.0, 0.0), |(sum, size), s| (sum + s, size + s.abs()));
    // The reference's guard is 1e-7.
    0.5 * (1.0 + sum / (size + 10.0 * guard(size)))
}

/// The sum of one element's gradients, of which those against the drawn sign are reduced to `leak` of themselves: positive
/// `signed` ones stay if u < P, negative ones if u > P.
pub fn kept_sum(gradients: &[f64], signed: &[f64], u: f64, leak: f64) -> f64 {
    let purity = sign_purity(signed);
    let kept = |s: f64| (purity > u && s > 0.0) || (purity < u && s < 0.0);
    gradients.iter().zip(signed).map(|(g, s)| if kept(*s) { *g } else { leak * g }).sum()
}
