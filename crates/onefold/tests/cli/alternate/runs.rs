//! Whole runs: what comes out, and what is written down.

use std::fs;

use serde_json::{Value, json};

use super::{DECODER, alternate, experts, weights};
use crate::support::{assert_close, json_file, merged, onefold, read_file, read_model, testdata};
use crate::tune::{decoder, files, metrics};

fn of_kind<'l>(lines: &'l [Value], kind: &str) -> Vec<&'l Value> {
    lines.iter().filter(|line| line["kind"] == kind).collect()
}

#[test]
fn rounds_learn_and_tell_how_it_went() {
    let dir = decoder();
    let ran = alternate(dir.path(), DECODER, "out", &[]).ok();
    assert!(ran.stderr.contains("after round 3: next "), "{}", ran.stderr);
    let out = dir.path().join("out");
    let expected = [
        "README.md",
        "config.json",
        "metrics.jsonl",
        "model.safetensors",
        "onefold.json",
        "recipe.yaml",
        "report.html",
        "runs/events.out.tfevents.onefold",
        "tokenizer.json",
    ];
    for name in expected {
        assert!(files(&out).contains(&name.to_owned()), "{name}");
    }
    assert!(!dir.path().join("out.run").exists());
    let lines = metrics(&out);
    let scores = of_kind(&lines, "validation");
    assert_eq!(scores.len(), 4, "the first model, and three rounds");
    for task in ["next", "turn"] {
        let loss = |at: usize| scores[at]["tasks"][task]["loss"].as_f64().unwrap();
        assert!(loss(3) < 0.6 * loss(0) && loss(3) < loss(1), "{task}");
    }
    let rounds = of_kind(&lines, "round");
    assert_eq!(rounds.iter().map(|line| line["round"].clone()).collect::<Vec<_>>(), [1, 2, 3]);
    for (number, round) in rounds.iter().enumerate() {
        let cosine = round["cosines"][0][1].as_f64().unwrap();
        assert!(
            round["cosines"][0][0].as_f64().is_some_and(|one| (one - 1.0).abs() < 1e-9) && cosine.abs() < 1.0
        );
        assert!((round["mean_cosine"].as_f64().unwrap() - cosine.abs()).abs() < 1e-12);
        assert!((0.0..=1.0).contains(&round["sign_agreement"].as_f64().unwrap()));
        assert_eq!(round["previous"]["next"].is_null(), number == 0);
        assert_eq!(round["coefficients"], json!([0.5, 0.5]));
    }
    for tuned in of_kind(&lines, "tuned") {
        let (task, round) = (tuned["task"].as_str().unwrap(), tuned["round"].as_u64().unwrap());
        let norm = rounds[round as usize - 1]["norms"][task].as_f64().unwrap();
        assert!((tuned["norm"].as_f64().unwrap() / norm - 1.0).abs() < 1e-5);
        // Of two epochs.
        assert!((0.2..1.0).contains(&tuned["first_epoch"].as_f64().unwrap()), "{tuned}");
    }
    let record = json_file(&out.join("onefold.json"));
    assert_eq!((&record["kind"], &record["recipe"]["rounds"]), (&json!("alternate"), &json!(3)));
    let budget = &record["result"]["budget"];
    assert_eq!(
        (&budget["task_epochs"], &budget["tunings"], &budget["transfers"]),
        (&json!(12.0), &json!(6), &json!(12))
    );
    assert_eq!(record["result"]["validation"]["next"]["start"], scores[0]["tasks"]["next"]);
    let card = fs::read_to_string(out.join("README.md")).unwrap();
    assert!(card.contains("tuned one by one and merged by `task_arithmetic` in each of 3 rounds"), "{card}");
    onefold(dir.path(), &["inspect", "out"]).ok();
}

/// `testdata/golden/atm.json`: what a budget of ten epochs of each task is, however it is split.
#[test]
fn budgets_are_counted_as_the_golden_has_it() {
    let dir = decoder();
    let golden = json_file(&testdata("golden/atm.json"));
    let recipe = "base_model: base\ntasks: [{name: a, train: next.jsonl}, {name: b, train: turn.jsonl}, {name: c, train: turn.jsonl}]\n";
    for split in golden["budget"].as_array().unwrap() {
        let of = |key: &str| split[key].as_u64().unwrap();
        let (rounds, epochs) =
            (format!("rounds={}", of("iterations")), format!("budget.epochs={}", of("epochs")));
        let more = ["--dry-run", "--json", "--set", &rounds, "--set", &epochs];
        let ran = alternate(dir.path(), recipe, "out", &more).ok();
        let mut events = ran.stdout.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        let plan = events.rfind(|event| event["event"] == "plan").unwrap()["data"].clone();
        assert_eq!(plan["task_epochs"].as_f64(), split["task_epochs_total"].as_f64(), "{split}");
        assert_eq!(
            (plan["tunings"].as_u64(), plan["merges"].as_u64()),
            (Some(of("models_trained")), Some(of("merges")))
        );
        assert!(!dir.path().join("out.run").exists() && !dir.path().join("out").exists());
    }
}

#[test]
fn any_method_that_takes_vectors_merges_them() {
    let dir = decoder();
    let dir = dir.path();
    let mut seen = Vec::new();
    for (method, parameters) in [
        ("task_arithmetic", "weight: 0.7"),
        ("ties", "density: 0.3"),
        ("breadcrumbs", "density: 0.8, gamma: 0.01"),
        ("dare_linear", "density: 0.5"),
        ("metagpt", ""),
        ("pcgrad", ""),
        ("model_stock", ""),
        ("tsv_m", ""),
    ] {
        let set = format!("merge={{method: {method}, parameters: {{{parameters}}}, alpha: 0.8}}");
        alternate(dir, DECODER, method, &["--set", "rounds=2", "--set", &set]).ok();
        let found = weights(&dir.join(method));
        assert!(!seen.contains(&found), "{method}");
        seen.push(found);
    }
    // MetaGPT's coefficients are those of each round's vectors.
    let lines = metrics(&dir.join("metagpt"));
    let coefficients: Vec<_> =
        of_kind(&lines, "round").iter().map(|line| line["coefficients"].clone()).collect();
    assert_ne!(coefficients[0], coefficients[1]);
}

#[test]
fn an_optimizer_is_new_in_each_round_or_carried_on() {
    let dir = decoder();
    let dir = dir.path();
    alternate(dir, DECODER, "fresh", &[]).ok();
    alternate(dir, DECODER, "carried", &["--set", "optimizer_state=carried"]).ok();
    assert_ne!(weights(&dir.join("fresh")), weights(&dir.join("carried")));
    // In the first round there is nothing to carry.
    for (out, state) in [("a", "fresh"), ("b", "carried")] {
        let state = format!("optimizer_state={state}");
        alternate(dir, DECODER, out, &["--set", "rounds=1", "--set", &state]).ok();
    }
    assert_eq!(weights(&dir.join("a")), weights(&dir.join("b")));
}

#[test]
fn adapters_are_folded_or_stand_side_by_side() {
    let dir = decoder();
    let dir = dir.path();
    let recipe = format!("{DECODER}adapter: {{kind: rslora, r: 4}}\n");
    alternate(dir, &recipe, "folded", &[]).ok();
    alternate(dir, &recipe, "beside", &["--set", "merge.adapters=concatenate"]).ok();
    let config = json_file(&dir.join("beside/adapter_config.json"));
    assert_eq!(
        (&config["r"], &config["use_rslora"]),
        (&json!(3 * 2 * 4), &json!(false)),
        "rounds × tasks × r"
    );
    let factors = read_file(&dir.join("beside/adapter_model.safetensors"));
    let q = |part: &str| {
        factors[&format!("base_model.model.model.layers.0.self_attn.q_proj.lora_{part}.weight")].shape.clone()
    };
    assert_eq!((q("A")[0], q("B")[1]), (24, 24));
    let applied = merged(dir, "merge_method: passthrough\nmodels: [{model: base+beside}]\n", "applied", &[]);
    let folded = read_model(&dir.join("folded"));
    assert_close(&folded, &applied, 1e-5, "the sum of the products");
    assert_ne!(folded, read_model(&dir.join("base")));
    // What DoRA adds is folded, too.
    alternate(dir, &recipe.replace("rslora", "dora"), "dora", &["--set", "rounds=1"]).ok();
}

#[test]
fn a_merged_model_is_refined_by_validation_rows() {
    let dir = decoder();
    let dir = dir.path();
    experts(dir);
    let merge = "merge_method: task_arithmetic\nbase_model: base\nmodels: [{model: expert1, parameters: {weight: 0.5}}, {model: expert2, \
                 parameters: {weight: 0.5}}]\n";
    let tasks = "tasks:\n- {name: turn, validation: turn.jsonl, dev: next.jsonl}\n- {name: next, train: nowhere.jsonl, validation: next.jsonl}\n\
                 data: validation\nrounds: 2\noptimizer: {lr: 1e-2}\nbatch: {examples: 8}\n";
    let inline: String = merge.lines().map(|line| format!("  {line}\n")).collect();
    alternate(dir, &format!("start:\n{inline}{tasks}"), "out", &[]).ok();
    let scored = &json_file(&dir.join("out/onefold.json"))["result"]["validation"];
    assert!(scored["turn"]["start"]["loss"].as_f64().is_some() && scored["next"].is_null(), "{scored}");
    fs::write(dir.join("start.yaml"), merge).unwrap();
    let of_file = format!("start: start.yaml\n{tasks}");
    alternate(dir, &of_file, "file", &[]).ok();
    assert_eq!(weights(&dir.join("out")), weights(&dir.join("file")));
    onefold(dir, &["merge", "start.yaml", "-o", "merged"]).ok();
    alternate(dir, &format!("base_model: merged\n{tasks}"), "named", &[]).ok();
    assert_eq!(weights(&dir.join("out")), weights(&dir.join("named")));
    let again = alternate(dir, &of_file, "file", &[]).ok();
    assert!(again.stderr.contains("is there already"), "{}", again.stderr);
    // Rows that are held back from others serve as well.
    let held = format!(
        "base_model: merged\n{}",
        tasks
            .replace("dev: next.jsonl", "train: turn.jsonl")
            .replace("validation: turn.jsonl", "validation: 0.5")
    );
    alternate(dir, &held, "held", &[]).ok();
    let lines = metrics(&dir.join("held"));
    assert_eq!(of_kind(&lines, "tuned").iter().find(|line| line["task"] == "turn").unwrap()["rows"], 20);
}

#[test]
fn rounds_end_when_there_is_no_progress_and_the_best_is_kept() {
    let dir = decoder();
    let dir = dir.path();
    let stop = "early_stop={patience: 1, min_delta: 0.5}";
    let ran = alternate(dir, DECODER, "out", &["--set", "rounds=6", "--set", stop]).ok();
    assert!(ran.stderr.contains("ended early: no progress in 1 round"), "{}", ran.stderr);
    let result = json_file(&dir.join("out/onefold.json"))["result"].clone();
    let kept = result["kept"].as_u64().unwrap();
    assert_eq!(result["rounds"], kept + 1);
    alternate(dir, DECODER, "short", &["--set", &format!("rounds={kept}")]).ok();
    assert_eq!(weights(&dir.join("out")), weights(&dir.join("short")));
}

#[test]
fn rounds_stay_where_they_are_wanted() {
    let dir = decoder();
    let dir = dir.path();
    alternate(dir, DECODER, "out", &["--set", "keep_rounds=true"]).ok();
    let found = files(&dir.join("out/rounds"));
    for round in 1..=3 {
        for name in ["model/model.safetensors", "next/vector.safetensors", "turn/metrics.jsonl", "round.json"]
        {
            assert!(found.contains(&format!("round-{round:03}/{name}")), "{round} {name}: {found:?}");
        }
    }
    assert_eq!(read_model(&dir.join("out/rounds/round-003/model")), read_model(&dir.join("out")));
    onefold(dir, &["inspect", "out/rounds/round-002/model"]).ok();
}
