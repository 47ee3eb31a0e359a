//! The operators on the processor, one file per group.
//!
//! Matrix products go to [`gemm`]; everything that is bound by memory is fused and split by rows over the current rayon
//! pool. Kernels are compiled for several instruction sets and chosen at run time.

pub mod attention;
mod gemm;
mod math;
pub mod norm;
mod parallel;
#[cfg(test)]
mod probe;
pub mod rope;
mod scratch;
mod tiles;
