//! Scores of the next token, or of a masked one: the latter after a dense layer and a norm.

use onefold_engine::cpu::loss::{Losses, Objective, head};
use onefold_engine::cpu::{elementwise, linear};
use onefold_engine::{Buffer, Write};

use super::labels::LabelHead;
use super::transform::{Transform, TransformSaved, TransformSettings};
use crate::config::Problem;
use crate::families::{Half, Role};
use crate::model::batch::BatchError;
use crate::model::gradients::{Backward, Lent};
use crate::model::memory::{BatchShape, held, size};
use crate::model::parameters::{ParameterId, Parameters, Part};
use crate::model::pass::Pass;
use crate::model::targets::{Answers, Targets};

/// What a configuration says of a head that scores words.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct LanguageSettings {
    /// Its matrix is the token embedding.
    pub tied: bool,
    /// Soft cap of the scores.
    pub cap: Option<f64>,
    /// What stands before the matrix, if anything does.
    pub transform: Option<TransformSettings>,
}

/// Scores of the next token: fused with its loss, so that the scores of all rows never exist.
#[derive(Debug, Clone, Copy)]
pub struct LanguageHead {
    weight: ParameterId,
    /// The matrix is the token embedding, whose own gradient is still to come.
    tied: bool,
    vocabulary: usize,
    width: usize,
    bias: Option<ParameterId>,
    cap: Option<f32>,
    transform: Option<Transform>,
}

/// Memory of a [`LanguageHead`].
#[derive(Debug, Default)]
pub struct LanguageScratch {
    chunk: head::Scratch,
    rows: Buffer,
    logits: Buffer,
    transform: TransformSaved,
}

impl LanguageHead {
    /// The head, or the embedding if it is tied to that; `None` if the parameters lack it.
    pub fn find(parameters: &Parameters, settings: &LanguageSettings) -> Option<Self> {
        let LanguageSettings { tied, cap, transform } = *settings;
        let role = if tied { Role::TokenEmbedding } else { Role::Head };
        let weight = parameters.find(Half::Whole, None, role, Part::Weight)?;
        let [vocabulary, width] = parameters[weight].shape[..] else { return None };
        let bias = parameters.find(Half::Whole, None, Role::Head, Part::Bias);
        let transform = match transform {
            Some(settings) => Some(Transform::find(parameters, &settings)?),
            None => None,
        };
        Some(Self { weight, tied, vocabulary, width, bias, cap: cap.map(|cap| cap as f32), transform })
    }

    /// Words.
    pub fn vocabulary(&self) -> usize {
        self.vocabulary
    }

    /// The same for a few words alone, at the end of sequences; `None` if something stands before the matrix.
    pub(super) fn label_words(&self, words: &[u32]) -> Option<LabelHead> {
        let Self { weight, tied, vocabulary, width, bias, cap, transform } = *self;
        let words = words.to_vec();
        transform.is_none().then_some(LabelHead { weight, tied, bias, vocabulary, width, cap, words })
    }

    /// Losses of hidden states; with `back` also gradients, that of the hidden states to what stands beside it.
    pub(in crate::model) fn loss(
        &self,
        pass: &Pass<'_>,
        (hidden, targets): (&Buffer, &Targets),
        objective: Objective,
        back: Option<(&mut Backward<'_>, &mut Buffer)>,
        losses: &mut Losses,
        scratch: &mut LanguageScratch,
    ) -> Result<(), BatchError> {
        targets.check(&self.answers(hidden.len() / self.width), losses.tasks.len())?;
        let head = self.of(pass.parameters, objective);
        let LanguageScratch { chunk, transform: saved, .. } = scratch;
        let states = match &self.transform {
            Some(transform) => transform.forward(pass, hidden, saved),
            None => hidden,
        };
        let rows = targets.rows();
        let Some((back, d_hidden)) = back else {
            head::head_loss(&head, states, &rows, None, losses, chunk);
            return Ok(());
        };
        d_hidden.resize(hidden.len());
        let (mut lent, mut bias) = (back.lend(Some(self.weight)), back.lend(self.bias));
        let (weight, bias_parts) = (lent.as_mut().map(Lent::parts), bias.as_mut().map(Lent::parts));
        let gradients = head::Gradients { hidden: (d_hidden, Write::Set), weight, bias: bias_parts };
        head::head_loss(&head, states, &rows, Some(gradients), losses, chunk);
        back.give_back(lent, !self.tied);
        back.complete(bias);
        if let Some(transform) = &self.transform {
            transform.backward(back, hidden, d_hidden, saved);
        }
        Ok(())
    }

    fn answers(&self, count: usize) -> Answers {
        let (per, classes, problem) = ("one per token", self.vocabulary, Problem::SingleLabel);
        Answers { per, count, classes, problem }
    }

    /// Scores `[rows, vocabulary]` of some of the rows of `hidden`.
    pub(in crate::model) fn logits(
        &self,
        pass: &Pass<'_>,
        hidden: &Buffer,
        rows: &[u32],
        scratch: &mut LanguageScratch,
    ) {
        let LanguageScratch { rows: chosen, logits, transform: saved, .. } = scratch;
        chosen.resize(rows.len() * self.width);
        elementwise::gather_rows(chosen, hidden, self.width, rows);
        logits.resize(rows.len() * self.vocabulary);
        let layout = linear::Layout::OutputsInputs;
        let dims = linear::Dims { rows: rows.len(), inputs: self.width, outputs: self.vocabulary, layout };
        let states = match &self.transform {
            Some(transform) => transform.forward(pass, chosen, saved),
            None => chosen,
        };
        let (weight, bias) = (pass.parameters[self.weight].weight(), self.bias(pass.parameters));
        linear::forward(&dims, states, weight, bias, logits, Write::Set);
        if let Some(cap) = self.cap {
            elementwise::soft_cap(logits, cap);
        }
    }

    /// Bytes that the scratch of a loss comes to hold.
    pub(in crate::model) fn bytes(&self, parameters: &Parameters, shape: &BatchShape) -> usize {
        let head = self.of(parameters, Objective::CROSS_ENTROPY);
        let transform = self.transform.map_or(0, |transform| transform.bytes(shape));
        head::scratch_bytes(&head, shape.rows, shape.training()) + transform
    }

    /// Bytes that the scratch of the scores of so many rows comes to hold.
    pub(in crate::model) fn logits_bytes(&self, rows: usize) -> usize {
        size(rows * self.width) + size(rows * self.vocabulary)
    }

    fn of<'a>(&self, parameters: &'a Parameters, objective: Objective) -> head::Head<'a> {
        let Self { vocabulary, width, cap, .. } = *self;
        let weight = parameters[self.weight].weight();
        head::Head { weight, bias: self.bias(parameters), vocabulary, width, scale: 1.0, cap, objective }
    }

    fn bias<'a>(&self, parameters: &'a Parameters) -> Option<&'a Buffer> {
        self.bias.map(|bias| parameters.full(bias))
    }
}

impl LanguageScratch {
    /// The scores that were made last.
    pub(in crate::model) fn logits(&self) -> &Buffer {
        &self.logits
    }

    pub(in crate::model) fn bytes(&self) -> usize {
        self.chunk.bytes() + held([&self.rows, &self.logits]) + self.transform.bytes()
    }
}
