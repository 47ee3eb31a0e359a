//! Copied files that are links. Those of the hub's cache are, to its blobs; others may lead anywhere.
//!
//! A model that came as an archive or a clone can bring links to whatever its author likes, and who publishes the merge
//! would publish what they lead to. Beside the weights links are also how people save space, so there they are followed
//! and told. In folders that `modules.json` names nobody would see them: a link that leads out of the model is refused.

use std::path::{Path, PathBuf};

use crate::CheckpointError;

/// Those of the files `names` of the model in `dir` that are links leading out of it, with their ends.
///
/// # Errors
/// If such a link lies in a folder.
pub(super) fn judge(dir: &Path, names: &[String]) -> Result<Vec<(String, PathBuf)>, CheckpointError> {
    let outside = |name: &String| Some((name.clone(), leads_to(dir, &dir.join(name))?));
    let found: Vec<(String, PathBuf)> = names.iter().filter_map(outside).collect();
    let (below, beside): (Vec<_>, Vec<_>) = found.into_iter().partition(|(name, _)| name.contains('/'));
    if below.is_empty() {
        return Ok(beside);
    }
    Err(CheckpointError::LinkOutside { dir: dir.to_owned(), links: below })
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
                judge(&model, &names)
            };
            let own = ["vocab.json", "1_Pooling/config.json", "1_Pooling/within"];
            assert_eq!(judge(&own).unwrap(), []);
            let found = judge(&["vocab.json", "beside"]).unwrap();
            let secret = dir.path().join("secret").canonicalize().unwrap();
            assert_eq!(found, [("beside".to_owned(), secret)]);
            let error = judge(&["beside", "1_Pooling/below"]).unwrap_err().to_string();
            assert!(error.contains("1_Pooling/below → ") && error.contains("lead out"), "{error}");
        }
    }
}
