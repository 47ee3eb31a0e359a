use onefold_runtime::events::Silent;

use super::*;
use crate::data::error::DataError;
use crate::data::split::Held;
use crate::data::task::{Task, Validation};
use crate::data::tests::{encoder, testdata};

/// All rows of a task as text.
fn rows(settings: &crate::data::task::TaskSettings) -> Vec<String> {
    let encoder = encoder();
    let task = Task::load(settings, Some(&encoder), &Silent).unwrap();
    let text = |row: &u32| encoder.tokenizer.decode(task.tokens(*row).unwrap().ids(), false).unwrap();
    task.train.iter().map(text).collect()
}

fn entry(name: &str) -> Result<crate::data::task::TaskSettings, DataError> {
    llama_factory(&testdata("llama_factory"), name)
}

#[test]
fn entries_of_llama_factory() {
    for (name, expected) in [
        ("plain", &["<|user|>Translate\nHaus</s>\n<|assistant|>house</s>\n"][..]),
        ("share", &["<|system|>s</s>\n<|user|>a</s>\n<|assistant|>b</s>\n"]),
        ("openai", &["<|user|>a</s>\n<|assistant|>b</s>\n"]),
        ("wiki", &["<s>The quick brown fox.</s>", "<s>The lazy dog.</s>"]),
        ("folder", &["<s>two</s>", "<s>one</s>"]),
    ] {
        assert_eq!(rows(&entry(name).unwrap()), expected, "{name}");
    }
    let one = entry("columns").unwrap();
    assert_eq!(rows(&one).len(), 1);
    let all = crate::data::task::TaskSettings { samples: None, ..one };
    let expected = [
        "<|system|>Calculate.</s>\n<|user|>1 + 1?</s>\n<|assistant|>2</s>\n",
        "<|user|>2 + 2?</s>\n<|assistant|>4</s>\n",
    ];
    assert_eq!(rows(&all), expected);
}

#[test]
fn entries_that_are_refused() {
    for (name, expected) in [
        ("dpo", "key `dpo.ranking`: preferences are not learnt here, only answers"),
        ("kto", "key `kto.columns.kto_tag`: preferences are not learnt here, only answers"),
        ("images", "key `images.columns.images`: conversations with images are not read"),
        ("hub", "key `hub.file_name`: missing; data of a hub has to be downloaded first"),
        ("typo", "key `typo.colums`: unknown"),
        ("column_typo", "key `column_typo.columns.promt`: unknown"),
        ("form", "key `form.formatting`: expected alpaca, sharegpt or openai, found \"vicuna\""),
        ("samples", "key `samples.num_samples`: expected a whole number above 0"),
        ("text", "key `text`: expected an object"),
        ("absent", "no dataset \"absent\"; there are plain, columns, share"),
    ] {
        let error = entry(name).unwrap_err().to_string();
        assert!(error.contains(&format!("dataset_info.json: {expected}")), "{name}: {error}");
    }
    assert!(matches!(llama_factory(&testdata("nowhere"), "a"), Err(DataError::Json(_))));
}

#[test]
fn directories_of_mftcoder() {
    let tasks = mftcoder("[mftcoder/code, mftcoder/math/]", &testdata("")).unwrap();
    assert_eq!(tasks.iter().map(|task| task.name.as_str()).collect::<Vec<_>>(), ["code", "math"]);
    assert_eq!(rows(&tasks[0]).len(), 3);
    assert_eq!(rows(&tasks[1]), ["<|user|>12 * 12</s>\n<|assistant|>144</s>\n"]);
    let mut held = tasks.into_iter().next().unwrap();
    held.validation = Validation::Held(Held::Fraction(0.05));
    let task = Task::load(&held, Some(&encoder()), &Silent).unwrap();
    assert_eq!((task.train.len(), task.validation.len()), (2, 1));
    let error = |paths: &str| mftcoder(paths, &testdata("")).unwrap_err().to_string();
    assert!(error("[]").starts_with("data_paths: expected \"[dir1,dir2]\""));
    assert!(
        error("[mftcoder/code,mftcoder/code]").starts_with("data_paths: two directories are called \"code\"")
    );
    assert!(error("nowhere").contains("nowhere: cannot read"));
}
