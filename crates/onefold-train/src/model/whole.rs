//! A tower with the heads behind it: what models of text and of images have in common.

use std::sync::Arc;

use onefold_engine::Buffer;
use onefold_engine::cpu::loss::{Losses, Objective};

use super::error::ModelError;
use super::gradients::GradientSink;
use super::head::{Head, Heads};
use super::memory::BatchShape;
use super::parameters::Parameters;
use super::pass::Coins;
use super::pooled::Pooled;
use super::tap::Tap;
use super::tower::{Embed, Tower, Way};
use crate::config::Problem;

/// How to train on a batch.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Training {
    /// What is minimised.
    pub objective: Objective,
    /// Whether layers are run again on the way back, instead of keeping all that they leave.
    pub checkpointing: bool,
    /// Coins of dropout; none: nothing is dropped.
    pub coins: Option<Coins>,
}

impl Training {
    /// The way of a batch: there and back, or forwards alone.
    pub(super) fn way(&self, back: bool) -> Way {
        if back { Way::training(self.checkpointing, self.coins) } else { Way::FORWARD }
    }
}

/// What the head in use answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answering {
    /// Scores of so many words for each row.
    Words(usize),
    /// Scores of classes, what they mean, and whether there is one answer for each sequence or for each row.
    Classes(usize, Problem, bool),
}

/// A model with a head: its description, and the memory in which it works. What it takes is a matter of its embedding:
/// [`TextModel`](super::TextModel), [`VisionModel`](super::VisionModel).
#[derive(Debug)]
pub struct Model<E: Embed> {
    pub(super) tower: Tower<E>,
    pub(super) heads: Heads,
    pub(super) pooled: Pooled,
}

impl<E: Embed> Model<E> {
    pub(super) fn of(tower: Tower<E>, heads: Heads) -> Self {
        Self { tower, heads, pooled: Pooled::default() }
    }

    /// Uses the head of a task from now on, or the model's own.
    ///
    /// # Errors
    /// If the parameters have no head for the task.
    pub fn select_head(&mut self, task: Option<u32>) -> Result<(), ModelError> {
        self.heads.select(task)
    }

    /// Gives a task a head that scores these tokens alone, one for each class, by the language head, where the next token after
    /// a sequence would stand.
    ///
    /// # Errors
    /// If the model's own head is none of a language model, or lacks a token.
    pub fn add_label_words(&mut self, task: u32, words: &[u32]) -> Result<(), ModelError> {
        self.heads.add_label_words(task, words)
    }

    /// Bytes of activations that a batch needs, if all its rows have targets and everything is trained.
    pub fn activation_bytes(&self, parameters: &Parameters, shape: &BatchShape) -> usize {
        self.tower.bytes_for(shape) + self.heads.bytes_for(parameters, shape)
    }

    /// Bytes of activations that are held since the largest batch.
    pub fn held_bytes(&self) -> usize {
        self.tower.held_bytes() + self.heads.bytes()
    }

    /// Shows what passes the model's linear maps to `tap` from now on, or to nobody.
    pub fn watch(&mut self, tap: Option<Arc<dyn Tap>>) {
        self.tower.watch(tap);
    }

    /// What the head in use answers.
    pub(crate) fn answering(&self) -> Result<Answering, ModelError> {
        match self.heads.used() {
            Head::None => Err(ModelError::NoHead),
            Head::Language(head, _) => Ok(Answering::Words(head.vocabulary())),
            Head::Classes(head, _) => {
                let (classes, problem, pooled) = head.scores();
                Ok(Answering::Classes(classes, problem, pooled))
            }
            Head::Labels(head, _) => Ok(Answering::Classes(head.classes(), Problem::SingleLabel, true)),
        }
    }

    /// Numbers of sequences and of rows of a batch.
    pub(crate) fn sizes(&self, batch: &E::Batch) -> Result<(usize, usize), ModelError> {
        let mut segments = Vec::new();
        self.tower.embedding().lay_out(batch, &mut segments)?;
        Ok((segments.len(), segments.last().map_or(0, |last| last.query + last.queries)))
    }

    /// Scores `[answers, classes]` of all answers, or of words for these rows of the batch.
    pub(crate) fn scores(
        &mut self,
        parameters: &Parameters,
        batch: &E::Batch,
        rows: &[u32],
    ) -> Result<&Buffer, ModelError> {
        let Self { tower, heads, .. } = self;
        let head = heads.head();
        tower.run(parameters, batch, Way::FORWARD, None, |pass, hidden, _| {
            match head {
                Head::None => return Err(ModelError::NoHead),
                Head::Language(head, scratch) => head.logits(pass, hidden, rows, scratch),
                Head::Classes(head, saved) => head.forward(pass, hidden, saved),
                Head::Labels(head, saved) => head.forward(pass, hidden, saved),
            }
            Ok(())
        })?;
        match heads.head() {
            Head::None => Err(ModelError::NoHead),
            Head::Language(_, scratch) => Ok(scratch.logits()),
            Head::Classes(_, saved) => Ok(saved.logits()),
            Head::Labels(_, saved) => Ok(saved.logits()),
        }
    }

    /// Losses of a batch.
    ///
    /// # Errors
    /// If the batch does not fit the model, or there is no head.
    pub fn evaluate(
        &mut self,
        parameters: &Parameters,
        batch: &E::Batch,
        objective: Objective,
        losses: &mut Losses,
    ) -> Result<(), ModelError> {
        self.learn(parameters, batch, (objective, Way::FORWARD), losses, None)
    }

    /// Losses of a batch, and the gradients of all trainable parameters.
    ///
    /// # Errors
    /// If the batch does not fit the model, or there is no head; the sink has seen nothing then.
    pub fn train(
        &mut self,
        parameters: &Parameters,
        batch: &E::Batch,
        training: &Training,
        losses: &mut Losses,
        sink: &mut dyn GradientSink,
    ) -> Result<(), ModelError> {
        self.learn(parameters, batch, (training.objective, training.way(true)), losses, Some(sink))
    }

    fn learn(
        &mut self,
        parameters: &Parameters,
        batch: &E::Batch,
        (objective, way): (Objective, Way),
        losses: &mut Losses,
        sink: Option<&mut dyn GradientSink>,
    ) -> Result<(), ModelError> {
        let Self { tower, heads, .. } = self;
        let head = heads.head();
        tower.run(parameters, batch, way, sink, |pass, hidden, back| {
            head.loss(pass, (hidden, E::targets(batch)), objective, back, losses)
        })
    }

    /// The result of the last layer, normalised: `[rows, width]`; of an image its class row and its patches.
    ///
    /// # Errors
    /// If the batch does not fit the model.
    pub fn hidden(&mut self, parameters: &Parameters, batch: &E::Batch) -> Result<&Buffer, ModelError> {
        self.tower.run(parameters, batch, Way::FORWARD, None, |_, _, _| Ok(()))?;
        Ok(self.tower.hidden())
    }

    /// Scores `[answers, classes]`: one answer per sequence or image, or per token if the head classifies tokens.
    ///
    /// # Errors
    /// If the batch does not fit the model, or the head gives no such scores.
    pub fn classify(&mut self, parameters: &Parameters, batch: &E::Batch) -> Result<&Buffer, ModelError> {
        self.classify_through(parameters, batch, &mut |_| {})
    }

    /// The same; `between` sees the features of all answers, `[answers, width]`, and may change them. Features are what the last
    /// map of the head reads: pooled, and past the head's dense layer if it has one.
    ///
    /// # Errors
    /// As [`Model::classify`].
    pub fn classify_through(
        &mut self,
        parameters: &Parameters,
        batch: &E::Batch,
        between: &mut dyn FnMut(&mut [f32]),
    ) -> Result<&Buffer, ModelError> {
        let Self { tower, heads, .. } = self;
        let head = heads.head();
        tower.run(parameters, batch, Way::FORWARD, None, |pass, hidden, _| {
            match head {
                Head::Classes(head, saved) => head.forward_through(pass, hidden, saved, between),
                // Rows of the language head that are shared with it: nothing stands between.
                Head::Labels(head, saved) => head.forward(pass, hidden, saved),
                Head::None | Head::Language(..) => return Err(ModelError::NoClassHead),
            }
            Ok(())
        })?;
        match heads.head() {
            Head::Classes(_, saved) => Ok(saved.logits()),
            Head::Labels(_, saved) => Ok(saved.logits()),
            Head::None | Head::Language(..) => Err(ModelError::NoClassHead),
        }
    }

    /// Width of these features.
    ///
    /// # Errors
    /// If the head in use does not score classes for each sequence or image.
    pub fn feature_width(&self) -> Result<usize, ModelError> {
        match self.heads.used() {
            Head::Classes(head, _) if head.scores().2 => Ok(head.width()),
            _ => Err(ModelError::NoClassHead),
        }
    }
}
