//! What a model is called where its random masks are drawn: the same however a recipe spells its folder, and wherever the
//! folders lie together.
//!
//! * A name on the hub, or of another merge of the recipe, counts as written, revision included.
//! * A local folder counts as the last part of its path; if the recipe has several folders of that name, as its path from
//!   the deepest folder around all of them. So `expert`, `./expert` and `/home/ann/expert` are one, and moving all of them
//!   together changes nothing; renaming a folder does.
//! * An adapter adds its own name.
//!
//! Should two models still have one name (a folder spelt in two ways within one recipe, a folder called like a model on the
//! hub), both fall back to what the recipe says: names must tell models apart.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use super::locate::plain_path;

/// What a model consists of: a base, perhaps an adapter.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Part {
    /// A local folder, absolute.
    Folder(PathBuf),
    /// A name on the hub, or of another merge.
    Named(String),
}

impl Part {
    /// The local folder at `path`, by its text alone.
    pub(crate) fn folder(path: &Path) -> Self {
        let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        Self::Folder(PathBuf::from(plain_path(&absolute.to_string_lossy())))
    }
}

/// The names of all models of a recipe, in their order; none where it would not tell two models apart.
pub(crate) fn mask_names<'p>(models: impl Iterator<Item = &'p [Part]>) -> Vec<Option<String>> {
    let models: Vec<&[Part]> = models.collect();
    let folders: BTreeSet<&Path> = models.iter().copied().flatten().filter_map(folder_of).collect();
    let short = short_names(&folders);
    let name = |part: &Part| match part {
        Part::Folder(path) => short[path.as_path()].clone(),
        Part::Named(name) => name.clone(),
    };
    let names: Vec<String> =
        models.iter().map(|parts| parts.iter().map(name).collect::<Vec<_>>().join("+")).collect();
    let alone = |name: &String| names.iter().filter(|other| *other == name).count() == 1;
    names.iter().map(|name| alone(name).then(|| name.clone())).collect()
}

fn folder_of(part: &Part) -> Option<&Path> {
    match part {
        Part::Folder(path) => Some(path),
        Part::Named(_) => None,
    }
}

/// The last parts of paths, with as much before them as tells those of one name apart.
fn short_names<'p>(folders: &BTreeSet<&'p Path>) -> BTreeMap<&'p Path, String> {
    let mut by_name: BTreeMap<&std::ffi::OsStr, Vec<&'p Path>> = BTreeMap::new();
    for folder in folders {
        by_name.entry(folder.file_name().unwrap_or(folder.as_os_str())).or_default().push(folder);
    }
    let below = |group: Vec<&'p Path>| {
        let around =
            group.iter().filter_map(|folder| folder.parent()).reduce(common).unwrap_or(Path::new(""));
        let name =
            |folder: &Path| folder.strip_prefix(around).unwrap_or(folder).to_string_lossy().into_owned();
        group.into_iter().map(|folder| (folder, name(folder))).collect::<Vec<_>>()
    };
    by_name.into_values().flat_map(below).collect()
}

/// The deepest folder around two.
fn common<'p>(a: &'p Path, b: &'p Path) -> &'p Path {
    a.ancestors().find(|above| b.starts_with(above)).unwrap_or(Path::new(""))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(models: &[&[&str]]) -> Vec<Option<String>> {
        let part = |text: &&str| match text.strip_prefix("hub:") {
            Some(name) => Part::Named(name.to_owned()),
            None => Part::folder(Path::new(text)),
        };
        let models: Vec<Vec<Part>> = models.iter().map(|parts| parts.iter().map(part).collect()).collect();
        mask_names(models.iter().map(Vec::as_slice))
    }

    fn known(models: &[&[&str]]) -> Vec<String> {
        names(models).into_iter().map(Option::unwrap).collect()
    }

    #[test]
    fn the_last_part_of_a_path_is_enough_unless_it_is_not() {
        for spelling in ["/w/models/code", "/w/models/./code/", "/w/x/../models/code", "/elsewhere/code"] {
            assert_eq!(known(&[&[spelling], &["/w/math"]]), ["code", "math"], "{spelling}");
        }
        for root in ["/w", "/moved/to"] {
            let at = |path: &str| format!("{root}/{path}");
            let (a, b, c, d) = (at("code/last"), at("math/last"), at("base"), at("last"));
            assert_eq!(known(&[&[&a], &[&b], &[&c]]), ["code/last", "math/last", "base"]);
            assert_eq!(known(&[&[&a], &[&d]]), ["code/last", "last"]);
        }
        assert_eq!(known(&[&["/w/last/last"], &["/w/last"]]), ["last/last", "last"]);
        assert_eq!(known(&[&["/"]]), ["/"]);
    }

    #[test]
    fn adapters_and_names_on_the_hub_count() {
        let models: &[&[&str]] =
            &[&["/w/base", "/w/a"], &["/w/base", "/w/b"], &["hub:org/x@v1"], &["/w/base"]];
        assert_eq!(known(models), ["base+a", "base+b", "org/x@v1", "base"]);
    }

    #[test]
    fn names_tell_models_apart() {
        assert_eq!(names(&[&["/w/a"], &["/w/./a"], &["/w/b"]]), [None, None, Some("b".to_owned())]);
        assert_eq!(names(&[&["/w/gpt2"], &["hub:gpt2"]]), [None, None]);
    }
}
