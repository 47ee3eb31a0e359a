//! Laws of learning coefficients, on tiny models: values of the specification, derivatives, what nothing may depend on,
//! resumption, and what is refused.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use onefold_engine::cpu::loss::{Losses, Objective};
use onefold_runtime::Stream;
use onefold_runtime::events::Silent;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::*;
use crate::config::{Head, Problem};
use crate::data::shape::Kind;
use crate::data::tests::write;
use crate::data::tokenize::Encoder;
use crate::data::{TaskSettings, Unlabelled};
use crate::families::Half;
use crate::model::testing::testdata;
use crate::model::{Destination, HeadStart, Parameters};
use crate::tune::tests::{classified, pairs, tokenizer};
use onefold_checkpoint::Checkpoint;

mod golden;
mod label_words;
mod laws;
mod refusals;
mod surgery;
mod zero_shot;

/// A base with two experts that differ from it a little, and two tasks with inputs.
struct World {
    dir: TempDir,
    base: PathBuf,
    experts: Vec<(String, PathBuf)>,
    tellers: Vec<Teller>,
    of_tasks: Vec<Option<usize>>,
    inputs: Vec<Task>,
    tests: Vec<Task>,
    settings: Settings,
    method: Method,
}

fn settings() -> Settings {
    Settings {
        seed: 3,
        steps: 6,
        batch: 4,
        adam: Adam { lr: 0.02, ..Adam::default() },
        log: 2,
        score: Some(3),
        save: 2,
        weights: vec![1.0, 0.5],
        ..Settings::default()
    }
}

/// Moves every number of the trunk a little, and saves the model with the head of `classes`, if there are some.
fn expert(base: &Path, out: &Path, seed: u64, classes: Option<usize>) {
    let mut parameters = Parameters::open(base, |spec| spec.half != Half::Text).unwrap();
    if let Some(classes) = classes {
        let names = (0..classes).map(|class| format!("c{class}")).collect();
        let config = parameters.config().with_head(Head::Classes(classes), names, Problem::SingleLabel);
        parameters.add_head(0, &config, HeadStart { seed, deviation: 0.3 }).unwrap();
    }
    let ids: Vec<_> = parameters.trainable().map(|(id, _)| id).collect();
    for id in ids {
        let mut bits = vec![0; parameters[id].len()];
        Stream::new(seed, "expert", &parameters[id].name).fill(0, &mut bits);
        let value = parameters.value_mut(id).unwrap();
        for (value, bits) in value.as_mut_slice().iter_mut().zip(bits) {
            *value += (bits as f32 / u32::MAX as f32 - 0.5) * 0.2;
        }
    }
    let to = Destination { source: base, out, replace: false };
    match classes {
        Some(_) => parameters.save_task(0, &to).map(drop),
        None => parameters.save(&to).map(drop),
    }
    .unwrap();
}

fn load(dir: &Path, name: &str, rows: &str, unlabelled: Option<Unlabelled>) -> Task {
    let encoder = Encoder::new(tokenizer(dir), None);
    let settings = TaskSettings {
        name: name.to_owned(),
        train: vec![write(dir, &format!("{name}.jsonl"), rows)],
        unlabelled,
        ..TaskSettings::default()
    };
    Task::load(&settings, Some(&encoder), &Silent).unwrap()
}

const UNLABELLED: Unlabelled = Unlabelled { kind: Kind::Classify, may_have_labels: true };

impl World {
    /// An encoder, tasks of two and of four classes.
    fn classifying() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let at = dir.path();
        let base = testdata().join("bert");
        let experts = [("two", 2), ("four", 4)].map(|(name, classes)| {
            let out = at.join(name);
            expert(&base, &out, classes, Some(classes as usize));
            (name.to_owned(), out)
        });
        let (inputs, tests) = (at.join("inputs"), at.join("tests"));
        [&inputs, &tests].iter().for_each(|dir| std::fs::create_dir(dir).unwrap());
        let rows = [("two", 2), ("four", 4)];
        Self {
            base,
            experts: experts.into(),
            tellers: vec![Teller::Head(0), Teller::Head(1)],
            of_tasks: vec![Some(0), Some(1)],
            inputs: rows
                .map(|(name, classes)| load(&inputs, name, &classified(name, 30, classes), Some(UNLABELLED)))
                .into(),
            tests: rows
                .map(|(name, classes)| load(&tests, name, &classified(name, 20, classes), None))
                .into(),
            settings: settings(),
            method: Method::AdaMerging,
            dir,
        }
    }

    /// A decoder and tasks that are written.
    fn writing(model: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let at = dir.path();
        let base = testdata().join(model);
        let experts = ["a", "bb"].map(|name| {
            let out = at.join(format!("expert-{name}"));
            expert(&base, &out, name.len() as u64, None);
            (name.to_owned(), out)
        });
        let tasks = |part: &str| {
            let dir = at.join(part);
            std::fs::create_dir(&dir).unwrap();
            ["a", "bb"].map(|name| load(&dir, name, &pairs(name, 24), None)).into()
        };
        Self {
            base,
            experts: experts.into(),
            tellers: vec![Teller::Words; 2],
            of_tasks: vec![None, None],
            inputs: tasks("inputs"),
            tests: tasks("tests"),
            settings: settings(),
            method: Method::AdaMerging,
            dir,
        }
    }

    /// Clip, and tasks whose classes are told by texts.
    fn comparing() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let at = dir.path();
        let base = zero_shot::base(at);
        let experts = ["a", "bb"].map(|name| {
            let out = at.join(format!("expert-{name}"));
            expert(&base, &out, name.len() as u64, None);
            (name.to_owned(), out)
        });
        Self {
            base,
            experts: experts.into(),
            tellers: [2, 3].map(zero_shot::texts).into(),
            of_tasks: vec![Some(0), None],
            inputs: ["two", "three"].map(|name| zero_shot::pictures(at, name, None)).into(),
            tests: vec![zero_shot::pictures(at, "three", Some(3))],
            settings: settings(),
            method: Method::AdaMerging,
            dir,
        }
    }

    fn blend(&self) -> Result<Blend, AdaptError> {
        self.blended(&Silent)
    }

    fn blended(&self, observer: &dyn Observer) -> Result<Blend, AdaptError> {
        let base = Checkpoint::open(&self.base).unwrap();
        let opened: Vec<_> =
            self.experts.iter().map(|(name, dir)| (name, Checkpoint::open(dir).unwrap())).collect();
        let experts: Vec<_> =
            opened.iter().map(|(name, checkpoint)| Expert { name: name.as_str(), checkpoint }).collect();
        Blend::open(&base, &experts, &self.tellers, self.method, self.settings.granularity, observer)
    }

    fn out(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Learns into `out`.
    fn adapt(&self, out: &Path, observer: &dyn Observer) -> Result<Adapted, AdaptError> {
        let run = RunDir::open(out, "test", &[], false).unwrap();
        super::run(Job {
            settings: &self.settings,
            blend: self.blend()?,
            inputs: &self.inputs,
            tests: &self.tests,
            experts: &self.of_tasks,
            source: &self.base,
            run: &run,
            observer,
        })
    }

    /// What is learnt by a run of its own.
    fn learnt(&self, name: &str) -> Vec<Vec<f64>> {
        self.adapt(&self.out(name), &Silent).unwrap().lambda
    }
}

/// Cancels after some steps.
struct After(AtomicU64);

impl Observer for After {
    fn event(&self, event: &Event<'_>) -> Control {
        let is_step = matches!(event, Event::Step { .. });
        if is_step && self.0.fetch_sub(1, Ordering::SeqCst) == 1 {
            Control::Cancel
        } else {
            Control::Continue
        }
    }
}
