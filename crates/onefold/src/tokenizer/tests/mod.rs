#![allow(
    clippy::disallowed_methods,
    reason = "tests write their fixtures themselves, into temporary directories"
)]

mod attacks;
mod build;
mod chat;
mod golden;
mod laws;

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use serde_json::{Value, json};
use tempfile::TempDir;

use super::*;

/// The models of one test in a temporary directory.
pub(super) struct Fixture {
    root: TempDir,
    models: Vec<ModelTokenizer>,
}

impl Fixture {
    pub(super) fn new() -> Self {
        Self { root: tempfile::tempdir().unwrap(), models: Vec::new() }
    }

    /// Adds a model without files.
    pub(super) fn empty(mut self, rows: usize) -> Self {
        let label = format!("m{}", self.models.len());
        let dir = self.root.path().join(&label);
        fs::create_dir(&dir).unwrap();
        self.models.push(ModelTokenizer { label, dir, rows });
        self
    }

    /// Adds a model with this `tokenizer.json`.
    pub(super) fn model(self, tokenizer: &Value, rows: usize) -> Self {
        self.empty(rows).file("tokenizer.json", &serde_json::to_string_pretty(tokenizer).unwrap())
    }

    /// Adds a file to the last model.
    pub(super) fn file(self, name: &str, content: &str) -> Self {
        let path = self.models.last().unwrap().dir.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
        self
    }

    pub(super) fn request(&self, source: Source) -> Request {
        Request {
            models: self.models.clone(),
            base: 0,
            base_named: true,
            source,
            rules: Vec::new(),
            pad_to_multiple_of: None,
        }
    }

    pub(super) fn build(&self, source: Source) -> Built {
        build(&self.request(source)).unwrap()
    }
}

pub(super) fn rule(token: &str, source: Option<TokenSource>, force: bool) -> TokenRule {
    TokenRule { token: token.to_owned(), source, force }
}

/// A BPE tokenizer with these tokens at 0.. and these added ones (id, text, special).
pub(super) fn bpe(tokens: &[&str], added: &[(u32, &str, bool)]) -> Value {
    let vocab: serde_json::Map<String, Value> =
        tokens.iter().enumerate().map(|(id, token)| ((*token).to_owned(), json!(id))).collect();
    tokenizer(&json!({"type": "BPE", "vocab": vocab, "merges": []}), added)
}

pub(super) fn tokenizer(model: &Value, added: &[(u32, &str, bool)]) -> Value {
    let added: Vec<Value> = added
        .iter()
        .map(|(id, content, special)| {
            json!({"id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
                   "normalized": false, "special": special})
        })
        .collect();
    json!({"version": "1.0", "added_tokens": added, "pre_tokenizer": null, "model": model, "unheard_of": 1})
}

/// The text of an output file.
pub(super) fn content(built: &Built, name: &str) -> String {
    let file = built.files.iter().find(|file| file.name == name).unwrap_or_else(|| panic!("no {name}"));
    match &file.content {
        FileContent::Copied(path) => fs::read_to_string(path).unwrap(),
        FileContent::New(bytes) => String::from_utf8(bytes.clone()).unwrap(),
    }
}

pub(super) fn is_copied(built: &Built, name: &str) -> bool {
    built.files.iter().any(|file| file.name == name && matches!(file.content, FileContent::Copied(_)))
}

pub(super) fn names(built: &Built) -> Vec<&str> {
    built.files.iter().map(|file| &*file.name).collect()
}

/// The vocabulary a reader of the output's `tokenizer.json` gets: added tokens are numbered on from the number
/// of entries, their written ids are not looked at.
pub(super) fn vocabulary_as_read(text: &str) -> BTreeMap<String, u32> {
    let file: Value = serde_json::from_str(text).unwrap();
    let mut vocab: BTreeMap<String, u32> = match &file["model"]["vocab"] {
        Value::Object(map) => map
            .iter()
            .map(|(token, id)| (token.clone(), u32::try_from(id.as_u64().unwrap()).unwrap()))
            .collect(),
        Value::Array(list) => {
            list.iter().zip(0u32..).map(|(entry, id)| (entry[0].as_str().unwrap().to_owned(), id)).collect()
        }
        other => panic!("no vocabulary: {other}"),
    };
    let mut next = u32::try_from(vocab.len()).unwrap();
    for added in file["added_tokens"].as_array().unwrap() {
        let text = added["content"].as_str().unwrap();
        if !vocab.contains_key(text) {
            vocab.insert(text.to_owned(), next);
            next += 1;
        }
        assert_eq!(json!(vocab[text]), added["id"], "the written id of {text:?} is the one readers give it");
    }
    vocab
}

/// Applies a map to the models' matrices, in f64: what the merge engine does, the slow way.
pub(super) fn apply(built: &Built, model: usize, matrices: &[Vec<Vec<f64>>]) -> Vec<Vec<f64>> {
    let width = matrices[0][0].len();
    let mean = |rows: &[&Vec<f64>]| -> Vec<f64> {
        (0..width).map(|column| rows.iter().map(|row| row[column]).sum::<f64>() / rows.len() as f64).collect()
    };
    let map = &built.maps[model];
    let mut result: Vec<Vec<f64>> = map
        .iter()
        .map(|row| match row {
            Row::Own(row) => matrices[model][row as usize].clone(),
            Row::From { model, row } => matrices[model as usize][row as usize].clone(),
            Row::Mean(list) => mean(
                &list
                    .iter()
                    .map(|(model, row)| &matrices[*model as usize][*row as usize])
                    .collect::<Vec<_>>(),
            ),
            Row::Zero | Row::PaddingMean => vec![0.0; width],
        })
        .collect();
    let tokens = built.token_rows.iter().flat_map(|range| range.start as usize..range.end as usize);
    let padding = mean(&tokens.map(|row| &result[row]).collect::<Vec<_>>());
    for (target, row) in result.iter_mut().zip(map.iter()) {
        if row == Row::PaddingMean {
            target.clone_from(&padding);
        }
    }
    result
}
