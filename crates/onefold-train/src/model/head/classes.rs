//! Scores of classes.

use onefold_engine::cpu::loss::small::{Gradient, classification};
use onefold_engine::cpu::loss::{Losses, Objective};
use onefold_engine::cpu::pool::{self, Pooling, Sequences};
use onefold_engine::{Buffer, Write};

use crate::families::{Half, Role};
use crate::model::batch::{Answers, Batch, BatchError};
use crate::model::gradients::Backward;
use crate::model::linear::{Linear, LinearSaved, LinearScratch};
use crate::model::memory::{BatchShape, held, size};
use crate::model::parameters::Parameters;
use crate::model::pass::Pass;

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
    pub(in crate::model) fn forward<'a>(
        &self,
        pass: &Pass<'_>,
        hidden: &Buffer,
        saved: &'a mut ClassSaved,
    ) -> &'a Buffer {
        let ClassSaved { bounds, pooled, logits, linear, scratch, .. } = saved;
        let end = pass.segments.last().map_or(0, |last| last.query + last.queries);
        bounds.clear();
        bounds.reserve_exact(pass.segments.len() + 1);
        bounds.extend(pass.segments.iter().map(|segment| segment.query).chain([end]));
        pooled.resize(pass.segments.len() * self.map.inputs());
        pool::forward(self.pooling, pooled, hidden, &self.sequences(bounds));
        self.map.forward(pass, pooled, logits, linear, scratch);
        logits
    }

    /// Losses after [`ClassHead::forward`]; with `back` also gradients, that of the hidden states to what stands beside it.
    pub(in crate::model) fn loss(
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

    /// Bytes that come to be held.
    pub(in crate::model) fn bytes(&self, shape: &BatchShape) -> usize {
        let pooled = size(shape.sequences * self.map.inputs());
        let gradient = if shape.training() { pooled } else { 0 };
        let logits = size(shape.sequences * self.map.outputs());
        pooled + gradient + logits + (shape.sequences + 1) * size_of::<usize>()
    }
}

impl ClassSaved {
    pub(in crate::model) fn bytes(&self) -> usize {
        let Self { bounds, pooled, d_pooled, logits, linear, scratch } = self;
        let bounds = bounds.capacity() * size_of::<usize>();
        held([pooled, d_pooled, logits]) + bounds + linear.bytes() + scratch.bytes()
    }
}
