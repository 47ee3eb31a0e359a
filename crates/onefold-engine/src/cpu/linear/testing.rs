//! What the tests of several operators share: numbers, weights, definitions in f64, thread pools, goldens.

use std::sync::Arc;

use half::{bf16, f16};

use super::Layout;
use crate::{Buffer, Half, HalfDtype};

/// Numbers without pattern, in about ±1.
pub(crate) fn noise(len: usize, seed: u32) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        (state >> 8) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..4).for_each(|_| _ = next());
    (0..len).map(|_| next()).collect()
}

/// The same as a buffer.
pub(crate) fn buffer(len: usize, seed: u32) -> Buffer {
    noise(len, seed).into()
}

/// A weight rounded to 16 bits, and the numbers it then has.
pub(crate) fn halved(values: &[f32], dtype: HalfDtype) -> (Half, Vec<f32>) {
    let bits: Vec<u16> = match dtype {
        HalfDtype::Bf16 => values.iter().map(|v| bf16::from_f32(*v).to_bits()).collect(),
        HalfDtype::F16 => values.iter().map(|v| f16::from_f32(*v).to_bits()).collect(),
    };
    let wide = match dtype {
        HalfDtype::Bf16 => bits.iter().map(|b| bf16::from_bits(*b).to_f32()).collect(),
        HalfDtype::F16 => bits.iter().map(|b| f16::from_bits(*b).to_f32()).collect(),
    };
    (Half { dtype, source: Arc::new(bits) }, wide)
}

pub(crate) fn wide(values: &[f32]) -> Vec<f64> {
    values.iter().map(|v| f64::from(*v)).collect()
}

/// The element of a weight that maps input i to output o.
pub(crate) fn at(layout: Layout, inputs: usize, outputs: usize, o: usize, i: usize) -> usize {
    match layout {
        Layout::OutputsInputs => o * inputs + i,
        Layout::InputsOutputs => i * outputs + o,
    }
}

/// x·Wᵀ by definition; W is `[outputs, inputs]`.
pub(crate) fn twin(x: &[f64], w: &[f64], inputs: usize, outputs: usize) -> Vec<f64> {
    x.chunks_exact(inputs)
        .flat_map(|x| (0..outputs).map(move |o| (0..inputs).map(|i| x[i] * w[o * inputs + i]).sum()))
        .collect()
}

/// Every element within `tolerance`, relative to the largest one.
#[track_caller]
pub(crate) fn close(found: &Buffer, expected: &[f64], tolerance: f64) {
    close_for(found, expected, tolerance, largest(expected));
}

/// The largest absolute value.
pub(crate) fn largest(values: &[f64]) -> f64 {
    values.iter().fold(1e-6f64, |m, v| m.max(v.abs()))
}

/// Each element is what is expected, but for `tolerance` of `size`. Sums whose terms cancel are as exact as their terms are large.
pub(crate) fn close_for(found: &Buffer, expected: &[f64], tolerance: f64, size: f64) {
    assert_eq!(found.len(), expected.len());
    for (i, (f, e)) in found.to_vec().into_iter().zip(expected).enumerate() {
        assert!(
            (f64::from(f) - e).abs() <= tolerance * size,
            "element {i}: {f}, expected {e} ± {tolerance} of {size}"
        );
    }
}

/// ⟨a, b⟩.
pub(crate) fn inner(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// The derivative of `f` at `x` in the direction `d`, by central differences.
pub(crate) fn slope(x: &[f64], d: &[f64], f: impl Fn(&[f64]) -> f64) -> f64 {
    let h = 1e-6;
    let moved = |h: f64| f(&x.iter().zip(d).map(|(x, d)| x + h * d).collect::<Vec<_>>());
    (moved(h) - moved(-h)) / (2.0 * h)
}

/// `run` gives the same bits on pools of 1, 2 and 3 threads.
#[track_caller]
pub(crate) fn threads_do_not_show<T: PartialEq + Send>(run: impl Fn() -> T + Sync) {
    let on = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(&run)
    };
    let one = on(1);
    assert!(one == on(2) && one == on(3));
}

/// The goldens of `testdata/engine/make_linear.py`.
pub(crate) fn golden(case: &str) -> serde_json::Value {
    let text = include_str!("../../../../../testdata/engine/linear.json");
    let mut all: serde_json::Value = serde_json::from_str(text).unwrap();
    all[case].take()
}

/// A list of numbers of a golden.
pub(crate) fn list(value: &serde_json::Value) -> Vec<f32> {
    value.as_array().unwrap().iter().map(|v| v.as_f64().unwrap() as f32).collect()
}
