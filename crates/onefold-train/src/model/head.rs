//! What stands behind the last layer, with its loss.

use onefold_engine::cpu::loss::small::{Gradient, classification};
use onefold_engine::cpu::loss::{Losses, Objective, head};
use onefold_engine::cpu::pool::{self, Pooling, Sequences};
use onefold_engine::cpu::{elementwise, linear};
use onefold_engine::{Buffer, Write};

use super::batch::{Answers, Batch, BatchError};
use super::error::ModelError;
use super::gradients::{Backward, Lent};
use super::linear::{Linear, LinearSaved, LinearScratch};
use super::parameters::{ParameterId, Parameters, Part};
use super::pass::Pass;
use crate::families::{Half, Role};

/// What a configuration says of the head.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum HeadSettings {
    /// There is none.
    None,
    /// Scores of the next token.
    Language {
        /// Its matrix is the token embedding.
        tied: bool,
        /// Soft cap of the scores.
        cap: Option<f64>,
    },
    /// Scores of classes for a sequence.
    Classes {
        /// Which rows speak for it.
        pooling: Pooling,
    },
}

/// A head with its memory.
#[derive(Debug)]
pub(super) enum Head {
    None,
    Language(LanguageHead, LanguageScratch),
    Classes(ClassHead, ClassSaved),
}

impl Head {
    /// The head; `None` if the parameters lack it.
    pub(super) fn find(parameters: &Parameters, settings: &HeadSettings) -> Option<Self> {
        Some(match *settings {
            HeadSettings::None => Self::None,
            HeadSettings::Language { tied, cap } => {
                Self::Language(LanguageHead::find(parameters, tied, cap)?, LanguageScratch::default())
            }
            HeadSettings::Classes { pooling } => {
                Self::Classes(ClassHead::find(parameters, pooling)?, ClassSaved::default())
            }
        })
    }

    /// Losses of hidden states; with `back` also gradients, that of the hidden states to what stands beside it.
    pub(super) fn loss(
        &mut self,
        pass: &Pass<'_>,
        states: (&Buffer, &Batch),
        objective: Objective,
        back: Option<(&mut Backward<'_>, &mut Buffer)>,
        losses: &mut Losses,
    ) -> Result<(), ModelError> {
        match self {
            Self::None => return Err(ModelError::NoHead),
            Self::Language(head, scratch) => {
                head.loss(pass.parameters, states, objective, back, losses, scratch)?;
            }
            Self::Classes(head, saved) => {
                head.forward(pass, states.0, saved);
                head.loss(states, objective, back, losses, saved)?;
            }
        }
        Ok(())
    }
}

/// Scores of the next token: fused with its loss, so that the scores of all rows never exist.
#[derive(Debug, Clone, Copy)]
pub struct LanguageHead {
    weight: ParameterId,
    /// The matrix is the token embedding, whose own gradient is still to come.
    tied: bool,
    vocabulary: usize,
    width: usize,
    cap: Option<f32>,
}

/// Memory of a [`LanguageHead`].
#[derive(Debug, Default)]
pub struct LanguageScratch {
    chunk: head::Scratch,
    rows: Buffer,
    logits: Buffer,
}

impl LanguageHead {
    /// The head, or the embedding if it is tied to that; `None` if the parameters lack it.
    pub fn find(parameters: &Parameters, tied: bool, cap: Option<f64>) -> Option<Self> {
        let role = if tied { Role::TokenEmbedding } else { Role::Head };
        let weight = parameters.find(Half::Whole, None, role, Part::Weight)?;
        let [vocabulary, width] = parameters[weight].shape[..] else { return None };
        Some(Self { weight, tied, vocabulary, width, cap: cap.map(|cap| cap as f32) })
    }

    /// Words.
    pub fn vocabulary(&self) -> usize {
        self.vocabulary
    }

    /// Losses of hidden states; with `back` also gradients, that of the hidden states to what stands beside it.
    pub(super) fn loss(
        &self,
        parameters: &Parameters,
        (hidden, batch): (&Buffer, &Batch),
        objective: Objective,
        back: Option<(&mut Backward<'_>, &mut Buffer)>,
        losses: &mut Losses,
        scratch: &mut LanguageScratch,
    ) -> Result<(), BatchError> {
        batch.check_targets(Answers::PerToken, self.vocabulary, losses.tasks.len())?;
        let Self { vocabulary, width, cap, .. } = *self;
        let weight = parameters[self.weight].weight();
        let head = head::Head { weight, bias: None, vocabulary, width, scale: 1.0, cap, objective };
        let (rows, scratch) = (batch.targets(), &mut scratch.chunk);
        let Some((back, d_hidden)) = back else {
            head::head_loss(&head, hidden, &rows, None, losses, scratch);
            return Ok(());
        };
        d_hidden.resize(hidden.len());
        let mut lent = back.lend(Some(self.weight));
        let weight = lent.as_mut().map(Lent::parts);
        let gradients = head::Gradients { hidden: (d_hidden, Write::Set), weight, bias: None };
        head::head_loss(&head, hidden, &rows, Some(gradients), losses, scratch);
        back.give_back(lent, !self.tied);
        Ok(())
    }

    /// Scores `[rows, vocabulary]` of some of the rows of `hidden`.
    pub(super) fn logits<'a>(
        &self,
        parameters: &Parameters,
        hidden: &Buffer,
        rows: &[u32],
        scratch: &'a mut LanguageScratch,
    ) -> &'a Buffer {
        let LanguageScratch { rows: chosen, logits, .. } = scratch;
        chosen.resize(rows.len() * self.width);
        elementwise::gather_rows(chosen, hidden, self.width, rows);
        logits.resize(rows.len() * self.vocabulary);
        let layout = linear::Layout::OutputsInputs;
        let dims = linear::Dims { rows: rows.len(), inputs: self.width, outputs: self.vocabulary, layout };
        linear::forward(&dims, chosen, parameters[self.weight].weight(), None, logits, Write::Set);
        if let Some(cap) = self.cap {
            elementwise::soft_cap(logits, cap);
        }
        logits
    }
}

/// Scores of classes, from one row of each sequence.
#[derive(Debug, Clone, Copy)]
pub struct ClassHead {
    map: Linear,
    pooling: Pooling,
}

/// What a [`ClassHead`] keeps.
#[derive(Debug, Default)]
pub struct ClassSaved {
    bounds: Vec<usize>,
    pooled: Buffer,
    d_pooled: Buffer,
    /// Scores, then their gradient.
    logits: Buffer,
    linear: LinearSaved,
    scratch: LinearScratch,
}

impl ClassHead {
    /// The head; `None` if the parameters lack it.
    pub fn find(parameters: &Parameters, pooling: Pooling) -> Option<Self> {
        Some(Self { map: Linear::find(parameters, (Half::Whole, None), Role::Head)?, pooling })
    }

    /// Scores `[sequences, classes]`.
    pub(super) fn forward<'a>(
        &self,
        pass: &Pass<'_>,
        hidden: &Buffer,
        saved: &'a mut ClassSaved,
    ) -> &'a Buffer {
        let ClassSaved { bounds, pooled, logits, linear, scratch, .. } = saved;
        let end = pass.segments.last().map_or(0, |last| last.query + last.queries);
        bounds.clear();
        bounds.extend(pass.segments.iter().map(|segment| segment.query).chain([end]));
        pooled.resize(pass.segments.len() * self.map.inputs());
        pool::forward(self.pooling, pooled, hidden, &self.sequences(bounds));
        self.map.forward(pass, pooled, logits, linear, scratch);
        logits
    }

    /// Losses after [`ClassHead::forward`]; with `back` also gradients, that of the hidden states to what stands beside it.
    pub(super) fn loss(
        &self,
        (hidden, batch): (&Buffer, &Batch),
        objective: Objective,
        back: Option<(&mut Backward<'_>, &mut Buffer)>,
        losses: &mut Losses,
        saved: &mut ClassSaved,
    ) -> Result<(), BatchError> {
        let classes = self.map.outputs();
        batch.check_targets(Answers::PerSequence, classes, losses.tasks.len())?;
        let ClassSaved { bounds, pooled, d_pooled, logits, linear, scratch } = saved;
        let gradient = if back.is_some() { Gradient::InPlace } else { Gradient::None };
        classification(logits, classes, objective, &batch.targets(), gradient, losses);
        let Some((back, d_hidden)) = back else { return Ok(()) };
        self.map.backward(back, pooled, logits, Some((&mut *d_pooled, Write::Set)), linear, scratch);
        d_hidden.resize(hidden.len());
        let sequences = self.sequences(bounds);
        pool::backward(self.pooling, d_hidden, Write::Set, d_pooled, (hidden, pooled), &sequences);
        Ok(())
    }

    fn sequences<'a>(&self, bounds: &'a [usize]) -> Sequences<'a> {
        Sequences { bounds, mask: None, width: self.map.inputs() }
    }
}
