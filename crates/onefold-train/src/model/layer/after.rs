//! Layers whose norms stand behind their residual additions.

use onefold_engine::cpu::elementwise;
use onefold_engine::cpu::norm::Input;
use onefold_engine::{Buffer, Write};

use super::{ATTENTION, FEED_FORWARD, Layer, LayerSaved, Scratch};
use crate::model::gradients::Backward;
use crate::model::pass::Pass;

impl Layer {
    pub(super) fn forward_after(
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

    pub(super) fn backward_after(
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
}
