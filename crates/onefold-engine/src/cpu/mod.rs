//! The operators on the processor, one file per group.
//!
//! Matrix products go to [`gemm`]; everything that is bound by memory is fused and split by rows over the current rayon
//! pool. Kernels are compiled for several instruction sets and chosen at run time.

mod gemm;
mod math;
mod parallel;
mod widen;

pub mod dora;
pub mod embedding;
pub mod linear;
pub mod lora;
pub mod optimizer;
