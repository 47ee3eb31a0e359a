//! Classes: which there are, and which number each has.
//!
//! Labels are numbers or names. Names that a recipe lists (or a model's `id2label`) keep that order; a number then means
//! the place in it. Without a list, numbers are classes 0…highest, and names are numbered in sorted order. Numbers may
//! be spelled as text, as CSV files have them. The labels of validation files have to be among those of the training files.

use std::collections::BTreeMap;

use serde::Serialize;

use super::error::{DataError, Place};
use super::shape::Label;

/// More classes are taken for labels that are none.
const MOST: usize = 1 << 16;

/// The classes of a task.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Labels {
    /// Their names, by number.
    pub names: Vec<String>,
}

/// Labels in the order in which they were met.
#[derive(Debug, Default)]
pub(super) struct Met {
    numbers: BTreeMap<Label, u32>,
    labels: Vec<(Label, Place)>,
}

impl Met {
    /// The number under which `label` was first met.
    pub(super) fn number(&mut self, label: &Label, place: &Place) -> u32 {
        if let Some(number) = self.numbers.get(label) {
            return *number;
        }
        let number = self.labels.len() as u32;
        self.numbers.insert(label.clone(), number);
        self.labels.push((label.clone(), place.clone()));
        number
    }

    pub(super) fn len(&self) -> usize {
        self.labels.len()
    }

    /// The classes, and the class of each label that was met; the first `train` of them in training files.
    pub(super) fn classes(
        &self,
        declared: Option<&[String]>,
        train: usize,
        task: &str,
    ) -> Result<(Labels, Vec<u32>), DataError> {
        let names = match declared {
            Some(names) => names.to_vec(),
            None => self.found(&self.labels[..train], task)?,
        };
        let class = |(label, place): &(Label, Place)| {
            class(label, &names).ok_or_else(|| DataError::UnknownLabel {
                task: task.to_owned(),
                place: place.clone(),
                label: label.to_string(),
                remedy: format!("{}; {}", listed(&names), remedy(label, declared.is_some())),
            })
        };
        let classes = self.labels.iter().map(class).collect::<Result<_, _>>()?;
        Ok((Labels { names }, classes))
    }

    /// The classes of the training files.
    fn found(&self, labels: &[(Label, Place)], task: &str) -> Result<Vec<String>, DataError> {
        let numbers: Vec<_> = labels.iter().map(|(label, place)| (number(label), label, place)).collect();
        let name = numbers.iter().find(|(number, ..)| number.is_none());
        let is_number = |label: &Label| matches!(label, Label::Id(_));
        match (name, labels.iter().find(|(label, _)| is_number(label))) {
            (Some((_, Label::Name(name), _)), Some((Label::Id(number), _))) => {
                return Err(DataError::MixedLabels {
                    task: task.to_owned(),
                    name: name.clone(),
                    number: *number,
                });
            }
            (Some(_), _) => {
                let mut names: Vec<_> = labels.iter().map(|(label, _)| name_of(label)).collect();
                names.sort();
                return Ok(names);
            }
            (None, _) => {}
        }
        let highest = numbers.iter().filter_map(|(number, ..)| *number).max().unwrap_or(-1);
        match numbers.iter().find(|(number, ..)| number.is_some_and(|number| number >= MOST as i64)) {
            Some((_, label, place)) => Err(DataError::UnknownLabel {
                task: task.to_owned(),
                place: (*place).clone(),
                label: label.to_string(),
                remedy: format!("0 to {}; classes are numbered from 0", MOST - 1),
            }),
            None => Ok((0..=highest).map(|number| number.to_string()).collect()),
        }
    }
}

fn name_of(label: &Label) -> String {
    match label {
        Label::Id(id) => id.to_string(),
        Label::Name(name) => name.clone(),
    }
}

/// The number that a label is or spells.
fn number(label: &Label) -> Option<i64> {
    match label {
        Label::Id(id) => Some(*id),
        Label::Name(name) => name.parse().ok().filter(|number: &i64| number.to_string() == *name),
    }
}

/// The class of a label: by its name, else by its number.
pub(crate) fn class(label: &Label, names: &[String]) -> Option<u32> {
    let by_name = match label {
        Label::Name(name) => names.iter().position(|known| known == name),
        Label::Id(_) => None,
    };
    let by_number = || number(label).and_then(|number| usize::try_from(number).ok());
    by_name
        .or_else(by_number)
        .filter(|class| *class < names.len())
        .and_then(|class| u32::try_from(class).ok())
}

/// What to do about a label that is no class; `declared` says whether the recipe lists the classes.
fn remedy(label: &Label, declared: bool) -> &'static str {
    match (label, declared) {
        (Label::Id(-1), _) => "-1 stands for an unknown class in some published sets: leave such rows out",
        (_, true) => "add it to `labels`",
        (_, false) => "it is in no training file",
    }
}

/// The first names of classes, for messages.
pub(crate) fn listed(names: &[String]) -> String {
    const SHOWN: usize = 20;
    let mut text = names.iter().take(SHOWN).map(|name| format!("{name:?}")).collect::<Vec<_>>().join(", ");
    if names.len() > SHOWN {
        text += &format!(", … ({} in all)", names.len());
    }
    if text.is_empty() { "none".to_owned() } else { text }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::data::error::Unit;

    fn met(labels: &[Label]) -> Met {
        let mut met = Met::default();
        for (i, label) in labels.iter().enumerate() {
            met.number(label, &Place { path: Path::new("f").into(), number: i as u64 + 1, unit: Unit::Line });
        }
        met
    }

    fn name(name: &str) -> Label {
        Label::Name(name.to_owned())
    }

    fn refused(labels: &[Label], declared: Option<&[&str]>, train: usize) -> String {
        let declared: Option<Vec<_>> =
            declared.map(|names| names.iter().map(|name| (*name).to_owned()).collect());
        met(labels).classes(declared.as_deref(), train, "t").unwrap_err().to_string()
    }

    #[test]
    fn names_are_sorted_and_numbers_are_themselves() {
        let (labels, classes) = met(&[name("pos"), name("neg"), name("pos")]).classes(None, 2, "t").unwrap();
        assert_eq!((labels.names, classes), (vec!["neg".to_owned(), "pos".to_owned()], vec![1, 0]));
        let (labels, classes) = met(&[Label::Id(2), name("0")]).classes(None, 2, "t").unwrap();
        assert_eq!((labels.names.len(), classes), (3, vec![2, 0]));
        let declared = ["b".to_owned(), "a".to_owned(), "7".to_owned()];
        let (_, classes) =
            met(&[name("a"), Label::Id(0), name("2"), name("7")]).classes(Some(&declared), 4, "t").unwrap();
        assert_eq!(classes, [1, 0, 2, 2]);
    }

    #[test]
    fn labels_that_are_none() {
        let found = refused(&[Label::Id(0), Label::Id(-1)], None, 2);
        assert!(
            found.contains("f, line 2: label -1 is not one of \"0\"; -1 stands for an unknown class"),
            "{found}"
        );
        assert!(
            refused(&[Label::Id(1 << 40)], None, 1).contains("label 1099511627776 is not one of 0 to 65535")
        );
        assert!(refused(&[name("a"), Label::Id(3)], None, 2).contains("names (\"a\") and numbers (3)"));
        assert!(
            refused(&[name("a"), name("b")], None, 1)
                .contains("label \"b\" is not one of \"a\"; it is in no training")
        );
        assert!(
            refused(&[name("c")], Some(&["a", "b"]), 1)
                .contains("label \"c\" is not one of \"a\", \"b\"; add it")
        );
        assert!(refused(&[Label::Id(2)], Some(&["a", "b"]), 1).contains("label 2 is not one of"));
    }
}
