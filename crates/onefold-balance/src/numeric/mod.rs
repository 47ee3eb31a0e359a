//! Small dense arithmetic in f64, for as many rows as there are tasks. Nothing here allocates more than a few K × K
//! matrices or knows what a task is.

pub mod adam;
pub mod eigen;
pub mod matrix;
pub mod min_norm;
pub mod newton;
pub mod nonnegative;
pub mod slope;
pub mod solve;
pub mod vector;

pub use matrix::Matrix;

/// What is added to a denominator of about this `size`: the 1e-8 of the reference implementations, but never more than a
/// millionth of what it guards, so that small gradients are not taken for none.
pub fn guard(size: f64) -> f64 {
    (1e-6 * size).clamp(f64::MIN_POSITIVE, 1e-8)
}
