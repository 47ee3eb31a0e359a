//! Owners and a server who exchange task vectors and merged models: the same bytes as one command, and refusals of what does not
//! belong together.

use std::fs;
use std::path::Path;

use tempfile::TempDir;

use super::{DECODER, ENCODER, alternate, step, weights};
use crate::support::{copy_dir, read_model};
use crate::tune::{decoder, encoder};

/// All rounds of a recipe, step by step: owners' parts in `TASK-N`, merges in `round-N`.
fn step_by_step(dir: &Path, recipe: &str, tasks: [&str; 2], rounds: u64, heads: bool) {
    fs::write(dir.join("r.yaml"), recipe).unwrap();
    for round in u64::from(!heads)..=rounds {
        let (before, model) = (round.wrapping_sub(1), format!("round-{}", round.wrapping_sub(1)));
        let number = round.to_string();
        for task in tasks {
            let (out, state) = (format!("{task}-{round}"), format!("{task}-{before}"));
            let mut args = vec!["--task", task, "--round", &number, "-o", &out];
            if round > 1 {
                args.extend(["--model", &model]);
            }
            if dir.join(&state).is_dir() {
                args.extend(["--state", &state]);
            }
            step(dir, "tune-task", &args).ok();
        }
        if round == 0 {
            continue;
        }
        let (out, parts) = (format!("round-{round}"), tasks.map(|task| format!("{task}-{round}")));
        let earlier = tasks.map(|task| format!("{task}-{before}"));
        // In any order; a file will do as well as its directory.
        let file = format!("{}/vector.safetensors", parts[0]);
        let mut args = vec!["--round", &number, "-o", &out, "--vectors", &parts[1], &file];
        if round > 1 {
            args.extend(["--model", &model, "--previous", &earlier[0], &earlier[1]]);
        }
        step(dir, "merge-round", &args).ok();
    }
}

#[test]
fn the_steps_give_the_bytes_of_the_whole() {
    let dir = decoder();
    let dir = dir.path();
    let recipe = format!(
        "{DECODER}merge: {{method: ties, parameters: {{density: 0.5}}, momentum: 0.2}}\noptimizer_state: carried\n"
    );
    alternate(dir, &recipe, "whole", &["--set", "keep_rounds=true"]).ok();
    step_by_step(
        dir,
        &recipe.replace("rounds: 3\n", "rounds: 3\nkeep_rounds: true\n"),
        ["next", "turn"],
        3,
        false,
    );
    for round in 1..=3 {
        let of = |path: String| fs::read(dir.join(path)).unwrap();
        assert_eq!(
            of(format!("round-{round}/model.safetensors")),
            of(format!("whole/rounds/round-{round:03}/model/model.safetensors"))
        );
        for task in ["next", "turn"] {
            let (a, b) = (
                format!("{task}-{round}/vector.safetensors"),
                format!("whole/rounds/round-{round:03}/{task}/vector.safetensors"),
            );
            assert!(of(a) == of(b), "{task} in round {round}");
        }
    }
    step(dir, "product", &["--model", "round-3", "-o", "product"]).ok();
    assert_eq!(read_model(&dir.join("product")), read_model(&dir.join("whole")));
}

#[test]
fn owners_keep_their_heads_and_their_data() {
    let dir = encoder();
    let dir = dir.path();
    alternate(dir, ENCODER, "whole", &[]).ok();
    // Each owner has the rows of one task, the server has none.
    let places = ["vowels", "thirds", "server"].map(|name| dir.join(format!("{name}-place")));
    for place in &places {
        fs::create_dir(place).unwrap();
        copy_dir(&dir.join("bert"), &place.join("bert"));
        fs::write(place.join("r.yaml"), ENCODER).unwrap();
    }
    let [vowels, thirds, server] = &places;
    fs::rename(dir.join("vowels.jsonl"), vowels.join("vowels.jsonl")).unwrap();
    fs::rename(dir.join("thirds.jsonl"), thirds.join("thirds.jsonl")).unwrap();
    for (place, task) in [(vowels, "vowels"), (thirds, "thirds")] {
        step(place, "tune-task", &["--task", task, "--round", "0", "-o", "part-0"]).ok();
        step(place, "tune-task", &["--task", task, "--round", "1", "--state", "part-0", "-o", "part-1"]).ok();
    }
    let vectors = ["../vowels-place/part-1/vector.safetensors", "../thirds-place/part-1/vector.safetensors"];
    step(server, "merge-round", &["--round", "1", "--vectors", vectors[0], vectors[1], "-o", "round-1"]).ok();
    for (place, task) in [(vowels, "vowels"), (thirds, "thirds")] {
        copy_dir(&server.join("round-1"), &place.join("round-1"));
        let args =
            ["--task", task, "--round", "2", "--model", "round-1", "--state", "part-1", "-o", "part-2"];
        step(place, "tune-task", &args).ok();
    }
    let vectors = ["../vowels-place/part-2", "../thirds-place/part-2"];
    let args = ["--round", "2", "--model", "round-1", "--vectors", vectors[0], vectors[1], "-o", "round-2"];
    step(server, "merge-round", &args).ok();
    for (place, task) in [(vowels, "vowels"), (thirds, "thirds")] {
        let args = ["--model", "../server-place/round-2", "--state", "part-2", "-o", "product"];
        step(place, "product", &args).ok();
        assert_eq!(weights(&place.join("product")), weights(&dir.join("whole").join(task)), "{task}");
    }
    let refused = step(vowels, "tune-task", &["--task", "vowels", "--round", "1", "-o", "none"]);
    refused.fails(2, &["no --state", "--round 0"]);
    let wrong = ["--task", "vowels", "--round", "1", "--state", "../thirds-place/part-0", "-o", "none"];
    step(vowels, "tune-task", &wrong).fails(2, &["--state", "thirds", "expected `vowels` in round 0"]);
}

/// Two rounds of a decoder, step by step.
fn rounds() -> TempDir {
    let dir = decoder();
    step_by_step(dir.path(), DECODER, ["next", "turn"], 2, false);
    dir
}

#[test]
fn vectors_of_another_round_base_or_recipe_are_refused() {
    let dir = rounds();
    let dir = dir.path();
    let merge = |args: &[&str]| step(dir, "merge-round", &[args, &["-o", "none"]].concat());
    let round = |n| ["--round", n];
    merge(&[&round("2")[..], &["--model", "round-1", "--vectors", "next-2", "turn-1"]].concat())
        .fails(2, &["turn-1/vector.safetensors", "of round 1, expected round 2"]);
    merge(&[&round("2")[..], &["--model", "round-2", "--vectors", "next-2", "turn-2"]].concat())
        .fails(2, &["--model round-2", "the merge of round 2, expected round 1"]);
    merge(&[&round("2")[..], &["--vectors", "next-2", "turn-2"]].concat()).fails(2, &["--model"]);
    merge(&[&round("1")[..], &["--vectors", "next-1"]].concat()).fails(2, &["no vector of turn"]);
    merge(&[&round("1")[..], &["--vectors", "next-1", "next-1", "turn-1"]].concat())
        .fails(2, &["a second vector of `next`"]);
    merge(&[&round("1")[..], &["--vectors", "next-1", "base"]].concat()).fails(2, &["base"]);
    merge(&[&round("0")[..], &["--vectors", "next-1", "turn-1"]].concat()).fails(2, &["--round 0", "from 1"]);
    // Another recipe on one side.
    let lr = ["--set", "optimizer.lr=0.5"];
    merge(&[&round("1")[..], &["--vectors", "next-1", "turn-1"], &lr].concat())
        .fails(2, &["next-1/vector.safetensors", "turn-1/vector.safetensors", "by another recipe"]);
    // Another model at the beginning of the round.
    let other = decoder();
    let bytes = fs::read(other.path().join("base/model.safetensors")).unwrap();
    let mut changed = bytes.clone();
    *changed.last_mut().unwrap() ^= 1;
    fs::write(dir.join("base/model.safetensors"), changed).unwrap();
    merge(&[&round("1")[..], &["--vectors", "next-1", "turn-1"]].concat())
        .fails(2, &["begins at another model"]);
    fs::write(dir.join("base/model.safetensors"), bytes).unwrap();
    // A file that is no vector, and one that is cut.
    let path = dir.join("turn-1/vector.safetensors");
    let vector = fs::read(&path).unwrap();
    fs::copy(dir.join("base/model.safetensors"), &path).unwrap();
    merge(&[&round("1")[..], &["--vectors", "next-1", "turn-1"]].concat())
        .fails(2, &["this is no task vector"]);
    fs::write(&path, &vector[..vector.len() / 2]).unwrap();
    merge(&[&round("1")[..], &["--vectors", "next-1", "turn-1"]].concat())
        .fails(2, &["turn-1/vector.safetensors"]);
    fs::write(&path, vector).unwrap();
    assert!(!dir.join("none").exists());
    merge(&[&round("1")[..], &["--vectors", "next-1", "turn-1"]].concat()).ok();
}

#[test]
fn steps_say_what_they_need() {
    let dir = rounds();
    let dir = dir.path();
    step(dir, "tune-task", &["--task", "none", "--round", "1", "-o", "x"])
        .fails(2, &["--task none", "`next`, `turn`"]);
    step(dir, "tune-task", &["--task", "next", "--round", "0", "-o", "x"])
        .fails(2, &["--round 0", "no head"]);
    step(dir, "tune-task", &["--task", "next", "--round", "2", "-o", "x"]).fails(2, &["--model"]);
    step(dir, "tune-task", &["--task", "next", "--round", "1", "--model", "round-1", "-o", "x"])
        .fails(2, &["--model"]);
    step(dir, "tune-task", &["--task", "next", "--round", "1", "-o", "next-1"])
        .fails(2, &["next-1", "exists"]);
    step(dir, "tune-task", &["--task", "next", "--round", "1", "-o", "next-1", "--force"]).ok();
    step(dir, "product", &["--model", "base", "-o", "x"]).fails(2, &["round.json"]);
    step(dir, "product", &["--model", "round-1", "-o", "x", "--set", "merge.alpha=2"])
        .fails(2, &["another recipe"]);
    fs::write(dir.join("r.yaml"), DECODER.replace("base_model: base", "start: start.yaml")).unwrap();
    step(dir, "tune-task", &["--task", "next", "--round", "1", "-o", "x"]).fails(2, &["onefold merge"]);
}
