use super::*;
use crate::scan::fixtures::deltas;
use crate::task::{Task, Values};
use onefold_runtime::params::Value;

/// Of the specification's golden values of TIES: three task vectors of ten elements.
const TASK_VECTORS: [[f32; 10]; 3] = [
    [0.5, -0.1, 0.3, 0.05, -0.4, 0.02, 0.2, -0.25, 0.0, 0.15],
    [-0.2, -0.3, 0.1, 0.6, 0.45, -0.01, 0.25, -0.05, 0.35, -0.15],
    [0.1, 0.4, -0.35, 0.2, 0.3, 0.03, -0.45, 0.15, -0.55, 0.25],
];
const PHI_3: [[f32; 10]; 3] = [
    [0.5, 0.0, 0.3, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0],
    [0.0, 0.0, 0.0, 0.6, 0.45, 0.0, 0.0, 0.0, 0.0, 0.0],
    [0.0, 0.4, 0.0, 0.0, 0.0, 0.0, -0.45, 0.0, -0.55, 0.0],
];
const PHI_6: [[f32; 10]; 3] = [
    [0.5, 0.0, 0.0, 0.0, 0.0, 0.0, 0.2, -0.25, 0.0, 0.15],
    [0.0, 0.0, 0.0, 0.6, 0.45, 0.0, 0.25, 0.0, 0.0, 0.0],
    [0.0, 0.4, -0.35, 0.0, 0.3, 0.0, 0.0, 0.0, -0.55, 0.25],
];

fn rule(method: &'static Method, scan: &Scan, weights: &[f64], density: f64) -> Box<dyn Rule> {
    let values = |weight: &f64| {
        let mut values = Values::from([("weight", Value::Number(*weight))]);
        if method.param("density").is_some() {
            values.insert("density", Value::Number(density));
        }
        values
    };
    let models = weights.iter().map(values).collect();
    (method.build)(&Task {
        scan: scan.clone(),
        global: Values::new(),
        models,
        statistics: Vec::new(),
        seed: 0,
    })
    .unwrap()
}

fn vectors(rule: &dyn Rule, scan: &Scan) -> Vectors {
    rule.vectors(scan, &ModelSurvey::default()).unwrap().unwrap()
}

/// What λ multiplies, read off by products with unit vectors.
fn shown(rule: &dyn Rule, scan: &Scan) -> Vec<Vec<f32>> {
    let vectors = vectors(rule, scan);
    let mut rows = vec![Vec::new(); scan.k()];
    for i in 0..scan.len() {
        let mut unit = vec![0.0; scan.len()];
        unit[i] = 1.0;
        let products = vectors.products(scan, &unit).unwrap();
        rows.iter_mut().zip(products).for_each(|(row, value)| row.push(value as f32));
    }
    rows
}

/// The published code keeps one element more than ⌊density·n⌋, so its 0.2 and 0.5 of ten are our 0.3 and 0.6.
#[test]
fn filtered_vectors_are_those_of_the_published_code() {
    let scan = deltas(&[10], &TASK_VECTORS.map(|row| row.to_vec()));
    for (density, expected) in [(0.3, PHI_3), (0.6, PHI_6)] {
        let rule = rule(&ADAMERGING_PLUS, &scan, &[0.3; 3], density);
        assert_eq!(shown(&*rule, &scan), expected.map(|row| row.to_vec()), "{density}");
    }
}

#[test]
fn a_negative_coefficient_does_not_change_what_agrees() {
    let scan = deltas(&[10], &TASK_VECTORS.map(|row| row.to_vec()));
    let rule = rule(&ADAMERGING_PLUS, &scan, &[-1.0, 0.5, 2.0], 0.6);
    let kernel = rule.prepare(&scan, &ModelSurvey::default()).unwrap();
    let found = scan
        .map_runs(|view| {
            let mut out = vec![9.0; view.len()];
            kernel.merge(view, &mut Scratch::default(), &mut out);
            out
        })
        .unwrap()
        .concat();
    let expected: Vec<f32> = (0..10).map(|i| -PHI_6[0][i] + 0.5 * PHI_6[1][i] + 2.0 * PHI_6[2][i]).collect();
    assert_eq!(found, expected);
}

/// What is learnt with is what is merged with, and neither depends on how a tensor is cut.
#[test]
fn tensors_of_many_strips() {
    let n = 300_000;
    let value = |i: usize, k: usize| ((i * 7919 + k * 104_729) % 2003) as f32 / 1000.0 - 1.0;
    let rows: Vec<Vec<f32>> = (0..3).map(|k| (0..n).map(|i| value(i, k)).collect()).collect();
    let gradient: Vec<f32> = (0..n).map(|i| value(i, 9)).collect();
    let lambda = [0.3, -0.2, 0.7];
    let scan = deltas(&[n], &rows);
    for method in [&ADAMERGING, &ADAMERGING_PLUS] {
        let rule = rule(method, &scan, &lambda, 0.2);
        let vectors = vectors(&*rule, &scan);
        let mut whole = vec![9.0; n];
        vectors.merge(&scan, &lambda, &mut whole).unwrap();
        let kernel = rule.prepare(&scan, &ModelSurvey::default()).unwrap();
        let blocks = scan.map(Grain::Element, |view| {
            let mut out = vec![9.0; view.len()];
            kernel.merge(view, &mut Scratch::default(), &mut out);
            out
        });
        assert_eq!(whole, blocks.unwrap().concat(), "{}", method.name);
        // L(λ) = ⟨g, θ(λ)⟩ is linear: its derivative by λₖ is the product.
        let products = vectors.products(&scan, &gradient).unwrap();
        let at = |lambda: &[f64]| -> f64 {
            let mut out = vec![0.0; n];
            vectors.merge(&scan, lambda, &mut out).unwrap();
            out.iter().zip(&gradient).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
        };
        for k in 0..3 {
            let mut moved = lambda;
            moved[k] += 0.5;
            let slope = (at(&moved) - at(&lambda)) / 0.5;
            let scale = products[k].abs().max(1.0);
            assert!((slope - products[k]).abs() < 1e-3 * scale, "{}: {slope} {}", method.name, products[k]);
        }
        let mut other = scan.clone();
        other.options.span = crate::scan::BLOCK;
        assert_eq!(vectors.products(&other, &gradient).unwrap(), products);
    }
}
