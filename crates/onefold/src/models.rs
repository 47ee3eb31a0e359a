//! Opening the models that a recipe names: resolve the reference, read every header, apply the adapter.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use onefold_checkpoint::emr::{Artefact, MODEL_FILES, Manifest};
use onefold_checkpoint::{Checkpoint, CheckpointError, adapter};
use serde_json::Value;

use crate::hub::{self, HubConfig, HubError, HubEvent, Origin};
use crate::recipe::{AdapterRef, ModelRef, Recipe, did_you_mean, listed};

/// A model whose headers were read.
#[derive(Debug)]
pub struct Model {
    /// The reference as text, local paths in their plain form: how messages and the report name the model, and what its
    /// random masks depend on.
    pub label: String,
    /// Its tensors.
    pub checkpoint: Checkpoint,
    /// Its `config.json`, if it has one.
    pub config: Option<Value>,
    /// Whether it is a local directory (and not a hub name).
    pub local: bool,
    /// Every directory that is read for it.
    pub dirs: Vec<PathBuf>,
    /// The reference with local paths made absolute: what names it from anywhere.
    pub origin: ModelRef,
    /// Whether it is one task's model out of an EMR artefact.
    pub extracted: bool,
}

/// A model to be opened.
#[derive(Debug, Clone, Copy)]
pub struct Wanted<'r> {
    /// The model.
    pub model: &'r ModelRef,
    /// If it is an EMR artefact: the base to put it on, in place of the one it names.
    pub base: Option<&'r ModelRef>,
}

impl<'r> Wanted<'r> {
    /// All models of a recipe.
    pub fn of(recipe: &'r Recipe) -> Vec<Self> {
        let base = recipe.base_model.as_ref();
        recipe.references().into_iter().map(|model| Self { model, base }).collect()
    }
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
    /// Opens all that is `wanted`; `named` maps the names of other merges to their outputs.
    ///
    /// # Errors
    /// Everything that is wrong with any of them, one sentence each.
    pub fn open(
        wanted: &[Wanted<'_>],
        named: &BTreeMap<String, PathBuf>,
        recipe_dir: &Path,
        config: &HubConfig,
        events: &mut dyn FnMut(HubEvent<'_>),
    ) -> Result<Self, Vec<String>> {
        let mut library = Self::default();
        let mut problems = Vec::new();
        let mut opener = Opener { named, recipe_dir, config: config.clone(), events, missed: None };
        for wanted in wanted {
            if library.models.contains_key(wanted.model) {
                continue;
            }
            match opener.open(*wanted) {
                Ok(model) => {
                    library.models.insert(wanted.model.clone(), model);
                }
                Err(more) => {
                    let new: Vec<_> = more.into_iter().filter(|p| !problems.contains(p)).collect();
                    problems.extend(new);
                }
            }
        }
        problems.extend(opener.missed.map(|missed| missed.sentence()));
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

/// Opens one model after the other.
struct Opener<'a> {
    named: &'a BTreeMap<String, PathBuf>,
    recipe_dir: &'a Path,
    config: HubConfig,
    events: &'a mut dyn FnMut(HubEvent<'_>),
    missed: Option<Missed>,
}

/// What a hub that does not answer keeps from being opened. It is asked once: each further model would wait as long.
struct Missed {
    error: HubError,
    models: Vec<String>,
}

impl Missed {
    fn sentence(&self) -> String {
        let names = self.models.join(", ");
        let what = if self.models.len() == 1 { "model" } else { "models" };
        format!(
            "{what} {names}: {}; or name directories that exist (nothing is fetched for them or for what is in the \
             cache already)",
            self.error
        )
    }
}

impl Opener<'_> {
    fn open(&mut self, wanted: Wanted<'_>) -> Result<Model, Vec<String>> {
        let reference = wanted.model;
        let label = reference.to_string();
        let several = |errors: Vec<onefold_checkpoint::CheckpointError>| {
            errors.iter().map(|e| format!("model {label}: {e}")).collect::<Vec<_>>()
        };
        let named = self.named.get(&reference.path).filter(|_| reference.revision.is_none());
        let (dir, local) = match named {
            Some(dir) => (dir.clone(), true),
            None => {
                self.resolve(&label, &reference.path, reference.revision.as_deref(), hub::Wanted::Model)?
            }
        };
        let extracted = Artefact::is_at(&dir);
        let mut own = reference.clone();
        let mut origin = reference.clone();
        if local {
            own.path = plain_path(&own.path);
            origin.path = absolute(&dir);
        }
        let (mut checkpoint, mut dirs) = if extracted {
            self.extract(wanted, &dir)?
        } else {
            // Here it is only a name, which the model's own is not to depend on.
            own.task = None;
            (Checkpoint::open(&dir).map_err(several)?, vec![dir])
        };
        if let Some(lora) = &mut own.lora {
            let (dir, local) =
                self.resolve(&label, &lora.path, lora.revision.as_deref(), hub::Wanted::Adapter)?;
            checkpoint = adapter::apply(checkpoint, &dir).map_err(several)?;
            if let Some(origin) = origin.lora.as_mut().filter(|_| local) {
                origin.path = absolute(&dir);
            }
            dirs.push(dir);
            if local {
                lora.path = plain_path(&lora.path);
            }
        }
        let config = read_config(&checkpoint.dir().join("config.json"))
            .map_err(|problem| vec![format!("model {label}: {problem}")])?;
        Ok(Model { label: own.to_string(), checkpoint, config, local, dirs, origin, extracted })
    }

    /// One task's model out of the artefact in `dir`, and all directories that are read for it.
    fn extract(&mut self, wanted: Wanted<'_>, dir: &Path) -> Result<(Checkpoint, Vec<PathBuf>), Vec<String>> {
        let label = wanted.model.to_string();
        let say = |problem: String| format!("model {label}: {problem}");
        let several =
            |errors: Vec<CheckpointError>| errors.iter().map(|e| say(e.to_string())).collect::<Vec<_>>();
        let artefact = Artefact::open(dir).map_err(several)?;
        let task = task(artefact.manifest(), wanted.model.task.as_deref()).map_err(|e| vec![say(e)])?;
        let named = named_base(artefact.manifest());
        let base = wanted.base.unwrap_or(&named);
        let base = self.open(Wanted { model: base, base: None }).map_err(|problems| match wanted.base {
            Some(_) => problems,
            None => problems
                .iter()
                .map(|p| say(format!("its base: {p}; if the base has moved, name it as `base_model`")))
                .collect(),
        })?;
        let mut dirs = vec![dir.to_owned(), dir.join(MODEL_FILES)];
        dirs.extend(base.dirs);
        dirs.retain(|dir| dir.is_dir());
        Ok((artefact.extract(base.checkpoint, task).map_err(several)?, dirs))
    }

    /// The directory of a model or adapter, and whether the user named it as such.
    fn resolve(
        &mut self,
        label: &str,
        path: &str,
        revision: Option<&str>,
        what: hub::Wanted,
    ) -> Result<(PathBuf, bool), Vec<String>> {
        match hub::resolve(path, revision, what, self.recipe_dir, &self.config, self.events) {
            Ok(resolved) => Ok((resolved.dir, resolved.origin == Origin::Local)),
            Err(error) => Err(self.failed(label, error)),
        }
    }

    fn failed(&mut self, label: &str, error: HubError) -> Vec<String> {
        match (error, &mut self.missed) {
            (error @ HubError::Unreachable { .. }, None) => {
                self.config.offline = true;
                self.missed = Some(Missed { error, models: vec![label.to_owned()] });
                Vec::new()
            }
            (HubError::OfflineNotCached { .. } | HubError::OfflineIncomplete { .. }, Some(missed)) => {
                missed.models.push(label.to_owned());
                Vec::new()
            }
            (error, _) => vec![format!("model {label}: {error}")],
        }
    }
}

/// Which of an artefact's tasks is meant.
fn task(manifest: &Manifest, wanted: Option<&str>) -> Result<usize, String> {
    let names = || manifest.tasks.iter().map(|t| t.name.as_str());
    let Some(wanted) = wanted else {
        return Err(format!(
            "is an EMR artefact with the tasks {}; say which with `task: …` beside `model`",
            listed(names())
        ));
    };
    names().position(|name| name == wanted).ok_or_else(|| {
        let near = did_you_mean(wanted, names()).map(|near| format!("did you mean `{near}`? "));
        format!("has no task `{wanted}`; {}its tasks are {}", near.unwrap_or_default(), listed(names()))
    })
}

/// The base that an artefact names.
fn named_base(manifest: &Manifest) -> ModelRef {
    let base = manifest.base.clone();
    let lora = base.adapter.map(|a| AdapterRef { path: a.path, revision: a.revision });
    ModelRef { path: base.path, revision: base.revision, lora, override_architecture: None, task: None }
}

/// The path from the root, without links where they can be followed.
fn absolute(dir: &Path) -> String {
    let full = dir.canonicalize().or_else(|_| std::path::absolute(dir));
    full.unwrap_or_else(|_| dir.to_owned()).to_string_lossy().into_owned()
}

/// A local path without `.`, doubled and final slashes, and `..` after a name, so that `a`, `./a` and `a/` are one model: random
/// masks depend on its name. Judged by the text alone, as the same recipe must mean the same masks wherever it lies.
fn plain_path(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/').filter(|part| !part.is_empty() && *part != ".") {
        match parts.last() {
            Some(&last) if part == ".." && last != ".." && last != "~" => drop(parts.pop()),
            None if part == ".." && path.starts_with('/') => {}
            _ => parts.push(part),
        }
    }
    let joined = parts.join("/");
    match (path.starts_with('/'), joined.is_empty()) {
        (true, _) => format!("/{joined}"),
        (false, true) => ".".to_owned(),
        (false, false) => joined,
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_local_path_has_one_name() {
        for same in ["a/b", "./a/b", "a//b/", "a/./b", "a/x/../b", "x/../a/b"] {
            assert_eq!(plain_path(same), "a/b", "{same}");
        }
        assert_eq!(
            ["../a", "../../a/.", "/a/../../b", "/", ".", "a/.."].map(plain_path),
            ["../a", "../../a", "/b", "/", ".", "."]
        );
        assert_eq!(["~/a", "~/../a", "~"].map(plain_path), ["~/a", "~/../a", "~"]);
    }

    #[test]
    fn a_hub_that_does_not_answer_is_asked_once() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let asked = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
        let count = asked.clone();
        // Takes every connection and says nothing on it.
        std::thread::spawn(move || {
            for connection in listener.incoming() {
                count.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
                drop(connection);
            }
        });
        let dir = tempfile::tempdir().unwrap();
        let config = HubConfig {
            cache: Some(dir.path().join("cache")),
            endpoint: format!("http://{address}"),
            retries: 0,
            ..HubConfig::default()
        };
        let references =
            ["org/a", "org/b+org/c", "./none", "org/d"].map(|text| ModelRef::parse(text).unwrap());
        let references: Vec<Wanted<'_>> =
            references.iter().map(|model| Wanted { model, base: None }).collect();
        let open = |config: &HubConfig| {
            Library::open(&references, &BTreeMap::new(), dir.path(), config, &mut |_| {}).unwrap_err()
        };
        let problems = open(&config);
        assert_eq!(asked.load(std::sync::atomic::Ordering::SeqCst), 1);
        assert_eq!(problems.len(), 2, "{problems:?}");
        assert!(problems[0].contains("./none"), "{problems:?}");
        for part in
            ["models org/a, org/b+org/c, org/d: no answer from http", "check the network", "directories"]
        {
            assert!(problems[1].contains(part), "`{part}` is not in {problems:?}");
        }
        // Whoever asked for no network is told so for each.
        let problems = open(&HubConfig { offline: true, ..config });
        assert_eq!(
            problems.iter().filter(|p| p.contains("network is switched off")).count(),
            3,
            "{problems:?}"
        );
    }
}
