//! Images, with a class or without: paths beside the data, or the bytes themselves.

use std::path::{Path, PathBuf};

use super::columns::Meaning;
use super::{Example, Layout, Picture, fields};
use crate::data::error::RowProblem;
use crate::data::source::Row;

/// An image and its class, if the layout has one. A path is relative to the file that names it; it has to be there.
pub(super) fn classified(mut row: Row, layout: &Layout) -> Result<Example, RowProblem> {
    let key = fields::key(layout, Meaning::Image)?.to_owned();
    let label = fields::optional_label(&row, layout)?;
    let inside = format!("{key}.bytes");
    let bytes = row.binary.iter().position(|(at, _)| *at == key || *at == inside);
    let picture = match bytes {
        Some(at) => {
            Picture::Bytes { name: PathBuf::from(row.place.to_string()), bytes: row.binary.swap_remove(at).1 }
        }
        None => Picture::File(path(&row, &key)?),
    };
    Ok(Example::Image { picture, label })
}

fn path(row: &Row, key: &str) -> Result<PathBuf, RowProblem> {
    let value = fields::required(row, key)?;
    let named = value.as_str().or_else(|| value.get("path").and_then(|path| path.as_str()));
    let named = named.ok_or_else(|| fields::wrong(key, "a path, or {bytes, path}", value))?;
    let path = row.place.path.parent().unwrap_or(Path::new("")).join(named);
    if path.is_file() { Ok(path) } else { Err(RowProblem::NoImage { key: key.to_owned(), path }) }
}
