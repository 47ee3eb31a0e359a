//! Interrupted merges: killed at any instant, cancelled, crowded out, or out of space. Nothing that loads is left unless
//! it is complete, and the same command then makes the undisturbed run's bytes.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::json;
use tempfile::TempDir;

use crate::support::{
    Array, Model, Ran, Random, command, copy_dir, listing, onefold, read_model, temp, testdata, write_model,
};

const RECIPE: &str = "merge_method: ties\nbase_model: base\nmodels:\n\
    - {model: a, parameters: {weight: 0.5, density: 0.4}}\n\
    - {model: b, parameters: {weight: 0.3, density: 0.4}}\n";
/// Several shards, so that a kill between two of them is possible.
const MERGE: [&str; 8] = ["merge", "r.yml", "-o", "out", "--max-shard-size", "1MB", "--threads", "2"];

/// A base and two experts of `layers` × 1 MB, beside the recipe `r.yml`.
fn fixture(layers: usize) -> TempDir {
    let dir = temp();
    let mut random = Random(11);
    let mut base = Model::new();
    for name in ["base", "a", "b"] {
        let mut model = Model::new();
        for layer in 0..layers {
            let tensor = format!("model.layers.{layer}.w");
            let mut values = random.values(500 * 512, 0.1);
            if let Some(base) = base.get(&tensor) {
                values.iter_mut().zip(base.values()).for_each(|(v, b)| *v = b + *v * 0.1);
            }
            model.insert(tensor, Array::f32(&[500, 512], &values));
        }
        write_model(&dir.path().join(name), &model, &json!({"num_hidden_layers": layers}));
        if name == "base" {
            base = model;
        }
    }
    fs::write(dir.path().join("r.yml"), RECIPE).unwrap();
    dir
}

fn start(dir: &Path, args: &[&str]) -> Child {
    command(dir, args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

/// Weight files with their bytes.
fn weights(dir: &Path) -> Vec<(String, Vec<u8>)> {
    let is_weights = |n: &String| n.ends_with(".safetensors");
    listing(dir).into_iter().filter(is_weights).map(|n| (n.clone(), fs::read(dir.join(n)).unwrap())).collect()
}

/// The undisturbed result, and how long it took.
fn undisturbed(dir: &Path) -> (Vec<(String, Vec<u8>)>, Duration) {
    let begin = Instant::now();
    onefold(dir, &MERGE).ok();
    let time = begin.elapsed();
    let expected = weights(&dir.join("out"));
    assert!(expected.len() >= 2, "several shards");
    fs::remove_dir_all(dir.join("out")).unwrap();
    (expected, time)
}

/// Whatever an interrupted run left either does not load or is complete.
fn check_remains(dir: &Path, expected: &[(String, Vec<u8>)], when: &str) {
    let (out, partial) = (dir.join("out"), dir.join("out.partial"));
    if out.exists() {
        assert!(weights(&out) == *expected, "{when}: the output is there but not complete");
        assert!(out.join("config.json").exists() && out.join("onefold.json").exists(), "{when}");
        read_model(&out);
    }
    if partial.exists() {
        for (name, bytes) in weights(&partial) {
            let complete = expected.iter().any(|(n, b)| *n == name && *b == bytes);
            let loads = safetensors::SafeTensors::deserialize(&bytes).is_ok();
            assert!(complete || !loads, "{when}: {name} loads and is not complete");
        }
    }
}

/// A fixture whose merge takes long enough on this machine to be killed within, with its result and its time.
fn killable() -> (TempDir, Vec<(String, Vec<u8>)>, Duration) {
    let mut layers = 6;
    loop {
        let dir = fixture(layers);
        // The fastest of two: the first run of a cold program takes longer than any other.
        let (expected, first) = undisturbed(dir.path());
        let time = first.min(undisturbed(dir.path()).1);
        if time >= Duration::from_millis(100) || layers >= 48 {
            return (dir, expected, time);
        }
        layers *= 2;
    }
}

#[test]
fn a_merge_killed_at_any_instant_leaves_nothing_half_made_and_resumes() {
    let (dir, expected, mut time) = killable();
    let dir = dir.path();
    let mut random = Random(2024);
    let (mut killed, mut partials, mut round) = (0, 0, 0);
    // At least fifty rounds, and more where the machine's pace lets too many kills come too early or too late.
    while round < 50 || killed < 25 || partials < 10 {
        assert!(round < 400, "{killed} runs were killed, {partials} within their work");
        // Sometimes the half-made output of one kill meets the next.
        let wait = time.mul_f64((random.next() >> 11) as f64 / (1u64 << 53) as f64 * 1.1);
        let when = format!("round {round}, killed after {wait:?}");
        let mut child = start(dir, &MERGE);
        std::thread::sleep(wait);
        child.kill().unwrap();
        if child.wait().unwrap().code().is_none() {
            killed += 1;
        } else {
            // On a busy machine the first runs may have taken longer than any other.
            time = time.min(wait);
        }
        partials += u32::from(dir.join("out.partial").exists());
        check_remains(dir, &expected, &when);
        if round % 2 == 1 {
            assert_resumes(dir, &expected, &when);
        }
        if dir.join("out").exists() {
            fs::remove_dir_all(dir.join("out")).unwrap();
        }
        round += 1;
    }
    assert_resumes(dir, &expected, "at the end");
    assert_eq!(listing(dir).iter().filter(|n| n.starts_with("out")).count(), 0);
}

/// The same command makes the undisturbed bytes of whatever is left; then the output goes.
fn assert_resumes(dir: &Path, expected: &[(String, Vec<u8>)], when: &str) {
    onefold(dir, &MERGE).ok();
    assert!(weights(&dir.join("out")) == *expected, "{when}: the resumed run's bytes differ");
    assert!(!dir.join("out.partial").exists(), "{when}");
    fs::remove_dir_all(dir.join("out")).unwrap();
}

/// Sends a signal by the system's own tool: std knows only kill.
fn signal(child: &Child, name: &str) {
    assert!(Command::new("kill").args([name, &child.id().to_string()]).status().unwrap().success());
}

/// Waits until the run works on its output.
fn wait_for_work(child: &mut Child, partial: &Path) {
    let begin = Instant::now();
    while !partial.join(".onefold-journal").exists() {
        assert!(child.try_wait().unwrap().is_none(), "the run ended before it could be disturbed");
        assert!(begin.elapsed() < Duration::from_secs(20));
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn ctrl_c_ends_in_good_order_and_says_how_to_go_on() {
    let dir = fixture(12);
    let dir = dir.path();
    let (expected, _) = undisturbed(dir);
    // On a busy machine the signal may come after the work: then once more.
    for round in 0..20 {
        let mut child = start(dir, &MERGE);
        wait_for_work(&mut child, &dir.join("out.partial"));
        signal(&child, ["-INT", "-TERM"][round % 2]);
        let ran = Ran::from(child.wait_with_output().unwrap());
        if ran.code == Some(0) {
            fs::remove_dir_all(dir.join("out")).unwrap();
            continue;
        }
        ran.fails(1, &["cancelled", "out.partial", "the same command resumes"]);
        assert!(!dir.join("out").exists());
        check_remains(dir, &expected, "cancelled");
        let journal = fs::read_to_string(dir.join("out.partial/.onefold-journal")).unwrap();
        let resumed = onefold(dir, &MERGE).ok();
        let done = format!("resuming: {} of 12 tensors are done", journal.lines().count() - 1);
        assert!(resumed.stderr.contains(&done) || journal.lines().count() == 1, "{}", resumed.stderr);
        assert!(weights(&dir.join("out")) == expected);
        return;
    }
    panic!("no run was cancelled");
}

#[test]
fn a_second_run_into_the_same_output_is_refused() {
    let dir = fixture(2);
    let dir = dir.path();
    let (expected, _) = undisturbed(dir);
    // The lock of a run that writes, held by this test: no race.
    fs::create_dir(dir.join("out.partial")).unwrap();
    let journal = fs::File::create(dir.join("out.partial/.onefold-journal")).unwrap();
    journal.lock().unwrap();
    onefold(dir, &MERGE).fails(2, &["out.partial", "another onefold run is writing here"]);
    assert!(!dir.join("out").exists());
    drop(journal);
    // Two real runs at once: one makes the output, the other is refused or finds it made.
    for round in 0..5 {
        let (first, second) = (start(dir, &MERGE), start(dir, &MERGE));
        let runs = [first, second].map(|run| Ran::from(run.wait_with_output().unwrap()));
        assert!(runs.iter().any(|r| r.code == Some(0)), "round {round}: {runs:?}");
        for run in runs.iter().filter(|r| r.code != Some(0)) {
            run.fails(2, &["out"]);
        }
        assert!(weights(&dir.join("out")) == expected, "round {round}");
        // A run that came between may leave an empty directory, never weights.
        assert!(
            read_dir_of(&dir.join("out.partial")).iter().all(|n| !n.ends_with(".safetensors")),
            "round {round}: {runs:?}"
        );
        fs::remove_dir_all(dir.join("out")).unwrap();
    }
}

#[test]
fn a_finished_job_is_not_done_again_and_another_one_does_not_replace_it() {
    let dir = fixture(2);
    let dir = dir.path();
    let (expected, _) = undisturbed(dir);
    onefold(dir, &MERGE).ok();
    let written = |path: PathBuf| path.metadata().unwrap().modified().unwrap();
    let before = written(dir.join("out/onefold.json"));
    assert!(onefold(dir, &MERGE).ok().stderr.contains("made from the same recipe"));
    let done = onefold(dir, &[&MERGE[..], &["--json"]].concat()).ok().json();
    assert_eq!(done, json!({"event": "done", "data": "out"}));
    let other = [&MERGE[..], &["--set", "parameters.lambda=0.5"]].concat();
    onefold(dir, &other).fails(2, &["out", "exists already", "--force"]);
    assert!(weights(&dir.join("out")) == expected && written(dir.join("out/onefold.json")) == before);
    onefold(dir, &[&other[..], &["--force"]].concat()).ok();
    assert!(weights(&dir.join("out")) != expected, "--force replaces it");
    // An output that lost a shard is not finished.
    let (shard, _) = weights(&dir.join("out")).remove(0);
    fs::remove_file(dir.join("out").join(shard)).unwrap();
    onefold(dir, &other).fails(2, &["out: exists already"]);
    assert_eq!(listing(dir).iter().filter(|n| n.starts_with("out")).count(), 1);
}

/// A finished or half-made output belongs to its inputs' settings as well as to their weights.
#[test]
fn changed_settings_of_an_input_are_another_job() {
    let dir = temp();
    let dir = dir.path();
    for name in ["base_llama", "plain"] {
        copy_dir(&testdata("adapter").join(name), &dir.join(name));
    }
    fs::write(dir.join("base_llama/config.json"), "{}").unwrap();
    fs::write(dir.join("r.yml"), "merge_method: passthrough\nmodels: [{model: base_llama+plain}]\n").unwrap();
    let args = ["merge", "r.yml", "-o", "out"];
    onefold(dir, &args).ok();
    onefold(dir, &args).ok();
    let before = weights(&dir.join("out"));
    let edit = |file: &str, from: &str, to: &str| {
        let text = fs::read_to_string(dir.join(file)).unwrap();
        assert!(text.contains(from));
        fs::write(dir.join(file), text.replace(from, to)).unwrap();
    };
    edit("plain/adapter_config.json", "\"lora_alpha\": 7", "\"lora_alpha\": 9");
    onefold(dir, &args).fails(2, &["out: exists already"]);
    onefold(dir, &[&args[..], &["--force"]].concat()).ok();
    assert!(weights(&dir.join("out")) != before, "the adapter counts more");
    edit("base_llama/config.json", "{}", "{\"vocab_size\": 24}");
    onefold(dir, &args).fails(2, &["out: exists already"]);
}

/// Work of another recipe in the partial directory is not taken for this one's.
#[test]
fn the_rest_of_another_job_is_discarded() {
    let dir = fixture(12);
    let dir = dir.path();
    let (expected, _) = undisturbed(dir);
    let other = [&MERGE[..], &["--set", "parameters.lambda=0.5"]].concat();
    // As above: until the signal comes in time.
    for _ in 0..20 {
        let mut child = start(dir, &other);
        wait_for_work(&mut child, &dir.join("out.partial"));
        signal(&child, "-INT");
        if child.wait_with_output().unwrap().status.success() {
            fs::remove_dir_all(dir.join("out")).unwrap();
        } else {
            break;
        }
    }
    assert!(dir.join("out.partial").exists());
    let ran = onefold(dir, &MERGE).ok();
    assert!(!ran.stderr.contains("resuming"), "{}", ran.stderr);
    assert!(weights(&dir.join("out")) == expected);
}

/// The merge with a limit of the size of files, in blocks of 1024 bytes.
fn limited(dir: &Path, limit: &str) -> Ran {
    let line = format!("ulimit -f {limit}; exec \"$0\" \"$@\"");
    let mut limited = Command::new("bash");
    limited.arg("-c").arg(line).arg(env!("CARGO_BIN_EXE_onefold")).args(MERGE).current_dir(dir);
    limited.env("HF_HUB_OFFLINE", "1").output().unwrap().into()
}

/// A limit of the size of files stands in for a full disk, which needs root to make. Its signal would end the process
/// without a word.
#[test]
fn files_that_cannot_grow_are_a_clear_error() {
    let dir = fixture(2);
    let dir = dir.path();
    let (expected, _) = undisturbed(dir);
    // No shard fits; only the report and the like do.
    let ran = limited(dir, "500");
    ran.fails(1, &["out.partial", "safetensors", "File too large"]);
    assert!(!dir.join("out").exists());
    check_remains(dir, &expected, "file too large");
    onefold(dir, &MERGE).ok();
    assert!(weights(&dir.join("out")) == expected, "with space the same command works");
}

/// Space for weights is reserved at the beginning; what stands beside them may still find none. The weights are not lost.
#[test]
fn weights_survive_a_file_beside_them_that_cannot_be_written() {
    let dir = fixture(3);
    let dir = dir.path();
    fs::write(dir.join("base/notes.txt"), vec![b'x'; 4 << 20]).unwrap();
    let (expected, _) = undisturbed(dir);
    let ran = limited(dir, "2000");
    ran.fails(1, &["out.partial/notes.txt", "File too large", "the same command resumes"]);
    check_remains(dir, &expected, "file too large");
    let resumed = onefold(dir, &MERGE).ok();
    assert!(resumed.stderr.contains("resuming: 3 of 3 tensors are done"), "{}", resumed.stderr);
    assert!(weights(&dir.join("out")) == expected);
}

/// A real full disk, where the test may mount one.
#[test]
fn a_full_disk_is_known_before_any_work() {
    let dir = fixture(4);
    let dir = dir.path();
    let small = dir.join("small");
    fs::create_dir(&small).unwrap();
    let mount = Command::new("mount").args(["-t", "tmpfs", "-o", "size=1m", "tmpfs"]).arg(&small).output();
    if !mount.is_ok_and(|m| m.status.success()) {
        return; // No right to mount: the test above limits the size of files instead.
    }
    let ran = onefold(dir, &["merge", "r.yml", "-o", "small/out"]);
    let left = read_dir_of(&small.join("out.partial"));
    let unmounted = Command::new("umount").arg(&small).status().unwrap();
    assert!(unmounted.success());
    ran.fails(1, &["small/out.partial", "not enough space", "bytes needed"]);
    assert!(left.iter().all(|n| !n.ends_with(".safetensors")), "{left:?}");
}

fn read_dir_of(dir: &Path) -> Vec<String> {
    if dir.exists() { listing(dir) } else { Vec::new() }
}
