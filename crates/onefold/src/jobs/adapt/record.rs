//! The result with the files that explain it: coefficients, merged models, log, report, card, recipe, and `onefold.json`.

use std::collections::BTreeMap;
use std::path::Path;

use onefold_checkpoint::CheckpointError;
use onefold_checkpoint::output::{RunDir, write_file};
use onefold_train::adapt::{Adapted, METRICS, Memory};
use serde_json::{Map, Value, json};

use super::dry_run::total;
use super::products::{self, COEFFICIENTS, Product};
use super::{Data, Session};
use crate::jobs::fingerprint::fingerprints;
use crate::jobs::{memory, quoted, show_bytes};
use crate::models::Model;
use crate::progress::Failure;
use crate::report::{self, CardInfo, CardSource, counted};

/// Learning that is over.
pub(super) struct Run<'a> {
    pub(super) session: &'a Session<'a>,
    pub(super) data: &'a Data,
    pub(super) products: &'a [Product],
    pub(super) memory: &'a Memory,
}

/// A failure on the way to the result.
enum Failed {
    Written(CheckpointError),
    Merged(Failure),
}

impl From<CheckpointError> for Failed {
    fn from(error: CheckpointError) -> Self {
        Self::Written(error)
    }
}

impl Run<'_> {
    /// Writes the output and all that explains it, and moves it to its place.
    pub(super) fn finish(
        &self,
        run: RunDir,
        adapted: &Adapted,
        job: &str,
        inputs: &[Value],
    ) -> Result<(), Failure> {
        let Session { shell, args, recipe, .. } = *self.session;
        let path = run.path().join(METRICS);
        let metrics =
            std::fs::read(&path).map_err(CheckpointError::io(&path, "read")).map_err(Failure::job)?;
        let text = String::from_utf8_lossy(&metrics).into_owned();
        let learnt = products::learnt(self.session, adapted);
        let record = self.record(adapted, job, inputs, &text);
        let place = run.path().to_owned();
        run.finish(|made| -> Result<(), Failed> {
            if self.products.iter().any(|product| product.dir.is_some()) {
                std::fs::create_dir(made).map_err(CheckpointError::io(made, "create"))?;
            }
            for product in self.products {
                product.write(self.session, &learnt, made).map_err(Failed::Merged)?;
            }
            let add = |name: &str, bytes: &[u8]| write_file(&made.join(name), bytes, true);
            add(COEFFICIENTS, learnt.to_json(&self.about(adapted)).as_bytes())?;
            add(METRICS, &metrics)?;
            add("recipe.yaml", recipe.text.as_bytes())?;
            add("README.md", report::model_card(&self.card(adapted)).as_bytes())?;
            add("report.html", report::adapt::page(&text, &record, &learnt).as_bytes())?;
            Ok(add("onefold.json", &pretty(&record))?)
        })
        .map_err(|error| {
            let kept = format!(
                "what was learnt is kept in {}, the same command goes on from there",
                place.display()
            );
            match error {
                Failed::Written(error) => Failure::Job(format!("{error}; {kept}")),
                Failed::Merged(Failure::Job(error)) => Failure::Job(format!("{error}; {kept}")),
                Failed::Merged(failure) => failure,
            }
        })?;
        self.tell(adapted, &record);
        shell.event("result", &record["result"]);
        shell.event("done", &args.output.display().to_string());
        let seconds = self.session.begin.elapsed().as_secs_f64();
        shell.say(&format!("{} ({seconds:.1} s)", args.output.display()));
        Ok(())
    }

    /// How it went, in a few lines.
    fn tell(&self, adapted: &Adapted, record: &Value) {
        let shell = self.session.shell;
        let mut text = counted(adapted.steps, "step");
        if let Some(why) = &adapted.ended {
            text += &format!("; ended early: {why}; the coefficients are those of step {}", adapted.kept);
        }
        shell.say(&text);
        for (task, scores) in record["result"]["tasks"].as_object().into_iter().flatten() {
            let figure = |part: &str| match scores[part]["accuracy"].as_f64() {
                Some(accuracy) => format!("{:.1} %", 100.0 * accuracy),
                None => {
                    scores[part]["entropy"].as_f64().map_or("–".to_owned(), |e| format!("entropy {e:.3}"))
                }
            };
            shell.say(&format!(
                "  {task}: {} → {}, its expert {}",
                figure("before"),
                figure("after"),
                figure("expert")
            ));
        }
    }

    /// How the coefficients came about, for their file.
    fn about(&self, adapted: &Adapted) -> Map<String, Value> {
        let written = json!(self.session.recipe);
        let tasks: Vec<_> = self.session.recipe.models.iter().map(|(_, task)| task).collect();
        let mut about = Map::new();
        about.insert("onefold".to_owned(), json!(env!("CARGO_PKG_VERSION")));
        about.insert("method".to_owned(), written["merge_method"].clone());
        if let Some(density) = written.get("density") {
            about.insert("density".to_owned(), density.clone());
        }
        about.insert("base_model".to_owned(), written["base_model"].clone());
        about.insert("tasks".to_owned(), json!(tasks));
        about.insert("granularity".to_owned(), written["granularity"].clone());
        about.insert("objective".to_owned(), written["objective"].clone());
        about.insert("steps".to_owned(), json!(adapted.steps));
        about.insert("kept".to_owned(), json!(adapted.kept));
        about
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
            ("seed", self.session.recipe.settings.seed.to_string()),
            ("onefold", env!("CARGO_PKG_VERSION").to_owned()),
            ("predicted memory", show_bytes(total(self.memory))),
        ]);
        facts.extend(memory().map(|(peak, _)| ("peak memory", show_bytes(peak))));
        facts
    }

    fn card(&self, adapted: &Adapted) -> CardInfo {
        let source = |model: &Model| CardSource {
            name: model.label.clone(),
            local: model.local,
            license: model.stated_licence(),
        };
        let experts = self.session.experts();
        let one = if adapted.lambda.len() == 1 { adapted.lambda[0].clone() } else { Vec::new() };
        CardInfo {
            title: self.title(),
            method: json!(self.session.recipe)["merge_method"].as_str().unwrap_or_default().to_owned(),
            base: Some(source(self.session.base())),
            experts: experts.into_iter().map(source).collect(),
            coefficients: one,
            recipe: self.session.recipe.text.clone(),
            command: Some(self.command()),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            ..CardInfo::default()
        }
    }

    /// `onefold.json`.
    fn record(&self, adapted: &Adapted, job: &str, inputs: &[Value], metrics: &str) -> Value {
        let Session { args, .. } = self.session;
        let models: Map<String, Value> = (self.session.models().iter())
            .map(|model| (model.label.clone(), json!(fingerprints(model))))
            .collect();
        json!({
            "format": "onefold.run/1",
            "kind": "adapt",
            "title": self.title(),
            "job": job,
            "command": self.command(),
            "recipe": self.session.recipe,
            "set": args.sets,
            "inputs": {"models": models, "data": inputs},
            "run": self.facts(),
            "warnings": warnings(metrics),
            "data": self.data.inputs.iter().map(|task| json!({"task": task.name, "inputs": task.train.len(), "counts": task.counts})).collect::<Vec<_>>(),
            "result": {
                "steps": adapted.steps,
                "kept": adapted.kept,
                "ended": adapted.ended,
                "products": self.products.iter().map(|product| &product.dir).collect::<Vec<_>>(),
                "tasks": scores(metrics, adapted.kept),
            },
        })
    }
}

fn lines(metrics: &str) -> Vec<Value> {
    metrics.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

/// Of each task that is scored: its expert, the model before learning and after it.
fn scores(metrics: &str, kept: u64) -> Value {
    let lines = lines(metrics);
    let mut tasks: Map<String, Value> = Map::new();
    for line in &lines {
        match line["kind"].as_str() {
            Some("expert") => {
                let task = line["task"].as_str().unwrap_or_default().to_owned();
                tasks.entry(task).or_insert_with(|| json!({}))["expert"] = line["score"].clone();
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

fn pretty(value: &Value) -> Vec<u8> {
    let mut text = serde_json::to_vec_pretty(value).unwrap_or_default();
    text.push(b'\n');
    text
}
