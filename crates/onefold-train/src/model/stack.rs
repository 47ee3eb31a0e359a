//! Layers, up and down, and the memory between them.
//!
//! The stream is what flows from layer to layer. How much is kept of a forward pass ([`Keep`]) is a matter of memory only:
//! with the layers' inputs alone, the backward pass repeats each layer's forward pass, dropout included, to the bit.

use onefold_engine::Buffer;

use super::gradients::Backward;
use super::layer::{Layer, LayerSaved, LayerSettings, Scratch};
use super::parameters::{Parameters, Trained};
use super::pass::Pass;
use crate::families::Half;

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

/// Layers that are passed one after the other.
#[derive(Debug, Clone)]
pub struct Stack {
    half: Half,
    layers: Vec<Layer>,
}

/// What the layers leave, and work in; reused from step to step.
#[derive(Debug, Default)]
pub struct Activations {
    /// The input of each layer and the last one's result; if nothing is kept, two that take turns.
    stream: Vec<Buffer>,
    /// One per layer, or one for all.
    saved: Vec<LayerSaved>,
    scratch: Scratch,
}

impl Stack {
    /// The layers of a half; `None` if the parameters lack a part of one.
    pub fn find(parameters: &Parameters, half: Half, settings: &[LayerSettings]) -> Option<Self> {
        let layer = |(number, settings)| Layer::find(parameters, half, number, settings);
        let layers = settings.iter().enumerate().map(layer).collect::<Option<_>>()?;
        Some(Self { half, layers })
    }

    /// Where the input of the first layer has to be written before [`Stack::forward`].
    pub fn input<'a>(&self, activations: &'a mut Activations, keep: Keep) -> &'a mut Buffer {
        let (stream, saved) = match keep {
            Keep::Nothing => (2, 1),
            Keep::Inputs => (self.layers.len() + 1, 1),
            Keep::Everything => (self.layers.len() + 1, self.layers.len()),
        };
        activations.stream.resize_with(stream, Buffer::default);
        activations.saved.resize_with(saved, LayerSaved::default);
        &mut activations.stream[0]
    }

    /// Passes all layers; returns the result of the last.
    pub fn forward<'a>(&self, pass: &Pass<'_>, activations: &'a mut Activations) -> &'a Buffer {
        (0..self.layers.len()).for_each(|number| self.layer_forward(pass, number, activations));
        self.output(activations)
    }

    /// The result of the last layer after a forward pass.
    pub fn output<'a>(&self, activations: &'a Activations) -> &'a Buffer {
        &activations.stream[self.layers.len() % activations.stream.len()]
    }

    fn layer_forward(&self, pass: &Pass<'_>, number: usize, activations: &mut Activations) {
        let Activations { stream, saved, scratch } = activations;
        let (from, to, slot) = (number % stream.len(), (number + 1) % stream.len(), number % saved.len());
        // Out of the list while it is written: its neighbour is read.
        let mut y = std::mem::take(&mut stream[to]);
        self.layers[number].forward(pass, &stream[from], &mut y, &mut saved[slot], scratch);
        stream[to] = y;
    }

    /// Gradients of the parameters for `d`, the gradient of the last layer's result. Returns whether `d` has become the
    /// gradient of the first layer's input: layers below which nothing is trained are not passed.
    pub(super) fn backward(
        &self,
        back: &mut Backward<'_>,
        d: &mut Buffer,
        activations: &mut Activations,
        keep: Keep,
    ) -> bool {
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
            let Activations { stream, saved, scratch } = activations;
            let slot = number % saved.len();
            self.layers[number].backward(back, &stream[number], d, &mut saved[slot], scratch);
        }
        trained == Trained::Embeddings
    }
}
