//! Loops over plain slices: no names, no I/O, no allocation. Compiled for several instruction sets; none uses fused
//! multiply-add, so the bits are the same on every machine.

use multiversion::multiversion;

pub mod check;
pub mod conflict;
pub mod della;
pub mod difference;
pub mod mix;
pub mod rank;
pub mod reduce;
pub mod softmax;
pub mod spread;
pub mod weighed;

/// `x -= y`, element by element.
#[multiversion(targets("x86_64+avx512f", "x86_64+avx2", "aarch64+neon"))]
pub fn subtract(x: &mut [f32], y: &[f32]) {
    for (x, y) in x.iter_mut().zip(y) {
        *x -= *y;
    }
}

/// `x += y`, element by element.
#[multiversion(targets("x86_64+avx512f", "x86_64+avx2", "aarch64+neon"))]
pub fn add(x: &mut [f32], y: &[f32]) {
    for (x, y) in x.iter_mut().zip(y) {
        *x += *y;
    }
}

/// `x += origin`, element by element; where `x` is zero the origin stays as it is, with the sign of its zeros.
#[multiversion(targets("x86_64+avx512f", "x86_64+avx2", "aarch64+neon"))]
pub fn add_to_origin(x: &mut [f32], origin: &[f32]) {
    for (x, origin) in x.iter_mut().zip(origin) {
        *x = if *x == 0.0 { *origin } else { *x + *origin };
    }
}

/// `out += c · x`, element by element.
#[multiversion(targets("x86_64+avx512f", "x86_64+avx2", "aarch64+neon"))]
pub fn add_scaled(out: &mut [f32], c: f32, x: &[f32]) {
    for (o, x) in out.iter_mut().zip(x) {
        *o += c * *x;
    }
}

/// `out = c · x`, element by element.
#[multiversion(targets("x86_64+avx512f", "x86_64+avx2", "aarch64+neon"))]
pub fn scaled(out: &mut [f32], c: f32, x: &[f32]) {
    for (o, x) in out.iter_mut().zip(x) {
        *o = c * *x;
    }
}

/// `x *= c`, element by element.
#[multiversion(targets("x86_64+avx512f", "x86_64+avx2", "aarch64+neon"))]
pub fn scale(x: &mut [f32], c: f32) {
    for x in x.iter_mut() {
        *x *= c;
    }
}
