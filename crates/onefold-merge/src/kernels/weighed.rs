//! Means in which each element of each row has a weight of its own.

use multiversion::multiversion;
use onefold_runtime::Aligned;

/// Elements whose sums stay in registers while the rows go by.
const AT_ONCE: usize = 32;

/// `out = Σ cₖ (fₖ + floor) xₖ / Σ cₖ (fₖ + floor)`, element by element, in f64 and rounded once. Where the divisor is 0
/// (no floor and no weight) it is `Σ cₖ xₖ / Σ cₖ`. Weights and coefficients are not negative; rows and weights are as long
/// as `out`.
#[multiversion(targets("x86_64+avx512f", "x86_64+avx2", "aarch64+neon"))]
pub fn mean(rows: &[Aligned], weights: &[Aligned], coefficients: &[f64], floor: f64, out: &mut [f32]) {
    for (i, out) in out.chunks_mut(AT_ONCE).enumerate() {
        let here = i * AT_ONCE..i * AT_ONCE + out.len();
        let (mut sum, mut divisor) = ([0.0f64; AT_ONCE], [0.0f64; AT_ONCE]);
        let (mut plain, mut of_plain) = ([0.0f64; AT_ONCE], 0.0);
        for ((x, f), c) in rows.iter().zip(weights).zip(coefficients) {
            let pairs = x[here.clone()].iter().zip(&f[here.clone()]);
            for (lane, (x, f)) in pairs.enumerate() {
                let weight = c * (f64::from(*f) + floor);
                sum[lane] += weight * f64::from(*x);
                divisor[lane] += weight;
                plain[lane] += c * f64::from(*x);
            }
            of_plain += c;
        }
        for (lane, out) in out.iter_mut().enumerate() {
            let weighed = sum[lane] / divisor[lane];
            *out = (if divisor[lane] > 0.0 { weighed } else { plain[lane] / of_plain }) as f32;
        }
    }
}

/// `Σ (f + floor)²` in f64.
pub fn squared_norm(weights: &[f32], floor: f64) -> f64 {
    weights.iter().map(|f| (f64::from(*f) + floor).powi(2)).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn means_do_not_depend_on_the_place_and_fall_back_without_weight() {
        let rows = [1u32, 2, 3].map(|k| {
            let row: Vec<f32> = (0..100).map(|i| ((i * 7 + k * 31) % 17) as f32 - 8.0).collect();
            Aligned::from(&row[..])
        });
        let weights = [1u32, 2, 3].map(|k| {
            let row: Vec<f32> = (0..100).map(|i| ((i * k) % 4) as f32).collect();
            Aligned::from(&row[..])
        });
        let coefficients = [1.0, 0.5, 2.0];
        let mut out = vec![9.0; 100];
        mean(&rows, &weights, &coefficients, 0.0, &mut out);
        for (i, found) in out.iter().enumerate() {
            let mut terms =
                [0, 1, 2].map(|k| (coefficients[k] * f64::from(weights[k][i]), f64::from(rows[k][i])));
            if terms.iter().all(|(w, _)| *w == 0.0) {
                terms.iter_mut().zip(coefficients).for_each(|(term, c)| term.0 = c);
            }
            let divisor: f64 = terms.iter().map(|(w, _)| w).sum();
            let expected = terms.iter().map(|(w, x)| w * x).sum::<f64>() / divisor;
            assert!((f64::from(*found) - expected).abs() < 1e-6, "{i}: {found}, expected {expected}");
        }
    }
}
