//! What tells each task, and so what its rows are: a head, the model's words, or a word or texts of each of its classes.

use onefold_train::adapt::{self, Teller};
use onefold_train::config::ModelConfig;
use onefold_train::data::shape::Kind;

use super::{Session, expert, refused};
use crate::models::Model;
use crate::progress::Failure;
use crate::recipe::adapt::{Classes, TaskInputs, Telling};

/// What tells a task.
pub(super) struct Told {
    /// What is done with its rows.
    pub(super) kind: Kind,
    /// Names of its classes.
    pub(super) classes: Vec<String>,
    pub(super) teller: Teller,
}

impl Session<'_> {
    /// What tells a task.
    pub(super) fn told(&self, task: &TaskInputs) -> Result<Told, Failure> {
        let config = ModelConfig::open(self.source()).map_err(|error| Failure::usage(error.to_string()))?;
        let wrong = |message: String| Failure::usage(format!("task `{}`: {message}", task.name));
        match (&task.telling, &config) {
            (Telling::Texts { classes: Classes::Names(classes), templates }, ModelConfig::Clip(_)) => {
                let teller = Teller::texts(self.source(), classes, templates);
                let teller = teller.map_err(|error| wrong(error.to_string()))?;
                Ok(Told { kind: Kind::ImageClassify, classes: classes.clone(), teller })
            }
            (Telling::LabelWords(words), _) => {
                let found = Teller::label_words(self.source(), words);
                let (teller, notes) = found.map_err(|error| wrong(error.to_string()))?;
                notes.iter().for_each(|note| self.shell.say(&format!("task `{}`: {note}", task.name)));
                let classes = words.iter().map(|(class, _)| class.clone()).collect();
                Ok(Told { kind: Kind::Classify, classes, teller })
            }
            (Telling::Texts { .. }, other) => Err(wrong(format!(
                "`classes` are told by texts, which takes a model of type `clip`; the base is `{}`, whose experts have heads \
                 with classes of their own",
                other.common().model_type
            ))),
            (Telling::Model, ModelConfig::Clip(_)) => Err(wrong(
                "no `classes`: clip tells classes by their names, as in `classes: [cat, dog]`; or name a file with one a line"
                    .to_owned(),
            )),
            (Telling::Model, _) => self.told_by_model(&task.name),
        }
    }

    fn told_by_model(&self, task: &str) -> Result<Told, Failure> {
        let of = |model: &Model| adapt::tells(&expert(model)).map_err(refused);
        let told = |(kind, classes): (Kind, Vec<String>), expert: Option<usize>| {
            let head = expert.filter(|_| kind != Kind::Generate);
            Told { kind, classes, teller: head.map_or(Teller::Words, Teller::Head) }
        };
        match self.recipe.expert_of(task) {
            Some(expert) => of(self.experts()[expert]).map(|found| told(found, Some(expert))),
            // Without an expert of its own a task can be told by the words of the merged model alone.
            None => match of(self.base()) {
                Ok(found @ (Kind::Generate, _)) => Ok(told(found, None)),
                _ => Err(Failure::usage(format!(
                    "task `{task}`: no model has `task: {task}`, so nothing tells its classes; say which expert is of it"
                ))),
            },
        }
    }
}
