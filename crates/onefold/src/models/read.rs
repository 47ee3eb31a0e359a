//! What the headers of a located model say.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use onefold_checkpoint::emr::MODEL_FILES;
use onefold_checkpoint::{Checkpoint, CheckpointError, adapter};
use serde_json::Value;

use super::locate::{Extracted, Located, about_base};
use super::{Model, trained_on};

impl Located {
    /// Reads every header and puts the adapter on.
    ///
    /// # Errors
    /// Everything that is wrong with any of them, one sentence each.
    pub(super) fn read(self) -> Result<Model, Vec<String>> {
        let label = &self.label;
        let several = |errors: Vec<CheckpointError>| {
            errors.iter().map(|e| format!("model {label}: {e}")).collect::<Vec<_>>()
        };
        let extracted = self.extracted.is_some();
        let (mut checkpoint, mut dirs) = match self.extracted {
            Some(extracted) => extract(extracted, &self.dir, label)?,
            None => (Checkpoint::open(&self.dir).map_err(several)?, vec![self.dir]),
        };
        let config = read_config(&checkpoint.dir().join("config.json"))
            .map_err(|problem| vec![format!("model {label}: {problem}")])?;
        let (mut added, mut warnings) = (Vec::new(), Vec::new());
        if let Some(dir) = self.adapter {
            let before: BTreeSet<String> = checkpoint.tensors().keys().cloned().collect();
            checkpoint = adapter::apply(checkpoint, &dir).map_err(several)?;
            added.extend(checkpoint.tensors().keys().filter(|name| !before.contains(*name)).cloned());
            let trained_on = adapter::read_config(&dir).map_err(several)?.base_model;
            let (base, config) = (checkpoint.dir(), config.as_ref());
            warnings.extend(trained_on::warning(
                label,
                trained_on.as_deref(),
                &self.plain.path,
                base,
                config,
            ));
            dirs.push(dir);
        }
        let label = self.plain.to_string();
        let Self { local, origin, parts, .. } = self;
        Ok(Model {
            mask_name: label.clone(),
            label,
            added,
            checkpoint,
            config,
            local,
            dirs,
            origin,
            extracted,
            warnings,
            parts,
        })
    }
}

/// The task's model, and all directories that are read for it.
fn extract(extracted: Extracted, dir: &Path, label: &str) -> Result<(Checkpoint, Vec<PathBuf>), Vec<String>> {
    let Extracted { artefact, task, base, named_by_artefact } = extracted;
    let base = base.read().map_err(|problems| about_base(problems, named_by_artefact, label))?;
    let mut dirs = vec![dir.to_owned(), dir.join(MODEL_FILES)];
    dirs.extend(base.dirs);
    dirs.retain(|dir| dir.is_dir());
    let checkpoint = artefact.extract(base.checkpoint, task);
    let say = |errors: Vec<CheckpointError>| -> Vec<String> {
        errors.iter().map(|e| format!("model {label}: {e}")).collect()
    };
    Ok((checkpoint.map_err(say)?, dirs))
}

fn read_config(path: &Path) -> Result<Option<Value>, String> {
    match std::fs::read(path) {
        Ok(text) => serde_json::from_slice(&text)
            .map(Some)
            .map_err(|e| format!("{}: invalid JSON: {e}", path.display())),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(format!("{}: cannot read: {e}", path.display())),
    }
}
