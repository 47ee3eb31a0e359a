//! Language models side by side.

use super::*;

#[test]
fn models_are_scored_side_by_side() {
    let dir = decoders();
    let dir = dir.path();
    let args = [
        "a",
        "b",
        "--base",
        "base",
        "--expert",
        "pick=expert",
        "--expert",
        "text=a",
        "-o",
        "out",
        "--threads",
        "1",
    ];
    let ran = eval(dir, TASKS, &args).ok();
    for part in [
        "pick",
        "acc_norm",
        "of its expert",
        "mean of its experts",
        "differences",
        "mcnemar",
        "skills of the base",
    ] {
        assert!(ran.stdout.contains(part), "{part}: {}", ran.stdout);
    }
    let out = dir.join("out");
    let found = result(&out);
    let names: Vec<&str> =
        found["models"].as_array().unwrap().iter().map(|model| model["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["a", "b", "expert", "a-2", "base"]);
    // A model is its own expert: all of it.
    assert_eq!(found["tasks"][1]["of_expert"]["a"], 1.0);
    assert_eq!(score(&found, "text", "a", "bits_per_byte"), score(&found, "text", "a-2", "bits_per_byte"));
    let bits = score(&found, "text", "b", "bits_per_byte");
    assert!((score(&found, "text", "b", "byte_perplexity") - bits.exp2()).abs() < 1e-9);
    assert_eq!(found["guard"].as_array().unwrap().len(), 2);

    let results = json_file(&out.join("a/results_onefold.json"));
    assert_eq!(results["results"]["pick"]["acc,none"], score(&found, "pick", "a", "acc"));
    assert!(results["results"]["write"]["exact_match,letter"].is_f64(), "{results}");
    assert_eq!(results["higher_is_better"]["text"]["bits_per_byte"], false);
    assert_eq!(results["n-samples"]["mood"], json!({"original": 30, "effective": 30}));
    assert_eq!((&results["model_source"], &results["versions"]["pick"]), (&json!("onefold"), &json!(1.0)));
    let samples = lines(&out.join("a/samples_pick_onefold.jsonl"));
    let right: f64 = samples.iter().map(|line| line["acc"].as_f64().unwrap()).sum();
    assert!((right / 40.0 - score(&found, "pick", "a", "acc")).abs() < 1e-12);
    assert_eq!(samples[3]["doc"]["answer"], samples[3]["target"]);
    assert_eq!(samples[3]["arguments"].as_object().unwrap().len(), 4);
    assert_eq!(samples[0]["doc_hash"].as_str().unwrap().len(), 64);
    let written = lines(&out.join("b/samples_write_onefold.jsonl"));
    assert_eq!(written[0]["filtered_resps"].as_array().unwrap().len(), 2);
    for name in [
        "report.html",
        "tasks.yaml",
        "lm_eval/pick.yaml",
        "lm_eval/pick.jsonl",
        "base/samples_mood_onefold.jsonl",
    ] {
        assert!(out.join(name).is_file(), "{name}");
    }
    assert!(!dir.join("out.run").exists());
    let task = fs::read_to_string(out.join("lm_eval/write.yaml")).unwrap();
    for part in ["output_type: generate_until", "max_gen_toks: 6", "[a-z]", "take_first"] {
        assert!(task.contains(part), "{part}: {task}");
    }

    // Threads change nothing; the same command again does nothing but tell the scores.
    eval(dir, TASKS, &[&args[..args.len() - 3], &["two", "--threads", "2"]].concat()).ok();
    let same = |name: &str| files(&dir.join(name));
    for ((name, one), (_, two)) in same("out").iter().zip(&same("two")) {
        assert!(one == two, "{name}");
    }
    assert_eq!(same("out").len(), same("two").len());
    let again = eval(dir, TASKS, &args).ok();
    assert!(again.stderr.contains("is there already") && again.stdout == ran.stdout, "{}", again.stderr);
    // Without -o they are told and nothing is written.
    let before = fs::read_dir(dir).unwrap().count();
    let told = eval(dir, TASKS, &args[..args.len() - 4]).ok();
    assert_eq!((told.stdout, fs::read_dir(dir).unwrap().count()), (ran.stdout, before));
}

/// Choices and texts by the model's own arithmetic, as the harness gives them for the same rows: `testdata/eval/harness.json`.
#[test]
fn the_harness_finds_the_same() {
    let dir = decoders();
    let dir = dir.path();
    eval(dir, TASKS, &["a", "b", "--base", "base", "-o", "out"]).ok();
    let golden = json_file(&testdata("eval/harness.json"));
    for model in ["a", "b"] {
        for (task, scores) in golden[model].as_object().unwrap() {
            for (metric, expected) in scores.as_object().unwrap() {
                let file = json_file(&dir.join(format!("out/{model}/results_onefold.json")));
                // What the harness calls accuracy of choices is that of the words' classes here.
                let name = if task == "mood" { metric.replace("acc,", "accuracy,") } else { metric.clone() };
                let ours = file["results"][task][&name].as_f64();
                let ours = ours.unwrap_or_else(|| panic!("{model} {task} {name}: {file}"));
                let expected = expected.as_f64().unwrap();
                assert!(
                    (ours - expected).abs() < 1e-5 * expected.abs().max(1.0),
                    "{model} {task} {metric}: {ours}, {expected}"
                );
            }
        }
    }
    assert_eq!(golden["a"].as_object().unwrap().len(), 4);
}

#[test]
fn a_limit_that_is_broken_is_exit_code_3() {
    let dir = decoders();
    let dir = dir.path();
    let strict = TASKS.replace("name: text,", "name: text, share: 0, limit: 0,");
    let args = ["a", "--base", "base", "-o", "out"];
    let ran = eval(dir, &strict, &args);
    let found = result(&dir.join("out"));
    // One of the two ways round is worse.
    let bits = |model: &str| score(&found, "text", model, "bits_per_byte");
    let worse = bits("a") > bits("base");
    assert_eq!(ran.code, Some(if worse { 3 } else { 0 }), "{}", ran.stderr);
    let back = eval(dir, &strict, &["base", "--base", "a", "-o", "back"]);
    assert_eq!(back.code, Some(if worse { 0 } else { 3 }), "{}", back.stderr);
    let broken = if worse { &ran } else { &back };
    broken.fails(3, &["task `text`", "has lost", "bits_per_byte", "the limit is 0"]);
    assert!(dir.join("out/report.html").is_file() && dir.join("back/report.html").is_file());
    // Told again from what is there.
    let again = eval(dir, &strict, &args);
    assert_eq!(again.code, ran.code);
}

#[test]
fn a_dry_run_does_nothing() {
    let dir = decoders();
    let ran = eval(dir.path(), TASKS, &["a", "b", "--base", "base", "-o", "out", "--dry-run"]).ok();
    for part in ["pick", "kind     choice", "rows     40", "models   a, b, base", "bootstrap: 50"] {
        assert!(ran.stdout.contains(part), "{part}: {}", ran.stdout);
    }
    assert!(!dir.path().join("out").exists());
    let ran = eval(dir.path(), TASKS, &["a", "--base", "base", "--dry-run", "--json"]).ok();
    assert!(ran.stdout.contains(r#""event":"plan""#), "{}", ran.stdout);
}

/// Conversations and prompts: what follows them is scored, and tokens do not matter.
#[test]
fn what_follows_a_prompt_is_scored() {
    let dir = decoders();
    let dir = dir.path();
    let tasks = "tasks:\n- {name: after, test: write.jsonl, kind: perplexity}\n- {name: part, test: text.jsonl, samples: 5}\nbatch: {length: 8}\n";
    let ran = eval(dir, tasks, &["a", "-o", "out"]).ok();
    assert!(ran.stderr.contains("rows read in windows"), "{}", ran.stderr);
    let found = result(&dir.join("out"));
    assert!(score(&found, "after", "a", "bits_per_byte") > 0.0);
    assert_eq!(found["tasks"][1]["rows"], 5);
    // The harness has no such tasks.
    assert!(!dir.join("out/lm_eval/after.yaml").exists() && dir.join("out/lm_eval/part.yaml").exists());
    let rows_of = lines(&dir.join("out/a/samples_part_onefold.jsonl"));
    assert_eq!(rows_of.len(), 5);
}
