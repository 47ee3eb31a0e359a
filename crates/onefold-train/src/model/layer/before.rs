//! Layers whose norms stand before their blocks, or before and behind.

use onefold_engine::cpu::elementwise;
use onefold_engine::cpu::norm::Input;
use onefold_engine::{Buffer, Write};

use super::{ATTENTION, FEED_FORWARD, Layer, LayerSaved, Scratch};
use crate::model::gradients::Backward;
use crate::model::pass::Pass;

impl Layer {
    pub(super) fn forward_before(
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
        match self.coins(pass, FEED_FORWARD) {
            Some(dropout) => dropout.add(y, sum, delta),
            None => elementwise::sum(y, sum, delta),
        }
    }

    pub(super) fn backward_before(
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
