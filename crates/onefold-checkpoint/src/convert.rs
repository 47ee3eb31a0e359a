//! Widening stored values to `f32` and rounding them back.
//!
//! Rounding is to nearest, ties to even. A finite value beyond the target's range becomes an infinity (F16, BF16,
//! F8_E5M2) or a NaN (F8_E4M3, which has no infinity); callers that must not produce one look at
//! [`largest_finite`] first. The loops are written so that the compiler vectorises them; they are compiled for
//! several instruction sets and chosen at run time.

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};
use multiversion::multiversion;

use crate::Dtype;

/// Widens `bytes`, stored as `dtype`, to `out`. F64 values are rounded to f32.
///
/// # Panics
/// If `dtype` is not floating point or the lengths do not fit: both are bugs of the caller.
pub fn widen(dtype: Dtype, bytes: &[u8], out: &mut [f32]) {
    assert_eq!(bytes.len(), out.len() * dtype.size(), "one stored element for each output element");
    match dtype {
        Dtype::F32 => widen_f32(bytes, out),
        Dtype::BF16 => widen_bf16(bytes, out),
        Dtype::F16 => widen_f16(bytes, out),
        Dtype::F64 => {
            for (o, b) in out.iter_mut().zip(bytes.as_chunks::<8>().0) {
                *o = f64::from_le_bytes(*b) as f32;
            }
        }
        Dtype::F8E4M3 => widen_f8(bytes, out, &E4M3),
        Dtype::F8E5M2 => widen_f8(bytes, out, &E5M2),
        other => unreachable!("{other} is copied, never converted"),
    }
}

/// Rounds `values` to `dtype` into `bytes`.
///
/// # Panics
/// As [`widen`].
pub fn narrow(dtype: Dtype, values: &[f32], bytes: &mut [u8]) {
    assert_eq!(bytes.len(), values.len() * dtype.size(), "one stored element for each input element");
    match dtype {
        Dtype::F32 => narrow_f32(values, bytes),
        Dtype::BF16 => narrow_bf16(values, bytes),
        Dtype::F16 => narrow_f16(values, bytes),
        Dtype::F64 => {
            for (b, v) in bytes.as_chunks_mut::<8>().0.iter_mut().zip(values) {
                *b = f64::from(*v).to_le_bytes();
            }
        }
        Dtype::F8E4M3 => narrow_f8(values, bytes, &E4M3),
        Dtype::F8E5M2 => narrow_f8(values, bytes, &E5M2),
        other => unreachable!("{other} is copied, never converted"),
    }
}

/// The largest finite value of a floating-point `dtype`, as f32 (for F64: of f32, in which we compute).
pub fn largest_finite(dtype: Dtype) -> f32 {
    match dtype {
        Dtype::F16 => 65504.0,
        Dtype::BF16 => f32::from(bf16::MAX),
        Dtype::F8E4M3 => 448.0,
        Dtype::F8E5M2 => 57344.0,
        _ => f32::MAX,
    }
}

#[multiversion(targets("x86_64+avx512f+avx512bw+avx512vl", "x86_64+avx2", "aarch64+neon"))]
fn widen_f32(bytes: &[u8], out: &mut [f32]) {
    for (o, b) in out.iter_mut().zip(bytes.as_chunks::<4>().0) {
        *o = f32::from_le_bytes(*b);
    }
}

#[multiversion(targets("x86_64+avx512f+avx512bw+avx512vl", "x86_64+avx2", "aarch64+neon"))]
fn widen_bf16(bytes: &[u8], out: &mut [f32]) {
    for (o, b) in out.iter_mut().zip(bytes.as_chunks::<2>().0) {
        *o = f32::from_bits(u32::from(u16::from_le_bytes(*b)) << 16);
    }
}

fn widen_f16(bytes: &[u8], out: &mut [f32]) {
    let mut block = [f16::ZERO; 256];
    for (o, b) in out.chunks_mut(256).zip(bytes.chunks(512)) {
        let block = &mut block[..o.len()];
        for (h, b) in block.iter_mut().zip(b.as_chunks::<2>().0) {
            *h = f16::from_le_bytes(*b);
        }
        block.convert_to_f32_slice(o);
    }
}

#[multiversion(targets("x86_64+avx512f+avx512bw+avx512vl", "x86_64+avx2", "aarch64+neon"))]
fn narrow_f32(values: &[f32], bytes: &mut [u8]) {
    for (b, v) in bytes.as_chunks_mut::<4>().0.iter_mut().zip(values) {
        *b = v.to_le_bytes();
    }
}

#[multiversion(targets("x86_64+avx512f+avx512bw+avx512vl", "x86_64+avx2", "aarch64+neon"))]
fn narrow_bf16(values: &[f32], bytes: &mut [u8]) {
    for (b, v) in bytes.as_chunks_mut::<2>().0.iter_mut().zip(values) {
        let bits = v.to_bits();
        let rounded = bits.wrapping_add(0x7fff + ((bits >> 16) & 1)) >> 16;
        let quiet_nan = (bits >> 16) | 0x40;
        let half = if bits & 0x7fff_ffff > 0x7f80_0000 { quiet_nan } else { rounded };
        *b = (half as u16).to_le_bytes();
    }
}

fn narrow_f16(values: &[f32], bytes: &mut [u8]) {
    let mut block = [f16::ZERO; 256];
    for (v, b) in values.chunks(256).zip(bytes.chunks_mut(512)) {
        let block = &mut block[..v.len()];
        block.convert_from_f32_slice(v);
        for (h, b) in block.iter().zip(b.as_chunks_mut::<2>().0) {
            *b = h.to_le_bytes();
        }
    }
}

/// An eight-bit floating-point format.
struct Format8 {
    mantissa: u32,
    bias: i32,
    /// Code of the largest finite magnitude; codes above it are infinities or NaNs.
    largest: u8,
    /// What a magnitude that rounds beyond `largest` becomes.
    overflow: u8,
    table: [f32; 256],
}

static E4M3: Format8 = Format8::new(3, 7, 0x7e, 0x7f);
static E5M2: Format8 = Format8::new(2, 15, 0x7b, 0x7c);

impl Format8 {
    const fn new(mantissa: u32, bias: i32, largest: u8, overflow: u8) -> Self {
        let mut table = [0.0; 256];
        let mut code = 0;
        while code < 256 {
            table[code] = decode8(code as u8, mantissa, bias, largest);
            code += 1;
        }
        Self { mantissa, bias, largest, overflow, table }
    }

    fn encode(&self, value: f32) -> u8 {
        let sign = ((value.to_bits() >> 24) & 0x80) as u8;
        if value.is_nan() {
            return sign | 0x7f;
        }
        // Exact: the magnitude in units of the last place of its binade is rounded by `round_ties_even`.
        let magnitude = f64::from(value.abs());
        let lowest = 1 - self.bias;
        let exponent = if magnitude == 0.0 { lowest } else { exponent(magnitude).max(lowest) };
        let units = (magnitude * 2f64.powi(self.mantissa as i32 - exponent)).round_ties_even();
        // Units of a normal number are 2^mantissa..2^(mantissa+1); a carry walks into the next binade by itself.
        let code = ((exponent - lowest) as f64) * f64::from(1u32 << self.mantissa) + units;
        let code = if code > f64::from(self.largest) { self.overflow } else { code as u8 };
        sign | code
    }
}

/// Exponent of the binade of a positive finite or infinite `value`.
fn exponent(value: f64) -> i32 {
    if value.is_infinite() { 1024 } else { ((value.to_bits() >> 52) & 0x7ff) as i32 - 1023 }
}

const fn decode8(code: u8, mantissa: u32, bias: i32, largest: u8) -> f32 {
    let magnitude = code & 0x7f;
    let sign = if code & 0x80 != 0 { -1.0 } else { 1.0 };
    if magnitude > largest {
        return if magnitude == 0x7c && largest == 0x7b { sign * f32::INFINITY } else { f32::NAN };
    }
    let field = (magnitude >> mantissa) as i32;
    let fraction = (magnitude & ((1 << mantissa) - 1)) as f32;
    let scale = (1u32 << mantissa) as f32;
    let (significand, exponent) =
        if field == 0 { (fraction / scale, 1 - bias) } else { (1.0 + fraction / scale, field - bias) };
    sign * significand * f32::from_bits(((exponent + 127) as u32) << 23)
}

fn widen_f8(bytes: &[u8], out: &mut [f32], format: &Format8) {
    for (o, b) in out.iter_mut().zip(bytes) {
        *o = format.table[usize::from(*b)];
    }
}

fn narrow_f8(values: &[f32], bytes: &mut [u8], format: &Format8) {
    for (b, v) in bytes.iter_mut().zip(values) {
        *b = format.encode(*v);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const FLOATS: [Dtype; 6] =
        [Dtype::F64, Dtype::F32, Dtype::F16, Dtype::BF16, Dtype::F8E4M3, Dtype::F8E5M2];

    fn one(dtype: Dtype, value: f32) -> f32 {
        let mut bytes = vec![0; dtype.size()];
        narrow(dtype, &[value], &mut bytes);
        let mut out = [0.0];
        widen(dtype, &bytes, &mut out);
        out[0]
    }

    #[test]
    fn eight_bit_formats_decode_their_landmarks() {
        let mut out = [0.0; 6];
        widen(Dtype::F8E4M3, &[0x00, 0x01, 0x08, 0x38, 0x7e, 0xfe], &mut out);
        assert_eq!(out, [0.0, 2f32.powi(-9), 2f32.powi(-6), 1.0, 448.0, -448.0]);
        widen(Dtype::F8E5M2, &[0x01, 0x04, 0x3c, 0x7b, 0x7c, 0xfc], &mut out);
        assert_eq!(out, [2f32.powi(-16), 2f32.powi(-14), 1.0, 57344.0, f32::INFINITY, f32::NEG_INFINITY]);
        assert!(E4M3.table[0x7f].is_nan() && E5M2.table[0x7d].is_nan());
    }

    #[test]
    fn every_stored_code_survives_a_round_trip() {
        for dtype in [Dtype::F8E4M3, Dtype::F8E5M2] {
            for code in 0..=255u8 {
                let mut value = [0.0];
                widen(dtype, &[code], &mut value);
                let mut back = [0];
                narrow(dtype, &value, &mut back);
                assert!(value[0].is_nan() || back[0] == code, "{dtype} {code:#x}");
            }
        }
        for code in 0..=u16::MAX {
            for dtype in [Dtype::F16, Dtype::BF16] {
                let mut value = [0.0];
                widen(dtype, &code.to_le_bytes(), &mut value);
                let mut back = [0; 2];
                narrow(dtype, &value, &mut back);
                assert!(value[0].is_nan() || u16::from_le_bytes(back) == code, "{dtype} {code:#x}");
            }
        }
    }

    #[test]
    fn ties_go_to_even_and_overflow_is_visible() {
        assert_eq!(one(Dtype::BF16, 1.0 + 2f32.powi(-8)), 1.0);
        assert_eq!(one(Dtype::BF16, 1.0 + 3.0 * 2f32.powi(-8)), 1.0 + 2f32.powi(-6));
        assert_eq!(one(Dtype::F8E4M3, 17.0), 16.0);
        assert_eq!(one(Dtype::F8E4M3, 19.0), 20.0);
        assert_eq!(one(Dtype::F8E4M3, 464.0), 448.0);
        assert!(one(Dtype::F8E4M3, 465.0).is_nan());
        assert_eq!(one(Dtype::F8E5M2, 1e6), f32::INFINITY);
        assert_eq!(one(Dtype::F16, 1e6), f32::INFINITY);
        for dtype in FLOATS {
            assert!(one(dtype, f32::NAN).is_nan(), "{dtype}");
            assert_eq!(one(dtype, -0.0).to_bits(), (-0f32).to_bits(), "{dtype}");
            assert!(one(dtype, largest_finite(dtype)).is_finite(), "{dtype}");
        }
    }

    proptest! {
        #[test]
        fn rounding_is_to_the_nearest_stored_value(value in -70000f32..70000.0, small in -1e-3f32..1e-3) {
            for v in [value, small] {
                for dtype in [Dtype::F8E4M3, Dtype::F8E5M2] {
                    let table = if dtype == Dtype::F8E4M3 { &E4M3.table } else { &E5M2.table };
                    let rounded = one(dtype, v);
                    if rounded.is_finite() {
                        let nearest = table.iter().filter(|t| t.is_finite())
                            .map(|t| (f64::from(*t) - f64::from(v)).abs()).fold(f64::MAX, f64::min);
                        prop_assert_eq!((f64::from(rounded) - f64::from(v)).abs(), nearest);
                    }
                }
                prop_assert_eq!(one(Dtype::BF16, v), f32::from(bf16::from_f32(v)));
                prop_assert_eq!(one(Dtype::F16, v), f32::from(f16::from_f32(v)));
            }
        }

        #[test]
        fn slices_equal_single_values(values in prop::collection::vec(any::<f32>(), 0..700)) {
            for dtype in FLOATS {
                let mut bytes = vec![0; values.len() * dtype.size()];
                narrow(dtype, &values, &mut bytes);
                let mut out = vec![0.0; values.len()];
                widen(dtype, &bytes, &mut out);
                for (o, v) in out.iter().zip(&values) {
                    let single = one(dtype, *v);
                    prop_assert!(o.to_bits() == single.to_bits() || (o.is_nan() && single.is_nan()));
                }
            }
        }
    }
}
