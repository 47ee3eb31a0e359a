//! `early_stop`: when rounds are enough, and by which rows that is judged.

use onefold_runtime::params::Kind;
use onefold_train::data::Validation;
use onefold_train::tune::{Aggregate, Measure};

use super::tasks::{AlternateTask, Rows};
use crate::recipe::keys::{Keys, NOT_NEGATIVE};
use crate::recipe::tune::TaskRecipe;
use crate::recipe::tune::watching::{MEASURES, by};

/// What `split` may be.
pub(super) const SPLITS: [(&str, Split); 2] = [("validation", Split::Validation), ("dev", Split::Dev)];

/// By which rows rounds are judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Split {
    /// Those of `validation`.
    Validation,
    /// Those of `dev`.
    Dev,
}

/// When it is enough.
#[derive(Debug, Clone, PartialEq)]
pub struct Stop {
    /// Rounds without progress after which it is.
    pub patience: u64,
    /// By which rows that is judged.
    pub split: Split,
    /// Of which tasks.
    pub by: Aggregate,
    /// Which number of them.
    pub of: Measure,
    /// What is less than this is no progress.
    pub least: f64,
}

pub(super) fn read(
    top: &mut Keys<'_, '_>,
    rows: Rows,
    tasks: &[(TaskRecipe, AlternateTask)],
) -> Option<Stop> {
    let mut keys = top.mapping("early_stop", "when it is enough, as in `{patience: 3, split: dev}`")?;
    let patience = keys.count("patience", 1);
    if patience.is_none() && !keys.has("patience") {
        let help = "say after how many rounds without progress it is enough".to_owned();
        keys.problems.error(keys.place, &keys.path, "no `patience`", Some(help));
    }
    let usual = if rows == Rows::Train { Split::Validation } else { Split::Dev };
    let split = keys.choice("split", &SPLITS).unwrap_or(usual);
    if (rows, split) == (Rows::Validation, Split::Validation) {
        let message = "validation rows are learnt from, so they cannot say when it is enough";
        keys.error("split", message, Some("give tasks further rows as `dev`, or leave `early_stop` out"));
    }
    let names: Vec<String> = tasks.iter().map(|(task, _)| task.name.clone()).collect();
    let path = keys.path("by");
    let aggregate = keys.node("by").and_then(|node| by(node, &path, &names, keys.problems));
    let aggregate = aggregate.unwrap_or(Aggregate::Mean);
    let of = keys.choice("of", &MEASURES).unwrap_or(Measure::Loss);
    let least = match of {
        Measure::Loss => NOT_NEGATIVE,
        Measure::Accuracy => Kind::Number { min: 0.0, max: 1.0, min_open: false },
    };
    let least = keys.number("min_delta", &least).unwrap_or_default();
    for (task, more) in tasks {
        let lacks = match split {
            Split::Validation => task.validation == Validation::None,
            Split::Dev => more.dev.is_empty(),
        };
        let counts = !matches!(&aggregate, Aggregate::Task(name) if *name != task.name);
        if lacks && counts {
            let key = if split == Split::Dev { "dev" } else { "validation" };
            let message = format!("task `{}` has no `{key}` to be judged by", task.name);
            let path = keys.path("split");
            keys.problems.error(keys.place, &path, message, None);
        }
    }
    keys.finish();
    Some(Stop { patience: patience?, split, by: aggregate, of, least })
}
