//! Scalar functions and short reductions in a form that vectorises. All are inlined into multiversioned kernels, which
//! decide the instruction set.

/// Accumulators of a reduction: enough to fill the pipelines, in a fixed order.
const LANES: usize = 32;

/// eˣ for finite x, to about 2 units in the last place; 0 below −87.3, largest finite above 88. Cephes' reduction and
/// polynomial (Moshier, "Methods and Programs for Mathematical Functions", 1989).
#[inline(always)]
pub(crate) fn exp(x: f32) -> f32 {
    let x = x.clamp(-87.336_54, 88.0);
    // Adding 1.5 · 2²³ rounds to an integer, which then stands in the lowest bits: `as i32` would not vectorise.
    let shifted = x * std::f32::consts::LOG2_E + 12_582_912.0;
    let n = shifted - 12_582_912.0;
    // ln 2 in two parts, the first with few bits, so that n times it is exact.
    let r = x - n * 0.693_359_4 - n * -2.121_944_4e-4;
    let p = 1.987_569_2e-4_f32;
    let p = p * r + 1.398_199_9e-3;
    let p = p * r + 8.333_452e-3;
    let p = p * r + 4.166_579_6e-2;
    let p = p * r + 1.666_666_5e-1;
    let p = p * r + 0.5;
    let y = p * (r * r) + r + 1.0;
    f32::from_bits(shifted.to_bits().wrapping_add(127) << 23) * y
}

/// Σ aᵢ bᵢ over the shorter length.
#[inline(always)]
pub(crate) fn dot(a: &[f32], b: &[f32]) -> f32 {
    let len = a.len().min(b.len());
    let whole = len / LANES * LANES;
    let mut lanes = [0.0f32; LANES];
    for (a, b) in a[..whole].chunks_exact(LANES).zip(b[..whole].chunks_exact(LANES)) {
        for i in 0..LANES {
            lanes[i] += a[i] * b[i];
        }
    }
    let tail: f32 = a[whole..len].iter().zip(&b[whole..len]).map(|(a, b)| a * b).sum();
    add_up(lanes) + tail
}

/// Σ xᵢ.
#[inline(always)]
pub(crate) fn sum(x: &[f32]) -> f32 {
    let whole = x.len() / LANES * LANES;
    let mut lanes = [0.0f32; LANES];
    for x in x[..whole].chunks_exact(LANES) {
        for i in 0..LANES {
            lanes[i] += x[i];
        }
    }
    add_up(lanes) + x[whole..].iter().sum::<f32>()
}

/// The largest element; −∞ of none.
#[inline(always)]
pub(crate) fn max(x: &[f32]) -> f32 {
    let whole = x.len() / LANES * LANES;
    let mut lanes = [f32::NEG_INFINITY; LANES];
    for x in x[..whole].chunks_exact(LANES) {
        for i in 0..LANES {
            lanes[i] = if x[i] > lanes[i] { x[i] } else { lanes[i] };
        }
    }
    for (lane, x) in lanes.iter_mut().zip(padded(&x[whole..])) {
        *lane = if x > *lane { x } else { *lane };
    }
    let mut width = LANES / 2;
    while width > 0 {
        for i in 0..width {
            lanes[i] = if lanes[i + width] > lanes[i] { lanes[i + width] } else { lanes[i] };
        }
        width /= 2;
    }
    lanes[0]
}

/// Fewer than [`LANES`] elements, and −∞: so that the end of a row is computed in lanes too.
#[inline(always)]
fn padded(x: &[f32]) -> [f32; LANES] {
    let mut lanes = [f32::NEG_INFINITY; LANES];
    lanes[..x.len()].copy_from_slice(x);
    lanes
}

/// xᵢ ← exp(xᵢ − shift); returns their sum.
#[inline(always)]
pub(crate) fn exp_and_sum(x: &mut [f32], shift: f32) -> f32 {
    let whole = x.len() / LANES * LANES;
    let (head, tail) = x.split_at_mut(whole);
    let mut lanes = [0.0f32; LANES];
    for x in head.chunks_exact_mut(LANES) {
        for i in 0..LANES {
            x[i] = exp(x[i] - shift);
            lanes[i] += x[i];
        }
    }
    if !tail.is_empty() {
        let mut last = padded(tail);
        for x in &mut last {
            *x = exp(*x - shift);
        }
        tail.copy_from_slice(&last[..tail.len()]);
        last[tail.len()..].fill(0.0);
        for i in 0..LANES {
            lanes[i] += last[i];
        }
    }
    add_up(lanes)
}

#[inline(always)]
fn add_up(mut lanes: [f32; LANES]) -> f32 {
    let mut width = LANES / 2;
    while width > 0 {
        for i in 0..width {
            lanes[i] += lanes[i + width];
        }
        width /= 2;
    }
    lanes[0]
}

/// Σ f(xᵢ).
#[inline(always)]
pub(crate) fn fold_sum(x: &[f32], f: impl Fn(f32) -> f32) -> f32 {
    let whole = x.len() / LANES * LANES;
    let mut lanes = [0.0f32; LANES];
    for x in x[..whole].chunks_exact(LANES) {
        for i in 0..LANES {
            lanes[i] += f(x[i]);
        }
    }
    add_up(lanes) + x[whole..].iter().map(|x| f(*x)).sum::<f32>()
}

/// The sums of both values of f(aᵢ, bᵢ, cᵢ), over slices of one length.
#[inline(always)]
pub(crate) fn two_sums(
    a: &[f32],
    b: &[f32],
    c: &[f32],
    f: impl Fn(f32, f32, f32) -> (f32, f32),
) -> (f32, f32) {
    let len = a.len();
    let (b, c) = (&b[..len], &c[..len]);
    let whole = len / LANES * LANES;
    let (mut first, mut second) = ([0.0f32; LANES], [0.0f32; LANES]);
    for start in (0..whole).step_by(LANES) {
        let (a, b, c) = (&a[start..start + LANES], &b[start..start + LANES], &c[start..start + LANES]);
        for i in 0..LANES {
            let (u, v) = f(a[i], b[i], c[i]);
            first[i] += u;
            second[i] += v;
        }
    }
    let (mut u_sum, mut v_sum) = (add_up(first), add_up(second));
    for i in whole..len {
        let (u, v) = f(a[i], b[i], c[i]);
        u_sum += u;
        v_sum += v;
    }
    (u_sum, v_sum)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_close() {
        for i in -87_000..88_000 {
            let x = i as f32 * 1e-3;
            let (found, expected) = (f64::from(exp(x)), f64::from(x).exp());
            assert!((found / expected - 1.0).abs() < 2.5e-7, "{x}: {found} {expected}");
        }
        assert!(exp(-1000.0) < 1.3e-38 && exp(1000.0).is_finite());
    }

    #[test]
    fn reductions_of_any_length() {
        for len in [0, 1, 31, 32, 33, 100] {
            let x: Vec<f32> = (0..len).map(|i| (i as f32 * 0.7).sin()).collect();
            let exact: f64 = x.iter().map(|v| f64::from(*v)).sum();
            assert!((f64::from(sum(&x)) - exact).abs() < 1e-5);
            let exact: f64 = x.iter().map(|v| f64::from(*v) * f64::from(*v)).sum();
            assert!((f64::from(dot(&x, &x)) - exact).abs() < 1e-5);
            assert_eq!(max(&x), x.iter().copied().fold(f32::NEG_INFINITY, f32::max));
            let mut e = x.clone();
            let total = exp_and_sum(&mut e, 0.5);
            assert!((total - e.iter().sum::<f32>()).abs() < 1e-4 * (1.0 + total));
        }
    }
}
