use proptest::prelude::*;

use super::testing::{
    at, buffer, close, close_for, halved, inner, largest, noise, slope, threads_do_not_show, twin, wide,
};
use super::*;
use crate::HalfDtype;

const LAYOUTS: [Layout; 2] = [Layout::OutputsInputs, Layout::InputsOutputs];

/// W as `[outputs, inputs]`, whatever its layout.
fn plain(w: &[f32], dims: &Dims) -> Vec<f64> {
    let Dims { inputs, outputs, layout, .. } = *dims;
    (0..outputs * inputs).map(|e| f64::from(w[at(layout, inputs, outputs, e / inputs, e % inputs)])).collect()
}

/// Forward and backward_input against the definition, for one storage of W.
fn check_products(dims: &Dims, weight: Weight<'_>, values: &[f32], tolerance: f64) {
    let Dims { rows, inputs, outputs, .. } = *dims;
    let w = plain(values, dims);
    let (x, bias, before) = (buffer(rows * inputs, 1), buffer(outputs, 3), buffer(rows * outputs, 4));
    let product = twin(&wide(&x.to_vec()), &w, inputs, outputs);
    let absolute = |values: &[f64]| -> Vec<f64> { values.iter().map(|v| v.abs()).collect() };
    let terms = |x: &Buffer, w: &[f64], inputs, outputs| {
        largest(&twin(&absolute(&wide(&x.to_vec())), &absolute(w), inputs, outputs))
    };
    let size = terms(&x, &w, inputs, outputs);
    for (write, bias) in
        [(Write::Set, None), (Write::Add, None), (Write::Set, Some(&bias)), (Write::Add, Some(&bias))]
    {
        let mut y = before.clone();
        forward(dims, &x, weight, bias, &mut y, write);
        let expected: Vec<f64> = (0..rows * outputs)
            .map(|i| {
                let kept = if write == Write::Add { f64::from(before.to_vec()[i]) } else { 0.0 };
                kept + product[i] + bias.map_or(0.0, |b| f64::from(b.to_vec()[i % outputs]))
            })
            .collect();
        close_for(&y, &expected, tolerance, size);
    }
    let across: Vec<f64> = (0..inputs * outputs).map(|e| w[e % outputs * inputs + e / outputs]).collect();
    let expected = twin(&wide(&before.to_vec()), &across, outputs, inputs);
    let size = terms(&before, &across, outputs, inputs);
    let mut dx = buffer(rows * inputs, 9);
    let kept = wide(&dx.to_vec());
    backward_input(dims, &before, weight, &mut dx, Write::Add);
    close_for(&dx, &expected.iter().zip(&kept).map(|(e, k)| e + k).collect::<Vec<_>>(), tolerance, size);
    backward_input(dims, &before, weight, &mut dx, Write::Set);
    close_for(&dx, &expected, tolerance, size);
}

fn check_all_storages(rows: usize, inputs: usize, outputs: usize) {
    let values = noise(inputs * outputs, 2);
    for layout in LAYOUTS {
        let dims = Dims { rows, inputs, outputs, layout };
        // f32 sums of up to 1200 terms, relative to the largest sum of their absolute values.
        check_products(&dims, (&Buffer::from(values.clone())).into(), &values, 3e-6);
        for dtype in [HalfDtype::Bf16, HalfDtype::F16] {
            let (half, values) = halved(&values, dtype);
            check_products(&dims, Weight::Half(&half), &values, 3e-6);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn agrees_with_the_definition(rows in 1usize..12, inputs in 1usize..70, outputs in 1usize..70) {
        check_all_storages(rows, inputs, outputs);
    }

    #[test]
    fn bias_gradient_is_the_sum_over_rows(rows in 0usize..80, outputs in 1usize..300) {
        let dims = Dims { rows, inputs: 1, outputs, layout: Layout::OutputsInputs };
        let dy = buffer(rows * outputs, 5);
        let sums: Vec<f64> = (0..outputs)
            .map(|o| dy.to_vec().iter().skip(o).step_by(outputs).map(|v| f64::from(*v)).sum())
            .collect();
        let mut db = buffer(outputs, 6);
        let before = wide(&db.to_vec());
        backward_bias(&dims, &dy, &mut db, Write::Add);
        close(&db, &sums.iter().zip(before).map(|(s, b)| s + b).collect::<Vec<_>>(), 2e-6);
        backward_bias(&dims, &dy, &mut db, Write::Set);
        close(&db, &sums, 2e-6);
    }
}

/// Shapes beyond one block of columns, of depth and of a run.
#[test]
fn agrees_beyond_a_block() {
    check_all_storages(2, 1100, 300);
    check_all_storages(7, 600, 210);
    check_all_storages(1, 3, 700);
    check_all_storages(0, 5, 6);
}

#[test]
fn gradients_are_derivatives() {
    for layout in LAYOUTS {
        let dims = Dims { rows: 5, inputs: 7, outputs: 6, layout };
        let (x, w, dy) = (buffer(35, 1), buffer(42, 2), buffer(30, 3));
        let (mut dx, mut dw) = (Buffer::zeros(35), buffer(42, 8));
        let before = wide(&dw.to_vec());
        backward_input(&dims, &dy, (&w).into(), &mut dx, Write::Set);
        backward_weight(&dims, &dy, &x, &mut dw, Write::Add);
        let gradient: Vec<f64> = wide(&dw.to_vec()).iter().zip(before).map(|(d, b)| d - b).collect();
        backward_weight(&dims, &dy, &x, &mut dw, Write::Set);
        close(&dw, &gradient, 1e-6);
        let loss = |x: &[f64], w: &[f64]| {
            let w: Vec<f64> = (0..42).map(|e| w[at(layout, 7, 6, e / 7, e % 7)]).collect();
            inner(&twin(x, &w, 7, 6), &wide(&dy.to_vec()))
        };
        let (x, w) = (wide(&x.to_vec()), wide(&w.to_vec()));
        let (tx, tw) = (wide(&noise(35, 11)), wide(&noise(42, 12)));
        let expected = slope(&x, &tx, |x| loss(x, &w));
        assert!((inner(&wide(&dx.to_vec()), &tx) - expected).abs() < 1e-5);
        let expected = slope(&w, &tw, |w| loss(&x, w));
        assert!((inner(&wide(&dw.to_vec()), &tw) - expected).abs() < 1e-5);
    }
}

#[test]
fn threads_change_no_bit() {
    let values = noise(700 * 530, 2);
    let (half, _) = halved(&values, HalfDtype::Bf16);
    let full = Buffer::from(values);
    for rows in [1, 3, 40] {
        for (layout, weight) in LAYOUTS.iter().flat_map(|l| [(*l, (&full).into()), (*l, Weight::Half(&half))])
        {
            let dims = Dims { rows, inputs: 700, outputs: 530, layout };
            let (x, dy) = (buffer(rows * 700, 1), buffer(rows * 530, 3));
            threads_do_not_show(|| {
                let (mut y, mut dx) = (Buffer::zeros(rows * 530), Buffer::zeros(rows * 700));
                let (mut dw, mut db) = (Buffer::zeros(700 * 530), Buffer::zeros(530));
                forward(&dims, &x, weight, None, &mut y, Write::Set);
                backward_input(&dims, &dy, weight, &mut dx, Write::Set);
                backward_weight(&dims, &dy, &x, &mut dw, Write::Set);
                backward_bias(&dims, &dy, &mut db, Write::Set);
                (y, dx, dw, db)
            });
        }
    }
}

#[test]
#[should_panic(expected = "elements of W")]
fn a_weight_of_another_shape_is_refused() {
    let dims = Dims { rows: 1, inputs: 2, outputs: 3, layout: Layout::OutputsInputs };
    forward(&dims, &Buffer::zeros(2), (&Buffer::zeros(5)).into(), None, &mut Buffer::zeros(3), Write::Set);
}

#[test]
#[should_panic(expected = "elements of the bias")]
fn a_bias_of_another_length_is_refused() {
    let dims = Dims { rows: 1, inputs: 2, outputs: 3, layout: Layout::OutputsInputs };
    let bias = Buffer::zeros(2);
    let (x, w) = (Buffer::zeros(2), Buffer::zeros(6));
    forward(&dims, &x, (&w).into(), Some(&bias), &mut Buffer::zeros(3), Write::Set);
}
