//! `onefold alternate`: what a user types, what lies on the disk afterwards.
//!
//! The models are those of `testdata`, with a few thousand numbers; a run takes about a second.

mod crash;
mod heads;
mod laws;
mod refusals;
mod runs;
mod split;

use std::fs;
use std::path::Path;

use crate::support::{Ran, copy_dir, onefold, testdata};

/// Two tasks that write; their order is not that of their names.
const DECODER: &str = "base_model: base\n\
    tasks:\n\
    - {name: turn, train: turn.jsonl, validation: {rows: 8}}\n\
    - {name: next, train: next.jsonl, validation: 0.25}\n\
    rounds: 3\n\
    budget: {epochs: 2}\n\
    optimizer: {lr: 1e-2}\n\
    batch: {examples: 8, micro: 4}\n";

/// Two tasks with classes.
const ENCODER: &str = "base_model: bert\n\
    tasks:\n\
    - {name: vowels, train: vowels.jsonl, validation: 0.25}\n\
    - {name: thirds, train: thirds.jsonl, validation: 0.25}\n\
    rounds: 2\n\
    optimizer: {lr: 1e-3}\n\
    batch: {examples: 8, micro: 4}\n";

/// Writes `recipe` into `dir` and alternates to `out`.
fn alternate(dir: &Path, recipe: &str, out: &str, more: &[&str]) -> Ran {
    fs::write(dir.join("r.yaml"), recipe).unwrap();
    let mut args = vec!["alternate", "r.yaml", "-o", out];
    args.extend(more);
    onefold(dir, &args)
}

/// Runs a step of the recipe that is there.
fn step(dir: &Path, name: &str, args: &[&str]) -> Ran {
    onefold(dir, &[&["alternate", name, "r.yaml"], args].concat())
}

/// The weights of an output, by their paths.
fn weights(out: &Path) -> Vec<(String, Vec<u8>)> {
    let names = crate::tune::files(out).into_iter().filter(|name| name.ends_with(".safetensors"));
    names.map(|name| (name.clone(), fs::read(out.join(&name)).unwrap())).collect()
}

/// Two experts beside `base`.
fn experts(dir: &Path) {
    for name in ["expert1", "expert2"] {
        copy_dir(&testdata("mergekit/models").join(name), &dir.join(name));
    }
}
