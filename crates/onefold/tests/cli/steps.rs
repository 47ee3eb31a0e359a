//! Several merges in one recipe: all of them are judged before the first one writes.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::{Array, Model, copy_dir, listing, llamas, merge, read_model, write_model};

/// `mean` is merged first; the last one reads it.
const CHAIN: &str = "name: mean\nmerge_method: linear\nparameters: {weight: 1}\nmodels: [{model: expert1}, {model: expert2}]\n\
    ---\nmerge_method: task_arithmetic\nbase_model: base\nmodels: [{model: mean, parameters: {weight: 0.5}}]\n";

/// Two merges that have nothing to do with each other.
fn apart(second: &str) -> String {
    format!(
        "name: mean\nmerge_method: linear\nparameters: {{weight: 1}}\nmodels: [{{model: expert1}}, {{model: expert2}}]\n\
        ---\nmerge_method: linear\nparameters: {{weight: 1}}\nmodels: [{{model: base}}, {{model: {second}}}]\n"
    )
}

#[track_caller]
fn nothing_made(dir: &Path) {
    nothing_made_but(dir, &[]);
}

#[track_caller]
fn nothing_made_but(dir: &Path, expected: &[&str]) {
    let made: Vec<String> = listing(dir).into_iter().filter(|n| n.starts_with("out")).collect();
    assert_eq!(made, expected);
}

fn with_narrow() -> TempDir {
    let dir = llamas();
    let model = Model::from([("model.norm.weight".to_owned(), Array::f32(&[4], &[0.0; 4]))]);
    write_model(&dir.path().join("narrow"), &model, &json!({}));
    dir
}

#[test]
fn the_last_output_is_judged_before_the_first_merge() {
    let dir = llamas();
    let dir = dir.path();
    fs::create_dir(dir.join("there")).unwrap();
    fs::write(dir.join("there/precious.txt"), "mine").unwrap();
    fs::write(dir.join("file"), "").unwrap();
    for more in [&[][..], &["--dry-run"]] {
        merge(dir, CHAIN, "there", more).fails(2, &["there: exists already", "--force"]);
        merge(dir, CHAIN, "there", &[&["--force"], more].concat()).fails(2, &["there: holds no model"]);
        merge(dir, CHAIN, "file/out", more).fails(2, &["file/out: cannot create"]);
        merge(dir, CHAIN, "base", &[&["--force"], more].concat()).fails(2, &["overwrite the input"]);
        // A place that another merge of the file writes to, or that lies around it.
        let around = [&["--force", "--intermediate", "out/parts"], more].concat();
        merge(dir, CHAIN, "out", &around).fails(2, &["out: the output would overwrite", "out/parts/mean"]);
        let same = [&["--intermediate", "outs"], more].concat();
        merge(dir, CHAIN, "outs/mean", &same).fails(2, &["outs/mean: the output would overwrite"]);
    }
    assert!(!dir.join("there.merges").exists() && !dir.join("base.merges").exists());
    assert!(listing(&dir.join("there")) == ["precious.txt"]);
    nothing_made(dir);
}

#[test]
fn what_headers_say_of_later_merges_is_known_before_the_first() {
    let dir = with_narrow();
    let dir = dir.path();
    merge(dir, &apart("narrow"), "out", &[]).fails(2, &["model.norm.weight", "narrow"]);
    nothing_made(dir);
    // With what is wrong in the first, and with the places.
    let both = apart("narrow").replace("{model: expert2}", "{model: narrow}");
    fs::create_dir(dir.join("there")).unwrap();
    let ran = merge(dir, &both, "there", &[]);
    ran.fails(2, &["there: exists already"]);
    assert!(ran.stderr.matches("narrow").count() >= 2, "{}", ran.stderr);
    merge(dir, &apart("expert3"), "out", &[]).ok();
}

/// The product of the first has no headers yet, but they will be those of its donor.
#[test]
fn a_merge_on_a_merge_is_planned_before_the_first() {
    let dir = with_narrow();
    let dir = dir.path();
    let narrow = CHAIN.replace(
        "[{model: mean, parameters: {weight: 0.5}}]",
        "[{model: mean}, {model: narrow}]\nparameters: {weight: 1}",
    );
    for more in [&[][..], &["--dry-run"]] {
        merge(dir, &narrow, "out", more).fails(2, &["model.norm.weight", "narrow"]);
        // Through a second merge, and with the same donor twice, which is not the same model twice.
        let three = format!(
            "name: again\nmerge_method: task_arithmetic\nbase_model: base\nmodels: [{{model: mean, parameters: {{weight: 1}}}}]\n---\n{}",
            narrow.replace("model: mean}", "model: again}")
        );
        merge(dir, &three, "out", more).fails(2, &["model.norm.weight", "narrow"]);
        merge(dir, &three.replace("narrow", "expert3"), "outs", more).ok();
    }
    nothing_made_but(dir, &["outs", "outs.merges"]);
    // A product that has other tensors than its donor is waited for.
    let cut = "name: short\nmerge_method: passthrough\nslices: [{sources: [{model: base, layer_range: [0, 1]}]}]\n---\n\
        merge_method: linear\nparameters: {weight: 1}\nmodels: [{model: short}, {model: base}]\n";
    let ran = merge(dir, cut, "out", &[]);
    ran.fails(2, &["missing in short"]);
    assert_eq!(listing(&dir.join("out.merges")), ["short"]);
}

#[test]
fn a_finished_part_is_not_made_again() {
    let dir = llamas();
    let dir = dir.path();
    merge(dir, CHAIN, "out", &[]).ok();
    let expected = read_model(&dir.join("out"));
    let again = merge(dir, CHAIN, "out", &[]).ok();
    assert_eq!(again.stderr.matches("is there already").count(), 2, "{}", again.stderr);
    fs::remove_dir_all(dir.join("out")).unwrap();
    let rest = merge(dir, CHAIN, "out", &[]).ok();
    assert_eq!(rest.stderr.matches("is there already").count(), 1, "{}", rest.stderr);
    assert!(read_model(&dir.join("out")) == expected);
    merge(dir, CHAIN, "out", &["--force"]).ok();
    assert!(read_model(&dir.join("out")) == expected);
}

#[test]
fn a_dry_run_of_several_shows_each() {
    let dir = llamas();
    let dir = dir.path();
    let text = merge(dir, CHAIN, "out", &["--dry-run", "-q"]).ok();
    assert!(text.stdout.contains("out: planned once out.merges/mean exists"), "{}", text.stdout);
    let ran = merge(dir, CHAIN, "out", &["--dry-run", "--json"]).ok();
    let events: Vec<Value> = ran.stdout.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    assert_eq!(events[0]["event"], "plan");
    let waiting = json!({"event": "waiting", "data": {"output": "out", "needs": ["out.merges/mean"]}});
    assert_eq!(events[1..], [waiting]);
    nothing_made(dir);
}

#[test]
fn merges_that_all_have_names_make_no_output() {
    let dir = llamas();
    let dir = dir.path();
    copy_dir(&dir.join("expert3"), &dir.join("other"));
    let recipe = apart("other").replace("---\n", "---\nname: second\n");
    let ran = merge(dir, &recipe, "out", &[]).ok();
    assert!(ran.stderr.contains("none of them makes out"), "{}", ran.stderr);
    assert_eq!(listing(&dir.join("out.merges")), ["mean", "second"]);
}
