//! One vector per sequence or image, made of its rows.

use onefold_engine::Buffer;
use onefold_engine::cpu::pool::{self, Pooling, Sequences};

use super::error::ModelError;
use super::parameters::Parameters;
use super::tower::{Embed, Way};
use super::whole::Model;

/// Rows shorter than this are not made longer.
pub(super) const SHORTEST: f32 = 1e-12;

/// How a vector is made of the rows of a sequence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SentencePooling {
    /// Which rows speak for it.
    pub pooling: Pooling,
    /// Whether vectors are of length 1.
    pub normalise: bool,
}

/// What is pooled, and how it was.
#[derive(Debug, Default)]
pub(super) struct Pooled {
    bounds: Vec<usize>,
    vectors: Buffer,
    norms: Buffer,
}

impl Pooled {
    fn pool(&mut self, hidden: &Buffer, width: usize, how: SentencePooling) {
        let Self { bounds, vectors, norms } = self;
        let sequences = bounds.len() - 1;
        vectors.resize(sequences * width);
        pool::forward(how.pooling, vectors, hidden, &Sequences { bounds, mask: None, width });
        if how.normalise {
            norms.resize(sequences);
            pool::normalise(vectors, width, SHORTEST, norms);
        }
    }
}

impl<E: Embed> Model<E> {
    /// Vectors `[sequences, width]`, whatever head there is.
    ///
    /// # Errors
    /// If the batch does not fit the model.
    pub fn embed(
        &mut self,
        parameters: &Parameters,
        batch: &E::Batch,
        how: SentencePooling,
    ) -> Result<&Buffer, ModelError> {
        let Self { tower, pooled, .. } = self;
        tower.run(parameters, batch, Way::FORWARD, None, |pass, hidden, _| {
            pass.bounds(&mut pooled.bounds);
            pooled.pool(hidden, hidden.len() / pass.rows(), how);
            Ok(())
        })?;
        Ok(&pooled.vectors)
    }
}
