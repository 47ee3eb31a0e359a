//! Which files a path of a recipe means.
//!
//! A file means itself. A directory means the data files below it, sorted by path; those of another split are left out,
//! where splits are named as the `datasets` library names them: a word of the path below the directory that is `train`
//! or `training`, `validation`, `valid`, `val` or `dev`, `test`, `testing`, `eval` or `evaluation`. If no file names any
//! split, all of them are for training. A directory of images is one source. Hidden files are left out; symbolic links are
//! followed.

use std::fs;
use std::path::{Path, PathBuf};

use super::{DataError, ending, images};

/// A part of a dataset.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// What is learnt.
    Train,
    /// What progress is measured on.
    Validation,
    /// What is kept for the end.
    Test,
}

const WORDS: [(Part, &[&str]); 3] = [
    (Part::Train, &["train", "training"]),
    (Part::Validation, &["validation", "valid", "val", "dev"]),
    (Part::Test, &["test", "testing", "eval", "evaluation"]),
];

const ENDINGS: [&str; 7] = ["jsonl", "ndjson", "json", "csv", "tsv", "parquet", "txt"];
/// Files that lie beside data and are none.
const NO_DATA: [&str; 5] =
    ["dataset_info.json", "dataset_dict.json", "dataset_infos.json", "state.json", "requirements.txt"];
/// Directories below directories; a link to a directory above would have no end.
const DEEPEST: usize = 8;

/// The sources that `path` means for `part`, in their order; none if it is a directory with other parts only.
pub fn data_files(path: &Path, part: Part) -> Result<Vec<PathBuf>, DataError> {
    if !fs::metadata(path).map_err(DataError::io(path))?.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    if let Some(folders) = images::folders(path, part)? {
        return Ok(folders);
    }
    let mut files = Vec::new();
    walk(path, 0, &mut |file| {
        let name = file.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        if ENDINGS.contains(&ending(&file).as_str()) && !NO_DATA.contains(&name.as_str()) {
            files.push(file);
        }
    })?;
    if files.is_empty() {
        return Err(DataError::NoFiles { path: path.to_owned(), wanted: String::new() });
    }
    let split = |file: &Path| file.strip_prefix(path).ok().and_then(part_of);
    if files.iter().any(|file| split(file).is_some()) {
        files.retain(|file| split(file) == Some(part));
    } else if part != Part::Train {
        files.clear();
    }
    Ok(files)
}

/// The split that a path names: the last word that does.
pub(super) fn part_of(path: &Path) -> Option<Part> {
    let text = path.to_string_lossy().to_lowercase();
    let word = |word: &str| WORDS.iter().find(|(_, words)| words.contains(&word)).map(|(part, _)| *part);
    text.split(|c: char| !c.is_alphanumeric()).filter_map(word).next_back()
}

/// Every file below `dir`, sorted.
pub(super) fn walk(dir: &Path, depth: usize, found: &mut dyn FnMut(PathBuf)) -> Result<(), DataError> {
    if depth > DEEPEST {
        return Err(DataError::file(
            dir,
            format!("more than {DEEPEST} directories deep; is a link its own parent?"),
        ));
    }
    let entries = fs::read_dir(dir).map_err(DataError::io(dir))?;
    let mut paths = entries
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<Result<Vec<_>, _>>()
        .map_err(DataError::io(dir))?;
    paths.sort();
    for path in paths.into_iter().filter(|path| !hidden(path)) {
        // A link to nothing is an error, not a file that is not there.
        if fs::metadata(&path).map_err(DataError::io(&path))?.is_dir() {
            walk(&path, depth + 1, found)?;
        } else {
            found(path);
        }
    }
    Ok(())
}

fn hidden(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(['.', '_']))
}
