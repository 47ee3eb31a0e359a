//! `onefold tune`: what a user types, what lies on the disk afterwards.
//!
//! The models are those of `testdata`, with a few thousand numbers and a tokenizer of single letters; runs take a fraction of a
//! second.

mod crash;
mod refusals;
mod runs;
mod show;

use std::fs;
use std::path::Path;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::{Ran, copy_dir, onefold, temp, testdata};

/// Two tasks that write, with validation rows, for a decoder of 10,224 numbers.
const DECODER: &str = "base_model: base\n\
    tasks:\n\
    - {name: next, train: next.jsonl, validation: 0.25}\n\
    - {name: turn, train: turn.jsonl, validation: {rows: 8}}\n\
    batch: {examples: 8, micro: 4}\n\
    epochs: 2\n\
    log: 5\n";

/// A directory with a decoder `base` and the data of two tasks.
pub(crate) fn decoder() -> TempDir {
    let dir = temp();
    copy_dir(&testdata("mergekit/models/base"), &dir.path().join("base"));
    let letters = || ('a'..='h').flat_map(|a| ('k'..='o').map(move |b| (a, b)));
    let after = |c: char| char::from(c as u8 + 1);
    rows(
        dir.path(),
        "next.jsonl",
        letters()
            .map(|(a, b)| json!({"prompt": format!("next {b}{a} "), "completion": after(a).to_string()})),
    );
    rows(
        dir.path(),
        "turn.jsonl",
        letters().map(|(a, b)| json!({"prompt": format!("turn {a}{b} "), "completion": format!("{b}{a}")})),
    );
    dir
}

/// Two tasks with classes, for an encoder.
const ENCODER: &str = "base_model: bert\n\
    tasks:\n\
    - {name: vowels, train: vowels.jsonl, validation: 0.25}\n\
    - {name: thirds, train: thirds.jsonl, validation: 0.25}\n\
    optimizer: {lr: 1e-3}\n\
    batch: {examples: 8, micro: 4}\n\
    epochs: 2\n\
    log: 5\n";

/// A directory with an encoder `bert` and the data of two tasks with classes.
pub(crate) fn encoder() -> TempDir {
    let dir = temp();
    let bert = dir.path().join("bert");
    fs::create_dir(&bert).unwrap();
    for name in ["config.json", "model.safetensors"] {
        fs::copy(testdata("families/bert").join(name), bert.join(name)).unwrap();
    }
    for name in ["tokenizer.json", "tokenizer_config.json"] {
        fs::copy(testdata("mergekit/models/base").join(name), bert.join(name)).unwrap();
    }
    let texts = || ('a'..='z').flat_map(|a| ["x", "yy"].map(|b| (a, format!("{a}{b}"))));
    rows(dir.path(), "vowels.jsonl", texts().map(|(a, text)| {
        json!({"text": text, "label": if "aeiou".contains(a) { "vowel" } else { "consonant" }})
    }));
    let third = |a: char| ["first", "second", "third"][(a as usize - 'a' as usize) / 9];
    rows(dir.path(), "thirds.jsonl", texts().map(|(a, text)| json!({"text": text, "label": third(a)})));
    dir
}

pub(crate) fn rows(dir: &Path, name: &str, rows: impl Iterator<Item = Value>) {
    let lines: String = rows.map(|row| format!("{row}\n")).collect();
    fs::write(dir.join(name), lines).unwrap();
}

/// Writes `recipe` into `dir` and tunes to `out`.
fn tune(dir: &Path, recipe: &str, out: &str, more: &[&str]) -> Ran {
    fs::write(dir.join("r.yaml"), recipe).unwrap();
    let mut args = vec!["tune", "r.yaml", "-o", out];
    args.extend(more);
    onefold(dir, &args)
}

/// Every file below a directory, by its path there.
pub(crate) fn files(dir: &Path) -> Vec<String> {
    let (mut found, mut folders) = (Vec::new(), vec![dir.to_owned()]);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                found.push(path.strip_prefix(dir).unwrap().to_str().unwrap().to_owned());
            }
        }
    }
    found.sort();
    found
}

/// The lines of `metrics.jsonl`, without what differs from run to run.
pub(crate) fn metrics(dir: &Path) -> Vec<Value> {
    let text = fs::read_to_string(dir.join("metrics.jsonl")).unwrap();
    let mut lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    for line in &mut lines {
        for key in ["seconds", "tokens_per_second", "memory"] {
            line.as_object_mut().unwrap().remove(key);
        }
    }
    lines
}

/// All that a run leaves, without times: what two runs of one job have in common.
pub(crate) fn result(dir: &Path) -> Vec<(String, Vec<u8>)> {
    let timed = |name: &str| name.ends_with("report.html") || name.contains("tfevents");
    let content = |name: &String| {
        let path = dir.join(name);
        match name.rsplit('/').next().unwrap() {
            "metrics.jsonl" => serde_json::to_vec(&metrics(dir)).unwrap(),
            "onefold.json" => {
                let mut record = crate::support::json_file(&path);
                record["run"] = Value::Null;
                record.to_string().into_bytes()
            }
            // It knows the lengths of the logs.
            "state.json" => {
                let mut state = crate::support::json_file(&path);
                state["log"] = Value::Null;
                state.to_string().into_bytes()
            }
            _ => fs::read(path).unwrap(),
        }
    };
    files(dir).into_iter().filter(|name| !timed(name)).map(|name| (name.clone(), content(&name))).collect()
}
