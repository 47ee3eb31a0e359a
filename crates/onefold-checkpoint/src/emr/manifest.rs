//! `emr.json`: which tasks an artefact holds, their factors, and the base that it belongs to.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::{EmrError, MANIFEST};
use crate::{CheckpointError, Tensor};

/// Version of the format.
const FORMAT: &str = "onefold.emr/1";
/// No manifest is larger: some hundred bytes per tensor of the base.
const LIMIT: u64 = 64 << 20;

/// The whole of `emr.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    format: String,
    /// Version of the program that wrote it.
    pub onefold: String,
    /// How λ was computed: `paper` or `code`.
    pub rescaler: String,
    /// The tasks, in the order of the masks' rows.
    pub tasks: Vec<Task>,
    /// The base θ₀.
    pub base: Base,
}

/// One task.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Task {
    /// Its name in recipes.
    pub name: String,
    /// The expert it came from, as the recipe named it.
    pub model: String,
    /// λ_t.
    pub lambda: f64,
}

/// The base that task vectors were taken from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Base {
    /// Directory (absolute) or hub name.
    pub path: String,
    /// Branch, tag or commit on the hub.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<String>,
    /// Adapter that was applied to it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub adapter: Option<Adapter>,
    /// All its tensors.
    pub tensors: BTreeMap<String, Fingerprint>,
}

/// An adapter of the base.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Adapter {
    /// Directory (absolute) or hub name.
    pub path: String,
    /// Branch, tag or commit on the hub.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<String>,
}

/// What a tensor is recognised by, however its file is cut and named.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fingerprint {
    /// Element type, as safetensors names it.
    pub dtype: String,
    /// Shape.
    pub shape: Vec<usize>,
    /// SHA-256 of 16 pieces of 1024 values, evenly spaced from the first to the last.
    pub sha256: String,
}

/// Pieces of a tensor that its fingerprint looks at. Small tensors are covered by them; of large ones a change of every
/// row is seen, a change of a few elements need not be.
const PIECES: usize = 16;
/// Values of a piece.
const PIECE: usize = 1024;

impl Fingerprint {
    /// The fingerprint of a tensor. Floating point values are taken as f32, others as their bytes.
    pub fn of(tensor: &Tensor) -> Self {
        let mut hash = Sha256::new();
        let (mut values, mut bytes) = (vec![0f32; PIECE], vec![0u8; PIECE * tensor.dtype.size()]);
        for (start, count) in pieces(tensor.len()) {
            if tensor.dtype.is_float() {
                tensor.read(start, &mut values[..count]);
                values[..count].iter().for_each(|v| hash.update(v.to_le_bytes()));
            } else if tensor.read_bytes(start, &mut bytes[..count * tensor.dtype.size()]) {
                hash.update(&bytes[..count * tensor.dtype.size()]);
            }
        }
        let sha256 = hash.finalize().iter().map(|b| format!("{b:02x}")).collect();
        Self { dtype: tensor.dtype.safetensors_name().to_owned(), shape: tensor.shape.clone(), sha256 }
    }
}

/// Type, shape and the beginning of the hash: enough to tell two apart in a message.
impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hash: String = self.sha256.chars().take(12).collect();
        write!(f, "{} {:?} with SHA-256 {hash}…", self.dtype, self.shape)
    }
}

/// First position and length of each piece of `len` values.
fn pieces(len: usize) -> Vec<(usize, usize)> {
    if len <= PIECES * PIECE {
        return (0..len).step_by(PIECE).map(|start| (start, PIECE.min(len - start))).collect();
    }
    // In u128: a shape may be hostile.
    let last = (len - PIECE) as u128;
    (0..PIECES).map(|i| ((last * i as u128 / (PIECES as u128 - 1)) as usize, PIECE)).collect()
}

impl Manifest {
    /// A manifest of the current format.
    pub fn new(onefold: &str, rescaler: &str, tasks: Vec<Task>, base: Base) -> Self {
        let (format, onefold, rescaler) = (FORMAT.to_owned(), onefold.to_owned(), rescaler.to_owned());
        Self { format, onefold, rescaler, tasks, base }
    }

    /// Reads the manifest of an artefact.
    ///
    /// # Errors
    /// If it cannot be read or does not say what it must.
    pub fn read(dir: &Path) -> Result<Self, CheckpointError> {
        let path = dir.join(MANIFEST);
        let found = path.metadata().map_err(CheckpointError::io(&path, "read"))?.len();
        if found > LIMIT {
            return Err(CheckpointError::emr(&path, EmrError::TooLarge { found, limit: LIMIT }));
        }
        let text = std::fs::read(&path).map_err(CheckpointError::io(&path, "read"))?;
        Self::parse(&text).map_err(|source| CheckpointError::emr(&path, source))
    }

    /// Reads the text of a manifest.
    ///
    /// # Errors
    /// If it is no manifest of this format.
    pub fn parse(text: &[u8]) -> Result<Self, EmrError> {
        let invalid = |message: String| EmrError::Invalid { message };
        let value: serde_json::Value = serde_json::from_slice(text).map_err(|e| invalid(e.to_string()))?;
        // The version first: of another one nothing else is known.
        let format = value.get("format").and_then(serde_json::Value::as_str).unwrap_or("none");
        if format != FORMAT {
            let found = format.chars().take(60).collect();
            return Err(EmrError::Format { found, expected: FORMAT });
        }
        let manifest: Self = serde_json::from_value(value).map_err(|e| invalid(e.to_string()))?;
        manifest.check().map_err(invalid)?;
        Ok(manifest)
    }

    fn check(&self) -> Result<(), String> {
        if self.tasks.is_empty() {
            return Err("`tasks` is empty".into());
        }
        for (t, task) in self.tasks.iter().enumerate() {
            if self.tasks[..t].iter().any(|other| other.name == task.name) {
                return Err(format!("two tasks are named `{}`", task.name));
            }
            if !(task.lambda.is_finite() && task.lambda >= 0.0) {
                return Err(format!("task `{}` has the factor {}, expected ≥ 0", task.name, task.lambda));
            }
        }
        Ok(())
    }

    /// The file's text.
    pub fn to_json(&self) -> Vec<u8> {
        let mut text = serde_json::to_vec_pretty(self).expect("strings and numbers serialise");
        text.push(b'\n');
        text
    }
}
