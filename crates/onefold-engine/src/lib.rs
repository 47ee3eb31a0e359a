//! Numerical operators of neural networks, each with an explicit forward and backward pass.
//!
//! There is no tensor graph: an operator is a pair of plain functions over [`Buffer`]s, and whoever composes them keeps
//! what the backward pass needs. The engine knows no model, no file and no task. Shapes are arguments; a shape that does
//! not fit its buffers is a bug of the caller and panics at the operator's door, never inside a kernel.
//!
//! Conventions, the same everywhere:
//! - Matrices are row-major. Activations are `[rows, width]`, a row being one token (or patch) of one sequence; weights of
//!   linear maps are `[outputs, inputs]`, as Hugging Face stores them.
//! - Computation is f32, long reductions are f64 or blocked in a fixed order: results are the same bits on any number of
//!   threads. Work runs on the current rayon pool.
//! - Backward functions *write* gradients unless they are told to [`Write::Add`]; nothing is zeroed first.
//! - Only [`cpu`] touches the numbers behind a [`Buffer`]: another backend implements the same functions.

mod buffer;
pub mod cpu;

pub use buffer::{Buffer, Half, HalfBits, HalfDtype, Weight};

/// What happens to the previous contents of a destination.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Write {
    /// They are overwritten.
    Set,
    /// The result is added to them.
    Add,
}
