//! The result with the files that explain it: merged models, log, report, card, recipe, and `onefold.json`.

use std::collections::BTreeMap;
use std::path::Path;

use onefold_checkpoint::CheckpointError;
use onefold_checkpoint::output::{RunDir, write_file};
use onefold_train::adapt::{METRICS, Memory};
use onefold_train::data::Task;
use serde_json::{Map, Value, json};

use super::dry_run::total;
use super::products::{Product, Weights};
use super::{Ready, Session, surgery};
use crate::jobs::fingerprint::fingerprints;
use crate::jobs::{memory, quoted, show_bytes};
use crate::models::Model;
use crate::progress::Failure;
use crate::report::{self, CardInfo, CardScores, CardSource};

/// A job that is over but for its result.
pub(super) struct Record<'a> {
    pub(super) session: &'a Session<'a>,
    pub(super) ready: &'a Ready,
    pub(super) products: &'a [Product],
    pub(super) memory: &'a Memory,
    /// The step whose scores are those of the result.
    pub(super) kept: u64,
}

/// A failure on the way to the result.
pub(super) enum Failed {
    Written(CheckpointError),
    Merged(Failure),
}

impl From<CheckpointError> for Failed {
    fn from(error: CheckpointError) -> Self {
        Self::Written(error)
    }
}

impl Record<'_> {
    /// The text of the log in the directory of a run.
    pub(super) fn metrics(&self, run: &Path) -> Result<String, Failure> {
        let path = run.join(METRICS);
        let read = std::fs::read(&path).map_err(CheckpointError::io(&path, "read")).map_err(Failure::job)?;
        Ok(String::from_utf8_lossy(&read).into_owned())
    }

    /// Makes the output with `build`, and moves it to its place.
    pub(super) fn finish(
        &self,
        run: RunDir,
        build: impl FnOnce(&Path) -> Result<(), Failed>,
    ) -> Result<(), Failure> {
        let place = run.path().to_owned();
        run.finish(build).map_err(|error| {
            let kept =
                format!("what was done is kept in {}, the same command goes on from there", place.display());
            match error {
                Failed::Written(error) => Failure::Job(format!("{error}; {kept}")),
                Failed::Merged(Failure::Job(error)) => Failure::Job(format!("{error}; {kept}")),
                Failed::Merged(failure) => failure,
            }
        })
    }

    /// Writes all models into `made`.
    pub(super) fn write_products(&self, weights: &Weights, made: &Path) -> Result<(), Failed> {
        if self.products.iter().any(|product| product.dir.is_some()) {
            std::fs::create_dir(made).map_err(CheckpointError::io(made, "create"))?;
        }
        self.products
            .iter()
            .try_for_each(|product| product.write(self.session, weights, made).map_err(Failed::Merged))
    }

    /// Adds a file to `made`.
    pub(super) fn add(&self, made: &Path, name: &str, bytes: &[u8]) -> Result<(), Failed> {
        Ok(write_file(&made.join(name), bytes, true)?)
    }

    /// Adds log, recipe, card, page and record.
    pub(super) fn explain(
        &self,
        made: &Path,
        metrics: &str,
        page: &str,
        record: &Value,
        coefficients: Vec<f64>,
    ) -> Result<(), Failed> {
        let add = |name: &str, bytes: &[u8]| self.add(made, name, bytes);
        add(METRICS, metrics.as_bytes())?;
        add("recipe.yaml", self.session.recipe.text.as_bytes())?;
        add("README.md", report::model_card(&self.card(coefficients, record)).as_bytes())?;
        add("report.html", page.as_bytes())?;
        add("onefold.json", &pretty(record))
    }

    /// How it went, in a few lines.
    pub(super) fn tell(&self, text: &str, record: &Value) {
        let Session { shell, args, begin, .. } = *self.session;
        shell.say(text);
        for (task, scores) in record["result"]["tasks"].as_object().into_iter().flatten() {
            let figure = |part: &str| match scores[part]["accuracy"].as_f64() {
                Some(accuracy) => format!("{:.1} %", 100.0 * accuracy),
                None => {
                    scores[part]["entropy"].as_f64().map_or("–".to_owned(), |e| format!("entropy {e:.3}"))
                }
            };
            let corrected = match scores["surgery"] {
                Value::Null => String::new(),
                _ => format!(", with surgery {}", figure("surgery")),
            };
            let [before, after, expert] = ["before", "after", "expert"].map(figure);
            shell.say(&format!("  {task}: {before} → {after}{corrected}, its expert {expert}"));
        }
        shell.event("result", &record["result"]);
        shell.event("done", &args.output.display().to_string());
        shell.say(&format!("{} ({:.1} s)", args.output.display(), begin.elapsed().as_secs_f64()));
    }

    fn title(&self) -> String {
        let out = &self.session.args.output;
        out.file_name().map_or_else(|| "adapted".into(), |name| name.to_string_lossy().into_owned())
    }

    fn command(&self) -> String {
        let Session { args, common, .. } = self.session;
        let path = |path: &Path| quoted(&path.display().to_string());
        let mut command = format!("onefold adapt {} -o {}", path(&args.recipe), path(&args.output));
        args.sets.iter().for_each(|set| command += &format!(" --set {}", quoted(set)));
        if common.seed != 0 {
            command += &format!(" --seed {}", common.seed);
        }
        if args.transductive {
            command += " --transductive";
        }
        if args.lenient {
            command += " --lenient";
        }
        command
    }

    fn facts(&self) -> BTreeMap<&'static str, String> {
        let mut facts = BTreeMap::from([
            ("time", format!("{:.2} s", self.session.begin.elapsed().as_secs_f64())),
            ("threads", rayon::current_num_threads().to_string()),
            ("seed", self.session.recipe.seed().to_string()),
            ("onefold", env!("CARGO_PKG_VERSION").to_owned()),
            ("predicted memory", show_bytes(total(self.memory))),
        ]);
        facts.extend(memory().map(|(peak, _)| ("peak memory", show_bytes(peak))));
        facts
    }

    fn card(&self, coefficients: Vec<f64>, record: &Value) -> CardInfo {
        let source = |model: &Model| CardSource {
            name: model.label.clone(),
            local: model.local,
            license: model.stated_licence(),
        };
        let experts = self.session.experts();
        CardInfo {
            title: self.title(),
            method: json!(self.session.recipe)["merge_method"].as_str().unwrap_or_default().to_owned(),
            base: Some(source(self.session.base())),
            experts: experts.into_iter().map(source).collect(),
            coefficients,
            scores: card_scores(record),
            recipe: self.session.recipe.text.clone(),
            command: Some(self.command()),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            ..CardInfo::default()
        }
    }

    /// `onefold.json`; `result` says what came of the road that was taken.
    pub(super) fn json(&self, metrics: &str, mut result: Value) -> Value {
        let Session { args, .. } = self.session;
        let Ready { data, files, job, .. } = self.ready;
        let models: Map<String, Value> = (self.session.models().iter())
            .map(|model| (model.label.clone(), json!(fingerprints(model))))
            .collect();
        result["products"] = self.products.iter().map(|product| json!(product.dir)).collect();
        let lines = lines(metrics);
        result["tasks"] = scores(&lines, self.kept);
        surgery::result(self, &lines).into_iter().for_each(|found| result["surgery"] = found);
        let of_task =
            |task: &Task| json!({"task": task.name, "inputs": task.train.len(), "counts": task.counts});
        json!({
            "format": "onefold.run/1",
            "kind": "adapt",
            "title": self.title(),
            "job": job,
            "command": self.command(),
            "recipe": self.session.recipe,
            "set": args.sets,
            "inputs": {"models": models, "data": files},
            "run": self.facts(),
            "warnings": warnings(metrics),
            "data": data.inputs.iter().map(of_task).collect::<Vec<_>>(),
            "result": result,
        })
    }
}

fn lines(metrics: &str) -> Vec<Value> {
    metrics.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

/// Of each task that is scored: its expert, the model before learning and after it, and the latter with its features corrected.
fn scores(lines: &[Value], kept: u64) -> Value {
    let mut tasks: Map<String, Value> = Map::new();
    for line in lines {
        match line["kind"].as_str() {
            Some(kind @ ("expert" | "surgery")) if !line["score"].is_null() => {
                let task = line["task"].as_str().unwrap_or_default().to_owned();
                tasks.entry(task).or_insert_with(|| json!({}))[kind] = line["score"].clone();
            }
            Some("score") => {
                for (task, score) in line["tasks"].as_object().into_iter().flatten() {
                    let entry = tasks.entry(task.clone()).or_insert_with(|| json!({}));
                    if line["step"] == 0 {
                        entry["before"] = score.clone();
                    }
                    if line["step"].as_u64().is_some_and(|step| step <= kept || entry.get("after").is_none())
                    {
                        entry["after"] = score.clone();
                    }
                }
            }
            _ => {}
        }
    }
    Value::Object(tasks)
}

/// What predictions looked like at the end, where they seem to have collapsed.
fn warnings(metrics: &str) -> Vec<String> {
    let last = lines(metrics).into_iter().rfind(|line| line["kind"] == "score");
    let tasks = last.as_ref().and_then(|line| line["tasks"].as_object()).into_iter().flatten();
    let collapse = |(task, score): (&String, &Value)| {
        let predictions: onefold_train::adapt::Predictions =
            serde_json::from_value(score.get("predictions")?.clone()).ok()?;
        Some(format!("task `{task}` seems to have collapsed: {}", predictions.collapse()?))
    };
    tasks.filter_map(collapse).collect()
}

/// Accuracies of the tasks, for the card.
fn card_scores(record: &Value) -> Vec<CardScores> {
    let tasks = record["result"]["tasks"].as_object().into_iter().flatten();
    let of = |(task, scores): (&String, &Value)| {
        let of = |part: &str| scores[part]["accuracy"].as_f64();
        let [expert, before, after, surgery] = ["expert", "before", "after", "surgery"].map(of);
        CardScores { task: task.clone(), expert, before, after, surgery }
    };
    let all = tasks.map(of).filter(|scores| scores.after.is_some());
    all.collect()
}

fn pretty(value: &Value) -> Vec<u8> {
    let mut text = serde_json::to_vec_pretty(value).unwrap_or_default();
    text.push(b'\n');
    text
}
