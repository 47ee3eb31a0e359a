//! What a command says and where: results, warnings, JSON, and names that the shell cannot carry.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;

use serde_json::{Value, json};

use crate::support::{Ran, command, copy_dir, json_file, llamas, merge, onefold, temp, testdata};

const TASK: &str = "merge_method: task_arithmetic\nbase_model: base\nmodels:\n\
    - {model: expert1, parameters: {weight: 0.5}}\n";
const ADAPTER: &str = "merge_method: passthrough\nmodels: [{model: base_llama+plain}]\n";
const TRAINED_ON: &str = "its adapter was trained on tiny-llama";

/// A directory with a small base and an adapter that was trained on `tiny-llama`.
fn with_adapter() -> tempfile::TempDir {
    let dir = temp();
    for name in ["base_llama", "plain"] {
        copy_dir(&testdata("adapter").join(name), &dir.path().join(name));
    }
    dir
}

#[test]
fn every_json_output_is_lines() {
    let dir = llamas();
    let dir = dir.path();
    let art = "merge_method: emr\nbase_model: base\nmodels: [{model: expert1}, {model: expert2}]\n";
    merge(dir, art, "art", &[]).ok();
    fs::write(dir.join("r.yml"), TASK).unwrap();
    let commands: [&[&str]; 7] = [
        &["methods"],
        &["methods", "ties"],
        &["inspect", "base"],
        &["inspect", "art"],
        &["inspect", "expert1", "--base", "base"],
        &["merge", "r.yml", "-o", "out", "--dry-run"],
        &["merge", "r.yml", "-o", "art"],
    ];
    for args in commands {
        let ran = onefold(dir, &[args, &["--json"]].concat());
        assert_eq!(ran.stdout.lines().count(), 1, "{args:?}: {}", ran.stdout);
        assert!(ran.json().is_object() || ran.json().is_array(), "{args:?}");
    }
    let methods = onefold(dir, &["methods", "--json"]).json();
    let ties = onefold(dir, &["methods", "ties", "--json"]).json();
    assert!(methods.as_array().unwrap().contains(&ties));
    let density = ties["parameters"].as_array().unwrap().iter().find(|p| p["name"] == "density").unwrap();
    assert_eq!((&density["level"], &density["default"]), (&json!("model"), &json!(1.0)), "{density}");
    assert_eq!(onefold(dir, &["inspect", "art", "--json"]).json(), json_file(&dir.join("art/emr.json")));
    onefold(dir, &["methods", "--markdown", "--json"]).fails(2, &["--markdown", "--json"]);
}

#[test]
fn quiet_keeps_results_and_nothing_else() {
    let dir = with_adapter();
    let dir = dir.path();
    fs::write(dir.join("r.yml"), ADAPTER).unwrap();
    let dry = ["merge", "r.yml", "-o", "out", "--dry-run"];
    let inspect = ["inspect", "base_llama"];
    for (args, part) in [(&dry[..], "nothing was done"), (&inspect, "parameters"), (&["methods"], "ties")] {
        let loud = onefold(dir, args).ok();
        let quiet = onefold(dir, &[args, &["-q"]].concat()).ok();
        assert_eq!((quiet.stdout.as_str(), quiet.stderr.as_str()), (loud.stdout.as_str(), ""), "{args:?}");
        assert!(quiet.stdout.contains(part), "{}", quiet.stdout);
    }
    assert!(onefold(dir, &dry).ok().stderr.contains(TRAINED_ON));
    let ran = onefold(dir, &["merge", "r.yml", "-o", "json", "-q", "--json"]).ok();
    let kinds: Vec<Value> =
        ran.stdout.lines().map(|l| serde_json::from_str::<Value>(l).unwrap()["event"].take()).collect();
    assert_eq!(kinds, ["health", "done"]);
    let help = onefold(dir, &["merge", "--help"]).ok().stdout;
    assert!(help.contains("Say nothing but errors, and the result of a command that only looks"), "{help}");
}

/// An adapter fits every base of its architecture; only the name says that it is another one's.
#[test]
fn an_adapter_of_another_base_is_said() {
    let dir = with_adapter();
    let dir = dir.path();
    let ran = merge(dir, ADAPTER, "out", &[]).ok();
    assert!(
        ran.stderr.contains(TRAINED_ON) && ran.stderr.contains("model base_llama+plain"),
        "{}",
        ran.stderr
    );
    let said = |value: &Value| value.to_string().contains(TRAINED_ON);
    assert!(said(&json_file(&dir.join("out/onefold.json"))["warnings"]));
    assert!(fs::read_to_string(dir.join("out/report.html")).unwrap().contains(TRAINED_ON));
    assert!(said(&onefold(dir, &["inspect", "base_llama+plain", "--json"]).ok().json()["warnings"]));
    assert!(said(
        &onefold(dir, &["inspect", "--base", "base_llama", "base_llama+plain", "--json"]).ok().json()["warnings"]
    ));
    // The base says in its config whose copy it is; or the folder has the name.
    fs::write(dir.join("base_llama/config.json"), r#"{"_name_or_path": "org/Tiny-Llama"}"#).unwrap();
    assert!(!merge(dir, ADAPTER, "known", &[]).ok().stderr.contains(TRAINED_ON));
    fs::remove_file(dir.join("base_llama/config.json")).unwrap();
    fs::rename(dir.join("base_llama"), dir.join("Tiny-Llama")).unwrap();
    let recipe = ADAPTER.replace("base_llama", "./Tiny-Llama/");
    assert!(!merge(dir, &recipe, "named", &[]).ok().stderr.contains(TRAINED_ON));
}

#[test]
fn results_that_are_not_written_are_a_failure() {
    let dir = llamas();
    let full = || fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    for args in [&["inspect", "base"][..], &["methods"], &["methods", "--json"]] {
        let ran = Ran::from(command(dir.path(), args).stdout(full()).output().unwrap());
        ran.fails(1, &["standard output: cannot write", "No space left"]);
    }
    // Whoever closes the pipe has seen enough.
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let ran = Ran::from(command(dir.path(), &["methods"]).stdout(writer).output().unwrap());
    assert_eq!((ran.code, ran.stderr.as_str()), (Some(0), ""));
}

#[test]
fn paths_of_models_are_text() {
    let dir = llamas();
    let name = OsStr::from_bytes(b"caf\xe9");
    copy_dir(&dir.path().join("base"), &dir.path().join(name));
    for more in [&[][..], &["--base", "base"]] {
        let ran = Ran::from(command(dir.path(), &["inspect"]).arg(name).args(more).output().unwrap());
        ran.fails(2, &["must be UTF-8", r"`caf\xe9`", "rename it"]);
    }
    let ran = Ran::from(command(dir.path(), &["inspect", "base", "--base"]).arg(name).output().unwrap());
    ran.fails(2, &["must be UTF-8"]);
    // Below such a folder models have relative names, which are text.
    let within = dir.path().join(name);
    copy_dir(&dir.path().join("expert1"), &within.join("expert1"));
    copy_dir(&dir.path().join("base"), &within.join("base"));
    let art = "merge_method: emr\nbase_model: base\nmodels: [{model: expert1}]\n";
    merge(&within, art, "art", &[]).ok();
    assert_eq!(json_file(&within.join("art/emr.json"))["base"]["path"], "base");
}

#[test]
fn an_unreadable_token_matters_to_requests_only() {
    let dir = llamas();
    let dir = dir.path();
    fs::write(dir.join("r.yml"), TASK).unwrap();
    // A folder stands in for a file without the right to read it, which root has.
    fs::create_dir_all(dir.join("hf-home/token")).unwrap();
    onefold(dir, &["merge", "r.yml", "-o", "out"]).ok();
    let online = |args: &[&str]| -> Ran {
        let mut command = command(dir, args);
        command.env("HF_HUB_OFFLINE", "0").env("HF_ENDPOINT", "http://127.0.0.1:9").output().unwrap().into()
    };
    online(&["merge", "r.yml", "-o", "online"]).ok();
    online(&["inspect", "org/name"]).fails(2, &["hf-home/token", "cannot read the token file"]);
}
