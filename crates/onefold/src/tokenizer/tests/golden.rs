//! Against mergekit 0.1.5: the output's tokens and, for each model and token, the rebuilt embedding row.
//! Ids of appended tokens are not compared: mergekit appends in the order of a set.

use std::path::{Path, PathBuf};

use super::*;

fn data() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/tokenizer")
}

fn matrix(name: &str) -> Vec<Vec<f64>> {
    let bytes = fs::read(data().join("models").join(name).join("embedding.safetensors")).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let view = file.tensor("embedding").unwrap();
    let numbers =
        view.data().chunks_exact(4).map(|bytes| f64::from(f32::from_le_bytes(bytes.try_into().unwrap())));
    numbers.collect::<Vec<f64>>().chunks(view.shape()[1]).map(<[f64]>::to_vec).collect()
}

fn source(value: &Value, names: &[&str]) -> Option<TokenSource> {
    let model = |name: &Value| names.iter().position(|known| known == name).unwrap();
    Some(match value {
        Value::Null => return None,
        Value::String(_) => TokenSource::Model(model(value)),
        value if value["kind"] == "zero" => TokenSource::Zero,
        value => TokenSource::ModelToken {
            model: model(&value["model"]),
            token: match value["token"].as_str() {
                Some(text) => TokenName::Text(text.to_owned()),
                None => TokenName::Id(u32::try_from(value["token_id"].as_u64().unwrap()).unwrap()),
            },
        },
    })
}

fn request(case: &Value, names: &[&str]) -> Request {
    let section = &case["tokenizer"];
    let models = names.iter().map(|name| ModelTokenizer {
        label: (*name).to_owned(),
        dir: data().join("models").join(name),
        rows: matrix(name).len(),
    });
    let rules = section["tokens"].as_object().into_iter().flatten();
    Request {
        models: models.collect(),
        base: 0,
        base_named: case["base"] == true,
        source: match section["source"].as_str().unwrap() {
            "union" => Source::Union,
            "base" => Source::Base,
            name => Source::Model(names.iter().position(|known| *known == name).unwrap()),
        },
        rules: rules
            .map(|(token, entry)| rule(token, source(&entry["source"], names), entry["force"] == true))
            .collect(),
        // mergekit always cuts the padding off.
        pad_to_multiple_of: Some(
            section["pad_to_multiple_of"].as_u64().map_or(1, |multiple| usize::try_from(multiple).unwrap()),
        ),
    }
}

fn golden() -> serde_json::Map<String, Value> {
    serde_json::from_str(&fs::read_to_string(data().join("golden.json")).unwrap()).unwrap()
}

#[test]
fn rows_and_tokens_are_mergekits() {
    let golden = golden();
    assert_eq!(golden.len(), 8);
    for (name, case) in &golden {
        let names: Vec<&str> =
            case["models"].as_array().unwrap().iter().map(|name| name.as_str().unwrap()).collect();
        let built = build(&request(case, &names)).unwrap();
        if case["error"].is_string() {
            // [BUG] of mergekit: a token beyond the embedding of a model other than the base is a KeyError.
            assert_eq!(name, "other_over_range");
            assert_eq!(built.report.models[1].over_range.examples, ["<pad>"]);
            continue;
        }
        assert_eq!(json!(built.rows), case["size"], "{name}");
        let vocab = vocabulary_as_read(&content(&built, "tokenizer.json"));
        let matrices: Vec<_> = names.iter().map(|name| matrix(name)).collect();
        for (model, expected) in case["rows"].as_array().unwrap().iter().enumerate() {
            let expected: BTreeMap<String, Vec<f64>> = serde_json::from_value(expected.clone()).unwrap();
            assert!(vocab.keys().eq(expected.keys()), "{name}: {vocab:?} {expected:?}");
            let rows = apply(&built, model, &matrices);
            for (token, expected) in &expected {
                // Multiples of 1/8; only means of three are rounded, in f32.
                for (got, want) in rows[vocab[token] as usize].iter().zip(expected) {
                    assert!((got - want).abs() < 1e-4, "{name} {model} {token} {got} {want}");
                }
            }
            let padding: Vec<Vec<f64>> = serde_json::from_value(case["padding"][model].clone()).unwrap();
            for (got, want) in rows[built.vocab_size..].iter().flatten().zip(padding.iter().flatten()) {
                assert!((got - want).abs() < 1e-4, "{name} padding {got} {want}");
            }
        }
    }
}

#[test]
fn ids_of_the_base_stay() {
    let golden = golden();
    let names = ["base", "chat", "code"];
    let built = build(&request(&golden["union"], &names)).unwrap();
    let before = vocabulary_as_read(&fs::read_to_string(data().join("models/base/tokenizer.json")).unwrap());
    let after = vocabulary_as_read(&content(&built, "tokenizer.json"));
    assert!(before.iter().all(|(token, id)| after[token] == *id));
    let appended: Vec<_> =
        after.iter().filter(|(_, id)| **id >= 11).map(|(token, id)| (*id, &**token)).collect();
    let mut appended = appended;
    appended.sort_unstable();
    // In order of the models and their ids, whatever the run.
    let expected = [(11, "<unk>"), (12, "cd"), (13, "<|im|>"), (14, "<tool>"), (15, "ef"), (16, "<code>")];
    assert_eq!(appended, expected);
}
