//! The models that a recipe names: where they lie (`locate`, one after the other, as the network may be needed), and what
//! their headers say (`read`, side by side).

mod locate;
mod mask_names;
mod read;
mod trained_on;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use onefold_checkpoint::Checkpoint;
use rayon::prelude::*;
use serde_json::Value;

use self::locate::{Located, Locator};
use self::mask_names::Part;
use crate::hub::{HubConfig, HubEvent};
use crate::recipe::{ModelRef, Recipe};

/// Largest model card that is read; those of the hub are some kilobytes.
const MAX_CARD: u64 = 1 << 20;

/// A model whose headers were read.
#[derive(Debug, Clone)]
pub struct Model {
    /// The reference as text, local paths in their plain form: how messages and the report name the model.
    pub label: String,
    /// What its random masks depend on, and how errors met while merging name it: the same however the
    /// recipe spells the path to it.
    pub mask_name: String,
    /// Names of the tensors that its adapter adds to those of its base.
    pub added: Vec<String>,
    /// Its tensors.
    pub checkpoint: Arc<Checkpoint>,
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
    /// What the user should look at.
    pub warnings: Vec<String>,
    parts: Vec<Part>,
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

    /// What has become of it, in `dir`.
    #[cfg(feature = "train")]
    pub(crate) fn moved_to(&self, dir: &Path, checkpoint: Checkpoint) -> Self {
        Self { checkpoint: Arc::new(checkpoint), dirs: vec![dir.to_owned()], ..self.clone() }
    }

    /// A task vector in the place of an expert: `name` says whose it is, `place` where it lies.
    #[cfg(feature = "train")]
    pub(crate) fn of_vector(name: &str, place: &Path, checkpoint: Checkpoint) -> Self {
        let origin = ModelRef {
            path: name.to_owned(),
            revision: None,
            lora: None,
            override_architecture: None,
            task: None,
        };
        Self {
            label: format!("the vector of {name}"),
            mask_name: name.to_owned(),
            added: Vec::new(),
            checkpoint: Arc::new(checkpoint),
            config: None,
            local: true,
            dirs: vec![place.to_owned()],
            origin,
            extracted: false,
            warnings: Vec::new(),
            parts: Vec::new(),
        }
    }

    /// The licences that it and its adapter state about themselves.
    pub fn stated_licence(&self) -> Option<String> {
        let card = |dir: &PathBuf| {
            let mut bytes = Vec::new();
            File::open(dir.join("README.md")).ok()?.take(MAX_CARD).read_to_end(&mut bytes).ok()?;
            crate::report::licence(&String::from_utf8_lossy(&bytes))
        };
        let mut found: Vec<String> = self.dirs.iter().filter_map(card).collect();
        found.dedup();
        (!found.is_empty()).then(|| found.join(", "))
    }
}

/// Opened models, each once.
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
        Self::default().open_with(wanted, named, recipe_dir, config, events)
    }

    /// The same, without reading again what this library holds.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn open_with(
        &self,
        wanted: &[Wanted<'_>],
        named: &BTreeMap<String, PathBuf>,
        recipe_dir: &Path,
        config: &HubConfig,
        events: &mut dyn FnMut(HubEvent<'_>),
    ) -> Result<Self, Vec<String>> {
        let mut locator = Locator::new(named, recipe_dir, config.clone(), events);
        let (mut library, mut problems) = (Self::default(), Vec::new());
        let mut located: Vec<(&ModelRef, Result<Located, Vec<String>>)> = Vec::new();
        for wanted in wanted {
            // A task's model depends on the base that it is wanted on, too.
            if let Some(known) = self.models.get(wanted.model).filter(|model| !model.extracted) {
                library.models.insert(wanted.model.clone(), known.clone());
            } else if !located.iter().any(|(model, _)| *model == wanted.model) {
                located.push((wanted.model, locator.locate(*wanted)));
            }
        }
        let missed = locator.missed();
        // Of many tensors the headers take long.
        let opened: Vec<(&ModelRef, Result<Model, Vec<String>>)> = located
            .into_par_iter()
            .map(|(model, located)| (model, located.and_then(Located::read)))
            .collect();
        for (reference, model) in opened {
            match model {
                Ok(model) => drop(library.models.insert(reference.clone(), model)),
                Err(more) => {
                    let new: Vec<_> = more.into_iter().filter(|p| !problems.contains(p)).collect();
                    problems.extend(new);
                }
            }
        }
        problems.extend(missed);
        library.name_masks();
        if problems.is_empty() { Ok(library) } else { Err(problems) }
    }

    /// A library of models that are open already.
    #[cfg(feature = "train")]
    pub(crate) fn of(models: impl IntoIterator<Item = (ModelRef, Model)>) -> Self {
        Self { models: models.into_iter().collect() }
    }

    fn name_masks(&mut self) {
        let names = mask_names::mask_names(self.models.values().map(|model| &model.parts[..]));
        for (model, name) in self.models.values_mut().zip(names) {
            model.mask_name = name.unwrap_or_else(|| model.label.clone());
        }
    }

    /// Says of the models of these names where they will lie: they were opened elsewhere, where their headers are already.
    pub(crate) fn set_places(&mut self, named: &BTreeMap<String, PathBuf>) {
        for (reference, model) in &mut self.models {
            if let (Some(place), Some(dir)) = (named.get(&reference.path), model.dirs.first_mut()) {
                *dir = place.clone();
            }
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hub_that_does_not_answer_is_asked_once() {
        asked_once(b"", "no answer from http");
    }

    #[test]
    fn a_hub_that_is_out_of_order_is_asked_once() {
        asked_once(b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n", "503");
    }

    fn asked_once(answer: &'static [u8], said: &str) {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let asked = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
        let count = asked.clone();
        // Takes every connection and says the same on it.
        std::thread::spawn(move || {
            for mut connection in listener.incoming().flatten() {
                count.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
                if !answer.is_empty() {
                    let _ = std::io::Read::read(&mut connection, &mut [0; 4096]);
                    let _ = std::io::Write::write_all(&mut connection, answer);
                }
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
        for part in ["models org/a, org/b+org/c, org/d: ", said, "directories"] {
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
