//! Layouts, resumption, protection of what exists, and two runs at once.

use std::fs::OpenOptions;

use super::*;
use crate::{Checkpoint, Dtype};

fn layout(max_shard: u64) -> Layout {
    let tensor = |name: &str, n| OutputTensor { name: name.into(), dtype: Dtype::U8, shape: vec![n] };
    Layout::new(vec![tensor("a", 4), tensor("b", 3), tensor("c", 8)], max_shard)
}

fn fill(output: &Output, tensor: usize) {
    let n = output.layout().tensors()[tensor].shape[0];
    output.write(tensor, 0, &vec![tensor as u8 + 1; n]).unwrap();
    output.finish(tensor, "note").unwrap();
}

fn create(dir: &Path, job: &str) -> Result<Opened, CheckpointError> {
    Output::create(dir, layout(7), job, &[], false)
}

#[test]
fn shards_are_split_by_size_and_listed_in_the_index() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    let output = create(&out, "job").unwrap().output;
    assert_eq!(
        output.layout().shard_names().collect::<Vec<_>>(),
        ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    );
    for t in [2, 0, 1] {
        fill(&output, t);
    }
    output.commit(Some(b"{}")).unwrap();
    let read = Checkpoint::open(&out).unwrap();
    assert_eq!(read.tensors()["c"].stored().unwrap().bytes, [3; 8]);
    let index: serde_json::Value =
        serde_json::from_slice(&fs::read(out.join("model.safetensors.index.json")).unwrap()).unwrap();
    assert_eq!(index["metadata"], serde_json::json!({"total_parameters": 15, "total_size": 15}));
    assert!(!out.join(JOURNAL).exists() && !dir.path().join("out.partial").exists());
}

#[test]
fn one_shard_has_no_index() {
    assert!(layout(100).index().is_none());
    assert_eq!(layout(100).shard_names().collect::<Vec<_>>(), ["model.safetensors"]);
}

#[test]
fn nothing_loads_before_commit_and_the_same_job_resumes() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    let output = create(&out, "job").unwrap().output;
    fill(&output, 1);
    let partial = output.suspend().unwrap();
    assert!(Checkpoint::open(&partial.join("model-00001-of-00002.safetensors")).is_err());
    assert!(!out.exists());
    let again = create(&out, "job").unwrap();
    assert_eq!(again.finished, [None, Some("note".to_owned()), None]);
    fill(&again.output, 0);
    fill(&again.output, 2);
    again.output.commit(None).unwrap();
    assert_eq!(Checkpoint::open(&out).unwrap().tensors()["b"].stored().unwrap().bytes, [2; 3]);
}

#[test]
fn another_job_starts_afresh_and_a_cut_line_does_not_count() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    let output = create(&out, "job").unwrap().output;
    fill(&output, 1);
    let partial = output.suspend().unwrap();
    let mut journal = OpenOptions::new().append(true).open(partial.join(JOURNAL)).unwrap();
    journal.write_all(b"2 cu").unwrap();
    let resumed = create(&out, "job").unwrap();
    assert_eq!(resumed.finished.iter().map(Option::is_some).collect::<Vec<_>>(), [false, true, false]);
    drop(resumed);
    assert_eq!(create(&out, "other").unwrap().finished, [None, None, None]);
}

#[test]
fn two_runs_cannot_share_an_output() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    let _first = create(&out, "job").unwrap();
    assert!(matches!(create(&out, "job"), Err(CheckpointError::OutputBusy { .. })));
}

#[test]
fn existing_outputs_and_inputs_are_protected() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    fs::create_dir(&out).unwrap();
    assert!(matches!(create(&out, "job"), Err(CheckpointError::OutputExists { .. })));
    let input = out.join("model");
    let error = Output::create(&out, layout(7), "job", &[input], true).unwrap_err();
    assert!(matches!(error, CheckpointError::OutputIsInput { .. }), "{error}");
    let opened = Output::create(&out, layout(7), "job", &[dir.path().join("out2")], true).unwrap();
    // What else has the names that are used in between is the user's.
    fs::create_dir_all(dir.path().join("out.replaced/mine")).unwrap();
    for t in 0..3 {
        fill(&opened.output, t);
    }
    opened.output.commit(None).unwrap();
    assert!(Checkpoint::open(&out.join("model-00001-of-00002.safetensors")).is_ok());
    assert!(dir.path().join("out.replaced/mine").exists());
    assert!(!dir.path().join("out.partial").exists() && !out.join(JOURNAL).exists());
}

#[test]
fn of_two_runs_at_once_exactly_one_makes_the_output() {
    for _ in 0..100 {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("out");
        let one = &|job: &str| -> Result<(), CheckpointError> {
            // Whoever finds it busy asks again, so that some ask at the instant at which the first run ends.
            let output = loop {
                match create(&out, job) {
                    Err(CheckpointError::OutputBusy { .. }) => {}
                    other => break other?.output,
                }
            };
            (0..3).for_each(|t| fill(&output, t));
            output.commit(None).map(drop)
        };
        let made = std::thread::scope(|scope| {
            let runs = ["a", "b", "c"].map(|job| scope.spawn(move || one(job).is_ok()));
            runs.map(|run| run.join().unwrap()).iter().filter(|ok| **ok).count()
        });
        assert_eq!(made, 1);
        assert_eq!(Checkpoint::open(&out).unwrap().tensors()["c"].stored().unwrap().bytes, [3; 8]);
    }
}

#[test]
fn force_deletes_models_only() {
    let dir = tempfile::tempdir().unwrap();
    let home = dir.path().join("home");
    fs::create_dir(&home).unwrap();
    fs::create_dir(home.join("letters")).unwrap();
    let force = || Output::create(&home, layout(7), "job", &[], true);
    assert!(matches!(force(), Err(CheckpointError::OutputIsNoModel { .. })));
    super::create(&home.join("config.json")).unwrap();
    assert!(force().is_err(), "much has a config.json");
    super::create(&home.join("model.safetensors")).unwrap();
    assert!(force().is_ok());
    assert!(home.join("letters").exists(), "nothing goes before the result is there");
}

#[test]
fn a_job_that_does_not_fit_is_refused_before_it_starts() {
    let dir = tempfile::tempdir().unwrap();
    let huge = OutputTensor { name: "w".into(), dtype: Dtype::U8, shape: vec![1 << 60] };
    let error =
        Output::create(&dir.path().join("o"), Layout::new(vec![huge], 1), "j", &[], false).unwrap_err();
    assert!(matches!(error, CheckpointError::NoSpace { .. }), "{error}");
}

/// What stands at the place of the unfinished output is cleared only if it is one of ours.
#[test]
fn a_foreign_partial_directory_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("x");
    let partial = dir.path().join("x.partial");
    fs::create_dir(&partial).unwrap();
    assert!(check_target(&out, &[], false).is_ok(), "an empty one is nobody's");
    super::create(&partial.join("thesis.txt")).unwrap();
    let error = check_target(&out, &[], false).unwrap_err();
    assert!(matches!(error, CheckpointError::PartialIsForeign { .. }), "{error}");
    fs::remove_dir_all(&partial).unwrap();
    let elsewhere = dir.path().join("elsewhere");
    fs::create_dir(&elsewhere).unwrap();
    std::os::unix::fs::symlink(&elsewhere, &partial).unwrap();
    assert!(check_target(&out, &[], true).is_err(), "a link leads to what is not ours");
}

#[test]
fn force_needs_more_than_a_config() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("x");
    fs::create_dir(&out).unwrap();
    super::create(&out.join("config.json")).unwrap();
    assert!(matches!(check_target(&out, &[], true), Err(CheckpointError::OutputIsNoModel { .. })));
    super::create(&out.join("model.safetensors")).unwrap();
    assert!(check_target(&out, &[], true).is_ok());
    fs::create_dir(out.join(".git")).unwrap();
    assert!(check_target(&out, &[], true).is_err(), "a repository has a history");
    let adapter = dir.path().join("adapter");
    fs::create_dir(&adapter).unwrap();
    super::create(&adapter.join("adapter_config.json")).unwrap();
    assert!(check_target(&adapter, &[], true).is_err());
    super::create(&adapter.join("adapter_model.safetensors")).unwrap();
    assert!(check_target(&adapter, &[], true).is_ok());
}
