//! The data doctor: what a look at all rows says before any of them is learnt.
//!
//! For each task it counts, measures lengths, shows three rows with what is learnt of them between ⟦ and ⟧, and looks for
//! what usually goes wrong. A fatal finding means that training would be without sense or would fail; warnings are for a
//! person to judge. The report is a value with a text form; whether a fatal finding ends the run is up to the caller
//! ([`Report::refuse`]).
//!
//! | code | severity | what |
//! |---|---|---|
//! | `bad_rows` | warning | rows that cannot be used, as many as are allowed |
//! | `too_long`, `cut` | warning | rows left out, or cut |
//! | `masked` | warning | rows of which nothing is learnt |
//! | `turns` | warning | conversations whose roles do not alternate |
//! | `merged` | warning | one token across the end of a prompt |
//! | `double_bos` | fatal in most rows, else warning | a text begins twice |
//! | `no_end` | warning | an answer without its end token |
//! | `unknown` | warning | more than 1 % of the tokens are not in the vocabulary |
//! | `vocabulary`, `positions` | fatal | tokens or lengths that the model does not have |
//! | `duplicates`, `conflicts` | warning | equal rows; equal rows of different classes |
//! | `overlap` | warning, fatal if complete | validation rows that are also learnt |
//! | `one_class` | fatal | nothing to tell apart |
//! | `no_rows_of_class` | warning | a class that is never learnt, or never validated |
//! | `images` | fatal | images that cannot be decoded |
//! | `no_validation` | note | nothing to measure progress on |

mod findings;
mod images;
mod same;
mod text;

use std::fmt;

use serde::Serialize;

use super::error::DataError;
use super::shape::Kind;
use super::task::{Counts, Task};
use super::tokenize::Encoder;
use crate::model::Limits;

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// Worth knowing.
    Note,
    /// Probably a mistake.
    Warning,
    /// Training would be without sense, or fail.
    Fatal,
}

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// The task.
    pub task: String,
    /// Its name, for programs.
    pub code: &'static str,
    /// What it is and what to do, for people.
    pub message: String,
}

/// Lengths of rows in tokens: smallest, percentiles by nearest rank, largest.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Lengths {
    /// The shortest row.
    pub min: u32,
    /// Half of the rows are no longer.
    pub p50: u32,
    /// 90 % of the rows are no longer.
    pub p90: u32,
    /// 99 % of the rows are no longer.
    pub p99: u32,
    /// The longest row.
    pub max: u32,
    /// All of them together.
    pub tokens: u64,
    /// Tokens that are learnt.
    pub learnt: u64,
}

/// How often a class occurs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ClassCount {
    /// Its name.
    pub name: String,
    /// Rows to learn from.
    pub train: usize,
    /// Rows to validate on.
    pub validation: usize,
}

/// What was seen of a task.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TaskReport {
    /// Its name.
    pub name: String,
    /// What is done with it.
    pub kind: Kind,
    /// Files and how they are read.
    pub files: Vec<String>,
    /// Rows to learn from.
    pub train: usize,
    /// Rows to validate on.
    pub validation: usize,
    /// What became of the rows of the files.
    pub counts: Counts,
    /// Lengths of the training rows.
    pub lengths: Option<Lengths>,
    /// Classes.
    pub classes: Vec<ClassCount>,
    /// Rows as they are learnt.
    pub examples: Vec<String>,
}

/// What was seen of all tasks.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// The chat template that was used.
    pub template: Option<String>,
    /// The tasks.
    pub tasks: Vec<TaskReport>,
    /// What was found, the worst first.
    pub findings: Vec<Finding>,
}

/// Looks at all tasks; with the `limits` of the model also at whether it can take their rows.
pub fn examine(
    tasks: &[Task],
    encoder: Option<&Encoder>,
    limits: Option<&Limits>,
) -> Result<Report, DataError> {
    let mut findings: Vec<_> = tasks.iter().flat_map(|task| findings::of(task, encoder, limits)).collect();
    findings.sort_by_key(|finding| std::cmp::Reverse(finding.severity));
    let reports = tasks.iter().map(|task| report(task, encoder)).collect::<Result<_, _>>()?;
    let template = encoder.and_then(|encoder| encoder.template.as_ref());
    Ok(Report { template: template.map(|template| template.name().to_owned()), tasks: reports, findings })
}

impl Report {
    /// An error that lists the fatal findings, if there are any.
    pub fn refuse(&self) -> Result<(), DataError> {
        let fatal: Vec<_> =
            self.findings.iter().filter(|finding| finding.severity == Severity::Fatal).collect();
        if fatal.is_empty() {
            return Ok(());
        }
        Err(DataError::Fatal { findings: fatal.into_iter().cloned().collect() })
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let severity = match self.severity {
            Severity::Note => "note",
            Severity::Warning => "warning",
            Severity::Fatal => "fatal",
        };
        write!(f, "{severity}: task `{}`: {}", self.task, self.message)
    }
}

fn report(task: &Task, encoder: Option<&Encoder>) -> Result<TaskReport, DataError> {
    Ok(TaskReport {
        name: task.name.clone(),
        kind: task.kind,
        files: task.layouts.iter().map(|(path, layout)| format!("{}: {layout}", path.display())).collect(),
        train: task.train.len(),
        validation: task.validation.len(),
        counts: task.counts.clone(),
        lengths: lengths(task),
        classes: classes(task),
        examples: text::examples(task, encoder)?,
    })
}

fn lengths(task: &Task) -> Option<Lengths> {
    let rows = || task.train.iter().filter_map(|row| task.tokens(*row));
    let mut lengths: Vec<u32> = rows().map(|tokens| tokens.ids().len() as u32).collect();
    lengths.sort_unstable();
    let rank = |percent: usize| lengths[(lengths.len() * percent).div_ceil(100).max(1) - 1];
    let (min, max) = (*lengths.first()?, *lengths.last()?);
    let tokens = lengths.iter().map(|length| u64::from(*length)).sum();
    let learnt = rows().map(|tokens| tokens.targets() as u64).sum();
    Some(Lengths { min, p50: rank(50), p90: rank(90), p99: rank(99), max, tokens, learnt })
}

fn classes(task: &Task) -> Vec<ClassCount> {
    let names = task.labels.iter().flat_map(|labels| &labels.names);
    let none = |name: &String| ClassCount { name: name.clone(), train: 0, validation: 0 };
    let mut classes: Vec<_> = names.map(none).collect();
    for label in task.train.iter().filter_map(|row| task.label(*row)) {
        classes[label as usize].train += 1;
    }
    for label in task.validation.iter().filter_map(|row| task.label(*row)) {
        classes[label as usize].validation += 1;
    }
    classes
}

#[cfg(test)]
mod tests;
