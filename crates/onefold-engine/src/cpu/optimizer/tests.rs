use proptest::prelude::*;

use super::*;
use crate::cpu::linear::testing::{buffer, close, golden, list, noise, threads_do_not_show, wide};

/// Runs a golden's 20 steps; `step` gets the number of the step, the factor and the gradient.
fn follow(case: &str, tolerance: f64, mut step: impl FnMut(u64, f32, &mut Buffer, &Buffer)) {
    let golden = golden(case);
    let mut weight = Buffer::from(list(&golden["weight"]));
    let steps = golden["gradients"].as_array().unwrap().iter().zip(golden["weights"].as_array().unwrap());
    for (t, (gradient, expected)) in steps.enumerate() {
        let gradient = Buffer::from(list(gradient));
        let norm = square_sum(&gradient).sqrt();
        let factor = golden["clip"].as_f64().map_or(1.0, |limit| {
            assert!((norm - golden["norms"][t].as_f64().unwrap()).abs() < 1e-6 * norm);
            clip_factor(norm, limit).unwrap()
        });
        step(t as u64 + 1, factor, &mut weight, &gradient);
        close(&weight, &wide(&list(expected)), tolerance);
    }
}

/// Rounding differs in the order of products; twenty steps add some ulps.
const ULPS: f64 = 1e-6;

#[test]
fn adamw_follows_torch() {
    let custom = AdamW { learning_rate: 0.05, beta1: 0.8, beta2: 0.95, epsilon: 1e-4, weight_decay: 0.2 };
    for (case, settings) in [("adamw", AdamW::default()), ("adamw_clipped", custom)] {
        let (mut m, mut v) = (Buffer::zeros(6), Buffer::zeros(6));
        follow(case, ULPS, |t, factor, w, g| settings.step(t, factor, w, g, &mut m, &mut v));
    }
}

#[test]
fn sgd_follows_torch() {
    let plain = Sgd { learning_rate: 0.1, ..Sgd::default() };
    let momentum = Sgd { learning_rate: 0.02, momentum: 0.9, weight_decay: 0.1, nesterov: false };
    let nesterov = Sgd { learning_rate: 0.02, momentum: 0.8, weight_decay: 0.05, nesterov: true };
    for (case, settings) in [("sgd", plain), ("sgd_momentum", momentum), ("sgd_nesterov", nesterov)] {
        let mut velocity = Buffer::zeros(if settings.momentum == 0.0 { 0 } else { 6 });
        follow(case, ULPS, |_, factor, w, g| settings.step(factor, w, g, &mut velocity));
    }
}

/// The formulas of the file's head in f64, for one element.
#[derive(Default)]
struct Twin {
    m: f64,
    v: f64,
}

impl Twin {
    fn adamw(&mut self, s: &AdamW, t: u64, g: f64, w: f64) -> f64 {
        self.m = s.beta1 * self.m + (1.0 - s.beta1) * g;
        self.v = s.beta2 * self.v + (1.0 - s.beta2) * g * g;
        let (m, v) = (self.m / (1.0 - s.beta1.powi(t as i32)), self.v / (1.0 - s.beta2.powi(t as i32)));
        w - s.learning_rate * s.weight_decay * w - s.learning_rate * m / (v.sqrt() + s.epsilon)
    }

    fn sgd(&mut self, s: &Sgd, g: f64, w: f64) -> f64 {
        let g = g + s.weight_decay * w;
        self.m = s.momentum * self.m + g;
        w - s.learning_rate * if s.nesterov { g + s.momentum * self.m } else { self.m }
    }

    fn lion(&mut self, s: &Lion, g: f64, w: f64) -> f64 {
        let c = s.beta1 * self.m + (1.0 - s.beta1) * g;
        self.m = s.beta2 * self.m + (1.0 - s.beta2) * g;
        w - s.learning_rate * (c.signum() + s.weight_decay * w)
    }
}

/// Six steps of an optimiser and of its twin.
fn beside(
    len: usize,
    mut step: impl FnMut(u64, &mut Buffer, &Buffer),
    mut twin: impl FnMut(u64, usize, f64, f64) -> f64,
) {
    let mut weight = buffer(len, 1);
    let mut expected = wide(&weight.to_vec());
    for t in 1..7 {
        let gradient = buffer(len, 10 + t as u32);
        step(t, &mut weight, &gradient);
        for (i, g) in gradient.to_vec().into_iter().enumerate() {
            expected[i] = twin(t, i, f64::from(g) * 0.5, expected[i]);
        }
    }
    close(&weight, &expected, 2e-6);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]
    #[test]
    fn agree_with_the_formulas(len in 0usize..200, nesterov: bool, momentum in 0.0..0.99, decay in 0.0..0.3) {
        let twins = || (0..len).map(|_| Twin::default()).collect::<Vec<_>>();
        let (mut m, mut v) = (Buffer::zeros(len), Buffer::zeros(len));
        let s = AdamW { weight_decay: decay, beta1: momentum, learning_rate: 0.01, ..AdamW::default() };
        let mut state = twins();
        beside(len, |t, w, g| s.step(t, 0.5, w, g, &mut m, &mut v), |t, i, g, w| state[i].adamw(&s, t, g, w));
        let (s, mut b) = (Sgd { momentum, nesterov, weight_decay: decay, learning_rate: 0.1 }, Buffer::zeros(len));
        let mut state = twins();
        beside(len, |_, w, g| s.step(0.5, w, g, &mut b), |_, i, g, w| state[i].sgd(&s, g, w));
        let (s, mut m) = (Lion { weight_decay: decay, learning_rate: 0.01, ..Lion::default() }, Buffer::zeros(len));
        let mut state = twins();
        beside(len, |_, w, g| s.step(0.5, w, g, &mut m), |_, i, g, w| state[i].lion(&s, g, w));
    }

    #[test]
    fn square_sum_is_exact_to_f64(len in 0usize..100_000) {
        let values = noise(len, 3);
        let expected: f64 = values.iter().map(|v| f64::from(*v).powi(2)).sum();
        prop_assert!((square_sum(&values.into()) - expected).abs() <= 1e-12 * expected);
    }
}

#[test]
fn threads_change_no_bit() {
    let (gradient, len) = (buffer(100_003, 1), 100_003);
    threads_do_not_show(|| {
        let (mut w, mut m, mut v) = (buffer(len, 2), buffer(len, 3), Buffer::from(vec![0.5; len]));
        AdamW::default().step(3, 0.5, &mut w, &gradient, &mut m, &mut v);
        Sgd { momentum: 0.9, ..Sgd::default() }.step(0.5, &mut w, &gradient, &mut m);
        Lion::default().step(0.5, &mut w, &gradient, &mut v);
        (w, m, v, square_sum(&gradient).to_bits())
    });
}

#[test]
fn clipping_refuses_what_is_not_finite() {
    assert_eq!((clip_factor(f64::NAN, 1.0), clip_factor(f64::INFINITY, 1.0)), (None, None));
    assert_eq!(clip_factor(0.5, 1.0), Some(1.0));
    assert!((clip_factor(4.0, 1.0).unwrap() - 0.25).abs() < 1e-6);
}

/// A direction of exactly 0 is no step; a NaN is not taken for one.
#[test]
fn lion_at_zero_and_nan() {
    let (mut w, mut m) = (Buffer::from(vec![1.0, 1.0]), Buffer::zeros(2));
    Lion::default().step(1.0, &mut w, &vec![0.0, f32::NAN].into(), &mut m);
    assert!(w.to_vec()[0] == 1.0 && w.to_vec()[1].is_nan());
}

#[test]
#[should_panic(expected = "counted from 1")]
fn there_is_no_step_zero() {
    let (mut w, mut m, mut v) = (Buffer::zeros(1), Buffer::zeros(1), Buffer::zeros(1));
    AdamW::default().step(0, 1.0, &mut w, &Buffer::zeros(1), &mut m, &mut v);
}
