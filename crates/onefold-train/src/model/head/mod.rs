//! What stands behind the last layer, with its loss.

mod classes;
mod dense;
mod labels;
mod language;
mod transform;
mod vectors;

use std::collections::BTreeMap;

use onefold_engine::Buffer;
use onefold_engine::cpu::loss::{Losses, Objective};

pub use classes::{ClassHead, ClassSaved, ClassSettings};
pub(super) use labels::{LabelHead, LabelSaved};
pub use language::{LanguageHead, LanguageScratch, LanguageSettings};
pub use transform::TransformSettings;
pub(super) use vectors::{Scores, Vectors};

use super::error::ModelError;
use super::gradients::Backward;
use super::memory::BatchShape;
use super::parameters::Parameters;
use super::pass::Pass;
use super::targets::Targets;
use crate::config::ModelConfig;
use crate::families::Half;

/// What a configuration says of the head.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum HeadSettings {
    /// There is none.
    None,
    /// Scores of words for each token.
    Language(LanguageSettings),
    /// Scores of classes.
    Classes(ClassSettings),
}

/// The model's own head, and those of tasks, of which one is in use.
#[derive(Debug)]
pub(super) struct Heads {
    /// That of the checkpoint has no task.
    heads: BTreeMap<Option<u32>, Head>,
    used: Option<u32>,
}

impl Heads {
    /// All heads; `settings` says what a configuration has. `None` if the parameters lack one.
    pub(super) fn find(
        parameters: &Parameters,
        settings: impl Fn(&ModelConfig) -> Option<HeadSettings>,
    ) -> Option<Self> {
        let own = Head::find(parameters, Half::Whole, &settings(parameters.config())?)?;
        let mut heads = BTreeMap::from([(None, own)]);
        for (task, config) in parameters.heads() {
            heads.insert(Some(task), Head::find(parameters, Half::Task(task), &settings(config)?)?);
        }
        Some(Self { heads, used: None })
    }

    /// Gives a task scores of a few words, one for each class, by the model's own head.
    pub(super) fn add_label_words(&mut self, task: u32, words: &[u32]) -> Result<(), ModelError> {
        let Some(Head::Language(own, _)) = self.heads.get(&None) else {
            return Err(ModelError::NoLanguageHead);
        };
        let vocabulary = own.vocabulary();
        if let Some(word) = words.iter().find(|word| **word as usize >= vocabulary) {
            return Err(ModelError::NoWord { word: *word, vocabulary });
        }
        let head = own.label_words(words).ok_or(ModelError::NoLanguageHead)?;
        self.heads.insert(Some(task), Head::Labels(head, Box::default()));
        Ok(())
    }

    /// Uses the head of a task, or the model's own.
    pub(super) fn select(&mut self, task: Option<u32>) -> Result<(), ModelError> {
        if let Some(task) = task.filter(|task| !self.heads.contains_key(&Some(*task))) {
            return Err(ModelError::NoTaskHead { task });
        }
        self.used = task;
        Ok(())
    }

    /// The one in use.
    pub(super) fn head(&mut self) -> &mut Head {
        self.heads.get_mut(&self.used).expect("only a head that is there is selected")
    }

    /// The same, to be looked at.
    pub(super) fn used(&self) -> &Head {
        &self.heads[&self.used]
    }

    /// Bytes that their memory comes to hold if each takes such a batch.
    pub(super) fn bytes_for(&self, parameters: &Parameters, shape: &BatchShape) -> usize {
        self.heads.values().map(|head| head.bytes_for(parameters, shape)).sum()
    }

    /// Bytes that their memory holds.
    pub(super) fn bytes(&self) -> usize {
        self.heads.values().map(Head::bytes).sum()
    }
}

/// A head with its memory.
#[derive(Debug)]
pub(super) enum Head {
    None,
    Language(LanguageHead, Box<LanguageScratch>),
    Classes(ClassHead, Box<ClassSaved>),
    Labels(LabelHead, Box<LabelSaved>),
}

impl Head {
    /// The head; `None` if the parameters lack it.
    pub(super) fn find(parameters: &Parameters, half: Half, settings: &HeadSettings) -> Option<Self> {
        Some(match *settings {
            HeadSettings::None => Self::None,
            HeadSettings::Language(settings) => {
                Self::Language(LanguageHead::find(parameters, &settings)?, Box::default())
            }
            HeadSettings::Classes(settings) => {
                Self::Classes(ClassHead::find(parameters, half, &settings)?, Box::default())
            }
        })
    }

    /// Losses of hidden states; with `back` also gradients, that of the hidden states to what stands beside it.
    pub(super) fn loss(
        &mut self,
        pass: &Pass<'_>,
        states: (&Buffer, &Targets),
        objective: Objective,
        back: Option<(&mut Backward<'_>, &mut Buffer)>,
        losses: &mut Losses,
    ) -> Result<(), ModelError> {
        match self {
            Self::None => return Err(ModelError::NoHead),
            Self::Language(head, scratch) => {
                head.loss(pass, states, objective, back, losses, scratch)?;
            }
            Self::Classes(head, saved) => {
                head.forward(pass, states.0, saved);
                head.loss(states, objective, back, losses, saved)?;
            }
            Self::Labels(head, saved) => {
                head.forward(pass, states.0, saved);
                head.loss(states, objective, back, losses, saved)?;
            }
        }
        Ok(())
    }

    /// Bytes that its memory comes to hold.
    pub(super) fn bytes_for(&self, parameters: &Parameters, shape: &BatchShape) -> usize {
        match self {
            Self::None => 0,
            Self::Language(head, _) => head.bytes(parameters, shape),
            Self::Classes(head, _) => head.bytes(shape),
            Self::Labels(head, _) => head.bytes(shape),
        }
    }

    /// Bytes that its memory holds.
    pub(super) fn bytes(&self) -> usize {
        match self {
            Self::None => 0,
            Self::Language(_, scratch) => scratch.bytes(),
            Self::Classes(_, saved) => saved.bytes(),
            Self::Labels(_, saved) => saved.bytes(),
        }
    }
}
