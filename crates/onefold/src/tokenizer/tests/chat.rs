//! Choosing, checking and writing the chat template.

use minijinja::{Environment, context};

use super::*;

fn render(name: &str) -> String {
    let text = chat_template(name, &[]).unwrap().text;
    let environment = Environment::new();
    let say = |role: &str, content: &str| context! { role, content };
    let messages =
        vec![say("system", "Be brief."), say("user", "Hi"), say("assistant", "Hello"), say("user", "Bye")];
    let values =
        context! { messages, add_generation_prompt => true, bos_token => "<s>", eos_token => "</s>" };
    environment.render_str(&text, values).unwrap()
}

#[test]
fn built_in_templates_render_their_formats() {
    assert_eq!(
        render("chatml"),
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nHello<|im_end|>\n\
         <|im_start|>user\nBye<|im_end|>\n<|im_start|>assistant\n"
    );
    assert_eq!(
        render("llama3"),
        "<s><|start_header_id|>system<|end_header_id|>\n\nBe brief.<|eot_id|><|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|>\
         <|start_header_id|>assistant<|end_header_id|>\n\nHello<|eot_id|><|start_header_id|>user<|end_header_id|>\n\nBye<|eot_id|>\
         <|start_header_id|>assistant<|end_header_id|>\n\n"
    );
    assert_eq!(render("mistral"), "<s>[INST] Be brief.\n\nHi [/INST] Hello</s>[INST] Bye [/INST]");
    assert_eq!(
        render("exaone"),
        "[|system|]Be brief.[|endofturn|]\n[|user|]Hi\n[|assistant|]Hello[|endofturn|]\n[|user|]Bye\n[|assistant|]"
    );
    assert_eq!(
        render("alpaca"),
        "Be brief.\n\n### Instruction:\nHi\n\n### Response:\nHello</s>\n\n### Instruction:\nBye\n\n### Response:\n"
    );
    for (_, text) in BUILT_IN {
        chat_template(text, &[]).unwrap();
    }
}

#[test]
fn auto_takes_the_most_common_one() {
    let fixture = Fixture::new()
        .empty(1)
        .empty(1)
        .file("chat_template.jinja", "one\n")
        .file("tokenizer_config.json", r#"{"chat_template": "hidden by the file"}"#)
        .empty(1)
        .file("tokenizer_config.json", r#"{"chat_template": "two"}"#)
        .empty(1)
        .file("tokenizer_config.json", r#"{"chat_template": [{"name": "tool", "template": "x"}, {"name": "default", "template": " one"}]}"#)
        .empty(1)
        .file("tokenizer_config.json", r#"{"chat_template": "two"}"#)
        .empty(1)
        .file("chat_template.jinja", "  \n");
    let dirs: Vec<PathBuf> = fixture.models.iter().map(|model| model.dir.clone()).collect();
    let chosen = chat_template("auto", &dirs).unwrap();
    assert_eq!((&*chosen.text, &*chosen.origin), ("one\n", "2 of 6 models"), "a tie goes to the first model");
    assert_eq!(chat_template("auto", &dirs[2..]).unwrap().text, "two");
    assert!(matches!(chat_template("auto", &dirs[..1]), Err(TokenizerError::NoTemplate { models: 1 })));
}

#[test]
fn literal_templates_are_checked() {
    let good = "{%- for m in messages %}{% generation %}{{ m.content.strip() }}{%- endgeneration -%}{% if m.stop %}{% break %}{% endif %}{% endfor %}";
    assert_eq!(chat_template(good, &[]).unwrap().text, good);
    let error = chat_template("{% for m in messages %}\n{{ m.content }}", &[]).unwrap_err();
    assert!(error.to_string().starts_with("the chat template is not valid Jinja: line"), "{error}");
    let error = chat_template("chatlm", &[]).unwrap_err();
    assert!(error.to_string().ends_with("did you mean \"chatml\"?"), "{error}");
    for text in ["{{ short }}", "long enough but without braces", ""] {
        assert!(matches!(chat_template(text, &[]), Err(TokenizerError::UnknownTemplate { .. })), "{text}");
    }
}

#[test]
fn applying_leaves_no_other_template() {
    let config =
        "{\"a\": 1e400,\n \"chat_template\": [{\"name\": \"default\", \"template\": \"old\"}], \"b\": 2}";
    let fixture = Fixture::new()
        .model(&bpe(&["a"], &[]), 1)
        .file("chat_template.jinja", "old")
        .file("chat_template.json", "{}")
        .file("additional_chat_templates/tool_use.jinja", "old")
        .file("tokenizer_config.json", config);
    let mut built = fixture.build(Source::Base);
    let template = ChatTemplate { text: "new \"{{ x }}\"".into(), origin: "test".into() };
    template.apply(&mut built.files).unwrap();
    assert_eq!(names(&built), ["chat_template.jinja", "tokenizer.json", "tokenizer_config.json"]);
    assert_eq!(content(&built, "chat_template.jinja"), template.text);
    let expected = "{\"a\": 1e400,\n \"chat_template\": \"new \\\"{{ x }}\\\"\", \"b\": 2}";
    assert_eq!(content(&built, "tokenizer_config.json"), expected);
    template.apply(&mut built.files).unwrap();
    assert_eq!(content(&built, "tokenizer_config.json"), expected, "applying twice changes nothing");
    let mut broken =
        vec![OutputFile { name: "tokenizer_config.json".into(), content: FileContent::New(b"{".to_vec()) }];
    assert!(matches!(template.apply(&mut broken), Err(TokenizerError::Malformed { .. })));
}
