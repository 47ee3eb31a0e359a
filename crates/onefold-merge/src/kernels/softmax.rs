//! The divergence between the softmaxes of two rows, in f64: for small changes it is a sum of terms that nearly cancel.
//! `exp` and `ln` are polynomials that vectorise, exact to some 1e-15.

use multiversion::multiversion;

const LANES: usize = 8;

/// `Σ p ln(p/q)` with `p = softmax(x) + floor`, `q = softmax(b) + floor`. `p` and `q` are buffers.
pub fn divergence(x: &[f32], b: &[f32], floor: f64, p: &mut Vec<f64>, q: &mut Vec<f64>) -> f64 {
    p.resize(x.len(), 0.0);
    q.resize(b.len(), 0.0);
    let (p_scale, q_scale) = (1.0 / exponentials(x, p), 1.0 / exponentials(b, q));
    relative_entropy(p, p_scale, q, q_scale, floor)
}

/// Writes `exp(v − max)` and returns the sum.
#[multiversion(targets("x86_64+avx512f+avx512dq", "x86_64+avx2", "aarch64+neon"))]
fn exponentials(v: &[f32], out: &mut [f64]) -> f64 {
    let max = f64::from(v.iter().copied().fold(f32::NEG_INFINITY, f32::max));
    for (o, v) in out.iter_mut().zip(v) {
        *o = exp(f64::from(*v) - max);
    }
    sum(out)
}

#[multiversion(targets("x86_64+avx512f+avx512dq", "x86_64+avx2", "aarch64+neon"))]
fn relative_entropy(p: &mut [f64], p_scale: f64, q: &[f64], q_scale: f64, floor: f64) -> f64 {
    for (p, q) in p.iter_mut().zip(q) {
        let (a, b) = (*p * p_scale + floor, *q * q_scale + floor);
        *p = a * ln(a / b);
    }
    sum(p)
}

/// A sum whose order does not depend on the instruction set.
#[inline(always)]
fn sum(values: &[f64]) -> f64 {
    let mut lanes = [0.0; LANES];
    let (chunks, tail) = values.as_chunks::<LANES>();
    for chunk in chunks {
        for lane in 0..LANES {
            lanes[lane] += chunk[lane];
        }
    }
    for (lane, v) in tail.iter().enumerate() {
        lanes[lane] += v;
    }
    lanes.iter().sum()
}

/// `exp(x)` for x ≤ 0: `2^n · exp(r)` with |r| ≤ ln 2 / 2 and a Taylor polynomial of degree 13 (remainder below 1e-17).
/// Below the normal range the result is 0.
#[inline(always)]
fn exp(x: f64) -> f64 {
    const LOG2_E: f64 = std::f64::consts::LOG2_E;
    // ln 2 in two parts, the first with trailing zeros, so that n · HIGH is exact.
    const HIGH: f64 = 6.931_471_803_691_238e-1;
    const LOW: f64 = 1.908_214_929_270_587_7e-10;
    // Adding this rounds to the nearest integer and leaves it in the low bits.
    const ROUND: f64 = 6_755_399_441_055_744.0;
    let x = x.max(-708.0);
    let shifted = x * LOG2_E + ROUND;
    let n = shifted - ROUND;
    let r = (x - n * HIGH) - n * LOW;
    let mut y = 1.0 / 6_227_020_800.0;
    for k in [
        479_001_600.0,
        39_916_800.0,
        3_628_800.0,
        362_880.0,
        40_320.0,
        5_040.0,
        720.0,
        120.0,
        24.0,
        6.0,
        2.0,
        1.0,
        1.0,
    ] {
        y = y * r + 1.0 / k;
    }
    let power = f64::from_bits((shifted.to_bits() << 52).wrapping_add(1.0f64.to_bits()));
    if x <= -708.0 { 0.0 } else { y * power }
}

/// `ln(x)` for normal positive x: `2 atanh(s)` with `s = (m−1)/(m+1)`, m in [√½, √2) (remainder below 1e-17).
#[inline(always)]
fn ln(x: f64) -> f64 {
    const HALF_ROOT: u64 = 0x3fe6_a09e_667f_3bcd;
    let bits = x.to_bits().wrapping_sub(HALF_ROOT);
    // The exponent as a float without a conversion of integers, which older instruction sets lack for 64 bits.
    let exponent = (((bits as i64) >> 52) as i32) as f64;
    let m = f64::from_bits((bits & 0x000f_ffff_ffff_ffff).wrapping_add(HALF_ROOT));
    let s = (m - 1.0) / (m + 1.0);
    let z = s * s;
    let mut y = 1.0 / 21.0;
    for k in [19.0, 17.0, 15.0, 13.0, 11.0, 9.0, 7.0, 5.0, 3.0, 1.0] {
        y = y * z + 1.0 / k;
    }
    2.0 * s * y + exponent * std::f64::consts::LN_2
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn polynomials_agree_with_the_library(x in -700f64..0.0, small in -1f64..0.0, y in 1e-12f64..1e12) {
            for x in [x, small] {
                prop_assert!((exp(x) / x.exp() - 1.0).abs() < 4e-15, "{x}");
            }
            prop_assert!((ln(y) - y.ln()).abs() < 1e-15 * (1.0 + y.ln().abs()) * 4.0, "{y}");
            let near_one = 1.0 + small * 1e-6;
            prop_assert!((ln(near_one) - near_one.ln()).abs() <= 1e-14 * near_one.ln().abs());
        }

        #[test]
        fn divergence_agrees_with_the_definition(x in prop::collection::vec(-5f32..5.0, 1..50), noise in 0f32..0.1) {
            let b: Vec<f32> = x.iter().enumerate().map(|(i, v)| v + noise * (i as f32).sin()).collect();
            let softmax = |v: &[f32]| {
                let e: Vec<f64> = v.iter().map(|v| f64::from(*v).exp()).collect();
                let s: f64 = e.iter().sum();
                e.iter().map(|e| e / s + 1e-8).collect::<Vec<f64>>()
            };
            let expected: f64 = softmax(&x).iter().zip(softmax(&b)).map(|(p, q)| p * (p / q).ln()).sum();
            let found = divergence(&x, &b, 1e-8, &mut Vec::new(), &mut Vec::new());
            prop_assert!((found - expected).abs() < 1e-14 + 1e-9 * expected.abs());
        }
    }

    #[test]
    fn extremes() {
        assert_eq!((exp(0.0), exp(-1e300), ln(1.0)), (1.0, 0.0, 0.0));
        let far = divergence(&[0.0, -1e30], &[-1e30, 0.0], 1e-8, &mut Vec::new(), &mut Vec::new());
        assert!((far - (1e8f64).ln()).abs() < 1e-5, "{far}");
    }
}
