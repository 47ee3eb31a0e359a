//! After the merge features are corrected (`surgery` of the recipe): products → a module for each task, beside its product.

use std::path::Path;

use onefold_checkpoint::{Checkpoint, CheckpointError};
use onefold_train::adapt::{self, Blend, Correction, Operation, Scoring};
use onefold_train::statistics::{Statistics, SurgerySettings};
use serde_json::{Value, json};

use super::products::Product;
use super::record::{Failed, Record};
use super::{Data, Session, refused};
use crate::progress::Failure;
use crate::report::counted;

/// Name of the file of a correction, beside the model that it corrects.
const SURGERY: &str = "surgery.safetensors";
/// Where one is written, beside the model, before it has its place.
const MADE: &str = "surgery";

/// What will be corrected.
pub(super) struct Surgeries {
    settings: SurgerySettings,
    /// Of each task.
    corrections: Vec<Correction>,
}

impl Surgeries {
    /// What the recipe asks for, if it does.
    pub(super) fn of(session: &Session<'_>, blend: &Blend, data: &Data) -> Result<Option<Self>, Failure> {
        let Some(settings) = session.recipe.surgery else { return Ok(None) };
        let corrections =
            adapt::corrections(blend, &data.inputs, &settings, session.source()).map_err(refused)?;
        Ok(Some(Self { settings, corrections }))
    }

    /// Memory that is taken at most: of one task after the other.
    pub(super) fn bytes(&self) -> u64 {
        self.corrections.iter().map(|correction| correction.bytes).max().unwrap_or(0)
    }

    /// What will be done, in words.
    pub(super) fn told(&self) -> String {
        let SurgerySettings { rank, steps, batch, .. } = self.settings;
        let one = |of: &Correction| {
            let parameters = counted(of.parameters as u64, "parameter");
            format!("{}: {parameters} before `{}`, of {} inputs", of.task, of.module, of.examples)
        };
        let each: Vec<String> = self.corrections.iter().map(one).collect();
        format!("rank {rank}, {steps} steps of {batch} inputs; {}", each.join("; "))
    }

    /// The same for programs.
    pub(super) fn facts(&self) -> Value {
        json!(self.corrections)
    }

    /// Learns the corrections of the products in `made`, and puts each beside its model.
    pub(super) fn operate(
        &self,
        record: &Record<'_>,
        scoring: &mut Scoring<'_>,
        made: &Path,
    ) -> Result<(), Failed> {
        for (task, expert) in record.ready.data.experts.iter().enumerate() {
            let (Some(expert), correction) = (*expert, &self.corrections[task]) else { continue };
            let merged = Product::place(record.products, expert, made);
            let checkpoint =
                Checkpoint::open(&merged).map_err(|errors| Failed::Merged(unreadable(&errors)))?;
            let settings = &self.settings;
            let place = merged.join(MADE);
            let operation = Operation { correction, task, expert, merged: &checkpoint, settings };
            scoring.surgery(&operation, &place).map_err(|error| Failed::Merged(refused(error)))?;
            let to = merged.join(SURGERY);
            std::fs::rename(Statistics::file(&place), &to).map_err(CheckpointError::io(&to, "write"))?;
            std::fs::remove_dir_all(&place).map_err(CheckpointError::io(&place, "remove"))?;
        }
        Ok(())
    }
}

/// A product that cannot be read.
pub(super) fn unreadable(errors: &[CheckpointError]) -> Failure {
    Failure::Job(errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))
}

/// The corrections that were learnt, for `onefold.json`, from the lines of the log; none without them.
pub(super) fn result(record: &Record<'_>, lines: &[Value]) -> Option<Value> {
    let of = |line: &Value| {
        let mut found = line.clone();
        let map = found.as_object_mut()?;
        map.remove("kind");
        map.remove("score");
        let expert = record.session.recipe.expert_of(line["task"].as_str()?);
        let product = record.products.iter().find(|product| product.expert() == expert)?;
        let file = product.dir.as_ref().map_or(SURGERY.to_owned(), |dir| format!("{dir}/{SURGERY}"));
        map.insert("file".to_owned(), json!(file));
        Some(found)
    };
    let all: Vec<Value> = lines.iter().filter(|line| line["kind"] == "surgery").filter_map(of).collect();
    (!all.is_empty()).then(|| json!(all))
}
