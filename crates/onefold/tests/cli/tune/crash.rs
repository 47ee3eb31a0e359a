//! Interrupted trainings: killed at any instant or cancelled. The same command then ends with the bytes of an undisturbed run.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::{DECODER, decoder, encoder, result, tune};
use crate::support::{Ran, command, onefold};

/// Long enough to be killed within, with something in it of all that has a state.
const MORE: &str = "balancer: {kind: coba, warmup: 5, window: 10}\nadapter: {r: 4, dropout: 0.1}\n\
    optimizer: {lr: 1e-3}\ncheckpoints: {every: {steps: 7}, keep: 2}\nvalidation: {every: {steps: 10}}\nsteps: 240\n";
const TUNE: [&str; 6] = ["tune", "r.yaml", "-o", "out", "--threads", "2"];

fn long() -> String {
    format!("{}{MORE}", DECODER.replace("epochs: 2\n", ""))
}

fn start(dir: &Path) -> Child {
    command(dir, &TUNE).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

/// The undisturbed result of a recipe.
fn undisturbed(dir: &TempDir, recipe: &str) -> Vec<(String, Vec<u8>)> {
    tune(dir.path(), recipe, "out", &["--threads", "2"]).ok();
    let expected = result(&dir.path().join("out"));
    fs::remove_dir_all(dir.path().join("out")).unwrap();
    expected
}

#[track_caller]
fn assert_same(dir: &Path, expected: &[(String, Vec<u8>)]) {
    let found = result(&dir.join("out"));
    let names = |all: &[(String, Vec<u8>)]| all.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>();
    assert_eq!(names(&found), names(expected));
    for ((name, found), (_, expected)) in found.iter().zip(expected) {
        assert!(found == expected, "{name} differs");
    }
    assert!(!dir.join("out.run").exists());
}

/// The latest checkpoint of the run under way.
fn latest(dir: &Path) -> Option<u64> {
    let names = fs::read_dir(dir.join("out.run")).ok()?.flatten().map(|entry| entry.file_name());
    names.filter_map(|name| name.to_str()?.strip_prefix("checkpoint-")?.parse().ok()).max()
}

/// Waits until there is a checkpoint beyond `than`; false if the run ended before.
fn wait_for_checkpoint(child: &mut Child, dir: &Path, than: Option<u64>) -> bool {
    let begin = Instant::now();
    while latest(dir) <= than {
        if child.try_wait().unwrap().is_some() {
            return false;
        }
        assert!(begin.elapsed() < Duration::from_secs(60));
        std::thread::sleep(Duration::from_millis(1));
    }
    true
}

#[test]
fn a_killed_training_goes_on_as_if_nothing_had_been() {
    let dir = decoder();
    let expected = undisturbed(&dir, &long());
    let dir = dir.path();
    let (mut kills, mut step) = (0, None);
    for round in 0..8u64 {
        let mut child = start(dir);
        if !wait_for_checkpoint(&mut child, dir, step) {
            break;
        }
        std::thread::sleep(Duration::from_millis(round * 3));
        child.kill().unwrap();
        child.wait().unwrap();
        kills += 1;
        assert!(!dir.join("out").exists() || latest(dir).is_none(), "half-made");
        step = latest(dir);
    }
    assert!(kills >= 3, "{kills}");
    let ran = onefold(dir, &TUNE).ok();
    assert!(
        ran.stderr.contains("going on after step") || ran.stderr.contains("is there already"),
        "{}",
        ran.stderr
    );
    assert_same(dir, &expected);
}

#[test]
fn heads_of_tasks_go_on_too() {
    let dir = encoder();
    let recipe = super::ENCODER
        .replace("epochs: 2\n", "steps: 200\ncheckpoints: {every: {steps: 10}}\nbalancer: famo\n");
    let expected = undisturbed(&dir, &recipe);
    let dir = dir.path();
    let mut child = start(dir);
    assert!(wait_for_checkpoint(&mut child, dir, None));
    child.kill().unwrap();
    child.wait().unwrap();
    let ran = onefold(dir, &TUNE).ok();
    assert!(ran.stderr.contains("going on after step"), "{}", ran.stderr);
    assert_same(dir, &expected);
}

#[test]
fn ctrl_c_saves_and_says_how_to_go_on() {
    let dir = decoder();
    let expected = undisturbed(&dir, &long());
    let dir = dir.path();
    // On a busy machine the signal may come after the work: then once more.
    for round in 0..20 {
        let mut child = start(dir);
        wait_for_checkpoint(&mut child, dir, None);
        let name = ["-INT", "-TERM"][round % 2];
        assert!(Command::new("kill").args([name, &child.id().to_string()]).status().unwrap().success());
        let ran = Ran::from(child.wait_with_output().unwrap());
        if ran.code == Some(0) {
            fs::remove_dir_all(dir.join("out")).unwrap();
            continue;
        }
        ran.fails(1, &["stopped after step", "the same command goes on from there"]);
        assert!(!dir.join("out").exists());
        let step: u64 = ran
            .stderr
            .split("stopped after step ")
            .nth(1)
            .unwrap()
            .split(';')
            .next()
            .unwrap()
            .parse()
            .unwrap();
        assert_eq!(latest(dir), Some(step), "the last step is saved");
        let ran = onefold(dir, &TUNE).ok();
        assert!(ran.stderr.contains(&format!("going on after step {step}")), "{}", ran.stderr);
        assert_same(dir, &expected);
        return;
    }
    panic!("no run was cancelled");
}

#[test]
fn an_interrupted_run_of_another_job_is_not_taken_up() {
    let dir = decoder();
    fs::write(dir.path().join("r.yaml"), long()).unwrap();
    let mut child = start(dir.path());
    assert!(wait_for_checkpoint(&mut child, dir.path(), None));
    // While it runs nobody else may.
    let busy = onefold(dir.path(), &TUNE);
    child.kill().unwrap();
    child.wait().unwrap();
    busy.fails(2, &["out.run", "another onefold run"]);
    let other = long().replace("steps: 240", "steps: 20");
    tune(dir.path(), &other, "out", &[]).fails(2, &["out.run", "--force"]);
    tune(dir.path(), &other, "out", &["--force"]).ok();
    assert!(dir.path().join("out/adapter_model.safetensors").is_file());
}

#[test]
fn a_damaged_state_is_an_error_and_not_a_wrong_result() {
    let dir = decoder();
    fs::write(dir.path().join("r.yaml"), long()).unwrap();
    let mut child = start(dir.path());
    assert!(wait_for_checkpoint(&mut child, dir.path(), None));
    child.kill().unwrap();
    child.wait().unwrap();
    let step = latest(dir.path()).unwrap();
    let state = dir.path().join(format!("out.run/checkpoint-{step}/onefold/state.json"));
    let text = fs::read_to_string(&state).unwrap();
    for damaged in ["", "{}", &text.replacen("\"format\": 1", "\"format\": 9", 1), &text[..text.len() / 2]] {
        fs::write(&state, damaged).unwrap();
        onefold(dir.path(), &TUNE).fails(1, &["state.json", "OUT.run"]);
    }
    fs::write(&state, &text).unwrap();
    let tensors = state.with_extension("safetensors");
    let bytes = fs::read(&tensors).unwrap();
    fs::write(&tensors, &bytes[..bytes.len() / 2]).unwrap();
    onefold(dir.path(), &TUNE).fails(1, &["state.safetensors"]);
    fs::write(&tensors, bytes).unwrap();
    onefold(dir.path(), &TUNE).ok();
}
