//! Heads stay with their tasks and are never merged.

use std::fs;

use super::{ENCODER, alternate, weights};
use crate::support::{json_file, onefold, read_file, read_model};
use crate::tune::encoder;

#[test]
fn each_task_has_its_head_on_one_trunk() {
    let dir = encoder();
    let dir = dir.path();
    alternate(dir, ENCODER, "out", &["--set", "keep_rounds=true"]).ok();
    let out = dir.join("out");
    let (vowels, thirds) = (read_model(&out.join("vowels")), read_model(&out.join("thirds")));
    let is_head = |name: &str| name.starts_with("classifier") || name.contains("pooler");
    assert!(
        vowels.keys().filter(|name| !is_head(name)).all(|name| vowels[name] == thirds[name]),
        "one trunk"
    );
    for (task, model, classes) in [("vowels", &vowels, 2), ("thirds", &thirds, 3)] {
        // As it was fitted before the first round.
        let head = read_file(&out.join(format!("rounds/round-000/{task}/head/head.safetensors")));
        assert!(head.contains_key("classifier.weight"));
        for (name, tensor) in &head {
            assert_eq!(tensor.bytes, model[name].bytes, "{task}: {name}");
        }
        assert_eq!(model["classifier.weight"].shape[0], classes);
        assert_eq!(
            json_file(&out.join(task).join("config.json"))["id2label"].as_object().unwrap().len(),
            classes
        );
        onefold(&out, &["inspect", task]).ok();
        let vector = read_file(&out.join(format!("rounds/round-001/{task}/vector.safetensors")));
        assert!(!vector.keys().any(|name| is_head(name)), "heads do not travel");
    }
}

#[test]
fn heads_are_trained_if_that_is_wanted_and_still_not_merged() {
    let dir = encoder();
    let dir = dir.path();
    alternate(dir, ENCODER, "out", &["--set", "heads.train=true", "--set", "keep_rounds=true"]).ok();
    let head = |round: u32, task: &str| {
        fs::read(dir.join(format!("out/rounds/round-{round:03}/{task}/head/head.safetensors"))).unwrap()
    };
    for task in ["vowels", "thirds"] {
        assert!(head(0, task) != head(1, task) && head(1, task) != head(2, task), "{task}");
        let model = read_model(&dir.join("out").join(task));
        let last = read_file(&dir.join(format!("out/rounds/round-002/{task}/head/head.safetensors")));
        assert_eq!(model["classifier.weight"].bytes, last["classifier.weight"].bytes);
    }
    // Random ones, trained from the first round on.
    alternate(dir, ENCODER, "unfitted", &["--set", "heads={train: true, fit: false}"]).ok();
    alternate(dir, ENCODER, "none", &["--set", "heads={fit: false}"]).fails(2, &["heads.fit", "random"]);
}

#[test]
fn a_head_can_be_given_and_has_to_be_the_tasks() {
    let dir = encoder();
    let dir = dir.path();
    alternate(dir, ENCODER, "out", &[]).ok();
    // The tasks in the order of the recipe; a head that was fitted there serves as one that is given.
    alternate(dir, ENCODER, "given", &["--set", "tasks.0.head=out/vowels"]).ok();
    assert_eq!(weights(&dir.join("out")), weights(&dir.join("given")));
    alternate(dir, ENCODER, "wrong", &["--set", "tasks.1.head=out/vowels"])
        .fails(2, &["task `thirds`", "\"first\" is not one of"]);
    let labels = "tasks.1.labels=[first, second, third]";
    alternate(dir, ENCODER, "wrong", &["--set", "tasks.1.head=out/vowels", "--set", labels]).fails(
        2,
        &["task `thirds`", "of other classes (consonant, vowel) than the rows (first, second, third)"],
    );
    assert!(!dir.join("wrong.run").exists());
}
