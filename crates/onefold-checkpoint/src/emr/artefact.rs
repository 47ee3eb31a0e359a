//! Opening an artefact and taking one task's model out of it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::rebuilt::Rebuilt;
use super::{
    EmrError, Fingerprint, MANIFEST, MODEL_FILES, Manifest, STEM, mask_bytes, mask_name, unified_name,
};
use crate::{Checkpoint, CheckpointError, Dtype, Tensor};

/// An artefact whose manifest and headers were read and found consistent. Data is mapped, not read.
#[derive(Debug)]
pub struct Artefact {
    dir: PathBuf,
    manifest: Manifest,
    weights: Checkpoint,
}

impl Artefact {
    /// Whether a directory holds an artefact.
    pub fn is_at(dir: &Path) -> bool {
        dir.join(MANIFEST).is_file()
    }

    /// Opens an artefact.
    ///
    /// # Errors
    /// Every problem of manifest and headers, together.
    pub fn open(dir: &Path) -> Result<Self, Vec<CheckpointError>> {
        let manifest = Manifest::read(dir).map_err(|e| vec![e])?;
        let weights = Checkpoint::open_stem(dir, STEM)?;
        let errors = check(&manifest, weights.tensors());
        if errors.is_empty() {
            return Ok(Self { dir: dir.to_owned(), manifest, weights });
        }
        Err(errors.into_iter().map(|e| CheckpointError::emr(dir, e)).collect())
    }

    /// What `emr.json` says.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Bytes of its weight files.
    pub fn size(&self) -> u64 {
        self.weights.size()
    }

    /// The model of task number `task`: `base` with its merged tensors computed when they are read, in the base's types.
    /// `dir()` of the result is the artefact's folder of model files, if it has one; `files()` are those of both.
    ///
    /// # Errors
    /// If `base` is not the base that the artefact was made with: every tensor that differs.
    ///
    /// # Panics
    /// If there is no such task.
    pub fn extract(self, base: Checkpoint, task: usize) -> Result<Checkpoint, Vec<CheckpointError>> {
        let errors = self.compare(&base);
        if !errors.is_empty() {
            return Err(errors.into_iter().map(|e| CheckpointError::emr(&self.dir, e)).collect());
        }
        let lambda = self.manifest.tasks[task].lambda;
        let rebuilt = |(name, base): (&String, &Tensor)| {
            let unified = self.weights.tensors().get(&unified_name(name))?.clone();
            let masks = self.weights.tensors().get(&mask_name(name))?.clone();
            let elements = Rebuilt { base: base.clone(), unified, masks, task, lambda };
            Some((name.clone(), Tensor::new(base.dtype, base.shape.clone(), Arc::new(elements))))
        };
        let changed = base.tensors().iter().filter_map(rebuilt).collect();
        let files = self.dir.join(MODEL_FILES);
        let dir = if files.is_dir() { files } else { base.dir().to_owned() };
        Ok(base.with_changes(changed, self.weights.files()).in_dir(dir))
    }

    /// Every tensor in which `base` is not the one of the manifest.
    fn compare(&self, base: &Checkpoint) -> Vec<EmrError> {
        let (theirs, ours) = (base.tensors(), &self.manifest.base.tensors);
        let absent = |name: &&String| !ours.contains_key(*name);
        let extra = theirs.keys().filter(absent).map(|name| EmrError::OtherBase {
            tensor: name.clone(),
            found: "there".into(),
            expected: "no such tensor".into(),
        });
        let differs = ours.iter().filter_map(|(name, expected)| {
            let found = theirs.get(name).map(Fingerprint::of);
            (found.as_ref() != Some(expected)).then(|| EmrError::OtherBase {
                tensor: name.clone(),
                found: found.map_or_else(|| "not there".into(), |f| f.to_string()),
                expected: expected.to_string(),
            })
        });
        // Some show that it is another base; thousands would not show it better.
        differs.chain(extra).take(3).collect()
    }
}

/// Whether the tensors are what the manifest speaks of.
fn check(manifest: &Manifest, tensors: &BTreeMap<String, Tensor>) -> Vec<EmrError> {
    let mut errors = Vec::new();
    for (tensor, stored) in tensors {
        let parts = [("unified.", mask_name as fn(&str) -> String), ("mask.", unified_name)];
        let named = parts.iter().find_map(|(prefix, other)| Some((tensor.strip_prefix(prefix)?, other)));
        let float = |base: &&Fingerprint| Dtype::from_safetensors(&base.dtype).is_some_and(Dtype::is_float);
        let known = |weight| manifest.base.tensors.get(weight).filter(float);
        let Some((weight, base, other)) =
            named.and_then(|(weight, other)| Some((weight, known(weight)?, other(weight))))
        else {
            errors.push(EmrError::UnknownTensor { tensor: tensor.clone() });
            continue;
        };
        if !tensors.contains_key(&other) {
            errors.push(EmrError::Incomplete { present: tensor.clone(), missing: other });
        }
        let (fits, expected) = if *tensor == unified_name(weight) {
            let fits = stored.dtype.is_float() && stored.shape == base.shape;
            (fits, format!("floating point of shape {:?}", base.shape))
        } else {
            // The shape is of a file's text: its product may overflow.
            let elements = base.shape.iter().try_fold(1usize, |n, d| n.checked_mul(*d));
            let shape = [manifest.tasks.len(), mask_bytes(elements.unwrap_or(usize::MAX))];
            (stored.dtype == Dtype::U8 && stored.shape == shape, format!("U8 of shape {shape:?}"))
        };
        if !fits {
            let found = format!("{} of shape {:?}", stored.dtype, stored.shape);
            errors.push(EmrError::Shape { tensor: tensor.clone(), found, expected });
        }
    }
    errors
}
