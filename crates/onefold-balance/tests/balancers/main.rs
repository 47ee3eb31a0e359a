//! Tests of the balancers through the way a trainer takes: needs, weights, step, outcome.
//!
//! * `goldens`: numbers from the papers' formulas, made by scripts that know nothing of this crate;
//! * `contract`: what every entry of `BALANCERS` must keep, so that a new one is held to it without an edit here;
//! * `laws`: what the methods promise each by itself: conflicts, scales, fairness;
//! * `options`: what each setting does;
//! * `states`: a run that was broken off and taken up is the run that was not;
//! * `settings`: recipes that are wrong, and what they are told;
//! * `attacks`: what a trainer may not give, and what it may that is no number.

#![allow(
    clippy::unwrap_used,
    reason = "the lint's exception for tests does not reach their helper functions"
)]

mod attacks;
mod contract;
mod goldens;
mod laws;
mod options;
mod settings;
mod states;
mod trainer;
