//! Tuning and merging in turns: what a part of an alternation begins with, and what it leaves.
//!
//! ```text
//! model of the round before ─ prepare ─▶ Prepared ─ tune::run ─▶ numbers ─ save ─▶ vector.safetensors ─┐
//!                                                                                     (of each task)   ├─▶ merge
//!                                                                                    Vector::open ◀────┘
//! ```
//!
//! A round tunes each task from the same model, by [`crate::tune::run`], and its task vectors are merged as any others. So all
//! that is here is a head that stays with its task ([`HeadFrom`]), the file in which a vector travels ([`Vector`]), and how far a
//! training has come ([`travelled`]).

mod prepare;
mod vector;
mod way;

pub use prepare::{HeadFrom, PartSettings, merged, prepare, save_head};
pub use vector::{Stamp, Vector, VectorError, Written, save};
pub use way::travelled;
