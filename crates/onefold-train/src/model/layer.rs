//! A layer: attention and a feed-forward block, each with its norms and the residual connection.
//!
//! | placement | attention part (the feed-forward part alike) | families |
//! |---|---|---|
//! | before | s = x + attention(norm(x)) | llama, mistral, qwen, phi, gpt2, vit, clip |
//! | around | s = x + norm′(attention(norm(x))) | gemma |
//! | after | s = norm(x + attention(x)) | bert, roberta, distilbert |
//!
//! The addition between the two parts is done by the norm that reads its result; that at the end by the layer.

use onefold_engine::Buffer;
use onefold_engine::Write;
use onefold_engine::cpu::elementwise;
use onefold_engine::cpu::norm::{Input, Kind};

use super::attention::{Attention, AttentionSaved, AttentionScratch, AttentionSettings};
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
    /// Probability of dropping elements of what a block adds.
    pub dropout: f64,
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
    dropout: f64,
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

    fn forward_before(
        &self,
        pass: &Pass<'_>,
        x: &Buffer,
        y: &mut Buffer,
        saved: &mut LayerSaved,
        scratch: &mut Scratch,
    ) {
        let LayerSaved { normed: [first, second], sums: [sum, _], statistics, .. } = saved;
        let Scratch { delta, linear, .. } = scratch;
        self.attention_norm.forward(pass, Input::Ready(x), first, &mut statistics[ATTENTION]);
        self.attention.forward(pass, first, delta, &mut saved.attention, linear);
        post_norm(self, pass, ATTENTION, &mut saved.raw, &mut saved.post_statistics, delta);
        self.drop_out(pass, ATTENTION, delta);
        sum.resize(x.len());
        let input = Input::Sum { x, delta, sum };
        self.feed_forward_norm.forward(pass, input, second, &mut statistics[FEED_FORWARD]);
        self.feed_forward.forward(pass, second, delta, &mut saved.feed_forward, linear);
        post_norm(self, pass, FEED_FORWARD, &mut saved.raw, &mut saved.post_statistics, delta);
        y.resize(x.len());
        match pass.dropout(self.dropout, self.site(FEED_FORWARD)) {
            Some(dropout) => dropout.add(y, sum, delta),
            None => elementwise::sum(y, sum, delta),
        }
    }

    fn forward_after(
        &self,
        pass: &Pass<'_>,
        x: &Buffer,
        y: &mut Buffer,
        saved: &mut LayerSaved,
        scratch: &mut Scratch,
    ) {
        let LayerSaved { normed: [normed, _], sums: [first, second], statistics, .. } = saved;
        let Scratch { delta, linear, .. } = scratch;
        self.attention.forward(pass, x, delta, &mut saved.attention, linear);
        self.drop_out(pass, ATTENTION, delta);
        first.resize(x.len());
        let input = Input::Sum { x, delta, sum: first };
        self.attention_norm.forward(pass, input, normed, &mut statistics[ATTENTION]);
        self.feed_forward.forward(pass, normed, delta, &mut saved.feed_forward, linear);
        self.drop_out(pass, FEED_FORWARD, delta);
        second.resize(x.len());
        let input = Input::Sum { x: normed, delta, sum: second };
        self.feed_forward_norm.forward(pass, input, y, &mut statistics[FEED_FORWARD]);
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

    fn backward_before(
        &self,
        back: &mut Backward<'_>,
        x: &Buffer,
        d: &mut Buffer,
        saved: &mut LayerSaved,
        scratch: &mut Scratch,
    ) {
        self.block_backward(back, FEED_FORWARD, d, saved, scratch);
        let statistics = &saved.statistics;
        let (sum, d_normed) = (&saved.sums[0], &scratch.d_normed);
        let norm = &self.feed_forward_norm;
        norm.backward(back, sum, &statistics[FEED_FORWARD], d_normed, (d, Write::Add));
        self.block_backward(back, ATTENTION, d, saved, scratch);
        let (statistics, d_normed) = (&saved.statistics[ATTENTION], &scratch.d_normed);
        self.attention_norm.backward(back, x, statistics, d_normed, (d, Write::Add));
    }

    /// From `d`, the gradient of what a block adds (after its post norm and dropout), to `scratch.d_normed`, that of what the
    /// block takes.
    fn block_backward(
        &self,
        back: &mut Backward<'_>,
        part: usize,
        d: &Buffer,
        saved: &mut LayerSaved,
        scratch: &mut Scratch,
    ) {
        let Scratch { delta, d_normed, d_raw, attention, feed_forward, linear } = scratch;
        let mut d = self.dropped(back.pass, part, d, delta);
        if let Some(norms) = &self.post_norms {
            let (raw, statistics) = (&saved.raw[part], &saved.post_statistics[part]);
            norms[part].backward(back, raw, statistics, d, (d_raw, Write::Set));
            d = d_raw;
        }
        let x = &saved.normed[part];
        if part == ATTENTION {
            self.attention.backward(back, x, d, d_normed, &mut saved.attention, (attention, linear));
        } else {
            let scratch = (feed_forward, linear);
            self.feed_forward.backward(back, x, d, d_normed, &mut saved.feed_forward, scratch);
        }
    }

    fn backward_after(
        &self,
        back: &mut Backward<'_>,
        x: &Buffer,
        d: &mut Buffer,
        saved: &mut LayerSaved,
        scratch: &mut Scratch,
    ) {
        let LayerSaved { normed, sums, statistics, .. } = saved;
        let Scratch { delta, d_normed, d_raw: d_sum, attention, feed_forward, linear } = scratch;
        let to = (&mut *d_sum, Write::Set);
        self.feed_forward_norm.backward(back, &sums[1], &statistics[FEED_FORWARD], d, to);
        let added = self.dropped(back.pass, FEED_FORWARD, d_sum, delta);
        let (x_inner, block) = (&normed[0], &mut saved.feed_forward);
        self.feed_forward.backward(back, x_inner, added, d_normed, block, (feed_forward, linear));
        elementwise::add(d_normed, d_sum);
        let to = (&mut *d_sum, Write::Set);
        self.attention_norm.backward(back, &sums[0], &statistics[ATTENTION], d_normed, to);
        let added = self.dropped(back.pass, ATTENTION, d_sum, delta);
        self.attention.backward(back, x, added, d, &mut saved.attention, (attention, linear));
        elementwise::add(d, d_sum);
    }

    fn site(&self, part: usize) -> Site {
        if part == ATTENTION { Site::Attended(self.number) } else { Site::Fed(self.number) }
    }

    fn drop_out(&self, pass: &Pass<'_>, part: usize, delta: &mut Buffer) {
        if let Some(dropout) = pass.dropout(self.dropout, self.site(part)) {
            dropout.apply(delta);
        }
    }

    /// The gradient of what a block adds before dropout, in `space` if it is not `d` itself.
    fn dropped<'a>(&self, pass: &Pass<'_>, part: usize, d: &'a Buffer, space: &'a mut Buffer) -> &'a Buffer {
        let Some(dropout) = pass.dropout(self.dropout, self.site(part)) else { return d };
        space.resize(d.len());
        dropout.apply_to(space, d, Write::Set);
        space
    }
}

/// Normalises what a block adds, if the layer does; what it was is kept.
fn post_norm(
    layer: &Layer,
    pass: &Pass<'_>,
    part: usize,
    raw: &mut [Buffer; 2],
    statistics: &mut [Buffer; 2],
    delta: &mut Buffer,
) {
    if let Some(norms) = &layer.post_norms {
        std::mem::swap(delta, &mut raw[part]);
        norms[part].forward(pass, Input::Ready(&raw[part]), delta, &mut statistics[part]);
    }
}
