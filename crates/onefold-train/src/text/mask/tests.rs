use serde_json::json;

use crate::text::mask::{Masked, conversation as masked};
use crate::text::tests::{chat_goldens, conversation, template, tokenizer};
use crate::text::{ChatTemplate, SpecialTokens, TextError};

/// What a mask leaves of the conversation.
fn answers(made: &Masked) -> String {
    let ids: Vec<u32> =
        made.ids.iter().zip(&made.answer).filter(|(_, answer)| **answer).map(|(id, _)| *id).collect();
    tokenizer("bpe").decode(&ids, false).unwrap()
}

#[test]
fn marked_templates_agree_with_the_reference() {
    let tokenizer = tokenizer("bpe");
    let mut seen = 0;
    for case in chat_goldens().iter().filter(|case| !case.expected["mask"].is_null() && !case.prompt) {
        let made = masked(&tokenizer, &template(&case.template), &case.conversation).unwrap();
        let mask: Vec<u8> = made.answer.iter().map(|&answer| answer.into()).collect();
        assert_eq!(json!(mask), case.expected["mask"], "{}", case.name);
        seen += 1;
    }
    assert_eq!(seen, 3);
}

#[test]
fn unmarked_templates_by_prefixes() {
    let given = conversation(json!([
        {"role": "user", "content": "1 + 1 = ?"},
        {"role": "assistant", "content": "It is 2."},
        {"role": "user", "content": "12 * 12"},
        {"role": "assistant", "content": "144"}
    ]));
    for (name, expected) in [
        ("llama3", "It is 2.<|eot_id|>144<|eot_id|>"),
        ("mistral", " It is 2.</s> 144</s>"),
        ("gemma", "It is 2.<end_of_turn>\n144<end_of_turn>\n"),
        ("zephyr", "It is 2.</s>\n144</s>\n"),
    ] {
        let made = masked(&tokenizer("bpe"), &template(name), &given).unwrap();
        assert_eq!(answers(&made), expected, "{name}");
    }
}

#[test]
fn a_template_that_rewrites_the_past_is_refused() {
    let text = "{% for m in messages %}{{ m.content if loop.last else 'x' }}</s>{% endfor %}";
    let template = ChatTemplate::new("here".to_owned(), text, &SpecialTokens::default()).unwrap();
    let given = conversation(json!([
        {"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}, {"role": "user", "content": "c"}
    ]));
    let error = masked(&tokenizer("bpe"), &template, &given).unwrap_err();
    assert!(
        matches!(&error, TextError::NoPrefix { messages: 1, at: 0, template } if template == "here"),
        "{error}"
    );
}
