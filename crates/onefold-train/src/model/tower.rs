//! An embedding and layers, from a batch to its hidden states and back: what every model has up to its head.

use std::fmt::Debug;
use std::sync::Arc;

use onefold_engine::Buffer;
use onefold_engine::cpu::attention::{Mask, Segment};
use onefold_engine::cpu::norm::Kind;
use onefold_engine::cpu::rope::{Rope, Table};

use super::attention::KeyValues;
use super::batch::BatchError;
use super::error::ModelError;
use super::gradients::{Backward, GradientSink};
use super::layer::LayerSettings;
use super::memory::BatchShape;
use super::parameters::Parameters;
use super::pass::{Coins, Pass};
use super::stack::{Activations, Keep, Stack};
use super::tap::Tap;
use super::targets::Targets;
use crate::families::Half;

/// What makes rows of a batch.
pub trait Embed {
    /// What it takes.
    type Batch;
    /// What its forward pass leaves.
    type Saved: Debug + Default;

    /// Judges a batch; says where the rows of its sequences will lie.
    fn lay_out(&self, batch: &Self::Batch, segments: &mut Vec<Segment>) -> Result<(), BatchError>;

    /// The position of each row, for rotations.
    fn positions(batch: &Self::Batch) -> &[u32];

    /// What is to be learnt from a batch.
    fn targets(batch: &Self::Batch) -> &Targets;

    /// The same, to be changed.
    fn targets_mut(batch: &mut Self::Batch) -> &mut Targets;

    /// Writes the rows of a batch, which was judged, to `y`.
    fn forward(&self, pass: &Pass<'_>, batch: &Self::Batch, y: &mut Buffer, saved: &mut Self::Saved);

    /// Gradients of the parameters for `d`, the gradient of the rows, which is used up.
    fn backward(&self, back: &mut Backward<'_>, batch: &Self::Batch, d: &mut Buffer, saved: &mut Self::Saved);

    /// Width of the rows.
    fn width(&self) -> usize;

    /// Bytes that come to be held.
    fn bytes_for(&self, shape: &BatchShape) -> usize;

    /// Bytes that are held.
    fn held_bytes(saved: &Self::Saved) -> usize;
}

/// What a configuration says of the layers.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct StackSettings {
    /// Each of them.
    pub(super) layers: Vec<LayerSettings>,
    /// Kind and epsilon of the norm behind them.
    pub(super) final_norm: Option<(Kind, f64)>,
    /// The rotations that they name by number.
    pub(super) ropes: Vec<Rope>,
}

/// An embedding and layers, and the memory in which they work.
#[derive(Debug)]
pub(super) struct Tower<E: Embed> {
    half: Half,
    embedding: E,
    stack: Stack,
    /// Whether each row sees the earlier ones alone.
    causal: bool,
    ropes: Vec<Table>,
    segments: Vec<Segment>,
    embedded: E::Saved,
    activations: Activations,
    tap: Option<Arc<dyn Tap>>,
}

/// How a batch is passed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Way {
    pub(super) keep: Keep,
    pub(super) coins: Option<Coins>,
}

impl Way {
    /// Forwards alone.
    pub(super) const FORWARD: Self = Self { keep: Keep::Nothing, coins: None };

    /// Forwards and back.
    pub(super) fn training(checkpointing: bool, coins: Option<Coins>) -> Self {
        Self { keep: if checkpointing { Keep::Inputs } else { Keep::Everything }, coins }
    }
}

/// What is known of the earlier tokens of sequences that go on.
pub(super) struct Cached<'a> {
    /// Keys and values of each layer.
    pub(super) layers: &'a mut [KeyValues],
    /// Where in them each sequence lies.
    pub(super) segments: &'a [Segment],
    /// Where in them each new row goes.
    pub(super) rows: &'a [u32],
}

/// The way back from what a tower gives: the parameters' gradients, and where to write that of the hidden states.
pub(super) type Return<'a, 'b> = (&'a mut Backward<'b>, &'a mut Buffer);

impl<E: Embed> Tower<E> {
    /// The layers of a half behind an embedding; `None` if the parameters lack a part of them.
    pub(super) fn find(
        parameters: &Parameters,
        half: Half,
        embedding: E,
        settings: &StackSettings,
    ) -> Option<Self> {
        Some(Self {
            half,
            embedding,
            stack: Stack::find(parameters, half, &settings.layers, settings.final_norm)?,
            causal: settings.layers.iter().all(|layer| layer.attention.mask != Mask::NONE),
            ropes: settings.ropes.iter().cloned().map(Table::new).collect(),
            segments: Vec::new(),
            embedded: E::Saved::default(),
            activations: Activations::default(),
            tap: None,
        })
    }

    /// Passes a batch. `head` takes the hidden states, and if there is a sink, writes their gradient, with which all layers are
    /// passed back.
    pub(super) fn run<R>(
        &mut self,
        parameters: &Parameters,
        batch: &E::Batch,
        way: Way,
        sink: Option<&mut dyn GradientSink>,
        head: impl FnOnce(&Pass<'_>, &Buffer, Option<Return<'_, '_>>) -> Result<R, ModelError>,
    ) -> Result<R, ModelError> {
        let Self { half, embedding, stack, ropes, segments, embedded, activations, tap, .. } = self;
        embedding.lay_out(batch, segments)?;
        let Way { keep, coins } = way;
        let (positions, training) = (E::positions(batch), keep != Keep::Nothing);
        prepare(ropes, positions);
        let (half, tap) = (*half, tap.as_deref());
        let pass =
            Pass { half, parameters, segments, positions, ropes, cache_rows: &[], training, coins, tap };
        embedding.forward(&pass, batch, stack.input(activations, keep), embedded);
        stack.forward(&pass, activations);
        let mut back = sink.map(|sink| Backward { pass: &pass, sink });
        let (hidden, d_hidden) = stack.output(activations);
        let result = head(&pass, hidden, back.as_mut().map(|back| (back, d_hidden)))?;
        if let Some(mut back) = back
            && let Some(d) = stack.backward(&mut back, activations, keep)
        {
            embedding.backward(&mut back, batch, d, embedded);
        }
        Ok(result)
    }

    /// Passes a batch whose sequences go on from what was `cached`; `head` takes the hidden states.
    pub(super) fn go_on(
        &mut self,
        parameters: &Parameters,
        batch: &E::Batch,
        cached: Cached<'_>,
        head: impl FnOnce(&Pass<'_>, &Buffer),
    ) -> Result<(), ModelError> {
        let Self { half, embedding, stack, ropes, segments, embedded, activations, .. } = self;
        embedding.lay_out(batch, segments)?;
        let positions = E::positions(batch);
        prepare(ropes, positions);
        let Cached { layers, segments, rows: cache_rows } = cached;
        let (half, training, coins, tap) = (*half, false, None, None);
        let pass = Pass { half, parameters, segments, positions, ropes, cache_rows, training, coins, tap };
        embedding.forward(&pass, batch, stack.input(activations, Keep::Nothing), embedded);
        stack.forward_cached(&pass, activations, layers);
        head(&pass, stack.output(activations).0);
        Ok(())
    }

    /// Shows everything that passes to `tap` from now on, or to nobody.
    pub(super) fn watch(&mut self, tap: Option<Arc<dyn Tap>>) {
        self.tap = tap;
    }

    /// A cache of so many rows.
    pub(super) fn cache(&self, rows: usize) -> Vec<KeyValues> {
        self.stack.cache(rows)
    }

    /// Bytes of such a cache.
    pub(super) fn cache_bytes(&self, rows: usize) -> usize {
        self.stack.cache_bytes(rows)
    }

    /// What makes its rows.
    pub(super) fn embedding(&self) -> &E {
        &self.embedding
    }

    /// Whether each row sees the earlier ones alone: what a head gives is then of the next token.
    pub(super) fn is_causal(&self) -> bool {
        self.causal
    }

    /// The hidden states of the last batch.
    pub(super) fn hidden(&mut self) -> &Buffer {
        self.stack.output(&mut self.activations).0
    }

    /// Bytes that a batch needs if everything is trained.
    pub(super) fn bytes_for(&self, shape: &BatchShape) -> usize {
        self.embedding.bytes_for(shape) + self.stack.bytes(shape, self.embedding.width())
    }

    /// Bytes that are held since the largest batch.
    pub(super) fn held_bytes(&self) -> usize {
        E::held_bytes(&self.embedded) + self.activations.bytes()
    }
}

/// Rotations for all of these positions.
fn prepare(ropes: &mut [Table], positions: &[u32]) {
    let length = positions.iter().max().map_or(0, |last| *last as usize + 1);
    ropes.iter_mut().for_each(|rope| rope.prepare(length));
}
