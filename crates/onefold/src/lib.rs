//! onefold: many fine-tuned checkpoints in, one multi-task model out.
//!
//! A job is one file in [`jobs`], read from top to bottom; [`recipe`] reads what the user wrote, [`plan`] turns it into
//! tensors, [`report`] shows what came out. The arithmetic is in `onefold-merge`, the files in `onefold-checkpoint`.

pub mod cli;
pub mod config;
pub mod hub;
pub mod jobs;
pub mod measured;
pub mod models;
pub mod plan;
pub mod progress;
pub mod recipe;
pub mod report;
pub mod tokenizer;

/// The code of the README, compiled.
#[cfg(doctest)]
#[doc = include_str!("../../../README.md")]
pub struct Readme;
