#![allow(clippy::disallowed_methods, reason = "fixtures are written plainly")]

use std::fs;

use onefold_checkpoint::Checkpoint;

use super::*;
use crate::model::testing::{Golden, stored};
use crate::model::{Batch, HeadStart, Sequence, TextModel};

/// A golden's model as a directory with files beside its weights.
fn model(golden: &Golden, dir: &Path) {
    fs::create_dir_all(dir.join("1_Pooling")).unwrap();
    let from = golden.checkpoint.dir();
    for name in ["model.safetensors", "config.json"] {
        fs::copy(from.join(name), dir.join(name)).unwrap();
    }
    for (name, text) in [
        ("tokenizer.json", "{ \"a\": 1 }"),
        ("generation_config.json", "{}"),
        ("modules.json", r#"[{"path": "1_Pooling", "type": "Pooling"}]"#),
        ("1_Pooling/config.json", "{\n}"),
        ("README.md", "a card of another model"),
        ("onefold.json", "{}"),
    ] {
        fs::write(dir.join(name), text).unwrap();
    }
}

fn open(dir: &Path) -> (ModelConfig, Parameters) {
    let config = ModelConfig::open(dir).unwrap();
    let parameters = Parameters::load(&config, &Checkpoint::open(dir).unwrap(), |_| true).unwrap();
    (config, parameters)
}

#[test]
fn a_saved_model_is_whole() {
    let dir = tempfile::tempdir().unwrap();
    let (source, out) = (dir.path().join("in"), dir.path().join("out"));
    let golden = Golden::open("bert");
    model(&golden, &source);
    let (_, parameters) = open(&source);
    let to = Destination { source: &source, out: &out, replace: false };
    let names = ["1_Pooling/config.json", "generation_config.json", "modules.json", "tokenizer.json"];
    assert_eq!(parameters.save(&to).unwrap().names, names);
    for name in names.iter().chain(&["config.json"]) {
        assert_eq!(fs::read(source.join(name)).unwrap(), fs::read(out.join(name)).unwrap(), "{name}");
    }
    assert!(!out.join("README.md").exists() && !out.join("onefold.json").exists());
    assert!(stored(&Checkpoint::open(&out).unwrap()) == stored(&golden.checkpoint));
    // What is there stays, unless it is to be replaced.
    let error = parameters.save(&to).unwrap_err().to_string();
    assert!(error.contains("out: exists already"), "{error}");
    parameters.save(&Destination { replace: true, ..to }).unwrap();
    let error = parameters.save(&Destination { out: &source, replace: true, ..to }).unwrap_err();
    assert!(error.to_string().contains("would overwrite the input"), "{error}");
}

/// Neither the output nor a beginning of it, whatever is wrong.
#[test]
fn what_fails_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (source, out) = (dir.path().join("in"), dir.path().join("out"));
    let golden = Golden::open("bert");
    model(&golden, &source);
    let (config, mut parameters) = open(&source);
    let to = Destination { source: &source, out: &out, replace: false };
    assert!(matches!(parameters.save_task(3, &to), Err(SaveError::NoTaskHead { task: 3 })));
    parameters.add_head(3, &config, HeadStart::default()).unwrap();
    fs::write(source.join("config.json"), "[]").unwrap();
    let error = parameters.save_task(3, &to).unwrap_err().to_string();
    assert!(error.contains("config.json") && error.contains("no JSON object"), "{error}");
    fs::write(source.join("modules.json"), "{}").unwrap();
    assert!(parameters.save(&to).unwrap_err().to_string().contains("not a list of sentence-transformers"));
    fs::remove_file(source.join("config.json")).unwrap();
    assert!(parameters.save(&to).unwrap_err().to_string().contains("config.json: cannot read"));
    model(&golden, &source);
    let (id, _) = parameters.trainable().next().unwrap();
    parameters.value_mut(id).unwrap().write(0, &[f32::NAN]);
    assert!(matches!(parameters.save(&to), Err(SaveError::Unstorable { .. })));
    let left: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["in"]);
}

/// Trunks with poolers, prefixes and language heads; each task's model opens by itself and answers the same.
#[test]
fn each_task_is_a_model_of_its_own() {
    for name in ["bert", "distilbert", "roberta_masked", "llama_gqa"] {
        let dir = tempfile::tempdir().unwrap();
        let source = dir.path().join("in");
        model(&Golden::open(name), &source);
        let (config, mut parameters) = open(&source);
        let labels = ["no", "perhaps", "yes"].map(str::to_owned).to_vec();
        let several = config.with_head(Head::Classes(3), labels, Problem::MultiLabel);
        let number = config.with_head(Head::Classes(1), Vec::new(), Problem::Regression);
        let start = HeadStart { seed: 4, deviation: 0.3 };
        parameters.add_head(0, &several, start).unwrap();
        parameters.add_head(1, &number, start).unwrap();
        let mut batch = Batch::default();
        batch.push(&Sequence { ids: &[5, 6, 7], ..Sequence::default() });
        let mut model = TextModel::new(&parameters).unwrap();
        for (task, expected) in [(0, &several), (1, &number)] {
            model.select_head(Some(task)).unwrap();
            let answers = model.classify(&parameters, &batch).unwrap().to_vec();
            let out = dir.path().join(format!("task{task}"));
            let to = Destination { source: &source, out: &out, replace: false };
            assert!(parameters.save_task(task, &to).unwrap().names.contains(&"tokenizer.json".to_owned()));
            let (config, parameters) = open(&out);
            let found = config.common();
            assert_eq!((found.head, found.problem), (expected.common().head, expected.common().problem));
            assert_eq!(found.labels.len(), answers.len());
            assert_eq!(Checkpoint::open(&out).unwrap().tensors().len(), parameters.len(), "{name}");
            let mut model = TextModel::new(&parameters).unwrap();
            assert_eq!(model.classify(&parameters, &batch).unwrap().to_vec(), answers, "{name} {task}");
        }
    }
}

#[test]
fn a_head_changes_its_own_keys_alone() {
    let golden = Golden::open("bert");
    let labels = vec!["a \"b\"".to_owned(), "c".to_owned()];
    let config = golden.config.with_head(Head::Tokens(2), labels, Problem::SingleLabel);
    let text =
        "{\n  \"layer_norm_eps\": 1e-12,\n  \"num_labels\": 3,\n  \"problem_type\": \"regression\"\n}\n";
    let expected = "{\n  \"layer_norm_eps\": 1e-12,\n  \"num_labels\": 2,\n  \"architectures\": \
                    [\"BertForTokenClassification\"],\n  \"id2label\": {\n    \"0\": \"a \\\"b\\\"\",\n    \"1\": \
                    \"c\"\n  },\n  \"label2id\": {\n    \"a \\\"b\\\"\": 0,\n    \"c\": 1\n  }\n}\n";
    assert_eq!(with_head(text, &config).unwrap(), expected);
}
