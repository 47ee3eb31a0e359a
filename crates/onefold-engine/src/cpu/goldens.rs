//! Activations, losses, normalised rows and patches against PyTorch (`testdata/engine/make_losses.py`, autograd in f64).
//! Tolerance: 2·10⁻⁶ of the largest value of a result, some 16 roundings of f32.

use serde_json::Value;

use super::activation::{self, Activation};
use super::gemm::{View, ViewMut, Workers, gemm};
use super::loss::head::{Gradients, Head, Scratch, head_loss};
use super::loss::small::{self, Gradient};
use super::loss::{Losses, Objective, Rows};
use super::{patches, pool};
use crate::{Buffer, Write};

fn goldens() -> Value {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../testdata/engine/losses.json");
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

fn numbers(of: &Value) -> Vec<f32> {
    of.as_array().unwrap().iter().map(|v| v.as_f64().unwrap() as f32).collect()
}

fn buffer(of: &Value) -> Buffer {
    numbers(of).into()
}

fn size(of: &Value) -> usize {
    of.as_u64().unwrap() as usize
}

fn assert_close(found: &[f32], golden: &Value, what: &str) {
    let golden = numbers(golden);
    assert_eq!(found.len(), golden.len(), "{what}");
    let bound = 2e-6 * golden.iter().fold(1e-3f32, |m, v| m.max(v.abs()));
    let worst = found.iter().zip(&golden).map(|(f, g)| (f - g).abs()).fold(0.0, f32::max);
    assert!(worst <= bound, "{what}: off by {worst}, allowed {bound}");
}

fn row_losses(losses: &Losses) -> Vec<f32> {
    losses.rows.iter().map(|row| row.loss).collect()
}

#[test]
fn activations_agree() {
    let all = goldens();
    let cases = all["activations"].as_object().unwrap();
    assert_eq!(cases.len(), 6);
    for (name, golden) in cases {
        let (act, mut x) = (Activation::from_name(name).unwrap(), buffer(&all["x"]));
        let mut y = Buffer::zeros(x.len());
        activation::forward(act, &mut y, &x);
        assert_close(y.host(), &golden["y"], name);
        activation::backward(act, &mut x, &buffer(&all["cotangent"]));
        assert_close(x.host(), &golden["dx"], name);
    }
}

#[test]
fn heads_agree() {
    let all = goldens();
    let inputs = &all["head_inputs"];
    let (hidden, weight, bias) =
        (buffer(&inputs["hidden"]), buffer(&inputs["weight"]), buffer(&inputs["bias"]));
    let targets: Vec<i32> = numbers(&inputs["targets"]).into_iter().map(|t| t as i32).collect();
    let weights = numbers(&inputs["weights"]);
    for golden in all["head"].as_array().unwrap() {
        let smoothing = golden["smoothing"].as_f64().unwrap() as f32;
        let head = Head {
            weight: (&weight).into(),
            bias: Some(&bias),
            vocabulary: size(&inputs["vocabulary"]),
            width: size(&inputs["width"]),
            scale: golden["scale"].as_f64().unwrap() as f32,
            cap: golden["cap"].as_f64().map(|cap| cap as f32),
            objective: match golden["entropy"].as_bool().unwrap() {
                true => Objective::Entropy,
                false => Objective::CrossEntropy { smoothing },
            },
        };
        let (mut dh, mut dw, mut db) =
            (Buffer::zeros(hidden.len()), Buffer::zeros(weight.len()), Buffer::zeros(bias.len()));
        let to = Gradients {
            hidden: (&mut dh, Write::Set),
            weight: Some((&mut dw, Write::Set)),
            bias: Some((&mut db, Write::Set)),
        };
        let rows = Rows { targets: &targets, weights: Some(&weights), tasks: None };
        let mut losses = Losses::new(1);
        head_loss(&head, &hidden, &rows, Some(to), &mut losses, &mut Scratch::default());
        assert_close(&row_losses(&losses), &golden["losses"], "losses");
        assert_close(dh.host(), &golden["hidden"], "gradient of the hidden states");
        assert_close(dw.host(), &golden["weight"], "gradient of the weight");
        assert_close(db.host(), &golden["bias"], "gradient of the bias");
    }
}

#[test]
fn small_losses_agree() {
    let all = goldens();
    let inputs = &all["small_inputs"];
    let (classes, wanted, other) =
        (size(&inputs["classes"]), buffer(&inputs["wanted"]), buffer(&inputs["other"]));
    let temperature = inputs["temperature"].as_f64().unwrap() as f32;
    let rows = Rows { targets: &[0; 4], weights: None, tasks: None };
    for golden in all["small"].as_array().unwrap() {
        let (name, mut z, mut losses) =
            (golden["name"].as_str().unwrap(), buffer(&inputs["z"]), Losses::new(1));
        let (z, losses, to) = (&mut z, &mut losses, Gradient::InPlace);
        match name {
            "binary" => small::binary(z, &wanted, classes, &rows, to, losses),
            "squared_error" => small::squared_error(z, &wanted, classes, &rows, to, losses),
            "distillation" => small::distillation(z, &other, classes, temperature, &rows, to, losses),
            _ => panic!("{name}"),
        }
        assert_close(&row_losses(losses), &golden["losses"], name);
        assert_close(z.host(), &golden["dz"], name);
    }
}

#[test]
fn normalised_rows_agree() {
    let golden = &goldens()["normalise"];
    let (width, mut y) = (size(&golden["width"]), buffer(&golden["x"]));
    let mut norms = Buffer::zeros(y.len() / width);
    pool::normalise(&mut y, width, 1e-12, &mut norms);
    assert_close(y.host(), &golden["y"], "normalised rows");
    let mut dx = buffer(&golden["cotangent"]);
    pool::normalise_backward(&mut dx, &y, width, 1e-12, &norms);
    assert_close(dx.host(), &golden["dx"], "gradient of normalised rows");
}

/// Patches and a product are PyTorch's convolution, pixels beyond the last whole patch included.
#[test]
fn patches_agree() {
    let golden = &goldens()["patches"];
    let of = patches::Images {
        images: size(&golden["images"]),
        channels: size(&golden["channels"]),
        height: size(&golden["height"]),
        width: size(&golden["width"]),
        kernel: size(&golden["kernel"]),
    };
    let (outputs, count, row) = (size(&golden["outputs"]), of.images * of.patches(), of.row());
    let (pixels, weight, dy) =
        (buffer(&golden["pixels"]), numbers(&golden["weight"]), numbers(&golden["cotangent"]));
    let mut rows = Buffer::zeros(count * row);
    patches::forward(&mut rows, &pixels, &of);
    let (x, w, d) = (
        View::new(rows.host(), count, row, row),
        View::new(&weight, outputs, row, row),
        View::new(&dy, count, outputs, outputs),
    );
    let (mut y, mut dw, mut dx) =
        (vec![0.0; count * outputs], vec![0.0; weight.len()], vec![0.0; count * row]);
    gemm(ViewMut::new(&mut y, count, outputs, outputs), Write::Set, 1.0, x, w.t(), Workers::One);
    gemm(ViewMut::new(&mut dw, outputs, row, row), Write::Set, 1.0, d.t(), x, Workers::One);
    gemm(ViewMut::new(&mut dx, count, row, row), Write::Set, 1.0, d, w, Workers::One);
    assert_close(&y, &golden["y"], "embedded patches");
    assert_close(&dw, &golden["dweight"], "gradient of the convolution");
    let mut dpixels = Buffer::zeros(pixels.len());
    patches::backward(&mut dpixels, Write::Set, &dx.into(), &of);
    assert_close(dpixels.host(), &golden["dpixels"], "gradient of the pixels");
}
