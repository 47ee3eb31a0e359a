//! Clip: classes by their names.

use super::*;
use crate::support::{Array, read_model, write_model};

const CLIP: &str = "merge_method: adamerging\n\
    base_model: clip\n\
    models: [{model: a, task: pets}, {model: b}]\n\
    tasks:\n\
    - {name: pets, inputs: pets.jsonl, test: pets-test.jsonl, classes: [cat, dog]}\n\
    - {name: signs, inputs: signs.jsonl, test: signs-test.jsonl, classes: signs.txt, templates: ['a {}', 'the {} here']}\n\
    batch: {examples: 3}\n\
    optimizer: {lr: 0.02}\n\
    steps: 6\n\
    log: 2\n\
    checkpoints: {every: 2}\n";

/// A tokenizer of words that brackets texts as clip's does.
fn tokenizer(dir: &Path) {
    let words =
        ["<unk>", "<pad>", "a", "photo", "of", "the", "here", ".", "cat", "dog", "stop", "go", "turn"];
    let mut vocabulary: serde_json::Map<String, Value> =
        words.iter().enumerate().map(|(id, word)| ((*word).to_owned(), json!(id))).collect();
    vocabulary.extend([("<s>".to_owned(), json!(62)), ("</s>".to_owned(), json!(63))]);
    let special = |id: u32, word: &str| {
        json!({"id": id, "content": word, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false,
            "special": true})
    };
    let token = |word: &str| json!({"SpecialToken": {"id": word, "type_id": 0}});
    let sequence = |id: &str| json!({"Sequence": {"id": id, "type_id": 0}});
    let named = |id: u32, word: &str| json!({"id": word, "ids": [id], "tokens": [word]});
    let file = json!({
        "version": "1.0", "truncation": null, "padding": null,
        "added_tokens": [special(62, "<s>"), special(63, "</s>")], "normalizer": null,
        "pre_tokenizer": {"type": "Whitespace"}, "decoder": null,
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [token("<s>"), sequence("A"), token("</s>")],
            "pair": [token("<s>"), sequence("A"), sequence("B"), token("</s>")],
            "special_tokens": {"<s>": named(62, "<s>"), "</s>": named(63, "</s>")},
        },
        "model": {"type": "WordLevel", "vocab": vocabulary, "unk_token": "<unk>"},
    });
    fs::write(dir.join("tokenizer.json"), file.to_string()).unwrap();
    let config = json!({"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"});
    fs::write(dir.join("tokenizer_config.json"), config.to_string()).unwrap();
}

/// A base, two experts, of which one has moved its text tower too, and pictures.
pub(crate) fn clip() -> TempDir {
    let dir = temp();
    let at = dir.path();
    copy_dir(&testdata("families/clip"), &at.join("clip"));
    fs::remove_file(at.join("clip/golden.json")).unwrap();
    tokenizer(&at.join("clip"));
    let processor = json!({
        "image_processor_type": "CLIPImageProcessor", "size": {"height": 16, "width": 16}, "do_center_crop": false,
        "image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5],
    });
    fs::write(at.join("clip/preprocessor_config.json"), processor.to_string()).unwrap();
    let (base, config) = (read_model(&at.join("clip")), json_file(&at.join("clip/config.json")));
    for (number, expert) in ["a", "b"].into_iter().enumerate() {
        let mut model = base.clone();
        for (name, tensor) in &mut model {
            let moves = name.starts_with("vision_model.") || number == 1 && name.starts_with("text_model.");
            if moves {
                let value = |(i, v): (usize, f32)| v + 0.1 * ((i * (7 + 4 * number)) as f32).sin();
                let values: Vec<f32> = tensor.values().into_iter().enumerate().map(value).collect();
                *tensor = Array::f32(&tensor.shape, &values);
            }
        }
        write_model(&at.join(expert), &model, &config);
    }
    let images = ["rgb.png", "grey.png", "palette.png", "photo.jpg"].map(|name| testdata("image").join(name));
    for (task, classes) in [("pets", ["cat", "dog"]), ("signs", ["stop", "turn"])] {
        rows(at, &format!("{task}.jsonl"), images.iter().map(|image| json!({"image": image})));
        let row = |(i, image): (usize, _)| match i {
            0 => json!({"image": image, "label": 1}),
            _ => json!({"image": image, "label": classes[i % 2]}),
        };
        rows(at, &format!("{task}-test.jsonl"), images.iter().enumerate().map(row));
    }
    fs::write(at.join("signs.txt"), "stop\ngo\n\nturn\n").unwrap();
    dir
}

#[test]
fn one_model_comes_out_whose_texts_are_the_bases() {
    let dir = clip();
    let dir = dir.path();
    for (name, more) in
        [("tensor", ""), ("model", "granularity: model\n"), ("block", "granularity: block\ndiversity: 0.1\n")]
    {
        let ran = adapt(dir, &format!("{CLIP}{more}"), name, &[]).ok();
        assert!(
            ran.stderr.contains("expert b: `text_model.") && !ran.stderr.contains("expert a: `"),
            "{}",
            ran.stderr
        );
        let (base, merged) = (read_model(&dir.join("clip")), read_model(&dir.join(name)));
        for (tensor, value) in &base {
            assert_eq!(merged[tensor] == *value, !tensor.starts_with("vision_model."), "{name}: {tensor}");
        }
        for file in ["tokenizer.json", "preprocessor_config.json", "config.json", "merge.yaml", "report.html"]
        {
            assert!(dir.join(name).join(file).is_file(), "{name}: {file}");
        }
        let again = format!("again-{name}");
        onefold(dir, &["merge", &format!("{name}/merge.yaml"), "-o", &again]).ok();
        let weights = |out: &str| fs::read(dir.join(out).join("model.safetensors")).unwrap();
        assert!(weights(name) == weights(&again), "{name}");
        let scores = &json_file(&dir.join(name).join("onefold.json"))["result"]["tasks"];
        for (task, classes) in [("pets", 2), ("signs", 3)] {
            let score = &scores[task]["after"];
            assert!(score["accuracy"].is_f64(), "{scores}");
            assert_eq!(score["predictions"]["counts"].as_array().unwrap().len(), classes);
        }
        assert_eq!(scores["pets"]["after"]["predictions"]["expected"], json!([1, 3]));
        assert!(scores["pets"]["expert"].is_object() && scores["signs"]["expert"].is_null(), "{scores}");
    }
    // Classes of a file are those of the recipe; another class is another job.
    fs::write(dir.join("signs.txt"), "stop\nturn\n").unwrap();
    adapt(dir, CLIP, "tensor", &[]).fails(2, &["tensor", "exists already"]);
    adapt(dir, &CLIP.replace("adamerging", "adamerging_plus"), "plus", &[]).ok();
    onefold(dir, &["merge", "plus/merge.yaml", "-o", "again-plus"]).ok();
    let weights = |out: &str| fs::read(dir.join(out).join("model.safetensors")).unwrap();
    assert!(weights("plus") == weights("again-plus"));
}

/// Stopped at once and gone on with: the same bytes.
#[test]
fn a_stopped_run_goes_on() {
    let dir = clip();
    let dir = dir.path();
    let recipe = CLIP.replace("steps: 6", "steps: 60");
    adapt(dir, &recipe, "whole", &["--threads", "1"]).ok();
    let mut child = crate::support::command(dir, &["adapt", "r.yaml", "-o", "out"])
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    while !dir.join("out.run/checkpoint-4").exists() && child.try_wait().unwrap().is_none() {
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    let _ = child.kill();
    child.wait().unwrap();
    onefold(dir, &["adapt", "r.yaml", "-o", "out"]).ok();
    assert!(result(&dir.join("out")) == result(&dir.join("whole")));
}

#[test]
fn mistakes_are_named() {
    let dir = clip();
    let dir = dir.path();
    fs::write(dir.join("one.txt"), "stop\n").unwrap();
    fs::write(dir.join("twice.txt"), "stop\ngo\nstop\n").unwrap();
    fs::write(dir.join("none.txt"), "\n").unwrap();
    let long = format!("templates: ['{}']}}", "a {} ".repeat(9));
    for (from, to, parts) in [
        ("[cat, dog]", "[]", &["tasks[0].classes", "found an empty list"][..]),
        ("[cat, dog]", "[cat]", &["one class, \"cat\""]),
        ("[cat, dog]", "[cat, dog, cat]", &["\"cat\" stands twice"]),
        ("[cat, dog]", "[cat, ' ']", &["the name of class 1 is empty"]),
        ("signs.txt", "one.txt", &["one.txt", "one class, \"stop\""]),
        ("signs.txt", "twice.txt", &["tasks[1].classes", "twice.txt", "\"stop\" stands twice"]),
        ("signs.txt", "none.txt", &["none.txt", "no class"]),
        ("signs.txt", "nowhere.txt", &["nowhere.txt", "cannot be read"]),
        ("'a {}'", "'a sign'", &["\"a sign\" has no place for a class", "`{}`"]),
        ("templates: ['a {}', 'the {} here']", "templates: []", &["templates", "found an empty list"]),
        (", classes: [cat, dog]", "", &["task `pets`", "no `classes`", "[cat, dog]"]),
        (", classes: [cat, dog]", ", templates: ['a {}']", &["`templates`"]),
        ("templates: ['a {}', 'the {} here']}", &long, &["task `signs`", "tokens, the model takes 16"]),
        (
            "pets-test.jsonl, classes: [cat, dog]",
            "pets-test.jsonl, classes: [cat, fish]",
            &["pets", "\"dog\""],
        ),
        ("merge_method: adamerging", "merge_method: fisher", &["`classes`"]),
        ("model: b", "model: bert", &["bert"]),
    ] {
        assert!(CLIP.contains(from), "{from}");
        adapt(dir, &CLIP.replacen(from, to, 1), "out", &[]).fails(2, parts);
        assert!(!dir.join("out").exists(), "{to}");
    }
    let experts = experts();
    let recipe = ENCODER.replace("test: vowels.jsonl", "test: vowels.jsonl, classes: [vowel, consonant]");
    let parts = ["task `vowels`", "takes a model of type `clip`; the base is `bert`"];
    adapt(experts.path(), &recipe, "out", &[]).fails(2, &parts);
}
