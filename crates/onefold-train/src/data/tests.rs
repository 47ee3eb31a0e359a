//! From files to rows: every shape, every mistake, and what must not depend on threads.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use onefold_runtime::events::{Control, Event, Observer, Silent};
use serde_json::Value;

use super::error::DataError;
use super::shape::{Kind, Turns};
use super::split::Held;
use super::task::{Task, TaskSettings, Validation};
use super::tokenize::{Encoder, TooLong};
use crate::model::Batch;
use crate::text::tests::{template, tokenizer};

pub(super) fn testdata(name: &str) -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../testdata/data")).join(name)
}

pub(super) fn golden(name: &str) -> Value {
    serde_json::from_str(&fs::read_to_string(testdata(name)).unwrap()).unwrap()
}

/// A byte-level tokenizer and a chat template with generation blocks.
pub(super) fn encoder() -> Encoder {
    Encoder::new(tokenizer("bpe"), Some(template("marked")))
}

pub(super) fn settings(path: &Path) -> TaskSettings {
    TaskSettings { name: "t".to_owned(), train: vec![path.to_owned()], ..TaskSettings::default() }
}

pub(super) fn load(path: &Path) -> Result<Task, DataError> {
    Task::load(&settings(path), Some(&encoder()), &Silent)
}

/// A file in a temporary directory.
pub(crate) fn write(dir: &Path, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
    let path = dir.join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    #[allow(clippy::disallowed_methods, reason = "a test's input, in a temporary directory")]
    fs::write(&path, content).unwrap();
    path
}

/// The tokens of a row that are learnt, and those that are not, as text.
fn parts(task: &Task, row: u32) -> (String, String) {
    let tokens = task.tokens(row).unwrap();
    let of = |learnt: bool| {
        let ids: Vec<_> = (0..tokens.ids().len())
            .filter(|i| tokens.is_learnt(*i) == learnt)
            .map(|i| tokens.ids()[i])
            .collect();
        tokenizer("bpe").decode(&ids, false).unwrap()
    };
    (of(true), of(false))
}

fn learnt(name: &str) -> Vec<String> {
    let task = load(&testdata("shapes").join(name)).unwrap();
    task.train.iter().map(|row| parts(&task, *row).0).collect()
}

#[test]
fn answers_and_their_end_are_learnt() {
    for (name, expected) in [
        (
            "messages.jsonl",
            &["2</s>", "Paris</s>144</s>", "call WEATHER {\"city\": \"Paris\"}\n</s>It rains.</s>"][..],
        ),
        ("messages.parquet", &["2</s>", "naïve café</s>"]),
        ("prompt_completion.jsonl", &[" Paris.</s>", " 2</s>"]),
        ("conversational.jsonl", &["d</s>"]),
        ("sharegpt.json", &["call WEATHER {\"city\": \"Paris\"}\n</s>It rains.</s>", "brackets \\</s>"]),
        ("alpaca.json", &["dog</s>house</s>", "hello</s>"]),
        ("chat_rounds.jsonl", &["x^2</s>"]),
        ("pairs.jsonl", &["2</s>"]),
        ("marked.jsonl", &["<s>one</s>", "<s>two</s>"]),
        ("lines.txt", &["<s>The quick brown fox.</s>", "<s>The lazy dog.</s>"]),
    ] {
        assert_eq!(learnt(name), expected, "{name}");
    }
}

#[test]
fn what_is_given_is_rendered_whole() {
    let task = load(&testdata("shapes/alpaca.json")).unwrap();
    let given = parts(&task, 0).1;
    let expected = "<|system|>You translate.</s>\n<|user|>Translate Hund</s>\n<|assistant|>\n<|user|>Translate\nHaus</s>\n";
    assert!(given.starts_with(expected), "{given:?}");
    let task = load(&testdata("shapes/sharegpt.json")).unwrap();
    assert!(parts(&task, 0).1.contains("<|system|>Be kind.</s>"));
    assert_eq!(task.layouts[0].1.to_string(), "ShareGPT (messages: conversations, system, tools)");
    let task = load(&testdata("shapes/messages.jsonl")).unwrap();
    assert_eq!(task.layouts[0].1.to_string(), "messages (messages); not used: source");
    assert_eq!((task.kind, task.train.len(), task.counts.read), (Kind::Generate, 3, 3));
}

/// The same mask without generation blocks, prefix by prefix.
#[test]
fn prompts_of_messages_are_not_learnt() {
    for name in ["zephyr", "marked"] {
        let encoder = Encoder::new(tokenizer("bpe"), Some(template(name)));
        let path = testdata("shapes/conversational.jsonl");
        let task = Task::load(&settings(&path), Some(&encoder), &Silent).unwrap();
        let (learnt, given) = parts(&task, 0);
        assert_eq!(learnt.trim_end(), "d</s>", "{name}");
        assert!(given.contains('b'), "{name}: {given}");
    }
}

#[test]
fn classes_of_texts_and_images() {
    let encoder = Encoder::new(tokenizer("wordpiece"), None);
    let of =
        |name: &str| Task::load(&settings(&testdata("shapes").join(name)), Some(&encoder), &Silent).unwrap();
    let task = of("classified.csv");
    assert_eq!(task.labels.as_ref().unwrap().names, ["neg", "pos"]);
    assert_eq!((task.label(0), task.label(1)), (Some(1), Some(0)));
    assert_eq!(task.kind, Kind::Classify);
    let ids = |task: &Task, row| task.tokens(row).unwrap().ids().to_vec();
    let text = encoder.tokenizer.decode(&ids(&task, 0), false).unwrap();
    assert!(text.starts_with("[CLS] the [UNK] quick [UNK] fox, and the dog"), "{text}");
    let task = of("entailment.tsv");
    let tokens = task.tokens(0).unwrap();
    assert_eq!(tokens.types().iter().map(|kind| usize::from(*kind)).sum::<usize>(), tokens.ids().len() / 2);
    assert_eq!((task.label(0), task.label(1)), (Some(1), Some(0)));
    let task = of("classified.parquet");
    assert_eq!((task.train.len(), task.label(2)), (3, Some(1)));
    assert_eq!(
        task.place(2).to_string(),
        format!("{}, row 3", testdata("shapes/classified.parquet").display())
    );
    let images = Task::load(&settings(&testdata("shapes/images.parquet")), None, &Silent).unwrap();
    assert_eq!(images.kind, Kind::ImageClassify);
    let expected = crate::image::open(&testdata("../image/rgb.png")).unwrap();
    assert_eq!(images.picture(0).unwrap().decode().unwrap(), expected);
}

/// A dataset of images in folders, with a split, a link, and what is not an image.
#[test]
fn folders_of_images() {
    let dir = tempfile::tempdir().unwrap();
    let image = fs::read(testdata("../image/rgb.png")).unwrap();
    for name in ["train/dog/a.png", "train/cat/b.png", "train/cat/.hidden.png", "test/dog/c.png"] {
        write(dir.path(), name, &image);
    }
    write(dir.path(), "train/cat/notes.txt", "no image");
    std::os::unix::fs::symlink(dir.path().join("test/dog/c.png"), dir.path().join("train/dog/link.png"))
        .unwrap();
    let task = Task::load(&settings(dir.path()), None, &Silent).unwrap();
    assert_eq!(task.labels.as_ref().unwrap().names, ["cat", "dog"]);
    assert_eq!(task.train.iter().map(|row| task.label(*row).unwrap()).collect::<Vec<_>>(), [0, 1, 1]);
    assert!(task.place(0).to_string().ends_with("train/cat/b.png"));
    write(dir.path(), "train/metadata.csv", "file_name,label,note\ndog/a.png,7,x\n");
    let task = Task::load(&settings(dir.path()), None, &Silent).unwrap();
    assert_eq!((task.train.len(), task.label(0)), (1, Some(7)));
    assert!(task.picture(0).unwrap().decode().is_ok());
}

/// Every file of `testdata/data/bad` with what it has to give.
#[test]
fn every_mistake_is_told() {
    for (name, expected) in [
        ("empty.jsonl", "task `t`: no rows left to learn: 0 read"),
        ("blank.jsonl", "task `t`: no rows left to learn: 0 read"),
        ("syntax.jsonl", "syntax.jsonl, line 2: cannot be read: EOF while parsing an object (column 12)"),
        ("not_an_object.jsonl", "line 2: cannot be read: expected a JSON object, found [\"text\",\"b\"]"),
        ("duplicate_key.jsonl", "line 2: key `x` stands twice in one object"),
        ("latin1.jsonl", "line 2: not UTF-8 (byte 13 of the row)"),
        ("missing_key.jsonl", "line 2: key `messages` is missing; the row has message"),
        (
            "unknown_role.jsonl",
            "line 1: key `messages[1].role`: unknown role \"narrator\"; known are system, ",
        ),
        (
            "content_number.jsonl",
            "key `messages[0].content`: expected text, or a list of {type: text, text}, found 3",
        ),
        ("content_image.jsonl", "key `messages[0].content`: expected parts of text; images in conversations"),
        ("no_messages.jsonl", "key `messages`: expected a list of messages, found []"),
        ("no_content.jsonl", "key `messages[0].content` is missing; the row has role"),
        ("tools.jsonl", "key `tools`: expected a list of tools"),
        ("call.jsonl", "key `conversations[1].value`: expected JSON of {name, arguments}"),
        ("history.jsonl", "key `history`: expected a list of [question, answer], found [\"c\",\"d\",\"e\"]"),
        ("half_conversation.jsonl", "line 2: key `completion`: expected text, or messages, as the prompt"),
        ("label_float.jsonl", "line 2: key `label`: expected a class: a whole number or a name, found 0.5"),
        ("label_bool.jsonl", "line 1: key `label`: expected a class: a whole number or a name, found true"),
        ("label_null.jsonl", "line 1: key `label` is missing"),
        ("label_mixed.jsonl", "labels are names (\"x\") and numbers (3)"),
        ("label_minus_one.jsonl", "line 2: label -1 is not one of \"0\"; -1 stands for an unknown class"),
        ("ragged.csv", "ragged.csv, line 3: 1 cells, the header has 2\n"),
        ("header_twice.csv", "header_twice.csv: column 3 of the header: \"text\" stands twice"),
        ("latin1.csv", "line 2: not UTF-8 (byte 3 of the row)"),
        ("cut_off.json", "cut_off.json: line 1: the array does not end; the file is cut off"),
        ("no_comma.json", "no_comma.json: line 1: expected a comma or the end of the array"),
        ("after_the_end.json", "after_the_end.json: line 1: text after the end of the array"),
        ("element.json", "element.json, line 2: cannot be read: "),
        ("scalar.json", "scalar.json: expected an array of JSON objects, or one object per line"),
        (
            "preferences.jsonl",
            "line 1: cannot tell the shape of rows with the keys prompt, chosen, rejected; rows with `chosen`",
        ),
        ("no_shape.jsonl", "line 1: cannot tell the shape of rows with the keys a, b; say with `columns`"),
        ("no_image.jsonl", "key `image`: no such file: "),
        ("none.parquet", "none.parquet: not a readable Parquet file: "),
        ("cut_off.parquet", "cut_off.parquet: not a readable Parquet file: "),
        ("unreadable_format", "a.webp: images are read as PNG or JPEG; convert it"),
        ("nowhere.jsonl", "nowhere.jsonl: cannot read: No such file"),
    ] {
        let error = load(&testdata("bad").join(name)).unwrap_err().to_string();
        assert!(error.contains(expected), "{name}: {error}");
    }
}

#[test]
fn order_of_roles_by_policy() {
    let path = testdata("bad/turns.jsonl");
    let task = load(&path).unwrap();
    assert_eq!((task.counts.turns, task.train.len()), (1, 1));
    let refused = TaskSettings { turns: Turns::Refuse, ..settings(&path) };
    let error = Task::load(&refused, Some(&encoder()), &Silent).unwrap_err().to_string();
    assert!(
        error.contains("line 1: message 1 (user) cannot follow user; roles have to alternate"),
        "{error}"
    );
}

#[test]
fn bad_rows_are_counted_up_to_a_limit() {
    let path = testdata("bad/syntax.jsonl");
    let allowed = |max_bad_rows| TaskSettings { max_bad_rows, ..settings(&path) };
    let task = Task::load(&allowed(1), Some(&encoder()), &Silent).unwrap();
    assert_eq!((task.counts.read, task.counts.bad, task.train.len()), (3, 1, 2));
    assert!(task.counts.first_bad[0].contains("line 2"), "{:?}", task.counts.first_bad);
    assert_eq!(task.place(1).number, 3);
    let error = Task::load(&allowed(0), Some(&encoder()), &Silent).unwrap_err().to_string();
    assert!(error.starts_with("task `t`: 1 of the first 3 rows cannot be used, 0 are allowed"), "{error}");
}

/// Rows of a task with two files of different shapes, and of one that cannot be one task.
#[test]
fn shapes_may_differ_and_kinds_may_not() {
    let files = |names: [&str; 2]| TaskSettings {
        train: names.map(|name| testdata("shapes").join(name)).to_vec(),
        ..settings(Path::new(""))
    };
    let task = Task::load(&files(["alpaca.json", "messages.jsonl"]), Some(&encoder()), &Silent).unwrap();
    assert_eq!((task.layouts.len(), task.train.len()), (2, 5));
    let error = Task::load(&files(["alpaca.json", "classified.csv"]), Some(&encoder()), &Silent).unwrap_err();
    assert!(matches!(&error, DataError::Kinds { before: "generate", kind: "classify", .. }), "{error}");
}

#[test]
fn settings_that_do_not_fit() {
    let chat = testdata("shapes/alpaca.json");
    let without = Encoder::new(tokenizer("bpe"), None);
    let error = |path: &Path, encoder: Option<&Encoder>| {
        Task::load(&settings(path), encoder, &Silent).unwrap_err().to_string()
    };
    assert!(error(&chat, Some(&without)).starts_with("chat_template: task `t`, shape Alpaca: "));
    assert!(
        error(&testdata("shapes/conversational.jsonl"), Some(&without))
            .contains("line 1: conversations need")
    );
    assert!(error(&chat, None).starts_with("tokenizer: task `t` has rows of Alpaca"));
    let endless = Encoder::new(tokenizer("wordpiece"), None);
    assert!(error(&testdata("shapes/text.jsonl"), Some(&endless)).starts_with("eos_token: "));
    let split = Encoder { too_long: TooLong::Split, limit: Some(8), ..encoder() };
    assert!(error(&chat, Some(&split)).starts_with("too_long: split is for texts"));
    let short = Encoder { limit: Some(1), ..encoder() };
    assert!(error(&chat, Some(&short)).starts_with("length: expected at least 2"));
    let empty = tempfile::tempdir().unwrap();
    assert!(error(empty.path(), None).contains("no data files; read are .jsonl"));
    assert!(error(&write(empty.path(), "a.xlsx", ""), None).contains("a.xlsx: read are .jsonl"));
}

#[test]
fn validation_by_files_by_split_and_by_directory() {
    let dir = tempfile::tempdir().unwrap();
    let rows =
        |n: usize, word: &str| (0..n).map(|i| format!("{{\"text\": \"{word} {i}\"}}\n")).collect::<String>();
    write(dir.path(), "data/train-00000-of-00001.jsonl", rows(40, "a"));
    write(dir.path(), "data/validation-00000-of-00001.jsonl", rows(3, "b"));
    write(dir.path(), "data/test.jsonl", rows(5, "c"));
    write(dir.path(), "dataset_info.json", "{}");
    let task = load(dir.path()).unwrap();
    assert_eq!((task.train.len(), task.validation.len()), (40, 3));
    assert_eq!(task.validation, [40, 41, 42]);
    let with = |validation| TaskSettings { validation, ..settings(&dir.path().join("data/test.jsonl")) };
    let task =
        Task::load(&with(Validation::Files(vec![dir.path().to_owned()])), Some(&encoder()), &Silent).unwrap();
    assert_eq!((task.train.len(), task.validation.len()), (5, 3));
    let held = with(Validation::Held(Held::Fraction(0.2)));
    let task = Task::load(&held, Some(&encoder()), &Silent).unwrap();
    assert_eq!((task.train.len(), task.validation.len()), (4, 1));
    let some = TaskSettings { samples: Some(7), ..settings(dir.path()) };
    let task = Task::load(&some, Some(&encoder()), &Silent).unwrap();
    assert_eq!((task.train.len(), task.counts.not_sampled), (7, 33));
    assert!(task.train.is_sorted());
    let empty = with(Validation::Files(vec![write(dir.path(), "empty.jsonl", "")]));
    let error = Task::load(&empty, Some(&encoder()), &Silent).unwrap_err().to_string();
    assert!(error.starts_with("task `t`: no rows left to validate"), "{error}");
    let only_test = settings(write(dir.path(), "other/test.jsonl", "").parent().unwrap());
    let error = Task::load(&only_test, Some(&encoder()), &Silent).unwrap_err().to_string();
    assert!(error.contains("no data files for training"), "{error}");
}

#[test]
fn labels_of_validation_have_to_be_known() {
    let dir = tempfile::tempdir().unwrap();
    let train = write(dir.path(), "a.csv", "text,label\nx,yes\ny,no\n");
    let validation = Validation::Files(vec![write(dir.path(), "b.csv", "text,label\nz,maybe\n")]);
    let settings = TaskSettings { validation, ..settings(&train) };
    let error = Task::load(&settings, Some(&encoder()), &Silent).unwrap_err().to_string();
    assert!(
        error.contains(
            "b.csv, line 2: label \"maybe\" is not one of \"no\", \"yes\"; it is in no training file"
        ),
        "{error}"
    );
}

/// What a model is fed: packed rows are sequences of their own, and only what is learnt is a target.
#[test]
fn rows_become_sequences() {
    let task = load(&testdata("shapes/prompt_completion.jsonl")).unwrap();
    let mut batch = Batch::default();
    task.push(0, 3, 0.5, &mut batch);
    task.push(1, 3, 0.5, &mut batch);
    let (first, second) = (task.tokens(0).unwrap(), task.tokens(1).unwrap());
    assert_eq!(batch.ids(), [first.ids(), second.ids()].concat());
    assert_eq!(batch.segments().len(), 2);
    assert_eq!(batch.positions()[first.ids().len()], 0);
    let targets = batch.targets().rows().targets;
    assert_eq!(targets.iter().filter(|target| **target >= 0).count(), first.targets() + second.targets());
    assert_eq!(targets[first.ids().len() - 2], 2); // the end token
    let task = load(&testdata("shapes/entailment.tsv")).unwrap();
    let mut batch = Batch::default();
    task.push(1, 0, 1.0, &mut batch);
    assert_eq!(batch.targets().rows().targets, [0]);
    assert!(batch.types().contains(&1));
}

/// Some thousand rows, over several blocks, with rows that are bad, too long and without an answer.
fn many(dir: &Path) -> TaskSettings {
    let row = |i: usize| match i % 97 {
        13 => "{\"prompt\": 3, \"completion\": \"x\"}\n".to_owned(),
        n => format!("{{\"prompt\": \"{}\", \"completion\": \" {i}\"}}\n", "word ".repeat(n % 12)),
    };
    let path = write(dir, "many.jsonl", (0..3000).map(row).collect::<String>());
    TaskSettings { max_bad_rows: 100, validation: Validation::Held(Held::Rows(50)), ..settings(&path) }
}

#[test]
fn threads_change_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let settings = many(dir.path());
    let encoder = Encoder { limit: Some(30), ..encoder() };
    let with = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| Task::load(&settings, Some(&encoder), &Silent)).unwrap()
    };
    let (one, three) = (with(1), with(3));
    assert!(one.counts.bad > 20 && one.counts.too_long > 20, "{:?}", one.counts);
    assert_eq!(format!("{one:?}"), format!("{three:?}"));
}

/// Counts bytes, and cancels after a number of events.
struct Watcher {
    bytes: AtomicU64,
    total: AtomicU64,
    patience: u64,
}

impl Observer for Watcher {
    fn event(&self, event: &Event<'_>) -> Control {
        match event {
            Event::Phase { total, .. } => self.total.store(*total, Ordering::Relaxed),
            Event::Progress { bytes } => _ = self.bytes.fetch_add(*bytes, Ordering::Relaxed),
            _ => {}
        }
        if self.bytes.load(Ordering::Relaxed) >= self.patience { Control::Cancel } else { Control::Continue }
    }
}

#[test]
fn progress_adds_up_and_can_be_cancelled() {
    let dir = tempfile::tempdir().unwrap();
    let settings = many(dir.path());
    let watcher = |patience| Watcher { bytes: AtomicU64::new(0), total: AtomicU64::new(0), patience };
    let patient = watcher(u64::MAX);
    Task::load(&settings, Some(&encoder()), &patient).unwrap();
    assert_eq!(patient.bytes.into_inner(), patient.total.into_inner());
    assert!(matches!(Task::load(&settings, Some(&encoder()), &watcher(1)), Err(DataError::Cancelled)));
}

/// Rows are named by the lines of the file, whatever its line ends; and a quotation mark without its partner is no text of the
/// rest of the file.
#[test]
fn lines_and_quotation_marks_of_tables() {
    let dir = tempfile::tempdir().unwrap();
    let load = |text: &str| {
        let path = write(dir.path(), "t.csv", text);
        Task::load(&settings(&path), Some(&encoder()), &Silent).map_err(|error| error.to_string())
    };
    for end in ["\n", "\r\n"] {
        let text = ["text,label", "x,yes", "\"y\"\"\",no", "broken"].join(end);
        let error = load(&text).unwrap_err();
        assert!(error.contains("t.csv, line 4: 1 cells"), "{error}");
        let error = load(&["text,label", "x,yes", "y,\"no", "z,yes", "w,no", ""].join(end)).unwrap_err();
        assert!(error.contains("the row at line 3 goes on to the end"), "{error}");
        assert!(load(&["text,label", "x,\"yes", "or no\"", "y,no", ""].join(end)).is_ok());
        assert!(load(&["text,label", "5\" disk,yes", "y,no", ""].join(end)).is_ok());
    }
}

/// As many rows as may be bad may stand before the first that says how the others are read.
#[test]
fn the_first_row_may_be_bad() {
    let dir = tempfile::tempdir().unwrap();
    let path = write(
        dir.path(),
        "t.jsonl",
        "{\"x\": 1}\n{\"text\": \"a\", \"label\": 0}\n{\"text\": \"b\", \"label\": 1}\n",
    );
    let load = |max_bad_rows| {
        let settings = TaskSettings { max_bad_rows, ..settings(&path) };
        Task::load(&settings, Some(&encoder()), &Silent).map_err(|error| error.to_string())
    };
    assert!(load(0).unwrap_err().contains("t.jsonl, line 1"));
    let task = load(1).unwrap();
    assert_eq!((task.train.len(), task.counts.bad), (2, 1));
}
