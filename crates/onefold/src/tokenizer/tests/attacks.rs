//! Every error, provoked.

use super::*;

fn refused(fixture: &Fixture) -> TokenizerError {
    build(&fixture.request(Source::Union)).unwrap_err()
}

fn pair() -> Fixture {
    Fixture::new().model(&bpe(&["hello", "b"], &[]), 2).model(&bpe(&["b", "a"], &[]), 3)
}

#[test]
fn requests_are_checked_at_once() {
    let mut request = pair().request(Source::Model(7));
    request.base = 9;
    request.pad_to_multiple_of = Some(0);
    request.models[1].rows = 0;
    request.rules =
        vec![rule("", None, false), rule("a", None, false), rule("a", Some(TokenSource::Model(2)), false)];
    let TokenizerError::Several(problems) = build(&request).unwrap_err() else { panic!("one problem only") };
    assert_eq!(problems.len(), 7);
    assert!(matches!(problems[0], TokenizerError::RowCount { rows: 0, .. }));
    assert!(matches!(problems[1], TokenizerError::NoSuchModel { index: 9, count: 2, .. }));
    assert!(matches!(problems[4], TokenizerError::PadToZero));
    assert!(matches!(problems[5], TokenizerError::EmptyToken));
    assert!(matches!(problems[6], TokenizerError::DuplicateRule { .. }));
    let request = Request { models: Vec::new(), ..request };
    assert!(matches!(build(&request), Err(TokenizerError::ModelCount { count: 0, .. })));
}

#[test]
fn rules_that_find_nothing_are_told_together() {
    let fixture = pair();
    let mut request = fixture.request(Source::Union);
    let token = TokenName::Text("helo".into());
    request.rules = vec![
        rule("x", Some(TokenSource::ModelToken { model: 0, token }), false),
        rule("y", Some(TokenSource::ModelToken { model: 1, token: TokenName::Id(3) }), false),
        rule("hello", Some(TokenSource::Model(1)), false),
    ];
    let error = build(&request).unwrap_err();
    let expected = "3 problems with the tokenizers:\n\
        - `tokens` entry \"x\": m0 has no token \"helo\" with an embedding row; did you mean \"hello\"?\n\
        - `tokens` entry \"y\": token id 3 is beyond the 3 embedding rows of m1\n\
        - `tokens` entry \"hello\": m1 has no token \"hello\" with an embedding row";
    assert_eq!(error.to_string(), expected);
}

#[test]
fn huge_padding_is_refused() {
    let fixture = pair();
    for multiple in [usize::MAX, MAX_ROWS + 1] {
        let mut request = fixture.request(Source::Union);
        request.pad_to_multiple_of = Some(multiple);
        assert!(matches!(build(&request), Err(TokenizerError::RowCount { .. })));
    }
}

#[test]
fn files_that_are_not_tokenizers() {
    for text in [
        "",
        "{",
        "[]",
        r#"{"model": {"type": "BPE"}}"#,
        r#"{"model": {"type": "BPE", "vocab": {"a": -1}}}"#,
        r#"{"model": {"type": "BPE", "vocab": {"a": 0.5}}}"#,
        r#"{"model": {"type": "BPE", "vocab": ["a"]}}"#,
        r#"{"model": {"type": "Unigram", "vocab": {"a": 0}}}"#,
        r#"{"model": {"type": "Unigram", "vocab": [["a"]]}}"#,
        r#"{"model": {"type": "BPE", "vocab": {"a": 0}}, "added_tokens": [{"id": 1}]}"#,
        r#"{"model": {"type": "BPE", "vocab": {"a": 0}}, "model": {"type": "BPE", "vocab": {"a": 0}}}"#,
    ] {
        let error = refused(&Fixture::new().empty(2).file("tokenizer.json", text));
        assert!(matches!(error, TokenizerError::Malformed { .. }), "{text}: {error}");
    }
    let error = refused(&Fixture::new().model(&tokenizer(&json!({"type": "Tree", "vocab": {}}), &[]), 1));
    assert!(matches!(error, TokenizerError::UnknownModel { ref kind, .. } if kind == "Tree"), "{error}");
    let error = refused(&pair().file("tokenizer_config.json", r#"{"added_tokens_decoder": {"x": {}}}"#));
    assert!(matches!(error, TokenizerError::Malformed { .. }), "{error}");
}

#[test]
fn hostile_ids_are_only_out_of_range() {
    let model =
        json!({"type": "BPE", "vocab": {"a": 0, "b": u64::MAX, "c": u32::MAX, "d": 4_294_967_294_u64}});
    let fixture =
        Fixture::new().model(&tokenizer(&model, &[(u32::MAX, "e", true)]), 2).model(&bpe(&["a"], &[]), 1);
    let built = fixture.build(Source::Union);
    assert_eq!((built.rows, built.report.models[0].over_range.count), (2, 4));
    assert_eq!(vocabulary_as_read(&content(&built, "tokenizer.json")).len(), 1);
}

#[test]
fn two_tokens_of_one_id_share_the_row() {
    let model = json!({"type": "WordLevel", "vocab": {"a": 0, "b": 1, "c": 1}, "unk_token": "a"});
    let fixture = Fixture::new().model(&bpe(&["a", "b", "c"], &[]), 3).model(&tokenizer(&model, &[]), 2);
    let built = fixture.build(Source::Union);
    assert_eq!(built.maps[1].iter().collect::<Vec<_>>(), [Row::Own(0), Row::Own(1), Row::Own(1)]);
    assert_eq!(built.report.models[1].id_conflicts.examples, ["c"]);
}

#[test]
fn a_model_without_fast_tokenizer_is_named() {
    let fixture = pair().empty(4).file("tokenizer.model", "binary");
    let error = refused(&fixture).to_string();
    assert!(
        error.starts_with("m2: no tokenizer.json in") && error.contains("only tokenizer.model"),
        "{error}"
    );
    let fixture = Fixture::new().empty(4).file("vocab.txt", "a").empty(4).file("vocab.txt", "b");
    assert!(matches!(refused(&fixture), TokenizerError::Several(problems) if problems.len() == 2));
    let error = refused(&Fixture::new().empty(4)).to_string();
    assert!(error.contains("no tokenizer files at all"), "{error}");
}

#[test]
fn nothing_left_of_a_tokenizer() {
    let model = json!({"type": "WordLevel", "vocab": {"a": 5}, "unk_token": "a"});
    let fixture = Fixture::new().model(&tokenizer(&model, &[]), 2).model(&bpe(&["b"], &[]), 1);
    let error = build(&fixture.request(Source::Base)).unwrap_err();
    assert!(matches!(error, TokenizerError::NoTokens { rows: 2, .. }), "{error}");
    let model = json!({"type": "WordLevel", "vocab": {"a": 0, "<unk>": 5}, "unk_token": "<unk>"});
    let fixture = Fixture::new().model(&tokenizer(&model, &[]), 2).model(&bpe(&["b"], &[]), 1);
    assert!(matches!(refused(&fixture), TokenizerError::UnknownTokenOutOfRange { .. }));
}

#[test]
fn oversized_and_unreadable_files() {
    let fixture = Fixture::new().model(&bpe(&["a"], &[]), 1);
    let path = fixture.models[0].dir.join("tokenizer.json");
    fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(load::MAX_BYTES + 1).unwrap();
    assert!(matches!(refused(&fixture), TokenizerError::TooLarge { .. }));
    let fixture = Fixture::new().model(&bpe(&["a"], &[]), 1);
    fs::write(fixture.models[0].dir.join("tokenizer.json"), [b'"', 0xff, b'"']).unwrap();
    assert!(matches!(refused(&fixture), TokenizerError::Malformed { what: "UTF-8 text", .. }));
    let error = load::read_bytes(&fixture.models[0].dir.join("none")).unwrap_err();
    assert!(matches!(error, TokenizerError::Read { .. }));
}
