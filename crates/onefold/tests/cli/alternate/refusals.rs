//! Recipes and places that are refused, and tuning that goes astray.

use std::fs;

use super::{DECODER, alternate};
use crate::support::listing;
use crate::tune::decoder;

#[test]
fn what_cannot_be_merged_so_is_refused_with_a_remedy() {
    let dir = decoder();
    let refused = |sets: &[&str], parts: &[&str]| {
        let more: Vec<&str> = sets.iter().flat_map(|set| ["--set", set]).collect();
        alternate(dir.path(), DECODER, "out", &more).fails(2, parts);
    };
    refused(&["merge.method=fisher"], &["merge.method", "statistics"]);
    refused(&["merge.method=linear"], &["whole models"]);
    refused(&["merge.method=emr"], &["artefact"]);
    refused(&["merge.method=adamerging"], &["coefficients"]);
    refused(&["merge.method=tiez"], &["unknown merge method", "did you mean `ties`?"]);
    refused(&["merge.method=ties", "merge.parameters.densty=1"], &["densty", "did you mean `density`?"]);
    refused(&["merge.method=ties", "merge.parameters.density=2"], &["density", "found"]);
    refused(&["merge.parameters.weight=1"], &["`parameters` has no effect"]);
    refused(&["merge.momentum=0.1", "merge.reference=original"], &["merge.momentum"]);
    refused(&["merge.adapters=fold"], &["`adapters` has no effect"]);
    refused(&["adapter.r=4", "optimizer_state=carried"], &["optimizer_state"]);
    let beside = ["adapter.r=4", "merge.adapters=concatenate"];
    refused(&[&beside[..], &["adapter.kind=dora"]].concat(), &["merge.adapters", "dora"]);
    refused(&[&beside[..], &["merge.method=metagpt"]].concat(), &["weighted sums"]);
    refused(&["tasks.0.share=2"], &["`share` has no effect"]);
    refused(&["epochs=3"], &["`epochs` has no effect", "budget"]);
    refused(&["budget.steps=3"], &["budget", "found 2"]);
    refused(&["balancer=coba"], &["unknown key `balancer`"]);
    refused(&["tasks.0.name=model"], &["tasks[0].name", "`model` means something else"]);
    refused(&["tasks.0.dev=next.jsonl"], &["`dev` of task `turn` has no effect"]);
    refused(&["tasks.0.head=base"], &["task `turn`", "`head` has no effect"]);
    refused(&["data=validation", "early_stop.patience=1"], &["no `dev` to be judged by"]);
    refused(&["data=validation", "early_stop={patience: 1, split: validation}"], &["learnt from"]);
    refused(&["early_stop.split=validation"], &["no `patience`"]);
    refused(&["start={merge_method: linear}"], &["both `base_model` and `start`"]);
    refused(&["rounds=0"], &["rounds"]);
    assert!(!dir.path().join("out.run").exists());
    alternate(dir.path(), DECODER, "out", &["--max-memory", "1MB"]).fails(2, &["--max-memory", "gradients"]);
    alternate(dir.path(), DECODER, "base", &[]).fails(2, &["base"]);
}

/// A task that fails leaves what was done; the same command goes on from there.
#[test]
fn a_task_that_fails_leaves_the_others() {
    let dir = decoder();
    let dir = dir.path();
    let recipe = DECODER.replace("rounds: 3", "rounds: 1");
    alternate(dir, &recipe, "out", &[]).ok();
    let steps =
        format!("{recipe}clip: false\n").replace("optimizer: {lr: 1e-2}", "optimizer: {kind: sgd, lr: 1e18}");
    let ran = alternate(dir, &steps, "lost", &[]);
    ran.fails(1, &["round 1, task `next`", "what was done is in", "the same command goes on"]);
    assert!(!dir.join("lost").exists() && dir.join("lost.run/round-000").is_dir());
    // Another recipe does not take it up, unless it is forced to.
    fs::create_dir_all(dir.join("lost.run/round-001")).unwrap();
    alternate(dir, &recipe, "lost", &[]).fails(2, &["lost.run", "--force"]);
    alternate(dir, &recipe, "lost", &["--force"]).ok();
    assert!(listing(&dir.join("lost")).contains(&"model.safetensors".to_owned()));
    alternate(dir, DECODER, "lost", &[]).fails(2, &["lost", "exists"]);
}
