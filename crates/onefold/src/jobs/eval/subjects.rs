//! The models that are scored: those that are named, the base, and the expert of each task.

use std::collections::BTreeMap;
use std::path::Path;

use onefold_train::eval::{Classes, Subject};

use super::Ready;
use crate::cli::{Common, EvalArgs};
use crate::jobs::{hub_config, tell_hub};
use crate::models::{Library, Model, Wanted};
use crate::progress::{Failure, Shell};
use crate::recipe::eval::EvalRecipe;
use crate::recipe::{ModelRef, did_you_mean};

/// Why a model is scored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// It was named.
    Model,
    /// Others come from it.
    Base,
    /// It was tuned for a task, by number.
    Expert(usize),
}

/// A model, or one for each task.
#[derive(Debug)]
pub(super) struct Entry {
    /// What it is called in tables.
    pub(super) name: String,
    /// As it was typed.
    pub(super) text: String,
    pub(super) role: Role,
    /// Of each task.
    models: Vec<ModelRef>,
}

/// All that are scored: models as they were named, experts in the order of tasks, the base last.
#[derive(Debug)]
pub(super) struct Subjects {
    entries: Vec<Entry>,
    library: Library,
}

impl Subjects {
    /// Opens all models.
    pub(super) fn open(
        args: &EvalArgs,
        common: &Common,
        recipe: &EvalRecipe,
        shell: &Shell,
    ) -> Result<Self, Failure> {
        let tasks: Vec<&str> = recipe.tasks.iter().map(|task| task.name.as_str()).collect();
        let mut problems = Vec::new();
        let mut typed: Vec<(&str, Role)> =
            args.models.iter().map(|text| (text.as_str(), Role::Model)).collect();
        let mut experts: BTreeMap<usize, &str> = BTreeMap::new();
        for text in &args.experts {
            match expert(text, &tasks) {
                Ok((task, model)) if experts.insert(task, model).is_none() => {}
                Ok((task, _)) => problems.push(format!("--expert: two are of the task `{}`", tasks[task])),
                Err(problem) => problems.push(problem),
            }
        }
        typed.extend(experts.iter().map(|(task, model)| (*model, Role::Expert(*task))));
        typed.extend(args.base.iter().map(|text| (text.as_str(), Role::Base)));
        for (i, (text, role)) in typed.iter().enumerate() {
            if *role == Role::Model
                && typed[..i].iter().any(|(known, role)| known == text && *role == Role::Model)
            {
                problems.push(format!("the model {text} stands twice"));
            }
        }
        let limits =
            recipe.tasks.iter().filter(|task| task.limit.is_some()).map(|task| format!("`{}`", task.name));
        let limits: Vec<String> = limits.collect();
        if args.base.is_none() && !limits.is_empty() {
            problems.push(format!(
                "the `limit` of {} is measured from the base: name it with --base MODEL",
                limits.join(", ")
            ));
        }
        let names = names(&typed.iter().map(|(text, _)| *text).collect::<Vec<_>>());
        let mut entries = Vec::new();
        for ((text, role), name) in typed.into_iter().zip(names) {
            match of_tasks(text, &tasks, role) {
                Ok(models) => entries.push(Entry { name, text: text.to_owned(), role, models }),
                Err(problem) => problems.push(problem),
            }
        }
        if !problems.is_empty() {
            return Err(Failure::Usage(problems));
        }
        let mut wanted: Vec<Wanted<'_>> = Vec::new();
        for model in entries.iter().flat_map(|entry| &entry.models) {
            if wanted.iter().all(|known| known.model != model) {
                wanted.push(Wanted { model, base: None });
            }
        }
        let hub = hub_config(common)?;
        let library = Library::open(&wanted, &BTreeMap::new(), Path::new("."), &hub, &mut tell_hub(shell));
        let library = library.map_err(Failure::Usage)?;
        Ok(Self { entries, library })
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(super) fn entry(&self, number: usize) -> &Entry {
        &self.entries[number]
    }

    pub(super) fn all(&self) -> impl Iterator<Item = (usize, &Entry)> {
        self.entries.iter().enumerate()
    }

    /// The model of a task.
    pub(super) fn model(&self, number: usize, task: usize) -> &Model {
        self.library.get(&self.entries[number].models[task])
    }

    /// Every model once.
    pub(super) fn models(&self) -> Vec<&Model> {
        let mut references: Vec<&ModelRef> = Vec::new();
        for model in self.entries.iter().flat_map(|entry| &entry.models) {
            if !references.contains(&model) {
                references.push(model);
            }
        }
        references.into_iter().map(|model| self.library.get(model)).collect()
    }

    /// Who is who, as part of what makes the job another.
    pub(super) fn described(&self) -> String {
        self.entries.iter().map(|entry| format!("{:?} {}\n", entry.role, entry.text)).collect()
    }

    /// The models of a task with a role.
    pub(super) fn of_task(&self, task: usize, role: &dyn Fn(&Role) -> bool) -> Vec<usize> {
        let is_of = |entry: &Entry| !matches!(entry.role, Role::Expert(of) if of != task);
        self.all().filter(|(_, entry)| is_of(entry) && role(&entry.role)).map(|(number, _)| number).collect()
    }

    /// These models, as they are scored on a task.
    pub(super) fn named(&self, chosen: &[usize], task: usize) -> Vec<Subject<'_>> {
        let subject = |number: &usize| Subject {
            name: &self.entries[*number].name,
            checkpoint: &self.model(*number, task).checkpoint,
        };
        chosen.iter().map(subject).collect()
    }

    /// What is opened for one of them, each once, with the tasks that it is scored on.
    pub(super) fn passes<'a>(
        &'a self,
        number: usize,
        ready: &'a Ready,
    ) -> Vec<(Subject<'a>, Vec<(usize, &'a Classes)>)> {
        let entry = &self.entries[number];
        let mut passes: Vec<(&ModelRef, Vec<(usize, &Classes)>)> = Vec::new();
        for (task, judged) in ready.judged.iter().enumerate() {
            let Some((_, classes)) = judged.iter().find(|(of, _)| *of == number) else { continue };
            let model = &entry.models[task];
            match passes.iter_mut().find(|(known, _)| *known == model) {
                Some((_, tasks)) => tasks.push((task, classes)),
                None => passes.push((model, vec![(task, classes)])),
            }
        }
        let subject =
            |model: &ModelRef| Subject { name: &entry.name, checkpoint: &self.library.get(model).checkpoint };
        passes.into_iter().map(|(model, tasks)| (subject(model), tasks)).collect()
    }
}

/// `TASK=MODEL`.
fn expert<'t>(text: &'t str, tasks: &[&str]) -> Result<(usize, &'t str), String> {
    let Some((task, model)) =
        text.split_once('=').filter(|(task, model)| !task.is_empty() && !model.is_empty())
    else {
        return Err(format!("--expert {text}: expected TASK=MODEL"));
    };
    let found = tasks.iter().position(|known| *known == task);
    found.map(|number| (number, model)).ok_or_else(|| {
        let near = did_you_mean(task, tasks.iter().copied()).map(|near| format!("; did you mean `{near}`?"));
        let all = || format!("; the tasks are {}", crate::recipe::listed(tasks.iter().copied()));
        format!("--expert {text}: there is no task `{task}`{}", near.unwrap_or_else(all))
    })
}

/// The model of each task: one for all, or those that lie in a directory of each task's name.
fn of_tasks(text: &str, tasks: &[&str], role: Role) -> Result<Vec<ModelRef>, String> {
    let one = ModelRef::parse(text).map_err(|e| format!("{text}: {e}"))?;
    let dir = Path::new(&one.path);
    let is_model = |dir: &Path| dir.join("config.json").is_file();
    let inner = |name: &str| is_model(&dir.join(name));
    let holds_models = || {
        let inside = std::fs::read_dir(dir).into_iter().flatten().flatten();
        inside.into_iter().any(|entry| is_model(&entry.path()))
    };
    if !dir.is_dir() || is_model(dir) || one.lora.is_some() || !holds_models() {
        return Ok(vec![one; tasks.len()]);
    }
    let of = |task: &str| {
        let name = [task, "language"].into_iter().find(|name| inner(name));
        let found = name.map(|name| ModelRef { path: dir.join(name).display().to_string(), ..one.clone() });
        found.ok_or_else(|| {
            format!("{text}: it holds a model for each task, and none in {}", dir.join(task).display())
        })
    };
    match role {
        // The only one that is looked at.
        Role::Expert(number) => Ok(vec![of(tasks[number])?; tasks.len()]),
        Role::Model | Role::Base => tasks.iter().map(|task| of(task)).collect(),
    }
}

/// Last parts of paths where they tell models apart, else whole paths; then numbers.
fn names(texts: &[&str]) -> Vec<String> {
    let short = |text: &str| {
        let mut parts = text.split('/').filter(|part| !part.is_empty() && *part != ".");
        parts.next_back().map_or_else(|| text.to_owned(), str::to_owned)
    };
    let mut names: Vec<String> = Vec::new();
    for text in texts {
        let alone = texts.iter().filter(|other| short(other) == short(text)).count() == 1;
        let name = if alone { short(text) } else { (*text).to_owned() };
        let double =
            names.iter().filter(|known| **known == name || known.starts_with(&format!("{name}-"))).count();
        let taken = names.contains(&name);
        names.push(if taken { format!("{name}-{}", double + 1) } else { name });
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_tell_models_apart() {
        assert_eq!(names(&["a/b", "./c/", "org/d"]), ["b", "c", "d"]);
        assert_eq!(names(&["a/m", "b/m"]), ["a/m", "b/m"]);
        assert_eq!(names(&["m", "m"]), ["m", "m-2"]);
    }
}
