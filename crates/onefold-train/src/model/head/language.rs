//! Scores of the next token.

use onefold_engine::cpu::loss::{Losses, Objective, head};
use onefold_engine::cpu::{elementwise, linear};
use onefold_engine::{Buffer, Write};

use crate::families::{Half, Role};
use crate::model::batch::{Answers, Batch, BatchError};
use crate::model::gradients::{Backward, Lent};
use crate::model::memory::{BatchShape, held};
use crate::model::parameters::{ParameterId, Parameters, Part};

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
    pub(in crate::model) fn loss(
        &self,
        parameters: &Parameters,
        (hidden, batch): (&Buffer, &Batch),
        objective: Objective,
        back: Option<(&mut Backward<'_>, &mut Buffer)>,
        losses: &mut Losses,
        scratch: &mut LanguageScratch,
    ) -> Result<(), BatchError> {
        batch.check_targets(Answers::PerToken, self.vocabulary, losses.tasks.len())?;
        let head = self.of(parameters, objective);
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
    pub(in crate::model) fn logits<'a>(
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

    /// Bytes that the scratch of a loss comes to hold.
    pub(in crate::model) fn bytes(&self, parameters: &Parameters, shape: &BatchShape) -> usize {
        let head = self.of(parameters, Objective::CROSS_ENTROPY);
        head::scratch_bytes(&head, shape.rows, shape.training())
    }

    fn of<'a>(&self, parameters: &'a Parameters, objective: Objective) -> head::Head<'a> {
        let Self { vocabulary, width, cap, .. } = *self;
        let weight = parameters[self.weight].weight();
        head::Head { weight, bias: None, vocabulary, width, scale: 1.0, cap, objective }
    }
}

impl LanguageScratch {
    pub(in crate::model) fn bytes(&self) -> usize {
        self.chunk.bytes() + held([&self.rows, &self.logits])
    }
}
