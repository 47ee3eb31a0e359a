//! A linear map with its parameters, and an adapter if it has one.

use onefold_engine::cpu::linear::{self, Dims, Layout};
use onefold_engine::cpu::{dora, lora};
use onefold_engine::{Buffer, Write};

use super::gradients::{Backward, Lent};
use super::memory::{BatchShape, size};
use super::parameters::{Adapter, ParameterId, Parameters, Part};
use super::pass::{Pass, Site};
use crate::families::{Half, Role};

/// y = x·Wᵀ + b, and what an adapter adds.
#[derive(Debug, Clone, Copy)]
pub struct Linear {
    weight: ParameterId,
    bias: Option<ParameterId>,
    inputs: usize,
    outputs: usize,
    layout: Layout,
    adapter: Option<Adapter>,
}

/// What the backward pass needs beside the input: nothing without an adapter.
#[derive(Debug, Default)]
pub struct LinearSaved {
    lora: lora::Saved,
    dora: dora::Saved,
    /// Lengths of the rows of the adapted weight.
    norms: Buffer,
}

/// Memory for intermediate results of adapters, shared by all maps.
#[derive(Debug, Default)]
pub struct LinearScratch {
    lora: lora::Scratch,
    dora: dora::Scratch,
}

impl LinearSaved {
    pub(super) fn bytes(&self) -> usize {
        self.lora.bytes() + self.dora.bytes() + self.norms.bytes()
    }
}

impl LinearScratch {
    pub(super) fn bytes(&self) -> usize {
        self.lora.bytes() + self.dora.bytes()
    }
}

/// Bytes of the parts of a [`LinearScratch`], each of which grows to what the largest map needs.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct LinearScratchBytes([usize; 4]);

impl LinearScratchBytes {
    /// Of a scratch for both.
    pub(super) fn max(self, other: Self) -> Self {
        Self(std::array::from_fn(|part| self.0[part].max(other.0[part])))
    }

    pub(super) fn sum(self) -> usize {
        self.0.iter().sum()
    }
}

impl Linear {
    /// The map of a role; `None` if the model has none.
    pub fn find(parameters: &Parameters, (half, layer): (Half, Option<usize>), role: Role) -> Option<Self> {
        let part = |part| parameters.find(half, layer, role, part);
        let weight = part(Part::Weight).or_else(|| part(Part::Transposed))?;
        let (outputs, inputs, layout) = parameters[weight].spec()?.linear_dims();
        let adapter = parameters.adapter(weight).copied();
        Some(Self { weight, bias: part(Part::Bias), inputs, outputs, layout, adapter })
    }

    /// Width of y.
    pub fn outputs(&self) -> usize {
        self.outputs
    }

    /// Width of x.
    pub fn inputs(&self) -> usize {
        self.inputs
    }

    /// Writes y.
    pub fn forward(
        &self,
        pass: &Pass<'_>,
        x: &Buffer,
        y: &mut Buffer,
        saved: &mut LinearSaved,
        scratch: &mut LinearScratch,
    ) {
        let maps = std::slice::from_ref(self);
        Self::forward_each(maps, pass, x, [y], std::slice::from_mut(saved), scratch);
    }

    /// Writes the `y` of each map of one x.
    pub(super) fn forward_each<'a>(
        maps: &[Self],
        pass: &Pass<'_>,
        x: &Buffer,
        y: impl IntoIterator<Item = &'a mut Buffer>,
        saved: &mut [LinearSaved],
        scratch: &mut LinearScratch,
    ) {
        let mut y: Vec<&mut Buffer> = y.into_iter().take(maps.len()).collect();
        let mut products = Vec::with_capacity(maps.len());
        for (map, y) in maps.iter().zip(&mut y) {
            if let Some(tap) = pass.tap {
                tap.input(map.weight, x);
            }
            let dims = map.dims(x);
            y.resize(dims.rows * map.outputs);
            if !map.is_decomposed() {
                let weight = pass.parameters[map.weight].weight();
                products.push(linear::Map { dims, weight, bias: map.bias(pass), y });
            }
        }
        linear::forward_each(x, &mut products);
        for ((map, y), saved) in maps.iter().zip(y).zip(saved) {
            map.adapter_forward(pass, x, y, saved, scratch);
        }
    }

    /// What an adapter adds to y; the whole y of DoRA, which scales the product.
    fn adapter_forward(
        &self,
        pass: &Pass<'_>,
        x: &Buffer,
        y: &mut Buffer,
        saved: &mut LinearSaved,
        scratch: &mut LinearScratch,
    ) {
        let Some(adapter) = &self.adapter else { return };
        let dropout = pass.dropout(adapter.dropout, Site::Adapter(self.weight.index()));
        let rows = self.dims(x).rows;
        let (dims, factors) = (self.adapter_dims(adapter, rows), factors(pass, adapter));
        if self.is_decomposed() {
            let weight = pass.parameters[self.weight].weight();
            saved.norms.resize(self.outputs);
            dora::norms(&dims, weight, self.layout, &factors, &mut saved.norms);
            let LinearSaved { dora, norms, .. } = saved;
            let map = self.map(pass, adapter, rows, norms);
            dora::forward(&map, x, dropout.as_ref(), y, Write::Set, dora, &mut scratch.dora);
        } else {
            lora::forward(&dims, x, &factors, dropout.as_ref(), y, &mut saved.lora, &mut scratch.lora);
        }
    }

    fn is_decomposed(&self) -> bool {
        self.adapter.is_some_and(|adapter| adapter.magnitude.is_some())
    }

    fn bias<'a>(&self, pass: &Pass<'a>) -> Option<&'a Buffer> {
        self.bias.map(|bias| pass.parameters.full(bias))
    }

    /// Gradients of the parameters, and of `x` if wanted, for `dy`.
    pub(super) fn backward(
        &self,
        back: &mut Backward<'_>,
        x: &Buffer,
        dy: &Buffer,
        mut dx: Option<(&mut Buffer, Write)>,
        saved: &LinearSaved,
        scratch: &mut LinearScratch,
    ) {
        let (dims, parameters) = (self.dims(x), back.pass.parameters);
        if let Some((dx, _)) = &mut dx {
            dx.resize(x.len());
        }
        let mut bias = back.lend(self.bias);
        if let Some((db, write)) = bias.as_mut().map(Lent::parts) {
            linear::backward_bias(&dims, dy, db, write);
        }
        back.complete(bias);
        if let Some(adapter) = &self.adapter {
            return self.adapted_backward(back, adapter, x, dy, dx, (saved, scratch));
        }
        let weight = parameters[self.weight].weight();
        let mut lent = back.lend(Some(self.weight));
        let (to_x, to_weight) =
            (dx.as_mut().map(|(dx, write)| (&mut **dx, *write)), lent.as_mut().map(Lent::parts));
        linear::backward(&dims, x, dy, weight, to_x, to_weight);
        back.complete(lent);
        if let (Some(tap), Some((dx, Write::Set))) = (back.pass.tap, dx) {
            tap.input_gradient(self.weight, x, dx);
        }
    }

    fn adapted_backward(
        &self,
        back: &mut Backward<'_>,
        adapter: &Adapter,
        x: &Buffer,
        dy: &Buffer,
        dx: Option<(&mut Buffer, Write)>,
        (saved, scratch): (&LinearSaved, &mut LinearScratch),
    ) {
        let (dims, pass) = (self.dims(x), back.pass);
        let dropout = pass.dropout(adapter.dropout, Site::Adapter(self.weight.index()));
        let ids = [Some(adapter.a), Some(adapter.b), adapter.magnitude];
        let mut lent = ids.map(|id| back.lend(id));
        let [Some((a, write)), Some((b, _)), magnitude] =
            lent.each_mut().map(|l| l.as_mut().map(Lent::parts))
        else {
            unreachable!("factors are trained")
        };
        let gradients = lora::Gradients { a, b, write };
        if let Some((magnitude, _)) = magnitude {
            let gradients = dora::Gradients { factors: gradients, magnitude };
            let map = self.map(pass, adapter, dims.rows, &saved.norms);
            dora::backward(&map, x, dropout.as_ref(), dy, &saved.dora, &mut scratch.dora, gradients, dx);
        } else {
            let dx = dx.map(|(dx, write)| {
                linear::backward_input(&dims, dy, pass.parameters[self.weight].weight(), dx, write);
                dx
            });
            let (dims, factors) = (self.adapter_dims(adapter, dims.rows), factors(pass, adapter));
            let (saved, scratch) = (&saved.lora, &mut scratch.lora);
            lora::backward(&dims, x, &factors, dropout.as_ref(), dy, saved, scratch, gradients, dx);
        }
        lent.into_iter().for_each(|lent| back.complete(lent));
    }

    /// Bytes of y.
    pub(super) fn result_bytes(&self, shape: &BatchShape) -> usize {
        size(shape.rows * self.outputs)
    }

    /// Bytes of what is saved.
    pub(super) fn saved_bytes(&self, shape: &BatchShape) -> usize {
        let Some(Adapter { rank, magnitude, .. }) = self.adapter else { return 0 };
        let dora = magnitude.map_or(0, |_| self.result_bytes(shape) + size(self.outputs));
        size(shape.rows * rank) + dora
    }

    /// Bytes of a scratch for this map alone.
    pub(super) fn scratch_bytes(&self, shape: &BatchShape) -> LinearScratchBytes {
        let Some(adapter) = self.adapter else { return LinearScratchBytes::default() };
        let matrix = |width: usize| size(shape.rows * width);
        let dropped = if shape.drops() && adapter.dropout > 0.0 { matrix(self.inputs) } else { 0 };
        let hidden = if shape.training() { matrix(adapter.rank) } else { 0 };
        match adapter.magnitude {
            None => LinearScratchBytes([dropped, hidden, 0, 0]),
            Some(_) => {
                let scaled = if shape.training() { matrix(self.outputs) } else { 0 };
                LinearScratchBytes([2 * dropped, hidden, size(self.outputs), scaled])
            }
        }
    }

    fn dims(&self, x: &Buffer) -> Dims {
        let Self { inputs, outputs, layout, .. } = *self;
        Dims { rows: x.len() / inputs, inputs, outputs, layout }
    }

    fn adapter_dims(&self, adapter: &Adapter, rows: usize) -> lora::Dims {
        lora::Dims { rows, inputs: self.inputs, outputs: self.outputs, rank: adapter.rank }
    }

    fn map<'a>(&self, pass: &Pass<'a>, adapter: &Adapter, rows: usize, norms: &'a Buffer) -> dora::Map<'a> {
        let parameters = pass.parameters;
        dora::Map {
            dims: self.adapter_dims(adapter, rows),
            weight: parameters[self.weight].weight(),
            layout: self.layout,
            bias: self.bias(pass),
            factors: factors(pass, adapter),
            magnitude: parameters.full(adapter.magnitude.expect("a map with a magnitude")),
            norms,
        }
    }
}

fn factors<'a>(pass: &Pass<'a>, adapter: &Adapter) -> lora::Factors<'a> {
    let parameters = pass.parameters;
    lora::Factors { a: parameters.full(adapter.a), b: parameters.full(adapter.b), scale: adapter.scale }
}
