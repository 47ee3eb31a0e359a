use std::path::Path;

use serde_json::json;

use super::*;
use crate::data::error::{DataError, Place, Unit};

#[allow(clippy::needless_pass_by_value, reason = "`json!` at every call")]
fn row(values: Value) -> Row {
    let place = Place { path: Path::new("f").into(), number: 1, unit: Unit::Line };
    Row { values: values.as_object().unwrap().clone(), binary: Vec::new(), place }
}

fn detected(values: Value) -> Layout {
    Layout::detect(&row(values), &Columns::default()).unwrap()
}

fn messages(values: Value) -> Vec<(String, String)> {
    let row = row(values);
    let layout = Layout::detect(&row, &Columns::default()).unwrap();
    let Example::Chat(chat) = layout.read(row).unwrap() else { panic!("no conversation") };
    let text = |message: &Map<String, Value>, key: &str| message[key].as_str().unwrap().to_owned();
    chat.messages.iter().map(|message| (text(message, "role"), text(message, "content"))).collect()
}

#[test]
fn shapes_by_their_keys() {
    for (values, shape, text) in [
        (json!({"messages": [], "prompt": ""}), Shape::Messages, "messages (messages); not used: prompt"),
        (
            json!({"conversations": [{"role": "user", "content": ""}]}),
            Shape::Messages,
            "messages (messages: conversations)",
        ),
        (json!({"conversations": []}), Shape::ShareGpt, "ShareGPT (messages: conversations)"),
        (
            json!({"prompt": "", "completion": "", "text": ""}),
            Shape::PromptCompletion,
            "prompt and completion (prompt, completion); not used: text",
        ),
        (
            json!({"instruction": "", "context": "", "response": ""}),
            Shape::Alpaca,
            "Alpaca (instruction, input: context, output: response, history)",
        ),
        (
            json!({"query": "", "answer": ""}),
            Shape::Pair,
            "question and answer (instruction: query, output: answer)",
        ),
        (
            json!({"premise": "", "hypothesis": "", "label": 0}),
            Shape::Classified,
            "classified text (text: premise, text: hypothesis, label)",
        ),
        (
            json!({"question": "", "answer": "", "label": 0}),
            Shape::Classified,
            "classified text (text: question, label); not used: answer",
        ),
        (
            json!({"img": {}, "labels": 0, "text": ""}),
            Shape::Image,
            "classified image (image: img, label: labels); not used: text",
        ),
        (json!({"content": "", "id": 3}), Shape::Text, "text (text: content); not used: id"),
    ] {
        let layout = detected(values);
        assert_eq!((layout.shape, layout.to_string().as_str()), (shape, text));
    }
}

#[test]
fn columns_come_before_detection() {
    let values = json!({"question": "q", "answer": "a", "label": 1, "text": "t"});
    let with = |pairs: &[(&str, &str)]| {
        let columns = Columns::parse(pairs.iter().copied()).unwrap();
        Layout::detect(&row(values.clone()), &columns).map(|layout| layout.read(row(values.clone())).unwrap())
    };
    let completion = Example::Completion { prompt: "q".to_owned(), completion: "a".to_owned() };
    assert_eq!(with(&[("prompt", "question"), ("completion", "answer")]).unwrap(), completion);
    assert_eq!(with(&[("text", "answer")]).unwrap(), Example::Text("a".to_owned()));
    let texts = ("q".to_owned(), Some("a".to_owned()));
    let pair = with(&[("text", "question"), ("text", "answer"), ("label", "label")]).unwrap();
    assert_eq!(pair, Example::Classified { texts, label: Some(Label::Id(1)) });
    let error = with(&[("text", "body")]).unwrap_err().to_string();
    assert!(error.contains("`columns` names the key `body`, which it does not have"), "{error}");
    assert!(matches!(with(&[("prompt", "question")]), Err(DataError::NoShape { .. })));
}

#[test]
fn columns_that_are_none() {
    let error = |pairs: &[(&str, &str)]| Columns::parse(pairs.iter().copied()).unwrap_err().to_string();
    assert!(error(&[("promt", "a")]).starts_with("columns.promt: unknown; known are messages, tools"));
    assert_eq!(error(&[("label", "a"), ("label", "b")]), "columns.label: at most 1 key(s)");
    assert_eq!(error(&[("text", "a"), ("text", "b"), ("text", "c")]), "columns.text: at most 2 key(s)");
}

#[test]
fn conversations_of_all_shapes() {
    let told = |parts: &[(&str, &str)]| {
        parts.iter().map(|(role, text)| ((*role).to_owned(), (*text).to_owned())).collect::<Vec<_>>()
    };
    let alpaca =
        json!({"instruction": "i", "input": "x", "output": "o", "system": "s", "history": [["q", "a"]]});
    let expected = [("system", "s"), ("user", "q"), ("assistant", "a"), ("user", "i\nx"), ("assistant", "o")];
    assert_eq!(messages(alpaca), told(&expected));
    let alpaca = json!({"instruction": "", "input": "x", "output": "o", "system": null, "history": null});
    assert_eq!(messages(alpaca), told(&[("user", "x"), ("assistant", "o")]));
    let rounds = json!({"chat_rounds": [{"role": "human", "content": "h"}, {"role": "bot", "content": "b"}], "system": "s"});
    assert_eq!(messages(rounds), told(&[("system", "s"), ("user", "h"), ("assistant", "b")]));
    let twice = json!({"messages": [{"role": "system", "content": "in"}, {"role": "ipython", "content": "t"}], "system": "out"});
    assert_eq!(messages(twice), told(&[("system", "in"), ("ipython", "t")]));
    let calls = json!({"conversations": [{"from": "function_call", "value": "[{\"name\": \"f\", \"arguments\": {}}]"}]});
    assert_eq!(messages(calls), told(&[("assistant", "")]));
}

#[test]
fn turns_of_conversations() {
    let judged = |roles: &[&str]| {
        let message = |role: &&str| json!({"role": role, "content": ""}).as_object().unwrap().clone();
        turns(&Chat { messages: roles.iter().map(message).collect(), ..Chat::default() }).is_ok()
    };
    assert!(judged(&["system", "user", "assistant", "user", "assistant"]));
    assert!(judged(&["user", "assistant", "tool", "tool", "assistant", "user"]));
    for wrong in [
        &["user", "user"][..],
        &["assistant"],
        &["system", "assistant"],
        &["user", "assistant", "assistant"],
        &["user", "system"],
        &["system", "system"],
        &["user", "tool"],
        &["tool"],
    ] {
        assert!(!judged(wrong), "{wrong:?}");
    }
}
