//! The attention block: projections, norms of heads, rotation, attention, output.
//!
//! Queries, keys and values come from three maps or from one; what follows only knows where heads lie in rows.

mod cache;

use onefold_engine::cpu::attention::{self as heads, Gradients, Inputs, Layout, Mask, Saved};
use onefold_engine::cpu::norm::{Input, Kind};
use onefold_engine::cpu::rope::{self, Heads, Turn};
use onefold_engine::{Buffer, Write};

pub(super) use cache::KeyValues;

use super::gradients::Backward;
use super::linear::{Linear, LinearSaved, LinearScratch, LinearScratchBytes};
use super::memory::{BatchShape, held, size};
use super::norm::Norm;
use super::parameters::Parameters;
use super::pass::Pass;
use crate::families::{Half, Role};

/// What a configuration says of a layer's attention.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AttentionSettings {
    /// Heads of queries.
    pub heads: usize,
    /// Heads of keys and values.
    pub kv_heads: usize,
    /// Elements of a head.
    pub head_dim: usize,
    /// Factor of the scores.
    pub scale: f64,
    /// Soft cap of the scores.
    pub cap: Option<f64>,
    /// Who sees whom.
    pub mask: Mask,
    /// Which of the pass's rotations, if any.
    pub rope: Option<usize>,
    /// Kind and epsilon of the norms of heads, if there are any.
    pub head_norm: Option<(Kind, f64)>,
    /// Probability of dropping attention weights.
    pub dropout: f64,
}

impl AttentionSettings {
    /// Of encoders: each head has its own keys and values, and scores are divided by the root of its length.
    pub fn plain(width: usize, heads: usize, mask: Mask, dropout: f64) -> Self {
        let head_dim = width / heads;
        let scale = 1.0 / (head_dim as f64).sqrt();
        Self {
            heads,
            kv_heads: heads,
            head_dim,
            scale,
            cap: None,
            mask,
            rope: None,
            head_norm: None,
            dropout,
        }
    }
}

/// An attention block.
#[derive(Debug, Clone)]
pub struct Attention {
    layer: usize,
    projections: Projections,
    head_norms: Option<[Norm; 2]>,
    output: Linear,
    shape: heads::Attention,
    rope: Option<usize>,
    dropout: f64,
}

#[derive(Debug, Clone)]
enum Projections {
    /// One map to `[q | k | v]`.
    Fused(Linear),
    /// A map to each.
    Separate(Box<[Linear; 3]>),
}

/// What the forward pass leaves.
#[derive(Debug, Default)]
pub struct AttentionSaved {
    /// Queries, keys and values as attention sees them; one matrix if they come from one map.
    qkv: [Buffer; 3],
    /// Queries and keys before their norms.
    raw: [Buffer; 2],
    statistics: [Buffer; 2],
    out: Buffer,
    log_sums: Buffer,
    linears: [LinearSaved; 4],
    /// Keys and values of all tokens so far, while text is generated.
    pub(super) cache: Option<KeyValues>,
}

/// Memory of the backward pass, shared by all layers.
#[derive(Debug, Default)]
pub(super) struct AttentionScratch {
    d_out: Buffer,
    d_qkv: [Buffer; 3],
}

impl AttentionSaved {
    pub(super) fn bytes(&self) -> usize {
        let Self { qkv, raw, statistics, out, log_sums, linears, cache: _ } = self;
        held(qkv.iter().chain(raw).chain(statistics).chain([out, log_sums]))
            + linears.iter().map(LinearSaved::bytes).sum::<usize>()
    }
}

impl AttentionScratch {
    pub(super) fn bytes(&self) -> usize {
        held(self.d_qkv.iter().chain([&self.d_out]))
    }
}

/// Place of the output's map among the saved ones.
const OUTPUT: usize = 3;

impl Attention {
    /// The block of a layer; `None` if the parameters have none.
    pub fn find(
        parameters: &Parameters,
        (half, layer): (Half, usize),
        settings: &AttentionSettings,
    ) -> Option<Self> {
        let AttentionSettings { heads, kv_heads, head_dim, scale, cap, mask, rope, .. } = *settings;
        let at = (half, Some(layer));
        let linear = |role| Linear::find(parameters, at, role);
        let (projections, layout) = match linear(Role::QueryKeyValue) {
            Some(map) => (Projections::Fused(map), Layout::fused(heads, kv_heads, head_dim)),
            None => {
                let maps = [linear(Role::Query)?, linear(Role::Key)?, linear(Role::Value)?];
                (Projections::Separate(Box::new(maps)), Layout::separate(heads, kv_heads, head_dim))
            }
        };
        let head_norms = match settings.head_norm {
            None => None,
            Some((kind, epsilon)) => {
                let norm = |role| Norm::find(parameters, at, role, kind, epsilon);
                Some([norm(Role::QueryNorm)?, norm(Role::KeyNorm)?])
            }
        };
        let cap = cap.map(|cap| cap as f32);
        let shape = heads::Attention { heads, kv_heads, head_dim, scale: scale as f32, cap, mask, layout };
        let output = linear(Role::AttentionOutput)?;
        Some(Self { layer, projections, head_norms, output, shape, rope, dropout: settings.dropout })
    }

    /// Writes to `y` what the block makes of `x`.
    pub fn forward(
        &self,
        pass: &Pass<'_>,
        x: &Buffer,
        y: &mut Buffer,
        saved: &mut AttentionSaved,
        scratch: &mut LinearScratch,
    ) {
        self.project(pass, x, saved, scratch);
        self.rotate(pass, &mut saved.qkv, Turn::Forward);
        let AttentionSaved { qkv, out, log_sums, linears, cache, .. } = saved;
        let rows = x.len() / self.inputs();
        out.resize(rows * self.shape.heads * self.shape.head_dim);
        log_sums.resize(if pass.training { rows * self.shape.heads } else { 0 });
        if let Some(cache) = cache {
            self.attend_to_cache(pass, qkv, cache, out);
        } else {
            let dropout = pass.attention_dropout(self.dropout, self.layer);
            let sums = pass.training.then_some(log_sums);
            heads::forward(&self.shape, pass.segments, self.heads(qkv), dropout.as_ref(), out, sums);
        }
        self.output.forward(pass, out, y, &mut linears[OUTPUT], scratch);
    }

    fn project(&self, pass: &Pass<'_>, x: &Buffer, saved: &mut AttentionSaved, scratch: &mut LinearScratch) {
        let AttentionSaved { qkv, raw, statistics, linears, .. } = saved;
        // Queries and keys that are to be normalised go to a place of their own.
        let mut before_norms = raw.iter_mut().filter(|_| self.head_norms.is_some());
        let y = qkv.iter_mut().map(|ready| before_norms.next().unwrap_or(ready));
        Linear::forward_each(self.maps(), pass, x, y, linears, scratch);
        for (part, norm) in self.head_norms.iter().flatten().enumerate() {
            norm.forward(pass, Input::Ready(&raw[part]), &mut qkv[part], &mut statistics[part]);
        }
    }

    /// Turns the heads of queries and keys, or of their gradients.
    fn rotate(&self, pass: &Pass<'_>, qkv: &mut [Buffer; 3], turn: Turn) {
        let Some(rope) = self.rope else { return };
        let heads::Attention { heads, kv_heads, head_dim, layout, .. } = self.shape;
        let mut apply = |part: usize, heads: Heads| {
            rope::apply(&pass.ropes[rope], pass.positions, heads, &mut qkv[part], turn);
        };
        match self.projections {
            // Queries and keys lie side by side.
            Projections::Fused(_) => {
                apply(0, Heads { heads: heads + kv_heads, head_dim, offset: 0, stride: layout.q.stride });
            }
            Projections::Separate(_) => {
                apply(0, Heads::only(heads, head_dim));
                apply(1, Heads::only(kv_heads, head_dim));
            }
        }
    }

    /// Gradients of the parameters, and of `x` to `dx`, for `dy`.
    pub(super) fn backward(
        &self,
        back: &mut Backward<'_>,
        x: &Buffer,
        dy: &Buffer,
        dx: &mut Buffer,
        saved: &mut AttentionSaved,
        (scratch, linear): (&mut AttentionScratch, &mut LinearScratch),
    ) {
        let AttentionScratch { d_out, d_qkv } = scratch;
        let out = Some((&mut *d_out, Write::Set));
        self.output.backward(back, &saved.out, dy, out, &saved.linears[OUTPUT], linear);
        self.heads_backward(back.pass, saved, d_out, d_qkv);
        self.rotate(back.pass, d_qkv, Turn::Backward);
        let AttentionSaved { qkv, raw, statistics, linears, .. } = saved;
        for (part, norm) in self.head_norms.iter().flatten().enumerate() {
            // The normalised heads are not needed any more; their gradient takes their place.
            let to = (&mut qkv[part], Write::Set);
            norm.backward(back, &raw[part], &statistics[part], &d_qkv[part], to);
        }
        for (part, map) in self.maps().iter().enumerate() {
            let dy = if self.head_norms.is_some() && part < 2 { &qkv[part] } else { &d_qkv[part] };
            let write = if part == 0 { Write::Set } else { Write::Add };
            map.backward(back, x, dy, Some((&mut *dx, write)), &linears[part], linear);
        }
    }

    fn heads_backward(
        &self,
        pass: &Pass<'_>,
        saved: &AttentionSaved,
        d_out: &Buffer,
        d_qkv: &mut [Buffer; 3],
    ) {
        let AttentionSaved { qkv, out, log_sums, .. } = saved;
        d_qkv.iter_mut().zip(qkv).for_each(|(gradient, values)| gradient.resize(values.len()));
        let [q, k, v] = d_qkv;
        let gradients = match self.projections {
            Projections::Fused(_) => Gradients::Fused(q),
            Projections::Separate(_) => Gradients::Separate { q, k, v },
        };
        let dropout = pass.attention_dropout(self.dropout, self.layer);
        let saved = Saved { out, log_sums };
        let (shape, segments, inputs) = (&self.shape, pass.segments, self.heads(qkv));
        heads::backward(shape, segments, inputs, dropout.as_ref(), saved, d_out, gradients, Write::Set);
    }

    fn heads<'a>(&self, qkv: &'a [Buffer; 3]) -> Inputs<'a> {
        match self.projections {
            Projections::Fused(_) => Inputs { q: &qkv[0], k: &qkv[0], v: &qkv[0] },
            Projections::Separate(_) => Inputs { q: &qkv[0], k: &qkv[1], v: &qkv[2] },
        }
    }

    /// Bytes of what is saved.
    pub(super) fn saved_bytes(&self, shape: &BatchShape) -> usize {
        let maps = self.maps();
        let results: usize = maps.iter().map(|map| map.result_bytes(shape)).sum();
        let norms = self
            .head_norms
            .iter()
            .flatten()
            .zip(maps)
            .map(|(norm, map)| map.result_bytes(shape) + norm.saved_bytes(shape.rows * map.outputs()));
        let log_sums = if shape.training() { size(shape.rows * self.shape.heads) } else { 0 };
        let linears = maps.iter().chain([&self.output]).map(|map| map.saved_bytes(shape)).sum::<usize>();
        results + norms.sum::<usize>() + self.out_bytes(shape) + log_sums + linears
    }

    /// Bytes of the scratch.
    pub(super) fn scratch_bytes(&self, shape: &BatchShape) -> (usize, LinearScratchBytes) {
        let results: usize = self.maps().iter().map(|map| map.result_bytes(shape)).sum();
        let own = if shape.training() { self.out_bytes(shape) + results } else { 0 };
        let linear = self
            .maps()
            .iter()
            .fold(self.output.scratch_bytes(shape), |most, map| most.max(map.scratch_bytes(shape)));
        (own, linear)
    }

    fn out_bytes(&self, shape: &BatchShape) -> usize {
        size(shape.rows * self.shape.heads * self.shape.head_dim)
    }

    fn maps(&self) -> &[Linear] {
        match &self.projections {
            Projections::Fused(map) => std::slice::from_ref(map),
            Projections::Separate(maps) => &**maps,
        }
    }

    fn inputs(&self) -> usize {
        self.maps()[0].inputs()
    }
}
