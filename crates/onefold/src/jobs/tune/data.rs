//! The tasks' data: the template's text, loading, and settings that no row asks for.

use std::path::Path;

use onefold_train::data::shape::Shape;
use onefold_train::data::tokenize::Encoder;
use onefold_train::data::{DataError, Task};

use crate::jobs::data::{named, refused};
use crate::progress::{Failure, Shell};
use crate::recipe::tune::TuneRecipe;

/// Puts the text of the chat template into the recipe, if it names a file: the text is what the result depends on.
pub(in crate::jobs) fn read_template(recipe: &mut TuneRecipe, recipe_dir: &Path) -> Result<(), Failure> {
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

/// Settings that no row asks for.
pub(in crate::jobs) fn check_settings(
    recipe: &TuneRecipe,
    tasks: &[Task],
    shell: &Shell,
) -> Result<(), Failure> {
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
