use serde_json::json;

use super::*;
use crate::data::shape::Label;
use crate::data::tests::{encoder, golden};

fn completion(prompt: &str, completion: &str) -> Example {
    Example::Completion { prompt: prompt.to_owned(), completion: completion.to_owned() }
}

fn text(encoder: &Encoder, ids: &[u32]) -> String {
    encoder.tokenizer.decode(ids, false).unwrap()
}

fn learnt(encoder: &Encoder, tokens: &Tokens) -> String {
    let ids: Vec<_> =
        tokens.ids.iter().zip(&tokens.learnt).filter(|(_, learnt)| **learnt).map(|(id, _)| *id).collect();
    text(encoder, &ids)
}

/// Text is read as one, so a token may lie across the end of the prompt; it is learnt, and told.
#[test]
fn prompts_and_completions_are_one_text() {
    let encoder = encoder();
    let apart = encoder.encode(&completion("capital of", " France")).unwrap();
    assert_eq!((apart.merged, learnt(&encoder, &apart.rows[0]).as_str()), (false, " France</s>"));
    let merged = encoder.encode(&completion("capital of ", "France")).unwrap();
    assert_eq!(merged.rows[0].ids, apart.rows[0].ids);
    assert_eq!((merged.merged, merged.rows[0].learnt.clone()), (true, apart.rows[0].learnt.clone()));
    let empty = encoder.encode(&completion("a", "")).unwrap();
    assert_eq!(learnt(&encoder, &empty.rows[0]), "</s>");
    let literal = encoder.encode(&completion("a", " b</s>")).unwrap();
    assert_eq!(text(&encoder, &literal.rows[0].ids), "<s>a b</s>");
}

#[test]
fn rows_that_are_too_long() {
    let example = completion("one two three four", " five six");
    let with = |too_long, limit| {
        let encoder = Encoder { too_long, limit: Some(limit), ..encoder() };
        encoder.encode(&example).unwrap()
    };
    let whole = encoder().encode(&example).unwrap().rows.remove(0);
    let length = whole.ids.len();
    assert_eq!(with(TooLong::Drop, length).rows[0], whole);
    assert!(with(TooLong::Drop, length - 1).rows.is_empty());
    let start = with(TooLong::KeepStart, length - 3);
    assert_eq!((start.cut, &start.rows[0].ids[..]), (3, &whole.ids[..length - 3]));
    let end = with(TooLong::KeepEnd, length - 3);
    assert_eq!((&end.rows[0].ids[..], &end.rows[0].learnt[..]), (&whole.ids[3..], &whole.learnt[3..]));
}

/// MFTCoder's blocks of one token more than the stride, and the rest, which it carries over.
#[test]
fn parts_of_texts_overlap_by_one_token() {
    let case = &golden("mft_data.json")["concat"];
    let total: usize = case["lengths"].as_array().unwrap().iter().map(|n| n.as_u64().unwrap() as usize).sum();
    let tokens = Tokens { ids: (0..total as u32).collect(), learnt: vec![true; total], types: Vec::new() };
    let made = parts(&tokens, case["block"].as_u64().unwrap() as usize);
    let mut expected = case["blocks"].as_array().unwrap().clone();
    expected.push(json!([total - case["carried_tokens"].as_u64().unwrap() as usize, total]));
    let bounds: Vec<_> = made.iter().map(|part| json!([part.ids[0], part.ids.last().unwrap() + 1])).collect();
    assert_eq!(bounds, expected);
    for limit in 2..40 {
        let predicted: usize = parts(&tokens, limit).iter().map(|part| part.ids.len() - 1).sum();
        assert_eq!(predicted, total - 1, "{limit}");
    }
}

#[test]
fn texts_with_classes_keep_their_special_tokens() {
    let wordpiece = |limit, too_long| Encoder {
        limit: Some(limit),
        too_long,
        ..Encoder::new(crate::text::tests::tokenizer("wordpiece"), None)
    };
    let texts = ("the quick brown fox".to_owned(), Some("the lazy dog jumps".to_owned()));
    let example = Example::Classified { texts, label: Some(Label::Id(0)) };
    let cut = wordpiece(8, TooLong::KeepStart).encode(&example).unwrap();
    assert_eq!(cut.rows[0].ids.len(), 8);
    assert!(cut.cut > 0);
    let ids = &cut.rows[0].ids;
    assert_eq!((ids[0], *ids.last().unwrap()), (2, 3));
    assert!(cut.rows[0].types.contains(&1) && !cut.rows[0].learnt.contains(&true));
    assert!(wordpiece(8, TooLong::Drop).encode(&example).unwrap().rows.is_empty());
    assert!(wordpiece(3, TooLong::KeepEnd).encode(&example).is_err());
}
