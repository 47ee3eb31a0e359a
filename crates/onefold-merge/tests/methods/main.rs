//! Tests of the merge methods through the public way of a merge: a plan, `stream::run`, a sink.
//!
//! * `goldens`: published numbers, made by scripts that know nothing of this crate;
//! * `atm`: tuning and merging in turns on tasks whose gradients are known;
//! * `contract`: what every entry of `METHODS` must keep, filled in from the table, so that a new method is held to it
//!   without an edit here;
//! * `twins`: each formula once more, naive and in f64;
//! * `measured`: the methods that take statistics beside the weights;
//! * `random_masks`: what can only be known in the mean;
//! * `ranks`: ties of magnitudes at cuts, across blocks and tensors;
//! * `anything`: random shapes, numbers and parameters end in a finite result or a clear error.

#![allow(
    clippy::unwrap_used,
    reason = "the lint's exception for tests does not reach their helper functions"
)]

mod anything;
mod atm;
mod contract;
mod goldens;
mod harness;
mod measured;
mod random_masks;
mod ranks;
mod settings;
mod twins;
