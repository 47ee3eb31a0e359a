//! Goldens of `testdata/text`, and tests of tokenizers.

use std::fs;
use std::path::PathBuf;

use serde_json::{Value, json};

use super::*;
use crate::json::read_object;
use crate::text::chat::Date;

pub(crate) fn testdata(name: &str) -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../testdata/text")).join(name)
}

pub(crate) fn tokenizer(name: &str) -> Tokenizer {
    Tokenizer::open(&testdata(name)).unwrap()
}

/// A template of the goldens, with the special tokens of the byte-level tokenizer.
pub(crate) fn template(name: &str) -> ChatTemplate {
    let text = fs::read_to_string(testdata("templates").join(format!("{name}.jinja"))).unwrap();
    ChatTemplate::new(name.to_owned(), &text, tokenizer("bpe").special()).unwrap()
}

pub(crate) fn conversation(messages: Value) -> Conversation {
    Conversation {
        messages: serde_json::from_value(messages).unwrap(),
        now: Some(Date { year: 2024, month: 7, day: 26, hour: 0, minute: 0, second: 0 }),
        ..Conversation::default()
    }
}

/// One rendering by transformers.
pub(crate) struct Golden {
    pub(crate) name: String,
    pub(crate) template: String,
    pub(crate) conversation: Conversation,
    pub(crate) prompt: bool,
    pub(crate) expected: Value,
}

pub(crate) fn chat_goldens() -> Vec<Golden> {
    let all = read_object(&testdata("chat.json")).unwrap();
    let mut goldens = Vec::new();
    for (template, conversations) in all["cases"].as_object().unwrap() {
        for (key, cases) in conversations.as_object().unwrap() {
            let given = &all["conversations"][key];
            let mut conversation = conversation(given["messages"].clone());
            conversation.tools = given.get("tools").map(|tools| tools.as_array().unwrap().clone());
            for expected in cases.as_array().unwrap() {
                let prompt = expected["add_generation_prompt"].as_bool().unwrap();
                let name = format!("{template}, {key}, prompt {prompt}");
                let (template, expected) = (template.clone(), expected.clone());
                goldens.push(Golden { name, template, conversation: conversation.clone(), prompt, expected });
            }
        }
    }
    assert!(goldens.len() > 30);
    goldens
}

/// Byte offsets as character offsets.
fn characters(text: &str, offsets: &[(usize, usize)]) -> Value {
    let count = |at: usize| (0..at).filter(|&i| text.is_char_boundary(i)).count();
    json!(offsets.iter().map(|&(start, end)| [count(start), count(end)]).collect::<Vec<_>>())
}

#[test]
fn encoding_agrees_with_the_reference() {
    for (name, golden) in &read_object(&testdata("encode.json")).unwrap() {
        let tokenizer = tokenizer(name);
        for row in golden["rows"].as_array().unwrap() {
            let text = row["text"].as_str().unwrap();
            let plain = tokenizer.encode(Input::Text(text), false, Limit::None).unwrap();
            assert_eq!(json!(plain.ids), row["ids"], "{name} {text:?}");
            assert_eq!(characters(text, &plain.offsets), row["offsets"], "{name} {text:?}");
            let full = tokenizer.encode(Input::Text(text), true, Limit::None).unwrap();
            assert_eq!(json!(full.ids), row["special"], "{name} {text:?}");
            assert_eq!(json!(tokenizer.decode(&full.ids, false).unwrap()), row["decoded"], "{name} {text:?}");
            assert_eq!(json!(tokenizer.decode(&full.ids, true).unwrap()), row["skipped"], "{name} {text:?}");
        }
    }
}

#[test]
fn cuts_agree_with_the_reference() {
    for (name, golden) in &read_object(&testdata("encode.json")).unwrap() {
        let tokenizer = tokenizer(name);
        let [first, second] = [0, 1].map(|i| golden["pair"][i].as_str().unwrap());
        for (side, limit) in [("right", Limit::KeepStart as fn(usize) -> Limit), ("left", Limit::KeepEnd)] {
            let one = tokenizer.encode(Input::Text(second), true, limit(8)).unwrap();
            assert_eq!(json!(one.ids), golden["cut"][side]["single"], "{name} {side}");
            assert!(one.cut > 0);
            let two = tokenizer.encode(Input::Pair(first, second), true, limit(14)).unwrap();
            assert_eq!(json!(two.ids), golden["cut"][side]["pair"], "{name} {side}");
            assert_eq!(json!(two.types), golden["cut"][side]["types"], "{name} {side}");
        }
    }
}

#[test]
fn batches_keep_their_order() {
    let tokenizer = tokenizer("bpe");
    let texts: Vec<String> = (0..200).map(|i| format!("text {i} ") + &"word ".repeat(i % 17)).collect();
    let inputs: Vec<_> = texts.iter().map(|text| Input::Text(text)).collect();
    let all = tokenizer.encode_all(&inputs, true, Limit::KeepStart(20)).unwrap();
    for (input, found) in inputs.iter().zip(&all) {
        assert_eq!(found, &tokenizer.encode(*input, true, Limit::KeepStart(20)).unwrap());
        assert!(found.ids.len() <= 20);
    }
}

#[test]
fn limits_that_cannot_be_met() {
    let tokenizer = tokenizer("wordpiece");
    let encode = |limit| tokenizer.encode(Input::Text("the quick brown fox"), true, limit);
    assert!(matches!(encode(Limit::Refuse(3)), Err(TextError::TooLong { limit: 3, found, .. }) if found > 3));
    assert!(encode(Limit::Refuse(100)).is_ok());
    assert!(matches!(encode(Limit::KeepStart(2)), Err(TextError::NoPlace { limit: 2, special: 2 })));
    assert!(matches!(tokenizer.decode(&[1_000_000], false), Err(TextError::Decode { .. })));
}

/// A directory with the byte-level tokenizer and other files beside it.
fn beside(files: &[(&str, &str)]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::copy(testdata("bpe/tokenizer.json"), dir.path().join("tokenizer.json")).unwrap();
    for (name, text) in files {
        #[allow(clippy::disallowed_methods, reason = "a test's input, in a temporary directory")]
        fs::write(dir.path().join(name), text).unwrap();
    }
    dir
}

#[test]
fn special_tokens_of_all_files() {
    let dir = beside(&[
        (
            "tokenizer_config.json",
            r#"{"bos_token": {"content": "<s>"}, "eos_token": "<|im_end|>", "pad_token": null}"#,
        ),
        ("special_tokens_map.json", r#"{"eos_token": "</s>", "unk_token": "<unk>"}"#),
        ("generation_config.json", r#"{"eos_token_id": [2, 9]}"#),
        ("config.json", r#"{"eos_token_id": 2, "pad_token_id": 3}"#),
    ]);
    let tokenizer = Tokenizer::open(dir.path()).unwrap();
    let special = tokenizer.special();
    assert_eq!((special.bos, special.pad, special.eos.as_slice()), (Some(1), Some(3), &[5, 2, 9][..]));
    assert_eq!(special.named["unk_token"], "<unk>");
    assert_eq!(tokenizer.id("</s>"), Some(2));
    assert!(tokenizer.vocabulary() > 300);
}

#[test]
fn attacks() {
    let error = |files: &[(&str, &str)]| Tokenizer::open(beside(files).path()).unwrap_err();
    assert!(matches!(error(&[("tokenizer.json", "{}")]), TextError::Tokenizer { .. }));
    assert!(matches!(error(&[("tokenizer.json", "")]), TextError::Tokenizer { .. }));
    assert!(matches!(error(&[("tokenizer_config.json", "{")]), TextError::Json(JsonError::Syntax { .. })));
    assert!(matches!(error(&[("config.json", "[]")]), TextError::Json(JsonError::Syntax { .. })));
    let found = error(&[("tokenizer_config.json", r#"{"eos_token": "<none>"}"#)]).to_string();
    assert!(found.contains("key `eos_token`: token \"<none>\" is not in the vocabulary"), "{found}");
    let found = error(&[("config.json", r#"{"eos_token_id": -1}"#)]).to_string();
    assert!(
        found.ends_with("key `eos_token_id`: expected a token id or a list of token ids, found -1"),
        "{found}"
    );
    assert!(matches!(error(&[("tokenizer_config.json", r#"{"bos_token": 3}"#)]), TextError::Key { .. }));
    let dir = tempfile::tempdir().unwrap();
    assert!(matches!(Tokenizer::open(dir.path()), Err(TextError::NoTokenizer { .. })));
}
