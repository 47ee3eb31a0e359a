//! Layers, up and down, and the memory between them.
//!
//! The stream is what flows from layer to layer. How much is kept of a forward pass ([`Keep`]) is a matter of memory only:
//! with the layers' inputs alone, the backward pass repeats each layer's forward pass, dropout included, to the bit.

use onefold_engine::cpu::norm::{Input, Kind};
use onefold_engine::{Buffer, Write};

use super::attention::KeyValues;
use super::gradients::Backward;
use super::layer::{Layer, LayerSaved, LayerSettings, Scratch, ScratchBytes};
use super::memory::{BatchShape, held, size};
use super::norm::Norm;
use super::parameters::{Parameters, Trained};
use super::pass::Pass;
use crate::families::{Half, Role};

/// What is kept of a forward pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keep {
    /// Nothing: there is no backward pass.
    Nothing,
    /// The input of each layer (gradient checkpointing).
    Inputs,
    /// All that the backward pass needs.
    Everything,
}

/// Layers that are passed one after the other, and the norm behind the last.
#[derive(Debug, Clone)]
pub struct Stack {
    half: Half,
    layers: Vec<Layer>,
    final_norm: Option<Norm>,
}

/// What the layers leave, and work in; reused from step to step, and from training to validation and back: what one of them
/// does not use stays for the other.
#[derive(Debug, Default)]
pub struct Activations {
    /// The input of each layer and the last one's result; if nothing is kept, two that take turns.
    stream: Vec<Buffer>,
    /// One per layer, or one for all.
    saved: Vec<LayerSaved>,
    /// How many of them this pass uses.
    turns: Turns,
    /// The result of the final norm.
    normed: Buffer,
    statistics: Buffer,
    /// Gradient of the stream.
    d: Buffer,
    scratch: Scratch,
}

/// How many buffers take turns.
#[derive(Debug, Clone, Copy, Default)]
struct Turns {
    stream: usize,
    saved: usize,
}

impl Activations {
    /// Bytes that they hold.
    pub(super) fn bytes(&self) -> usize {
        let Self { stream, saved, normed, statistics, d, scratch, .. } = self;
        held(stream.iter().chain([normed, statistics, d]))
            + saved.iter().map(LayerSaved::bytes).sum::<usize>()
            + scratch.bytes()
    }
}

impl Stack {
    /// The layers of a half, and its final norm if `norm` gives its kind and epsilon; `None` if the parameters lack a part.
    pub fn find(
        parameters: &Parameters,
        half: Half,
        settings: &[LayerSettings],
        norm: Option<(Kind, f64)>,
    ) -> Option<Self> {
        let layer = |(number, settings)| Layer::find(parameters, half, number, settings);
        let layers = settings.iter().enumerate().map(layer).collect::<Option<_>>()?;
        let final_norm = match norm {
            Some((kind, epsilon)) => {
                Some(Norm::find(parameters, (half, None), Role::FinalNorm, kind, epsilon)?)
            }
            None => None,
        };
        Some(Self { half, layers, final_norm })
    }

    /// Bytes that the activations come to hold.
    pub(super) fn bytes(&self, shape: &BatchShape, width: usize) -> usize {
        let matrix = size(shape.rows * width);
        let saved = self.layers.iter().map(|layer| layer.saved_bytes(shape, width));
        let (stream, saved) = match shape.keep {
            Keep::Nothing => (2, saved.max().unwrap_or(0)),
            Keep::Inputs => (self.layers.len() + 1, saved.max().unwrap_or(0)),
            Keep::Everything => (self.layers.len() + 1, saved.sum()),
        };
        let scratch = self.layers.iter().map(|layer| layer.scratch_bytes(shape, width));
        let scratch = scratch.reduce(ScratchBytes::max).unwrap_or_default().sum();
        let norm = self.final_norm.map_or(0, |norm| matrix + norm.saved_bytes(shape.rows * width));
        let gradient = if shape.training() { matrix } else { 0 };
        stream * matrix + saved + scratch + norm + gradient
    }

    /// Where the input of the first layer has to be written before [`Stack::forward`].
    pub fn input<'a>(&self, activations: &'a mut Activations, keep: Keep) -> &'a mut Buffer {
        let (stream, saved) = match keep {
            Keep::Nothing => (2, 1),
            Keep::Inputs => (self.layers.len() + 1, 1),
            Keep::Everything => (self.layers.len() + 1, self.layers.len()),
        };
        activations.turns = Turns { stream, saved };
        activations.stream.resize_with(stream.max(activations.stream.len()), Buffer::default);
        activations.saved.resize_with(saved.max(activations.saved.len()), LayerSaved::default);
        &mut activations.stream[0]
    }

    /// Passes all layers; returns the result.
    pub fn forward<'a>(&self, pass: &Pass<'_>, activations: &'a mut Activations) -> &'a Buffer {
        (0..self.layers.len()).for_each(|number| self.layer_forward(pass, number, activations));
        self.normalise(pass, activations);
        self.output(activations).0
    }

    fn normalise(&self, pass: &Pass<'_>, activations: &mut Activations) {
        let Activations { stream, normed, statistics, turns, .. } = activations;
        if let Some(norm) = &self.final_norm {
            norm.forward(pass, Input::Ready(self.last(stream, *turns)), normed, statistics);
        }
    }

    /// Passes all layers with the keys and values of earlier tokens, which grow by those of this pass.
    pub(super) fn forward_cached(
        &self,
        pass: &Pass<'_>,
        activations: &mut Activations,
        cache: &mut [KeyValues],
    ) {
        for (number, cache) in cache.iter_mut().enumerate() {
            *activations.saved[0].cache() = Some(std::mem::take(cache));
            self.layer_forward(pass, number, activations);
            *cache = activations.saved[0].cache().take().expect("put there before");
        }
        self.normalise(pass, activations);
    }

    /// A cache of so many rows for each layer.
    pub(super) fn cache(&self, rows: usize) -> Vec<KeyValues> {
        self.layers.iter().map(|layer| layer.attention().cache(rows)).collect()
    }

    /// Bytes of such a cache.
    pub(super) fn cache_bytes(&self, rows: usize) -> usize {
        self.layers.iter().map(|layer| layer.attention().cache_bytes(rows)).sum()
    }

    /// The result of a forward pass, and where its gradient has to be written before [`Stack::backward`].
    pub(super) fn output<'a>(&self, activations: &'a mut Activations) -> (&'a Buffer, &'a mut Buffer) {
        let Activations { stream, normed, scratch, d, turns, .. } = activations;
        match self.final_norm {
            Some(_) => (normed, scratch.gradient()),
            None => (self.last(stream, *turns), d),
        }
    }

    /// The result of the last layer.
    fn last<'a>(&self, stream: &'a [Buffer], turns: Turns) -> &'a Buffer {
        &stream[self.layers.len() % turns.stream]
    }

    fn layer_forward(&self, pass: &Pass<'_>, number: usize, activations: &mut Activations) {
        let Activations { stream, saved, scratch, turns, .. } = activations;
        let (from, to, slot) = (number % turns.stream, (number + 1) % turns.stream, number % turns.saved);
        // Out of the list while it is written: its neighbour is read.
        let mut y = std::mem::take(&mut stream[to]);
        self.layers[number].forward(pass, &stream[from], &mut y, &mut saved[slot], scratch);
        stream[to] = y;
    }

    /// Gradients of the parameters, from that of the result. Returns the gradient of the first layer's input, unless nothing
    /// is trained below it: layers below which nothing is trained are not passed.
    pub(super) fn backward<'a>(
        &self,
        back: &mut Backward<'_>,
        activations: &'a mut Activations,
        keep: Keep,
    ) -> Option<&'a mut Buffer> {
        let Activations { stream, statistics, d, scratch, turns, .. } = activations;
        if let Some(norm) = &self.final_norm {
            norm.backward(back, self.last(stream, *turns), statistics, scratch.gradient(), (d, Write::Set));
        }
        let trained = back.pass.parameters.first_trained(self.half);
        let lowest = match trained {
            Trained::Embeddings => 0,
            Trained::Layer(layer) => layer,
            Trained::Head => self.layers.len(),
        };
        for number in (lowest..self.layers.len()).rev() {
            if keep == Keep::Inputs {
                self.layer_forward(back.pass, number, activations);
            }
            let Activations { stream, saved, d, scratch, turns, .. } = activations;
            let slot = number % turns.saved;
            self.layers[number].backward(back, &stream[number], d, &mut saved[slot], scratch);
        }
        (trained == Trained::Embeddings).then_some(&mut activations.d)
    }
}
