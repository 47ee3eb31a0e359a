//! Language models: a word for each class.

use super::*;

const RECIPE: &str = "merge_method: adamerging\n\
    base_model: base\n\
    models: [{model: expert-a, task: vowels}, {model: expert-b}]\n\
    tasks:\n\
    - {name: vowels, inputs: in.jsonl, test: test.jsonl, label_words: {vowel: v, consonant: 'cons'}}\n\
    - {name: next, inputs: next.jsonl, test: next-test.jsonl}\n\
    batch: {examples: 4}\n\
    optimizer: {lr: 0.02}\n\
    steps: 6\n\
    log: 2\n\
    diversity: 0\n\
    checkpoints: {every: 2}\n";

fn world() -> TempDir {
    let dir = decoder();
    let text = |a: char| format!("kind of {a}: ");
    rows(dir.path(), "in.jsonl", ('a'..='z').map(|a| json!({"text": text(a)})));
    let label = |a: char| if "aeiou".contains(a) { json!("vowel") } else { json!(1) };
    rows(dir.path(), "test.jsonl", ('a'..='z').map(|a| json!({"text": text(a), "label": label(a)})));
    dir
}

#[test]
fn classes_are_told_by_words() {
    let dir = world();
    let dir = dir.path();
    let ran = adapt(dir, RECIPE, "out", &["--threads", "2"]).ok();
    let note =
        "task `vowels`: \"cons\", the word of `consonant`, has 4 tokens; the first, \"c\", stands for it";
    assert!(ran.stderr.contains(note), "{}", ran.stderr);
    let scores = &json_file(&dir.join("out/onefold.json"))["result"]["tasks"]["vowels"];
    for part in ["expert", "before", "after"] {
        assert!(scores[part]["accuracy"].is_f64(), "{scores}");
        assert_eq!(scores[part]["predictions"]["expected"], json!([5, 21]));
    }
    onefold(dir, &["merge", "out/merge.yaml", "-o", "again"]).ok();
    let weights = |out: &str| fs::read(dir.join(out).join("model.safetensors")).unwrap();
    assert!(weights("out") == weights("again"));
    adapt(dir, RECIPE, "one", &["--threads", "1"]).ok();
    assert!(result(&dir.join("one")) == result(&dir.join("out")));
    // Labels of a few inputs, and rewards for different classes, go as with heads.
    let few = RECIPE
        .replace("inputs: in.jsonl", "inputs: test.jsonl")
        .replace("test: test.jsonl, ", "")
        .replace("diversity: 0", "objective: ce");
    adapt(dir, &few, "labelled", &[]).ok();
}

#[test]
fn mistakes_are_named() {
    let dir = world();
    let dir = dir.path();
    let words = "{vowel: v, consonant: 'cons'}";
    for (to, parts) in [
        ("{vowel: v}", &["tasks[0].label_words", "one class, \"vowel\""][..]),
        ("{vowel: v, consonant: ''}", &["the word of `consonant`"]),
        ("{vowel: v, consonant: [c]}", &["the word of `consonant`: expected a text"]),
        (
            "{vowel: co, consonant: cons}",
            &["task `vowels`", "\"cons\" of `consonant` and \"co\" of `vowel`", "same token"],
        ),
        ("{vowel: v, consonant: '#'}", &["does not know \"#\", the word of `consonant`"]),
        ("[v, c]", &["tasks[0].label_words", "a word for each class"]),
        ("{vowel: v, other: c}", &["vowels"]),
        ("{vowel: v, consonant: c}, classes: [a, b]", &["`classes`", "`label_words` name the classes"]),
    ] {
        let to = to.to_owned();
        let recipe = RECIPE.replacen(words, &to, 1);
        if to.contains("other") {
            // A number is a class, too: its name is what is wrong.
            rows(dir, "test.jsonl", std::iter::once(json!({"text": "a", "label": "consonant"})));
        }
        adapt(dir, &recipe, "out", &[]).fails(2, parts);
        assert!(!dir.join("out").exists(), "{to}");
    }
    let experts = experts();
    let recipe =
        ENCODER.replace("test: vowels.jsonl", "test: vowels.jsonl, label_words: {vowel: v, consonant: c}");
    let parts = ["task `vowels`", "they are words of a language model; the base, of type `bert`, is none"];
    adapt(experts.path(), &recipe, "out", &[]).fails(2, &parts);
}
