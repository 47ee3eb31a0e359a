//! MFTCoder's `data_paths`: a list of directories, each a task, with JSONL files inside.
//!
//! A task is called as the last part of its path. Its rows are `chat_rounds`, a question and an answer, or text; the shape
//! is detected as everywhere. All files of a directory are for training: validation is a part held back (`data_split`).

use std::path::Path;

use crate::data::error::DataError;
use crate::data::source::{Part, data_files};
use crate::data::task::TaskSettings;

/// The tasks of `data_paths`, as the configuration spells it: `"[dir1,dir2]"`, or one directory. Paths are relative to
/// `base`.
pub fn mftcoder(data_paths: &str, base: &Path) -> Result<Vec<TaskSettings>, DataError> {
    let list = data_paths.trim();
    let list = list.strip_prefix('[').and_then(|list| list.strip_suffix(']')).unwrap_or(list);
    let paths = list.split(',').map(|path| path.trim().trim_matches(['"', '\'']));
    let tasks = paths.filter(|path| !path.is_empty()).map(|path| task(&base.join(path)));
    let tasks = tasks.collect::<Result<Vec<_>, _>>()?;
    if tasks.is_empty() {
        return Err(DataError::setting(
            "data_paths",
            format!("expected \"[dir1,dir2]\", found {data_paths:?}"),
        ));
    }
    for (i, task) in tasks.iter().enumerate() {
        if tasks[..i].iter().any(|before| before.name == task.name) {
            let message =
                format!("two directories are called {:?}, which names their tasks; rename one", task.name);
            return Err(DataError::setting("data_paths", message));
        }
    }
    Ok(tasks)
}

fn task(dir: &Path) -> Result<TaskSettings, DataError> {
    let name = dir.file_name().and_then(|name| name.to_str()).unwrap_or_default().to_owned();
    let mut train = Vec::new();
    for part in [Part::Train, Part::Validation, Part::Test] {
        // A file is in one part; without words of parts in the names all files are in the first.
        train.extend(data_files(dir, part)?);
    }
    train.sort();
    Ok(TaskSettings { name, train, ..TaskSettings::default() })
}
