//! Fisher merging, mask nodes and RegMean: experts are measured, nothing is learnt.

use super::*;
use crate::support::{command, read_file, read_model};

const MEASURED: &str = "merge_method: fisher\n\
    base_model: bert\n\
    models: [{model: vowels, task: vowels}, {model: thirds, task: thirds}]\n\
    tasks:\n\
    - {name: vowels, inputs: vowels-in.jsonl, test: vowels.jsonl}\n\
    - {name: thirds, inputs: thirds-in.jsonl, test: thirds.jsonl}\n";

/// The same with inputs that have labels, and nothing to score with.
fn labelled(method: &str) -> String {
    let text = MEASURED.replace("test: vowels.jsonl", "max_bad_rows: 0").replace("-in.jsonl", ".jsonl");
    text.replace(", test: thirds.jsonl", "").replace("fisher", method)
}

fn weights(dir: &Path, out: &str) -> Vec<u8> {
    fs::read(dir.join(out).join("model.safetensors")).unwrap()
}

/// Every product is made again by the recipe beside it.
#[track_caller]
fn made_again(dir: &Path, out: &str) {
    for task in ["vowels", "thirds"] {
        let again = format!("again-{out}-{task}");
        onefold(dir, &["merge", &format!("{out}/{task}/merge.yaml"), "-o", &again]).ok();
        assert!(weights(dir, &format!("{out}/{task}")) == weights(dir, &again), "{out}/{task}");
    }
}

#[test]
fn fisher_measures_merges_and_scores() {
    let dir = experts();
    let dir = dir.path();
    let ran = adapt(dir, MEASURED, "out", &["--threads", "2"]).ok();
    for part in ["2 experts measured", "its expert", "the plain mean: "] {
        assert!(ran.stderr.contains(part), "{part}: {}", ran.stderr);
    }
    made_again(dir, "out");
    let (vowels, thirds) = (read_model(&dir.join("out/vowels")), read_model(&dir.join("out/thirds")));
    let expert = read_model(&dir.join("vowels"));
    assert_eq!(vowels["classifier.weight"], expert["classifier.weight"]);
    assert_ne!(vowels["classifier.weight"].shape, thirds["classifier.weight"].shape);
    let query = "bert.encoder.layer.0.attention.self.query.weight";
    assert_eq!(vowels[query], thirds[query]);
    // The mean of the two weighed by what the files say.
    let other = read_model(&dir.join("thirds"))[query].values();
    let file =
        |task: &str| read_file(&dir.join(format!("out/statistics/{task}.safetensors")))[query].values();
    let (f, g) = (file("vowels"), file("thirds"));
    for (i, (a, b)) in expert[query].values().iter().zip(&other).enumerate() {
        let (f, g) = (f64::from(f[i]) + 1e-6, f64::from(g[i]) + 1e-6);
        let mean = (f * f64::from(*a) + g * f64::from(*b)) / (f + g);
        assert!((f64::from(vowels[query].values()[i]) - mean).abs() < 1e-6, "{i}");
    }
    let record = json_file(&dir.join("out/onefold.json"));
    let measured = &record["result"]["measured"][1];
    assert_eq!(measured["task"], "thirds");
    assert_eq!(measured["examples"], 26);
    assert_eq!(measured["options"]["fisher"], "exact");
    for part in ["expert", "before", "after"] {
        assert!(record["result"]["tasks"]["thirds"][part]["accuracy"].is_f64(), "{part}: {record}");
    }
    let page = fs::read_to_string(dir.join("out/report.html")).unwrap();
    assert!(page.contains(">Measured</h2>") && !page.contains(">Coefficients</h2>"));
    assert_eq!(
        crate::support::listing(&dir.join("out")),
        [
            "README.md",
            "metrics.jsonl",
            "onefold.json",
            "recipe.yaml",
            "report.html",
            "statistics",
            "thirds",
            "vowels"
        ]
    );
    // The log says the same however often, and no thread changes a bit.
    adapt(dir, MEASURED, "one", &["--threads", "1"]).ok();
    assert!(result(&dir.join("one")) == result(&dir.join("out")));
    let log = |out: &str| fs::read(dir.join(out).join("metrics.jsonl")).unwrap();
    assert!(log("one") == log("out"));
    assert!(adapt(dir, MEASURED, "out", &[]).ok().stderr.contains("is there already"));
    adapt(dir, &MEASURED.replace("fisher", "regmean"), "out", &[]).fails(2, &["exists already", "--force"]);
    // What was measured serves any merge of these experts.
    let recipe = "merge_method: fisher\nparameters: {normalize: true}\nhead: {model: vowels, tensors: [classifier, bert.pooler]}\n\
        models:\n- {model: vowels, statistics: out/statistics/vowels.safetensors}\n\
        - {model: thirds, statistics: out/statistics/thirds.safetensors}\n";
    crate::support::merge(dir, recipe, "normal", &[]).ok();
}

#[test]
fn every_way_of_measuring() {
    let dir = experts();
    let dir = dir.path();
    let regmean = MEASURED.replace("fisher", "regmean\nratio: 0.5");
    for (name, text) in [
        ("regmean", regmean.clone()),
        ("batch", format!("{MEASURED}statistics: {{kind: batch_summed, batch: 5}}\nfloor: 1e-4\n")),
        ("drawn", format!("{MEASURED}statistics: {{enumerate: 0, draws: 2}}\nnormalize: true\n")),
        ("weighed", MEASURED.replace("task: vowels}", "task: vowels, weight: 3}")),
        ("empirical", format!("{}statistics: {{kind: empirical}}\n", labelled("fisher"))),
        ("nodes", labelled("fisher_nodes")),
        ("single", format!("{}statistics: {{batch: 1}}\nmean_elsewhere: true\n", labelled("fisher_nodes"))),
    ] {
        adapt(dir, &text, name, &[]).ok();
        made_again(dir, name);
    }
    let models = ["regmean", "batch", "drawn", "weighed", "empirical", "nodes", "single"]
        .map(|name| weights(dir, &format!("{name}/vowels")));
    for (i, model) in models.iter().enumerate() {
        assert!(models[..i].iter().all(|other| other != model), "{i}");
    }
    let nodes = read_file(&dir.join("nodes/statistics/vowels.safetensors"));
    assert_eq!(nodes["0.heads"].shape, [4]);
    assert!(nodes["1.neurons"].values().iter().any(|f| *f > 0.0));
    // At a ratio of 0 an input is averaged by its mean square; at the default the map is another.
    let other = adapt(dir, &regmean.replace("ratio: 0.5", "ratio: 0"), "diagonal", &[]).ok();
    assert!(other.stderr.contains("2 experts measured"));
    assert!(weights(dir, "diagonal/vowels") != models[0]);
    // No drawn label: the seed has no part.
    adapt(dir, &regmean, "seed", &["--seed", "5"]).ok();
    assert!(weights(dir, "seed/vowels") == models[0]);
    adapt(
        dir,
        &format!("{MEASURED}statistics: {{enumerate: 0, draws: 2}}\nnormalize: true\n"),
        "s5",
        &["--seed", "5"],
    )
    .ok();
    assert!(weights(dir, "s5/vowels") != models[2]);
    let transductive =
        MEASURED.replace("inputs: vowels-in.jsonl, ", "").replace("inputs: thirds-in.jsonl, ", "");
    adapt(dir, &transductive, "paper", &["--transductive"]).ok();
}

#[test]
fn language_models_are_merged_whole() {
    let dir = decoder();
    let dir = dir.path();
    for (method, more) in [("fisher", "statistics: {draws: 2}\n"), ("fisher_nodes", ""), ("regmean", "")] {
        let text = format!(
            "merge_method: {method}\nbase_model: base\nmodels: [{{model: expert-a, task: next}}, {{model: expert-b, task: turn}}]\n\
             tasks:\n- {{name: next, inputs: next.jsonl, test: next-test.jsonl, samples: 10}}\n- {{name: turn, inputs: turn.jsonl}}\n{more}"
        );
        adapt(dir, &text, method, &["--threads", "2"]).ok();
        onefold(dir, &["merge", &format!("{method}/merge.yaml"), "-o", &format!("again-{method}")]).ok();
        assert!(weights(dir, method) == weights(dir, &format!("again-{method}")), "{method}");
        let record = json_file(&dir.join(method).join("onefold.json"));
        assert_eq!(record["result"]["measured"][0]["examples"], 10, "{method}");
        assert!(record["result"]["tasks"]["next"]["after"]["loss"].is_f64(), "{method}");
        adapt(dir, &text, &format!("one-{method}"), &["--threads", "1"]).ok();
        assert!(result(&dir.join(method)) == result(&dir.join(format!("one-{method}"))), "{method}");
    }
}

#[test]
fn a_dry_run_of_measuring_makes_nothing() {
    let dir = experts();
    let dir = dir.path();
    let ran = adapt(dir, MEASURED, "out", &["--dry-run"]).ok();
    for part in [
        "plan (nothing was done)",
        "the Fisher information of each model on its own inputs (kind exact)",
        "26 inputs, scored on 52",
    ] {
        assert!(ran.stdout.contains(part), "{part}: {}", ran.stdout);
    }
    let plan = adapt(dir, MEASURED, "out", &["--dry-run", "--json"]).ok();
    let line = plan.stdout.lines().find(|line| line.contains("\"plan\"")).unwrap();
    let plan: Value = serde_json::from_str(line).unwrap();
    assert_eq!(plan["data"]["how"]["kind"], "exact");
    assert!(!dir.join("out").exists() && !dir.join("out.run").exists());
    adapt(dir, MEASURED, "out", &["--max-memory", "10MB"]).fails(2, &["--max-memory", "measuring needs"]);
}

#[test]
fn measuring_that_cannot_be_is_refused() {
    let dir = experts();
    let dir = dir.path();
    fs::write(dir.join("empty.jsonl"), "").unwrap();
    for (text, parts) in [
        (MEASURED.replace("fisher", "fisher_nodes"), &["task `vowels`", "labels are needed here"][..]),
        (format!("{MEASURED}statistics: {{kind: empirical}}\n"), &["task `vowels`"]),
        (
            MEASURED.replace("vowels-in", "vowels").replace("test: vowels.jsonl", "max_bad_rows: 0"),
            &["labels_in_inputs: ignore"],
        ),
        (MEASURED.replace("vowels-in", "empty"), &["vowels"]),
        (MEASURED.replace(", task: thirds", ""), &["no `task` for the model `thirds`"]),
        (MEASURED.replace("base_model: bert\n", ""), &["no `base_model`"]),
        (format!("{MEASURED}steps: 5\n"), &["`steps` has no effect", "learns nothing"]),
        (
            format!("{MEASURED}optimizer: {{lr: 1}}\nclamp: none\n"),
            &["`optimizer` has no effect", "`clamp` has no effect"],
        ),
        (format!("{ENCODER}statistics: {{kind: exact}}\n"), &["`statistics` has no effect"]),
        (format!("{ENCODER}ratio: 1\n"), &["`ratio` has no effect"]),
        (format!("{MEASURED}ratio: 0.5\n"), &["`ratio` has no effect"]),
    ] {
        adapt(dir, &text, "out", &[]).fails(2, parts);
        assert!(!dir.join("out").exists() && !dir.join("out.run").exists(), "{text}");
    }
}

/// A task that was measured before the run was killed is not measured again.
#[test]
fn a_killed_run_keeps_what_it_measured() {
    let dir = experts();
    let dir = dir.path();
    let many = |name: &str| {
        let texts = (0..3000u32).map(|i| json!({"text": format!("{}zz", char::from(b'a' + (i % 26) as u8))}));
        rows(dir, name, texts);
    };
    many("vowels-in.jsonl");
    many("thirds-in.jsonl");
    let text = MEASURED.replace("-in.jsonl", "-in.jsonl, samples: 3000");
    adapt(dir, &text, "whole", &[]).ok();
    let part = dir.join("out.run/part-vowels/statistics.safetensors");
    let mut child = command(dir, &["adapt", "r.yaml", "-o", "out"])
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    while !part.exists() && child.try_wait().unwrap().is_none() {
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    let _ = std::process::Command::new("kill").args(["-KILL", &child.id().to_string()]).status();
    child.wait().unwrap();
    assert!(part.exists() && !dir.join("out").exists(), "killed too late");
    let written = fs::metadata(&part).unwrap().modified().unwrap();
    // It is no other job's.
    adapt(dir, &text.replace("fisher", "regmean"), "out", &[]).fails(2, &["out.run"]);
    let ran = adapt(dir, &text, "out", &[]).ok();
    assert!(ran.stderr.contains("the expert of vowels is measured already"), "{}", ran.stderr);
    assert!(!ran.stderr.contains("the expert of thirds is measured already"), "{}", ran.stderr);
    let kept = dir.join("out/statistics/vowels.safetensors");
    assert_eq!(fs::metadata(kept).unwrap().modified().unwrap(), written);
    assert!(result(&dir.join("out")) == result(&dir.join("whole")));
    assert!(!dir.join("out.run").exists());
}
