//! The files beside the weights: config, tokenizer, templates, code, generation settings, modules of sentence-transformers.
//! They come from the donor byte for byte; only what the merge changed is changed.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::links;
use crate::config::{self, Changes};
use crate::models::Model;
use crate::recipe::Recipe;
use crate::sentence_transformers::{self, MODULES};
use crate::tokenizer::{self, Built, FileContent, OutputFile};

/// Endings of weight files, of whatever program.
const WEIGHTS: [&str; 10] =
    [".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".h5", ".msgpack", ".onnx", ".gguf", ".npz"];

/// Files of the donor that the output does not take: weights, what we write ourselves, and traces of other programs.
fn is_left_out(name: &str) -> bool {
    let endings = [".index.json", ".lock", ".partial", ".incomplete", ".arrow", ".parquet", ".zip"];
    let names = [
        "README.md",
        "config.json",
        "onefold.json",
        "report.html",
        "recipe.yaml",
        "mergekit_config.yml",
        "trainer_state.json",
        "adapter_config.json",
        "all_results.json",
        "train_results.json",
        "eval_results.json",
        ".gitattributes",
        ".gitignore",
    ];
    name.starts_with('.')
        || names.contains(&name)
        || is_weight(name)
        || endings.iter().any(|e| name.ends_with(e))
        || name.starts_with("events.out")
}

/// The donor's config with the changes of the merge.
///
/// # Errors
/// If it cannot be read or edited.
pub fn config(donor: &Model, changes: &Changes, notes: &mut Vec<String>) -> Result<Option<String>, String> {
    let path = donor.checkpoint.dir().join("config.json");
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(format!("{}: cannot read: {e}", path.display())),
    };
    let (text, done) = config::edit(&text, changes).map_err(|e| format!("{}: {e}", path.display()))?;
    notes.extend(done.into_iter().map(|edit| format!("config.json: {edit}")));
    Ok(Some(text))
}

/// All other files.
///
/// # Errors
/// If a directory cannot be listed, or the chat template is not one.
pub fn beside(
    recipe: &Recipe,
    models: &[&Model],
    donor: &Model,
    vocabulary: Option<&Built>,
    notes: &mut Vec<String>,
    warnings: &mut Vec<String>,
) -> Result<Vec<OutputFile>, Vec<String>> {
    let mut files = donor_files(donor.checkpoint.dir(), warnings).map_err(|e| vec![e])?;
    if let Some(built) = vocabulary {
        files.retain(|f| {
            !tokenizer::is_tokenizer_file(&f.name) && !built.files.iter().any(|b| b.name == f.name)
        });
        files.extend(built.files.iter().cloned());
    }
    if let Some(kind) = &recipe.chat_template {
        let dirs: Vec<PathBuf> = models.iter().map(|m| m.checkpoint.dir().to_owned()).collect();
        let template = tokenizer::chat_template(kind, &dirs).map_err(|e| vec![e.to_string()])?;
        notes.push(format!("chat template: {}", template.origin));
        template.apply(&mut files).map_err(|e| vec![e.to_string()])?;
    }
    if files.iter().any(|f| f.name.ends_with(".py")) {
        warnings.push("the donor brings Python code (*.py), which is copied: read it before you load the model with trust_remote_code".into());
    }
    files.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(files)
}

/// The donor's plain files, its further chat templates, and the folders of its sentence-transformers modules.
fn donor_files(dir: &Path, warnings: &mut Vec<String>) -> Result<Vec<OutputFile>, String> {
    let mut names: BTreeSet<String> = list(dir)?.into_iter().filter(|name| !is_left_out(name)).collect();
    let templates = "additional_chat_templates";
    if dir.join(templates).is_dir() {
        names.extend(list_below(dir, templates)?);
    }
    if names.contains(MODULES) {
        names.extend(module_files(dir, warnings)?);
    }
    let names: Vec<String> = names.into_iter().collect();
    links::judge(dir, &names, warnings)?;
    let file = |name: String| OutputFile { content: FileContent::Copied(dir.join(&name)), name };
    Ok(names.into_iter().map(file).collect())
}

/// The files of the modules beside the transformer, weights included: they are small, and the model is not whole without.
fn module_files(dir: &Path, warnings: &mut Vec<String>) -> Result<Vec<String>, String> {
    let path = dir.join(MODULES);
    let failed = |problem: String| format!("{}: {problem}", path.display());
    let text = std::fs::read(&path).map_err(|e| failed(format!("cannot read: {e}")))?;
    let mut files = Vec::new();
    for module in sentence_transformers::modules(&text).map_err(failed)? {
        if dir.join(&module.folder).is_dir() {
            files.extend(list_below(dir, &module.folder)?.into_iter().filter(|name| !is_hidden(name)));
        } else if !module.may_be_absent {
            warnings.push(format!(
                "{MODULES} names the folder {}, which {} does not have: sentence-transformers will not load the output",
                module.folder,
                dir.display()
            ));
        }
    }
    let weights: Vec<&str> = files.iter().map(String::as_str).filter(|name| is_weight(name)).collect();
    if !weights.is_empty() {
        warnings.push(format!(
            "copied from the donor, not merged: {}, as only the weights at the top of a folder are merged",
            weights.join(", ")
        ));
    }
    Ok(files)
}

fn is_hidden(name: &str) -> bool {
    name.rsplit('/').next().is_some_and(|file| file.starts_with('.'))
}

fn is_weight(name: &str) -> bool {
    WEIGHTS.iter().any(|ending| name.ends_with(ending))
}

/// The plain files in a folder of `dir`, named from `dir`.
fn list_below(dir: &Path, folder: &str) -> Result<Vec<String>, String> {
    Ok(list(&dir.join(folder))?.into_iter().map(|name| format!("{folder}/{name}")).collect())
}

/// Names of the plain files in a directory.
fn list(dir: &Path) -> Result<Vec<String>, String> {
    let failed = |e: std::io::Error| format!("{}: cannot list: {e}", dir.display());
    let mut names = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        // Follows links: files of the hub's cache are links to blobs.
        if entry.path().is_file()
            && let Some(name) = entry.file_name().to_str()
        {
            names.push(name.to_owned());
        }
    }
    Ok(names)
}
