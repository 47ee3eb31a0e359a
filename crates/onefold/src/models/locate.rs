//! Where models lie: local folders, outputs of other merges, the hub's cache. What is not there is fetched.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use onefold_checkpoint::emr::{Artefact, Manifest};

use super::Wanted;
use super::mask_names::Part;
use crate::hub::{self, HubConfig, HubError, HubEvent, Origin};
use crate::recipe::{AdapterRef, ModelRef, did_you_mean, listed};

/// A model whose directories are known; no weight file was looked at.
#[derive(Debug)]
pub(super) struct Located {
    /// The reference as the recipe has it.
    pub(super) label: String,
    /// The reference with local paths in their plain form.
    pub(super) plain: ModelRef,
    /// The reference with local paths made absolute.
    pub(super) origin: ModelRef,
    pub(super) dir: PathBuf,
    pub(super) local: bool,
    pub(super) adapter: Option<PathBuf>,
    /// What its random masks are named after.
    pub(super) parts: Vec<Part>,
    /// If it is one task's model out of an EMR artefact.
    pub(super) extracted: Option<Extracted>,
}

/// One task's model out of an EMR artefact.
#[derive(Debug)]
pub(super) struct Extracted {
    pub(super) artefact: Artefact,
    pub(super) task: usize,
    pub(super) base: Box<Located>,
    /// Whether the base is the one that the artefact names, and not the recipe.
    pub(super) named_by_artefact: bool,
}

/// Locates one model after the other.
pub(super) struct Locator<'a> {
    named: &'a BTreeMap<String, PathBuf>,
    recipe_dir: &'a Path,
    config: HubConfig,
    events: &'a mut dyn FnMut(HubEvent<'_>),
    missed: Option<Missed>,
}

/// What a hub that does not work keeps from being opened. It is asked once: each further model would wait as long.
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

impl<'a> Locator<'a> {
    pub(super) fn new(
        named: &'a BTreeMap<String, PathBuf>,
        recipe_dir: &'a Path,
        config: HubConfig,
        events: &'a mut dyn FnMut(HubEvent<'_>),
    ) -> Self {
        Self { named, recipe_dir, config, events, missed: None }
    }

    /// What a hub that does not answer has kept from being located, as one sentence.
    pub(super) fn missed(self) -> Option<String> {
        self.missed.map(|missed| missed.sentence())
    }

    pub(super) fn locate(&mut self, wanted: Wanted<'_>) -> Result<Located, Vec<String>> {
        let reference = wanted.model;
        let label = reference.to_string();
        let named = self.named.get(&reference.path).filter(|_| reference.revision.is_none());
        let (dir, local) = match named {
            Some(dir) => (dir.clone(), true),
            None => {
                self.resolve(&label, &reference.path, reference.revision.as_deref(), hub::Wanted::Model)?
            }
        };
        let extracted = if Artefact::is_at(&dir) { Some(self.extracted(wanted, &dir)?) } else { None };
        let (mut plain, mut origin) = (reference.clone(), reference.clone());
        if local {
            plain.path = plain_path(&plain.path);
            origin.path = absolute(&dir, &origin.path);
        }
        if extracted.is_none() {
            // Here it is only a name, which the model's own is not to depend on.
            plain.task = None;
        }
        let whole = ModelRef { lora: None, ..plain.clone() }.to_string();
        let mut parts = vec![if local && named.is_none() { Part::folder(&dir) } else { Part::Named(whole) }];
        parts.extend(extracted.as_ref().and(reference.task.clone()).map(Part::Named));
        let mut adapter = None;
        if let Some(lora) = &mut plain.lora {
            let (dir, local) =
                self.resolve(&label, &lora.path, lora.revision.as_deref(), hub::Wanted::Adapter)?;
            parts.push(if local { Part::folder(&dir) } else { Part::Named(lora.to_string()) });
            if local {
                lora.path = plain_path(&lora.path);
            }
            if let Some(origin) = origin.lora.as_mut().filter(|_| local) {
                origin.path = absolute(&dir, &origin.path);
            }
            adapter = Some(dir);
        }
        Ok(Located { label, plain, origin, dir, local, adapter, parts, extracted })
    }

    /// The task's model that is wanted of the artefact in `dir`.
    fn extracted(&mut self, wanted: Wanted<'_>, dir: &Path) -> Result<Extracted, Vec<String>> {
        let say = |problem: String| format!("model {}: {problem}", wanted.model);
        let artefact = Artefact::open(dir)
            .map_err(|errors| errors.iter().map(|e| say(e.to_string())).collect::<Vec<_>>())?;
        let task = task(artefact.manifest(), wanted.model.task.as_deref()).map_err(|e| vec![say(e)])?;
        let named = named_base(artefact.manifest());
        let base = self
            .locate(Wanted { model: wanted.base.unwrap_or(&named), base: None })
            .map_err(|problems| about_base(problems, wanted.base.is_none(), &wanted.model.to_string()))?;
        Ok(Extracted { artefact, task, base: Box::new(base), named_by_artefact: wanted.base.is_none() })
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
            (error, None) if error.is_outage() => {
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

/// What is wrong with an artefact's base; if the artefact itself names it, the user must be told whose base it is.
pub(super) fn about_base(problems: Vec<String>, named_by_artefact: bool, label: &str) -> Vec<String> {
    if !named_by_artefact {
        return problems;
    }
    let say =
        |p: &String| format!("model {label}: its base: {p}; if the base has moved, name it as `base_model`");
    problems.iter().map(say).collect()
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

/// The path from the root, without links where they can be followed; as `written` if it lies below a folder whose name is
/// no text.
fn absolute(dir: &Path, written: &str) -> String {
    let full = dir.canonicalize().or_else(|_| std::path::absolute(dir));
    full.ok().as_deref().and_then(Path::to_str).unwrap_or(written).to_owned()
}

/// A local path without `.`, doubled and final slashes, and `..` after a name, so that `a`, `./a` and `a/` are one model.
/// Judged by the text alone: a link keeps its own name.
pub(super) fn plain_path(path: &str) -> String {
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
}
