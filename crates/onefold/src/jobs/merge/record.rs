//! The files that explain the result: report, card, recipe, and `onefold.json` for machines.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Instant;

use onefold_checkpoint::emr;
use onefold_checkpoint::output::Output;
use serde_json::json;
use serde_json::value::RawValue;

use super::budget::Budget;
use super::emr::Streamed;
use crate::cli::{Common, DEFAULT_SHARD, MergeArgs};
use crate::jobs::fingerprint::{fingerprints, of_file};
use crate::jobs::{memory, quoted, show_bytes};
use crate::models::{Library, Model};
use crate::plan::Plan;
use crate::progress::{Failure, Shell};
use crate::recipe::Recipe;
use crate::report::{self, CardInfo, CardSource, Derived, Health};
use crate::tokenizer::FileContent;

/// A merge whose tensors are written.
pub(super) struct Run<'a> {
    pub(super) recipe: &'a Recipe,
    pub(super) plan: &'a Plan,
    pub(super) library: &'a Library,
    pub(super) out: &'a Path,
    pub(super) job: &'a str,
    pub(super) args: &'a MergeArgs,
    pub(super) common: &'a Common,
    pub(super) budget: &'a Budget,
    pub(super) begin: Instant,
}

/// A merge of which everything is written but the last step.
pub(super) struct Told {
    health: Health,
    derived: Derived,
    text: String,
}

impl Run<'_> {
    /// Writes everything beside the weights.
    pub(super) fn tell(&self, output: &Output, streamed: &Streamed) -> Result<Told, Failure> {
        for file in &self.plan.files {
            match &file.content {
                FileContent::Copied(from) => output.copy_file(&file.name, from).map_err(Failure::job)?,
                FileContent::New(bytes) => output.add_file(&file.name, bytes).map_err(Failure::job)?,
            }
        }
        let add = |name: &str, bytes: &[u8]| output.add_file(name, bytes).map_err(Failure::job);
        if let Some(manifest) = &streamed.manifest {
            add(emr::MANIFEST, &manifest.to_json())?;
        }
        let health = self.health(output, streamed);
        let derived = report::derive(&health).map_err(Failure::job)?;
        let (text, page) =
            rayon::join(|| report::to_text(&health, &derived), || report::to_html(&health, &derived));
        let (text, page) = (text.map_err(Failure::job)?, page.map_err(Failure::job)?);
        add("report.html", page.as_bytes())?;
        add("recipe.yaml", self.recipe.text.as_bytes())?;
        add("README.md", report::model_card(&self.card(streamed)).as_bytes())?;
        add(
            "onefold.json",
            &serde_json::to_vec_pretty(&self.record(&health, &derived)).map_err(Failure::job)?,
        )?;
        Ok(Told { health, derived, text })
    }

    /// Commits, and shows the health of the result.
    pub(super) fn finish(&self, output: Output, told: &Told, shell: &Shell) -> Result<(), Failure> {
        let Told { health, derived, text } = told;
        let config = self.plan.config.as_deref().map(str::as_bytes);
        let done = output.commit(config).map_err(Failure::job)?;
        if shell.json() {
            let json = report::to_json(health, derived).map_err(Failure::job)?;
            shell.event("health", &RawValue::from_string(json).map_err(Failure::job)?);
        }
        shell.say(text);
        shell.event("done", &done.display().to_string());
        shell.say(&format!("{} ({:.1} s)", done.display(), self.begin.elapsed().as_secs_f64()));
        Ok(())
    }

    fn health(&self, output: &Output, streamed: &Streamed) -> Health {
        let tasks = streamed.manifest.as_ref().map_or(&[][..], |m| &m.tasks);
        let mut health = report::of_merge(self.plan, &streamed.statistics, &self.title());
        health.recipe = Some(self.recipe.text.clone());
        health.command = Some(self.command());
        health.run = self.facts(output);
        health.run.extend(tasks.iter().map(|t| (format!("λ {}", t.name), format!("{:.4}", t.lambda))));
        health
    }

    fn title(&self) -> String {
        let name = self.out.file_name().map_or_else(|| "merged".into(), |n| n.to_string_lossy().into_owned());
        self.recipe.name.as_ref().map_or(name, |n| n.value.clone())
    }

    fn command(&self) -> String {
        let path = |path: &Path| quoted(&path.display().to_string());
        let mut command = format!("onefold merge {} -o {}", path(&self.args.recipe), path(&self.args.output));
        self.args.sets.iter().for_each(|set| command += &format!(" --set {}", quoted(set)));
        if self.common.seed != 0 {
            command += &format!(" --seed {}", self.common.seed);
        }
        if self.args.max_shard_size != DEFAULT_SHARD {
            command += &format!(" --max-shard-size {}", self.args.max_shard_size);
        }
        for (flag, set) in [
            ("--lenient", self.args.lenient),
            ("--allow-missing", self.args.allow_missing),
            ("--crop-embeddings", self.args.crop_embeddings),
            ("--allow-non-finite", self.common.allow_non_finite),
        ] {
            if set {
                command += &format!(" {flag}");
            }
        }
        command
    }

    fn facts(&self, output: &Output) -> Vec<(String, String)> {
        let read: u64 = self.library.all().map(|m| m.checkpoint.size()).sum();
        let mut facts = vec![
            ("time".to_owned(), format!("{:.2} s", self.begin.elapsed().as_secs_f64())),
            ("inputs".to_owned(), show_bytes(read)),
            ("written".to_owned(), show_bytes(output.layout().file_bytes())),
            ("threads".to_owned(), self.budget.threads.to_string()),
            ("seed".to_owned(), self.common.seed.to_string()),
            ("onefold".to_owned(), env!("CARGO_PKG_VERSION").to_owned()),
        ];
        if let Some((peak, anonymous)) = memory() {
            facts.push((
                "peak memory".to_owned(),
                format!(
                    "{} ({} of it anonymous at the end, the rest mapped files)",
                    show_bytes(peak),
                    show_bytes(anonymous)
                ),
            ));
        }
        facts
    }

    fn card(&self, streamed: &Streamed) -> CardInfo {
        let source = |label: &String| {
            let model = self.library.all().find(|m| m.label == *label);
            CardSource {
                name: label.clone(),
                local: model.is_none_or(|m| m.local),
                license: model.and_then(Model::stated_licence),
            }
        };
        // One coefficient per model if all tensors agree.
        let mut per_tensor = streamed.statistics.iter().flatten().filter_map(|s| s.coefficients.clone());
        let first = per_tensor.next().unwrap_or_default();
        let coefficients = if per_tensor.all(|c| c == first) && first.len() == self.plan.operands.len() {
            first
        } else {
            Vec::new()
        };
        let tasks = streamed.manifest.as_ref().map_or(&[][..], |m| &m.tasks);
        CardInfo {
            tasks: tasks.iter().map(|t| (t.name.clone(), t.lambda)).collect(),
            title: self.title(),
            method: self.plan.method.name.to_owned(),
            base: self.plan.origin.as_ref().map(source),
            experts: self.plan.operands.iter().map(source).collect(),
            coefficients,
            recipe: self.recipe.text.clone(),
            command: Some(self.command()),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            ..CardInfo::default()
        }
    }

    /// `onefold.json`.
    fn record(&self, health: &Health, derived: &Derived) -> serde_json::Value {
        let inputs: BTreeMap<&str, Vec<serde_json::Value>> =
            self.library.all().map(|m| (m.label.as_str(), fingerprints(m))).collect();
        let statistics: Vec<_> = self.recipe.statistics().map(|measured| of_file(&measured.file)).collect();
        let facts: BTreeMap<&str, &str> = health.run.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
        json!({
            "format": "onefold.run/1",
            "job": self.job,
            "command": self.command(),
            "recipe": self.recipe,
            "set": self.args.sets,
            "inputs": inputs,
            "statistics": statistics,
            "run": facts,
            "notes": self.plan.notes,
            "warnings": self.plan.warnings,
            "health": derived,
            "tokens": self.plan.vocabulary.as_ref().map(|b| &b.report),
        })
    }
}
