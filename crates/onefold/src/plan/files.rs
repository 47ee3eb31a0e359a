//! The files beside the weights: config, tokenizer, templates, code, generation settings, modules of sentence-transformers.
//! They come from the donor byte for byte; only what the merge changed is changed.

use std::path::{Path, PathBuf};

use onefold_checkpoint::beside::{MODULES, SideFiles};

use crate::config::{self, Changes};
use crate::models::Model;
use crate::recipe::Recipe;
use crate::report::elided;
use crate::tokenizer::{self, Built, FileContent, OutputFile};

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

/// The donor's files, and what one should know of them.
fn donor_files(dir: &Path, warnings: &mut Vec<String>) -> Result<Vec<OutputFile>, String> {
    let SideFiles { names, weights, absent, linked } =
        SideFiles::find(dir).map_err(|error| error.to_string())?;
    warnings.extend(absent.iter().map(|folder| {
        format!(
            "{MODULES} names the folder {folder}, which {} does not have: sentence-transformers will not load the output",
            dir.display()
        )
    }));
    if !weights.is_empty() {
        warnings.push(format!(
            "copied from the donor, not merged: {}, as only the weights at the top of a folder are merged",
            weights.join(", ")
        ));
    }
    if !linked.is_empty() {
        let shown: Vec<String> =
            linked.iter().map(|(name, target)| format!("{name} → {}", target.display())).collect();
        warnings.push(format!(
            "copied from outside of {}, where links lead: {}",
            dir.display(),
            elided(shown.iter())
        ));
    }
    let file = |name: String| OutputFile { content: FileContent::Copied(dir.join(&name)), name };
    Ok(names.into_iter().map(file).collect())
}
