//! Representation Surgery after the merge, on both roads.

use super::*;
use crate::support::{command, read_file};

const FILE: &str = "surgery.safetensors";

/// A road with corrections that are learnt in a moment.
fn with(road: &str) -> String {
    format!("{road}surgery: {{rank: 8, steps: 200, lr: 1e-2}}\n")
}

fn fisher() -> String {
    let fields =
        ["batch: {examples: 8}", "optimizer: {lr: 0.02}", "steps: 10", "log: 5", "score: {every: 5}"];
    let text = ENCODER.replace(", weight: 2", "").replace("adamerging", "fisher");
    fields.iter().fold(text, |text, field| text.replace(&format!("{field}\n"), ""))
}

/// The lines of the log that tell of corrections.
fn lines(out: &Path) -> Vec<Value> {
    let text = fs::read_to_string(out.join("metrics.jsonl")).unwrap();
    let all = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    all.filter(|line| line["kind"] == "surgery").collect()
}

#[test]
fn features_are_corrected_on_both_roads() {
    let dir = experts();
    let dir = dir.path();
    for (out, plain, road) in [("out", "plain", ENCODER.to_owned()), ("fisher", "plain-fisher", fisher())] {
        adapt(dir, &road, plain, &[]).ok();
        let ran = adapt(dir, &with(&road), out, &["--threads", "2"]).ok();
        for part in ["surgery of vowels: features are", "with surgery", "its expert"] {
            assert!(ran.stderr.contains(part), "{part}: {}", ran.stderr);
        }
        let (out, plain) = (dir.join(out), dir.join(plain));
        let record = json_file(&out.join("onefold.json"));
        assert_eq!(record["recipe"]["surgery"], json!({"rank": 8, "steps": 200, "lr": 0.01, "batch": 16}));
        let found = record["result"]["surgery"].as_array().unwrap();
        assert_eq!(found.len(), 2);
        for (task, found) in ["vowels", "thirds"].iter().zip(found) {
            // The model is the one without.
            let weights = |out: &Path| fs::read(out.join(task).join("model.safetensors")).unwrap();
            assert!(weights(&out) == weights(&plain), "{task}");
            let distance = |when: &str| found["distance"][when].as_f64().unwrap();
            assert!(distance("after") < distance("before"), "{found}");
            assert_eq!(found["task"], *task);
            assert_eq!(found["file"], format!("{task}/{FILE}"));
            assert_eq!(found["module"], "classifier");
            let tensors = read_file(&out.join(task).join(FILE));
            let (down, up) = (&tensors["surgery.down"].shape, &tensors["surgery.up"].shape);
            assert_eq!((down[0], up[1], down[1]), (8, 8, up[0]));
            assert_eq!(found["parameters"], 2 * 8 * down[1]);
            let scores = &record["result"]["tasks"][task];
            for part in ["expert", "before", "after", "surgery"] {
                assert!(scores[part]["accuracy"].is_f64(), "{part}: {scores}");
            }
            // Whoever merges it again does not see the module.
            let again = format!("again-{task}-{}", out.file_name().unwrap().to_str().unwrap());
            let recipe =
                format!("merge_method: passthrough\nmodels: [{{model: {}}}]\n", out.join(task).display());
            crate::support::merge(dir, &recipe, &again, &[]).ok();
            assert!(!dir.join(&again).join(FILE).exists());
        }
        assert_eq!(lines(&out).len(), 2);
        let page = fs::read_to_string(out.join("report.html")).unwrap();
        assert!(page.contains(">Surgery</h2>") && page.contains("with surgery"));
        let card = fs::read_to_string(out.join("README.md")).unwrap();
        assert!(card.contains("| task | expert | before | after | with surgery |"), "{card}");
        let plain = fs::read_to_string(plain.join("README.md")).unwrap();
        assert!(plain.contains("| task | expert | before | after |\n"), "{plain}");
        // One thread: the same bytes, the same lines.
        adapt(dir, &with(&road), "one", &["--threads", "1", "--force"]).ok();
        assert!(result(&dir.join("one")) == result(&out));
        assert_eq!(lines(&dir.join("one")), lines(&out));
    }
}

#[test]
fn one_task_has_it_beside_the_model() {
    let dir = experts();
    let dir = dir.path();
    let text = "merge_method: adamerging\nbase_model: bert\nmodels: [{model: vowels, task: vowels}, {model: thirds}]\n\
        tasks:\n- {name: vowels, inputs: vowels-in.jsonl}\nsteps: 2\nsurgery: {steps: 20}\n";
    adapt(dir, text, "out", &[]).ok();
    assert!(dir.join("out").join(FILE).is_file() && dir.join("out/model.safetensors").is_file());
    let record = json_file(&dir.join("out/onefold.json"));
    assert_eq!(record["result"]["surgery"][0]["file"], FILE);
    assert_eq!(record["result"]["surgery"][0]["score"], Value::Null);
    assert!(record["result"]["tasks"].as_object().unwrap().is_empty());
}

#[test]
fn a_dry_run_tells_what_is_added() {
    let dir = experts();
    let dir = dir.path();
    for road in [ENCODER.to_owned(), fisher()] {
        let text = format!("{road}surgery: true\n");
        let ran = adapt(dir, &text, "out", &["--dry-run"]).ok();
        for part in [
            "rank 16, 1000 steps of 16 inputs",
            "parameters before `classifier`, of 26 inputs",
            "features of the surgery",
        ] {
            assert!(ran.stdout.contains(part), "{part}: {}", ran.stdout);
        }
        let plan = adapt(dir, &text, "out", &["--dry-run", "--json"]).ok();
        let line = plan.stdout.lines().find(|line| line.contains("\"plan\"")).unwrap();
        let plan: Value = serde_json::from_str(line).unwrap();
        assert_eq!(plan["data"]["surgery"][1]["task"], "thirds");
        assert_eq!(plan["data"]["surgery"][1]["rank"], 16);
        let without = adapt(dir, &road, "out", &["--dry-run"]).ok();
        assert!(!without.stdout.contains("surgery"), "{}", without.stdout);
        let parts = ["--max-memory", "features of the surgery", "`surgery.steps`"];
        adapt(dir, &text, "out", &["--max-memory", "10MB"]).fails(2, &parts);
        assert!(!dir.join("out").exists() && !dir.join("out.run").exists());
    }
}

#[test]
fn surgery_that_cannot_be_is_refused() {
    let dir = experts();
    for (surgery, parts) in [
        ("{rnk: 3}", &["surgery: unknown key `rnk`", "did you mean `rank`"][..]),
        ("{rank: 0}", &["surgery.rank"]),
        ("yes please", &["surgery", "expected"]),
    ] {
        let text = format!("{ENCODER}surgery: {surgery}\n");
        adapt(dir.path(), &text, "out", &[]).fails(2, parts);
    }
    let dir = decoder();
    let text = format!("{DECODER}surgery: true\n");
    adapt(dir.path(), &text, "out", &[])
        .fails(2, &["surgery: task `next`", "the model's own words", "leave `surgery` out"]);
    assert!(!dir.path().join("out").exists() && !dir.path().join("out.run").exists());
}

/// Killed while the second correction is learnt: what was learnt before it is there still, and the bytes are those of a run that
/// was let alone.
#[test]
fn a_killed_run_ends_with_the_same_bytes() {
    let dir = experts();
    let dir = dir.path();
    for (out, whole, road) in [("a", "whole-a", ENCODER.to_owned()), ("f", "whole-f", fisher())] {
        let text = format!("{road}surgery: {{rank: 16, steps: 8000}}\n");
        adapt(dir, &text, whole, &[]).ok();
        let mut child = command(dir, &["adapt", "r.yaml", "-o", out])
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .spawn()
            .unwrap();
        let place = dir.join(format!("{out}.run"));
        while !place.join("final/vowels").join(FILE).exists() && child.try_wait().unwrap().is_none() {
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        let _ = std::process::Command::new("kill").args(["-KILL", &child.id().to_string()]).status();
        child.wait().unwrap();
        assert!(place.exists() && !dir.join(out).exists(), "killed too late");
        let ran = adapt(dir, &text, out, &[]).ok();
        let kept = if out == "a" { "going on after step 10" } else { "is measured already" };
        assert!(ran.stderr.contains(kept), "{}", ran.stderr);
        assert!(result(&dir.join(out)) == result(&dir.join(whole)));
        assert_eq!(lines(&dir.join(out)), lines(&dir.join(whole)));
        assert!(!place.exists());
    }
}
