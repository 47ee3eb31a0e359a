//! Folders of images, as the `datasets` library reads them.
//!
//! `<class>/<file>` gives rows `{"image": file, "label": class}`, a file at the top `{"image": file}`. A `metadata.jsonl` or `metadata.csv` with the key
//! `file_name` gives its rows instead, under the key `image` in place of `file_name`; then folders name no classes.
//! Before both there may be a directory per split. Files that are no images are left out; images of a format that cannot be
//! read here are errors, as they would be missing otherwise.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::{Map, Value};

use super::files::{Part, part_of, walk};
use super::{DataError, Inner, Place, Row, Unit, ending};
use crate::data::error::{RowError, RowProblem};

const READ: [&str; 3] = ["png", "jpg", "jpeg"];
const NOT_READ: [&str; 7] = ["gif", "bmp", "webp", "tif", "tiff", "avif", "heic"];
const METADATA: [&str; 3] = ["metadata.jsonl", "metadata.csv", "metadata.parquet"];

/// The folder that holds the images of `part`, or nothing; none if `path` is no dataset of images.
pub(super) fn folders(path: &Path, part: Part) -> Result<Option<Vec<PathBuf>>, DataError> {
    let mut folders = splits(path)?;
    if folders.is_empty() {
        folders.push((path.to_owned(), Part::Train)); // without splits everything is for training
    }
    let mut any = false;
    for (dir, _) in &folders {
        any |= METADATA.iter().any(|name| dir.join(name).is_file()) || has_images(dir)?;
    }
    let of_part = folders.into_iter().filter(|(_, found)| *found == part).map(|(dir, _)| dir);
    Ok(any.then(|| of_part.collect()))
}

/// Directories directly below `path` that name a split.
fn splits(path: &Path) -> Result<Vec<(PathBuf, Part)>, DataError> {
    let mut found = Vec::new();
    for entry in fs::read_dir(path).map_err(DataError::io(path))? {
        let dir = entry.map_err(DataError::io(path))?.path();
        if let Some(part) = dir.file_name().and_then(|name| part_of(Path::new(name))).filter(|_| dir.is_dir())
        {
            found.push((dir, part));
        }
    }
    found.sort_by(|a, b| a.0.cmp(&b.0));
    Ok(found)
}

/// Whether `path` holds images, and no data files that would name them.
fn has_images(path: &Path) -> Result<bool, DataError> {
    let (mut images, mut data) = (false, false);
    walk(path, 0, &mut |file| {
        images |= is_image(&file);
        data |= ["jsonl", "ndjson", "json", "csv", "tsv", "parquet"].contains(&ending(&file).as_str());
    })?;
    Ok(images && !data)
}

fn is_image(file: &Path) -> bool {
    let ending = ending(file);
    READ.contains(&ending.as_str()) || NOT_READ.contains(&ending.as_str())
}

/// The rows of a folder of images.
pub(super) fn open(path: &Path) -> Result<Inner, DataError> {
    if let Some(metadata) = METADATA.iter().map(|name| path.join(name)).find(|file| file.is_file()) {
        return Ok(Box::new(super::open(&metadata)?.map(|row| Ok(described(row?)?))));
    }
    let mut files = Vec::new();
    walk(path, 0, &mut |file| files.push(file))?;
    files.retain(|file| is_image(file));
    if let Some(file) = files.iter().find(|file| !READ.contains(&ending(file).as_str())) {
        return Err(DataError::file(file, "images are read as PNG or JPEG; convert it"));
    }
    let rows = files.into_iter().map({
        let root = path.to_owned();
        move |file| classified(&root, &file)
    });
    Ok(Box::new(rows))
}

/// The row of an image, in the folder of its class or without one.
fn classified(root: &Path, file: &Path) -> Result<Row, DataError> {
    let mut between = file.strip_prefix(root).into_iter().flat_map(Path::components);
    let (first, rest) = (between.next(), between.count());
    let text = |name: Option<&OsStr>| {
        let name = name.and_then(OsStr::to_str).map(Value::from);
        name.ok_or_else(|| DataError::file(file, "the path is not UTF-8; rename it"))
    };
    let mut values = Map::from_iter([("image".to_owned(), text(file.file_name())?)]);
    match (first, rest) {
        (Some(_), 0) => {}
        (Some(class), 1) => drop(values.insert("label".to_owned(), text(Some(class.as_os_str()))?)),
        _ => {
            let expected = "expected <class>/<file>, or files alone, below the folder of images";
            return Err(DataError::file(file, expected));
        }
    }
    Ok(Row::new(values, Place { path: Arc::from(file), number: 0, unit: Unit::Row }))
}

/// A row of metadata, whose paths are relative to its file.
fn described(mut row: Row) -> Result<Row, RowError> {
    match row.values.shift_remove("file_name") {
        Some(name) => {
            row.values.insert("image".to_owned(), name);
            Ok(row)
        }
        None => Err(row.wrong(RowProblem::Missing { key: "file_name".to_owned(), keys: row.keys() })),
    }
}
