//! Interrupted runs: killed at any instant, between parts or within a task's tuning. The same command then ends with the bytes of
//! an undisturbed run.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::{DECODER, ENCODER, alternate};
use crate::support::{Ran, command, onefold};
use crate::tune::{decoder, encoder, files, result};

const ALTERNATE: [&str; 6] = ["alternate", "r.yaml", "-o", "out", "--threads", "2"];

/// Long enough to be killed within, with all that has a state.
fn long(recipe: &str) -> String {
    let recipe = recipe
        .replace("budget: {epochs: 2}\n", "")
        .replace("rounds: 3", "rounds: 4")
        .replace("rounds: 2", "rounds: 4");
    format!(
        "{recipe}budget: {{steps: 90}}\ncheckpoints: {{every: {{steps: 7}}}}\noptimizer_state: carried\nmerge: {{momentum: 0.1}}\n"
    )
}

fn start(dir: &Path) -> Child {
    command(dir, &ALTERNATE).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

/// What is durable in the run under way: finished parts, and the last checkpoint of the one that is not.
fn durable(dir: &Path) -> Vec<String> {
    let run = dir.join("out.run");
    let all = if run.is_dir() { files_if_there(&run) } else { Vec::new() };
    let counts = |name: &String| {
        name.ends_with("task.json") || name.ends_with("round.json") || name.ends_with("/state.json")
    };
    all.into_iter().filter(counts).collect()
}

/// Files that come and go meanwhile are passed over.
fn files_if_there(dir: &Path) -> Vec<String> {
    let (mut found, mut folders) = (Vec::new(), vec![dir.to_owned()]);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            match entry.path() {
                path if path.is_dir() => folders.push(path),
                path => found.push(path.display().to_string()),
            }
        }
    }
    found.sort();
    found
}

/// Kills runs of the recipe that is there, each when something new is durable and a little later; how often.
fn killed(dir: &Path, most: u32) -> u32 {
    let mut kills = 0;
    while kills < most {
        let before = durable(dir);
        let (mut child, begin) = (start(dir), Instant::now());
        while durable(dir) == before {
            if child.try_wait().unwrap().is_some() {
                return kills;
            }
            assert!(begin.elapsed() < Duration::from_secs(60));
            std::thread::sleep(Duration::from_millis(1));
        }
        std::thread::sleep(Duration::from_millis(u64::from(kills % 5) * 7));
        child.kill().unwrap();
        child.wait().unwrap();
        kills += 1;
        assert!(
            !dir.join("out").exists() || !dir.join("out.run").exists() || durable(dir).is_empty(),
            "half-made"
        );
    }
    kills
}

fn assert_same(dir: &Path, expected: &[(String, Vec<u8>)]) {
    let found = result(&dir.join("out"));
    let names = |all: &[(String, Vec<u8>)]| all.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>();
    assert_eq!(names(&found), names(expected));
    for ((name, found), (_, expected)) in found.iter().zip(expected) {
        assert!(found == expected, "{name} differs");
    }
    assert!(!dir.join("out.run").exists());
}

fn goes_on(dir: &Path, recipe: &str, least: u32) {
    alternate(dir, recipe, "out", &["--threads", "2"]).ok();
    let expected = result(&dir.join("out"));
    fs::remove_dir_all(dir.join("out")).unwrap();
    let kills = killed(dir, 12);
    assert!(kills >= least, "{kills}");
    onefold(dir, &ALTERNATE).ok();
    assert_same(dir, &expected);
}

#[test]
fn a_killed_run_goes_on_as_if_nothing_had_been() {
    let dir = decoder();
    goes_on(dir.path(), &long(DECODER), 3);
}

#[test]
fn heads_that_are_trained_go_on_too() {
    let dir = encoder();
    goes_on(dir.path(), &format!("{}heads: {{train: true}}\n", long(ENCODER)), 3);
}

#[test]
fn ctrl_c_saves_and_says_how_to_go_on() {
    let dir = decoder();
    let dir = dir.path();
    alternate(dir, &long(DECODER), "out", &["--threads", "2"]).ok();
    let expected = result(&dir.join("out"));
    for round in 0..20 {
        fs::remove_dir_all(dir.join("out")).unwrap();
        let mut child = start(dir);
        let begin = Instant::now();
        while durable(dir).is_empty() && child.try_wait().unwrap().is_none() {
            assert!(begin.elapsed() < Duration::from_secs(60));
            std::thread::sleep(Duration::from_millis(1));
        }
        let name = ["-INT", "-TERM"][round % 2];
        assert!(Command::new("kill").args([name, &child.id().to_string()]).status().unwrap().success());
        let ran = Ran::from(child.wait_with_output().unwrap());
        if ran.code == Some(0) {
            continue;
        }
        ran.fails(1, &["the same command goes on from there"]);
        assert!(!dir.join("out").exists() && files(&dir.join("out.run")).len() > 1);
        onefold(dir, &ALTERNATE).ok();
        assert_same(dir, &expected);
        return;
    }
    panic!("no run was cancelled");
}
