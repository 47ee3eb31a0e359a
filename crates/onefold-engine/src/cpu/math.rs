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

/// σ(x) = 1 / (1 + e⁻ˣ), to about 3 units in the last place, also where it is small.
#[inline(always)]
pub(crate) fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

/// tanh x, to about 2 units in the last place: Cephes' polynomial near 0, elsewhere 1 − 2 / (e²ˣ + 1).
#[inline(always)]
pub(crate) fn tanh(x: f32) -> f32 {
    let s = x * x;
    let p = -5.704_988_7e-3_f32;
    let p = p * s + 2.063_909e-2;
    let p = p * s - 5.373_971_6e-2;
    let p = p * s + 1.333_144_2e-1;
    let p = p * s - 3.333_328e-1;
    let near = p * s * x + x;
    let a = x.abs();
    let far = (1.0 - 2.0 / (exp(2.0 * a) + 1.0)).copysign(x);
    if a < 0.625 { near } else { far }
}

/// Φ(x) and φ(x), the distribution function and the density of a standard normal variable. Φ is within 1.2·10⁻⁷, and within
/// 6·10⁻⁷ of its own size down to x = −3 (10⁻⁵ at −13, where the rounding of x² tells). It is what GELU needs: the sum
/// 1 + erf(x/√2) would lose the left tail. The polynomials are minimax fits: Φ(x) = ½ + x·P(x²) for |x| < 1, beyond it
/// Φ(−a) = e^(−a²/2) · t · Q(t − ½) with t = 1 / (1 + 0.3 a).
#[inline(always)]
pub(crate) fn normal(x: f32) -> (f32, f32) {
    let (a, s) = (x.abs(), x * x);
    let bell = exp(-0.5 * s);
    let p = -7.622_321_4e-6_f32;
    let p = p * s + 1.134_134e-4;
    let p = p * s - 1.186_272_1e-3;
    let p = p * s + 9.973_305e-3;
    let p = p * s - 6.649_036e-2;
    let p = p * s + 3.989_423e-1;
    let near = 0.5 + x * p;
    let t = 1.0 / (1.0 + 0.3 * a);
    let u = t - 0.5;
    let q = 2.810_511_6e-2_f32;
    let q = q * u - 3.358_406e-2;
    let q = q * u - 7.680_836e-2;
    let q = q * u + 2.892_647e-2;
    let q = q * u + 2.220_591_2e-1;
    let q = q * u + 3.462_006_8e-1;
    let q = q * u + 3.291_591_6e-1;
    let q = q * u + 2.219_706e-1;
    let tail = q * t * bell;
    let far = if x < 0.0 { tail } else { 1.0 - tail };
    (if a < 1.0 { near } else { far }, bell * 0.398_942_3)
}

/// Σ exp(xᵢ − shift) and Σ exp(xᵢ − shift)·(xᵢ − shift).
#[inline(always)]
pub(crate) fn exp_moments(x: &[f32], shift: f32) -> (f32, f32) {
    let whole = x.len() / LANES * LANES;
    let (mut sums, mut firsts) = ([0.0f32; LANES], [0.0f32; LANES]);
    for x in x[..whole].chunks_exact(LANES) {
        for i in 0..LANES {
            let d = x[i] - shift;
            let e = exp(d);
            sums[i] += e;
            firsts[i] += e * d;
        }
    }
    let (mut sum, mut first) = (0.0, 0.0);
    for x in &x[whole..] {
        let d = x - shift;
        sum += exp(d);
        first += exp(d) * d;
    }
    (add_up(sums) + sum, add_up(firsts) + first)
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

    #[test]
    fn sigmoid_and_tanh_are_close() {
        for i in -90_000..90_000 {
            let x = i as f32 * 1e-3;
            let d = f64::from(x);
            let (found, expected) = (f64::from(sigmoid(x)), 1.0 / (1.0 + (-d).exp()));
            assert!((found / expected - 1.0).abs() < 5e-7 || x < -87.0, "{x}: {found} {expected}");
            let (found, expected) = (f64::from(tanh(x)), d.tanh());
            assert!((found - expected).abs() <= 2e-7 * expected.abs(), "{x}: {found} {expected}");
        }
        assert_eq!((tanh(1e4), tanh(-1e4), tanh(1e-20)), (1.0, -1.0, 1e-20));
        assert!(sigmoid(-1e4) < 1e-37 && sigmoid(1e4) == 1.0 && tanh(f32::NAN).is_nan());
    }

    /// Φ in f64, by Simpson's rule from 0, or by the continued fraction of Mills' ratio in the tails.
    fn exact_normal(x: f64) -> f64 {
        let density = |t: f64| (-0.5 * t * t).exp() / (2.0 * std::f64::consts::PI).sqrt();
        if x.abs() < 3.0 {
            let n = 400;
            let h = x / f64::from(n);
            let inner: f64 = (1..n).map(|i| density(h * f64::from(i)) * f64::from(2 + 2 * (i % 2))).sum();
            return 0.5 + h / 3.0 * (density(0.0) + density(x) + inner);
        }
        let a = x.abs();
        let mills = (1..400).rev().fold(a, |f, k| a + f64::from(k) / f);
        if x < 0.0 { density(a) / mills } else { 1.0 - density(a) / mills }
    }

    #[test]
    fn the_normal_distribution_is_close() {
        for i in -13_000..13_000 {
            let x = i as f32 * 1e-3;
            let ((found, density), exact) = (normal(x), exact_normal(f64::from(x)));
            let error = (f64::from(found) - exact).abs();
            let bound = if x > -3.0 { 6e-7 } else { 1e-5 };
            assert!(error < 1.2e-7 && error < bound * exact, "{x}: {found} {exact}");
            let exact = (-0.5 * f64::from(x).powi(2)).exp() / (2.0 * std::f64::consts::PI).sqrt();
            assert!((f64::from(density) - exact).abs() < 1e-5 * exact, "{x}");
        }
        assert_eq!((normal(1e4).0, normal(0.0).0), (1.0, 0.5));
        assert!(normal(-1e4).0 < 1e-37 && normal(f32::NAN).0.is_nan());
    }

    #[test]
    fn moments_of_any_length() {
        for len in [1, 31, 32, 33, 100] {
            let x: Vec<f32> = (0..len).map(|i| (i as f32 * 0.7).sin()).collect();
            let (sum, first) = exp_moments(&x, 0.5);
            let terms = x.iter().map(|v| (f64::from(*v) - 0.5, (f64::from(*v) - 0.5).exp()));
            let exact = terms.fold((0.0, 0.0), |(s, f), (d, e)| (s + e, f + e * d));
            assert!((f64::from(sum) - exact.0).abs() < 1e-4 && (f64::from(first) - exact.1).abs() < 1e-4);
        }
    }
}
