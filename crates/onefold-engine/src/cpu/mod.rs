//! The operators on the processor, one file per group.
//!
//! Matrix products go to [`gemm`]; everything that is bound by memory is fused and split by rows over the current rayon
//! pool. Kernels are compiled for several instruction sets and chosen at run time.

pub mod activation;
pub mod dropout;
pub mod elementwise;
mod gemm;
#[cfg(test)]
mod goldens;
pub mod loss;
mod math;
mod parallel;
pub mod patches;
pub mod pool;
#[cfg(test)]
mod testing;
