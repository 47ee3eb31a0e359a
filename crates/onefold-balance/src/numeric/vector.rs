//! Vectors with one entry per task.

/// `exp(zᵢ) / Σ exp(zⱼ)`, without overflow; infinite logits are taken at their word. An empty list stays empty.
pub fn softmax(logits: &[f64]) -> Vec<f64> {
    let max = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    if max.is_infinite() {
        return normalised(&logits.iter().map(|z| f64::from(u8::from(*z == max))).collect::<Vec<_>>());
    }
    normalised(&logits.iter().map(|z| (z - max).exp()).collect::<Vec<_>>())
}

/// Nonnegative `values` divided by their sum; uniform if all are zero.
pub fn normalised(values: &[f64]) -> Vec<f64> {
    // By the largest first: the sum of large values may overflow.
    let max = values.iter().copied().fold(0.0, f64::max);
    if max == 0.0 {
        return uniform(values.len());
    }
    let sum: f64 = values.iter().map(|v| v / max).sum();
    values.iter().map(|v| v / max / sum).collect()
}

/// `1/K`, K times.
pub fn uniform(count: usize) -> Vec<f64> {
    vec![1.0 / count.max(1) as f64; count]
}

/// `Σ aᵢ bᵢ`.
pub fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// The mean; 0 of nothing.
pub fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len().max(1) as f64
}

/// `c · values`.
pub fn scaled(values: &[f64], c: f64) -> Vec<f64> {
    values.iter().map(|v| v * c).collect()
}

/// `a / b`, or 0 where `b` is 0: of slopes that are all zero none is larger than another.
pub fn ratio_or_zero(a: f64, b: f64) -> f64 {
    if b == 0.0 { 0.0 } else { a / b }
}

/// The point of the simplex {w ≥ 0, Σw = 1} nearest to `point` (Duchi et al., ICML 2008, figure 1).
pub fn onto_simplex(point: &[f64]) -> Vec<f64> {
    let mut sorted = point.to_vec();
    sorted.sort_unstable_by(|a, b| b.total_cmp(a));
    let (mut sum, mut shift) = (0.0, 0.0);
    for (i, value) in sorted.iter().enumerate() {
        sum += value;
        let candidate = (sum - 1.0) / (i + 1) as f64;
        if value - candidate > 0.0 {
            shift = candidate;
        }
    }
    point.iter().map(|v| (v - shift).max(0.0)).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn extremes_do_not_overflow() {
        assert_eq!(softmax(&[1e308, -1e308]), [1.0, 0.0]);
        assert_eq!(softmax(&[f64::INFINITY, 0.0]), [1.0, 0.0]);
        assert_eq!(softmax(&[f64::NEG_INFINITY; 2]), [0.5, 0.5]);
        assert_eq!(normalised(&[1e308, 1e308]), [0.5, 0.5]);
        assert_eq!(normalised(&[0.0, 0.0]), [0.5, 0.5]);
        assert!(softmax(&[]).is_empty() && uniform(0).is_empty());
    }

    proptest! {
        /// A projection is in the simplex, and no vertex is on its far side: ⟨p − w, e − w⟩ ≤ 0.
        #[test]
        fn projections_are_nearest(point in prop::collection::vec(-3.0f64..3.0, 1..8)) {
            let w = onto_simplex(&point);
            prop_assert!((w.iter().sum::<f64>() - 1.0).abs() < 1e-12 && w.iter().all(|w| *w >= 0.0));
            for vertex in 0..w.len() {
                let side: f64 = (0..w.len())
                    .map(|i| (point[i] - w[i]) * (f64::from(u8::from(i == vertex)) - w[i]))
                    .sum();
                prop_assert!(side < 1e-12);
            }
        }
    }
}
