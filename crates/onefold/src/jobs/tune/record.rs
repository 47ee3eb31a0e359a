//! The result of a training with the files that explain it: logs, report, card, recipe, and `onefold.json` for machines.

use std::collections::BTreeMap;
use std::path::Path;

use onefold_checkpoint::CheckpointError;
use onefold_checkpoint::output::{RunDir, write_file};
use onefold_train::data::doctor::{Report, Severity};
use onefold_train::tune::{self, EVENTS, METRICS, Plan, Source, TuneError, Tuned};
use serde_json::{Value, json};

use super::Session;
use super::memory::Predicted;
use crate::jobs::fingerprint::fingerprints;
use crate::jobs::{memory, quoted, show_bytes};
use crate::progress::Failure;
use crate::recipe::tune::TuneRecipe;
use crate::report::{self, CardSource, TunedCard, counted};

/// A training that is over.
pub(super) struct Run<'a> {
    pub(super) session: &'a Session<'a>,
    pub(super) recipe: &'a TuneRecipe,
    pub(super) plan: &'a Plan,
    pub(super) report: &'a Report,
    pub(super) predicted: &'a Predicted,
}

impl Run<'_> {
    /// Writes the output and all that explains it, and moves it to its place.
    pub(super) fn finish(
        &self,
        run: RunDir,
        tuned: &Tuned,
        job: &str,
        inputs: &[Value],
    ) -> Result<(), Failure> {
        let Session { shell, model, dir, args, .. } = *self.session;
        let metrics = read(&run.path().join(METRICS)).map_err(Failure::job)?;
        let events = run.path().join(EVENTS);
        let metrics_text = String::from_utf8_lossy(&metrics).into_owned();
        let record = self.record(tuned, job, inputs, &metrics_text);
        let source = Source { parameters: &tuned.parameters, base: dir, name: &model.label };
        let place = run.path().to_owned();
        run.finish(|made| -> Result<(), TuneError> {
            tune::save(&source, &self.plan.products, self.recipe.output, made)?;
            self.add_template(made)?;
            let add = |name: &str, bytes: &[u8]| write_file(&made.join(name), bytes, false);
            add(METRICS, &metrics)?;
            let log = made.join(EVENTS);
            let folder = log.parent().unwrap_or(made);
            std::fs::create_dir_all(folder).map_err(CheckpointError::io(folder, "create"))?;
            add(EVENTS, &read(&events)?)?;
            add("recipe.yaml", self.recipe.text.as_bytes())?;
            add("README.md", report::tuned_card(&self.card(tuned, &record)).as_bytes())?;
            add("report.html", report::tune::page(&metrics_text, &record).as_bytes())?;
            Ok(add("onefold.json", &pretty(&record))?)
        })
        .map_err(|error| {
            let kept =
                format!("the training is kept in {}, the same command goes on from there", place.display());
            Failure::Job(format!("{error}; {kept}"))
        })?;
        self.tell(tuned, &record);
        shell.event("result", &record["result"]);
        shell.event("done", &args.output.display().to_string());
        shell.say(&format!(
            "{} ({:.1} s)",
            args.output.display(),
            self.session.begin.elapsed().as_secs_f64()
        ));
        Ok(())
    }

    /// What was trained with another template is used with it.
    fn add_template(&self, made: &Path) -> Result<(), TuneError> {
        let Some(text) = &self.recipe.chat_template else { return Ok(()) };
        for product in &self.plan.products {
            let dir = product.dir.as_ref().map_or_else(|| made.to_owned(), |name| made.join(name));
            write_file(&dir.join("chat_template.jinja"), text.as_bytes(), true)?;
        }
        Ok(())
    }

    /// How it went, in a few lines.
    fn tell(&self, tuned: &Tuned, record: &Value) {
        let shell = self.session.shell;
        let mut text = format!("{}, {}", counted(tuned.steps, "step"), counted(tuned.tokens, "token"));
        if tuned.skipped > 0 {
            text += &format!(", {} left out", counted(tuned.skipped, "step"));
        }
        if let Some(why) = &tuned.ended {
            text += &format!("; ended early: {why}");
        }
        shell.say(&text);
        if let Some((step, value)) = tuned.best {
            let kept = if tuned.kept == step { ", which is the result" } else { "" };
            shell.say(&format!("best after step {step}: {value:.4}{kept}"));
        }
        for (task, figures) in record["result"]["validation"].as_object().into_iter().flatten() {
            let figure =
                |key: &str| figures[key].as_f64().map_or("–".to_owned(), |value| format!("{value:.4}"));
            shell.say(&format!("  {task}: loss {}, accuracy {}", figure("loss"), figure("accuracy")));
        }
    }

    fn title(&self) -> String {
        let out = &self.session.args.output;
        out.file_name().map_or_else(|| "tuned".into(), |name| name.to_string_lossy().into_owned())
    }

    fn command(&self) -> String {
        let Session { args, common, .. } = self.session;
        let path = |path: &Path| quoted(&path.display().to_string());
        let mut command = format!("onefold tune {} -o {}", path(&args.recipe), path(&args.output));
        args.sets.iter().for_each(|set| command += &format!(" --set {}", quoted(set)));
        if common.seed != 0 {
            command += &format!(" --seed {}", common.seed);
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
            ("seed", self.recipe.settings.seed.to_string()),
            ("onefold", env!("CARGO_PKG_VERSION").to_owned()),
            ("predicted memory", show_bytes(self.predicted.total())),
        ]);
        facts.extend(memory().map(|(peak, _)| ("peak memory", show_bytes(peak))));
        facts
    }

    fn card(&self, tuned: &Tuned, record: &Value) -> TunedCard {
        let model = self.session.model;
        TunedCard {
            title: self.title(),
            base: CardSource {
                name: model.label.clone(),
                local: model.local,
                license: model.stated_licence(),
            },
            balancer: self.plan.settings.balancer["kind"].as_str().unwrap_or_default().to_owned(),
            is_adapter: self.recipe.output == tune::Form::Adapter,
            products: self.plan.products.iter().filter_map(|product| product.dir.clone()).collect(),
            tasks: self.plan.names.clone(),
            kept: tuned.kept,
            validation: record["result"]["validation"].clone(),
            recipe: self.recipe.text.clone(),
            command: self.command(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            ..TunedCard::default()
        }
    }

    /// `onefold.json`.
    fn record(&self, tuned: &Tuned, job: &str, inputs: &[Value], metrics: &str) -> Value {
        let Session { args, model, .. } = self.session;
        let of = |severity: Severity| -> Vec<String> {
            let findings = self.report.findings.iter().filter(|finding| finding.severity == severity);
            findings.map(|finding| format!("task `{}`: {}", finding.task, finding.message)).collect()
        };
        json!({
            "format": "onefold.run/1",
            "kind": "tune",
            "title": self.title(),
            "job": job,
            "command": self.command(),
            "recipe": self.recipe,
            "set": args.sets,
            "inputs": {"model": {model.label.clone(): fingerprints(model)}, "data": inputs},
            "run": self.facts(),
            "notes": of(Severity::Note),
            "warnings": of(Severity::Warning).into_iter().chain(skipped(tuned)).collect::<Vec<_>>(),
            "data": self.report.tasks,
            "plan": {
                "steps": self.plan.steps,
                "steps_per_epoch": self.plan.steps_per_epoch,
                "trained_parameters": self.predicted.trained,
                "parameters": self.predicted.all,
                "memory": self.predicted.json(),
            },
            "result": {
                "steps": tuned.steps,
                "skipped": tuned.skipped,
                "tokens": tuned.tokens,
                "best": tuned.best.map(|(step, value)| json!({"step": step, "value": value})),
                "kept": tuned.kept,
                "ended": tuned.ended,
                "products": self.plan.products.iter().map(|product| &product.dir).collect::<Vec<_>>(),
                "validation": validation(metrics, tuned.kept),
            },
        })
    }
}

/// Steps that were left out.
fn skipped(tuned: &Tuned) -> Option<String> {
    let why = "their losses or gradients were no numbers";
    (tuned.skipped > 0).then(|| format!("{} of {} steps were left out: {why}", tuned.skipped, tuned.steps))
}

/// What the validation of the step that is kept said of each task, if there was one.
fn validation(metrics: &str, kept: u64) -> Value {
    let mut lines = metrics.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let kept = lines.rfind(|line| line["kind"] == "validation" && line["step"] == kept);
    kept.map_or(Value::Null, |mut line| line["tasks"].take())
}

fn read(path: &Path) -> Result<Vec<u8>, CheckpointError> {
    std::fs::read(path).map_err(CheckpointError::io(path, "read"))
}

fn pretty(value: &Value) -> Vec<u8> {
    let mut text = serde_json::to_vec_pretty(value).unwrap_or_default();
    text.push(b'\n');
    text
}
