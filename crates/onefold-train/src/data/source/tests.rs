use std::fs;
use std::io::{BufReader, Read, repeat};

use serde_json::json;

use super::*;
use crate::data::tests::{testdata, write};

fn read(path: &Path) -> Vec<Result<Row, DataError>> {
    open(path).unwrap().collect()
}

fn values(path: &Path) -> Vec<Value> {
    read(path).into_iter().map(|row| Value::Object(row.unwrap().values)).collect()
}

#[test]
fn marks_and_line_ends_of_editors() {
    let path = testdata("shapes/marked.jsonl");
    assert_eq!(values(&path), [json!({"text": "one"}), json!({"text": "two"})]);
    let lines: Vec<_> = read(&path).into_iter().map(|row| row.unwrap().place.number).collect();
    assert_eq!(lines, [1, 3]);
    let rows = values(&testdata("shapes/classified.csv"));
    assert_eq!(rows[0], json!({"text": "The \"quick\" fox,\nand the dog", "label": "pos"}));
    let dir = tempfile::tempdir().unwrap();
    let array =
        write(dir.path(), "a.json", "\u{feff}\r\n[\r\n{\"a\": \"]}\\\"\"},\r\n{\"a\": [{}]}\r\n]\r\n");
    assert_eq!(values(&array), [json!({"a": "]}\""}), json!({"a": [{}]})]);
    assert_eq!(read(&array)[1].as_ref().unwrap().place.to_string(), format!("{}, line 4", array.display()));
    assert_eq!(values(&write(dir.path(), "b.json", "[]")), [0; 0]);
    assert_eq!(
        values(&write(dir.path(), "c.json", "{\"a\": 1}\n{\"a\": 2}")),
        [json!({"a": 1}), json!({"a": 2})]
    );
}

#[test]
fn rows_after_a_bad_one_are_read() {
    for (name, good) in [
        ("syntax.jsonl", 2),
        ("latin1.jsonl", 1),
        ("duplicate_key.jsonl", 1),
        ("ragged.csv", 1),
        ("element.json", 1),
    ] {
        let rows = read(&testdata("bad").join(name));
        assert_eq!(rows.iter().filter(|row| row.is_ok()).count(), good, "{name}");
        assert!(rows.iter().all(|row| matches!(row, Ok(_) | Err(DataError::Row(_)))), "{name}");
    }
}

/// A line and a cell that never end take bounded memory.
#[test]
fn rows_without_end() {
    let endless = BufReader::new("{\"a\": \"".as_bytes().chain(repeat(b'x')));
    let mut lines = json::Lines::new(text::Lines::new(endless, Path::new("endless").into()));
    let error = lines.next().unwrap().unwrap_err().to_string();
    assert!(error.starts_with("endless: line 1: longer than 67108864 bytes"), "{error}");
    assert!(lines.next().is_none());
    let dir = tempfile::tempdir().unwrap();
    let path = write(dir.path(), "a.csv", "text,label\na,b\n\"never closed");
    let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
    file.set_len(LONGEST_ROW + (1 << 20)).unwrap();
    let rows = read(&path);
    assert!(rows[0].is_ok() && rows.len() == 2);
    let error = rows[1].as_ref().unwrap_err().to_string();
    assert!(
        error.contains("longer than 67108864 bytes; a line break or a quotation mark is missing"),
        "{error}"
    );
}

#[test]
fn nesting_without_end() {
    let dir = tempfile::tempdir().unwrap();
    let deep = write(dir.path(), "a.jsonl", "{\"a\": ".repeat(1 << 16));
    assert!(read(&deep)[0].as_ref().unwrap_err().to_string().contains("recursion limit"));
}

#[test]
fn parquet_values() {
    let rows = values(&testdata("shapes/messages.parquet"));
    assert_eq!(rows[0]["messages"][0], json!({"role": "user", "content": "1 + 1 = ?"}));
    assert_eq!((&rows[0]["score"], &rows[1]["score"]), (&json!(0.5), &Value::Null));
    let rows = values(&testdata("shapes/classified.parquet"));
    assert_eq!(rows[2], json!({"sentence": "e f", "label": 1, "idx": 2}));
    let image = read(&testdata("shapes/images.parquet")).remove(0).unwrap();
    assert_eq!(image.values["image"], json!({"bytes": null, "path": "rgb.png"}));
    assert_eq!(image.binary, [("image.bytes".to_owned(), fs::read(testdata("../image/rgb.png")).unwrap())]);
}

/// Whatever a damaged file says, it ends as rows or as an error.
#[test]
fn damaged_parquet() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["messages", "classified", "images"] {
        let whole = fs::read(testdata("shapes").join(name).with_extension("parquet")).unwrap();
        for at in (0..whole.len()).step_by(7) {
            let mut bytes = whole.clone();
            bytes[at] ^= 0x15;
            let path = write(dir.path(), "a.parquet", &bytes);
            let rows = open(&path).map(|rows| rows.take(100).filter(Result::is_err).count());
            assert!(rows.is_ok_and(|bad| bad <= 3) || open(&path).is_err(), "{name} at {at}");
        }
    }
}

#[test]
fn parts_of_directories_by_their_names() {
    let of = |path: &str| files::part_of(Path::new(path));
    assert_eq!(of("data/train-00000-of-00002.parquet"), Some(Part::Train));
    assert_eq!(of("my_dev_set.jsonl"), Some(Part::Validation));
    assert_eq!(of("training/test.csv"), Some(Part::Test));
    assert_eq!(of("trainer/contest.csv"), None);
}

#[test]
fn links_without_end() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), "a/b.jsonl", "{}");
    std::os::unix::fs::symlink(dir.path(), dir.path().join("a/up")).unwrap();
    let error = data_files(dir.path(), Part::Train).unwrap_err().to_string();
    assert!(error.contains("more than 8 directories deep"), "{error}");
    fs::remove_file(dir.path().join("a/up")).unwrap();
    std::os::unix::fs::symlink("nowhere", dir.path().join("a/gone.jsonl")).unwrap();
    let error = data_files(dir.path(), Part::Train).unwrap_err().to_string();
    assert!(error.contains("gone.jsonl: cannot read"), "{error}");
}
