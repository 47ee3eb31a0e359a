//! What a task says of how its classes are told: texts of each, for clip; a word of each, for language models. Without it a head
//! tells them, or the model's words.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use crate::recipe::keys::Keys;
use crate::recipe::node::Data;
use crate::recipe::problems::{Place, Problems};

/// The template of a task that names none, as in CLIP's paper.
const TEMPLATE: &str = "a photo of a {}.";

/// How a task's classes are told.
#[derive(Debug, Clone, Default, PartialEq)]
pub enum Telling {
    /// By the head of its expert, or by the model's words.
    #[default]
    Model,
    /// By texts, with which clip compares pictures.
    Texts {
        /// Names of the classes.
        classes: Classes,
        /// What stands around a name, at the place of `{}`.
        templates: Vec<String>,
    },
    /// By a word of a language model for each class.
    LabelWords(Vec<(String, String)>),
}

/// Names of classes.
#[derive(Debug, Clone, PartialEq)]
pub enum Classes {
    /// As they are listed.
    Names(Vec<String>),
    /// One a line of a file, which is not read yet, with the place where the recipe names it.
    File(PathBuf, (Place, String)),
}

/// Reads the keys of a task. `learns` says that coefficients are learnt.
pub(super) fn read(keys: &mut Keys<'_, '_>, learns: bool) -> Telling {
    if !learns {
        let why = "it is of tasks by which coefficients are learnt (`adamerging`); here experts are measured";
        keys.unused(&["classes", "templates", "label_words"], why);
        return Telling::Model;
    }
    if keys.has("label_words") {
        keys.unused(&["classes", "templates"], "`label_words` name the classes");
        return label_words(keys).map_or(Telling::Model, Telling::LabelWords);
    }
    if !keys.has("classes") {
        keys.unused(&["templates"], "it stands around the names of `classes`");
        return Telling::Model;
    }
    let templates = templates(keys);
    match classes(keys) {
        Some(classes) => Telling::Texts { classes, templates },
        None => Telling::Model,
    }
}

/// The same of tasks that are scored.
pub(in crate::recipe) fn read_any(keys: &mut Keys<'_, '_>) -> Telling {
    read(keys, true)
}

/// The keys that say it, in the form they are read in.
pub(in crate::recipe) fn written(telling: &Telling) -> Vec<(&'static str, Value)> {
    match telling {
        Telling::Model => Vec::new(),
        Telling::Texts { classes, templates } => {
            let classes = match classes {
                Classes::Names(names) => json!(names),
                Classes::File(path, _) => json!(path),
            };
            vec![("classes", classes), ("templates", json!(templates))]
        }
        Telling::LabelWords(words) => {
            let words: Map<String, Value> =
                words.iter().map(|(class, word)| (class.clone(), json!(word))).collect();
            vec![("label_words", Value::Object(words))]
        }
    }
}

/// A word for each class.
fn label_words(keys: &mut Keys<'_, '_>) -> Option<Vec<(String, String)>> {
    let what = "a word for each class, as in `{positive: \" great\", negative: \" terrible\"}`";
    let found = keys.json("label_words", what)?;
    let mut words = Vec::new();
    for (class, word) in found {
        match word.as_str().filter(|word| !word.trim().is_empty()) {
            Some(word) => words.push((class, word.to_owned())),
            None => keys.error(
                "label_words",
                format!("the word of `{class}`: expected a text, found {word}"),
                None,
            ),
        }
    }
    let names: Vec<String> = words.iter().map(|(class, _)| class.clone()).collect();
    check(&names).into_iter().for_each(|message| keys.error("label_words", message, None));
    Some(words)
}

fn classes(keys: &mut Keys<'_, '_>) -> Option<Classes> {
    let (place, path) = (keys.place_of("classes"), keys.path("classes"));
    let listed = keys.node("classes").is_some_and(|node| matches!(node.data, Data::List(_)));
    let found = keys.texts("classes", "names of classes, or a file with one a line")?;
    if !listed {
        return Some(Classes::File(PathBuf::from(found.first()?), (place, path)));
    }
    check(&found).into_iter().for_each(|message| keys.error("classes", message, None));
    Some(Classes::Names(found))
}

fn templates(keys: &mut Keys<'_, '_>) -> Vec<String> {
    let found = keys.texts("templates", "texts such as \"a photo of a {}.\"");
    let found = found.unwrap_or_else(|| vec![TEMPLATE.to_owned()]);
    for template in found.iter().filter(|template| !template.contains("{}")) {
        let help = "write `{}` where the name of the class goes";
        keys.error("templates", format!("{template:?} has no place for a class"), Some(help));
    }
    found
}

/// What is wrong with names of classes.
fn check(names: &[String]) -> Vec<String> {
    let mut found = Vec::new();
    match names {
        [] => found.push("no class".to_owned()),
        [one] => found.push(format!("one class, {one:?}: there is nothing to choose between")),
        _ => {}
    }
    if let Some(at) = names.iter().position(|name| name.trim().is_empty()) {
        found.push(format!("the name of class {at} is empty"));
    }
    let double = (1..names.len()).find(|at| names[..*at].contains(&names[*at]));
    found.extend(double.map(|at| format!("the class {:?} stands twice", names[at])));
    found
}

impl Telling {
    /// Reads the file of classes, if one is named; its path is looked up in `dir`.
    pub(in crate::recipe) fn read_classes(&mut self, dir: &Path, problems: &mut Problems) {
        let Self::Texts { classes, .. } = self else { return };
        let Classes::File(path, (place, key)) = &*classes else { return };
        let path = dir.join(path);
        let mut error = |message: String| problems.error(*place, key, message, None);
        match std::fs::read_to_string(&path) {
            Err(found) => error(format!("{}: cannot be read: {found}", path.display())),
            Ok(text) => {
                let names: Vec<String> =
                    text.lines().map(|line| line.trim().to_owned()).filter(|name| !name.is_empty()).collect();
                check(&names).iter().for_each(|message| error(format!("{}: {message}", path.display())));
                *classes = Classes::Names(names);
            }
        }
    }
}
