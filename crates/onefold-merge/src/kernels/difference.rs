//! Loops over a vector that is the difference of two slices, `x − y`, without writing it.

use multiversion::multiversion;

use super::reduce::{self, WIDE};
use super::subtract;

/// `out = c · (x − y)`, element by element.
#[multiversion(targets("x86_64+avx512f", "x86_64+avx2", "aarch64+neon"))]
pub fn scaled(out: &mut [f32], c: f32, x: &[f32], y: &[f32]) {
    for ((o, x), y) in out.iter_mut().zip(x).zip(y) {
        *o = c * (*x - *y);
    }
}

/// `out += c · (x − y)`, element by element.
#[multiversion(targets("x86_64+avx512f", "x86_64+avx2", "aarch64+neon"))]
pub fn add_scaled(out: &mut [f32], c: f32, x: &[f32], y: &[f32]) {
    for ((o, x), y) in out.iter_mut().zip(x).zip(y) {
        *o += c * (*x - *y);
    }
}

/// `Σ gᵢ (xᵢ − yᵢ)` as [`reduce::rough_dot`] adds.
pub(crate) fn rough_dot(g: &[f32], x: &mut [f32], y: &[f32]) -> f64 {
    let sum = rough_sum(g, x, y);
    if sum.is_finite() && sum.abs() > reduce::LEAST {
        return sum;
    }
    subtract(x, y);
    reduce::dot(g, x)
}

#[multiversion(targets("x86_64+avx512f", "x86_64+avx2", "aarch64+neon"))]
fn rough_sum(g: &[f32], x: &[f32], y: &[f32]) -> f64 {
    let mut total = [0.0f64; WIDE];
    for ((g, x), y) in g.chunks(16 * WIDE).zip(x.chunks(16 * WIDE)).zip(y.chunks(16 * WIDE)) {
        let mut lanes = [0.0f32; WIDE];
        let (g, x, y) = (g.as_chunks::<WIDE>(), x.as_chunks::<WIDE>(), y.as_chunks::<WIDE>());
        for ((g, x), y) in g.0.iter().zip(x.0).zip(y.0) {
            for lane in 0..WIDE {
                lanes[lane] += g[lane] * (x[lane] - y[lane]);
            }
        }
        for (lane, ((g, x), y)) in g.1.iter().zip(x.1).zip(y.1).enumerate() {
            lanes[lane] += g * (x - y);
        }
        for lane in 0..WIDE {
            total[lane] += f64::from(lanes[lane]);
        }
    }
    reduce::fold(total)
}
