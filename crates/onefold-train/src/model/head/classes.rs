//! Scores of classes, for each sequence or each token.
//!
//! | | rows | before the map |
//! |---|---|---|
//! | bert | class token | tanh(pooler), dropped |
//! | roberta | class token, dropped | tanh(dense), dropped |
//! | distilbert | class token | relu(dense), dropped |
//! | tokens of each of them | all, dropped | |
//! | vit | class token | |
//! | decoders | last token | |

use onefold_engine::cpu::activation::Activation;
use onefold_engine::cpu::elementwise;
use onefold_engine::cpu::loss::small::{Gradient, binary, classification, squared_error};
use onefold_engine::cpu::loss::{Losses, Objective};
use onefold_engine::cpu::pool::{self, Pooling, Sequences};
use onefold_engine::{Buffer, Write};

use super::dense::{Dense, DenseSaved};
use crate::config::Problem;
use crate::families::{Half, Role};
use crate::model::batch::BatchError;
use crate::model::gradients::Backward;
use crate::model::linear::{Linear, LinearSaved, LinearScratch};
use crate::model::memory::{BatchShape, held, size};
use crate::model::parameters::Parameters;
use crate::model::pass::{Pass, Site};
use crate::model::targets::{Answers, Targets};

/// What a configuration says of a head that scores classes.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct ClassSettings {
    /// Which rows speak for a sequence; none: each token speaks for itself.
    pub pooling: Option<Pooling>,
    /// Role and function of a layer before the map.
    pub dense: Option<(Role, Activation)>,
    /// Probabilities of dropping elements before that layer, and before the map.
    pub dropout: [f64; 2],
    /// What the scores mean.
    pub problem: Problem,
}

/// Scores of classes.
#[derive(Debug, Clone, Copy)]
pub struct ClassHead {
    dense: Option<Dense>,
    map: Linear,
    pooling: Option<Pooling>,
    dropout: [f64; 2],
    problem: Problem,
}

/// What a [`ClassHead`] keeps.
#[derive(Debug, Default)]
pub struct ClassSaved {
    bounds: Vec<usize>,
    /// One row per answer, and its gradient.
    pooled: Buffer,
    d_pooled: Buffer,
    /// What the dense layer gives, and its gradient.
    features: Buffer,
    d_features: Buffer,
    /// Scores, then their gradient.
    logits: Buffer,
    dense: DenseSaved,
    linear: LinearSaved,
    scratch: LinearScratch,
}

impl ClassHead {
    /// The head in a part of the model; `None` if the parameters lack it.
    pub fn find(parameters: &Parameters, half: Half, settings: &ClassSettings) -> Option<Self> {
        let ClassSettings { pooling, dense, dropout, problem } = *settings;
        let dense = match dense {
            Some((role, activation)) => Some(Dense::find(parameters, half, role, activation)?),
            None => None,
        };
        let map = Linear::find(parameters, (half, None), Role::Head)?;
        Some(Self { dense, map, pooling, dropout, problem })
    }

    /// Scores `[answers, classes]`.
    pub(in crate::model) fn forward(&self, pass: &Pass<'_>, hidden: &Buffer, saved: &mut ClassSaved) {
        self.forward_through(pass, hidden, saved, &mut |_| {});
    }

    /// The same; `between` sees what the map reads, `[answers, width]`, and may change it.
    pub(in crate::model) fn forward_through(
        &self,
        pass: &Pass<'_>,
        hidden: &Buffer,
        saved: &mut ClassSaved,
        between: &mut dyn FnMut(&mut [f32]),
    ) {
        self.pool(pass, hidden, saved);
        let ClassSaved { pooled, features, logits, dense, linear, scratch, .. } = saved;
        let mut x = &mut *pooled;
        if let Some(layer) = &self.dense {
            if let Some(dropout) = pass.dropout(self.dropout[0], Site::Pooled) {
                dropout.apply(x);
            }
            layer.forward(pass, x, features, dense, scratch);
            x = features;
        }
        if let Some(dropout) = pass.dropout(self.dropout[1], Site::Features) {
            dropout.apply(x);
        }
        between(x.as_mut_slice());
        self.map.forward(pass, x, logits, linear, scratch);
    }

    /// One row per answer.
    fn pool(&self, pass: &Pass<'_>, hidden: &Buffer, saved: &mut ClassSaved) {
        let ClassSaved { bounds, pooled, .. } = saved;
        let Some(pooling) = self.pooling else {
            pooled.resize(hidden.len());
            return elementwise::copy(pooled, hidden);
        };
        let width = hidden.len() / pass.rows();
        pass.bounds(bounds);
        pooled.resize(pass.segments.len() * width);
        pool::forward(pooling, pooled, hidden, &Sequences { bounds, mask: None, width });
    }

    /// Losses after [`ClassHead::forward`]; with `back` also gradients, that of the hidden states to what stands beside it.
    pub(in crate::model) fn loss(
        &self,
        (hidden, targets): (&Buffer, &Targets),
        objective: Objective,
        back: Option<(&mut Backward<'_>, &mut Buffer)>,
        losses: &mut Losses,
        saved: &mut ClassSaved,
    ) -> Result<(), BatchError> {
        let (classes, logits) = (self.map.outputs(), &mut saved.logits);
        targets.check(&self.answers(logits.len() / classes), losses.tasks.len())?;
        let gradient = if back.is_some() { Gradient::InPlace } else { Gradient::None };
        let (rows, values) = (targets.rows(), targets.values());
        match self.problem {
            // Whatever scores mean, entropy is that of the softmax.
            _ if matches!(objective, Objective::Entropy | Objective::DiverseEntropy { .. }) => {
                classification(logits, classes, objective, &rows, gradient, losses);
            }
            Problem::SingleLabel => classification(logits, classes, objective, &rows, gradient, losses),
            Problem::MultiLabel => binary(logits, values, classes, &rows, gradient, losses),
            Problem::Regression => squared_error(logits, values, classes, &rows, gradient, losses),
        }
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
        saved: &mut ClassSaved,
    ) {
        let ClassSaved { bounds, pooled, d_pooled, features, d_features, logits, dense, linear, scratch } =
            saved;
        let dropouts = [(0, Site::Pooled), (1, Site::Features)]
            .map(|(i, site)| back.pass.dropout(self.dropout[i], site));
        let (x, dx) = match self.dense {
            Some(_) => (&*features, &mut *d_features),
            None => (&*pooled, &mut *d_pooled),
        };
        self.map.backward(back, x, logits, Some((&mut *dx, Write::Set)), linear, scratch);
        dropouts[1].iter().for_each(|dropout| dropout.apply(dx));
        if let Some(layer) = &self.dense {
            layer.backward(back, (pooled, d_features), d_pooled, dense, scratch);
            dropouts[0].iter().for_each(|dropout| dropout.apply(d_pooled));
        }
        d_hidden.resize(hidden.len());
        match self.pooling {
            None => elementwise::copy(d_hidden, d_pooled),
            Some(pooling) => {
                let sequences = Sequences { bounds, mask: None, width: hidden.len() / back.pass.rows() };
                pool::backward(pooling, d_hidden, Write::Set, d_pooled, (hidden, pooled), &sequences);
            }
        }
    }

    /// Scores of each answer, what they mean, and whether there is one answer for each sequence or for each row.
    pub(in crate::model) fn scores(&self) -> (usize, Problem, bool) {
        (self.map.outputs(), self.problem, self.pooling.is_some())
    }

    /// Width of what the map reads.
    pub(in crate::model) fn width(&self) -> usize {
        self.map.inputs()
    }

    fn answers(&self, count: usize) -> Answers {
        let per = if self.pooling.is_some() { "one per sequence" } else { "one per token" };
        Answers { per, count, classes: self.map.outputs(), problem: self.problem }
    }

    /// Bytes that come to be held.
    pub(in crate::model) fn bytes(&self, shape: &BatchShape) -> usize {
        let rows = if self.pooling.is_some() { shape.sequences } else { shape.rows };
        let matrices = if shape.training() { 2 } else { 1 };
        let width = self.dense.map_or(self.map.inputs(), |dense| dense.inputs());
        let dense =
            self.dense.map_or(0, |dense| matrices * size(rows * dense.outputs()) + dense.bytes(rows, shape));
        let bounds = if self.pooling.is_some() { (rows + 1) * size_of::<usize>() } else { 0 };
        matrices * size(rows * width) + dense + size(rows * self.map.outputs()) + bounds
    }
}

impl ClassSaved {
    /// The scores that were made last.
    pub(in crate::model) fn logits(&self) -> &Buffer {
        &self.logits
    }

    pub(in crate::model) fn bytes(&self) -> usize {
        let Self { bounds, pooled, d_pooled, features, d_features, logits, dense, linear, scratch } = self;
        let bounds = bounds.capacity() * size_of::<usize>();
        let buffers = held([pooled, d_pooled, features, d_features, logits]);
        buffers + bounds + dense.bytes() + linear.bytes() + scratch.bytes()
    }
}
