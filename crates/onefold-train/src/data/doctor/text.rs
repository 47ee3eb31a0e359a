//! The report for people.

use std::fmt;

use super::{Lengths, Report, TaskReport};
use crate::data::error::DataError;
use crate::data::shape::Picture;
use crate::data::task::Task;
use crate::data::tokenize::Encoder;

/// Characters of an example that are shown.
const SHOWN: usize = 2000;
/// What stands around learnt text.
const MARKS: [&str; 2] = ["⟦", "⟧"];

/// The first, the middle and the last training row, with what is learnt of them marked.
pub(super) fn examples(task: &Task, encoder: Option<&Encoder>) -> Result<Vec<String>, DataError> {
    let last = task.train.len() - 1;
    let mut places = vec![0, last / 2, last];
    places.dedup();
    places.into_iter().map(|place| example(task, encoder, task.train[place])).collect()
}

fn example(task: &Task, encoder: Option<&Encoder>, row: u32) -> Result<String, DataError> {
    let shown = match (task.picture(row), encoder) {
        (Some(Picture::File(path) | Picture::Bytes { name: path, .. }), _) => path.display().to_string(),
        (None, Some(encoder)) => marked(task, encoder, row)?,
        (None, None) => String::new(),
    };
    let shown = match shown.char_indices().nth(SHOWN) {
        Some((at, _)) => format!("{}…", &shown[..at]),
        None => shown,
    };
    let names = task.labels.as_ref().map(|labels| &labels.names);
    Ok(match task.label(row).zip(names).and_then(|(label, names)| names.get(label as usize)) {
        Some(name) => format!("{shown} → {}{name}{}", MARKS[0], MARKS[1]),
        None => shown,
    })
}

/// The text of a row, special tokens included, cut where learning begins and ends.
fn marked(task: &Task, encoder: &Encoder, row: u32) -> Result<String, DataError> {
    let Some(tokens) = task.tokens(row) else { return Ok(String::new()) };
    let learnt = tokens.learnt();
    let mut text = String::new();
    let mut rest = tokens.ids();
    for run in learnt.chunk_by(|a, b| a == b) {
        let (ids, after) = rest.split_at(run.len());
        let part = encoder.tokenizer.decode(ids, false)?;
        text += &if run[0] { format!("{}{part}{}", MARKS[0], MARKS[1]) } else { part };
        rest = after;
    }
    Ok(text)
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(template) = &self.template {
            writeln!(f, "chat template: {template}")?;
        }
        for task in &self.tasks {
            write!(f, "{task}")?;
        }
        for finding in &self.findings {
            writeln!(f, "{finding}")?;
        }
        Ok(())
    }
}

impl fmt::Display for TaskReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (kind, train, validation) = (self.kind.name(), self.train, self.validation);
        let to_validate = match validation {
            0 => String::new(),
            rows => format!(", {rows} to validate on"),
        };
        writeln!(f, "task {} ({kind}): {train} rows to learn from{to_validate}", self.name)?;
        for file in &self.files {
            writeln!(f, "  {file}")?;
        }
        if let Some(Lengths { min, p50, p90, p99, max, tokens, learnt }) = self.lengths {
            let lengths = format!("{min} / {p50} / {p90} / {p99} / {max}");
            write!(f, "  tokens per row (min / 50 % / 90 % / 99 % / max): {lengths}; {tokens} in all")?;
            if self.classes.is_empty() {
                write!(f, ", {learnt} learnt")?;
            }
            writeln!(f)?;
        }
        for class in self.classes.iter().take(20) {
            writeln!(f, "  class {}: {} / {}", class.name, class.train, class.validation)?;
        }
        if self.classes.len() > 20 {
            writeln!(f, "  … {} classes in all", self.classes.len())?;
        }
        for example in &self.examples {
            writeln!(f, "  example: {}", example.replace('\n', "\n    "))?;
        }
        Ok(())
    }
}
