//! What is written down while a training goes on: `metrics.jsonl`, and the same numbers for TensorBoard.
//!
//! A line of `metrics.jsonl` is of one `kind`:
//!
//! * `train`, every so many steps: `step`, `epoch`, `loss` (Σ weight · loss), `lr`, `grad_norm`, `tokens` so far, `seconds` and
//!   `tokens_per_second` since the line before, `memory` (resident bytes), `skipped` steps; for each task under `tasks` its mean
//!   `loss` and `accuracy` since the line before, its mean `weight`, and what its balancer tells of it; what the balancer tells of
//!   all under `balancer`;
//! * `validation`: `step`, `epoch`, `aggregate`, whether it is the `best`; `loss`, `accuracy` and `rows` of each task.

use std::path::{Path, PathBuf};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use onefold_balance::{Figure, Values};
use onefold_checkpoint::CheckpointError;
use onefold_checkpoint::output::Log;
use onefold_engine::cpu::loss::TaskLoss;
use onefold_runtime::events::{Event, Observer};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::progress::Verdict;
use super::trainer::{Counters, Stepped};
use crate::tensorboard;

/// Its name in the directory of a run.
pub const METRICS: &str = "metrics.jsonl";
/// That of the file for TensorBoard; readers look for `tfevents`.
pub const EVENTS: &str = "runs/events.out.tfevents.onefold";

/// What checkpoints know of the logs.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct LogState {
    metrics: u64,
    events: u64,
    interval: Interval,
}

/// Sums since the last line.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Interval {
    steps: u64,
    tokens: u64,
    norm: f64,
    /// Summed loss, number, and how many are right, of each task.
    losses: Vec<(f64, u64, u64)>,
    /// Summed weight of each task, and the steps in which it had rows.
    weights: Vec<(f64, u64)>,
}

/// The logs of a run.
pub(super) struct Logs<'a> {
    path: PathBuf,
    metrics: Log,
    events: Log,
    interval: Interval,
    names: &'a [String],
    observer: &'a dyn Observer,
    since: Instant,
}

/// Where a training is.
#[derive(Debug, Clone, Copy)]
pub(super) struct At {
    pub(super) counters: Counters,
    pub(super) epoch: f64,
}

impl<'a> Logs<'a> {
    /// Opens the logs in `dir`; what they have beyond `state` is cut off.
    pub(super) fn open(
        dir: &Path,
        state: LogState,
        names: &'a [String],
        observer: &'a dyn Observer,
    ) -> Result<Self, CheckpointError> {
        let LogState { metrics, events, interval } = state;
        let path = dir.join(METRICS);
        let metrics = Log::open(&path, metrics)?;
        let mut events = Log::open(&dir.join(EVENTS), events)?;
        if events.is_empty() {
            events.append(&tensorboard::header(now()))?;
        }
        Ok(Self { path, metrics, events, interval, names, observer, since: Instant::now() })
    }

    /// Makes the logs durable; what a checkpoint has to know of them.
    pub(super) fn state(&self) -> Result<LogState, CheckpointError> {
        self.metrics.sync()?;
        self.events.sync()?;
        let (metrics, events) = (self.metrics.len(), self.events.len());
        Ok(LogState { metrics, events, interval: self.interval.clone() })
    }

    /// All lines so far under the names that the trainer of transformers has for them.
    pub(super) fn history(&self) -> Result<Vec<Value>, CheckpointError> {
        let text = std::fs::read_to_string(&self.path).map_err(CheckpointError::io(&self.path, "read"))?;
        Ok(text.lines().filter_map(|line| serde_json::from_str(line).ok()).map(|line| entry(&line)).collect())
    }

    /// Takes what came of a step.
    pub(super) fn add(&mut self, stepped: &Stepped) {
        let interval = &mut self.interval;
        interval.steps += 1;
        interval.tokens += stepped.tokens;
        interval.norm += stepped.norm.unwrap_or(0.0);
        interval.losses.resize(self.names.len(), (0.0, 0, 0));
        interval.weights.resize(self.names.len(), (0.0, 0));
        for (sum, loss) in interval.losses.iter_mut().zip(&stepped.losses) {
            *sum = (sum.0 + loss.loss, sum.1 + loss.rows, sum.2 + loss.correct);
        }
        for (i, sum) in interval.weights.iter_mut().enumerate().filter(|(i, _)| stepped.losses[*i].rows > 0) {
            *sum = (sum.0 + stepped.weights[i], sum.1 + 1);
        }
    }

    /// Writes the line of the steps since the last one.
    pub(super) fn train(&mut self, at: At, rate: f64, figures: &[Figure]) -> Result<(), CheckpointError> {
        let Interval { steps, tokens, norm, losses, weights } = std::mem::take(&mut self.interval);
        if steps == 0 {
            return Ok(());
        }
        let seconds = self.since.elapsed().as_secs_f64();
        self.since = Instant::now();
        let mut tasks = Map::new();
        let mut loss = None;
        for (i, (name, (sum, rows, correct))) in self.names.iter().zip(losses).enumerate() {
            let (weight, present) = weights[i];
            let weight = weight / present.max(1) as f64;
            let mut line = task_line(&TaskLoss { loss: sum, rows, correct });
            line.insert("weight".to_owned(), json!(weight));
            for figure in figures {
                if let Values::PerTask(values) = &figure.values {
                    line.insert(figure.name.to_owned(), json!(values.get(i).copied().flatten()));
                }
            }
            if rows > 0 {
                *loss.get_or_insert(0.0) += weight * sum / rows as f64;
            }
            tasks.insert(name.clone(), Value::Object(line));
        }
        let one = |figure: &Figure| match figure.values {
            Values::One(value) => Some((figure.name.to_owned(), json!(value))),
            Values::PerTask(_) => None,
        };
        let balancer: Map<String, Value> = figures.iter().filter_map(one).collect();
        let line = json!({
            "kind": "train",
            "step": at.counters.step,
            "epoch": at.epoch,
            "loss": loss,
            "lr": rate,
            "grad_norm": norm / steps as f64,
            "tokens": at.counters.tokens,
            "skipped": at.counters.skipped,
            "tasks": tasks,
            "balancer": balancer,
            "seconds": seconds,
            "tokens_per_second": tokens as f64 / seconds,
            "memory": resident(),
        });
        self.write(at.counters.step, &line, "")
    }

    /// Writes the line of a validation.
    pub(super) fn validation(
        &mut self,
        at: At,
        sums: &[TaskLoss],
        verdict: &Verdict,
    ) -> Result<(), CheckpointError> {
        let mut tasks = Map::new();
        let mut text = format!("step {}, epoch {:.2}:", at.counters.step, at.epoch);
        for (name, sum) in self.names.iter().zip(sums).filter(|(_, sum)| sum.rows > 0) {
            let (loss, right) = (sum.loss / sum.rows as f64, sum.correct as f64 / sum.rows as f64);
            text += &format!(" {name} {loss:.4} ({:.1} %)", 100.0 * right);
            let mut line = task_line(sum);
            line.insert("rows".to_owned(), json!(sum.rows));
            tasks.insert(name.clone(), Value::Object(line));
        }
        if verdict.is_best {
            text += "; the best so far";
        }
        let line = json!({
            "kind": "validation",
            "step": at.counters.step,
            "epoch": at.epoch,
            "aggregate": verdict.aggregate,
            "best": verdict.is_best,
            "tasks": tasks,
        });
        self.write(at.counters.step, &line, &text)
    }

    fn write(&mut self, step: u64, line: &Value, text: &str) -> Result<(), CheckpointError> {
        let json = line.to_string();
        self.metrics.append(format!("{json}\n").as_bytes())?;
        let mut scalars = Vec::new();
        scalars_of(line, &mut scalars);
        let scalars = scalars.iter().map(|(tag, value)| (tag.as_str(), *value as f32));
        self.events.append(&tensorboard::scalars(step, now(), scalars))?;
        self.observer.event(&Event::Figures { json: &json, text });
        Ok(())
    }
}

/// A line as an entry of `log_history`.
fn entry(line: &Value) -> Value {
    let mut entry = Map::new();
    let is_validation = line["kind"] == "validation";
    let names: &[(&str, &str)] = if is_validation {
        &[("epoch", "epoch"), ("aggregate", "eval_aggregate"), ("step", "step")]
    } else {
        &[
            ("epoch", "epoch"),
            ("grad_norm", "grad_norm"),
            ("lr", "learning_rate"),
            ("loss", "loss"),
            ("step", "step"),
        ]
    };
    entry.extend(names.iter().map(|(from, to)| ((*to).to_owned(), line[*from].clone())));
    for (task, numbers) in line["tasks"].as_object().into_iter().flatten() {
        let prefix = if is_validation { format!("eval_{task}") } else { task.clone() };
        let numbers = numbers.as_object().into_iter().flatten();
        entry.extend(numbers.map(|(key, value)| (format!("{prefix}_{key}"), value.clone())));
    }
    Value::Object(entry)
}

fn task_line(sum: &TaskLoss) -> Map<String, Value> {
    let mean = |part: f64| (sum.rows > 0).then(|| part / sum.rows as f64);
    let mut line = Map::new();
    line.insert("loss".to_owned(), json!(mean(sum.loss)));
    line.insert("accuracy".to_owned(), json!(mean(sum.correct as f64)));
    line
}

/// The numbers of a line under the tags of TensorBoard: `train/loss`, `code/train/loss`, so that the series of a task stand
/// together.
fn scalars_of(line: &Value, scalars: &mut Vec<(String, f64)>) {
    let kind = line["kind"].as_str().unwrap_or_default();
    for (key, value) in line.as_object().into_iter().flatten().filter(|(key, _)| *key != "step") {
        match (key.as_str(), value) {
            ("tasks", Value::Object(tasks)) => {
                for (task, numbers) in tasks {
                    let numbers = numbers.as_object().into_iter().flatten();
                    let of = |(key, value): (&String, &Value)| {
                        Some((format!("{task}/{kind}/{key}"), value.as_f64()?))
                    };
                    scalars.extend(numbers.filter_map(of));
                }
            }
            ("balancer", Value::Object(numbers)) => {
                let of = |(key, value): (&String, &Value)| Some((format!("balancer/{key}"), value.as_f64()?));
                scalars.extend(numbers.iter().filter_map(of));
            }
            _ => scalars.extend(value.as_f64().map(|value| (format!("{kind}/{key}"), value))),
        }
    }
}

/// Seconds since 1970.
fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
}

/// Bytes of memory that the process has, where the system tells.
fn resident() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = status.split_whitespace().nth(1)?.parse().ok()?;
    Some(pages * 4096)
}
