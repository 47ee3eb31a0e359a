//! Copied files that are links. Those of the hub's cache are, to its blobs; others may lead anywhere.
//!
//! A model that came as an archive or a clone can bring links to whatever its author likes, and who publishes the merge
//! would publish what they lead to. Beside the weights links are also how people save space, so there they are followed
//! and said. In folders that `modules.json` names nobody would see them: a link that leads out of the model is refused.

use std::path::{Path, PathBuf};

use crate::report::elided;

/// Judges the files `names` of the model in `dir`, some of which may lie in folders.
///
/// # Errors
/// If a file in a folder is a link that leads out of `dir`.
pub(super) fn judge(dir: &Path, names: &[String], warnings: &mut Vec<String>) -> Result<(), String> {
    let outside = |name: &&String| leads_to(dir, &dir.join(name));
    let found: Vec<(&String, PathBuf)> =
        names.iter().filter_map(|name| Some((name, outside(&name)?))).collect();
    let shown = |(name, target): &(&String, PathBuf)| format!("{name} → {}", target.display());
    let (below, beside): (Vec<_>, Vec<_>) = found.into_iter().partition(|(name, _)| name.contains('/'));
    if !below.is_empty() {
        let shown: Vec<String> = below.iter().map(shown).collect();
        return Err(format!(
            "{}: links in the folders of a model may not lead out of it: {}; put the files themselves there",
            dir.display(),
            elided(shown.iter())
        ));
    }
    if !beside.is_empty() {
        let shown: Vec<String> = beside.iter().map(shown).collect();
        warnings.push(format!(
            "copied from outside of {}, where links lead: {}",
            dir.display(),
            elided(shown.iter())
        ));
    }
    Ok(())
}

/// Where `path` really lies, unless that is within `dir` or among the blobs of a hub cache.
fn leads_to(dir: &Path, path: &Path) -> Option<PathBuf> {
    // What cannot be followed cannot be copied either; whoever copies says so.
    let target = path.canonicalize().ok()?;
    let within = dir.canonicalize().is_ok_and(|dir| target.starts_with(dir));
    (!within && !is_blob(&target)).then_some(target)
}

/// Whether a file is one of `models--OWNER--NAME/blobs/`.
fn is_blob(path: &Path) -> bool {
    let name = |path: Option<&Path>| {
        path.and_then(Path::file_name).and_then(|name| name.to_str()).map(str::to_owned)
    };
    let blobs = path.parent();
    name(blobs).is_some_and(|name| name == "blobs")
        && name(blobs.and_then(Path::parent)).is_some_and(|name| name.starts_with("models--"))
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "fixtures are written plainly")]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn links_within_the_model_and_into_the_cache_are_its_own() {
        let dir = tempfile::tempdir().unwrap();
        let repo = dir.path().join("models--org--name");
        let model = repo.join("snapshots/0123");
        for folder in ["snapshots/0123/1_Pooling", "blobs"] {
            fs::create_dir_all(repo.join(folder)).unwrap();
        }
        fs::write(repo.join("blobs/abc"), "{}").unwrap();
        fs::write(dir.path().join("secret"), "mine").unwrap();
        symlink("../../blobs/abc", model.join("vocab.json")).unwrap();
        symlink("../../../blobs/abc", model.join("1_Pooling/config.json")).unwrap();
        symlink("../vocab.json", model.join("1_Pooling/within")).unwrap();
        symlink("../../../secret", model.join("beside")).unwrap();
        symlink("../../../../secret", model.join("1_Pooling/below")).unwrap();
        // The model may itself be named by a link.
        symlink(&model, dir.path().join("link")).unwrap();
        for model in [model, dir.path().join("link")] {
            let judge = |names: &[&str]| {
                let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
                let mut warnings = Vec::new();
                judge(&model, &names, &mut warnings).map(|()| warnings)
            };
            let own = ["vocab.json", "1_Pooling/config.json", "1_Pooling/within"];
            assert_eq!(judge(&own), Ok(Vec::new()));
            let warnings = judge(&["vocab.json", "beside"]).unwrap();
            assert!(warnings.len() == 1 && warnings[0].contains("beside → "), "{warnings:?}");
            assert!(warnings[0].contains("secret") && !warnings[0].contains("vocab"), "{warnings:?}");
            let error = judge(&["beside", "1_Pooling/below"]).unwrap_err();
            assert!(error.contains("1_Pooling/below → ") && error.contains("lead out"), "{error}");
        }
    }
}
