//! Every value of `testdata/balance` (its README says how they were made), to 1e-9.

mod coba;
mod gradients;
mod losses;
mod mft;

use onefold_balance::kernels::{Dropping, average, excess, kept_sum, sign_purity};
use onefold_balance::losses::{Normalisation, Sample, normalise};
use onefold_balance::methods::{
    aligned_mtl, cagrad, coba::scores, dwa, famo, gls, gradnorm, lbtw, meta_weighting, scale_invariant,
    self_paced, stch, uncertainty, upgrad,
};
use onefold_balance::numeric::{Matrix, adam::Adam, eigen, min_norm, slope::least_squares, vector::softmax};
use onefold_balance::{Balancer, Batch, Figure, Gradients, Measured, Outcome, Rows, Task, Values};
use serde_json::{Value, json};

use crate::trainer::{present, weights};

const TOLERANCE: f64 = 1e-9;

fn golden(name: &str) -> Value {
    let text = match name {
        "coba" => include_str!("../../../../../testdata/balance/coba.json"),
        "balancers" => include_str!("../../../../../testdata/balance/balancers.json"),
        "mft_losses" => include_str!("../../../../../testdata/balance/mft_losses.json"),
        _ => include_str!("../../../../../testdata/balance/self_paced.json"),
    };
    serde_json::from_str(text).unwrap()
}

fn row(value: &Value) -> Vec<f64> {
    let number = |v: &Value| v.as_f64().unwrap_or_else(|| panic!("not a number: {v}"));
    value.as_array().unwrap_or_else(|| panic!("not a list: {value}")).iter().map(number).collect()
}

fn rows(value: &Value) -> Vec<Vec<f64>> {
    value.as_array().unwrap().iter().map(row).collect()
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap()
}

fn same(what: &str, found: &[f64], expected: &[f64]) {
    assert_eq!(found.len(), expected.len(), "{what}");
    for (f, e) in found.iter().zip(expected) {
        let near = (f - e).abs() <= TOLERANCE * e.abs().max(1.0);
        assert!(near, "{what}: {found:?}, expected {expected:?}");
    }
}

fn same_rows(what: &str, found: &[Vec<f64>], expected: &Value) {
    same(what, &found.concat(), &rows(expected).concat());
}

fn three() -> Vec<Task> {
    ["a", "b", "c"].map(Task::new).to_vec()
}

fn balancer(settings: &Value) -> Balancer {
    Balancer::new(settings.as_object().unwrap(), &three(), 0).unwrap()
}

fn figure(balancer: &Balancer, name: &str) -> Vec<f64> {
    match balancer.figures().into_iter().find(|figure| figure.name == name) {
        Some(Figure { values: Values::PerTask(values), .. }) => {
            values.into_iter().map(Option::unwrap).collect()
        }
        Some(Figure { values: Values::One(value), .. }) => vec![value],
        None => panic!("no figure `{name}`"),
    }
}

fn times(values: &[f64], c: f64) -> Vec<f64> {
    values.iter().map(|v| v * c).collect()
}

struct Example {
    golden: Value,
    losses: Vec<f64>,
    initial: Vec<f64>,
    gradients: Vec<Vec<f64>>,
    gramian: Matrix,
}

fn example() -> Example {
    let golden = golden("balancers");
    let gradients = rows(&golden["grads"]);
    let gramian = Matrix::gramian(&gradients);
    same_rows("Gramian", &(0..3).map(|i| gramian.row(i).to_vec()).collect::<Vec<_>>(), &golden["gram"]);
    Example {
        losses: row(&golden["losses"]),
        initial: row(&golden["initial_losses"]),
        gradients,
        gramian,
        golden,
    }
}

impl Example {
    fn combined(&self, weights: &[f64]) -> Vec<f64> {
        (0..4).map(|at| (0..3).map(|task| weights[task] * self.gradients[task][at]).sum()).collect()
    }

    /// The coefficients of a balancer by the Gramian, as published.
    fn published(&self, settings: &Value) -> Vec<f64> {
        let mut balancer = balancer(settings);
        weights(&mut balancer, 0, 0, &self.losses, Measured::Gramian(&self.gramian))
    }
}
