//! Laws of the training, on tiny models: what an update may depend on, resumption, every balancer, heads, bad numbers.

mod balancers;
mod laws;
mod outputs;
mod parts;
mod resume;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use onefold_balance::losses::Normalisation;
use onefold_checkpoint::output::RunDir;
use onefold_engine::cpu::optimizer::AdamW;
use onefold_runtime::Stream;
use onefold_runtime::events::{Control, Event, Observer, Silent};
use serde_json::{Map, Value, json};
use tempfile::TempDir;

use super::*;
use crate::data::sample::Mixture;
use crate::data::split::Held;
use crate::data::tests::write;
use crate::data::tokenize::Encoder;
use crate::data::{Task, TaskSettings, Validation};
use crate::model::testing::testdata;
use crate::model::{AdapterSettings, Parameters};
use crate::optimizer::{Decay, Rule};
use crate::text::Tokenizer;

/// A directory with data, a tokenizer of sixty words, and tasks.
pub(super) struct World {
    pub(super) dir: TempDir,
    pub(super) model: PathBuf,
    pub(super) tasks: Vec<Task>,
    pub(super) settings: Settings,
    pub(super) trainable: Trainable,
    pub(super) mixture: Mixture,
}

/// What `settings` are changed from.
pub(super) fn settings() -> Settings {
    let balancer = json!({"kind": "uniform"});
    Settings {
        seed: 7,
        duration: Duration::Steps(6),
        batch: BatchSettings { examples: 8, micro: 3 },
        optimizer: Rule::AdamW(AdamW { learning_rate: 3e-3, ..AdamW::default() }),
        decay: Decay::Matrices,
        schedule: ScheduleSettings { kind: ScheduleKind::Cosine, warmup: Span::Steps(1), floor: 0.1 },
        clip: Some(1.0),
        checkpointing: false,
        normalisation: Normalisation::Case3,
        smoothing: 0.0,
        balancer: balancer.as_object().unwrap().clone(),
        validation: ValidationSettings { every: Every::Steps(3), batch: None },
        log: 2,
        checkpoints: CheckpointSettings { every: Every::Never, keep: 2 },
        progress: ProgressSettings::default(),
        non_finite: NonFinite::Stop,
    }
}

pub(super) fn balancer(kind: &str) -> Map<String, Value> {
    json!({ "kind": kind }).as_object().unwrap().clone()
}

/// LoRA, to be changed.
pub(super) const LORA: AdapterSettings =
    AdapterSettings { rank: 2, alpha: 8.0, rank_stabilised: false, decomposed: false, dropout: 0.0, seed: 1 };

/// Words of the tokenizer.
fn word(i: u32) -> String {
    format!("w{i}")
}

pub(crate) fn tokenizer(dir: &Path) -> Tokenizer {
    let special = ["<unk>", "<s>", "</s>", "<pad>"].map(str::to_owned);
    let words: Vec<String> = special.iter().cloned().chain((0..50).map(word)).collect();
    let vocabulary: Map<String, Value> =
        words.iter().enumerate().map(|(id, word)| (word.clone(), json!(id))).collect();
    let added: Vec<Value> = special
        .iter()
        .enumerate()
        .map(|(id, word)| {
            json!({"id": id, "content": word, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false,
                "special": true})
        })
        .collect();
    let file = json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": added, "normalizer": null,
        "pre_tokenizer": {"type": "Whitespace"}, "post_processor": null, "decoder": null,
        "model": {"type": "WordLevel", "vocab": vocabulary, "unk_token": "<unk>"},
    });
    write(dir, "tokenizer.json", file.to_string());
    let config = json!({"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"});
    write(dir, "tokenizer_config.json", config.to_string());
    Tokenizer::open(dir).unwrap()
}

/// Numbers for data.
fn draws(name: &str, count: usize) -> Vec<u32> {
    let mut bits = vec![0; count];
    Stream::new(1, "test", name).fill(0, &mut bits);
    bits
}

/// Prompts with answers, of different lengths; tasks differ in how words follow one another.
pub(crate) fn pairs(name: &str, rows: usize) -> String {
    let bits = draws(name, 8 * rows);
    let row = |bits: &[u32]| {
        let (first, step) = (bits[0] % 50, 1 + name.len() as u32 % 5);
        let words = |from: u32, count: u32| -> Vec<_> {
            (from..from + count).map(|i| word((first + i * step) % 50)).collect()
        };
        let (given, answer) = (1 + bits[1] % 4, 1 + bits[2] % 6);
        let (prompt, answer) = (words(0, given).join(" "), words(given, answer).join(" "));
        json!({"prompt": prompt, "completion": format!(" {answer}")}).to_string()
    };
    bits.chunks(8).map(row).collect::<Vec<_>>().join("\n")
}

/// Words with the class of the first.
pub(crate) fn classified(name: &str, rows: usize, classes: u32) -> String {
    let bits = draws(name, 8 * rows);
    let row = |bits: &[u32]| {
        let words: Vec<_> = bits[..2 + bits[7] as usize % 4].iter().map(|bit| word(bit % 50)).collect();
        json!({"text": words.join(" "), "label": format!("c{}", bits[0] % 50 % classes)}).to_string()
    };
    bits.chunks(8).map(row).collect::<Vec<_>>().join("\n")
}

pub(super) fn load(dir: &Path, name: &str, rows: &str) -> Task {
    let encoder = Encoder::new(tokenizer(dir), None);
    let settings = TaskSettings {
        name: name.to_owned(),
        train: vec![write(dir, &format!("{name}.jsonl"), rows)],
        validation: Validation::Held(Held::Rows(8)),
        ..TaskSettings::default()
    };
    Task::load(&settings, Some(&encoder), &Silent).unwrap()
}

impl World {
    fn new(model: &str, tasks: impl Fn(&Path) -> Vec<Task>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let tasks = tasks(dir.path());
        let (settings, trainable, mixture) =
            (settings(), Trainable::default(), Mixture { seed: 7, ..Mixture::default() });
        Self { model: testdata().join(model), tasks, settings, trainable, mixture, dir }
    }

    /// Three tasks that write, and a decoder.
    pub(super) fn writing() -> Self {
        Self::new("llama", |dir| {
            [("a", 20), ("bb", 30), ("ccc", 25)]
                .map(|(name, rows)| load(dir, name, &pairs(name, rows)))
                .into()
        })
    }

    /// Two tasks with classes, and an encoder (which drops).
    pub(super) fn classifying() -> Self {
        Self::new("bert", |dir| {
            vec![load(dir, "two", &classified("two", 30, 2)), load(dir, "four", &classified("four", 40, 4))]
        })
    }

    pub(super) fn out(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(super) fn prepared(&self) -> Result<Prepared, TuneError> {
        Prepared::open(&self.model, &self.tasks, &self.trainable, 7)
    }

    /// Trains into `out`; what the observer cancels is an error.
    pub(super) fn tune(&self, out: &Path, observer: &dyn Observer) -> Result<Tuned, TuneError> {
        let prepared = self.prepared()?;
        let even = vec![1.0; self.tasks.len()];
        let (plan, sampler, balancer) =
            Plan::new(self.settings.clone(), &self.tasks, &prepared, (&even, &even), self.mixture.clone())?;
        let run = RunDir::open(out, "test", &[], false)?;
        let (tasks, base) = (&self.tasks[..], self.model.as_path());
        let Prepared { parameters, .. } = prepared;
        run_it(Job {
            plan: &plan,
            tasks,
            parameters,
            sampler,
            balancer,
            base,
            name: "base",
            run: &run,
            carried: None,
            observer,
        })
    }

    /// The trained numbers after a run of its own.
    pub(super) fn trained(&self, name: &str) -> Vec<Vec<f32>> {
        numbers(&self.tune(&self.out(name), &Silent).unwrap().parameters)
    }
}

fn run_it(job: Job<'_>) -> Result<Tuned, TuneError> {
    super::run(job)
}

pub(super) fn numbers(parameters: &Parameters) -> Vec<Vec<f32>> {
    parameters.trainable().map(|(_, parameter)| parameter.trained().unwrap().to_vec()).collect()
}

/// The largest difference of two sets of numbers.
pub(super) fn distance(a: &[Vec<f32>], b: &[Vec<f32>]) -> f32 {
    a.iter().flatten().zip(b.iter().flatten()).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

/// Stops after so many steps.
pub(super) struct StopAfter(pub(super) AtomicU64);

impl Observer for StopAfter {
    fn event(&self, event: &Event<'_>) -> Control {
        let stops = matches!(event, Event::Step { .. }) && self.0.fetch_sub(1, Ordering::Relaxed) == 1;
        if stops { Control::Cancel } else { Control::Continue }
    }
}

/// Lines of `metrics.jsonl` without what differs from run to run.
pub(super) fn metrics(dir: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(dir.join(METRICS)).unwrap();
    let line = |line: &str| {
        let mut line: Value = serde_json::from_str(line).unwrap();
        for key in ["seconds", "tokens_per_second", "memory"] {
            line.as_object_mut().unwrap().remove(key);
        }
        line
    };
    text.lines().map(line).collect()
}
