//! A layer: attention and a feed-forward block, each with its norms and the residual connection.
//!
//! | placement | attention part (the feed-forward part alike) | families |
//! |---|---|---|
//! | before | s = x + attention(norm(x)) | llama, mistral, qwen, phi, gpt2, vit, clip |
//! | around | s = x + norm′(attention(norm(x))) | gemma |
//! | after | s = norm(x + attention(x)) | bert, roberta, distilbert |
//!
//! The addition between the two parts is done by the norm that reads its result; that at the end by the layer.

mod after;
mod before;
mod memory;

use onefold_engine::cpu::dropout::Dropout;
use onefold_engine::cpu::norm::Kind;
use onefold_engine::{Buffer, Write};

pub(super) use memory::ScratchBytes;

use super::attention::{Attention, AttentionSaved, AttentionScratch, AttentionSettings, KeyValues};
use super::feed_forward::{FeedForward, FeedForwardSaved, FeedForwardScratch};
use super::gradients::Backward;
use super::linear::LinearScratch;
use super::norm::Norm;
use super::parameters::Parameters;
use super::pass::{Pass, Site};
use crate::config::Activation;
use crate::families::{Half, Role};

/// Where norms stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Placement {
    /// Before each block.
    Before,
    /// Before and behind each block.
    Around,
    /// Behind each residual addition.
    After,
}

/// What a configuration says of a layer.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LayerSettings {
    /// Where norms stand.
    pub placement: Placement,
    /// Kind of the norms.
    pub norm: Kind,
    /// Their epsilon.
    pub epsilon: f64,
    /// Its attention.
    pub attention: AttentionSettings,
    /// Function of the feed-forward block.
    pub activation: Activation,
    /// Probabilities of dropping elements of what attention and the feed-forward block add.
    pub dropout: [f64; 2],
}

/// A layer.
#[derive(Debug, Clone)]
pub struct Layer {
    number: usize,
    placement: Placement,
    attention_norm: Norm,
    attention: Attention,
    feed_forward_norm: Norm,
    feed_forward: FeedForward,
    /// Behind the blocks, besides the others.
    post_norms: Option<[Norm; 2]>,
    dropout: [f64; 2],
}

/// What the forward pass leaves, beside the layer's input.
#[derive(Debug, Default)]
pub struct LayerSaved {
    /// Results of the two norms. With the norms behind: of the first alone, the second is the layer's result.
    normed: [Buffer; 2],
    /// Sums that were normalised: the one between the blocks; with the norms behind, both.
    sums: [Buffer; 2],
    statistics: [Buffer; 2],
    /// Results of the blocks before their post norms.
    raw: [Buffer; 2],
    post_statistics: [Buffer; 2],
    attention: AttentionSaved,
    feed_forward: FeedForwardSaved,
}

/// Memory for intermediate results, shared by all layers.
#[derive(Debug, Default)]
pub struct Scratch {
    /// What a block adds; going back, its gradient if that is not the residual's.
    delta: Buffer,
    /// Gradient of what a block takes.
    d_normed: Buffer,
    /// Gradient of a post norm's input.
    d_raw: Buffer,
    attention: AttentionScratch,
    feed_forward: FeedForwardScratch,
    linear: LinearScratch,
}

impl LayerSaved {
    /// Where a cache of keys and values has to be while text is generated.
    pub(super) fn cache(&mut self) -> &mut Option<KeyValues> {
        &mut self.attention.cache
    }
}

impl Scratch {
    /// Free between layers: where the gradient of a final norm's result may be.
    pub(super) fn gradient(&mut self) -> &mut Buffer {
        &mut self.d_normed
    }
}

/// The attention part and the feed-forward part of a layer.
const ATTENTION: usize = 0;
const FEED_FORWARD: usize = 1;

impl Layer {
    /// Layer `number` of a half; `None` if the parameters lack a part of it.
    pub fn find(
        parameters: &Parameters,
        half: Half,
        number: usize,
        settings: &LayerSettings,
    ) -> Option<Self> {
        let LayerSettings { placement, dropout, activation, .. } = *settings;
        let norm = |role| Norm::find(parameters, (half, Some(number)), role, settings.norm, settings.epsilon);
        let post_norms = match placement {
            Placement::Around => Some([norm(Role::AttentionPostNorm)?, norm(Role::FeedForwardPostNorm)?]),
            Placement::Before | Placement::After => None,
        };
        Some(Self {
            number,
            placement,
            attention_norm: norm(Role::AttentionNorm)?,
            attention: Attention::find(parameters, (half, number), &settings.attention)?,
            feed_forward_norm: norm(Role::FeedForwardNorm)?,
            feed_forward: FeedForward::find(parameters, (half, number), activation)?,
            post_norms,
            dropout,
        })
    }

    /// Writes to `y` what the layer makes of `x`.
    pub fn forward(
        &self,
        pass: &Pass<'_>,
        x: &Buffer,
        y: &mut Buffer,
        saved: &mut LayerSaved,
        scratch: &mut Scratch,
    ) {
        match self.placement {
            Placement::Before | Placement::Around => self.forward_before(pass, x, y, saved, scratch),
            Placement::After => self.forward_after(pass, x, y, saved, scratch),
        }
    }

    /// Gradients of the parameters for `d`, the gradient of the layer's result, which becomes that of its input `x`.
    pub(super) fn backward(
        &self,
        back: &mut Backward<'_>,
        x: &Buffer,
        d: &mut Buffer,
        saved: &mut LayerSaved,
        scratch: &mut Scratch,
    ) {
        match self.placement {
            Placement::Before | Placement::Around => self.backward_before(back, x, d, saved, scratch),
            Placement::After => self.backward_after(back, x, d, saved, scratch),
        }
    }

    pub(super) fn attention(&self) -> &Attention {
        &self.attention
    }

    /// The mask of what a block adds.
    fn coins(&self, pass: &Pass<'_>, part: usize) -> Option<Dropout> {
        let site = if part == ATTENTION { Site::Attended(self.number) } else { Site::Fed(self.number) };
        pass.dropout(self.dropout[part], site)
    }

    fn drop_out(&self, pass: &Pass<'_>, part: usize, delta: &mut Buffer) {
        if let Some(dropout) = self.coins(pass, part) {
            dropout.apply(delta);
        }
    }

    /// The gradient of what a block adds before dropout, in `space` if it is not `d` itself.
    fn dropped<'a>(&self, pass: &Pass<'_>, part: usize, d: &'a Buffer, space: &'a mut Buffer) -> &'a Buffer {
        let Some(dropout) = self.coins(pass, part) else { return d };
        space.resize(d.len());
        dropout.apply_to(space, d, Write::Set);
        space
    }
}
