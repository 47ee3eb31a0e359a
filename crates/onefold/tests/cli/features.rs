//! What the command line promises beside the arithmetic: recipes that feed one another, changes from the command line,
//! plans, tied and renamed tensors, adapters, tokenizers, reports.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use crate::support::{
    Array, Model, Random, assert_close, copy_dir, json_file, listing, llamas, merge, merged, onefold,
    read_file, read_model, temp, testdata, write_model,
};

const TASK: &str = "merge_method: task_arithmetic\nbase_model: base\nmodels:\n\
    - {model: expert1, parameters: {weight: 0.5}}\n";

/// `each` of the values of both models.
fn combine(a: &Model, b: &Model, each: impl Fn(f32, f32) -> f32) -> Model {
    let one = |(name, a): (&String, &Array)| {
        let values: Vec<f32> = a.values().iter().zip(b[name].values()).map(|(x, y)| each(*x, y)).collect();
        (name.clone(), Array::f32(&a.shape, &values))
    };
    a.iter().map(one).collect()
}

// ---- recipes

#[test]
fn merges_with_names_feed_one_another() {
    let dir = llamas();
    let recipe = "merge_method: task_arithmetic\nbase_model: base\nmodels: [{model: mean, parameters: {weight: 0.5}}]\n\
        ---\nname: mean\nmerge_method: linear\nparameters: {weight: 1}\nmodels: [{model: expert1}, {model: expert2}]\n";
    let out = merged(dir.path(), recipe, "out", &[]);
    let read = |name: &str| read_model(&dir.path().join(name));
    let mean = combine(&read("expert1"), &read("expert2"), |a, b| (a + b) / 2.0);
    assert_close(&read("out.merges/mean"), &mean, 1e-6, "the named merge is kept");
    assert_close(&out, &combine(&read("base"), &mean, |b, m| b + 0.5 * (m - b)), 1e-6, "the last merge");
    // Kept where the user wants them; a circle is refused.
    merged(dir.path(), recipe, "out2", &["--intermediate", "kept"]);
    assert!(
        dir.path().join("kept/mean/model.safetensors").exists() && !dir.path().join("out2.merges").exists()
    );
    let circle = recipe.replace("{model: expert2}", "{model: mean}");
    merge(dir.path(), &circle, "out3", &[]).fails(2, &["mean"]);
    assert!(!dir.path().join("out3").exists() && !dir.path().join("out3.merges").exists());
}

#[test]
fn set_changes_the_recipe() {
    let dir = llamas();
    let base = read_model(&dir.path().join("base"));
    let out = merged(dir.path(), TASK, "zero", &["--set", "parameters.lambda=0"]);
    assert!(out == base, "lambda 0 is the base to the bit");
    let set = merged(dir.path(), TASK, "set", &["--set", "models.0.parameters.weight=0.25"]);
    let written = merged(dir.path(), &TASK.replace("0.5", "0.25"), "written", &[]);
    assert!(set == written);
    let bf16 = merged(dir.path(), TASK, "bf16", &["--set", "out_dtype=bfloat16"]);
    assert!(bf16.values().all(|a| a.dtype == safetensors::Dtype::BF16));
    let record = json_file(&dir.path().join("set/onefold.json"));
    assert_eq!(record["set"], json!(["models.0.parameters.weight=0.25"]));
    assert!(record["command"].as_str().unwrap().contains("--set models.0.parameters.weight=0.25"));
}

#[test]
fn a_dry_run_plans_and_writes_nothing() {
    let dir = llamas();
    fs::write(dir.path().join("r.yml"), TASK).unwrap();
    let before = listing(dir.path());
    let ran = onefold(dir.path(), &["merge", "r.yml", "-o", "out", "--dry-run"]).ok();
    for part in ["nothing was done", "task_arithmetic", "base", "expert1", "30 merged, 0 copied", "43.90 kB"]
    {
        assert!(ran.stdout.contains(part), "`{part}` is not in:\n{}", ran.stdout);
    }
    let plan = onefold(dir.path(), &["merge", "r.yml", "-o", "out", "--dry-run", "--json"]).ok().json();
    assert_eq!(plan["event"], "plan");
    assert_eq!(plan["data"]["tensors"].as_array().unwrap().len(), 30);
    assert_eq!(plan["data"]["bytes_to_write"], 43896);
    assert_eq!(listing(dir.path()), before);
    // What is wrong is said as in earnest.
    let bad = ["merge", "r.yml", "-o", "out", "--dry-run", "--set", "models.0.parameters.weigth=1"];
    onefold(dir.path(), &bad).fails(2, &["weigth", "did you mean `weight`?"]);
}

#[test]
fn lenient_turns_unknown_keys_into_warnings() {
    let dir = llamas();
    let recipe = format!("{TASK}colour: blue\n");
    merge(dir.path(), &recipe, "out", &[]).fails(2, &["unknown key `colour`"]);
    let ran = merge(dir.path(), &recipe, "out", &["--lenient"]).ok();
    assert!(ran.stderr.contains("warning: ") && ran.stderr.contains("colour"), "{}", ran.stderr);
    assert!(read_model(&dir.path().join("out")) == merged(dir.path(), TASK, "plain", &[]));
}

// ---- tensors

fn tiny(random: &mut Random, prefix: &str, head: bool) -> Model {
    let mut model = Model::new();
    let mut add = |name: String, shape: &[usize]| {
        let values = random.values(shape.iter().product(), 0.5);
        model.insert(name, Array::f32(shape, &values));
    };
    add(format!("{prefix}embed_tokens.weight"), &[6, 4]);
    for layer in 0..3 {
        add(format!("{prefix}layers.{layer}.w.weight"), &[4, 4]);
    }
    add(format!("{prefix}norm.weight"), &[4]);
    if head {
        add("lm_head.weight".into(), &[6, 4]);
    }
    model
}

const MEAN: &str = "merge_method: linear\nparameters: {weight: 1}\nmodels: [{model: a}, {model: b}]\n";

#[test]
fn a_tied_head_is_its_embedding() {
    let dir = temp();
    let mut random = Random(3);
    let config = json!({"num_hidden_layers": 3, "tie_word_embeddings": true, "vocab_size": 6});
    let (a, mut b) = (tiny(&mut random, "model.", false), tiny(&mut random, "model.", false));
    write_model(&dir.path().join("a"), &a, &config);
    let expected = combine(&a, &b, |x, y| (x + y) / 2.0);

    // A copy of the embedding is no head of its own.
    b.insert("lm_head.weight".into(), b["model.embed_tokens.weight"].clone());
    write_model(&dir.path().join("b"), &b, &config);
    assert_close(&merged(dir.path(), MEAN, "tied", &[]), &expected, 1e-6, "tied");
    assert_eq!(json_file(&dir.path().join("tied/config.json"))["tie_word_embeddings"], true);

    // A head that differs is; the first model's is its embedding.
    let head = Array::f32(&[6, 4], &random.values(24, 0.5));
    b.insert("lm_head.weight".into(), head.clone());
    write_model(&dir.path().join("b"), &b, &json!({"num_hidden_layers": 3, "tie_word_embeddings": false}));
    let untied = merged(dir.path(), MEAN, "untied", &[]);
    let pair = |array: &Array| Model::from([("head".to_owned(), array.clone())]);
    let mean = combine(&pair(&a["model.embed_tokens.weight"]), &pair(&head), |x, y| (x + y) / 2.0);
    assert_close(&pair(&untied["lm_head.weight"]), &mean, 1e-6, "untied head");
    assert_eq!(json_file(&dir.path().join("untied/config.json"))["tie_word_embeddings"], false);
}

#[test]
fn names_without_the_base_prefix_match() {
    let dir = temp();
    let mut random = Random(4);
    let a = tiny(&mut random, "model.", true);
    let b: Model = tiny(&mut random, "model.", true);
    let bare = b.iter().map(|(n, t)| (n.strip_prefix("model.").unwrap_or(n).to_owned(), t.clone())).collect();
    write_model(&dir.path().join("a"), &a, &json!({}));
    write_model(&dir.path().join("b"), &bare, &json!({}));
    let expected = combine(&a, &b, |x, y| (x + y) / 2.0);
    assert_close(&merged(dir.path(), MEAN, "out", &[]), &expected, 1e-6, "the first has the prefix");
    // The other way round the result is named like the first as well.
    let swapped = MEAN.replace("{model: a}, {model: b}", "{model: b}, {model: a}");
    let out = merged(dir.path(), &swapped, "bare", &[]);
    assert!(out.contains_key("layers.0.w.weight") && out.contains_key("lm_head.weight") && out.len() == 6);
}

#[test]
fn slices_renumber_layers_and_their_entries_in_the_config() {
    let dir = temp();
    let a = tiny(&mut Random(5), "model.", true);
    let config = json!({"num_hidden_layers": 3, "layer_types": ["full", "sliding", "full"], "vocab_size": 6});
    write_model(&dir.path().join("a"), &a, &config);
    let recipe = "merge_method: passthrough\nslices:\n- sources: [{model: a, layer_range: [0, 2]}]\n\
        - sources: [{model: a, layer_range: [1, 3]}]\n";
    let out = merged(dir.path(), recipe, "out", &[]);
    for (to, from) in [(0, 0), (1, 1), (2, 1), (3, 2)] {
        let name = |layer: usize| format!("model.layers.{layer}.w.weight");
        assert_eq!(out[&name(to)], a[&name(from)], "layer {to}");
    }
    assert_eq!(out.len(), 7);
    let config = json_file(&dir.path().join("out/config.json"));
    assert_eq!(config["num_hidden_layers"], 4);
    assert_eq!(config["layer_types"], json!(["full", "sliding", "sliding", "full"]));
}

#[test]
fn override_architecture_is_that_of_the_output() {
    let dir = temp();
    let mut random = Random(8);
    for name in ["a", "b"] {
        let config = json!({"architectures": ["OldForCausalLM"], "x": 1});
        write_model(&dir.path().join(name), &tiny(&mut random, "model.", true), &config);
    }
    fs::create_dir(dir.path().join("bare")).unwrap();
    fs::copy(dir.path().join("a/model.safetensors"), dir.path().join("bare/model.safetensors")).unwrap();
    let model = |path: &str, architecture: &str| {
        let model = match architecture {
            "" => json!(path),
            name => json!({"model": path, "override_architecture": name}),
        };
        json!({"model": model, "parameters": {"weight": 1}})
    };
    let recipe = |models: &[Value]| json!({"merge_method": "linear", "models": models}).to_string();
    let new = "NewForCausalLM";
    for (out, second) in [("one", ""), ("both", new)] {
        merged(dir.path(), &recipe(&[model("a", new), model("b", second)]), out, &[]);
        let config = json_file(&dir.path().join(out).join("config.json"));
        assert_eq!(config, json!({"architectures": [new], "x": 1}));
    }
    // What the donor states already is no contradiction; anything else is, and would have no effect.
    merge(dir.path(), &recipe(&[model("a", ""), model("b", "OldForCausalLM")]), "same", &[]).ok();
    let ran = merge(dir.path(), &recipe(&[model("a", ""), model("b", new)]), "no", &[]);
    ran.fails(
        2,
        &["model b: `override_architecture: NewForCausalLM`", "is OldForCausalLM, that of a", "leave it out"],
    );
    let ran = merge(dir.path(), &recipe(&[model("bare", new), model("a", "")]), "no", &[]);
    ran.fails(2, &["model bare: `override_architecture: NewForCausalLM`", "has no config.json"]);
}

#[test]
fn one_local_path_has_one_mask() {
    let dir = llamas();
    let recipe = |path: &str| {
        format!(
            "merge_method: dare_linear\nbase_model: base\nmodels:\n- model: {path}\n  parameters: {{weight: 1, density: 0.5}}\n"
        )
    };
    let plain = merged(dir.path(), &recipe("expert1"), "plain", &[]);
    let absolute = dir.path().join("expert1").display().to_string();
    for (out, path) in
        [("dot", "./expert1"), ("slash", "expert1/"), ("back", "base/../expert1"), ("absolute", &absolute)]
    {
        assert_eq!(merged(dir.path(), &recipe(path), out, &[]), plain, "{path}");
    }
    let moved = temp();
    copy_dir(dir.path(), &moved.path().join("elsewhere"));
    assert_eq!(merged(&moved.path().join("elsewhere"), &recipe("expert1"), "moved", &[]), plain);
    copy_dir(&dir.path().join("expert1"), &dir.path().join("another"));
    assert_ne!(merged(dir.path(), &recipe("another"), "another-out", &[]), plain, "masks depend on the name");
}

/// A model with the files of sentence-transformers: a pooling module, a dense one with weights, one without a folder.
fn sentence_model(dir: &Path, model: &Model) {
    write_model(dir, model, &json!({}));
    let modules = json!([
        {"idx": 0, "path": "", "type": "sentence_transformers.models.Transformer"},
        {"idx": 1, "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
        {"idx": 2, "path": "2_Dense", "type": "sentence_transformers.models.Dense"},
        {"idx": 3, "path": "3_Normalize", "type": "sentence_transformers.models.Normalize"},
    ]);
    fs::write(dir.join("modules.json"), modules.to_string()).unwrap();
    fs::write(dir.join("sentence_bert_config.json"), "{}").unwrap();
    for (folder, file, text) in [
        ("1_Pooling", "config.json", "{\"pooling_mode_mean_tokens\": true}"),
        ("2_Dense", "config.json", "{\"in_features\": 4}"),
        ("2_Dense", "model.safetensors", "weights as they are"),
        ("2_Dense", ".hidden", "stays"),
        ("onnx", "model.onnx", "stays"),
    ] {
        fs::create_dir_all(dir.join(folder)).unwrap();
        fs::write(dir.join(folder).join(file), text).unwrap();
    }
}

#[test]
fn a_head_from_an_adapter_is_not_silent() {
    let dir = temp();
    for name in ["base_llama", "modules_to_save"] {
        copy_dir(&testdata("adapter").join(name), &dir.path().join(name));
    }
    let recipe = "merge_method: passthrough\nmodels: [{model: base_llama+modules_to_save}]\n";
    let ran = merge(dir.path(), recipe, "known", &[]).ok();
    assert!(!ran.stderr.contains("which its base does not have"), "{}", ran.stderr);
    // The same head on a base without one.
    let file = dir.path().join("base_llama/model.safetensors");
    let mut base = read_file(&file);
    base.remove("lm_head.weight").expect("the fixture has a head");
    let config = json!({"architectures": ["OldForCausalLM"]});
    write_model(&dir.path().join("base_llama"), &base, &config);
    let ran = merge(dir.path(), recipe, "new", &[]).ok();
    for part in [
        "adapter of base_llama+modules_to_save adds lm_head.weight",
        "(OldForCausalLM)",
        "override_architecture",
    ] {
        assert!(ran.stderr.contains(part), "`{part}` is not in:\n{}", ran.stderr);
    }
    let stated = "merge_method: passthrough\nmodels: [{model: {model: base_llama, lora: modules_to_save, \
        override_architecture: X}}]\n";
    let ran = merge(dir.path(), stated, "stated", &[]).ok();
    assert!(ran.stderr.contains("num_labels") && !ran.stderr.contains("stays too"), "{}", ran.stderr);
}

#[test]
fn advice_suits_the_method() {
    let dir = temp();
    let mut random = Random(17);
    let config = json!({});
    let base = tiny(&mut random, "", false);
    let shift = tiny(&mut random, "", false);
    let along = combine(&base, &shift, |x, y| x + 0.01 * y);
    // The same direction in most elements, so that the task vectors overlap without being equal.
    let noise = tiny(&mut random, "", false);
    let near = combine(&along, &noise, |x, y| x + 0.005 * y);
    let against = combine(&combine(&base, &shift, |x, y| x - 0.02 * y), &noise, |x, y| x + 0.005 * y);
    for (name, model) in [("base", &base), ("a", &along), ("b", &near), ("c", &against)] {
        write_model(&dir.path().join(name), model, &config);
    }
    let recipe = |method: &str, second: &str, more: &str| {
        format!(
            "merge_method: {method}\nbase_model: base\nparameters: {{{more}}}\nmodels: [{{model: a}}, {{model: {second}}}]\n"
        )
    };
    let advice = |out: &str, recipe: &str| {
        let ran = merge(dir.path(), recipe, out, &[]).ok();
        let words = ran.stderr.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(words.contains("are not independent"), "{words}");
        words.contains("such as TIES")
    };
    for (method, more, told) in [
        ("task_arithmetic", "weight: 1", true),
        ("ties", "weight: 1", false),
        ("sce", "", false),
        ("metagpt", "", true),
        ("metagpt", "consensus: sum", false),
    ] {
        let out = format!("{method}-{told}");
        assert_eq!(advice(&out, &recipe(method, "b", more)), told, "{method} {more}");
    }
    // Model Stock warns of single rows as it does of tensors.
    for (out, more) in [("tensor", "filter_wise: false"), ("rows", "filter_wise: true")] {
        let ran = merge(dir.path(), &recipe("model_stock", "c", more), out, &[]).ok();
        let row = ran.stderr.contains("in a row of ");
        assert!(ran.stderr.contains("Model Stock takes t = "), "{out}: {}", ran.stderr);
        assert_eq!(row, out == "rows", "{}", ran.stderr);
    }
}

#[test]
fn what_an_adapter_leaves_alone_is_in_no_norm() {
    let dir = temp();
    for name in ["base_llama", "plain"] {
        copy_dir(&testdata("adapter").join(name), &dir.path().join(name));
    }
    let recipe = "merge_method: passthrough\nmodels: [{model: base_llama+plain}]\n";
    let ran = merge(dir.path(), recipe, "out", &[]).ok();
    let words = ran.stderr.split_whitespace().collect::<Vec<_>>().join(" ");
    let changed = read_file(&testdata("adapter/plain/expected.safetensors")).len();
    let copied = read_model(&dir.path().join("out")).len() - changed;
    for part in [
        format!("{changed} tensors merged · {copied} copied"),
        format!("Copied {copied} tensors, in no figure here (taken over as they are): "),
    ] {
        assert!(words.contains(&part), "`{part}` is not in:\n{}", ran.stderr);
    }
}

#[test]
fn modules_of_sentence_transformers_come_along() {
    let dir = temp();
    let mut random = Random(11);
    let donor = dir.path().join("a");
    sentence_model(&donor, &tiny(&mut random, "", false));
    write_model(&dir.path().join("b"), &tiny(&mut random, "", false), &json!({}));
    let ran = merge(dir.path(), MEAN, "out", &[]).ok();
    assert!(ran.stderr.contains("not merged: 2_Dense/model.safetensors"), "{}", ran.stderr);
    assert!(!ran.stderr.contains("3_Normalize"), "{}", ran.stderr);
    let out = dir.path().join("out");
    let files =
        ["modules.json", "sentence_bert_config.json", "1_Pooling/config.json", "2_Dense/model.safetensors"];
    for file in files {
        assert_eq!(fs::read(out.join(file)).unwrap(), fs::read(donor.join(file)).unwrap(), "{file}");
    }
    assert_eq!(listing(&out.join("2_Dense")), ["config.json", "model.safetensors"]);
    assert!(!out.join("onnx").exists() && !out.join("3_Normalize").exists());
    // Another pooling is another job.
    merge(dir.path(), MEAN, "out", &[]).ok();
    fs::write(donor.join("1_Pooling/config.json"), "{\"pooling_mode_cls_token\": true}").unwrap();
    merge(dir.path(), MEAN, "out", &[]).fails(2, &["exists already"]);
    // A folder that is not there is said; one elsewhere is refused.
    fs::remove_dir_all(donor.join("1_Pooling")).unwrap();
    let ran = merge(dir.path(), MEAN, "incomplete", &[]).ok();
    assert!(ran.stderr.contains("names the folder 1_Pooling, which"), "{}", ran.stderr);
    fs::write(donor.join("modules.json"), "[{\"path\": \"../b\"}]").unwrap();
    merge(dir.path(), MEAN, "no", &[]).fails(2, &["modules.json", "`../b`"]);
}

/// What a link leads to would be published with the merge.
#[test]
fn links_out_of_a_model_are_refused_or_said() {
    let dir = temp();
    let mut random = Random(12);
    let link = |to: &str, at: &str| std::os::unix::fs::symlink(to, dir.path().join(at)).unwrap();
    sentence_model(&dir.path().join("a"), &tiny(&mut random, "", false));
    write_model(&dir.path().join("b"), &tiny(&mut random, "", false), &json!({}));
    fs::write(dir.path().join("secret"), "mine").unwrap();
    link("../modules.json", "a/1_Pooling/within.json");
    link("../secret", "a/notes.txt");
    let ran = merge(dir.path(), MEAN, "out", &[]).ok();
    assert!(
        ran.stderr.contains("copied from outside of") && ran.stderr.contains("notes.txt"),
        "{}",
        ran.stderr
    );
    assert!(!ran.stderr.contains("within.json"), "{}", ran.stderr);
    assert_eq!(fs::read(dir.path().join("out/notes.txt")).unwrap(), b"mine");
    for target in ["../../secret", "/etc/passwd"] {
        link(target, "a/1_Pooling/extra.json");
        merge(dir.path(), MEAN, "no", &[]).fails(2, &["1_Pooling/extra.json", "may not lead out"]);
        fs::remove_file(dir.path().join("a/1_Pooling/extra.json")).unwrap();
    }
    // The folder itself.
    fs::rename(dir.path().join("a/1_Pooling"), dir.path().join("elsewhere")).unwrap();
    link("../elsewhere", "a/1_Pooling");
    merge(dir.path(), MEAN, "no", &[]).fails(2, &["1_Pooling/config.json", "may not lead out"]);
    assert!(!dir.path().join("no").exists());
}

#[test]
fn tensors_that_are_no_floats_are_copied() {
    let dir = temp();
    let mut random = Random(6);
    let (mut a, mut b) = (tiny(&mut random, "model.", true), tiny(&mut random, "model.", true));
    a.insert("model.ids".into(), Array::i64(&[3], &[1, 2, 3]));
    b.insert("model.ids".into(), Array::i64(&[3], &[1, 2, 9]));
    write_model(&dir.path().join("a"), &a, &json!({}));
    write_model(&dir.path().join("b"), &b, &json!({}));
    let ran = merge(dir.path(), MEAN, "out", &[]).ok();
    assert!(ran.stderr.contains("model.ids") && ran.stderr.contains("differs in b"), "{}", ran.stderr);
    assert_eq!(read_model(&dir.path().join("out"))["model.ids"], a["model.ids"]);
}

#[test]
fn adapters_are_applied_on_the_fly() {
    let dir = temp();
    for (base, adapter) in
        [("base_llama", "plain"), ("base_llama", "rslora"), ("base_llama", "dora"), ("base_gpt2", "gpt2")]
    {
        for name in [base, adapter] {
            copy_dir(&testdata("adapter").join(name), &dir.path().join(name));
        }
        let recipe = format!("merge_method: passthrough\nmodels: [{{model: {base}+{adapter}}}]\n");
        let out = merged(dir.path(), &recipe, &format!("out-{adapter}"), &[]);
        let expected = read_file(&testdata("adapter").join(adapter).join("expected.safetensors"));
        let changed: Model = out
            .iter()
            .filter(|(n, _)| expected.contains_key(*n))
            .map(|(n, a)| (n.clone(), a.clone()))
            .collect();
        assert_close(&changed, &expected, 1e-6, adapter);
        let base = read_model(&dir.path().join(base));
        let same = out.iter().filter(|(n, _)| !expected.contains_key(*n)).all(|(n, a)| base[n] == *a);
        assert!(same && out.len() == base.len(), "{adapter}: the rest is the base");
    }
    // Half of a task vector of rank r.
    let recipe = "merge_method: task_arithmetic\nbase_model: base_llama\nmodels: [{model: base_llama+plain, parameters: {weight: 0.5}}]\n";
    let out = merged(dir.path(), recipe, "half", &[]);
    let base = read_model(&dir.path().join("base_llama"));
    let half = combine(&base, &read_model(&dir.path().join("out-plain")), |b, e| b + 0.5 * (e - b));
    assert_close(&out, &half, 1e-6, "half");
}

// ---- tokenizers

/// Token → row of the output's tokenizer.
fn vocabulary(out: &Path) -> BTreeMap<String, usize> {
    let file = json_file(&out.join("tokenizer.json"));
    let mut rows: BTreeMap<String, usize> = BTreeMap::new();
    for (token, id) in file["model"]["vocab"].as_object().unwrap() {
        rows.insert(token.clone(), id.as_u64().unwrap() as usize);
    }
    for token in file["added_tokens"].as_array().unwrap() {
        rows.insert(token["content"].as_str().unwrap().to_owned(), token["id"].as_u64().unwrap() as usize);
    }
    rows
}

#[test]
fn vocabularies_are_united_as_mergekit_unites_them() {
    let golden = json_file(&testdata("tokenizer/golden.json"));
    let dir = temp();
    for name in ["base", "chat", "code"] {
        let model = dir.path().join(name);
        copy_dir(&testdata("tokenizer/models").join(name), &model);
        let embedding = read_file(&model.join("embedding.safetensors")).remove("embedding").unwrap();
        fs::remove_file(model.join("embedding.safetensors")).unwrap();
        let rows = embedding.shape[0];
        let weights = Model::from([("model.embed_tokens.weight".to_owned(), embedding)]);
        write_model(&model, &weights, &json!({"vocab_size": rows, "tie_word_embeddings": true}));
    }
    for case in ["union", "base", "model", "padded", "rules"] {
        let wanted = &golden[case];
        let models: Vec<&str> =
            wanted["models"].as_array().unwrap().iter().map(|m| m.as_str().unwrap()).collect();
        for (chosen, rows) in wanted["rows"].as_array().unwrap().iter().enumerate() {
            let entry =
                |(i, m): (usize, &&str)| json!({"model": m, "parameters": {"weight": u8::from(i == chosen)}});
            let recipe = json!({
                "merge_method": "linear",
                "base_model": "base",
                "models": models.iter().enumerate().map(entry).collect::<Vec<_>>(),
                "tokenizer": wanted["tokenizer"],
            });
            let out = format!("out-{case}-{chosen}");
            let merged = merged(dir.path(), &recipe.to_string(), &out, &[]);
            let out = dir.path().join(out);
            let embedding = &merged["model.embed_tokens.weight"];
            assert_eq!(json_file(&out.join("config.json"))["vocab_size"], embedding.shape[0], "{case}");
            let ids = vocabulary(&out);
            let rows: &serde_json::Map<String, Value> = rows.as_object().unwrap();
            assert_eq!(
                ids.keys().collect::<Vec<_>>(),
                rows.keys().collect::<std::collections::BTreeSet<_>>().into_iter().collect::<Vec<_>>(),
                "{case}"
            );
            for (token, row) in rows {
                let row: Vec<f32> =
                    row.as_array().unwrap().iter().map(|v| v.as_f64().unwrap() as f32).collect();
                let at = ids[token] * embedding.shape[1];
                assert_eq!(embedding.values()[at..at + row.len()], row, "{case}, model {chosen}, `{token}`");
            }
        }
    }
}

#[test]
fn a_chat_template_can_be_given() {
    let dir = llamas();
    merged(dir.path(), &format!("{TASK}chat_template: chatml\n"), "out", &[]);
    let out = dir.path().join("out");
    let config = json_file(&out.join("tokenizer_config.json"));
    let file = fs::read_to_string(out.join("chat_template.jinja")).unwrap_or_default();
    let template = config["chat_template"].as_str().unwrap_or(&file);
    assert!(template.contains("<|im_start|>"), "{template}");
    merge(dir.path(), &format!("{TASK}chat_template: chatlm\n"), "bad", &[]).fails(2, &["chatlm", "chatml"]);
}

// ---- what is shown and written

#[test]
fn events_are_json_lines() {
    let dir = llamas();
    let ran = merge(dir.path(), TASK, "out", &["--json"]).ok();
    assert_eq!(ran.stderr, "");
    let events: Vec<Value> = ran.stdout.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    let kinds: Vec<&str> = events.iter().map(|e| e["event"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["phase", "health", "done"]);
    assert_eq!(events[1]["data"]["experts"], json!(["expert1"]));
    assert_eq!(events[2]["data"], "out");
    let quiet = merge(dir.path(), TASK, "quiet", &["--quiet"]).ok();
    assert_eq!((quiet.stdout.as_str(), quiet.stderr.as_str()), ("", ""));
}

#[test]
fn methods_are_listed_and_explained() {
    let dir = temp();
    let table = onefold(dir.path(), &["methods"]).ok().stdout;
    let merging = table.lines().skip(1).take_while(|line| !line.is_empty());
    let names: Vec<&str> = merging.map(|line| line.split_whitespace().next().unwrap()).collect();
    let mergekit = "linear slerp nuslerp multislerp karcher task_arithmetic ties dare_linear dare_ties della \
        della_linear breadcrumbs breadcrumbs_ties sce ram ramplus_tl model_stock nearswap arcee_fusion passthrough";
    for name in mergekit.split_whitespace().chain(["metagpt", "tsv_m", "iso_c", "iso_cts"]) {
        assert!(names.contains(&name), "{name} is not in:\n{table}");
    }
    let markdown = onefold(dir.path(), &["methods", "--markdown"]).ok().stdout;
    for name in names {
        let text = onefold(dir.path(), &["methods", name]).ok().stdout;
        assert!(text.starts_with(&format!("{name}: ")) && text.contains("base_model"), "{text}");
        assert!(markdown.contains(&format!("\n## {name}\n")), "{name}");
    }
}

#[test]
fn inspect_shows_one_model() {
    let dir = llamas();
    let text = onefold(dir.path(), &["inspect", "base"]).ok().stdout;
    for part in ["10.2 k parameters", "30 tensors", "F32", "No NaN"] {
        assert!(text.contains(part), "`{part}` is not in:\n{text}");
    }
    let health = onefold(dir.path(), &["inspect", "base", "--json"]).ok().json();
    assert_eq!(health["totals"]["parameters"], 10224);
    assert_eq!(health["tensors"].as_array().unwrap().len(), 30);
    let weights = read_model(&dir.path().join("base"));
    for tensor in health["tensors"].as_array().unwrap() {
        let values = weights[tensor["name"].as_str().unwrap()].values();
        let square: f64 = values.iter().map(|v| f64::from(*v).powi(2)).sum();
        let shown = tensor["gramian"][0].as_f64().unwrap();
        assert!((shown - square).abs() <= 1e-9 * square, "{tensor}");
    }
}

#[test]
fn inspect_compares_experts_with_their_base() {
    let dir = llamas();
    let args = ["inspect", "--base", "base", "expert1", "expert2", "expert3", "--html", "page.html"];
    let text = onefold(dir.path(), &args).ok().stdout;
    for part in ["Cosines", "Sign conflicts", "MetaGPT", "Loss bound"] {
        assert!(text.contains(part), "`{part}` is not in:\n{text}");
    }
    let page = fs::read_to_string(dir.path().join("page.html")).unwrap();
    assert!(page.to_lowercase().starts_with("<!doctype html>") && page.contains("<svg"), "{page:.200}");
    for outside in ["src=\"http", "href=\"http", "@import", "url(http"] {
        assert!(!page.contains(outside), "the page loads something: {outside}");
    }
    onefold(dir.path(), &args).fails(2, &["page.html", "exists already"]);
    onefold(dir.path(), &[&args[..], &["--force"]].concat()).ok();
    // The base has no task vector to compare.
    let none = onefold(dir.path(), &["inspect", "base", "./base", "--base", "base"]);
    none.fails(2, &["base is the base itself: its task vector is zero", "name an expert"]);
    assert!(!none.stderr.contains("metagpt"), "{}", none.stderr);
    let some = onefold(dir.path(), &["inspect", "base", "expert1", "--base", "base"]).ok().stdout;
    assert!(some.contains("! base is the base itself") && some.contains("1 expert "), "{some}");
    // Without a base the models themselves are compared.
    onefold(dir.path(), &["inspect", "expert1", "expert2"]).ok();
}

#[test]
fn inspect_lists_what_the_base_lacks() {
    let dir = temp();
    let mut random = Random(13);
    let base = tiny(&mut random, "", false);
    let mut expert = tiny(&mut random, "", false);
    for (name, shape) in [("classifier.weight", &[3, 4][..]), ("classifier.bias", &[3])] {
        let values = random.values(shape.iter().product(), 0.5);
        expert.insert(name.into(), Array::f32(shape, &values));
    }
    write_model(&dir.path().join("base"), &base, &json!({}));
    write_model(&dir.path().join("expert"), &expert, &json!({}));
    write_model(&dir.path().join("other"), &base, &json!({}));
    for experts in [&["expert"][..], &["expert", "other"]] {
        let args = [&["inspect", "--base", "base"], experts].concat();
        let shown = onefold(dir.path(), &args).ok().stdout;
        let words = shown.split_whitespace().collect::<Vec<_>>().join(" ");
        let lacking = match experts {
            [_] => "missing in the base model base",
            _ => "missing in the base model base, other",
        };
        let names = "classifier.bias, classifier.weight";
        for part in [
            "5 tensors · 2 copied".to_owned(),
            format!("Not compared 2 tensors, in no figure here ({lacking}): {names}"),
            format!("! {names}: {lacking}, left out of the comparison"),
        ] {
            assert!(words.contains(&part), "`{part}` is not in:\n{shown}");
        }
    }
}

#[test]
fn metagpt_from_files_is_the_golden() {
    let golden = json_file(&testdata("golden/metagpt.json"));
    let dir = temp();
    let numbers = |v: &Value| -> Vec<f32> {
        v.as_array().unwrap().iter().map(|x| x.as_f64().unwrap() as f32).collect()
    };
    let model = |v: &Value| -> Model {
        let one = |(n, v): (&String, &Value)| (n.clone(), Array::f32(&[numbers(v).len()], &numbers(v)));
        v.as_object().unwrap().iter().map(one).collect()
    };
    write_model(&dir.path().join("base"), &model(&golden["base"]), &json!({}));
    for (i, expert) in golden["models"].as_array().unwrap().iter().enumerate() {
        write_model(&dir.path().join(format!("e{i}")), &model(expert), &json!({}));
    }
    let close = |found: &Value, wanted: &Value, what: &str| {
        let (found, wanted) = (found.as_f64().unwrap(), wanted.as_f64().unwrap());
        assert!((found - wanted).abs() < 1e-6, "{what}: {found}, expected {wanted}");
    };
    let seen = onefold(dir.path(), &["inspect", "--json", "--base", "base", "e0", "e1", "e2"]).ok().json();
    for t in 0..3 {
        close(&seen["derived"]["experts"][t]["metagpt"], &golden["lambda"][t], "lambda seen by inspect");
    }
    close(&seen["derived"]["bounds"][0]["value"], &golden["upper_bound"]["at_metagpt"], "the bound");

    let recipe = "merge_method: metagpt\nbase_model: base\nmodels: [{model: e0}, {model: e1}, {model: e2}]\n";
    merge(dir.path(), recipe, "out", &[]).ok();
    let record = json_file(&dir.path().join("out/onefold.json"));
    for t in 0..3 {
        let used = &record["health"]["experts"][t]["coefficient"];
        close(&used["mean"], &golden["lambda"][t], "lambda used");
        assert_eq!(used["min"], used["max"], "one for the whole model");
    }
    assert_close(&read_model(&dir.path().join("out")), &model(&golden["merged"]), 1e-6, "merged");
    let tensor = merged(dir.path(), recipe, "tensor", &["--set", "parameters.granularity=tensor"]);
    let per_tensor = &golden["per_tensor_variant"]["lambda"];
    for name in ["a", "b"] {
        let base = model(&golden["base"])[name].values();
        let mut expected: Vec<f64> = base.iter().map(|v| f64::from(*v)).collect();
        for (t, lambda) in per_tensor[name].as_array().unwrap().iter().enumerate() {
            let expert = numbers(&golden["models"][t][name]);
            expected
                .iter_mut()
                .zip(&expert)
                .zip(&base)
                .for_each(|((e, x), b)| *e += lambda.as_f64().unwrap() * f64::from(x - b));
        }
        let found = tensor[name].values();
        assert!(
            found.iter().zip(&expected).all(|(f, e)| (f64::from(*f) - e).abs() < 1e-6),
            "{name}: {found:?} {expected:?}"
        );
    }
}

#[test]
fn licences_are_those_that_the_inputs_state() {
    let dir = llamas();
    let card = |name: &str, text: &str| fs::write(dir.path().join(name).join("README.md"), text).unwrap();
    card("expert1", "---\nlicense: apache-2.0\n---\n# One\n");
    card("expert2", "# Two\nlicense: of no matter\n");
    merge(dir.path(), TASK, "out", &[]).ok();
    let card = fs::read_to_string(dir.path().join("out/README.md")).unwrap();
    for part in ["* `base` (local): not stated", "* `expert1` (local): `apache-2.0`"] {
        assert!(card.contains(part), "`{part}` is not in:\n{card}");
    }
    // The terms of the result are for its maker to state.
    assert!(!card.lines().any(|line| line.starts_with("license:")), "{card}");
}

#[test]
fn the_output_explains_itself() {
    let dir = llamas();
    let out = dir.path().join("out");
    let model = merged(dir.path(), TASK, "out", &["--max-shard-size", "10KB"]);
    for file in ["README.md", "onefold.json", "recipe.yaml", "report.html", "config.json", "tokenizer.json"] {
        assert!(fs::metadata(out.join(file)).unwrap().len() > 0, "{file}");
    }
    let index = json_file(&out.join("model.safetensors.index.json"));
    assert_eq!(index["metadata"]["total_size"], model.values().map(|a| a.bytes.len()).sum::<usize>());
    assert_eq!(index["metadata"]["total_parameters"], 10224);
    assert_eq!(fs::read_to_string(out.join("recipe.yaml")).unwrap(), TASK);
    let card = fs::read_to_string(out.join("README.md")).unwrap();
    assert!(
        card.starts_with("---\n") && card.contains("- merge\n") && card.contains("task_arithmetic"),
        "{card}"
    );
    let record = json_file(&out.join("onefold.json"));
    assert_eq!(record["format"], "onefold.run/1");
    assert_eq!(record["inputs"].as_object().unwrap().len(), 2);
    // The recipe in the output makes the output.
    fs::copy(out.join("recipe.yaml"), dir.path().join("again.yml")).unwrap();
    onefold(dir.path(), &["merge", "again.yml", "-o", "again"]).ok();
    assert!(read_model(&dir.path().join("again")) == model);
    assert!(listing(&out).iter().all(|n| !n.starts_with('.')), "no journal is left");
}
