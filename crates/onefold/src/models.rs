//! Opening the models that a recipe names: resolve the reference, read every header, apply the adapter.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use onefold_checkpoint::{Checkpoint, adapter};
use serde_json::Value;

use crate::hub::{self, HubConfig, HubEvent, Origin, Wanted};
use crate::recipe::ModelRef;

/// A model whose headers were read.
#[derive(Debug)]
pub struct Model {
    /// The reference as text: how messages name the model.
    pub label: String,
    /// Its tensors.
    pub checkpoint: Checkpoint,
    /// Its `config.json`, if it has one.
    pub config: Option<Value>,
    /// Whether it is a local directory (and not a hub name).
    pub local: bool,
    /// Every directory that is read for it.
    pub dirs: Vec<PathBuf>,
}

impl Model {
    /// A key of the config, looked up at the top and then in `text_config`.
    pub fn config_value(&self, key: &str) -> Option<&Value> {
        let config = self.config.as_ref()?;
        config.get(key).or_else(|| config.get("text_config")?.get(key))
    }
}

/// Opens models, each once.
#[derive(Debug, Default)]
pub struct Library {
    models: BTreeMap<ModelRef, Model>,
}

impl Library {
    /// Opens all `references`; `named` maps the names of other merges to their outputs.
    ///
    /// # Errors
    /// Everything that is wrong with any of them, one sentence each.
    pub fn open(
        references: &[&ModelRef],
        named: &BTreeMap<String, PathBuf>,
        recipe_dir: &Path,
        config: &HubConfig,
        events: &mut dyn FnMut(HubEvent<'_>),
    ) -> Result<Self, Vec<String>> {
        let mut library = Self::default();
        let mut problems = Vec::new();
        for reference in references {
            if library.models.contains_key(*reference) {
                continue;
            }
            match open(reference, named, recipe_dir, config, events) {
                Ok(model) => {
                    library.models.insert((*reference).clone(), model);
                }
                Err(more) => {
                    let new: Vec<_> = more.into_iter().filter(|p| !problems.contains(p)).collect();
                    problems.extend(new);
                }
            }
        }
        if problems.is_empty() { Ok(library) } else { Err(problems) }
    }

    /// The model of a reference that was opened.
    pub fn get(&self, reference: &ModelRef) -> &Model {
        self.models.get(reference).expect("every reference of the recipe was opened")
    }

    /// All models, in order of their references.
    pub fn all(&self) -> impl Iterator<Item = &Model> {
        self.models.values()
    }
}

fn open(
    reference: &ModelRef,
    named: &BTreeMap<String, PathBuf>,
    recipe_dir: &Path,
    config: &HubConfig,
    events: &mut dyn FnMut(HubEvent<'_>),
) -> Result<Model, Vec<String>> {
    let label = reference.to_string();
    let say = |problem: String| vec![format!("model {label}: {problem}")];
    let named_dir = (reference.revision.is_none()).then(|| named.get(&reference.path)).flatten();
    let (dir, local) = match named_dir {
        Some(dir) => (dir.clone(), true),
        None => {
            let resolved = hub::resolve(
                &reference.path,
                reference.revision.as_deref(),
                Wanted::Model,
                recipe_dir,
                config,
                events,
            )
            .map_err(|e| say(e.to_string()))?;
            (resolved.dir, resolved.origin == Origin::Local)
        }
    };
    let several = |errors: Vec<onefold_checkpoint::CheckpointError>| {
        errors.iter().map(|e| format!("model {label}: {e}")).collect::<Vec<_>>()
    };
    let mut checkpoint = Checkpoint::open(&dir).map_err(several)?;
    let mut dirs = vec![dir.clone()];
    if let Some(lora) = &reference.lora {
        let resolved =
            hub::resolve(&lora.path, lora.revision.as_deref(), Wanted::Adapter, recipe_dir, config, events)
                .map_err(|e| say(e.to_string()))?;
        checkpoint = adapter::apply(checkpoint, &resolved.dir).map_err(several)?;
        dirs.push(resolved.dir);
    }
    let config = read_config(&checkpoint.dir().join("config.json")).map_err(say)?;
    Ok(Model { label, checkpoint, config, local, dirs })
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
