//! What the tests of operators share: numbers, comparisons, pools, gradient checks, PyTorch's answers.

use crate::Buffer;

/// Numbers in −1 … 1 that have no pattern.
pub(crate) fn noise(len: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    (0..len)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
        })
        .collect()
}

pub(crate) fn wide(values: &[f32]) -> Vec<f64> {
    values.iter().map(|v| f64::from(*v)).collect()
}

/// Fails where an element is off by more than `tolerance` times the larger of 1 and the largest expected number.
#[track_caller]
pub(crate) fn assert_close(what: &str, found: &Buffer, expected: &[f64], tolerance: f64) {
    assert_eq!(found.len(), expected.len(), "{what}");
    let size = expected.iter().fold(1.0f64, |m, v| m.max(v.abs()));
    for (i, (f, e)) in found.to_vec().iter().zip(expected).enumerate() {
        assert!((f64::from(*f) - e).abs() <= tolerance * size, "{what}[{i}]: {f} instead of {e}");
    }
}

/// The answer of `work`, which must be the same bits on pools of 1, 2 and 3 threads.
pub(crate) fn on_any_pool<T: PartialEq + Send>(work: impl Fn() -> T + Sync) -> T {
    let run = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(&work)
    };
    let one = run(1);
    assert!(one == run(2) && one == run(3), "threads show in the result");
    one
}

/// Checks that `gradient` is the derivative of `f` at `x`: along a random direction, by central differences in f64.
#[track_caller]
pub(crate) fn assert_derivative(
    what: &str,
    f: impl Fn(&[f64]) -> f64,
    x: &[f32],
    gradient: &Buffer,
    tolerance: f64,
) {
    let direction = wide(&noise(x.len(), 77));
    let at = |step: f64| {
        let moved: Vec<f64> = x.iter().zip(&direction).map(|(x, d)| f64::from(*x) + step * d).collect();
        f(&moved)
    };
    let step = 1e-5;
    let expected = (at(step) - at(-step)) / (2.0 * step);
    let found: f64 = gradient.to_vec().iter().zip(&direction).map(|(g, d)| f64::from(*g) * d).sum();
    let size = gradient.to_vec().iter().map(|g| f64::from(*g).abs()).sum::<f64>().max(1.0);
    assert!((found - expected).abs() <= tolerance * size, "{what}: {found} instead of {expected}");
}

/// A record of `testdata/engine/attention.json`, which `make_attention.py` wrote.
pub(crate) fn golden(name: &str) -> serde_json::Value {
    let text = include_str!("../../../../testdata/engine/attention.json");
    let all: serde_json::Value = serde_json::from_str(text).unwrap();
    assert!(!all[name].is_null(), "no golden {name}");
    all[name].clone()
}

pub(crate) fn numbers(value: &serde_json::Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect()
}

pub(crate) fn buffer(value: &serde_json::Value) -> Buffer {
    Buffer::from(numbers(value).iter().map(|v| *v as f32).collect::<Vec<f32>>())
}

/// n numbers between −2 and 2 with no pattern that an operator could share.
pub(crate) fn wave(n: usize, frequency: f32) -> Vec<f32> {
    (0..n).map(|i| 2.0 * ((i as f32 + 0.3) * frequency + 0.05 * (i as f32).sqrt()).sin()).collect()
}

/// Compares the gradient that `run` returns with the central difference of its value, along the gradient and along two
/// other directions. `step` is the length of the difference per element.
pub(crate) fn check_gradient(x: &[f32], step: f64, run: impl Fn(&[f32]) -> (f64, Vec<f32>)) {
    let gradient = run(x).1;
    let norm = gradient.iter().map(|g| f64::from(*g).powi(2)).sum::<f64>().sqrt();
    let size = norm.max(1e-12) / (x.len() as f64).sqrt();
    let along: Vec<f64> = gradient.iter().map(|g| f64::from(*g) / size).collect();
    let other = |f| wave(x.len(), f).into_iter().map(f64::from).collect::<Vec<_>>();
    for direction in [along, other(0.77), other(3.1)] {
        let moved = |sign: f64| -> Vec<f32> {
            x.iter().zip(&direction).map(|(x, d)| (f64::from(*x) + sign * step * d) as f32).collect()
        };
        let (plus, minus) = (moved(1.0), moved(-1.0));
        // The step that was really made: x + step·d rounds.
        let pairs = gradient.iter().zip(plus.iter().zip(&minus));
        let expected: f64 = pairs.map(|(g, (p, m))| f64::from(*g) * (f64::from(*p) - f64::from(*m))).sum();
        let found = run(&plus).0 - run(&minus).0;
        let scale = norm * step * (x.len() as f64).sqrt();
        assert!(
            (found - expected).abs() <= 2e-2 * expected.abs() + 2e-3 * scale + 1e-9,
            "{found} {expected}"
        );
    }
}

/// The numbers of `work`, which must be the same bits on pools of 1, 2 and 3 threads.
pub(crate) fn on_pools(work: impl Fn() -> Vec<f32> + Sync) -> Vec<f32> {
    let bits = on_any_pool(|| work().into_iter().map(f32::to_bits).collect::<Vec<u32>>());
    bits.into_iter().map(f32::from_bits).collect()
}
