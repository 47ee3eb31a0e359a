use onefold_runtime::Stream;
use proptest::prelude::*;

use super::*;
use crate::cpu::linear;
use crate::cpu::linear::Layout;
use crate::cpu::linear::testing::{
    buffer, close, golden, inner, list, noise, slope, threads_do_not_show, twin, wide,
};

fn dropout(rate: f64) -> Dropout {
    Dropout::new(rate, Stream::new(1, "task", "adapter"), 3 * 4096).unwrap()
}

/// The factors that dropout multiplies an x of this shape with.
pub(crate) fn coins(dropout: Option<&Dropout>, rows: usize, width: usize) -> Vec<f64> {
    let Some(dropout) = dropout else { return vec![1.0; rows * width] };
    let mut ones = Buffer::from(vec![1.0; rows * width]);
    dropout.apply(&mut ones);
    wide(&ones.to_vec())
}

/// ⟨s·B(A(c ⊙ x)), dy⟩ by definition.
fn loss(dims: &Dims, scale: f32, coins: &[f64], dy: &[f64], x: &[f64], a: &[f64], b: &[f64]) -> f64 {
    inner(&addition(dims, scale, coins, x, a, b), dy)
}

fn addition(dims: &Dims, scale: f32, coins: &[f64], x: &[f64], a: &[f64], b: &[f64]) -> Vec<f64> {
    let x: Vec<f64> = x.iter().zip(coins).map(|(x, c)| x * c).collect();
    let hidden = twin(&x, a, dims.inputs, dims.rank);
    twin(&hidden, b, dims.rank, dims.outputs).iter().map(|y| y * f64::from(scale)).collect()
}

/// Forward against the definition, and all gradients against its derivatives, in both kinds of writing.
fn check(dims: &Dims, dropout: Option<&Dropout>) {
    let Dims { rows, inputs, outputs, rank } = *dims;
    let (x, dy) = (buffer(rows * inputs, 1), buffer(rows * outputs, 2));
    let (a, b, scale) = (buffer(rank * inputs, 3), buffer(outputs * rank, 4), 0.75);
    let factors = Factors { a: &a, b: &b, scale };
    let coins = coins(dropout, rows, inputs);
    let (wx, wa, wb, wdy) = (wide(&x.to_vec()), wide(&a.to_vec()), wide(&b.to_vec()), wide(&dy.to_vec()));
    let (mut y, mut saved, mut scratch) = (buffer(rows * outputs, 5), Saved::default(), Scratch::default());
    let before = wide(&y.to_vec());
    forward(dims, &x, &factors, dropout, &mut y, &mut saved, &mut scratch);
    let added = addition(dims, scale, &coins, &wx, &wa, &wb);
    close(&y, &added.iter().zip(before).map(|(a, b)| a + b).collect::<Vec<_>>(), 1e-5);

    for write in [Write::Set, Write::Add] {
        let (mut da, mut db, mut dx) = (buffer(a.len(), 6), buffer(b.len(), 7), buffer(x.len(), 8));
        let start = [wide(&da.to_vec()), wide(&db.to_vec()), wide(&dx.to_vec())];
        let gradients = Gradients { a: &mut da, b: &mut db, write };
        backward(dims, &x, &factors, dropout, &dy, &saved, &mut scratch, gradients, Some(&mut dx));
        let kept = |start: &[f64], t: &[f64], write| if write == Write::Add { inner(start, t) } else { 0.0 };
        let same = |found: &Buffer, t: &[f64], expected: f64| {
            let found = inner(&wide(&found.to_vec()), t);
            let size = expected.abs() + t.len() as f64;
            assert!((found - expected).abs() < 1e-5 * size, "{dims:?} {write:?}: {found} {expected}");
        };
        let t = wide(&noise(a.len(), 11));
        same(
            &da,
            &t,
            kept(&start[0], &t, write) + slope(&wa, &t, |a| loss(dims, scale, &coins, &wdy, &wx, a, &wb)),
        );
        let t = wide(&noise(b.len(), 12));
        same(
            &db,
            &t,
            kept(&start[1], &t, write) + slope(&wb, &t, |b| loss(dims, scale, &coins, &wdy, &wx, &wa, b)),
        );
        let t = wide(&noise(x.len(), 13));
        let expected = slope(&wx, &t, |x| loss(dims, scale, &coins, &wdy, x, &wa, &wb));
        same(&dx, &t, kept(&start[2], &t, Write::Add) + expected);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]
    #[test]
    fn is_its_definition(rows in 1usize..9, inputs in 1usize..40, outputs in 1usize..40, rank in 1usize..6) {
        let dims = Dims { rows, inputs, outputs, rank };
        check(&dims, None);
        check(&dims, Some(&dropout(0.3)));
    }
}

/// Rows wider than a group of coins, and not a multiple of it.
#[test]
fn is_its_definition_on_wide_rows() {
    check(&Dims { rows: 6, inputs: 601, outputs: 300, rank: 8 }, Some(&dropout(0.5)));
}

#[test]
fn dropout_is_fair_and_differs_by_row_and_step() {
    let (rows, width, p) = (300, 300, 0.25);
    let found = coins(Some(&dropout(p)), rows, width);
    let kept = found.iter().filter(|c| **c != 0.0).count() as f64 / found.len() as f64;
    assert!((kept - 0.75).abs() < 6.0 * (0.75f64 * 0.25 / found.len() as f64).sqrt(), "{kept}");
    assert!(found.iter().all(|c| *c == 0.0 || (c - 1.0 / 0.75).abs() < 1e-6));
    assert_ne!(found[..width], found[width..2 * width]);
    let later = dropout(p).after(rows * width);
    assert_ne!(found, coins(Some(&later), rows, width));
    assert_eq!(coins(Some(&dropout(0.0)), 2, 3), [1.0; 6]);
}

#[test]
fn follows_peft() {
    for (case, layout) in [("lora", Layout::OutputsInputs), ("lora_conv", Layout::InputsOutputs)] {
        let golden = golden(case);
        let get = |name: &str| Buffer::from(list(&golden[name]));
        let (x, dy, a, b) = (get("x"), get("cotangent"), get("a"), get("b"));
        let dims = Dims { rows: 5, inputs: 12, outputs: 10, rank: 3 };
        let base = linear::Dims { rows: 5, inputs: 12, outputs: 10, layout };
        let factors = Factors { a: &a, b: &b, scale: golden["scale"].as_f64().unwrap() as f32 };
        let (mut y, mut saved, mut scratch) = (Buffer::zeros(50), Saved::default(), Scratch::default());
        let w = get("weight");
        linear::forward(&base, &x, (&w).into(), Some(&get("bias")), &mut y, Write::Set);
        forward(&dims, &x, &factors, None, &mut y, &mut saved, &mut scratch);
        let (mut da, mut db, mut dx) = (Buffer::zeros(36), Buffer::zeros(30), Buffer::zeros(60));
        linear::backward_input(&base, &dy, (&w).into(), &mut dx, Write::Set);
        let gradients = Gradients { a: &mut da, b: &mut db, write: Write::Set };
        backward(&dims, &x, &factors, None, &dy, &saved, &mut scratch, gradients, Some(&mut dx));
        // f32 against f32, sums of 12 terms.
        for (found, name) in [(y, "y"), (da, "da"), (db, "db"), (dx, "dx")] {
            close(&found, &wide(&list(&golden[name])), 2e-6);
        }
    }
}

#[test]
fn threads_change_no_bit() {
    let dims = Dims { rows: 70, inputs: 520, outputs: 390, rank: 8 };
    let (x, dy, a, b) = (buffer(70 * 520, 1), buffer(70 * 390, 2), buffer(8 * 520, 3), buffer(390 * 8, 4));
    let factors = Factors { a: &a, b: &b, scale: 2.0 };
    for dropout in [None, Some(dropout(0.1))] {
        threads_do_not_show(|| {
            let (mut y, mut saved, mut scratch) =
                (Buffer::zeros(dy.len()), Saved::default(), Scratch::default());
            forward(&dims, &x, &factors, dropout.as_ref(), &mut y, &mut saved, &mut scratch);
            let (mut da, mut db, mut dx) =
                (Buffer::zeros(a.len()), Buffer::zeros(b.len()), Buffer::zeros(x.len()));
            let gradients = Gradients { a: &mut da, b: &mut db, write: Write::Set };
            let dropout = dropout.as_ref();
            backward(&dims, &x, &factors, dropout, &dy, &saved, &mut scratch, gradients, Some(&mut dx));
            (y, da, db, dx)
        });
    }
}

#[test]
#[should_panic(expected = "elements saved")]
fn a_backward_pass_without_a_forward_pass_is_refused() {
    let dims = Dims { rows: 1, inputs: 2, outputs: 2, rank: 1 };
    let (x, a) = (Buffer::zeros(2), Buffer::zeros(2));
    let factors = Factors { a: &a, b: &a, scale: 1.0 };
    let (mut da, mut db) = (Buffer::zeros(2), Buffer::zeros(2));
    let gradients = Gradients { a: &mut da, b: &mut db, write: Write::Set };
    backward(&dims, &x, &factors, None, &x, &Saved::default(), &mut Scratch::default(), gradients, None);
}
