//! What every block of a forward or backward pass knows.

use onefold_engine::cpu::attention::{self, Segment};
use onefold_engine::cpu::dropout::Dropout;
use onefold_engine::cpu::rope::Table;
use onefold_runtime::Stream;

use super::parameters::Parameters;
use super::tap::Tap;
use crate::families::Half;

/// One way through the model.
#[derive(Debug, Clone, Copy)]
pub struct Pass<'a> {
    /// Of the model, the part that is passed.
    pub half: Half,
    /// The numbers.
    pub parameters: &'a Parameters,
    /// Sequences.
    pub segments: &'a [Segment],
    /// Position of each row, for rotations.
    pub positions: &'a [u32],
    /// Rotations, prepared for all positions.
    pub ropes: &'a [Table],
    /// The row of the cache of keys and values for each row, if text is generated; none otherwise.
    pub cache_rows: &'a [u32],
    /// Whether a backward pass is to follow.
    pub training: bool,
    /// Coins of dropout; without them nothing is dropped.
    pub coins: Option<Coins>,
    /// Who looks at what passes.
    pub tap: Option<&'a dyn Tap>,
}

/// Which random numbers dropout takes: a function of these two and the place in the model alone, so that a pass can be
/// repeated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Coins {
    /// Of the run.
    pub seed: u64,
    /// Number of the micro-batch since the run began.
    pub micro_batch: u64,
}

/// Where in a model something is dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Site {
    Embeddings,
    /// Probabilities of a layer's attention.
    Probabilities(usize),
    /// What a layer's attention adds.
    Attended(usize),
    /// What a layer's feed-forward block adds.
    Fed(usize),
    /// What the head reads.
    Pooled,
    /// What the dense layer of the head gives.
    Features,
    /// What the adapter of a weight takes in.
    Adapter(usize),
}

impl Pass<'_> {
    /// Rows of all sequences.
    pub(super) fn rows(&self) -> usize {
        self.segments.last().map_or(0, |last| last.query + last.queries)
    }

    /// Where sequences begin, and where the last one ends.
    pub(super) fn bounds(&self, bounds: &mut Vec<usize>) {
        bounds.clear();
        bounds.reserve_exact(self.segments.len() + 1);
        bounds.extend(self.segments.iter().map(|segment| segment.query).chain([self.rows()]));
    }

    /// The mask of a place; `None` if nothing is dropped.
    pub(super) fn dropout(&self, rate: f64, site: Site) -> Option<Dropout> {
        let stream = self.stream(rate, site)?;
        Some(Dropout::new(rate, stream, 0).expect("rates are probabilities: config.json was judged"))
    }

    /// The same for attention.
    pub(super) fn attention_dropout(&self, rate: f64, layer: usize) -> Option<attention::Dropout> {
        let stream = self.stream(rate, Site::Probabilities(layer))?;
        Some(attention::Dropout { stream, rate })
    }

    fn stream(&self, rate: f64, site: Site) -> Option<Stream> {
        let coins = self.coins.filter(|_| rate > 0.0)?;
        Some(Stream::new(coins.seed, "dropout", &format!("{}:{:?}:{site:?}", coins.micro_batch, self.half)))
    }
}
