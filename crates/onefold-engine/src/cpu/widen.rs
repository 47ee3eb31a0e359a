//! Reading weights as stored: 16-bit numbers become f32 in small pieces that stay in the nearest cache.
//!
//! Both conversions are exact and free of branches, so that they vectorise within whatever kernel they are inlined in.

use multiversion::multiversion;

use super::parallel;
use crate::{HalfDtype, Weight};

/// The numbers of a weight.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Source<'a> {
    /// f32.
    Full(&'a [f32]),
    /// 16 bits each.
    Half(HalfDtype, &'a [u16]),
}

impl<'a> From<Weight<'a>> for Source<'a> {
    fn from(weight: Weight<'a>) -> Self {
        match weight {
            Weight::Full(buffer) => Self::Full(buffer.host()),
            Weight::Half(half) => Self::Half(half.dtype, half.source.bits()),
        }
    }
}

impl Source<'_> {
    /// `len` numbers from `start` on: in place if they are f32, else widened into the beginning of `scratch`.
    #[inline(always)]
    pub(crate) fn piece<'s>(&'s self, start: usize, len: usize, scratch: &'s mut [f32]) -> &'s [f32] {
        match *self {
            Self::Full(values) => &values[start..start + len],
            Self::Half(dtype, bits) => {
                let out = &mut scratch[..len];
                widen_inline(dtype, &bits[start..start + len], out);
                out
            }
        }
    }

    /// Copies `len` numbers from `start` on, for all starts of `rows` rows that are `stride` apart, to the rows of `out`.
    pub(crate) fn copy_rows(&self, start: usize, stride: usize, len: usize, out: &mut [f32]) {
        for (row, out) in out.chunks_exact_mut(len).enumerate() {
            let start = start + row * stride;
            match *self {
                Self::Full(values) => out.copy_from_slice(&values[start..start + len]),
                Self::Half(dtype, bits) => widen(dtype, &bits[start..start + len], out),
            }
        }
    }
}

/// Fills `out` with the numbers from `start` on, over the pool.
pub(crate) fn copy(source: Source<'_>, start: usize, out: &mut [f32]) {
    parallel::for_rows(out, 1, |first, out| source.copy_rows(start + first, 0, out.len(), out));
}

#[multiversion(targets("x86_64+avx512f+avx512bw+avx512vl+fma", "x86_64+avx2+fma", "aarch64+neon"))]
fn widen(dtype: HalfDtype, bits: &[u16], out: &mut [f32]) {
    widen_inline(dtype, bits, out);
}

#[inline(always)]
fn widen_inline(dtype: HalfDtype, bits: &[u16], out: &mut [f32]) {
    match dtype {
        HalfDtype::Bf16 => {
            out.iter_mut().zip(bits).for_each(|(o, b)| *o = f32::from_bits(u32::from(*b) << 16));
        }
        HalfDtype::F16 => out.iter_mut().zip(bits).for_each(|(o, b)| *o = f16_to_f32(*b)),
    }
}

/// The fields moved to their places, and the exponent's bias of 15 changed to 127 by a product with 2¹¹², which also
/// normalises what was subnormal; infinities and NaN get the largest exponent back.
#[inline(always)]
fn f16_to_f32(bits: u16) -> f32 {
    let magnitude = u32::from(bits & 0x7fff) << 13;
    let scaled = (f32::from_bits(magnitude) * f32::from_bits(0x7780_0000)).to_bits();
    let special = if magnitude >= 0x0f80_0000 { 0x7f80_0000 } else { 0 };
    f32::from_bits(scaled | special | u32::from(bits & 0x8000) << 16)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All numbers of 16 bits, against the `half` crate.
    #[test]
    fn every_number_is_widened_exactly() {
        let bits: Vec<u16> = (0..=u16::MAX).collect();
        let mut out = vec![0.0; bits.len()];
        for dtype in [HalfDtype::Bf16, HalfDtype::F16] {
            widen(dtype, &bits, &mut out);
            for (b, found) in bits.iter().zip(&out) {
                let expected = match dtype {
                    HalfDtype::Bf16 => half::bf16::from_bits(*b).to_f32(),
                    HalfDtype::F16 => half::f16::from_bits(*b).to_f32(),
                };
                let equal = found.to_bits() == expected.to_bits() || found.is_nan() && expected.is_nan();
                assert!(equal, "{dtype:?} {b:#x}: {found} {expected}");
            }
        }
    }

    #[test]
    fn rows_are_copied_from_their_places() {
        let values: Vec<f32> = (0..20).map(|i| i as f32).collect();
        let bits: Vec<u16> = values.iter().map(|v| half::bf16::from_f32(*v).to_bits()).collect();
        for source in [Source::Full(&values), Source::Half(HalfDtype::Bf16, &bits)] {
            let mut out = vec![0.0; 6];
            source.copy_rows(1, 5, 2, &mut out);
            assert_eq!(out, [1.0, 2.0, 6.0, 7.0, 11.0, 12.0]);
            let mut scratch = [0.0; 4];
            assert_eq!(source.piece(7, 3, &mut scratch), [7.0, 8.0, 9.0]);
        }
    }
}
