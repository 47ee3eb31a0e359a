//! What tuning and merging in turns must agree with: other commands of the program, and itself.

use std::fs;

use super::{DECODER, alternate, weights};
use crate::support::{Model, assert_close, onefold, read_model};
use crate::tune::decoder;

/// A joint recipe of one task, or of both, that trains as a round does.
fn tune(dir: &std::path::Path, tasks: &str, more: &str, out: &str) -> Model {
    let recipe =
        format!("base_model: base\ntasks: [{tasks}]\nschedule: {{kind: constant, warmup: 0}}\n{more}");
    fs::write(dir.join("t.yaml"), recipe).unwrap();
    onefold(dir, &["tune", "t.yaml", "-o", out]).ok();
    read_model(&dir.join(out))
}

#[test]
fn one_round_is_task_arithmetic_of_models_that_were_tuned_alone() {
    let dir = decoder();
    let dir = dir.path();
    let more = "optimizer: {lr: 1e-2}\nbatch: {examples: 8, micro: 4}\nepochs: 2\nbest: {keep: false}\n";
    tune(dir, "{name: next, train: next.jsonl, validation: 0.25}", more, "next");
    tune(dir, "{name: turn, train: turn.jsonl, validation: {rows: 8}}", more, "turn");
    let merge = |method: &str, base: &str| {
        let recipe = format!(
            "merge_method: {method}\n{base}models: [{{model: next, parameters: {{weight: 0.5}}}}, {{model: turn, parameters: {{weight: 0.5}}}}]\n"
        );
        fs::write(dir.join("m.yaml"), recipe).unwrap();
        onefold(dir, &["merge", "m.yaml", "-o", method]).ok();
    };
    merge("task_arithmetic", "base_model: base\n");
    merge("linear", "");
    alternate(dir, &DECODER.replace("rounds: 3", "rounds: 1"), "out", &[]).ok();
    assert_eq!(weights(&dir.join("out")), weights(&dir.join("task_arithmetic")), "byte for byte");
    // FedAvg: with the mean and a whole step a round is the average of the models.
    assert_close(&read_model(&dir.join("out")), &read_model(&dir.join("linear")), 1e-6, "FedAvg");
}

/// τ = −η ∇L, so the mean of one full-batch step of each task is such a step of the mean loss.
#[test]
fn one_full_batch_step_of_each_task_is_one_joint_step() {
    let dir = decoder();
    let dir = dir.path();
    let rate = "optimizer: {kind: sgd, lr: 0.5}\nclip: false\n";
    let recipe = format!(
        "base_model: base\ntasks: [{{name: next, train: next.jsonl}}, {{name: turn, train: turn.jsonl}}]\nrounds: 1\n\
         budget: {{steps: 1}}\nbatch: {{examples: 40, micro: 40}}\n{rate}"
    );
    alternate(dir, &recipe, "out", &[]).ok();
    let more = format!("steps: 1\nbatch: {{examples: 80, micro: 80}}\nvalidation: false\n{rate}");
    let joint = tune(dir, "{name: next, train: next.jsonl}, {name: turn, train: turn.jsonl}", &more, "joint");
    let (base, found) = (read_model(&dir.join("base")), read_model(&dir.join("out")));
    let mut moved = 0f32;
    for (name, tensor) in &base {
        let (was, is, expected) = (tensor.values(), found[name].values(), joint[name].values());
        for ((was, is), expected) in was.iter().zip(is).zip(expected) {
            moved = moved.max((was - is).abs());
            assert!((is - expected).abs() <= 1e-5 * was.abs().max(1.0), "{name}: {is}, expected {expected}");
        }
    }
    assert!(moved > 1e-2, "{moved}");
}

#[test]
fn a_step_of_no_length_gives_the_base() {
    let dir = decoder();
    let dir = dir.path();
    for method in ["mean", "ties"] {
        let set = format!("merge={{method: {method}, alpha: 0}}");
        alternate(dir, DECODER, method, &["--set", &set]).ok();
        assert_eq!(
            fs::read(dir.join(method).join("model.safetensors")).unwrap(),
            fs::read(dir.join("base/model.safetensors")).unwrap(),
            "{method}"
        );
    }
}

#[test]
fn neither_the_order_of_tasks_nor_the_number_of_threads_changes_anything() {
    let dir = decoder();
    let dir = dir.path();
    let recipe = format!("{DECODER}merge: {{method: dare_ties, parameters: {{density: 0.5}}}}\n");
    alternate(dir, &recipe, "out", &["--threads", "1"]).ok();
    let mut lines: Vec<&str> = recipe.lines().collect();
    lines.swap(2, 3);
    alternate(dir, &(lines.join("\n") + "\n"), "other", &["--threads", "2"]).ok();
    assert_eq!(weights(&dir.join("out")), weights(&dir.join("other")));
}

/// Vectors against the first model: a mean is the same step, up to rounding; what is not linear is another.
#[test]
fn the_reference_matters_where_the_merge_is_not_linear() {
    let dir = decoder();
    let dir = dir.path();
    let run = |out: &str, merge: &str| {
        // Not AdamW, whose first steps go by signs and make much of the last bit.
        let optimizer = "optimizer={kind: sgd, lr: 0.2}";
        alternate(dir, DECODER, out, &["--set", optimizer, "--set", &format!("merge={{{merge}}}")]).ok();
        read_model(&dir.join(out))
    };
    assert_close(&run("a", "reference: original"), &run("b", "method: mean"), 1e-5, "mean");
    let ties = "method: ties, parameters: {density: 0.3}";
    assert_ne!(run("c", &format!("{ties}, reference: original")), run("d", ties));
    // The second round has a momentum, and other vectors are not shortened.
    assert_ne!(run("e", "momentum: 0.5"), run("f", "clip_norms: true"));
}
