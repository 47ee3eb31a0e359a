//! From a checkpoint and tasks to the parameters that are trained: adapters, heads of tasks, what stays as it is.

use std::collections::BTreeSet;
use std::path::Path;

use super::error::TuneError;
use super::settings::{Targets, Trainable};
use crate::config::{Head, ModelConfig, Problem};
use crate::data::Task;
use crate::data::shape::Kind;
use crate::families::{TensorSpec, module};
use crate::model::{HeadStart, Limits, Parameters, Part, TextModel};

/// The parameters of a training.
#[derive(Debug)]
pub struct Prepared {
    /// All of them.
    pub parameters: Parameters,
    /// For each task whose head it has; none: the model's own.
    pub heads: Vec<Option<u32>>,
}

impl Prepared {
    /// The model in `dir` as it is trained on `tasks`. Tasks with classes get a head of their own, unless the model's own has
    /// their classes; rows that are written need a model that writes.
    ///
    /// # Errors
    /// If the model cannot be read, cannot learn a task, or a setting names nothing in it.
    pub fn open(dir: &Path, tasks: &[Task], trainable: &Trainable, seed: u64) -> Result<Self, TuneError> {
        let frozen = |spec: &TensorSpec| trainable.freeze.iter().any(|part| spec.name.contains(part));
        let mut parameters = Parameters::open(dir, |spec| trainable.adapter.is_none() && !frozen(spec))?;
        check_frozen(&parameters, &trainable.freeze)?;
        let heads = heads(parameters.config(), tasks)?;
        if let Some((settings, targets)) = &trainable.adapter {
            let chosen = chosen(&parameters, targets)?;
            parameters.adapt(settings, |spec| chosen.contains(&spec.name) && !frozen(spec))?;
        }
        for (task, head) in tasks.iter().zip(&heads) {
            if let Some(number) = head {
                let names = task.labels.as_ref().map(|labels| labels.names.clone()).unwrap_or_default();
                let head = Head::Classes(names.len());
                let config = parameters.config().with_head(head, names, Problem::SingleLabel);
                parameters.add_head(*number, &config, HeadStart { seed, ..HeadStart::default() })?;
            }
        }
        if parameters.trainable().next().is_none() {
            return Err(TuneError::setting("freeze", "nothing is left to be trained"));
        }
        Ok(Self { parameters, heads })
    }

    /// What the model can take of texts; nothing for images.
    ///
    /// # Errors
    /// If the model cannot be built.
    pub fn limits(&self) -> Result<Option<Limits>, TuneError> {
        Ok(match self.parameters.config() {
            ModelConfig::Vision(_) => None,
            _ => Some(*TextModel::new(&self.parameters)?.limits()),
        })
    }
}

/// Whose head each task has.
pub(crate) fn heads(config: &ModelConfig, tasks: &[Task]) -> Result<Vec<Option<u32>>, TuneError> {
    let is_vision = matches!(config, ModelConfig::Vision(_));
    let kind = &config.common().model_type;
    let head = |(number, task): (u32, &Task)| {
        let refused = |why: &str| Err(TuneError::task(&task.name, format!("a model of type `{kind}` {why}")));
        match task.kind {
            _ if matches!(config, ModelConfig::Clip(_)) => refused(
                "compares images and texts; take its vision half, saved as `clip_vision_model`, to classify images",
            ),
            Kind::ImageClassify if !is_vision => refused("does not look at images"),
            Kind::Generate | Kind::Classify if is_vision => refused("does not read text"),
            Kind::Generate if !matches!(config, ModelConfig::Decoder(_)) => {
                refused("does not write text; give the rows a `label`, or take a decoder")
            }
            Kind::Generate if config.common().head != Head::Language => refused(
                "has no language head here (`architectures` in its config.json); take the checkpoint of the language model",
            ),
            Kind::Generate => Ok(None),
            Kind::Classify | Kind::ImageClassify => {
                Ok(if is_own(config, task) { None } else { Some(number) })
            }
        }
    };
    (0..).zip(tasks).map(head).collect()
}

/// Whether the model's own head has the classes of a task.
fn is_own(config: &ModelConfig, task: &Task) -> bool {
    let common = config.common();
    let names = task.labels.as_ref().map(|labels| &labels.names);
    matches!(common.head, Head::Classes(_))
        && common.problem == Problem::SingleLabel
        && names.is_some_and(|names| *names == common.labels)
}

pub(crate) fn check_frozen(parameters: &Parameters, freeze: &[String]) -> Result<(), TuneError> {
    let names = || parameters.iter().map(|(_, parameter)| parameter.name.as_str());
    match freeze.iter().find(|part| !names().any(|name| name.contains(part.as_str()))) {
        Some(part) => {
            let example = names().next().unwrap_or_default();
            let message = format!("`{part}` is part of no tensor's name; the first one is `{example}`");
            Err(TuneError::setting("freeze", message))
        }
        None => Ok(()),
    }
}

/// Names of the weights that get adapters.
pub(crate) fn chosen(parameters: &Parameters, targets: &Targets) -> Result<BTreeSet<String>, TuneError> {
    let config = parameters.config();
    let all: Vec<(String, &TensorSpec)> = (parameters.iter())
        .filter_map(|(_, parameter)| parameter.spec())
        .filter(|spec| spec.part != Part::Bias && spec.is_adaptable())
        .filter_map(|spec| Some((module(config, &spec.name)?, spec)))
        .collect();
    let nothing = |what: String| {
        let ends: BTreeSet<_> = all.iter().map(|(path, _)| path.rsplit('.').next().unwrap_or(path)).collect();
        let ends: Vec<_> = ends.into_iter().map(|name| format!("`{name}`")).collect();
        let message = format!("{what}; linear maps of this model are called {}", ends.join(", "));
        TuneError::setting("adapter.targets", message)
    };
    let fits = |path: &str, name: &str| path == name || path.ends_with(&format!(".{name}"));
    let chosen: BTreeSet<String> = match targets {
        Targets::AllLinear => {
            all.iter().filter(|(_, spec)| spec.layer.is_some()).map(|(_, spec)| spec.name.clone()).collect()
        }
        Targets::Names(names) => {
            if let Some(name) = names.iter().find(|name| !all.iter().any(|(path, _)| fits(path, name))) {
                return Err(nothing(format!("`{name}` is no linear map")));
            }
            let named = |path: &str| names.iter().any(|name| fits(path, name));
            all.iter().filter(|(path, _)| named(path)).map(|(_, spec)| spec.name.clone()).collect()
        }
        Targets::Pattern(text) => {
            let pattern = onefold_checkpoint::adapter::Pattern::whole(text)
                .map_err(|why| TuneError::setting("adapter.targets", format!("{text:?}: {why}")))?;
            all.iter().filter(|(path, _)| pattern.matches(path)).map(|(_, spec)| spec.name.clone()).collect()
        }
    };
    if chosen.is_empty() {
        let named = match targets {
            Targets::AllLinear => "`all-linear`".to_owned(),
            Targets::Names(names) => format!("{names:?}"),
            Targets::Pattern(pattern) => format!("the pattern {pattern:?}"),
        };
        return Err(nothing(format!("{named} matches nothing")));
    }
    Ok(chosen)
}
