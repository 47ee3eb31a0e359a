//! EMR artefacts: made by a merge, put on their base again, one task at a time.

use std::fs;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use serde_json::json;
use tempfile::TempDir;

use crate::support::{
    Array, Model, Random, assert_close, command, json_file, listing, llamas, merge, merged, onefold,
    read_file, read_model, temp, write_file, write_model,
};

/// Names of the tasks with their experts.
const TASKS: [(&str, &str); 3] = [("code", "expert1"), ("math", "expert2"), ("expert3", "expert3")];
const RECIPE: &str = "merge_method: emr\nbase_model: base\nmodels:\n\
    - {model: expert1, task: code}\n- {model: expert2, task: math}\n- {model: expert3}\n";

fn extraction(task: &str) -> String {
    format!("merge_method: passthrough\nmodels:\n- {{model: art, task: {task}}}\n")
}

/// The llamas with their artefact `art`.
fn artefact(more: &str) -> TempDir {
    let dir = llamas();
    merge(dir.path(), &format!("{RECIPE}{more}"), "art", &[]).ok();
    dir
}

/// Every task's model, from the experts by the formulas, in f64.
fn expected(dir: &Path, code: bool) -> (Vec<f64>, Vec<Model>) {
    let base = read_model(&dir.join("base"));
    let experts = TASKS.map(|(_, expert)| read_model(&dir.join(expert)));
    let wide = |m: &Model, name: &str| -> Vec<f64> { m[name].values().into_iter().map(f64::from).collect() };
    let tau = |t: usize, name: &str| -> Vec<f64> {
        wide(&experts[t], name).iter().zip(wide(&base, name)).map(|(e, b)| e - b).collect()
    };
    let unified = |name: &str| -> Vec<f64> {
        let taus: Vec<Vec<f64>> = (0..3).map(|t| tau(t, name)).collect();
        (0..taus[0].len())
            .map(|i| {
                let sign = if taus.iter().map(|t| t[i]).sum::<f64>() > 0.0 { 1.0 } else { -1.0 };
                sign * taus.iter().map(|t| (t[i] * sign).max(0.0)).fold(0.0, f64::max)
            })
            .collect()
    };
    let lambda = |t: usize| {
        let (mut whole, mut kept) = (0.0, 0.0);
        for name in base.keys() {
            let (tau, unified) = (tau(t, name), unified(name));
            let count = if code { tau.len() as f64 } else { 1.0 };
            whole += tau.iter().map(|v| v.abs()).sum::<f64>() / count;
            let agrees = tau.iter().zip(&unified).filter(|(d, u)| *d * *u > 0.0);
            kept += agrees.map(|(_, u)| u.abs()).sum::<f64>() / count;
        }
        whole / kept
    };
    let lambdas: Vec<f64> = (0..3).map(lambda).collect();
    let model = |t: usize| -> Model {
        let tensor = |name: &String| {
            let pairs = tau(t, name).into_iter().zip(unified(name));
            let values = wide(&base, name)
                .into_iter()
                .zip(pairs)
                .map(|(b, (d, u))| if d * u > 0.0 { b + lambdas[t] * u } else { b });
            Array::f32(&base[name].shape, &values.map(|v| v as f32).collect::<Vec<_>>())
        };
        base.keys().map(|name| (name.clone(), tensor(name))).collect()
    };
    (lambdas.clone(), (0..3).map(model).collect())
}

/// The same values as F32, to compare with.
fn as_f32(model: &Model) -> Model {
    model.iter().map(|(n, a)| (n.clone(), Array::f32(&a.shape, &a.values()))).collect()
}

#[test]
fn every_task_is_what_the_formula_says() {
    for (rescaler, code) in [("paper", false), ("code", true)] {
        let dir = artefact(&format!("out_dtype: float32\nparameters: {{rescaler: {rescaler}}}\n"));
        let dir = dir.path();
        let manifest = json_file(&dir.join("art/emr.json"));
        assert_eq!(manifest["rescaler"], rescaler);
        let (lambdas, models) = expected(dir, code);
        for (t, (task, expert)) in TASKS.iter().enumerate() {
            let entry = &manifest["tasks"][t];
            assert_eq!((&entry["name"], &entry["model"]), (&json!(task), &json!(expert)));
            let lambda = entry["lambda"].as_f64().unwrap();
            assert!((lambda / lambdas[t] - 1.0).abs() < 1e-5, "{task}: {lambda}, expected {}", lambdas[t]);
            let found = merged(dir, &extraction(task), &format!("out-{task}"), &[]);
            assert_close(&as_f32(&found), &models[t], 4e-6, task);
        }
    }
}

/// What lies in an artefact, and what does not.
#[test]
fn an_artefact_is_no_model_and_an_extracted_task_is_one() {
    let dir = artefact("");
    let dir = dir.path();
    let files = listing(&dir.join("art"));
    assert!(!files.iter().any(|f| f == "config.json" || f.starts_with("model.safetensors")), "{files:?}");
    for file in
        ["emr.json", "emr.safetensors", "README.md", "recipe.yaml", "report.html", "onefold.json", "model"]
    {
        assert!(files.iter().any(|f| f == file), "{file} is not in {files:?}");
    }
    let base = read_model(&dir.join("base"));
    let stored = read_file(&dir.join("art/emr.safetensors"));
    assert_eq!(stored.len(), 2 * base.len(), "unified vector and masks of each weight, not the base");
    for (name, weight) in &base {
        assert_eq!(stored[&format!("unified.{name}")].shape, weight.shape);
        let elements: usize = weight.shape.iter().product();
        assert_eq!(stored[&format!("mask.{name}")].shape, [3, elements.div_ceil(8)]);
    }
    let card = fs::read_to_string(dir.join("art/README.md")).unwrap();
    assert!(card.contains("task: \"code\"") && !card.contains("library_name"), "{card}");

    merge(dir, &extraction("math"), "math", &[]).ok();
    let original = json_file(&dir.join("base/config.json"));
    assert_eq!(json_file(&dir.join("math/config.json")), original);
    let tokenizer = |d: &str| fs::read(dir.join(d).join("tokenizer.json")).unwrap();
    assert_eq!(tokenizer("math"), tokenizer("base"));
    let model = read_model(&dir.join("math"));
    assert!(model.iter().all(|(n, a)| (a.dtype, &a.shape) == (base[n].dtype, &base[n].shape)));

    let said = onefold(dir, &["inspect", "art"]).ok().stdout;
    assert!(said.contains("EMR artefact") && said.contains("math  λ "), "{said}");
    assert_eq!(onefold(dir, &["inspect", "art", "--json"]).ok().json()["format"], "onefold.emr/1");
    onefold(dir, &["inspect", "--base", "base", "art"])
        .fails(2, &["EMR artefact with the tasks `code`, `math`"]);
}

/// An extracted task is a source like any other, two of one artefact included.
#[test]
fn tasks_feed_any_method() {
    let dir = artefact("");
    let dir = dir.path();
    let models: Vec<Model> = ["code", "math"].iter().map(|t| merged(dir, &extraction(t), t, &[])).collect();
    let sum = "merge_method: task_arithmetic\nbase_model: base\nmodels:\n\
        - {model: art, task: code, parameters: {weight: 0.5}}\n- {model: art, task: math, parameters: {weight: 0.25}}\n";
    let found = merged(dir, sum, "sum", &[]);
    let base = as_f32(&read_model(&dir.join("base")));
    let mut expected = Model::new();
    for (name, array) in &base {
        let (b, c, m) = (array.values(), models[0][name].values(), models[1][name].values());
        let values: Vec<f32> =
            b.iter().zip(c.iter().zip(&m)).map(|(b, (c, m))| b + 0.5 * (c - b) + 0.25 * (m - b)).collect();
        expected.insert(name.clone(), Array::f32(&array.shape, &values));
    }
    assert_close(&as_f32(&found), &expected, 1e-6, "sum");
    // And an artefact can be made of them.
    let again = "merge_method: emr\nbase_model: base\nmodels:\n- {model: art, task: code}\n- {model: art, task: math}\n";
    merge(dir, again, "art2", &[]).ok();
    assert_eq!(json_file(&dir.join("art2/emr.json"))["tasks"][1]["name"], "math");
}

#[test]
fn artefact_and_extraction_in_one_file() {
    let dir = llamas();
    let dir = dir.path();
    let recipe = format!(
        "name: parts\n{RECIPE}---\nmerge_method: passthrough\nmodels: [{{model: parts, task: math}}]\n"
    );
    let found = merged(dir, &recipe, "out", &[]);
    assert!(dir.join("out.merges/parts/emr.json").exists());
    merge(dir, RECIPE, "art", &[]).ok();
    assert!(found == merged(dir, &extraction("math"), "alone", &[]));
}

/// One task is its own merge. In bf16, the difference of two bf16 values may need a bit more than it has.
#[test]
fn one_expert_comes_back() {
    let dir = llamas();
    let dir = dir.path();
    for (dtype, tolerance) in [("float32", 2e-7), ("bfloat16", 4e-3)] {
        let recipe = format!(
            "merge_method: emr\nbase_model: base\nmodels: [{{model: expert2}}]\nout_dtype: {dtype}\n"
        );
        merge(dir, &recipe, "art", &["--force"]).ok();
        let found = merged(dir, &extraction("expert2"), "one", &["--force"]);
        assert_close(&found, &read_model(&dir.join("expert2")), tolerance, dtype);
    }
    assert!(
        json_file(&dir.join("art/emr.json"))["tasks"][0]["lambda"]
            .as_f64()
            .is_some_and(|l| (l - 1.0).abs() < 1e-2)
    );
}

/// λ · Σ|M ∘ unified| = Σ|τ| for what is stored, in whatever type.
#[test]
fn factors_belong_to_what_is_stored() {
    for dtype in ["float32", "bfloat16", "float8_e5m2"] {
        let dir = artefact(&format!("out_dtype: {dtype}\n"));
        let dir = dir.path();
        let manifest = json_file(&dir.join("art/emr.json"));
        let base = read_model(&dir.join("base"));
        for (t, (task, expert)) in TASKS.iter().enumerate() {
            let lambda = manifest["tasks"][t]["lambda"].as_f64().unwrap();
            let recipe = format!("{}out_dtype: float32\n", extraction(task));
            let model = merged(dir, &recipe, &format!("out-{task}"), &[]);
            let expert = read_model(&dir.join(expert));
            let length = |m: &Model| -> f64 {
                let of = |n: &String| {
                    m[n].values()
                        .into_iter()
                        .zip(base[n].values())
                        .map(|(x, b)| f64::from((x - b).abs()))
                        .sum::<f64>()
                };
                base.keys().map(of).sum()
            };
            assert!(lambda > 0.0);
            assert!((length(&model) / length(&expert) - 1.0).abs() < 1e-4, "{dtype} {task}");
        }
    }
}

/// Weights and manifest of an artefact.
fn content(dir: &Path) -> Vec<(String, Vec<u8>)> {
    let ours = |n: &String| n.ends_with(".safetensors") || n.starts_with("emr.");
    listing(dir).into_iter().filter(ours).map(|n| (n.clone(), fs::read(dir.join(n)).unwrap())).collect()
}

/// A base and two experts with tensors of several spans and of odd lengths.
fn large() -> TempDir {
    let dir = temp();
    let mut random = Random(77);
    for name in ["base", "a", "b"] {
        let mut model = Model::new();
        for (layer, count) in [300_007, 16_384, 9, 140_000].into_iter().enumerate() {
            model.insert(format!("model.layers.{layer}.w"), Array::f32(&[count], &random.values(count, 0.1)));
        }
        write_model(&dir.path().join(name), &model, &json!({}));
    }
    dir
}
const LARGE: &str = "merge_method: emr\nbase_model: base\nmodels: [{model: a}, {model: b}]\n";

#[test]
fn threads_and_shards_do_not_show() {
    let dir = large();
    let dir = dir.path();
    merge(dir, LARGE, "one", &["--threads", "1"]).ok();
    merge(dir, LARGE, "four", &["--threads", "4"]).ok();
    assert!(content(&dir.join("one")) == content(&dir.join("four")));
    merge(dir, LARGE, "cut", &["--max-shard-size", "600KB"]).ok();
    assert!(dir.join("cut/emr.safetensors.index.json").exists());
    assert_eq!(json_file(&dir.join("one/emr.json")), json_file(&dir.join("cut/emr.json")));
    let take = |art: &str, more: &[&str]| {
        let recipe = format!("merge_method: passthrough\nmodels: [{{model: {art}, task: b}}]\n");
        merged(dir, &recipe, &format!("{art}-b"), more)
    };
    assert!(take("one", &["--threads", "1"]) == take("cut", &["--threads", "3"]));
}

/// A run that was killed at any instant ends with the bytes, and the factors, of an undisturbed one.
#[test]
fn a_resumed_run_has_the_same_factors() {
    let dir = large();
    let dir = dir.path();
    merge(dir, LARGE, "out", &[]).ok();
    let expected = content(&dir.join("out"));
    fs::remove_dir_all(dir.join("out")).unwrap();
    for wait in (0..48).step_by(4) {
        let mut child = command(dir, &["merge", "recipe-under-test.yml", "-o", "out"])
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(Duration::from_millis(wait));
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(!dir.join("out").exists() || content(&dir.join("out")) == expected, "killed after {wait} ms");
        merge(dir, LARGE, "out", &[]).ok();
        assert!(content(&dir.join("out")) == expected, "killed after {wait} ms");
        fs::remove_dir_all(dir.join("out")).unwrap();
    }
}

/// The same with finished weights in the journal, and kills of the run that goes on from them.
#[test]
fn a_suspended_run_that_is_killed_has_the_same_factors() {
    let dir = temp();
    let dir = dir.path();
    let mut random = Random(78);
    for name in ["base", "a", "b"] {
        let tensor = |layer: usize| (format!("model.layers.{layer}.w"), random.values(200_000, 0.1));
        let model: Model = (0..16).map(tensor).map(|(n, v)| (n, Array::f32(&[v.len()], &v))).collect();
        write_model(&dir.join(name), &model, &json!({}));
    }
    let args = ["merge", "recipe-under-test.yml", "-o", "out", "--threads", "1"];
    let begin = std::time::Instant::now();
    merge(dir, LARGE, "out", &args[4..]).ok();
    let time = begin.elapsed();
    let expected = content(&dir.join("out"));
    let disturb = |signal: &str, wait: Duration| {
        let mut child = command(dir, &args).stderr(Stdio::null()).spawn().unwrap();
        std::thread::sleep(wait);
        // It may be over already.
        let _ = std::process::Command::new("kill").args([signal, &child.id().to_string()]).status();
        child.wait().unwrap();
    };
    // Twelve instants, and more until one of them falls after a finished weight.
    let (mut resumed, mut round) = (0, 0);
    while round < 12 || (resumed == 0 && round < 120) {
        round += 1;
        if dir.join("out").exists() {
            fs::remove_dir_all(dir.join("out")).unwrap();
        }
        disturb("-INT", time.mul_f64(f64::from(round % 13) / 13.0));
        disturb("-KILL", time.mul_f64(f64::from(round * 5 % 13) / 13.0));
        assert!(!dir.join("out").exists() || content(&dir.join("out")) == expected, "round {round}");
        resumed += usize::from(merge(dir, LARGE, "out", &args[4..]).ok().stderr.contains("resuming"));
        assert!(content(&dir.join("out")) == expected, "round {round}");
    }
    assert!(resumed > 0, "no run went on from finished weights");
}

#[test]
fn a_journal_with_finished_weights_is_gone_on_from() {
    let dir = large();
    let dir = dir.path();
    merge(dir, LARGE, "out", &[]).ok();
    let expected = content(&dir.join("out"));
    let job = json_file(&dir.join("out/onefold.json"))["job"].as_str().unwrap().to_owned();
    let bytes = fs::read(dir.join("out/emr.safetensors")).unwrap();
    fs::remove_dir_all(dir.join("out")).unwrap();
    // What a run leaves that was killed after the first weight: data without header, one pair in the journal. The note
    // is not the true one, to see that it is used.
    fs::create_dir(dir.join("out.partial")).unwrap();
    let mut cut = bytes.clone();
    cut[..8].fill(0);
    fs::write(dir.join("out.partial/emr.safetensors"), cut).unwrap();
    let sums = json!({"delta": 1e9, "kept": 1e9, "elements": 300_007});
    let statistics = json!({"gramian": vec![0.0; 10], "active": 0, "conflicts": 0, "coefficients": null});
    let note = json!({"statistics": statistics, "sums": [sums, sums]});
    fs::write(dir.join("out.partial/.onefold-journal"), format!("{job}\n1 \n0 {note}\n")).unwrap();
    let ran = merge(dir, LARGE, "out", &[]).ok();
    assert!(ran.stderr.contains("resuming: 2 of 8"), "{}", ran.stderr);
    assert_eq!(fs::read(dir.join("out/emr.safetensors")).unwrap(), bytes);
    let lambda = json_file(&dir.join("out/emr.json"))["tasks"][0]["lambda"].as_f64().unwrap();
    assert!((lambda - 1.0).abs() < 1e-3, "the sums of the finished weight count: {lambda}");
    // A note that cannot be read: the weight is made again.
    fs::remove_dir_all(dir.join("out")).unwrap();
    fs::create_dir(dir.join("out.partial")).unwrap();
    fs::write(dir.join("out.partial/.onefold-journal"), format!("{job}\n1 \n0 null\n")).unwrap();
    merge(dir, LARGE, "out", &[]).ok();
    assert!(content(&dir.join("out")) == expected);
}

// ---- what is refused

#[test]
fn tasks_that_are_missing_wrong_or_in_the_wrong_place() {
    let dir = artefact("");
    let dir = dir.path();
    let try_ = |recipe: &str| merge(dir, recipe, "out", &[]);
    try_("merge_method: passthrough\nmodels: [{model: art}]\n").fails(
        2,
        &["model art: is an EMR artefact with the tasks `code`, `math`, `expert3`; say which with `task"],
    );
    try_(&extraction("mth")).fails(2, &["art#mth: has no task `mth`; did you mean `math`?", "`expert3`"]);
    try_("merge_method: passthrough\nmodels: [{model: base, task: code}]\n")
        .fails(2, &["models[0]: base is one model, so it has no `task` to choose"]);
    try_("merge_method: linear\nbase_model: art\nmodels: [{model: base, parameters: {weight: 1}}]\n")
        .fails(2, &["EMR artefact with the tasks"]);
    assert!(!dir.join("out").exists() && !dir.join("out.partial").exists());
}

#[test]
fn another_base_is_refused_and_the_same_one_elsewhere_is_not() {
    let dir = artefact("");
    let dir = dir.path();
    let wanted = merged(dir, &extraction("code"), "code", &[]);
    fs::rename(dir.join("base"), dir.join("moved")).unwrap();
    merge(dir, &extraction("code"), "out", &[])
        .fails(2, &["model art#code: its base: model ", "if the base has moved, name it as `base_model`"]);
    let with = |base: &str| format!("{}base_model: {base}\n", extraction("code"));
    assert!(merged(dir, &with("moved"), "out", &[]) == wanted);
    merge(dir, &with("expert1"), "out2", &[])
        .fails(2, &["art", "of the base is", "this is not the base that the artefact was made with"]);
    // Other names of tensors, other shapes.
    let mut base = read_model(&dir.join("moved"));
    let config = json_file(&dir.join("moved/config.json"));
    base.insert("extra".into(), Array::f32(&[1], &[0.0]));
    write_model(&dir.join("more"), &base, &config);
    merge(dir, &with("more"), "out2", &[])
        .fails(2, &["tensor `extra` of the base is there, expected no such"]);
    base.remove("extra");
    base.remove("model.norm.weight");
    write_model(&dir.join("less"), &base, &config);
    merge(dir, &with("less"), "out2", &[])
        .fails(2, &["`model.norm.weight` of the base is not there, expected"]);
}

#[test]
fn recipes_that_an_artefact_cannot_hold() {
    let dir = llamas();
    let dir = dir.path();
    let try_ = |recipe: &str, more: &[&str]| merge(dir, recipe, "out", more);
    try_("merge_method: emr\nmodels: [{model: expert1}]\n", &[]).fails(2, &["emr needs `base_model`"]);
    try_("merge_method: emr\nbase_model: base\nmodels: [{model: expert1, task: x}, {model: expert2, task: x}]\n", &[])
        .fails(2, &["two tasks are named `x`: of expert1 and of expert2; give each a name"]);
    try_("merge_method: emr\nbase_model: base\nmodels: [{model: expert1, task: x}, {model: expert1, task: y}]\n", &[])
        .fails(2, &["expert1 is listed twice"]);
    try_(&format!("{RECIPE}tokenizer: {{source: base}}\n"), &[])
        .fails(2, &["emr keeps the base's vocabulary"]);
    try_(&format!("{RECIPE}out_dtype: int64\n"), &[]).fails(2, &["floating point"]);
    try_(RECIPE, &["--allow-non-finite"]).fails(2, &["emr sums over all weights"]);
    try_(&format!("{RECIPE}parameters: {{rescaler: papr}}\n"), &[])
        .fails(2, &["parameters.rescaler", "paper"]);
    let filtered = "parameters: {rescaler: [{filter: mlp, value: code}, {value: paper}]}\n";
    try_(&format!("{RECIPE}{filtered}"), &[]).fails(2, &["factors are of the whole model"]);
    let sliced = "merge_method: emr\nbase_model: base\nslices:\n- sources:\n  - {model: base, layer_range: [0, 1]}\n  \
        - {model: expert1, layer_range: [0, 1]}\n";
    try_(sliced, &[]).fails(2, &["emr merges whole models"]);
    // A weight that the base lacks has no task vector.
    let mut expert = read_model(&dir.join("expert1"));
    expert.insert("score.weight".into(), Array::f32(&[2], &[1.0, 2.0]));
    write_model(&dir.join("expert1"), &expert, &json_file(&dir.join("expert2/config.json")));
    try_(RECIPE, &["--allow-missing"]).fails(2, &["tensor `score.weight`: emr needs it in the base base"]);
    assert!(!dir.join("out").exists() && !dir.join("out.partial").exists());
}

/// A weight that one expert lacks stays the base's for its task.
#[test]
fn a_weight_that_an_expert_lacks_is_the_bases() {
    let dir = llamas();
    let dir = dir.path();
    let mut expert = read_model(&dir.join("expert2"));
    expert.remove("model.norm.weight");
    write_model(&dir.join("expert2"), &expert, &json_file(&dir.join("expert1/config.json")));
    merge(dir, RECIPE, "art", &[]).fails(2, &["missing in expert2"]);
    merge(dir, RECIPE, "art", &["--allow-missing"]).ok();
    let (base, math) = (read_model(&dir.join("base")), merged(dir, &extraction("math"), "math", &[]));
    assert_eq!(math["model.norm.weight"], base["model.norm.weight"]);
    assert!(merged(dir, &extraction("code"), "code", &[])["model.norm.weight"] != base["model.norm.weight"]);
}

/// Integers come from the base, untouched.
#[test]
fn what_is_no_weight_stays_in_the_base() {
    let dir = temp();
    let dir = dir.path();
    let mut random = Random(3);
    for name in ["base", "a"] {
        let mut model = Model::from([("w".to_owned(), Array::f32(&[5], &random.values(5, 1.0)))]);
        model.insert("positions".into(), Array::i64(&[2], &[4, 5]));
        write_model(&dir.join(name), &model, &json!({"hidden_size": 5}));
    }
    merge(dir, "merge_method: emr\nbase_model: base\nmodels: [{model: a}]\n", "art", &[]).ok();
    assert_eq!(
        read_file(&dir.join("art/emr.safetensors")).keys().collect::<Vec<_>>(),
        ["mask.w", "unified.w"]
    );
    assert_eq!(
        merged(dir, &extraction("a"), "out", &[])["positions"],
        read_model(&dir.join("base"))["positions"]
    );
}

/// Artefacts from strangers.
#[test]
fn damaged_artefacts() {
    let dir = artefact("");
    let dir = dir.path();
    let manifest = json_file(&dir.join("art/emr.json"));
    let weights = fs::read(dir.join("art/emr.safetensors")).unwrap();
    let check = |what: &str, expected: &str| {
        merge(dir, &extraction("code"), "out", &[]).fails(2, &["art", expected]);
        assert!(!dir.join("out").exists(), "{what}");
    };
    let write =
        |manifest: &serde_json::Value| fs::write(dir.join("art/emr.json"), manifest.to_string()).unwrap();
    for (key, value, expected) in [
        ("/format", json!("onefold.emr/9"), "has the format onefold.emr/9, expected onefold.emr/1"),
        ("/tasks", json!([]), "`tasks` is empty"),
        ("/tasks/0/lambda", json!(-1.0), "has the factor -1, expected ≥ 0"),
        ("/tasks/0/lambda", json!(null), "emr.json is not a manifest"),
        ("/tasks/1/name", json!("code"), "two tasks are named `code`"),
        ("/tasks/2", json!({"name": "x", "model": "m", "lambda": 1.0, "more": 1}), "unknown field"),
        ("/base/tensors/model.norm.weight/shape", json!([17]), "`unified.model.norm.weight` is"),
        ("/base/tensors/model.norm.weight/dtype", json!("I64"), "belongs to no weight of the base"),
        ("/base/path", json!(dir.join("art").display().to_string()), "is an EMR artefact with the tasks"),
    ] {
        let mut bad = manifest.clone();
        *bad.pointer_mut(key).unwrap() = value;
        write(&bad);
        check(key, expected);
    }
    let mut fewer = manifest.clone();
    fewer["tasks"].as_array_mut().unwrap().pop();
    write(&fewer);
    check("two tasks, three masks", "of shape [3, ");
    fs::write(dir.join("art/emr.json"), "{").unwrap();
    check("no JSON", "emr.json is not a manifest");
    write(&manifest);
    let mut tensors = read_file(&dir.join("art/emr.safetensors"));
    tensors.remove("mask.model.norm.weight");
    write_file(&dir.join("art/emr.safetensors"), &tensors);
    check("half a pair", "`unified.model.norm.weight` is there but not `mask.model.norm.weight`");
    fs::write(dir.join("art/emr.safetensors"), &weights[..weights.len() - 1]).unwrap();
    check("truncated", "emr.safetensors");
    fs::remove_file(dir.join("art/emr.safetensors")).unwrap();
    check("no weights", "emr.safetensors");
}
