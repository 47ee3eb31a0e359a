//! What jobs that read data have in common: tokenizer and template, what the doctor says, errors.

use std::path::{Path, PathBuf};

use onefold_train::config::ModelConfig;
use onefold_train::data::doctor::{self, Report, Severity};
use onefold_train::data::tokenize::{Encoder, TooLong};
use onefold_train::data::{DataError, Task};
use onefold_train::model::Limits;
use onefold_train::text::{ChatTemplate, TextError, Tokenizer};
use serde_json::{Map, Value};

use crate::progress::{Failure, Shell};

/// How a recipe wants rows to be read.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Reading<'a> {
    /// A chat template in place of the model's.
    pub(super) chat_template: Option<&'a str>,
    /// Further variables of the template.
    pub(super) variables: Option<&'a Map<String, Value>>,
    /// Most tokens of a row.
    pub(super) length: Option<usize>,
    /// What becomes of longer rows.
    pub(super) too_long: TooLong,
}

/// Tokenizer of the model in `dir` with a chat template: the given one, else the model's. None for models of images.
pub(super) fn encoder(reading: &Reading<'_>, dir: &Path) -> Result<Option<Encoder>, Failure> {
    let wrong = |error: &dyn std::fmt::Display| Failure::usage(error.to_string());
    let config = ModelConfig::open(dir).map_err(|error| wrong(&error))?;
    if matches!(config, ModelConfig::Vision(_) | ModelConfig::Clip(_)) {
        return Ok(None);
    }
    let tokenizer = Tokenizer::open(dir).map_err(|error| wrong(&error))?;
    let template = match reading.chat_template {
        Some(text) => {
            let name = "`chat_template` of the recipe".to_owned();
            Some(ChatTemplate::new(name, text, tokenizer.special()).map_err(|error| wrong(&error))?)
        }
        None => match ChatTemplate::open(dir, None, false, tokenizer.special()) {
            Ok(template) => Some(template),
            Err(TextError::NoTemplate { .. }) => None,
            Err(error) => return Err(wrong(&error)),
        },
    };
    let mut encoder = Encoder::new(tokenizer, template);
    encoder.variables = reading.variables.cloned().unwrap_or_default();
    encoder.limit = reading.length;
    encoder.too_long = reading.too_long;
    Ok(Some(encoder))
}

/// An error with the task that it is of.
pub(super) fn named(task: &str, error: &DataError) -> String {
    let text = error.to_string();
    if text.contains(&format!("task `{task}`")) { text } else { format!("task `{task}`: {text}") }
}

/// What is wrong with data is the user's to mend.
pub(super) fn refused(error: DataError) -> Failure {
    match error {
        DataError::Cancelled => Failure::job(error),
        error => Failure::usage(error.to_string()),
    }
}

/// Looks at all rows, and tells what is seen, but for findings with an `ignored` code.
pub(super) fn examine(
    tasks: &[Task],
    encoder: Option<&Encoder>,
    limits: Option<&Limits>,
    ignored: &[&str],
    shell: &Shell,
) -> Result<Report, Failure> {
    let mut report = doctor::examine(tasks, encoder, limits).map_err(refused)?;
    report.findings.retain(|finding| !ignored.contains(&finding.code));
    if let Some(template) = &report.template {
        shell.say(&format!("chat template: {template}"));
    }
    report.tasks.iter().for_each(|task| shell.say(task.to_string().trim_end()));
    for finding in &report.findings {
        let message = format!("task `{}`: {}", finding.task, finding.message);
        match finding.severity {
            Severity::Note => shell.say(&message),
            Severity::Warning => shell.warn(&message),
            Severity::Fatal => {}
        }
    }
    shell.event("data", &report);
    report.refuse().map_err(refused)?;
    Ok(report)
}

/// What was read of all tasks.
pub(super) fn paths(tasks: &[Task]) -> impl Iterator<Item = PathBuf> {
    tasks.iter().flat_map(|task| &task.layouts).map(|(path, _)| path.clone())
}
