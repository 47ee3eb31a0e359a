use super::*;
use crate::support::{command, read_model};

#[test]
fn a_language_model_is_merged_with_what_was_learnt() {
    let dir = decoder();
    let dir = dir.path();
    let ran = adapt(dir, DECODER, "out", &["--threads", "2"]).ok();
    assert!(ran.stderr.contains("6 steps"), "{}", ran.stderr);
    let file = json_file(&dir.join("out/coefficients.json"));
    assert_eq!(file["models"], json!(["expert-a", "expert-b"]));
    let learnt = file["coefficients"].as_object().unwrap();
    assert_eq!(learnt.len(), read_model(&dir.join("base")).len(), "one entry for each tensor");
    assert!(learnt.values().any(|pair| pair != &json!([0.3, 0.3])), "something was learnt");
    for name in [
        "config.json",
        "tokenizer.json",
        "metrics.jsonl",
        "report.html",
        "README.md",
        "onefold.json",
        "recipe.yaml",
    ] {
        assert!(dir.join("out").join(name).is_file(), "{name}");
    }
    // The recipe beside it makes the same bytes.
    onefold(dir, &["merge", "out/merge.yaml", "-o", "again"]).ok();
    let weights = |out: &str| fs::read(dir.join(out).join("model.safetensors")).unwrap();
    assert!(weights("out") == weights("again"));
    // One thread, shards: the same numbers.
    adapt(dir, DECODER, "one", &["--threads", "1"]).ok();
    assert!(result(&dir.join("one")) == result(&dir.join("out")));
    // It is not made again, and not replaced by something else.
    assert!(adapt(dir, DECODER, "out", &[]).ok().stderr.contains("is there already"));
    let other = DECODER.replace("steps: 6", "steps: 4");
    adapt(dir, &other, "out", &[]).fails(2, &["out", "exists already", "--force"]);
    adapt(dir, &other, "out", &["--force"]).ok();
}

#[test]
fn no_step_is_task_arithmetic() {
    let dir = decoder();
    let dir = dir.path();
    adapt(dir, &DECODER.replace("steps: 6", "steps: 0"), "out", &[]).ok();
    let recipe = "merge_method: task_arithmetic\nbase_model: base\nparameters: {lambda: 1.0, weight: 0.3}\n\
        models: [{model: expert-a}, {model: expert-b}]\n";
    fs::write(dir.join("ta.yaml"), recipe).unwrap();
    onefold(dir, &["merge", "ta.yaml", "-o", "ta"]).ok();
    let weights = |out: &str| fs::read(dir.join(out).join("model.safetensors")).unwrap();
    assert!(weights("out") == weights("ta"));
}

/// Their inner products are taken in low rank; what is learnt is what is learnt of the models that they make.
#[test]
fn experts_may_be_adapters() {
    let dir = decoder();
    let dir = dir.path();
    for name in ["next", "turn"] {
        let recipe = format!(
            "base_model: base\ntasks: [{{name: {name}, train: {name}.jsonl}}]\nadapter: {{r: 3}}\noptimizer: {{lr: 2e-2}}\n\
             batch: {{examples: 4}}\nsteps: 8\nvalidation: false\n"
        );
        fs::write(dir.join("tune.yaml"), recipe).unwrap();
        onefold(dir, &["tune", "tune.yaml", "-o", &format!("lora-{name}")]).ok();
        let whole =
            format!("merge_method: passthrough\ndtype: float32\nmodels: [{{model: base+lora-{name}}}]\n");
        fs::write(dir.join("whole.yaml"), whole).unwrap();
        onefold(dir, &["merge", "whole.yaml", "-o", &format!("whole-{name}")]).ok();
    }
    let learnt = |[a, b]: [&str; 2], out: &str| {
        let recipe = DECODER.replace("expert-a", a).replace("expert-b", b);
        adapt(dir, &recipe, out, &[]).ok();
        json_file(&dir.join(out).join("coefficients.json"))["coefficients"].as_object().unwrap().clone()
    };
    let of_adapters = learnt(["base+lora-next", "base+lora-turn"], "out");
    let of_models = learnt(["whole-next", "whole-turn"], "other");
    let mut moved = 0;
    for (name, pair) in &of_adapters {
        let pairs = [pair, &of_models[name]].map(|pair| [0, 1].map(|k| pair[k].as_f64().unwrap()));
        // A tensor that an adapter does not change has no gradient.
        moved += usize::from(pairs[0] != [0.3, 0.3]);
        let apart = (pairs[0][0] - pairs[1][0]).abs().max((pairs[0][1] - pairs[1][1]).abs());
        assert!(apart < 1e-4, "{name}: {pairs:?}");
    }
    assert!(moved > 0, "something was learnt");
    onefold(dir, &["merge", "out/merge.yaml", "-o", "again"]).ok();
    let weights = |out: &str| fs::read(dir.join(out).join("model.safetensors")).unwrap();
    assert!(weights("out") == weights("again"));
}

#[test]
fn every_head_gets_the_merged_trunk() {
    let dir = experts();
    let dir = dir.path();
    let ran = adapt(dir, ENCODER, "out", &[]).ok();
    assert!(ran.stderr.contains("its expert"), "{}", ran.stderr);
    let (vowels, thirds) = (read_model(&dir.join("out/vowels")), read_model(&dir.join("out/thirds")));
    for (task, model) in [("vowels", &vowels), ("thirds", &thirds)] {
        let expert = read_model(&dir.join(task));
        for (name, tensor) in model {
            let is_head = name.contains("classifier") || name.contains("pooler");
            assert_eq!(*tensor == expert[name], is_head, "{task}: {name}");
            assert_eq!(
                *tensor
                    == [&vowels, &thirds][usize::from(task == "vowels")]
                        .get(name)
                        .cloned()
                        .unwrap_or_else(|| tensor.clone()),
                !is_head || name.contains("position_ids"),
                "{task}: {name}"
            );
        }
        let config = json_file(&dir.join("out").join(task).join("config.json"));
        assert_eq!(config["id2label"], json_file(&dir.join(task).join("config.json"))["id2label"]);
        let again = format!("again-{task}");
        onefold(dir, &["merge", &format!("out/{task}/merge.yaml"), "-o", &again]).ok();
        let weights = |out: &str| fs::read(dir.join(out).join("model.safetensors")).unwrap();
        assert!(weights(&format!("out/{task}")) == weights(&again), "{task}");
    }
    let record = json_file(&dir.join("out/onefold.json"));
    let scores = &record["result"]["tasks"]["thirds"];
    for part in ["expert", "before", "after"] {
        assert!(scores[part]["accuracy"].is_f64(), "{part}: {scores}");
    }
    let page = fs::read_to_string(dir.join("out/report.html")).unwrap();
    assert!(page.contains("Coefficients") && page.contains("Accuracy"));
}

#[test]
fn adamerging_plus_and_other_choices() {
    let dir = experts();
    let dir = dir.path();
    let plus = ENCODER.replace("merge_method: adamerging", "merge_method: adamerging_plus\ndensity: 0.4");
    adapt(dir, &plus, "plus", &[]).ok();
    onefold(dir, &["merge", "plus/thirds/merge.yaml", "-o", "again"]).ok();
    let weights = |out: &str| fs::read(dir.join(out).join("model.safetensors")).unwrap();
    assert!(weights("plus/thirds") == weights("again"));
    for (name, more) in [
        ("model", "granularity: model\ninit: metagpt\n"),
        ("block", "granularity: block\nclamp: none\ninit: [0.2, 0.4]\n"),
        ("normal", "normalize: true\ninit: uniform\n"),
        ("forward", "clamp: forward\n"),
        ("stops", "early_stopping: {patience: 1, min_delta: 0.9}\n"),
        ("frugal", "gradient_checkpointing: true\n"),
    ] {
        adapt(dir, &format!("{ENCODER}{more}"), name, &[]).ok();
        let file = json_file(&dir.join(name).join("coefficients.json"));
        let groups = file["coefficients"].as_object().unwrap();
        match name {
            "model" => assert_eq!(groups.keys().collect::<Vec<_>>(), ["*"]),
            "block" => assert!(groups.contains_key("bert.encoder.layer.0"), "{groups:?}"),
            "normal" => groups.values().for_each(|pair| {
                let sum: f64 = pair.as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).sum();
                assert!((sum - 1.0).abs() < 1e-9, "{sum}");
            }),
            "stops" => assert!(file["steps"].as_u64().unwrap() <= 10),
            _ => {}
        }
    }
    adapt(
        dir,
        &ENCODER.replace("inputs: vowels-in.jsonl, ", "").replace("inputs: thirds-in.jsonl, ", ""),
        "paper",
        &["--transductive"],
    )
    .ok();
}

/// Killed between two saved states, and cancelled: the same command ends with the same bytes.
#[test]
fn a_killed_run_goes_on_as_if_nothing_had_been() {
    let dir = decoder();
    let dir = dir.path();
    let recipe = DECODER.replace("steps: 6", "steps: 300");
    adapt(dir, &recipe, "whole", &[]).ok();
    let expected = result(&dir.join("whole"));
    let latest = || -> Option<u64> {
        let names = fs::read_dir(dir.join("out.run")).ok()?.flatten().map(|entry| entry.file_name());
        names.filter_map(|name| name.to_str()?.strip_prefix("checkpoint-")?.parse().ok()).max()
    };
    let mut seen = None;
    for round in 0..6 {
        let mut child = command(dir, &["adapt", "r.yaml", "-o", "out"])
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .spawn()
            .unwrap();
        while latest() <= seen && child.try_wait().unwrap().is_none() {
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        let signal = if round % 2 == 0 { "-KILL" } else { "-INT" };
        let _ = std::process::Command::new("kill").args([signal, &child.id().to_string()]).status();
        child.wait().unwrap();
        seen = latest();
    }
    onefold(dir, &["adapt", "r.yaml", "-o", "out"]).ok();
    assert!(result(&dir.join("out")) == expected);
    assert!(!dir.join("out.run").exists());
}

#[test]
fn a_dry_run_shows_the_plan_and_makes_nothing() {
    let dir = experts();
    let dir = dir.path();
    let ran = adapt(dir, ENCODER, "out", &["--dry-run"]).ok();
    for part in [
        "plan (nothing was done)",
        "coefficients",
        "vowels",
        "26 inputs, scored on 52",
        "merged model",
        "of experts in a step",
    ] {
        assert!(ran.stdout.contains(part), "{part}: {}", ran.stdout);
    }
    let plan = adapt(dir, ENCODER, "out", &["--dry-run", "--json"]).ok();
    let line = plan.stdout.lines().find(|line| line.contains("\"plan\"")).unwrap();
    let plan: Value = serde_json::from_str(line).unwrap();
    assert_eq!(plan["data"]["experts"], 2);
    assert!(!dir.join("out").exists() && !dir.join("out.run").exists());
    adapt(dir, ENCODER, "out", &["--max-memory", "10MB"]).fails(2, &["--max-memory", "learning needs"]);
}
