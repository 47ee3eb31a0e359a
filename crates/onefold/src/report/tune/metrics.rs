//! The text of `metrics.jsonl` as series over steps. Its format is documented where it is written, in `onefold-train`'s `tune/log.rs`.
//!
//! A line that cannot be read is left out, counted and told: a report of a training that ran for days must not fail for one torn
//! line.

use indexmap::IndexMap;
use serde_json::{Map, Value};

use super::super::thin::Series;

/// Series by name, in the order in which they first appear.
pub(super) type Named = IndexMap<String, Series>;

/// Keys of a line that are no measurements.
const NO_SERIES: [&str; 8] = ["kind", "step", "epoch", "tokens", "seconds", "skipped", "tasks", "balancer"];

/// What was measured in a training.
#[derive(Clone, Debug, Default)]
pub(super) struct Metrics {
    /// What was measured of each task.
    pub(super) tasks: IndexMap<String, Task>,
    /// What was measured of the steps as a whole: loss, learning rate, gradient norm, speed, memory.
    pub(super) steps: Named,
    /// What the balancer tells of all tasks together.
    pub(super) balancer: Named,
    /// The step after which validation was best, and its aggregate.
    pub(super) best: Option<(u64, Option<f64>)>,
    /// The last state of the counters.
    pub(super) totals: Totals,
    /// Lines that were left out: number, counted from 1, and reason.
    pub(super) bad: Vec<(usize, String)>,
}

/// Series of one task.
#[derive(Clone, Debug, Default)]
pub(super) struct Task {
    /// Loss, accuracy, weight and the balancer's figures in training.
    pub(super) train: Named,
    /// Loss, accuracy and rows in validation.
    pub(super) validation: Named,
}

/// Counters.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Totals {
    /// Lines of training and of validation.
    pub(super) lines: (u64, u64),
    /// Steps that were made.
    pub(super) steps: u64,
    /// Epochs, the last one perhaps in part.
    pub(super) epochs: f64,
    /// Tokens that were learnt from.
    pub(super) tokens: u64,
    /// Steps that were left out.
    pub(super) skipped: u64,
    /// Seconds between lines, summed.
    pub(super) seconds: f64,
    /// Most resident bytes at a line.
    pub(super) memory: Option<u64>,
}

impl Metrics {
    /// Reads the text of `metrics.jsonl`.
    pub(super) fn read(text: &str) -> Self {
        let mut metrics = Self::default();
        for (at, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
            if let Err(reason) = metrics.line(line) {
                metrics.bad.push((at + 1, reason));
            }
        }
        metrics
    }

    /// Takes a line, all of it or nothing.
    fn line(&mut self, line: &str) -> Result<(), String> {
        let value: Value = serde_json::from_str(line).map_err(|error| format!("no JSON: {error}"))?;
        let line = value.as_object().ok_or("no JSON object")?;
        let step = line.get("step").and_then(Value::as_u64).ok_or("`step` is no whole number")?;
        let tasks = maps(line, "tasks")?;
        if let Some((name, _)) = tasks.iter().find(|(_, numbers)| !numbers.is_object()) {
            return Err(format!("task {name:?} is no JSON object"));
        }
        match line.get("kind").and_then(Value::as_str) {
            Some("train") => self.train(step, line, &tasks, &maps(line, "balancer")?),
            Some("validation") => self.validation(step, line, &tasks),
            Some(kind) => return Err(format!("unknown kind {kind:?}")),
            None => return Err("`kind` is missing".to_owned()),
        }
        self.totals.steps = self.totals.steps.max(step);
        self.totals.epochs = number(line, "epoch").unwrap_or(0.0).max(self.totals.epochs);
        Ok(())
    }

    fn train(
        &mut self,
        step: u64,
        line: &Map<String, Value>,
        tasks: &Map<String, Value>,
        balancer: &Map<String, Value>,
    ) {
        for (name, numbers) in tasks {
            add(&mut self.tasks.entry(name.clone()).or_default().train, step, numbers.as_object());
        }
        let measured = line.iter().filter(|(key, _)| !NO_SERIES.contains(&key.as_str()));
        let measured = measured.map(|(key, value)| (key.clone(), value.clone())).collect();
        add(&mut self.steps, step, Some(&measured));
        add(&mut self.balancer, step, Some(balancer));
        let count = |key: &str| line.get(key).and_then(Value::as_u64);
        let totals = &mut self.totals;
        totals.lines.0 += 1;
        totals.tokens = count("tokens").unwrap_or(totals.tokens);
        totals.skipped = count("skipped").unwrap_or(totals.skipped);
        totals.seconds += number(line, "seconds").filter(|seconds| *seconds > 0.0).unwrap_or(0.0);
        totals.memory = totals.memory.max(count("memory"));
    }

    fn validation(&mut self, step: u64, line: &Map<String, Value>, tasks: &Map<String, Value>) {
        for (name, numbers) in tasks {
            add(&mut self.tasks.entry(name.clone()).or_default().validation, step, numbers.as_object());
        }
        self.totals.lines.1 += 1;
        if line.get("best").and_then(Value::as_bool) == Some(true) {
            self.best = Some((step, number(line, "aggregate")));
        }
    }
}

/// Appends the numbers, and a gap for what is null.
fn add(series: &mut Named, step: u64, numbers: Option<&Map<String, Value>>) {
    for (key, value) in
        numbers.into_iter().flatten().filter(|(_, value)| value.is_number() || value.is_null())
    {
        series.entry(key.clone()).or_default().push((step as f64, value.as_f64()));
    }
}

fn number(line: &Map<String, Value>, key: &str) -> Option<f64> {
    line.get(key).and_then(Value::as_f64)
}

/// The map under a key; an empty one if there is none.
fn maps(line: &Map<String, Value>, key: &str) -> Result<Map<String, Value>, String> {
    match line.get(key) {
        None | Some(Value::Null) => Ok(Map::new()),
        Some(Value::Object(map)) => Ok(map.clone()),
        Some(_) => Err(format!("`{key}` is no JSON object")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn series_by_task() {
        let metrics = Metrics::read(
            r#"{"kind":"validation","step":0,"epoch":0.0,"aggregate":3.0,"best":true,"tasks":{"b":{"loss":3.0,"accuracy":0.1,"rows":5}}}
{"kind":"train","step":10,"epoch":0.5,"loss":2.0,"lr":1e-4,"grad_norm":1.5,"tokens":640,"skipped":0,"tasks":{"b":{"loss":2.5,"accuracy":null,"weight":0.5,"rcs":0.2},"a":{"loss":null,"weight":0.5}},"balancer":{"df":0.9},"seconds":2.0,"tokens_per_second":320.0,"memory":1000}

{"kind":"train","step":20,"epoch":1.0,"tokens":1300,"skipped":1,"tasks":{"b":{"loss":2.0,"weight":0.4}},"balancer":{},"seconds":3.0,"memory":900}
"#,
        );
        assert_eq!(metrics.bad, []);
        assert_eq!(metrics.tasks.keys().collect::<Vec<_>>(), ["b", "a"]);
        let b = &metrics.tasks["b"];
        assert_eq!(b.train["loss"], [(10.0, Some(2.5)), (20.0, Some(2.0))]);
        assert_eq!((&b.train["accuracy"], &b.train["rcs"]), (&vec![(10.0, None)], &vec![(10.0, Some(0.2))]));
        assert_eq!(b.validation["loss"], [(0.0, Some(3.0))]);
        assert_eq!(metrics.tasks["a"].train["loss"], [(10.0, None)]);
        assert_eq!(metrics.balancer["df"], [(10.0, Some(0.9))]);
        assert_eq!(
            metrics.steps.keys().collect::<Vec<_>>(),
            ["loss", "lr", "grad_norm", "tokens_per_second", "memory"]
        );
        assert_eq!(metrics.best, Some((0, Some(3.0))));
        let totals = Totals {
            lines: (2, 1),
            steps: 20,
            epochs: 1.0,
            tokens: 1300,
            skipped: 1,
            seconds: 5.0,
            memory: Some(1000),
        };
        assert_eq!(metrics.totals, totals);
    }

    #[test]
    fn every_fault_is_told_and_leaves_nothing() {
        let faults = [
            ("{\"kind\":\"train\",\"st", "no JSON: "),
            ("[1]", "no JSON object"),
            ("{\"kind\":\"train\",\"loss\":NaN,\"step\":1}", "no JSON: "),
            ("{\"kind\":\"train\",\"step\":1,\"loss\":1e999}", "no JSON: "),
            ("{\"kind\":\"train\"}", "`step` is no whole number"),
            ("{\"kind\":\"train\",\"step\":-1}", "`step` is no whole number"),
            ("{\"kind\":\"test\",\"step\":1}", "unknown kind \"test\""),
            ("{\"step\":1}", "`kind` is missing"),
            ("{\"kind\":\"train\",\"step\":1,\"tasks\":[]}", "`tasks` is no JSON object"),
            ("{\"kind\":\"train\",\"step\":1,\"tasks\":{\"a\":1}}", "task \"a\" is no JSON object"),
            (
                "{\"kind\":\"train\",\"step\":1,\"balancer\":0,\"tasks\":{\"a\":{\"loss\":1}}}",
                "`balancer` is no JSON object",
            ),
        ];
        for (line, reason) in faults {
            let metrics = Metrics::read(&format!("\n{line}\n"));
            assert_eq!(metrics.bad.len(), 1, "{line}");
            assert!(metrics.bad[0].0 == 2 && metrics.bad[0].1.starts_with(reason), "{:?}", metrics.bad);
            assert!(metrics.tasks.is_empty() && metrics.totals == Totals::default(), "{line}");
        }
        let deep = "[".repeat(100_000);
        assert_eq!(Metrics::read(&deep).bad.len(), 1);
    }
}
