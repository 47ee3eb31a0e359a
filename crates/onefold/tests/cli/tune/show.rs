//! What is shown: dry runs, JSON lines, silence, and the table of balancers.

use serde_json::Value;

use super::{DECODER, decoder, encoder, tune};
use crate::support::{listing, onefold, temp};

#[test]
fn a_dry_run_shows_the_plan_and_makes_nothing() {
    let dir = decoder();
    let recipe = format!("{DECODER}adapter: {{r: 4}}\n");
    let before = listing(dir.path()).len();
    let shown = tune(dir.path(), &recipe, "out", &["--dry-run"]).ok();
    for part in [
        "nothing was done",
        "balancer     uniform",
        "16 of 8 rows, 4 at once; 2.00 epochs",
        "cosine after a warm-up of 1 step, down to 0.1",
        "3360 of 13584 numbers",
        "an adapter",
        "memory",
        "activations",
        "next: 30 of 30 rows per epoch",
        "turn: 32 of 32 rows per epoch",
        "tokens",
    ] {
        assert!(shown.stdout.contains(part), "`{part}` is not in:\n{}", shown.stdout);
    }
    assert!(shown.stderr.contains("example:"), "{}", shown.stderr);
    assert_eq!(listing(dir.path()).len(), before + 1, "the recipe alone is new");
    let json = tune(dir.path(), &recipe, "out", &["--dry-run", "--json"]).ok().stdout;
    let events: Vec<Value> = json.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let plan = &events.iter().find(|event| event["event"] == "plan").unwrap()["data"];
    assert_eq!((plan["steps"].as_u64(), plan["trained_parameters"].as_u64()), (Some(16), Some(3360)));
    assert_eq!(plan["tasks"][0]["name"], "next");
    assert_eq!(plan["recipe"]["adapter"]["r"], 4);
    let parts = plan["memory"]["parts"].as_object().unwrap();
    let sum: u64 = parts.values().map(|bytes| bytes.as_u64().unwrap()).sum();
    assert_eq!(sum + plan["memory"]["program"].as_u64().unwrap(), plan["peak_memory"].as_u64().unwrap());
}

#[test]
fn too_little_memory_is_known_before_anything_is_made() {
    let dir = decoder();
    for more in [&["--max-memory", "20MB"][..], &["--max-memory", "20MB", "--dry-run"]] {
        tune(dir.path(), DECODER, "out", more)
            .fails(2, &["--max-memory 20.00 MB", "activations", "batch.micro"]);
    }
    assert!(!dir.path().join("out.run").exists());
    tune(dir.path(), DECODER, "out", &["--max-memory", "1GB"]).ok();
}

#[test]
fn json_lines_and_silence() {
    let dir = decoder();
    let ran = tune(dir.path(), DECODER, "out", &["--json"]).ok();
    let events: Vec<Value> = ran
        .stdout
        .lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}")))
        .collect();
    let of = |kind: &'static str| {
        events.iter().filter(move |event| event["event"] == kind).map(|event| &event["data"])
    };
    assert_eq!(of("steps").next().unwrap()["steps"], 16);
    assert!(of("figures").any(|line| line["kind"] == "train" && line["tasks"]["turn"]["loss"].is_number()));
    assert!(of("figures").any(|line| line["kind"] == "validation"));
    assert_eq!(of("result").next().unwrap()["steps"], 16);
    assert_eq!(of("done").next().unwrap(), "out");
    assert_eq!(of("data").next().unwrap()["tasks"].as_array().unwrap().len(), 2);
    assert!(ran.stderr.is_empty(), "{}", ran.stderr);
    let ran = tune(dir.path(), DECODER, "quiet", &["-q"]).ok();
    assert!(ran.stdout.is_empty() && ran.stderr.is_empty(), "{ran:?}");
}

#[test]
fn what_the_doctor_finds_is_told() {
    let dir = encoder();
    let rows = std::fs::read_to_string(dir.path().join("vowels.jsonl")).unwrap();
    std::fs::write(dir.path().join("vowels.jsonl"), format!("{rows}{rows}")).unwrap();
    let ran = tune(dir.path(), super::ENCODER, "out", &[]).ok();
    assert!(
        ran.stderr.contains("warning: task `vowels`: ") && ran.stderr.contains("stand there already"),
        "{}",
        ran.stderr
    );
    let record = crate::support::json_file(&dir.path().join("out/onefold.json"));
    assert!(record["warnings"][0].as_str().unwrap().starts_with("task `vowels`"), "{record}");
}

#[test]
fn balancers_are_listed_and_explained() {
    let dir = temp();
    let table = onefold(dir.path(), &["methods"]).ok().stdout;
    assert!(table.contains("Balancers of losses") && table.contains("  coba"), "{table}");
    let coba = onefold(dir.path(), &["methods", "coba"]).ok().stdout;
    for part in ["source", "step costs", "validation rows of every task", "warmup (", "{kind: coba, …}"] {
        assert!(coba.contains(part), "`{part}` is not in:\n{coba}");
    }
    let json = onefold(dir.path(), &["methods", "coba", "--json"]).ok().json();
    assert_eq!((&json["group"], &json["validation"]), (&"balancer".into(), &true.into()));
    let markdown = onefold(dir.path(), &["methods", "--markdown", "balancers"]).ok().stdout;
    assert!(markdown.starts_with("# Balancers") && markdown.contains("\n## famo\n"), "{markdown}");
    onefold(dir.path(), &["methods", "cobo"]).fails(2, &["did you mean `coba`?"]);
    onefold(dir.path(), &["methods", "--markdown", "nothing"]).fails(2, &["nothing"]);
}
