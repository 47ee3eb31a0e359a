use proptest::prelude::*;

use super::*;
use crate::cpu::probe::{assert_close, assert_derivative, buffer, golden, noise, numbers, on_any_pool, wide};

const KINDS: [Kind; 3] = [Kind::Rms, Kind::RmsFromOne, Kind::Layer];

/// The definition, in f64.
fn twin(norm: &Norm, x: &[f64], weight: &[f64], bias: &[f64]) -> Vec<f64> {
    let n = norm.width as f64;
    x.chunks(norm.width)
        .flat_map(|row| {
            let mean = if norm.kind == Kind::Layer { row.iter().sum::<f64>() / n } else { 0.0 };
            let square = row.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / n;
            let inverse = 1.0 / (square + f64::from(norm.epsilon)).sqrt();
            let y = move |(i, x): (usize, &f64)| {
                (x - mean) * inverse * (weight[i] + f64::from(norm.offset())) + bias[i]
            };
            row.iter().enumerate().map(y).collect::<Vec<f64>>()
        })
        .collect()
}

struct Case {
    norm: Norm,
    x: Vec<f32>,
    weight: Buffer,
    bias: Buffer,
    d_y: Vec<f32>,
}

fn case(kind: Kind, rows: usize, width: usize) -> Case {
    Case {
        norm: Norm { kind, rows, width, epsilon: 1e-5 },
        x: noise(rows * width, 1),
        weight: noise(width, 2).into(),
        bias: noise(width, 3).into(),
        d_y: noise(rows * width, 4),
    }
}

fn run(case: &Case, write: Write) -> [Buffer; 5] {
    let Case { norm, x, weight, bias, d_y } = case;
    let (x, d_y) = (Buffer::from(x.clone()), Buffer::from(d_y.clone()));
    let (mut y, mut statistics) = (Buffer::zeros(x.len()), Buffer::zeros(norm.statistics()));
    forward(norm, Input::Ready(&x), weight, Some(bias), &mut y, &mut statistics);
    let filled = |len| Buffer::from(vec![0.5; len]);
    let (mut d_x, mut d_weight, mut d_bias) = (filled(x.len()), filled(norm.width), filled(norm.width));
    let gradients = Gradients {
        x: Some((&mut d_x, write)),
        weight: Some((&mut d_weight, write)),
        bias: Some((&mut d_bias, write)),
    };
    backward(norm, &x, weight, &statistics, &d_y, gradients);
    [y, statistics, d_x, d_weight, d_bias]
}

fn inner(a: &[f64], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * f64::from(*b)).sum()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn agrees_with_the_definition(kind in 0usize..3, rows in 0usize..40, width in 1usize..200) {
        let case = case(KINDS[kind], rows, width);
        let [y, _, d_x, d_weight, d_bias] = run(&case, Write::Set);
        let (x, w, b) = (wide(&case.x), wide(&case.weight.to_vec()), wide(&case.bias.to_vec()));
        assert_close("y", &y, &twin(&case.norm, &x, &w, &b), 2e-6);
        // A LayerNorm of one or two elements has no slope worth the name.
        if width > 2 {
            let f = |x: &[f64]| inner(&twin(&case.norm, x, &w, &b), &case.d_y);
            assert_derivative("dx", f, &case.x, &d_x, 1e-5);
        }
        let f = |w: &[f64]| inner(&twin(&case.norm, &x, w, &b), &case.d_y);
        assert_derivative("dw", f, &case.weight.to_vec(), &d_weight, 1e-5);
        let f = |b: &[f64]| inner(&twin(&case.norm, &x, &w, b), &case.d_y);
        assert_derivative("db", f, &case.bias.to_vec(), &d_bias, 1e-5);
    }
}

#[test]
fn gradients_are_added_where_told() {
    for kind in KINDS {
        let case = case(kind, 7, 33);
        let (set, add) = (run(&case, Write::Set), run(&case, Write::Add));
        for (set, add) in set[2..].iter().zip(&add[2..]) {
            let expected: Vec<f64> = set.to_vec().iter().map(|v| f64::from(*v) + 0.5).collect();
            assert_close("sum", add, &expected, 1e-6);
        }
    }
}

#[test]
fn sums_are_normalised_alike() {
    for kind in KINDS {
        let Case { norm, x, weight, bias, .. } = case(kind, 70, 300);
        let delta = Buffer::from(noise(x.len(), 9));
        let summed: Vec<f32> = x.iter().zip(delta.to_vec()).map(|(x, d)| x + d).collect();
        let run = |input: Input<'_>| {
            let (mut y, mut statistics) = (Buffer::zeros(x.len()), Buffer::zeros(norm.statistics()));
            forward(&norm, input, &weight, Some(&bias), &mut y, &mut statistics);
            (y, statistics)
        };
        let expected = run(Input::Ready(&summed.clone().into()));
        let (x, mut sum) = (Buffer::from(x.clone()), Buffer::zeros(x.len()));
        assert!(run(Input::Sum { x: &x, delta: &delta, sum: &mut sum }) == expected);
        assert_eq!(sum.to_vec(), summed);
        let mut x = x;
        assert!(run(Input::InPlace { x: &mut x, delta: &delta }) == expected);
        assert_eq!(x.to_vec(), summed);
    }
}

#[test]
fn threads_do_not_show() {
    for kind in KINDS {
        let case = case(kind, 700, 96);
        on_any_pool(|| run(&case, Write::Add));
    }
}

/// What is frozen costs nothing and changes nothing.
#[test]
fn frozen_parts_are_left_out() {
    let case = case(Kind::Layer, 5, 16);
    let [_, statistics, d_x, ..] = run(&case, Write::Set);
    let mut found = Buffer::zeros(d_x.len());
    let gradients = Gradients { x: Some((&mut found, Write::Set)), ..Gradients::default() };
    backward(
        &case.norm,
        &case.x.clone().into(),
        &case.weight,
        &statistics,
        &case.d_y.clone().into(),
        gradients,
    );
    assert!(found == d_x);
}

#[test]
fn agrees_with_pytorch() {
    for (name, kind) in [("rms", Kind::Rms), ("rms_from_one", Kind::RmsFromOne), ("layer", Kind::Layer)] {
        let record = golden("norm")[name].clone();
        let [rows, width] = ["rows", "width"].map(|key| record[key].as_u64().unwrap() as usize);
        let epsilon = record["epsilon"].as_f64().unwrap() as f32;
        let case = Case {
            norm: Norm { kind, rows, width, epsilon },
            x: buffer(&record["x"]).to_vec(),
            weight: buffer(&record["weight"]),
            bias: buffer(&record["bias"]),
            d_y: buffer(&record["d_y"]).to_vec(),
        };
        let [y, _, d_x, d_weight, d_bias] = run(&case, Write::Set);
        // PyTorch computed in f64 from these f32 inputs.
        let found = [("y", y), ("d_x", d_x), ("d_weight", d_weight), ("d_bias", d_bias)];
        for (key, found) in found {
            assert_close(key, &found, &numbers(&record[key]), 2e-6);
        }
    }
}

#[test]
#[should_panic(expected = "weight of a norm")]
fn a_weight_of_another_width_is_refused() {
    let case = case(Kind::Rms, 2, 4);
    let (mut y, mut statistics) = (Buffer::zeros(8), Buffer::zeros(2));
    forward(&case.norm, Input::Ready(&case.x.into()), &Buffer::zeros(3), None, &mut y, &mut statistics);
}
