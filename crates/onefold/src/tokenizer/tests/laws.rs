//! What holds for all vocabularies.

use proptest::prelude::*;

use super::*;

/// A tokenizer of distinct tokens from a small alphabet, some of them added, and its number of rows.
fn model() -> impl Strategy<Value = (Vec<String>, Vec<String>, usize)> {
    let pool = proptest::sample::subsequence((0..24).map(|n| format!("t{n}")).collect::<Vec<_>>(), 1..24);
    (pool.prop_shuffle(), 0usize..6, 0usize..6).prop_map(|(mut tokens, added, padding)| {
        let added = tokens.split_off(tokens.len() - added.min(tokens.len() - 1));
        let rows = (tokens.len() + added.len() + padding).saturating_sub(2).max(1);
        (tokens, added, rows)
    })
}

fn fixture(models: &[(Vec<String>, Vec<String>, usize)]) -> Fixture {
    models.iter().fold(Fixture::new(), |fixture, (tokens, added, rows)| {
        let first = u32::try_from(tokens.len()).unwrap();
        let added: Vec<_> = (first..).zip(added).map(|(id, text)| (id, &**text, id % 2 == 0)).collect();
        let tokens: Vec<&str> = tokens.iter().map(|text| &**text).collect();
        fixture.model(&bpe(&tokens, &added), *rows)
    })
}

/// The tokens of a model that have a row, by id.
fn held((tokens, added, rows): &(Vec<String>, Vec<String>, usize)) -> Vec<&String> {
    tokens.iter().chain(added).take(*rows).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_union_has_every_token_and_the_bases_ids(models in proptest::collection::vec(model(), 2..5)) {
        let fixture = fixture(&models);
        let built = fixture.build(Source::Union);
        let same = models.iter().all(|model| *model == models[0]);
        let vocab = vocabulary_as_read(&content(&built, "tokenizer.json"));
        for model in &models {
            for token in held(model) {
                prop_assert!(vocab.contains_key(token));
            }
        }
        for (id, token) in (0u32..).zip(held(&models[0])) {
            prop_assert_eq!(vocab[token], id);
        }
        let all: std::collections::BTreeSet<_> = models.iter().flat_map(held).collect();
        prop_assert!(same || vocab.len() == all.len());
        prop_assert_eq!(built.rows, all.len().max(models[0].2));
    }

    #[test]
    fn every_row_is_the_tokens_own_or_stands_in(models in proptest::collection::vec(model(), 2..5), named: bool) {
        let fixture = fixture(&models);
        let mut request = fixture.request(Source::Union);
        request.base_named = named;
        let built = build(&request).unwrap();
        let vocab = vocabulary_as_read(&content(&built, "tokenizer.json"));
        let place = |model: usize, token: &String| held(&models[model]).iter().position(|held| *held == token);
        for (token, row) in &vocab {
            let holders: Vec<(u32, u32)> = (0..models.len())
                .filter_map(|model| Some((u32::try_from(model).unwrap(), u32::try_from(place(model, token)?).unwrap())))
                .collect();
            if holders.is_empty() {
                continue; // Beyond the embedding of equal models.
            }
            for model in 0..models.len() {
                let got = built.maps[model].get(*row as usize).unwrap();
                match place(model, token) {
                    Some(own) => prop_assert_eq!(got, Row::Own(u32::try_from(own).unwrap())),
                    None if holders.len() == 1 || (named && holders[0].0 == 0) => {
                        prop_assert_eq!(got, Row::From { model: holders[0].0, row: holders[0].1 });
                    }
                    None => prop_assert_eq!(got, Row::Mean(&holders)),
                }
            }
        }
    }

    #[test]
    fn equal_models_change_nothing(model in model(), count in 1usize..4) {
        let fixture = fixture(&vec![model; count]);
        for source in [Source::Union, Source::Base, Source::Model(count - 1)] {
            let built = fixture.build(source);
            prop_assert!(built.maps.iter().all(RowMap::is_identity));
            prop_assert!(is_copied(&built, "tokenizer.json"));
        }
    }

    #[test]
    fn any_json_is_read_or_refused(text in "[\\[\\]{}\":,0-9a-z\\\\ ]{0,80}") {
        let fixture = Fixture::new().empty(3).file("tokenizer.json", &format!("{{\"model\":{{\"type\":\"BPE\",\"vocab\":{text}}}}}"));
        drop(build(&fixture.request(Source::Union)));
    }
}
