use std::fs;
use std::path::Path;

use onefold_runtime::events::Silent;

use super::*;
use crate::data::task::{TaskSettings, Validation};
use crate::data::tests::{encoder, settings, testdata, write};
use crate::text::tests::tokenizer;
use crate::text::{ChatTemplate, SpecialTokens};

/// What the doctor says of rows; `validation` may be empty.
fn examined(train: &str, validation: &str, encoder: &Encoder, limits: Option<&Limits>) -> Report {
    let dir = tempfile::tempdir().unwrap();
    let mut settings = settings(&write(dir.path(), "a.jsonl", train));
    if !validation.is_empty() {
        settings.validation = Validation::Files(vec![write(dir.path(), "b.jsonl", validation)]);
    }
    let task = Task::load(&settings, Some(encoder), &Silent).unwrap();
    examine(&[task], Some(encoder), limits).unwrap()
}

fn found(report: &Report, code: &str) -> Vec<(Severity, String)> {
    let of = report.findings.iter().filter(|finding| finding.code == code);
    of.map(|finding| (finding.severity, finding.message.clone())).collect()
}

fn one(report: &Report, code: &str, severity: Severity, message: &str) {
    let found = found(report, code);
    assert!(
        matches!(&found[..], [(of, text)] if *of == severity && text.contains(message)),
        "{code}: {report:?}"
    );
}

const GOOD: &str =
    "{\"prompt\": \"a\", \"completion\": \" b\"}\n{\"prompt\": \"c\", \"completion\": \" d\"}\n";

#[test]
fn good_data_is_called_good() {
    let report = examined(GOOD, "{\"prompt\": \"e\", \"completion\": \" f\"}", &encoder(), None);
    assert_eq!(report.findings, []);
    assert!(report.refuse().is_ok());
    assert_eq!(report.tasks[0].examples, ["<s>a⟦ b</s>⟧", "<s>c⟦ d</s>⟧"]);
    let lengths = report.tasks[0].lengths.unwrap();
    assert_eq!((lengths.min, lengths.max, lengths.tokens, lengths.learnt), (4, 5, 9, 5));
    let text = report.to_string();
    assert!(text.contains("task t (generate): 2 rows to learn from, 1 to validate on\n"), "{text}");
    assert!(text.contains("prompt and completion (prompt, completion)\n"), "{text}");
    assert!(
        text.contains(
            "tokens per row (min / 50 % / 90 % / 99 % / max): 4 / 4 / 5 / 5 / 5; 9 in all, 5 learnt"
        ),
        "{text}"
    );
    let json = serde_json::to_value(&report).unwrap();
    assert_eq!(json["tasks"][0]["lengths"]["p99"], 5);
    assert_eq!(json["tasks"][0]["kind"], "generate");
}

#[test]
fn rows_that_were_left_out_or_cut() {
    let rows = "{\"messages\": [{\"role\": \"user\", \"content\": \"a\"}, {\"role\": \"assistant\", \"content\": \"b\"}]}\n\
        {\"messages\": [{\"role\": \"user\", \"content\": \"a\"}]}\n\
        {\"messages\": [{\"role\": \"user\", \"content\": \"a\"}, {\"role\": \"user\", \"content\": \"b\"}, {\"role\": \"assistant\", \"content\": \"c\"}]}\n";
    let report = examined(rows, "", &encoder(), None);
    one(&report, "masked", Severity::Warning, "1 of 3 rows have nothing to learn");
    one(&report, "turns", Severity::Warning, "1 of 3 conversations");
    one(&report, "no_validation", Severity::Note, "no validation rows");
    let short = |too_long| Encoder { limit: Some(5), too_long, ..encoder() };
    let rows = format!("{GOOD}{{\"prompt\": \"a\", \"completion\": \" b c d e f\"}}\n");
    let report = examined(&rows, "", &short(crate::data::tokenize::TooLong::Drop), None);
    one(&report, "too_long", Severity::Warning, "1 of 3 rows are longer");
    let report = examined(&rows, "", &short(crate::data::tokenize::TooLong::KeepStart), None);
    one(&report, "cut", Severity::Warning, "1 of 3 rows were cut by");
    one(&report, "no_end", Severity::Warning, "in 1 of 3 rows");
    let report = examined("{\"prompt\": \"capital of \", \"completion\": \"France\"}", "", &encoder(), None);
    one(&report, "merged", Severity::Warning, "in 1 of 1 rows one token");
}

#[test]
fn texts_that_begin_twice() {
    let twice = "{\"text\": \"<s>a\"}\n{\"text\": \"<s>b\"}\n{\"text\": \"c\"}\n";
    let report = examined(twice, "", &encoder(), None);
    one(&report, "double_bos", Severity::Fatal, "2 of 3 rows begin with the beginning token twice");
    let error = report.refuse().unwrap_err().to_string();
    assert!(error.contains("\n  fatal: task `t`: 2 of 3 rows begin"), "{error}");
    let once = "{\"text\": \"<s>a\"}\n{\"text\": \"b\"}\n{\"text\": \"c\"}\n";
    one(&examined(once, "", &encoder(), None), "double_bos", Severity::Warning, "1 of 3");
}

#[test]
fn answers_without_end() {
    let text = "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}";
    let template = ChatTemplate::new("here".to_owned(), text, &SpecialTokens::default()).unwrap();
    let endless = Encoder::new(tokenizer("bpe"), Some(template));
    let rows = fs::read_to_string(testdata("shapes/pairs.jsonl")).unwrap();
    let report = examined(&rows, "", &endless, None);
    one(&report, "no_end", Severity::Warning, "in 1 of 1 rows the last answer has no end token");
    assert_eq!(report.template.as_deref(), Some("here"));
    assert_eq!(found(&examined(&rows, "", &encoder(), None), "no_end"), []);
}

#[test]
fn what_the_model_does_not_have() {
    let limits = Some(&Limits { vocabulary: 100, positions: Some(3), types: 0 });
    let report = examined(GOOD, "", &encoder(), limits);
    one(
        &report,
        "positions",
        Severity::Fatal,
        "2 rows have more tokens than the model has positions (3), the first: ",
    );
    let rows = "{\"text\": \"the quick brown fox\"}";
    one(
        &examined(rows, "", &encoder(), limits),
        "vocabulary",
        Severity::Fatal,
        "1 rows have token ids beyond the model's 100",
    );
    let roomy = Some(&Limits { vocabulary: 1000, positions: Some(1000), types: 0 });
    assert!(examined(GOOD, "", &encoder(), roomy).refuse().is_ok());
}

#[test]
fn equal_rows() {
    let rows = "{\"text\": \"a\"}\n{\"text\": \"b\"}\n{\"text\": \"a\"}\n";
    let report = examined(rows, "{\"text\": \"b\"}\n{\"text\": \"c\"}\n", &encoder(), None);
    one(&report, "duplicates", Severity::Warning, "1 of 3 rows stand there already, the first: ");
    one(&report, "overlap", Severity::Warning, "1 of 2 validation rows are also learnt, the first: ");
    let report = examined(rows, "{\"text\": \"b\"}\n", &encoder(), None);
    one(&report, "overlap", Severity::Fatal, "1 of 1 validation rows");
    let rows =
        "{\"text\": \"a\", \"label\": 0}\n{\"text\": \"a\", \"label\": 1}\n{\"text\": \"a\", \"label\": 0}\n";
    let report = examined(rows, "", &encoder(), None);
    one(&report, "conflicts", Severity::Warning, "1 of 3 rows stand there already with another class");
    one(&report, "duplicates", Severity::Warning, "1 of 3");
}

#[test]
fn classes_that_are_missing() {
    let rows =
        "{\"text\": \"a\", \"label\": 0}\n{\"text\": \"b\", \"label\": 2}\n{\"text\": \"c\", \"label\": 2}\n";
    let report = examined(rows, "{\"text\": \"d\", \"label\": 0}", &encoder(), None);
    let messages = found(&report, "no_rows_of_class");
    assert!(messages[0].1.contains("1 classes have no row to learn from: 1"), "{messages:?}");
    assert!(messages[1].1.contains("1 classes have no row to validate on: 2"), "{messages:?}");
    assert_eq!(report.tasks[0].classes[2], ClassCount { name: "2".to_owned(), train: 2, validation: 0 });
    assert!(report.tasks[0].examples[0].ends_with(" → ⟦0⟧"));
    let report = examined("{\"text\": \"a\", \"label\": \"x\"}", "", &encoder(), None);
    one(&report, "one_class", Severity::Fatal, "the same class");
}

#[test]
fn unknown_tokens() {
    let wordpiece = Encoder::new(tokenizer("wordpiece"), None);
    let rows = "{\"text\": \"the fox\", \"label\": 0}\n{\"text\": \"日本語\", \"label\": 1}\n";
    one(&examined(rows, "", &wordpiece, None), "unknown", Severity::Warning, "% of the tokens are unknown");
}

#[test]
fn broken_images_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let good = fs::read(testdata("../image/rgb.png")).unwrap();
    write(dir.path(), "cat/good.png", &good);
    write(dir.path(), "dog/half.png", &good[..good.len() / 2]);
    let task = |path: &Path| Task::load(&settings(path), None, &Silent).unwrap();
    let report = examine(&[task(dir.path())], None, None).unwrap();
    one(&report, "images", Severity::Fatal, "1 of 2 images looked at cannot be read\n");
    assert!(report.refuse().unwrap_err().to_string().contains("dog/half.png: not a readable image"));
    assert!(report.tasks[0].examples[0].ends_with("cat/good.png → ⟦cat⟧"));
    let report = examine(&[task(&testdata("bad/images"))], None, None).unwrap();
    assert!(found(&report, "images")[0].1.contains("cat/broken.png"));
}

#[test]
fn bad_rows_are_told() {
    let path = testdata("bad/syntax.jsonl");
    let settings = TaskSettings { max_bad_rows: 1, ..settings(&path) };
    let task = Task::load(&settings, Some(&encoder()), &Silent).unwrap();
    let report = examine(&[task], Some(&encoder()), None).unwrap();
    one(&report, "bad_rows", Severity::Warning, "1 of 3 rows cannot be used, the first: ");
}
