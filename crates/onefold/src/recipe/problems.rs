//! What is wrong with a recipe, collected so that the user sees all of it at once.
//!
//! Every check of the recipe layer writes to one [`Problems`]; nothing stops at the first finding. A problem
//! states the place, the key, what was found and, if known, what to do. `lenient` turns problems with keys
//! that nobody reads into warnings (old mergekit files carry such keys); all others stay errors.

use std::fmt;

/// Where something stands: in the recipe's text, or in a `--set` of the command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// Position in the text, both counted from 1; the column counts characters.
    Text {
        /// Line, from 1.
        line: usize,
        /// Column, from 1.
        column: usize,
    },
    /// The `--set` of this number, from 0.
    Set(usize),
}

impl Place {
    /// Where a text begins: the place of problems with the whole.
    pub const START: Self = Self::Text { line: 1, column: 1 };
}

/// A value and where it stands. Two are equal if their values are.
#[derive(Debug, Clone)]
pub struct Located<T> {
    /// The value.
    pub value: T,
    /// Where the recipe states it.
    pub place: Place,
}

impl<T> Located<T> {
    /// `value` as stated at `place`.
    pub fn new(value: T, place: Place) -> Self {
        Self { value, place }
    }
}

impl<T: PartialEq> PartialEq for Located<T> {
    fn eq(&self, other: &Self) -> bool {
        self.value == other.value
    }
}

impl<T: serde::Serialize> serde::Serialize for Located<T> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.value.serialize(serializer)
    }
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Where.
    pub place: Place,
    /// Key path, such as `models[1].parameters.weight`; empty for the whole recipe.
    pub path: String,
    /// What was found and what was expected.
    pub message: String,
    /// What to do about it.
    pub help: Option<String>,
}

/// Most errors, and most warnings, that are kept; the rest are counted.
const MAX_KEPT: usize = 200;

/// All that is wrong with one recipe file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problems {
    file: String,
    sets: Vec<String>,
    lenient: bool,
    errors: Vec<Problem>,
    warnings: Vec<Problem>,
    /// Errors beyond [`MAX_KEPT`].
    more: usize,
}

impl Problems {
    /// No problems yet with the recipe `file` and the `--set` texts `sets`.
    pub fn new(file: &str, sets: &[String], lenient: bool) -> Self {
        let (errors, warnings) = (Vec::new(), Vec::new());
        Self { file: file.to_owned(), sets: sets.to_vec(), lenient, errors, warnings, more: 0 }
    }

    /// Adds an error.
    pub fn error(&mut self, place: Place, path: &str, message: impl Into<String>, help: Option<String>) {
        let problem = Problem { place, path: path.to_owned(), message: message.into(), help };
        if self.errors.len() == MAX_KEPT {
            self.more += 1;
        } else if !self.errors.contains(&problem) {
            self.errors.push(problem);
        }
    }

    /// Adds a key that is unknown or has no effect: an error, or a warning if lenient.
    pub fn ineffective(
        &mut self,
        place: Place,
        path: &str,
        message: impl Into<String>,
        help: Option<String>,
    ) {
        if !self.lenient {
            return self.error(place, path, message, help);
        }
        let problem = Problem { place, path: path.to_owned(), message: message.into(), help };
        if self.warnings.len() < MAX_KEPT && !self.warnings.contains(&problem) {
            self.warnings.push(problem);
        }
    }

    /// Whether nothing is wrong (warnings aside).
    pub fn is_empty(&self) -> bool {
        self.errors.is_empty()
    }

    /// Whether an error with this ending of its key path is known.
    pub fn mentions(&self, path_end: &str) -> bool {
        self.errors.iter().any(|problem| problem.path.ends_with(path_end))
    }

    /// The errors, in order of their places.
    pub fn errors(&self) -> Vec<&Problem> {
        sorted(&self.errors)
    }

    /// The warnings, in order of their places.
    pub fn warnings(&self) -> Vec<&Problem> {
        sorted(&self.warnings)
    }

    /// One line per warning, with file name and position.
    pub fn warning_texts(&self) -> Vec<String> {
        self.warnings().into_iter().map(|problem| self.describe(problem)).collect()
    }

    /// `value` if nothing is wrong, else the problems.
    pub fn or<T>(self, value: T) -> Result<(T, Self), Self> {
        if self.is_empty() { Ok((value, self)) } else { Err(self) }
    }

    fn describe(&self, problem: &Problem) -> String {
        let place = match problem.place {
            Place::Text { line, column } => format!("{}:{line}:{column}", self.file),
            Place::Set(index) => format!("--set {}", self.sets.get(index).map_or("", String::as_str)),
        };
        let path = if problem.path.is_empty() { String::new() } else { format!("{}: ", problem.path) };
        let help = problem.help.as_ref().map_or(String::new(), |help| format!("\n  help: {help}"));
        format!("{place}: {path}{}{help}", problem.message)
    }
}

fn sorted(problems: &[Problem]) -> Vec<&Problem> {
    let mut problems: Vec<_> = problems.iter().collect();
    problems.sort_by_key(|problem| problem.place);
    problems
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines: Vec<_> = self.errors().into_iter().map(|problem| self.describe(problem)).collect();
        f.write_str(&lines.join("\n"))?;
        if self.more > 0 { write!(f, "\nand {} more problems", self.more) } else { Ok(()) }
    }
}

impl std::error::Error for Problems {}

/// The candidate that `key` was probably meant to be: few typing errors away, or long the same from its
/// beginning (`base` for `base_model`).
pub fn did_you_mean<'a>(key: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let folded: String = key.chars().take(64).collect::<String>().to_lowercase().replace(['-', ' '], "_");
    let mut best: Option<(f64, &str)> = None;
    for candidate in candidates {
        let edits = strsim::damerau_levenshtein(&folded, candidate);
        let allowed = (folded.chars().count().min(candidate.chars().count()) / 3).max(1);
        let likeness = strsim::jaro_winkler(&folded, candidate);
        let near = (edits <= allowed && edits < folded.chars().count()) || likeness >= 0.88;
        if near && best.is_none_or(|(top, _)| likeness > top) {
            best = Some((likeness, candidate));
        }
    }
    best.map(|(_, candidate)| candidate)
}

/// A help sentence from [`did_you_mean`].
pub fn suggestion<'a>(key: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<String> {
    did_you_mean(key, candidates).map(|near| format!("did you mean `{near}`?"))
}

/// `words` as a list for a message: `a`, `b`, `c`.
pub fn listed<'a>(words: impl IntoIterator<Item = &'a str>) -> String {
    words.into_iter().map(|word| format!("`{word}`")).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(line: usize) -> Place {
        Place::Text { line, column: 1 }
    }

    #[test]
    fn all_problems_are_shown_in_order() {
        let sets = ["parameters.t=x".to_owned()];
        let mut problems = Problems::new("r.yml", &sets, false);
        problems.error(Place::Set(0), "parameters.t", "bad", None);
        problems.error(at(9), "", "second", Some("do this".into()));
        problems.error(at(2), "a.b", "first", None);
        problems.error(at(2), "a.b", "first", None);
        assert_eq!(
            problems.to_string(),
            "r.yml:2:1: a.b: first\nr.yml:9:1: second\n  help: do this\n--set parameters.t=x: parameters.t: bad"
        );
    }

    #[test]
    fn lenient_softens_only_keys_without_effect() {
        let mut problems = Problems::new("r.yml", &[], true);
        problems.ineffective(at(1), "a", "unused", None);
        assert!(problems.is_empty());
        assert_eq!(problems.warning_texts(), ["r.yml:1:1: a: unused"]);
        problems.error(at(1), "b", "wrong", None);
        assert!(problems.or(()).is_err());
    }

    #[test]
    fn near_words_are_suggested_and_far_ones_are_not() {
        let keys = ["merge_method", "models", "modules", "base_model", "parameters", "dtype", "t", "weight"];
        for (typo, meant) in [
            ("mergemethod", Some("merge_method")),
            ("merge-method", Some("merge_method")),
            ("model", Some("models")),
            ("base", Some("base_model")),
            ("Parameters", Some("parameters")),
            ("wieght", Some("weight")),
            ("x", None),
            ("quantize", None),
            ("", None),
        ] {
            assert_eq!(did_you_mean(typo, keys), meant, "{typo}");
        }
    }
}
