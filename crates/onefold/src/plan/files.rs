//! The files beside the weights: config, tokenizer, templates, code, generation settings. They come from the donor byte
//! for byte; only what the merge changed is changed.

use std::path::{Path, PathBuf};

use crate::config::{self, Changes};
use crate::models::Model;
use crate::recipe::Recipe;
use crate::tokenizer::{self, Built, FileContent, OutputFile};

/// Files of the donor that the output does not take: weights, what we write ourselves, and traces of other programs.
fn is_left_out(name: &str) -> bool {
    let endings = [
        ".safetensors",
        ".bin",
        ".pt",
        ".pth",
        ".ckpt",
        ".h5",
        ".msgpack",
        ".onnx",
        ".gguf",
        ".npz",
        ".index.json",
        ".lock",
        ".partial",
        ".incomplete",
        ".arrow",
        ".parquet",
        ".zip",
    ];
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
    let mut files = donor_files(donor.checkpoint.dir()).map_err(|e| vec![e])?;
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

fn donor_files(dir: &Path) -> Result<Vec<OutputFile>, String> {
    let mut names = list(dir)?;
    names.retain(|name| !is_left_out(name));
    let templates = dir.join("additional_chat_templates");
    if templates.is_dir() {
        names.extend(list(&templates)?.into_iter().map(|n| format!("additional_chat_templates/{n}")));
    }
    Ok(names
        .into_iter()
        .map(|name| OutputFile { content: FileContent::Copied(dir.join(&name)), name })
        .collect())
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
