//! Scores of label words: a language head asked for a few words alone, at the last token of each sequence.
//!
//! The rows of its matrix that these words have are the vectors of classes, so scores of the whole vocabulary never exist. Their
//! gradient goes back to these rows of the matrix, which may be that of the token embedding.

use onefold_engine::cpu::embedding::{self, Groups, Lookup};
use onefold_engine::cpu::loss::{Losses, Objective};
use onefold_engine::cpu::pool::{self, Pooling, Sequences};
use onefold_engine::{Buffer, Weight, Write};

use super::vectors::{Scores, Vectors};
use crate::config::Problem;
use crate::model::batch::BatchError;
use crate::model::gradients::{Backward, Lent};
use crate::model::memory::{BatchShape, held, size};
use crate::model::parameters::ParameterId;
use crate::model::pass::Pass;
use crate::model::targets::{Answers, Targets};

/// Scores of a few words.
#[derive(Debug, Clone)]
pub(in crate::model) struct LabelHead {
    /// Of the language head.
    pub(super) weight: ParameterId,
    /// The matrix is the token embedding, whose own gradient is still to come.
    pub(super) tied: bool,
    pub(super) bias: Option<ParameterId>,
    pub(super) vocabulary: usize,
    pub(super) width: usize,
    pub(super) cap: Option<f32>,
    /// Of each class its token, none twice.
    pub(super) words: Vec<u32>,
}

/// What a [`LabelHead`] keeps.
#[derive(Debug, Default)]
pub(in crate::model) struct LabelSaved {
    bounds: Vec<usize>,
    /// The last row of each sequence, and its gradient.
    last: Buffer,
    d_last: Buffer,
    /// Rows of the matrix, and their gradient.
    vectors: Buffer,
    d_vectors: Buffer,
    bias: Buffer,
    d_bias: Buffer,
    groups: Groups,
    scores: Scores,
}

impl LabelHead {
    /// Number of classes.
    pub(in crate::model) fn classes(&self) -> usize {
        self.words.len()
    }

    /// Scores `[sequences, classes]`.
    pub(in crate::model) fn forward(&self, pass: &Pass<'_>, hidden: &Buffer, saved: &mut LabelSaved) {
        let LabelSaved { bounds, last, vectors, bias, scores, .. } = saved;
        pass.bounds(bounds);
        last.resize(pass.segments.len() * self.width);
        pool::forward(Pooling::Last, last, hidden, &Sequences { bounds, mask: None, width: self.width });
        self.rows(pass.parameters[self.weight].weight(), self.width, vectors);
        if let Some(id) = self.bias {
            self.rows(pass.parameters[id].weight(), 1, bias);
        }
        self.of(vectors, bias).forward(last, scores);
    }

    /// The rows of a table that the words have.
    fn rows(&self, table: Weight<'_>, width: usize, rows: &mut Buffer) {
        rows.resize(self.words.len() * width);
        let (ids, size) = (&self.words[..], self.vocabulary);
        let lookup = Lookup { name: "label words", table, size, ids, scale: 1.0 };
        embedding::forward(width, &[lookup], rows).expect("words are of the vocabulary");
    }

    fn of<'a>(&self, vectors: &'a Buffer, bias: &'a Buffer) -> Vectors<'a> {
        let bias = self.bias.map(|_| bias);
        Vectors { vectors, bias, width: self.width, scale: 1.0, cap: self.cap }
    }

    /// Losses after [`LabelHead::forward`]; with `back` also gradients, that of the hidden states to what stands beside it.
    pub(in crate::model) fn loss(
        &self,
        (hidden, targets): (&Buffer, &Targets),
        objective: Objective,
        back: Option<(&mut Backward<'_>, &mut Buffer)>,
        losses: &mut Losses,
        saved: &mut LabelSaved,
    ) -> Result<(), BatchError> {
        let (classes, count) = (self.classes(), saved.last.len() / self.width);
        let answers = Answers { per: "one per sequence", count, classes, problem: Problem::SingleLabel };
        targets.check(&answers, losses.tasks.len())?;
        let vectors = self.of(&saved.vectors, &saved.bias);
        vectors.loss(objective, &targets.rows(), back.is_some(), losses, &mut saved.scores);
        if let Some((back, d_hidden)) = back {
            self.backward(back, hidden, d_hidden, saved);
        }
        Ok(())
    }

    fn backward(
        &self,
        back: &mut Backward<'_>,
        hidden: &Buffer,
        d_hidden: &mut Buffer,
        saved: &mut LabelSaved,
    ) {
        let LabelSaved { bounds, last, d_last, vectors, d_vectors, bias, d_bias, groups, scores } = saved;
        let (mut lent, mut lent_bias) = (back.lend(Some(self.weight)), back.lend(self.bias));
        let wanted = (lent_bias.is_some().then_some(&mut *d_bias), lent.is_some().then_some(&mut *d_vectors));
        self.of(vectors, bias).backward(last, d_last, wanted, scores);
        groups.sort("label words", &self.words, self.vocabulary, None).expect("words are of the vocabulary");
        for (lent, width, rows) in [(&mut lent, self.width, &*d_vectors), (&mut lent_bias, 1, &*d_bias)] {
            if let Some((table, write)) = lent.as_mut().map(Lent::parts) {
                embedding::backward(width, groups, rows, 1.0, table, write);
            }
        }
        back.give_back(lent, !self.tied);
        back.complete(lent_bias);
        d_hidden.resize(hidden.len());
        let sequences = Sequences { bounds, mask: None, width: self.width };
        pool::backward(Pooling::Last, d_hidden, Write::Set, d_last, (hidden, last), &sequences);
    }

    /// Bytes that come to be held.
    pub(in crate::model) fn bytes(&self, shape: &BatchShape) -> usize {
        let (classes, copies) = (self.classes(), if shape.training() { 2 } else { 1 });
        let bias = if self.bias.is_some() { size(classes) } else { 0 };
        let groups = if shape.training() { classes * size_of::<u64>() } else { 0 };
        copies * (size(shape.sequences * self.width) + size(classes * self.width) + bias)
            + Scores::bytes_for(shape, classes, self.cap.is_some())
            + groups
            + (shape.sequences + 1) * size_of::<usize>()
    }
}

impl LabelSaved {
    /// The scores that were made last.
    pub(in crate::model) fn logits(&self) -> &Buffer {
        &self.scores.logits
    }

    pub(in crate::model) fn bytes(&self) -> usize {
        let Self { bounds, last, d_last, vectors, d_vectors, bias, d_bias, groups, scores } = self;
        let buffers = held([last, d_last, vectors, d_vectors, bias, d_bias]);
        buffers + bounds.capacity() * size_of::<usize>() + groups.bytes() + scores.bytes()
    }
}
