//! The operators on the processor, one file per group.
//!
//! Matrix products go to the `gemm` crate; everything that is bound by memory is fused and split by rows over the current rayon
//! pool. Kernels are compiled for several instruction sets and chosen at run time.

pub mod activation;
pub mod attention;
pub mod dora;
pub mod dropout;
pub mod elementwise;
pub mod embedding;
mod gemm;
#[cfg(test)]
mod goldens;
pub mod linear;
pub mod lora;
pub mod loss;
mod math;
pub mod norm;
pub mod optimizer;
mod parallel;
pub mod patches;
pub mod pool;
#[cfg(test)]
mod probe;
pub mod rope;
mod scratch;
mod tiles;
mod widen;
