//! What cannot be trained is refused before anything is written, with the file, the key, and what to do.

use std::fs;

use serde_json::json;

use super::{DECODER, ENCODER, decoder, encoder, rows, tune};
use crate::support::{copy_dir, onefold, testdata};

#[test]
fn recipes_with_mistakes() {
    let dir = decoder();
    for (from, to, parts) in [
        ("base_model: base", "base_model: nowhere/near", &["nowhere/near"][..]),
        ("base_model: base\n", "", &["r.yaml:1:1", "no `base_model`"]),
        ("epochs: 2", "epoch: 2", &["r.yaml:6:1", "did you mean `epochs`?"]),
        ("epochs: 2", "epochs: -2", &["r.yaml:6:9", "epochs"]),
        ("epochs: 2", "balancer: {kind: coba, warmpu: 4}", &["r.yaml:6:24", "`balancer.warmpu`", "`warmup`"]),
        ("epochs: 2", "balancer: {kind: coba, window: 0}", &["`balancer.window`"]),
        ("epochs: 2", "adapter: {targets: [q_prj]}", &["adapter.targets", "`q_prj`", "`q_proj`"]),
        ("epochs: 2", "adapter: {targets: 'nothing.*'}", &["adapter.targets"]),
        ("epochs: 2", "adapter: {targets: '(['}", &["adapter.targets"]),
        ("epochs: 2", "freeze: [nowhere]", &["freeze: `nowhere`"]),
        ("epochs: 2", "freeze: ['.']", &["freeze: nothing is left"]),
        ("epochs: 2", "schedule: {kind: wsd, warmup: 0.6, decay: 0.6}", &["schedule: warm-up"]),
        ("epochs: 2", "schedule: {warmup: 9000}", &["schedule: warm-up"]),
        ("epochs: 2", "sampling: {floor: 0.6}", &["floor"]),
        ("epochs: 2", "sampling: {samples: 1}", &["samples"]),
        ("epochs: 2", "batch: {length: 4}", &["batch", "two"]),
        ("name: next", "name: ", &["no `name`"]),
        ("train: next.jsonl", "train: ", &["no `train`"]),
        ("{rows: 8}", "{rows: }", &["no `rows`"]),
        ("epochs: 2", "optimizer: {kind: sgd, lr: }", &["no `lr`"]),
        ("micro: 4", "micro: 4, packing: true, length: ", &["no `length`"]),
        ("next.jsonl", "absent.jsonl", &["task `next`", "absent.jsonl", "cannot read"]),
        ("{rows: 8}", "{rows: 4000}", &["task `turn`: validation: 4000 rows"]),
        ("{rows: 8}", "next.txt", &["task `turn`", "next.txt"]),
        ("validation: 0.25", "labels: [a, b]", &["task `next`: `labels` has no effect", "generate"]),
        ("train: next.jsonl", "train: {dataset: x, dataset_info: none}", &["dataset_info.json"]),
        (
            "train: next.jsonl",
            "columns: {prompt: question}, train: next.jsonl",
            &["task `next`", "next.jsonl"],
        ),
    ] {
        let recipe = DECODER.replacen(from, to, 1);
        assert_ne!(recipe, DECODER);
        let ran = tune(dir.path(), &recipe, "out", &[]);
        if to.starts_with("batch") {
            ran.fails(2, &["r.yaml"]);
        } else {
            ran.fails(2, parts);
        }
        assert!(!dir.path().join("out").exists() && !dir.path().join("out.run").exists(), "{to}");
    }
    onefold(dir.path(), &["tune", "none.yaml", "-o", "out"])
        .fails(2, &["none.yaml", "cannot read the recipe"]);
    onefold(dir.path(), &["tune", "r.yaml"]).fails(2, &["--output"]);
}

/// What a run writes must not be data of the next.
#[test]
fn outputs_do_not_lie_among_data() {
    let dir = decoder();
    fs::create_dir(dir.path().join("data")).unwrap();
    fs::rename(dir.path().join("next.jsonl"), dir.path().join("data/next.jsonl")).unwrap();
    let recipe = DECODER.replace("train: next.jsonl", "train: data");
    tune(dir.path(), &recipe, "data/out", &[]).fails(2, &["data/out", "whose files are data"]);
    tune(dir.path(), &recipe, "out", &[]).ok();
}

#[test]
fn rows_that_cannot_be_learnt_are_named() {
    let dir = encoder();
    let mut lines = fs::read_to_string(dir.path().join("vowels.jsonl")).unwrap();
    lines += "{\"text\": \"\", \"label\": \"vowel\"}\n";
    fs::write(dir.path().join("vowels.jsonl"), lines).unwrap();
    tune(dir.path(), ENCODER, "out", &[])
        .fails(2, &["task `vowels`", "vowels.jsonl, line 53", "has no token"]);
    let dir = decoder();
    let said = |more: serde_json::Value| {
        let mut answer = json!({"role": "assistant", "content": "b"});
        answer.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        json!({"messages": [{"role": "user", "content": "a"}, answer]})
    };
    for (more, key) in
        [(json!({"weight": 0}), "messages[1].weight"), (json!({"train": false}), "messages[1].train")]
    {
        rows(dir.path(), "next.jsonl", std::iter::once(said(more)));
        let recipe =
            format!("{DECODER}chat_template: '{{% for m in messages %}}{{{{ m.content }}}}{{% endfor %}}'\n");
        tune(dir.path(), &recipe, "out", &[]).fails(2, &["next.jsonl, line 1", key, "not to be learnt"]);
    }
    rows(dir.path(), "next.jsonl", std::iter::once(json!({"prompt": 5, "completion": "b"})));
    tune(dir.path(), DECODER, "out", &[]).fails(2, &["key `prompt`"]);
}

#[test]
fn all_tasks_mistakes_are_told_at_once() {
    let dir = decoder();
    fs::write(dir.path().join("next.jsonl"), "{\"prompt\": 1}\n").unwrap();
    fs::write(dir.path().join("turn.jsonl"), "not json\n").unwrap();
    tune(dir.path(), DECODER, "out", &[]).fails(2, &["task `next`", "task `turn`", "turn.jsonl"]);
}

#[test]
fn a_balancer_that_needs_validation_rows_says_so() {
    let dir = decoder();
    let recipe = format!("{}balancer: coba\n", DECODER.replace(", validation: 0.25", ""));
    tune(dir.path(), &recipe, "out", &[]).fails(2, &["task `next`", "`coba` needs validation rows", "0.05"]);
    let judged = format!("{}best: {{by: next}}\n", DECODER.replace(", validation: 0.25", ""));
    tune(dir.path(), &judged, "out", &[]).fails(2, &["best.by: task `next` has no validation rows"]);
    let none = DECODER.replace(", validation: 0.25", "").replace(", validation: {rows: 8}", "");
    tune(dir.path(), &format!("{none}best: {{patience: 3}}\n"), "out", &[])
        .fails(2, &["best: no task has validation rows"]);
    let ran = tune(dir.path(), &none, "out", &[]).ok();
    assert!(ran.stderr.contains("task `turn`: there are no validation rows"), "{}", ran.stderr);
}

#[test]
fn models_that_cannot_learn_the_task() {
    let dir = decoder();
    let classes = encoder();
    for name in ["bert", "vowels.jsonl"] {
        let (from, to) = (classes.path().join(name), dir.path().join(name));
        if from.is_dir() {
            copy_dir(&from, &to);
        } else {
            fs::copy(from, to).unwrap();
        }
    }
    let bert = DECODER.replace("base_model: base", "base_model: bert");
    tune(dir.path(), &bert, "out", &[]).fails(2, &["task `next`", "`bert` does not write text"]);
    copy_dir(&testdata("families/vit"), &dir.path().join("vit"));
    let vit = DECODER.replace("base_model: base", "base_model: vit");
    tune(dir.path(), &vit, "out", &[]).fails(2, &["task `next`"]);
    fs::remove_file(dir.path().join("base/tokenizer.json")).unwrap();
    tune(dir.path(), DECODER, "out", &[]).fails(2, &["tokenizer.json", "save_pretrained"]);
}

#[test]
fn data_that_teaches_nothing_is_refused() {
    let dir = encoder();
    let same = (0..9).map(|i| json!({"text": format!("a{i}"), "label": "only"}));
    rows(dir.path(), "vowels.jsonl", same);
    tune(dir.path(), ENCODER, "out", &[]).fails(2, &["cannot be learnt from", "the same class"]);
    let recipe = ENCODER.replacen(
        "{name: vowels, train: vowels.jsonl, validation: 0.25}",
        "{name: vowels, train: thirds.jsonl, validation: thirds.jsonl}",
        1,
    );
    tune(dir.path(), &recipe, "out", &[]).fails(2, &["validation rows are also learnt"]);
}

/// One mistake per file: never a panic, and the message names the task.
#[test]
fn bad_files_are_refused_by_name() {
    let dir = decoder();
    copy_dir(&testdata("data/bad"), &dir.path().join("bad"));
    let mut count = 0;
    for entry in fs::read_dir(dir.path().join("bad")).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        let recipe = format!(
            "base_model: base\ntasks: [{{name: t, train: bad/{name}, turns: refuse}}]\n\
             chat_template: \"{{% for m in messages %}}{{{{ m.content }}}}</s>{{% endfor %}}\"\nbatch: {{examples: 2}}\nsteps: 1\n"
        );
        let ran = tune(dir.path(), &recipe, "out", &[]);
        ran.fails(2, &["t`"]);
        assert!(ran.stderr.contains(&name) || ran.stderr.contains("task `t`"), "{name}: {}", ran.stderr);
        count += 1;
    }
    assert!(count > 30, "{count}");
}

#[test]
fn places_that_cannot_be_written_to() {
    let dir = decoder();
    fs::write(dir.path().join("file"), "x").unwrap();
    tune(dir.path(), DECODER, "file", &[]).fails(2, &["file", "exists"]);
    tune(dir.path(), DECODER, "file/out", &[]).fails(2, &["file/out"]);
    tune(dir.path(), DECODER, "base", &["--force"]).fails(2, &["base"]);
    tune(dir.path(), DECODER, ".", &["--force"]).fails(2, &[]);
    assert!(dir.path().join("base/model.safetensors").is_file());
}

#[test]
fn a_loss_that_is_no_number_stops_or_is_left_out() {
    let dir = decoder();
    let recipe = format!(
        "{DECODER}optimizer: {{kind: sgd, lr: 1e30}}\nclip: false\nschedule: {{warmup: 0}}\nvalidation: false\n"
    );
    tune(dir.path(), &recipe, "out", &[]).fails(1, &["step ", "non_finite: skip"]);
    assert!(!dir.path().join("out").exists());
    let skipping = format!("{recipe}non_finite: skip\n");
    let ran = tune(dir.path(), &skipping, "out", &["--force"]);
    assert!(ran.stderr.contains("the step was left out"), "{}", ran.stderr);
}
