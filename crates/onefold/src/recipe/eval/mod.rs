//! Files of tasks by which models are scored.
//!
//! A task is written as those of `onefold tune` and `onefold adapt`, whose keys it shares; one block of tasks may serve all three, so
//! what says how tasks are learnt is passed over here. Values have the library's own types (`onefold_train::eval`);
//! [`EvalRecipe::to_yaml`] gives the file back with all that it leaves out.

mod tasks;
#[cfg(test)]
mod tests;
mod write;

use std::path::Path;

use onefold_train::eval::Passing;

pub use tasks::ScoredTask;

use super::edit;
use super::keys::Keys;
use super::node::Document;
use super::problems::Problems;
use super::write as yaml_text;

/// Drawings of a bootstrap, unless the file says how many: standard errors are then known to some 2 %.
const BOOTSTRAP: u32 = 1000;

/// Tasks, and how they are scored.
#[derive(Debug, Clone, PartialEq)]
pub struct EvalRecipe {
    /// The tasks.
    pub tasks: Vec<ScoredTask>,
    /// How rows pass the models.
    pub passing: Passing,
    /// Drawings of a bootstrap.
    pub bootstrap: u32,
    /// The seed of everything random.
    pub seed: u64,
    /// The text it was read from, verbatim, before any `--set`.
    pub text: String,
}

impl EvalRecipe {
    /// Reads the text of a file of tasks, changed by the `--set` texts; paths are looked up in `dir`. `seed` is that of the command
    /// line. Nothing if something is wrong, which is reported.
    pub fn parse(
        text: &str,
        sets: &[String],
        seed: u64,
        dir: &Path,
        problems: &mut Problems,
    ) -> Option<Self> {
        let document = edit::single(text, "list of tasks", sets, problems)?;
        let mut recipe = read(&document, seed, problems)?;
        recipe.tasks.iter_mut().for_each(|task| task.telling.read_classes(dir, problems));
        problems.is_empty().then_some(recipe)
    }

    /// The file as it was understood, as YAML that reads back to an equal one (but for `text`).
    pub fn to_yaml(&self) -> String {
        yaml_text::yaml(&serde_json::to_value(self).unwrap_or_default())
    }
}

fn read(document: &Document, command_seed: u64, problems: &mut Problems) -> Option<EvalRecipe> {
    let mut top = Keys::of(&document.root, "", "a file of tasks", problems)?;
    let tasks = tasks::read(&mut top);
    let seed = super::tune::seed(&mut top, command_seed);
    let passing = passing(&mut top);
    let bootstrap = top.count("bootstrap", 10).map_or(BOOTSTRAP, |n| u32::try_from(n).unwrap_or(u32::MAX));
    top.finish();
    Some(EvalRecipe { tasks, passing, bootstrap, seed, text: document.text.clone() })
}

fn passing(top: &mut Keys<'_, '_>) -> Passing {
    let plain = Passing::default();
    let Some(mut keys) = top.mapping("batch", "what passes at once, as in `{tokens: 8192, length: 512}`")
    else {
        return plain;
    };
    let tokens = keys.count("tokens", 1).map_or(plain.tokens, |n| n as usize);
    let length = keys.count("length", 2).map(|n| n as usize);
    keys.unused(
        &["examples", "batches", "micro"],
        "rows pass by their tokens; `batch.tokens` says how many at once",
    );
    keys.finish();
    Passing { tokens, length }
}
