//! What makes two runs of a job that learns from data the same, so that one resumes the other or need not run at all.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use onefold_train::data::Task;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::jobs::fingerprint::{changed, fingerprints, hex, record_of_job, settings};
use crate::models::Model;
use crate::progress::Failure;

/// A hash of everything that the result depends on: version, kind of the job, resolved recipe (`yaml`), the models' files (names, sizes, times, heads;
/// those beside the weights whole), the content of the data, and how it is read.
pub(super) fn identity(
    (kind, yaml): (&str, &str),
    models: &[&Model],
    tasks: &[&Task],
    data: &[Value],
) -> String {
    let mut hash = Sha256::new();
    for part in [env!("CARGO_PKG_VERSION"), kind, yaml] {
        hash.update(part.as_bytes());
        hash.update([0]);
    }
    for fingerprint in models.iter().flat_map(|model| fingerprints(model)).chain(data.iter().cloned()) {
        hash.update(nameless(fingerprint).to_string().as_bytes());
    }
    // Follows from the recipe and the first rows, but for datasets that another tool describes.
    for (_, layout) in tasks.iter().flat_map(|task| &task.layouts) {
        hash.update(format!("{layout:?}").as_bytes());
    }
    for (name, text) in models.iter().flat_map(|model| settings(model)) {
        let name = Path::new(&name).file_name().unwrap_or_default();
        hash.update(name.as_encoded_bytes());
        hash.update(Sha256::digest(&text));
    }
    hex(&hash.finalize())
}

/// What a file is, however the path to it is spelled: with the last part of its name.
fn nameless(mut fingerprint: Value) -> Value {
    let name = fingerprint["file"]
        .as_str()
        .map(|path| Path::new(path).file_name().map(|name| name.to_string_lossy().into_owned()));
    if let Some(name) = name {
        fingerprint["file"] = json!(name);
    }
    fingerprint
}

/// Each file of each task with its size and hash. A folder of images stands for its files by names, sizes and times.
///
/// # Errors
/// If a file cannot be read any more.
pub(super) fn data_files(tasks: &[&Task]) -> Result<Vec<Value>, Failure> {
    let of_task = |task: &Task| -> Vec<_> {
        task.layouts.iter().map(|(path, _)| (task.name.clone(), path.clone())).collect()
    };
    let files = tasks.iter().flat_map(|task| of_task(task));
    files.map(|(task, path)| file(&task, &path)).collect()
}

/// One file.
///
/// # Errors
/// As [`data_files`].
pub(super) fn file(task: &str, path: &Path) -> Result<Value, Failure> {
    let failed = |e: std::io::Error| Failure::usage(format!("{}: cannot read: {e}", path.display()));
    let (bytes, hash) = if path.is_dir() { folder(path) } else { content(path) }.map_err(failed)?;
    Ok(json!({"task": task, "file": path.display().to_string(), "bytes": bytes, "sha256": hash}))
}

fn content(path: &Path) -> std::io::Result<(u64, String)> {
    let (mut file, mut hash) = (File::open(path)?, Sha256::new());
    let (mut block, mut bytes) = (vec![0; 1 << 20], 0);
    loop {
        match file.read(&mut block)? {
            0 => return Ok((bytes, hex(&hash.finalize()))),
            read => {
                hash.update(&block[..read]);
                bytes += read as u64;
            }
        }
    }
}

fn folder(path: &Path) -> std::io::Result<(u64, String)> {
    let (mut hash, mut bytes, mut folders) = (Sha256::new(), 0, vec![path.to_owned()]);
    while let Some(folder) = folders.pop() {
        let entries = fs::read_dir(&folder)?.collect::<Result<Vec<_>, _>>()?;
        let mut paths: Vec<PathBuf> = entries.into_iter().map(|entry| entry.path()).collect();
        paths.sort();
        for path in paths {
            let found = path.metadata()?;
            if found.is_dir() {
                folders.push(path);
                continue;
            }
            bytes += found.len();
            hash.update(path.as_os_str().as_encoded_bytes());
            hash.update(found.len().to_le_bytes());
            hash.update(changed(&path).to_le_bytes());
        }
    }
    Ok((bytes, hex(&hash.finalize())))
}

/// Whether `out` is the finished result of the same job, with all its models still there.
pub(super) fn is_done(out: &Path, job: &str) -> bool {
    let weights = ["model.safetensors", "model.safetensors.index.json", "adapter_model.safetensors"];
    let has_weights = |dir: &Path| weights.iter().any(|name| dir.join(name).is_file());
    let Some(record) = record_of_job(out, job) else { return false };
    let products = record["result"]["products"].as_array().cloned().unwrap_or_default();
    products.iter().all(|dir| has_weights(&dir.as_str().map_or_else(|| out.to_owned(), |dir| out.join(dir))))
}
