use std::fs;

use serde_json::json;

use super::*;
use crate::text::tests::{chat_goldens, conversation, template, tokenizer};

/// Rendered texts and token ids of all templates are those of transformers, refusals included.
#[test]
fn goldens() {
    let tokenizer = tokenizer("bpe");
    for case in chat_goldens() {
        let template = template(&case.template);
        match (template.render(&case.conversation, case.prompt), case.expected["error"].as_str()) {
            (Ok(rendered), None) => {
                assert_eq!(rendered.text, case.expected["text"].as_str().unwrap(), "{}", case.name);
                let encoded =
                    tokenizer.encode(crate::text::Input::Text(&rendered.text), false, Default::default());
                assert_eq!(json!(encoded.unwrap().ids), case.expected["ids"], "{}", case.name);
            }
            (Err(error), Some(message)) => {
                assert!(error.to_string().contains(message), "{}: {error}", case.name);
            }
            (found, _) => panic!("{}: {found:?}", case.name),
        }
    }
}

fn render(text: &str, conversation: &Conversation) -> Result<String, TextError> {
    let template = ChatTemplate::new("here".to_owned(), text, &SpecialTokens::default())?;
    Ok(template.render(conversation, false)?.text)
}

#[test]
fn errors_name_template_and_line() {
    let mut one = conversation(json!([{"role": "user", "content": "x"}]));
    one.now = None;
    let error = render("a\n{% if %}", &one).unwrap_err().to_string();
    assert!(error.starts_with("chat template here: ") && error.contains("line 2"), "{error}");
    let error = render("{{ raise_exception('no system') }}", &one).unwrap_err().to_string();
    assert_eq!(error, "chat template here: cannot render a conversation of roles [user]: no system (line 1)");
    assert!(render("{{ strftime_now('%Y') }}", &one).unwrap_err().to_string().contains("gives no date"));
    assert!(render("{{ messages | tojson(indnt=2) }}", &one).is_err());
    assert!(render("{% for m in messages %}{{ m.missing.deeper }}{% endfor %}", &one).is_err());
}

#[test]
fn what_templates_may_ask_for() {
    let mut one = conversation(json!([{"role": "user", "content": "x", "reasoning": "r"}]));
    one.variables.insert("flag".to_owned(), json!(true));
    one.now = Some(Date { year: 2024, month: 7, day: 26, hour: 1, minute: 2, second: 3 });
    let text = "{{ flag }} {{ strftime_now('%d %b %Y') }} {{ messages[0].reasoning_content }}{{ messages[0].thinking }}";
    assert_eq!(render(text, &one).unwrap(), "True 26 Jul 2024 rr");
    let text = "{{ {'b': [1, 'é'], 'a': {}} | tojson(indent=1, sort_keys=true, ensure_ascii=true) }}";
    assert_eq!(render(text, &one).unwrap(), "{\n \"a\": {},\n \"b\": [\n  1,\n  \"\\u00e9\"\n ]\n}");
    assert_eq!(render("{{ [1,{'a':2}] | tojson(separators=(',', ':')) }}", &one).unwrap(), "[1,{\"a\":2}]");
}

#[test]
fn spans_survive_captures_but_not_changes() {
    let one = conversation(json!([{"role": "assistant", "content": " é "}]));
    let text = "{% set x %}{% generation %}é!{% endgeneration %}{% endset %}a{{ x }}b";
    let template = ChatTemplate::new("here".to_owned(), text, &SpecialTokens::default()).unwrap();
    let made = template.render(&one, false).unwrap();
    assert_eq!(made.text, "aé!b");
    assert_eq!(made.generated.iter().map(|span| &made.text[span.clone()]).collect::<Vec<_>>(), ["é!"]);
    let text = "{% set x %}{% generation %} é! {% endgeneration %}{% endset %}a{{ x | trim }}b";
    let template = ChatTemplate::new("here".to_owned(), text, &SpecialTokens::default()).unwrap();
    assert!(matches!(template.render(&one, false), Err(TextError::Marks { template }) if template == "here"));
}

#[test]
fn a_template_is_found_where_it_wins() {
    let dir = tempfile::tempdir().unwrap();
    let special = SpecialTokens::default();
    let open = |chosen, tools| {
        ChatTemplate::open(dir.path(), chosen, tools, &special)
            .map(|template| template.render(&Conversation::default(), false).unwrap().text)
    };
    #[allow(clippy::disallowed_methods, reason = "a test's input, in a temporary directory")]
    let write = |name: &str, text: &str| fs::write(dir.path().join(name), text).unwrap();

    assert!(matches!(open(None, false), Err(TextError::NoTemplate { .. })));
    write("tokenizer_config.json", r#"{"chat_template": 3}"#);
    assert!(matches!(open(None, false), Err(TextError::Key { .. })));
    write("tokenizer_config.json", r#"{"chat_template": "one"}"#);
    assert_eq!(open(None, true).unwrap(), "one");
    let list =
        r#"{"chat_template": [{"name": "default", "template": "d"}, {"name": "tool_use", "template": "t"}]}"#;
    write("tokenizer_config.json", list);
    assert_eq!((open(None, false).unwrap(), open(None, true).unwrap()), ("d".to_owned(), "t".to_owned()));
    let error = open(Some("rag"), false).unwrap_err().to_string();
    assert!(error.ends_with("no chat template named \"rag\"; there are default, tool_use"), "{error}");
    write("chat_template.json", r#"{"chat_template": "processor"}"#);
    assert_eq!(open(None, false).unwrap(), "processor");
    write("chat_template.jinja", "file");
    assert_eq!(open(None, false).unwrap(), "file");
    fs::create_dir(dir.path().join("additional_chat_templates")).unwrap();
    write("additional_chat_templates/rag.jinja", "more");
    assert_eq!(open(Some("rag"), false).unwrap(), "more");
    write("tokenizer_config.json", "[]");
    assert_eq!(open(None, false).unwrap(), "file");
}
