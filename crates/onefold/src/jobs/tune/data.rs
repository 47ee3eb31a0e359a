//! The tasks' data: tokenizer and template, loading, and what the doctor says.

use std::path::{Path, PathBuf};

use onefold_train::config::ModelConfig;
use onefold_train::data::doctor::{self, Report, Severity};
use onefold_train::data::shape::Shape;
use onefold_train::data::tokenize::Encoder;
use onefold_train::data::{DataError, Task};
use onefold_train::model::Limits;
use onefold_train::text::{ChatTemplate, TextError, Tokenizer};

use crate::progress::{Failure, Shell};
use crate::recipe::tune::TuneRecipe;

/// Tokenizer of the model in `dir` with a chat template: the recipe's, else the model's. None for models of images.
pub(super) fn encoder(recipe: &TuneRecipe, dir: &Path) -> Result<Option<Encoder>, Failure> {
    let wrong = |error: &dyn std::fmt::Display| Failure::usage(error.to_string());
    let config = ModelConfig::open(dir).map_err(|error| wrong(&error))?;
    if matches!(config, ModelConfig::Vision(_) | ModelConfig::Clip(_)) {
        return Ok(None);
    }
    let tokenizer = Tokenizer::open(dir).map_err(|error| wrong(&error))?;
    let template = match &recipe.chat_template {
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
    encoder.variables = recipe.template_variables.clone();
    encoder.limit = recipe.length;
    encoder.too_long = recipe.too_long;
    Ok(Some(encoder))
}

/// Puts the text of the chat template into the recipe, if it names a file: the text is what the result depends on.
pub(super) fn read_template(recipe: &mut TuneRecipe, recipe_dir: &Path) -> Result<(), Failure> {
    let Some(text) = recipe.chat_template.as_mut().filter(|text| !text.contains('{')) else { return Ok(()) };
    let path = recipe_dir.join(&*text);
    let wrong = |why: String| Failure::usage(format!("chat_template: {}: {why}", path.display()));
    let read = std::fs::read_to_string(&path).map_err(|e| wrong(format!("cannot read: {e}")))?;
    if !read.contains('{') {
        return Err(wrong("no Jinja template: nothing in it is in braces".to_owned()));
    }
    *text = read;
    Ok(())
}

/// Loads all tasks.
///
/// # Errors
/// What is wrong with any of them.
pub(super) fn load(
    recipe: &TuneRecipe,
    encoder: Option<&Encoder>,
    recipe_dir: &Path,
    shell: &Shell,
) -> Result<Vec<Task>, Failure> {
    let (mut tasks, mut problems) = (Vec::new(), Vec::new());
    for task in &recipe.tasks {
        let settings = task.settings(recipe_dir, recipe.settings.seed);
        let load = |settings| Task::load(&settings, encoder, shell).map_err(Box::new);
        match settings.and_then(load).map_err(|error| *error) {
            Ok(task) => tasks.push(task),
            Err(error @ DataError::Cancelled) => return Err(refused(error)),
            Err(error) => problems.push(named(&task.name, &error)),
        }
    }
    if problems.is_empty() { Ok(tasks) } else { Err(Failure::Usage(problems)) }
}

/// An error with the task that it is of.
fn named(task: &str, error: &DataError) -> String {
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

/// Settings that no row asks for.
pub(super) fn check_settings(recipe: &TuneRecipe, tasks: &[Task], shell: &Shell) -> Result<(), Failure> {
    let mut problems = Vec::new();
    for (said, task) in recipe.tasks.iter().zip(tasks) {
        if said.labels.is_some() && task.labels.is_none() {
            let kind = task.kind.name();
            problems.push(format!("task `{}`: `labels` has no effect: its rows are to {kind}", task.name));
        }
    }
    let layouts = || tasks.iter().flat_map(|task| &task.layouts).map(|(_, layout)| layout.shape);
    let chats = layouts().any(|shape| shape.is_chat() || shape == Shape::PromptCompletion);
    for (key, given) in [
        ("chat_template", recipe.chat_template.is_some()),
        ("template_variables", !recipe.template_variables.is_empty()),
    ] {
        if given && !chats {
            shell.warn(&format!("`{key}` has no effect: no task has conversations"));
        }
    }
    if problems.is_empty() { Ok(()) } else { Err(Failure::Usage(problems)) }
}

/// Looks at all rows, and tells what is seen.
pub(super) fn examine(
    tasks: &[Task],
    encoder: Option<&Encoder>,
    limits: Option<&Limits>,
    shell: &Shell,
) -> Result<Report, Failure> {
    let report = doctor::examine(tasks, encoder, limits).map_err(refused)?;
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
