use super::*;

/// Every mistake by itself: exit code 2, what it is, nothing made.
#[test]
fn mistakes_are_named() {
    let dir = experts();
    let dir = dir.path();
    rows(dir, "labelled.jsonl", ('a'..='z').map(|a| json!({"text": a.to_string(), "label": "vowel"})));
    rows(dir, "few.jsonl", ('a'..='c').map(|a| json!({"text": a.to_string()})));
    rows(dir, "strange.jsonl", ('a'..='z').map(|a| json!({"text": a.to_string(), "label": "fourth"})));
    fs::write(dir.join("empty.jsonl"), "").unwrap();
    fs::write(dir.join("broken.jsonl"), "{\"text\": \"a\"}\n{\"text\": }\n").unwrap();
    copy_dir(&testdata("mergekit/models/base"), &dir.join("llama"));
    for (from, to, parts) in [
        (
            "inputs: vowels-in.jsonl",
            "inputs: labelled.jsonl",
            &["task `vowels`", "labelled.jsonl", "`label`", "labels_in_inputs: ignore"][..],
        ),
        ("inputs: vowels-in.jsonl", "inputs: few.jsonl", &["task `vowels`", "3 inputs", "batch.examples"]),
        ("inputs: vowels-in.jsonl", "inputs: empty.jsonl", &["vowels", "empty.jsonl"]),
        ("inputs: vowels-in.jsonl", "inputs: none.jsonl", &["none.jsonl"]),
        ("inputs: vowels-in.jsonl", "inputs: broken.jsonl", &["broken.jsonl", "2"]),
        (
            "inputs: vowels-in.jsonl",
            "inputs: vowels.jsonl, labels_in_inputs: ignore",
            &["vowels.jsonl", "both `inputs` and `test`", "--transductive"],
        ),
        ("test: thirds.jsonl", "test: strange.jsonl", &["task `thirds`", "\"fourth\"", "\"first\""]),
        ("model: thirds, task: thirds", "model: llama, task: thirds", &["thirds"]),
        ("model: thirds, task: thirds", "model: llama", &["task `thirds`", "say which expert is of it"]),
        ("model: thirds, task: thirds", "model: nowhere, task: thirds", &["nowhere"]),
        ("model: thirds", "model: vowels", &["stands twice"]),
        ("base_model: bert", "base_model: llama", &["llama"]),
        ("steps: 10", "stepps: 10", &["`stepps`", "did you mean `steps`"]),
        ("merge_method: adamerging", "merge_method: ties", &["adamerging_plus"]),
        (
            "weight: 2",
            "weight: 2, labels: [a, b]",
            &["classes and their order are those of the expert's head"],
        ),
    ] {
        assert!(ENCODER.contains(from), "{from}");
        let ran = adapt(dir, &ENCODER.replacen(from, to, 1), "out", &[]);
        ran.fails(2, parts);
        assert!(!dir.join("out").exists(), "{to}");
    }
}

/// A file of coefficients and the recipe that reads it have to fit.
#[test]
fn coefficients_that_do_not_fit_a_merge() {
    let dir = decoder();
    let dir = dir.path();
    adapt(dir, DECODER, "out", &[]).ok();
    let good = fs::read_to_string(dir.join("out/coefficients.json")).unwrap();
    let recipe = "merge_method: adamerging\nbase_model: base\ncoefficients: c.json\nmodels: [{model: expert-a}, {model: expert-b}]\n";
    let merge = |text: &str, recipe: &str| {
        fs::write(dir.join("c.json"), text).unwrap();
        fs::write(dir.join("m.yaml"), recipe).unwrap();
        onefold(dir, &["merge", "m.yaml", "-o", "merged"])
    };
    for (text, recipe, parts) in [
        ("{", recipe.to_owned(), &["c.json", "no JSON object"][..]),
        (
            &good.replace("coefficients/1", "coefficients/2"),
            recipe.to_owned(),
            &["expected \"onefold.coefficients/1\""],
        ),
        (&good, recipe.replace(", {model: expert-b}", ""), &["coefficients of 2 models, the recipe has 1"]),
        (
            &good,
            recipe.replace("{model: expert-b}", "{model: expert-b, parameters: {weight: 1}}"),
            &["`weight` beside `coefficients`"],
        ),
        (&good, recipe.replace("c.json", "d.json"), &["d.json", "cannot be read"]),
        (&good, recipe.replace("adamerging", "karcher"), &["`karcher` takes no weights of models"]),
        (
            &good,
            recipe.replace("coefficients: c.json", "parameters: {}"),
            &["no `weight` for the model `expert-a`"],
        ),
        (&good, format!("{recipe}head: {{model: expert-a}}\n"), &["no `tensors`"]),
    ] {
        merge(text, &recipe).fails(2, parts);
    }
    merge(&good, recipe).ok();
    // Another file is another job, although its name is the same.
    let other = good.replacen("0.3", "0.4", 1);
    let changed = if other == good { good.replacen("0.2", "0.1", 1) } else { other };
    merge(&changed, recipe).fails(2, &["exists already"]);
    // What has no coefficient stays the base's.
    let values = json!({"format": "onefold.coefficients/1", "models": ["a", "b"], "coefficients": {"model.norm": [1.0, 0.0]}});
    fs::remove_dir_all(dir.join("merged")).unwrap();
    merge(&values.to_string(), recipe).ok();
    let read = |name: &str| crate::support::read_model(&dir.join(name));
    let (merged, base, a) = (read("merged"), read("base"), read("expert-a"));
    assert_eq!(merged["model.embed_tokens.weight"], base["model.embed_tokens.weight"]);
    assert_eq!(merged["model.norm.weight"], a["model.norm.weight"]);
}
