use onefold_runtime::Stream;
use proptest::prelude::*;

use super::*;
use crate::HalfDtype;
use crate::cpu::linear::testing::{
    at, buffer, close, golden, halved, inner, list, noise, slope, threads_do_not_show, twin, wide,
};
use crate::cpu::lora::tests::coins;

fn dropout() -> Dropout {
    Dropout::new(0.4, Stream::new(1, "task", "adapter"), 3 * 4096).unwrap()
}

/// A map in f64, W as `[outputs, inputs]`.
#[derive(Clone)]
struct Twin {
    dims: lora::Dims,
    w: Vec<f64>,
    bias: Vec<f64>,
    a: Vec<f64>,
    b: Vec<f64>,
    scale: f64,
    m: Vec<f64>,
    norms: Vec<f64>,
    coins: Vec<f64>,
}

impl Twin {
    fn v(&self) -> Vec<f64> {
        let lora::Dims { inputs, rank, .. } = self.dims;
        let delta = |o: usize, i: usize| -> f64 {
            (0..rank).map(|r| self.b[o * rank + r] * self.a[r * inputs + i]).sum()
        };
        self.w.iter().enumerate().map(|(e, w)| w + self.scale * delta(e / inputs, e % inputs)).collect()
    }

    fn norms(&self) -> Vec<f64> {
        self.v().chunks_exact(self.dims.inputs).map(|v| inner(v, v).sqrt()).collect()
    }

    /// PEFT's formula, term by term.
    fn y(&self, x: &[f64]) -> Vec<f64> {
        let lora::Dims { inputs, outputs, rank, .. } = self.dims;
        let kept: Vec<f64> = x.iter().zip(&self.coins).map(|(x, c)| x * c).collect();
        let (plain, base) = (twin(x, &self.w, inputs, outputs), twin(&kept, &self.w, inputs, outputs));
        let low = twin(&twin(&kept, &self.a, inputs, rank), &self.b, rank, outputs);
        (0..plain.len())
            .map(|e| {
                let o = e % outputs;
                let g = self.m[o] / self.norms[o];
                plain[e] + self.bias[o] + (g - 1.0) * base[e] + g * self.scale * low[e]
            })
            .collect()
    }
}

/// Norms, forward and all gradients against the definition with constant norms.
fn check(dims: lora::Dims, layout: Layout, dtype: Option<HalfDtype>, dropout: Option<&Dropout>) {
    let lora::Dims { rows, inputs, outputs, rank } = dims;
    let values = noise(outputs * inputs, 1);
    let (half, values) = match dtype {
        Some(dtype) => {
            let (half, wide) = halved(&values, dtype);
            (Some(half), wide)
        }
        None => (None, values),
    };
    let full = Buffer::from(values.clone());
    let weight = half.as_ref().map_or(Weight::Full(&full), Weight::Half);
    let (a, b, m, bias) =
        (buffer(rank * inputs, 2), buffer(outputs * rank, 3), buffer(outputs, 4), buffer(outputs, 5));
    let factors = Factors { a: &a, b: &b, scale: 0.5 };
    let mut lengths = Buffer::zeros(outputs);
    norms(&dims, weight, layout, &factors, &mut lengths);
    let w =
        (0..outputs * inputs).map(|e| f64::from(values[at(layout, inputs, outputs, e / inputs, e % inputs)]));
    let [wide_a, wide_b, wide_m, wide_bias] = [&a, &b, &m, &bias].map(|v| wide(&v.to_vec()));
    let coins = coins(dropout, rows, inputs);
    let mut twin = Twin {
        dims,
        w: w.collect(),
        bias: wide_bias,
        a: wide_a,
        b: wide_b,
        scale: 0.5,
        m: wide_m,
        norms: vec![],
        coins,
    };
    twin.norms = twin.norms();
    close(&lengths, &twin.norms, 1e-6);

    let map = Map { dims, weight, layout, bias: Some(&bias), factors, magnitude: &m, norms: &lengths };
    let (x, dy) = (buffer(rows * inputs, 6), buffer(rows * outputs, 7));
    let (wx, wdy) = (wide(&x.to_vec()), wide(&dy.to_vec()));
    let (mut saved, mut scratch) = (Saved::default(), Scratch::default());
    for write in [Write::Set, Write::Add] {
        let kept =
            |start: &Buffer, i: usize| if write == Write::Add { f64::from(start.to_vec()[i]) } else { 0.0 };
        let start = buffer(dy.len(), 8);
        let mut y = start.clone();
        forward(&map, &x, dropout, &mut y, write, &mut saved, &mut scratch);
        let expected: Vec<f64> = twin.y(&wx).iter().enumerate().map(|(i, v)| v + kept(&start, i)).collect();
        close(&y, &expected, 1e-5);

        let starts = [buffer(a.len(), 9), buffer(b.len(), 10), buffer(m.len(), 11), buffer(x.len(), 12)];
        let mut found = starts.clone();
        let [da, db, dm, dx] = &mut found;
        let gradients = Gradients { factors: lora::Gradients { a: da, b: db, write }, magnitude: dm };
        backward(&map, &x, dropout, &dy, &saved, &mut scratch, gradients, Some((dx, write)));
        let points = [&twin.a, &twin.b, &twin.m, &wx];
        for (which, ((found, start), point)) in found.iter().zip(&starts).zip(points).enumerate() {
            let t = wide(&noise(point.len(), 20));
            let before: f64 = (0..t.len()).map(|i| kept(start, i) * t[i]).sum();
            let expected = before
                + slope(point, &t, |p| {
                    let mut moved = twin.clone();
                    let mut at = wx.clone();
                    *[&mut moved.a, &mut moved.b, &mut moved.m, &mut at][which] = p.to_vec();
                    inner(&moved.y(&at), &wdy)
                });
            let found = inner(&wide(&found.to_vec()), &t);
            let size = expected.abs() + t.len() as f64;
            assert!((found - expected).abs() < 2e-5 * size, "{which} {dims:?} {write:?}: {found} {expected}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]
    #[test]
    fn is_its_definition(rows in 1usize..9, inputs in 4usize..30, outputs in 1usize..30, rank in 1usize..5, conv: bool) {
        let dims = lora::Dims { rows, inputs, outputs, rank };
        let layout = if conv { Layout::InputsOutputs } else { Layout::OutputsInputs };
        check(dims, layout, None, None);
        check(dims, layout, Some(HalfDtype::Bf16), Some(&dropout()));
    }
}

/// More than one block of outputs and of inputs.
#[test]
fn norms_beyond_a_block() {
    let dims = lora::Dims { rows: 1, inputs: 2050, outputs: 70, rank: 2 };
    check(dims, Layout::OutputsInputs, None, None);
    check(dims, Layout::InputsOutputs, Some(HalfDtype::F16), None);
}

#[test]
fn follows_peft() {
    for (case, layout) in [("dora", Layout::OutputsInputs), ("dora_conv", Layout::InputsOutputs)] {
        let golden = golden(case);
        let get = |name: &str| Buffer::from(list(&golden[name]));
        let (x, dy, a, b, w) = (get("x"), get("cotangent"), get("a"), get("b"), get("weight"));
        let (magnitude, bias) = (get("magnitude"), get("bias"));
        let dims = lora::Dims { rows: 5, inputs: 12, outputs: 10, rank: 3 };
        let factors = Factors { a: &a, b: &b, scale: golden["scale"].as_f64().unwrap() as f32 };
        let mut lengths = Buffer::zeros(10);
        norms(&dims, (&w).into(), layout, &factors, &mut lengths);
        let map = Map {
            dims,
            weight: (&w).into(),
            layout,
            bias: Some(&bias),
            factors,
            magnitude: &magnitude,
            norms: &lengths,
        };
        let (mut y, mut saved, mut scratch) = (Buffer::zeros(50), Saved::default(), Scratch::default());
        forward(&map, &x, None, &mut y, Write::Set, &mut saved, &mut scratch);
        let (mut da, mut db, mut dm, mut dx) =
            (Buffer::zeros(36), Buffer::zeros(30), Buffer::zeros(10), Buffer::zeros(60));
        let factors = lora::Gradients { a: &mut da, b: &mut db, write: Write::Set };
        let gradients = Gradients { factors, magnitude: &mut dm };
        backward(&map, &x, None, &dy, &saved, &mut scratch, gradients, Some((&mut dx, Write::Set)));
        // f32 against f32, sums of 12 terms; PEFT adds and subtracts the base map's output.
        for (found, name) in [(y, "y"), (da, "da"), (db, "db"), (dm, "dmagnitude"), (dx, "dx")] {
            close(&found, &wide(&list(&golden[name])), 3e-6);
        }
    }
}

#[test]
fn a_row_without_length_gives_nothing() {
    let (w, a, b, m) = (Buffer::zeros(4), Buffer::zeros(2), Buffer::zeros(2), Buffer::from(vec![1.0, 0.0]));
    let dims = lora::Dims { rows: 1, inputs: 2, outputs: 2, rank: 1 };
    let factors = Factors { a: &a, b: &b, scale: 1.0 };
    let mut lengths = buffer(2, 1);
    norms(&dims, (&w).into(), Layout::OutputsInputs, &factors, &mut lengths);
    assert_eq!(lengths.to_vec(), [0.0, 0.0]);
    let layout = Layout::OutputsInputs;
    let map = Map { dims, weight: (&w).into(), layout, bias: None, factors, magnitude: &m, norms: &lengths };
    let mut y = buffer(2, 2);
    forward(&map, &buffer(2, 3), None, &mut y, Write::Set, &mut Saved::default(), &mut Scratch::default());
    assert_eq!(y.to_vec(), [0.0, 0.0]);
}

#[test]
fn threads_change_no_bit() {
    let dims = lora::Dims { rows: 40, inputs: 300, outputs: 330, rank: 4 };
    let (w, _) = halved(&noise(300 * 330, 1), HalfDtype::Bf16);
    let (a, b, m) = (buffer(4 * 300, 2), buffer(330 * 4, 3), buffer(330, 4));
    let (x, dy) = (buffer(40 * 300, 5), buffer(40 * 330, 6));
    let factors = Factors { a: &a, b: &b, scale: 0.5 };
    let layout = Layout::OutputsInputs;
    for dropout in [None, Some(dropout())] {
        threads_do_not_show(|| {
            let mut lengths = Buffer::zeros(330);
            norms(&dims, Weight::Half(&w), layout, &factors, &mut lengths);
            let weight = Weight::Half(&w);
            let map = Map { dims, weight, layout, bias: None, factors, magnitude: &m, norms: &lengths };
            let (mut y, mut saved, mut scratch) =
                (Buffer::zeros(dy.len()), Saved::default(), Scratch::default());
            forward(&map, &x, dropout.as_ref(), &mut y, Write::Set, &mut saved, &mut scratch);
            let (mut da, mut db) = (Buffer::zeros(a.len()), Buffer::zeros(b.len()));
            let (mut dm, mut dx) = (Buffer::zeros(330), Buffer::zeros(x.len()));
            let factors = lora::Gradients { a: &mut da, b: &mut db, write: Write::Set };
            let gradients = Gradients { factors, magnitude: &mut dm };
            let dropout = dropout.as_ref();
            backward(&map, &x, dropout, &dy, &saved, &mut scratch, gradients, Some((&mut dx, Write::Set)));
            (y, da, db, dm, dx)
        });
    }
}
