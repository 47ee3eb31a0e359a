//! Each rule of the output's vocabulary and rows on tokenizers of a few tokens.

use super::*;

#[test]
fn the_same_tokenizer_is_copied_and_every_map_is_identity() {
    let tokens = bpe(&["a", "b"], &[(2, "<s>", true)]);
    let fixture = Fixture::new()
        .model(&tokens, 8)
        .file("tokenizer_config.json", "{}")
        .file("vocab.json", "{}")
        .file("vocab.txt", "a")
        .file("generation_config.json", "{}")
        .file("additional_chat_templates/tool_use.jinja", "x")
        .file("notes.txt", "not a tokenizer file")
        .model(&tokens, 8);
    for source in [Source::Union, Source::Base, Source::Model(0)] {
        let built = fixture.build(source);
        assert!(built.maps.iter().all(RowMap::is_identity));
        assert_eq!((built.rows, built.vocab_size), (8, 3), "padding is kept");
        let expected = [
            "additional_chat_templates/tool_use.jinja",
            "generation_config.json",
            "tokenizer.json",
            "tokenizer_config.json",
            "vocab.json",
            "vocab.txt",
        ];
        assert_eq!(names(&built), expected);
        assert!(expected.iter().all(|name| is_copied(&built, name)));
        assert_eq!(built.report.shared.count, 3);
        assert_eq!(
            built.report.to_string(),
            "tokenizer of m0: 3 tokens, 8 rows (5 padding), the same for all models"
        );
    }
}

#[test]
fn a_union_appends_in_order_of_models_and_ids() {
    let fixture = Fixture::new()
        .model(&bpe(&["a", "b"], &[(2, "<s>", true)]), 3)
        .file("vocab.json", "stale")
        .file("added_tokens.json", "{\"<s>\": 2}")
        .model(&bpe(&["z", "a", "y"], &[(3, "<x>", true)]), 4)
        .model(&bpe(&["b", "w"], &[(2, "<x>", false)]), 3);
    let built = fixture.build(Source::Union);
    let vocab = vocabulary_as_read(&content(&built, "tokenizer.json"));
    let expected = [("a", 0), ("b", 1), ("<s>", 2), ("z", 3), ("y", 4), ("<x>", 5), ("w", 6)];
    assert_eq!(vocab, expected.map(|(token, id)| (token.to_owned(), id)).into());
    assert_eq!((built.rows, built.vocab_size), (7, 7));
    let file: Value = serde_json::from_str(&content(&built, "tokenizer.json")).unwrap();
    assert_eq!(file["added_tokens"][3]["special"], true, "as the first model has it");
    assert_eq!(file["added_tokens"][1]["special"], false);
    let added: Value = serde_json::from_str(&content(&built, "added_tokens.json")).unwrap();
    assert_eq!(added, json!({"<s>": 2, "z": 3, "y": 4, "<x>": 5, "w": 6}));
    assert_eq!(built.report.left_out, ["vocab.json"]);
    assert_eq!(built.report.appended_ordinary.examples, ["z", "y", "w"]);
    assert_eq!(built.report.attribute_conflicts.examples, ["<x>"]);
    let rows: Vec<Row<'_>> = built.maps[2].iter().collect();
    let from = |model, row| Row::From { model, row };
    // a: the base's; b: own; <s>, z and y: the only model's; <x> and w: own.
    assert_eq!(rows, [from(0, 0), Row::Own(0), from(0, 2), from(1, 0), from(1, 2), Row::Own(2), Row::Own(1)]);
    assert_eq!(built.maps[0].get(5), Some(Row::Mean(&[(1, 3), (2, 2)])), "the base lacks it, two have it");
}

#[test]
fn the_file_keeps_every_byte_but_the_new_tokens() {
    let text = "{\n  \"x\": 1000000000000000019884624838656,\n  \"added_tokens\": [\n    {\"id\": 1, \"content\": \"<s>\"}\n  ],\n  \
                \"model\": {\"type\": \"BPE\", \"vocab\": {\"\\u0061\": 0}, \"merges\": []}\n}\n";
    let fixture =
        Fixture::new().empty(2).file("tokenizer.json", text).model(&bpe(&["a"], &[(1, "<t>", true)]), 2);
    let built = fixture.build(Source::Union);
    let new = "    {\"id\": 1, \"content\": \"<s>\"},\n    {\n      \"id\": 2,\n      \"content\": \"<t>\",\n      \"single_word\": false,\n      \
               \"lstrip\": false,\n      \"rstrip\": false,\n      \"normalized\": false,\n      \"special\": true\n    }\n";
    assert_eq!(
        content(&built, "tokenizer.json"),
        text.replace("    {\"id\": 1, \"content\": \"<s>\"}\n", new)
    );
}

#[test]
fn the_decoder_of_the_config_follows() {
    let config = r#"{"model_max_length": 1000000000000000019884624838656, "added_tokens_decoder": {"1": {"content": "<s>"}}}"#;
    let fixture = Fixture::new()
        .model(&bpe(&["a"], &[(1, "<s>", true)]), 2)
        .file("tokenizer_config.json", config)
        .model(&bpe(&["a"], &[(1, "<t>", true)]), 2);
    let built = fixture.build(Source::Union);
    let text = content(&built, "tokenizer_config.json");
    assert!(text.contains("1000000000000000019884624838656"), "{text}");
    let config: Value = serde_json::from_str(&text).unwrap();
    let expected = json!({"content": "<t>", "single_word": false, "lstrip": false, "rstrip": false,
                          "normalized": false, "special": true});
    assert_eq!(config["added_tokens_decoder"], json!({"1": {"content": "<s>"}, "2": expected}));
    assert_eq!(built.report.edited, ["tokenizer.json", "tokenizer_config.json"]);
}

#[test]
fn a_token_only_the_config_names_counts() {
    let config =
        r#"{"added_tokens_decoder": {"1": {"content": "<s>"}, "2": {"content": "<mine>", "special": true}}}"#;
    let fixture = Fixture::new()
        .model(&bpe(&["a"], &[(1, "<s>", true)]), 3)
        .file("tokenizer_config.json", config)
        .model(&bpe(&["a"], &[(1, "<t>", true)]), 2);
    let built = fixture.build(Source::Union);
    let vocab = vocabulary_as_read(&content(&built, "tokenizer.json"));
    assert_eq!((vocab["<mine>"], vocab["<t>"]), (2, 3), "the appended token does not take its id");
    assert_eq!(built.maps[0].get(2), Some(Row::Own(2)));
}

#[test]
fn padding_is_kept_rounded_or_cut() {
    let fixture = Fixture::new().model(&bpe(&["a", "b"], &[]), 6).model(&bpe(&["b", "a", "c"], &[]), 5);
    let mut request = fixture.request(Source::Union);
    let built = build(&request).unwrap();
    assert_eq!((built.rows, built.vocab_size), (6, 3));
    // Row 3 and 4 are padding in both models, row 5 only in the first.
    assert_eq!(built.maps[0].iter().skip(3).collect::<Vec<_>>(), [Row::Own(3), Row::Own(4), Row::Own(5)]);
    assert_eq!(
        built.maps[1].iter().skip(3).collect::<Vec<_>>(),
        [Row::Own(3), Row::Own(4), Row::PaddingMean]
    );
    assert_eq!(built.report.models[1].padding_means, 1);
    assert_eq!(built.token_rows.first(), Some(&(0..3)));
    request.pad_to_multiple_of = Some(1);
    assert_eq!(build(&request).unwrap().rows, 3, "a row per token");
    request.pad_to_multiple_of = Some(4);
    assert_eq!(build(&request).unwrap().rows, 4, "the asked-for padding replaces the kept one");
}

#[test]
fn another_models_token_is_not_padding() {
    let fixture = Fixture::new().model(&bpe(&["a"], &[]), 3).model(&bpe(&["a", "x"], &[]), 3);
    let built = fixture.build(Source::Base);
    assert_eq!(built.maps[1].iter().collect::<Vec<_>>(), [Row::Own(0), Row::PaddingMean, Row::Own(2)]);
    assert_eq!(built.report.models[1].dropped.examples, ["x"]);
    assert!(is_copied(&built, "tokenizer.json"));
}

#[test]
fn id_gaps_are_padding_rows_and_pin_the_appended_ids() {
    let gap = tokenizer(
        &json!({"type": "WordLevel", "vocab": {"a": 0, "b": 1, "c": 5}, "unk_token": "a"}),
        &[(6, "<s>", true)],
    );
    let fixture = Fixture::new().model(&gap, 7).model(&bpe(&["a"], &[(1, "<t>", true)]), 2);
    let built = fixture.build(Source::Union);
    assert_eq!((built.rows, built.vocab_size), (8, 8));
    let vocab = vocabulary_as_read(&content(&built, "tokenizer.json"));
    let expected = [("a", 0), ("b", 1), ("c", 5), ("<s>", 6), ("<t>", 7)];
    assert_eq!(vocab, expected.map(|(token, id)| (token.to_owned(), id)).into());
    assert_eq!(built.maps[0].get(3), Some(Row::Own(3)));
    assert_eq!(built.maps[1].get(3), Some(Row::PaddingMean));
    assert_eq!(built.token_rows, [0..2, 5..8]);
}

#[test]
fn without_gaps_readers_ids_count_not_the_written_ones() {
    let odd = bpe(&["a", "b"], &[(7, "<s>", true)]);
    let fixture = Fixture::new().model(&odd, 8).model(&bpe(&["a"], &[(1, "<s>", true)]), 2);
    let built = fixture.build(Source::Base);
    assert_eq!(built.vocab_size, 3);
    assert_eq!(built.maps[1].get(2), Some(Row::Own(1)));
    assert_eq!(built.report.models[0].id_conflicts.examples, ["<s>"]);
}

#[test]
fn tokens_beyond_the_embedding_are_absent() {
    let model = json!({"type": "BPE", "vocab": {"a": 0, "b": 1, "<t>": 2, "ab": 3, "aba": 4},
                       "merges": ["a b", ["ab", "a"], "a a"]});
    let fixture = Fixture::new()
        .model(&tokenizer(&model, &[(5, "<pad>", true), (2, "<t>", true)]), 3)
        .file(
            "tokenizer_config.json",
            r#"{"pad_token": "<pad>", "added_tokens_decoder": {"5": {"content": "<pad>"}}}"#,
        )
        .model(&bpe(&["a", "b", "q"], &[(3, "<over>", true)]), 3);
    let built = fixture.build(Source::Union);
    let file: Value = serde_json::from_str(&content(&built, "tokenizer.json")).unwrap();
    assert_eq!(file["model"]["merges"], json!(["a a"]), "no merge whose part or result is gone");
    assert_eq!(file["model"]["vocab"], json!({"a": 0, "b": 1, "<t>": 2}));
    let vocab = vocabulary_as_read(&content(&built, "tokenizer.json"));
    assert_eq!(vocab.len(), 4);
    assert_eq!(vocab["q"], 3, "the freed id");
    assert_eq!(built.report.removed.count, 3);
    assert_eq!(built.report.dangling, ["pad_token \"<pad>\""]);
    assert_eq!(built.report.models[1].over_range.examples, ["<over>"]);
    let config: Value = serde_json::from_str(&content(&built, "tokenizer_config.json")).unwrap();
    assert_eq!(config["added_tokens_decoder"]["5"], Value::Null);
}

#[test]
fn equal_tokenizers_keep_tokens_beyond_the_embedding() {
    let tokens = bpe(&["a"], &[(1, "<pad>", true)]);
    let built = Fixture::new().model(&tokens, 1).model(&tokens, 1).build(Source::Union);
    assert!(is_copied(&built, "tokenizer.json") && built.maps.iter().all(RowMap::is_identity));
    assert_eq!(built.report.models[0].over_range.examples, ["<pad>"]);
    assert_eq!(built.rows, 1);
}

#[test]
fn an_ordinary_token_that_is_added_elsewhere_is_promoted() {
    let fixture =
        Fixture::new().model(&bpe(&["a", "<t>"], &[]), 2).model(&bpe(&["<t>", "a"], &[(0, "<t>", true)]), 2);
    let built = fixture.build(Source::Union);
    let file: Value = serde_json::from_str(&content(&built, "tokenizer.json")).unwrap();
    assert_eq!(file["added_tokens"][0]["id"], 1);
    assert_eq!(built.report.promoted.examples, ["<t>"]);
    assert!(is_copied(&fixture.build(Source::Base), "tokenizer.json"));
}

#[test]
fn unigram_is_numbered_by_place() {
    let model = json!({"type": "Unigram", "unk_id": 0, "vocab": [["<unk>", 0.0], ["a", -1.5], ["b", -1e-3], ["c", -2]]});
    let fixture =
        Fixture::new().model(&tokenizer(&model, &[(0, "<unk>", true)]), 3).model(&bpe(&["b", "d"], &[]), 2);
    let built = fixture.build(Source::Union);
    let file: Value = serde_json::from_str(&content(&built, "tokenizer.json")).unwrap();
    assert_eq!(file["model"]["vocab"], json!([["<unk>", 0.0], ["a", -1.5], ["b", -1e-3]]));
    assert_eq!(vocabulary_as_read(&content(&built, "tokenizer.json"))["d"], 3);
    assert_eq!(built.maps[1].get(2), Some(Row::Own(0)));
}

#[test]
fn rules_choose_rows() {
    let fixture = Fixture::new().model(&bpe(&["a", "b"], &[]), 2).model(&bpe(&["b", "a"], &[]), 3);
    let mut request = fixture.request(Source::Base);
    request.rules = vec![
        rule("a", Some(TokenSource::Model(1)), true),
        rule("b", None, true),
        rule("n", Some(TokenSource::ModelToken { model: 1, token: TokenName::Id(2) }), false),
        rule("o", None, false),
        rule("p", Some(TokenSource::ModelToken { model: 0, token: TokenName::Text("b".into()) }), false),
    ];
    let built = build(&request).unwrap();
    let from = |model, row| Row::From { model, row };
    assert_eq!(
        built.maps[0].iter().collect::<Vec<_>>(),
        [from(1, 1), Row::Own(1), from(1, 2), Row::Zero, Row::Own(1)]
    );
    assert_eq!(
        built.maps[1].iter().collect::<Vec<_>>(),
        [Row::Own(1), from(0, 1), Row::Own(2), Row::Zero, from(0, 1)]
    );
    assert_eq!(built.report.zero.examples, ["o"]);
    assert_eq!(built.report.forced.examples, ["a", "b"]);
    assert_eq!(vocabulary_as_read(&content(&built, "tokenizer.json"))["p"], 4);
    request.base_named = false;
    let built = build(&request).unwrap();
    assert_eq!(built.maps[1].get(1), Some(Row::Mean(&[(0, 1), (1, 0)])), "without a base the mean stands in");
}

#[test]
fn a_rules_token_is_matched_as_the_model_that_has_it_does() {
    let fixture = Fixture::new().model(&bpe(&["a"], &[]), 1).model(&bpe(&["a"], &[(1, "<t>", true)]), 2);
    let mut request = fixture.request(Source::Base);
    request.rules = vec![rule("<t>", None, false)];
    let built = build(&request).unwrap();
    let file: Value = serde_json::from_str(&content(&built, "tokenizer.json")).unwrap();
    assert_eq!(file["added_tokens"][0]["special"], true);
    assert_eq!(built.maps[0].get(1), Some(Row::From { model: 1, row: 1 }));
}

#[test]
fn slow_tokenizers_are_only_compared() {
    let slow =
        |fixture: Fixture| fixture.empty(4).file("vocab.txt", "a\nb").file("tokenizer_config.json", "{}");
    let fixture = slow(slow(Fixture::new()));
    let built = fixture.build(Source::Union);
    assert!(built.maps.iter().all(RowMap::is_identity));
    assert_eq!(names(&built), ["tokenizer_config.json", "vocab.txt"]);
    let mut request = fixture.request(Source::Union);
    request.pad_to_multiple_of = Some(8);
    assert!(matches!(build(&request), Err(TokenizerError::OnlyCopied { what: "pad_to_multiple_of" })));
}

#[test]
fn the_report_serialises() {
    let fixture = Fixture::new().model(&bpe(&["a"], &[]), 1).model(&bpe(&["b"], &[]), 1);
    let report = fixture.build(Source::Union).report;
    let value = serde_json::to_value(&report).unwrap();
    assert_eq!(value["models"][1]["only_here"], json!({"count": 1, "examples": ["b"]}));
    let expected = "tokenizer of m0: 2 tokens, 2 rows (0 padding)\n  appended: 1 (\"b\")\n  \
                    appended without their merges: 1 (\"b\")\n  m0: tokens only here: 1 (\"a\")\n  m0: tokens missing: 1 (\"b\")\n  \
                    m1: tokens only here: 1 (\"b\")\n  m1: tokens missing: 1 (\"a\")\n  m1: tokens moved: 1 (\"b\")\n  edited: tokenizer.json\n  \
                    note: appended tokens that were ordinary ones now match wherever their text occurs, before the text is split; \
                    their model's merges are not carried over";
    assert_eq!(report.to_string(), expected);
}
