//! The result with the files that explain it: log, report, card, recipe, and `onefold.json` for machines.
//!
//! A line of `metrics.jsonl` is of one `kind`: `train` (a line of a task's tuning, with `round` and `task`), `tuned` (what came of
//! it), `round` (what the merge saw of the vectors) and `validation` (scores of the round's model; round 0 is the first one).

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use onefold_checkpoint::CheckpointError;
use onefold_checkpoint::output::{RunDir, link, write_file};
use onefold_train::data::Task;
use onefold_train::data::doctor::Severity;
use onefold_train::tensorboard;
use onefold_train::tune::{EVENTS, METRICS};
use serde_json::{Map, Value, json};

use super::part::{RECORD, pretty};
use super::product;
use super::round::ROUND;
use super::rounds::{Outcome, Ready, Session, headed, heads, model_of, total};
use super::stop::{Judged, Scores};
use crate::jobs::fingerprint::fingerprints;
use crate::jobs::tune::dry_run::epochs;
use crate::jobs::{memory, quoted, show_bytes};
use crate::progress::Failure;
use crate::recipe::alternate::Adapters;
use crate::report::{self, CardSource, TunedCard, counted};

/// Rounds that are over.
pub(super) struct Record<'a> {
    pub(super) session: &'a Session<'a>,
    pub(super) ready: &'a Ready,
    pub(super) outcome: &'a Outcome,
}

/// A failure on the way to the result.
enum Failed {
    Written(CheckpointError),
    Made(Failure),
}

impl From<CheckpointError> for Failed {
    fn from(error: CheckpointError) -> Self {
        Self::Written(error)
    }
}

/// What is written down of the rounds, in their order.
pub(super) fn lines(
    run: &RunDir,
    tasks: &[Task],
    last: u64,
    history: &BTreeMap<u64, Scores>,
    judged: &Judged,
) -> Vec<Value> {
    let mut lines = Vec::new();
    for round in 0..=last {
        let dir = run.round(round);
        for task in tasks {
            let dir = dir.join(&task.name);
            let trained = fs::read_to_string(dir.join(METRICS)).unwrap_or_default();
            lines.extend(trained.lines().filter_map(|line| trained_line(line, round, &task.name)));
            lines.extend(with_kind(&dir.join(RECORD), "tuned"));
        }
        lines.extend(with_kind(&dir.join(ROUND), "round"));
        if let Some(scores) = history.get(&round) {
            let (value, best) = (judged.values.get(&round), judged.best == Some(round));
            lines.push(json!({"kind": "validation", "round": round, "aggregate": value, "best": best, "tasks": scores}));
        }
    }
    lines
}

fn with_kind(path: &Path, kind: &str) -> Option<Value> {
    let found: Map<String, Value> = serde_json::from_slice(&fs::read(path).ok()?).ok()?;
    let mut line = Map::from_iter([("kind".to_owned(), json!(kind))]);
    line.extend(found);
    Some(line.into())
}

/// A line of a task's own log, if it is of steps.
fn trained_line(line: &str, round: u64, task: &str) -> Option<Value> {
    let line: Value = serde_json::from_str(line).ok()?;
    let mut found = json!({"kind": "train", "round": round, "task": task});
    for key in
        ["step", "epoch", "lr", "grad_norm", "tokens", "skipped", "seconds", "tokens_per_second", "memory"]
    {
        found[key] = line[key].clone();
    }
    for key in ["loss", "accuracy"] {
        found[key] = line["tasks"][task][key].clone();
    }
    (line["kind"] == "train").then_some(found)
}

impl Record<'_> {
    /// Writes the output and all that explains it, and moves it to its place.
    pub(super) fn finish(&self, run: RunDir) -> Result<(), Failure> {
        let world = self.session.world;
        let shell = world.shell;
        let place = run.path().to_owned();
        let Outcome { rounds, kept, history, judged, .. } = self.outcome;
        let lines = lines(&run, &self.ready.tasks, *rounds, history, judged);
        let metrics: String = lines.iter().map(|line| format!("{line}\n")).collect();
        let heads = heads(&run, *kept, &self.ready.tasks);
        let tasks = headed(&self.ready.tasks, &heads);
        let products: Vec<Option<String>> = match world.recipe.merge.adapters {
            Adapters::Concatenate => vec![None],
            Adapters::Fold => product::products(&tasks).into_iter().map(|product| product.dir).collect(),
        };
        let record = self.record(&lines, &products);
        let model = model_of(world, &run, *kept);
        let keeps = world.recipe.keep_rounds;
        let made = run.finish(|made| -> Result<(), Failed> {
            product::write(world, &model, &tasks, made).map_err(Failed::Made)?;
            let add = |name: &str, bytes: &[u8]| write_file(&made.join(name), bytes, false);
            add(METRICS, metrics.as_bytes())?;
            let log = made.join(EVENTS);
            let folder = log.parent().unwrap_or(made);
            fs::create_dir_all(folder).map_err(CheckpointError::io(folder, "create"))?;
            add(EVENTS, &events(&lines))?;
            add("recipe.yaml", world.recipe.tuning.text.as_bytes())?;
            write_file(
                &made.join("README.md"),
                report::tuned_card(&self.card(&record, &products)).as_bytes(),
                true,
            )?;
            add("report.html", report::alternate::page(&metrics, &record).as_bytes())?;
            add("onefold.json", &pretty(&record))?;
            if keeps {
                for round in 0..=*rounds {
                    let name = format!("round-{round:03}");
                    copy_links(&place.join(&name), &made.join("rounds").join(&name))?;
                }
            }
            Ok(())
        });
        made.map_err(|error| {
            let kept =
                format!("the rounds are kept in {}, the same command goes on from there", place.display());
            match error {
                Failed::Written(error) => Failure::Job(format!("{error}; {kept}")),
                Failed::Made(Failure::Job(error)) => Failure::Job(format!("{error}; {kept}")),
                Failed::Made(failure) => failure,
            }
        })?;
        self.tell(&record);
        shell.event("result", &record["result"]);
        shell.event("done", &self.session.output.display().to_string());
        let seconds = self.session.begin.elapsed().as_secs_f64();
        shell.say(&format!("{} ({seconds:.1} s)", self.session.output.display()));
        Ok(())
    }

    fn tell(&self, record: &Value) {
        let shell = self.session.world.shell;
        let Outcome { rounds, kept, ended, .. } = self.outcome;
        let mut text = counted(*rounds, "round");
        if let Some(why) = ended {
            text += &format!("; ended early: {why}");
        }
        if kept != rounds {
            text += &format!("; the result is that of round {kept}");
        }
        shell.say(&text);
        for (task, figures) in record["result"]["validation"].as_object().into_iter().flatten() {
            let of = |when: &str| match figures[when]["loss"].as_f64() {
                Some(loss) => {
                    format!(
                        "{loss:.4} ({:.1} %)",
                        100.0 * figures[when]["accuracy"].as_f64().unwrap_or_default()
                    )
                }
                None => "–".to_owned(),
            };
            shell.say(&format!("  {task}: {} → {}, tuned alone {}", of("start"), of("result"), of("tuned")));
        }
    }

    fn title(&self) -> String {
        let out = self.session.output;
        out.file_name().map_or_else(|| "alternated".into(), |name| name.to_string_lossy().into_owned())
    }

    fn command(&self) -> String {
        let (world, reading) = (self.session.world, &self.session.args.reading);
        let path = |path: &Path| quoted(&path.display().to_string());
        let mut command = format!("onefold alternate {} -o {}", path(world.file), path(self.session.output));
        reading.sets.iter().for_each(|set| command += &format!(" --set {}", quoted(set)));
        if world.common.seed != 0 {
            command += &format!(" --seed {}", world.common.seed);
        }
        if reading.lenient {
            command += " --lenient";
        }
        command
    }

    fn facts(&self, lines: &[Value]) -> BTreeMap<&'static str, String> {
        let seconds = |kind: &str| -> f64 {
            lines.iter().filter(|line| line["kind"] == kind).filter_map(|line| line["seconds"].as_f64()).sum()
        };
        let mut facts = BTreeMap::from([
            ("time", format!("{:.2} s", self.session.begin.elapsed().as_secs_f64())),
            ("of it tuning", format!("{:.2} s", seconds("tuned"))),
            ("of it merging", format!("{:.2} s", seconds("round"))),
            ("threads", rayon::current_num_threads().to_string()),
            ("seed", self.session.world.recipe.tuning.settings.seed.to_string()),
            ("onefold", env!("CARGO_PKG_VERSION").to_owned()),
            ("predicted memory", show_bytes(total(&self.ready.memory))),
        ]);
        facts.extend(memory().map(|(peak, _)| ("peak memory", show_bytes(peak))));
        facts
    }

    fn card(&self, record: &Value, products: &[Option<String>]) -> TunedCard {
        let world = self.session.world;
        let model = world.base();
        let validation = record["result"]["validation"].as_object().into_iter().flatten();
        TunedCard {
            title: self.title(),
            base: CardSource {
                name: model.label.clone(),
                local: model.local,
                license: model.stated_licence(),
            },
            rounds: Some((self.outcome.kept, world.recipe.merge.method.clone())),
            is_adapter: world.recipe.merge.adapters == Adapters::Concatenate,
            products: products.iter().flatten().cloned().collect(),
            tasks: world.recipe.names(),
            validation: validation
                .map(|(task, of)| (task.clone(), of["result"].clone()))
                .collect::<Map<_, _>>()
                .into(),
            recipe: world.recipe.tuning.text.clone(),
            command: self.command(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            ..TunedCard::default()
        }
    }

    /// `onefold.json`.
    fn record(&self, lines: &[Value], products: &[Option<String>]) -> Value {
        let world = self.session.world;
        let Ready { report, plans, memory, files, job, trained, parameters, .. } = self.ready;
        let Outcome { rounds, kept, ended, judged, .. } = self.outcome;
        let models: Map<String, Value> =
            world.models().iter().map(|model| (model.label.clone(), json!(fingerprints(model)))).collect();
        let of = |severity: Severity| -> Vec<String> {
            let findings = report.findings.iter().filter(|finding| finding.severity == severity);
            findings.map(|finding| format!("task `{}`: {}", finding.task, finding.message)).collect()
        };
        let steps: Map<String, Value> =
            plans.iter().map(|plan| (plan.names[0].clone(), json!(plan.steps))).collect();
        json!({
            "format": "onefold.run/1",
            "kind": "alternate",
            "title": self.title(),
            "job": job,
            "command": self.command(),
            "recipe": world.recipe,
            "shared": world.shared,
            "set": self.session.args.reading.sets,
            "inputs": {"models": models, "data": files},
            "run": self.facts(lines),
            "notes": of(Severity::Note),
            "warnings": of(Severity::Warning),
            "data": report.tasks,
            "plan": {
                "steps_of_a_round": steps,
                "trained_parameters": trained,
                "parameters": parameters,
                "memory": {"parts": memory, "total": total(memory)},
            },
            "result": {
                "rounds": rounds,
                "kept": kept,
                "best": judged.best,
                "ended": ended,
                "products": products,
                "budget": self.budget(lines),
                "validation": self.validation(lines),
            },
        })
    }

    /// What all rounds together took, heads aside.
    fn budget(&self, lines: &[Value]) -> Value {
        let (rounds, tasks) = (self.outcome.rounds, self.ready.tasks.len() as u64);
        let of_round: f64 = self.ready.plans.iter().map(epochs).sum();
        let tuned = || lines.iter().filter(|line| line["kind"] == "tuned" && line["round"] != 0);
        let sum = |key: &str| tuned().filter_map(|line| line[key].as_u64()).sum::<u64>();
        json!({
            "task_epochs": of_round * rounds as f64,
            "epochs_per_task": of_round * rounds as f64 / tasks.max(1) as f64,
            "steps": sum("steps"),
            "tokens": sum("tokens"),
            "tunings": rounds * tasks,
            "merges": rounds,
            "transfers": 2 * rounds * tasks,
        })
    }

    /// Of each task: scores of the first model, of the result, and of the last model that was tuned on it alone.
    fn validation(&self, lines: &[Value]) -> Value {
        let Outcome { kept, history, .. } = self.outcome;
        let scores = |round: u64, task: &str| json!(history.get(&round).and_then(|scores| scores.get(task)));
        let of = |task: &Task| {
            let tuned = lines.iter().rfind(|line| {
                line["kind"] == "tuned" && line["task"] == task.name.as_str() && line["round"] != 0
            });
            let tuned = tuned.map(|line| line["validation"].clone());
            let figures =
                json!({"start": scores(0, &task.name), "result": scores(*kept, &task.name), "tuned": tuned});
            (task.name.clone(), figures)
        };
        let scored = self.ready.tasks.iter().filter(|task| !task.validation.is_empty());
        scored.map(of).collect::<Map<_, _>>().into()
    }
}

/// The numbers of all rounds for TensorBoard.
fn events(lines: &[Value]) -> Vec<u8> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64());
    let mut bytes = tensorboard::header(now);
    for line in lines {
        let mut scalars: Vec<(String, f64)> = Vec::new();
        let mut put = |tag: String, value: &Value| scalars.extend(value.as_f64().map(|value| (tag, value)));
        let task = line["task"].as_str().unwrap_or_default();
        match line["kind"].as_str() {
            Some("tuned") => {
                ["norm", "first_epoch"].iter().for_each(|key| put(format!("{task}/{key}"), &line[*key]));
            }
            Some("round") => {
                let keys = ["mean_cosine", "sign_agreement", "update"];
                keys.iter().for_each(|key| put(format!("round/{key}"), &line[*key]));
                for (task, value) in line["previous"].as_object().into_iter().flatten() {
                    put(format!("{task}/previous"), value);
                }
            }
            Some("validation") => {
                put("validation/aggregate".to_owned(), &line["aggregate"]);
                for (task, scored) in line["tasks"].as_object().into_iter().flatten() {
                    ["loss", "accuracy"]
                        .iter()
                        .for_each(|key| put(format!("{task}/validation/{key}"), &scored[*key]));
                }
            }
            _ => {}
        }
        let round = line["round"].as_u64().unwrap_or_default();
        if !scalars.is_empty() {
            let values = scalars.iter().map(|(tag, value)| (tag.as_str(), *value as f32));
            bytes.extend(tensorboard::scalars(round, now, values));
        }
    }
    bytes
}

/// Gives a directory's files second places, without copying them where the system can.
fn copy_links(from: &Path, to: &Path) -> Result<(), CheckpointError> {
    let Ok(entries) = fs::read_dir(from) else { return Ok(()) };
    fs::create_dir_all(to).map_err(CheckpointError::io(to, "create"))?;
    for entry in entries.flatten() {
        let (path, target) = (entry.path(), to.join(entry.file_name()));
        if path.is_dir() { copy_links(&path, &target)? } else { link(&path, &target)? }
    }
    Ok(())
}
