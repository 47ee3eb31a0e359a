//! Looking for values that must not be there.

use multiversion::multiversion;

/// Position of the first NaN or infinity.
pub fn first_non_finite(values: &[f32]) -> Option<usize> {
    if largest_magnitude_bits(values) < f32::INFINITY.to_bits() {
        return None;
    }
    values.iter().position(|v| !v.is_finite())
}

/// Position of the first value whose magnitude exceeds `limit`, or that is NaN.
pub fn first_above(values: &[f32], limit: f32) -> Option<usize> {
    if largest_magnitude_bits(values) <= limit.to_bits() {
        return None;
    }
    values.iter().position(|v| v.abs() > limit || v.is_nan())
}

/// Bits of the largest magnitude: ordered like the magnitudes, with NaN above infinity.
#[multiversion(targets("x86_64+avx512f", "x86_64+avx2", "aarch64+neon"))]
fn largest_magnitude_bits(values: &[f32]) -> u32 {
    values.iter().fold(0, |largest, v| largest.max(v.to_bits() & 0x7fff_ffff))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_first_offender() {
        assert_eq!(first_non_finite(&[1.0, -3.0, f32::MAX]), None);
        assert_eq!(first_non_finite(&[1.0, f32::NEG_INFINITY, f32::NAN]), Some(1));
        assert_eq!(first_above(&[1.0, -448.0], 448.0), None);
        assert_eq!(first_above(&[1.0, -449.0], 448.0), Some(1));
        assert_eq!(first_above(&[f32::NAN], 448.0), Some(0));
        assert_eq!(first_non_finite(&[]), None);
    }
}
