//! A training that was stopped goes on as if it had not been.

use std::collections::BTreeMap;

use super::balancers::settings_of;
use super::*;

/// All files below a directory, with what does not differ from run to run.
fn files(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut open = vec![dir.to_owned()];
    while let Some(next) = open.pop() {
        for entry in std::fs::read_dir(&next).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                open.push(path);
                continue;
            }
            let name = path.strip_prefix(dir).unwrap().display().to_string();
            // Times of day and speeds, and lengths of lines with speeds.
            if name.ends_with("jsonl") || name.contains("tfevents") {
                continue;
            }
            let mut bytes = std::fs::read(&path).unwrap();
            if name == "trainer_state.json" {
                let state: Value = serde_json::from_slice(&bytes).unwrap();
                assert!(state["log_history"].as_array().is_some_and(|lines| !lines.is_empty()));
                bytes = state.to_string().into_bytes();
            }
            if name.ends_with("onefold/state.json") {
                let mut state: Value = serde_json::from_slice(&bytes).unwrap();
                state["log"].as_object_mut().unwrap().retain(|key, _| key == "interval");
                bytes = state.to_string().into_bytes();
            }
            found.insert(name, bytes);
        }
    }
    found
}

/// Stopped twice and gone on, against undisturbed.
fn resumes(mut world: World, steps: u64) {
    let kind = world.settings.balancer["kind"].as_str().unwrap().to_owned();
    world.settings.duration = Duration::Steps(steps);
    world.settings.checkpoints.every = Every::Steps(5);
    world.tune(&world.out("straight"), &Silent).unwrap();
    let out = world.out("broken");
    for stop in [7, 2] {
        let observer = StopAfter(AtomicU64::new(stop));
        let error = world.tune(&out, &observer).unwrap_err();
        assert!(matches!(error, TuneError::Cancelled { .. }), "{kind}: {error}");
    }
    let tuned = world.tune(&out, &Silent).unwrap();
    assert_eq!(tuned.steps, steps);
    let (straight, broken) = (world.out("straight.run"), world.out("broken.run"));
    assert_eq!(metrics(&straight), metrics(&broken), "{kind}");
    for step in RunDir::open(&out, "test", &[], false).unwrap().checkpoints() {
        let of = |run: &Path| files(&run.join(format!("checkpoint-{step}")));
        if step % 5 == 0 || step == steps {
            let (a, b) = (of(&straight), of(&broken));
            assert!(a.len() >= 3 && a.keys().eq(b.keys()), "{kind}");
            a.iter().for_each(|(name, bytes)| assert!(b[name] == *bytes, "{kind}: {name}"));
        }
    }
}

/// Cancels the given number of validation passes after a step was made.
struct InValidation(AtomicU64, AtomicU64);

impl Observer for InValidation {
    fn event(&self, event: &Event<'_>) -> Control {
        if matches!(event, Event::Step { .. }) {
            self.1.fetch_add(1, Ordering::Relaxed);
        }
        let made = self.1.load(Ordering::Relaxed) >= 2;
        let stops =
            made && matches!(event, Event::Progress { .. }) && self.0.fetch_sub(1, Ordering::Relaxed) == 1;
        if stops { Control::Cancel } else { Control::Continue }
    }
}

/// A step that was made is not lost because its validation is interrupted; the validation is made when the run goes on.
#[test]
fn interrupted_in_a_validation() {
    let mut world = World::writing();
    world.settings.validation.every = Every::Steps(3);
    world.settings.checkpoints.every = Every::Never;
    let straight = world.tune(&world.out("straight"), &Silent).unwrap();
    let out = world.out("broken");
    for at in [1, 2] {
        let observer = InValidation(AtomicU64::new(at), AtomicU64::new(if at == 1 { 0 } else { 2 }));
        let error = world.tune(&out, &observer).unwrap_err();
        assert!(matches!(error, TuneError::Cancelled { step: 3 }), "{error}");
    }
    let broken = world.tune(&out, &Silent).unwrap();
    assert_eq!(numbers(&broken.parameters), numbers(&straight.parameters));
    assert_eq!(metrics(&world.out("broken.run")), metrics(&world.out("straight.run")));
}

#[test]
fn with_every_kind_of_memory() {
    for kind in [
        "uniform",
        "coba",
        "famo",
        "gradnorm",
        "db_mtl",
        "excess_mtl",
        "meta_weighting",
        "graddrop",
        "uncertainty",
    ] {
        let mut world = World::writing();
        world.settings.balancer = settings_of(kind);
        resumes(world, 12);
    }
}

#[test]
fn with_heads_adapters_and_dropout() {
    let mut world = World::classifying();
    world.settings.balancer = settings_of("coba");
    resumes(world, 12);
    let mut world = World::writing();
    let adapter = AdapterSettings { rank_stabilised: true, decomposed: true, dropout: 0.2, ..LORA };
    world.trainable.adapter = Some((adapter, Targets::AllLinear));
    world.mixture.packing = Some((crate::data::pack::Packing::BestFit, 16));
    resumes(world, 12);
}

/// The best step's numbers are the result, and its checkpoint outlives others.
#[test]
fn the_best_is_kept_and_patience_ends() {
    let mut world = World::writing();
    world.settings.duration = Duration::Steps(60);
    world.settings.optimizer = Rule::AdamW(AdamW { learning_rate: 0.05, ..AdamW::default() });
    world.settings.validation.every = Every::Steps(2);
    world.settings.checkpoints = CheckpointSettings { every: Every::Steps(4), keep: 1 };
    world.settings.progress.keep_best = true;
    world.settings.progress.patience = Some(4);
    let out = world.out("out");
    let tuned = world.tune(&out, &Silent).unwrap();
    assert!(
        tuned.ended.as_ref().is_some_and(|why| why.contains("no progress in 4 validations")),
        "{:?}",
        tuned.ended
    );
    let (best, value) = tuned.best.unwrap();
    assert!(tuned.kept == best && tuned.steps == best + 8 && tuned.steps < 60);
    let run = RunDir::open(&out, "test", &[], false).unwrap();
    assert_eq!(run.checkpoints(), [best, tuned.steps]);
    let lines = metrics(run.path());
    let found = lines
        .iter()
        .filter(|line| line["kind"] == "validation")
        .filter_map(|line| line["aggregate"].as_f64());
    assert_eq!(found.reduce(f64::min), Some(value));
    drop(run);
    // What has ended is not gone on with.
    let again = world.tune(&out, &Silent).unwrap();
    assert_eq!((again.steps, numbers(&again.parameters)), (tuned.steps, numbers(&tuned.parameters)));
}

#[test]
fn damaged_states_are_errors() {
    let mut world = World::writing();
    let out = world.out("out");
    world.settings.duration = Duration::Steps(2);
    world.tune(&out, &Silent).unwrap();
    let state = world.out("out.run/checkpoint-2/onefold/state.json");
    let good = std::fs::read_to_string(&state).unwrap();
    let refused = |text: &str, message: &str| {
        write(state.parent().unwrap(), "state.json", text);
        let error = world.tune(&out, &Silent).unwrap_err().to_string();
        assert!(error.contains(message), "{error}");
    };
    refused("{", "state.json: no state");
    refused(&good.replace("\"format\": 1", "\"format\": 2"), "form 2, expected 1");
    refused(&good.replace("\"metrics\": ", "\"metrics\": 9"), "the log has");
    refused(&good.replace("\"uniform\"", "\"coba\""), "its kind");
    write(state.parent().unwrap(), "state.json", &good);
    std::fs::remove_file(state.with_file_name("state.safetensors")).unwrap();
    let error = world.tune(&out, &Silent).unwrap_err().to_string();
    assert!(error.contains("state.safetensors"), "{error}");
}
