//! `metrics.jsonl`: what learning looks like, line by line.
//!
//! | kind | what |
//! |---|---|
//! | `measured` | how many examples an expert was measured on, where it is |
//! | `expert` | what an expert scores on its own task |
//! | `train` | means since the last line: each task's loss; each expert's mean coefficient with the least and the greatest |
//! | `score` | what the merged model scores |
//! | `surgery` | the correction of a task's features: its size, distances from the expert's features, the score with it |

use std::path::Path;
use std::time::Instant;

use onefold_checkpoint::CheckpointError;
use onefold_checkpoint::output::Log;
use onefold_engine::cpu::loss::TaskLoss;
use onefold_runtime::events::{Event, Observer};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::score::Score;
use super::settings::Settings;
use super::step::Stepped;
use super::surgery::Corrected;
use crate::data::Task;

/// Name of the file.
pub const METRICS: &str = "metrics.jsonl";

/// What is to be known to go on with the log.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct LogState {
    /// Bytes of the file.
    bytes: u64,
    /// Tokens that have passed the model.
    tokens: u64,
}

impl LogState {
    /// All that stands in the log of a directory; for lines that tell nothing of tokens.
    pub(super) fn found(dir: &Path) -> Self {
        Self { bytes: std::fs::metadata(dir.join(METRICS)).map_or(0, |found| found.len()), tokens: 0 }
    }
}

/// The log.
#[allow(missing_debug_implementations, reason = "an observer need not have it")]
pub(super) struct Logs<'a> {
    metrics: Log,
    tasks: &'a [Task],
    observer: &'a dyn Observer,
    tokens: u64,
    /// Since the last line.
    sums: Vec<TaskLoss>,
    of_interval: u64,
    since: Instant,
}

impl<'a> Logs<'a> {
    pub(super) fn open(
        dir: &Path,
        state: LogState,
        tasks: &'a [Task],
        observer: &'a dyn Observer,
    ) -> Result<Self, CheckpointError> {
        let metrics = Log::open(&dir.join(METRICS), state.bytes)?;
        let sums = vec![TaskLoss::default(); tasks.len()];
        let since = Instant::now();
        Ok(Self { metrics, tasks, observer, tokens: state.tokens, sums, of_interval: 0, since })
    }

    /// Makes durable what is written.
    pub(super) fn state(&self) -> Result<LogState, CheckpointError> {
        self.metrics.sync()?;
        Ok(LogState { bytes: self.metrics.len(), tokens: self.tokens })
    }

    /// Adds a step.
    pub(super) fn add(&mut self, stepped: &Stepped) {
        for (sum, loss) in self.sums.iter_mut().zip(&stepped.losses) {
            sum.loss += loss.loss;
            sum.rows += loss.rows;
            sum.correct += loss.correct;
        }
        self.tokens += stepped.tokens;
        self.of_interval += stepped.tokens;
    }

    /// The mean losses since the last line, for a progress bar.
    pub(super) fn status(&self) -> String {
        let one = |(task, sum): (&Task, &TaskLoss)| format!("{} {:.3}", task.name, mean(sum).unwrap_or(0.0));
        self.tasks
            .iter()
            .zip(&self.sums)
            .filter(|(_, sum)| sum.rows > 0)
            .map(one)
            .collect::<Vec<_>>()
            .join(" ")
    }

    /// Writes the line of the steps since the last one; the mean of their weighted losses.
    pub(super) fn train(
        &mut self,
        step: u64,
        lambda: &[Vec<f64>],
        settings: &Settings,
    ) -> Result<f64, CheckpointError> {
        let seconds = self.since.elapsed().as_secs_f64();
        let mut tasks = Map::new();
        let mut loss = 0.0;
        for ((task, sum), weight) in self.tasks.iter().zip(&self.sums).zip(&settings.weights) {
            tasks.insert(task.name.clone(), json!({"loss": mean(sum)}));
            loss += weight * mean(sum).unwrap_or(0.0);
        }
        let line = json!({
            "kind": "train",
            "step": step,
            "loss": loss,
            "tasks": tasks,
            "coefficients": spans(lambda),
            "tokens": self.tokens,
            "seconds": seconds,
            "tokens_per_second": self.of_interval as f64 / seconds,
        });
        self.sums.fill(TaskLoss::default());
        (self.of_interval, self.since) = (0, Instant::now());
        self.write(&line, "")?;
        Ok(loss)
    }

    /// Writes what an expert scores.
    pub(super) fn expert(&mut self, task: &str, score: &Score) -> Result<(), CheckpointError> {
        let text = format!("the expert of {task}: {}", shown(score));
        self.write(&json!({"kind": "expert", "task": task, "score": score}), &text)
    }

    /// Writes what was measured of a task's expert.
    pub(super) fn measured(&mut self, task: &str, examples: u64) -> Result<(), CheckpointError> {
        let text = format!("the expert of {task} was measured on {examples} examples");
        self.write(&json!({"kind": "measured", "task": task, "examples": examples}), &text)
    }

    /// Writes how a task's features were corrected.
    pub(super) fn surgery(&mut self, found: &Corrected) -> Result<(), CheckpointError> {
        let Corrected { correction, distance, score } = found;
        let scored = score.as_ref().map_or(String::new(), |score| format!(", {}", shown(score)));
        let text = format!(
            "surgery of {}: features are {:.4} from the expert's, {:.4} before{scored}",
            correction.task, distance.after, distance.before
        );
        let mut line = json!(found);
        line["kind"] = json!("surgery");
        self.write(&line, &text)
    }

    /// Writes what the merged model scores; `when` says in words which.
    pub(super) fn scores(
        &mut self,
        step: u64,
        when: &str,
        scores: &[(String, Score)],
    ) -> Result<(), CheckpointError> {
        if scores.is_empty() {
            return Ok(());
        }
        let tasks: Map<String, Value> =
            scores.iter().map(|(name, score)| (name.clone(), json!(score))).collect();
        let each: Vec<_> = scores.iter().map(|(name, score)| format!("{name} {}", shown(score))).collect();
        let text = format!("{when}: {}", each.join(", "));
        self.write(&json!({"kind": "score", "step": step, "tasks": tasks}), &text)
    }

    fn write(&mut self, line: &Value, text: &str) -> Result<(), CheckpointError> {
        let json = line.to_string();
        self.metrics.append(format!("{json}\n").as_bytes())?;
        self.observer.event(&Event::Figures { json: &json, text });
        Ok(())
    }
}

fn mean(sum: &TaskLoss) -> Option<f64> {
    (sum.rows > 0).then(|| sum.loss / sum.rows as f64)
}

/// Mean, least and greatest coefficient of each expert over the groups.
fn spans(lambda: &[Vec<f64>]) -> Vec<Value> {
    let experts = lambda.first().map_or(0, Vec::len);
    let of = |k: usize| {
        let values = || lambda.iter().map(move |group| group[k]);
        let mean = values().sum::<f64>() / lambda.len().max(1) as f64;
        json!({"mean": mean, "min": values().reduce(f64::min), "max": values().reduce(f64::max)})
    };
    (0..experts).map(of).collect()
}

fn shown(score: &Score) -> String {
    match score.accuracy {
        Some(accuracy) => format!("{:.1} % (entropy {:.3})", 100.0 * accuracy, score.entropy),
        None => format!("entropy {:.3}", score.entropy),
    }
}
