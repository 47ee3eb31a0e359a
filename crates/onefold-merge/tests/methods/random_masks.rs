//! Random masks as the methods apply them: shares, scale and independence, over many elements. Bounds are five standard
//! deviations; seeds are fixed, so that a pass is a pass for ever.

use crate::harness::{Input, Job, bits, normal};

const N: usize = 300_000;

/// Deltas on a base of zeros.
fn on_zeros(name: &str, shape: &[usize], deltas: Vec<Vec<f32>>) -> Vec<Input> {
    vec![Input::new(name, shape, Some(vec![0.0; shape.iter().product()]), deltas)]
}

fn dare(seed: u64, name: &str, deltas: Vec<Vec<f32>>, density: f64, rescale: &str) -> Job {
    let k = deltas.len();
    let mut job = Job::new("dare_linear", on_zeros(name, &[deltas[0].len()], deltas));
    job.seed = seed;
    job.each("weight", &vec![1.0; k]).each("density", &vec![density; k]).with("rescale", rescale)
}

fn kept(values: &[f32]) -> Vec<bool> {
    values.iter().map(|v| *v != 0.0).collect()
}

fn share(kept: &[bool]) -> f64 {
    kept.iter().filter(|k| **k).count() as f64 / kept.len() as f64
}

/// Five standard deviations of the share of `n` independent events of probability `p`.
fn five_sigma(p: f64, n: usize) -> f64 {
    5.0 * (p * (1.0 - p) / n as f64).sqrt()
}

fn l1(values: &[f32]) -> f64 {
    values.iter().map(|v| f64::from(v.abs())).sum()
}

#[test]
fn dare_keeps_its_share() {
    for density in [0.001, 0.1, 0.55, 0.9, 0.999] {
        let found = share(&kept(&dare(1, "w", vec![vec![1.0; N]], density, "none").values()));
        assert!((found - density).abs() <= five_sigma(density, N), "{density}: {found}");
    }
}

#[test]
fn dare_restores_the_norm_or_the_mean() {
    let x: Vec<f32> = normal(3, "x", N);
    for density in [0.05, 0.4, 0.9] {
        let matched = dare(2, "w", vec![x.clone()], density, "l1").values();
        assert!((l1(&matched) / l1(&x) - 1.0).abs() < 1e-6, "{density}");
        // ⟨out, x⟩/⟨x, x⟩ has mean 1 and variance (1 − d)/d · Σx⁴/(Σx²)².
        let divided = dare(2, "w", vec![x.clone()], density, "inverse_density").values();
        let power = |p: i32| x.iter().map(|v| f64::from(*v).powi(p)).sum::<f64>();
        let inner: f64 = divided.iter().zip(&x).map(|(o, v)| f64::from(*o) * f64::from(*v)).sum();
        let sigma = ((1.0 - density) / density * power(4)).sqrt() / power(2);
        assert!((inner / power(2) - 1.0).abs() <= 5.0 * sigma, "{density}: {inner}");
        for (o, v) in divided.iter().zip(&x).filter(|(o, _)| **o != 0.0) {
            assert!((f64::from(*o) * density / f64::from(*v) - 1.0).abs() < 1e-6);
        }
    }
}

/// Neighbours, models, tensors and seeds have masks that know nothing of each other.
#[test]
fn masks_are_independent() {
    let density = 0.3;
    let ones = || vec![vec![1.0f32; N]];
    let first = kept(&dare(1, "w", ones(), density, "none").values());
    let together =
        |a: &[bool], b: &[bool]| share(&a.iter().zip(b).map(|(a, b)| *a && *b).collect::<Vec<_>>());
    let both = density * density;
    let check =
        |what: &str, found: f64| assert!((found - both).abs() <= five_sigma(both, N), "{what}: {found}");
    for distance in [1, 2, 4, 16, 64, 1000] {
        check(&format!("distance {distance}"), together(&first[distance..], &first[..N - distance]));
    }
    check("seed", together(&first, &kept(&dare(2, "w", ones(), density, "none").values())));
    check("tensor", together(&first, &kept(&dare(1, "v", ones(), density, "none").values())));
    let two = dare(1, "w", vec![vec![1.0; N], vec![2.0; N]], density, "none").values();
    let of = |mark: f32| two.iter().map(|v| *v == mark || *v == 3.0).collect::<Vec<bool>>();
    assert_eq!(of(1.0), first, "another model beside it changes no mask");
    check("model", together(&of(1.0), &of(2.0)));
}

/// A mask belongs to the model's name: neither its place in the recipe nor the values change it.
#[test]
fn masks_follow_the_label() {
    for method in ["dare_linear", "dare_ties", "della", "della_linear"] {
        let inputs = |values: f32| on_zeros("w", &[40, 50], vec![vec![values; 2000], vec![0.0; 2000]]);
        let job = |values: f32| {
            let job = Job::new(method, inputs(values)).each("weight", &[1.0; 2]).each("density", &[0.5; 2]);
            job.with("rescale", "none").with("normalize", false)
        };
        let straight = job(1.0);
        let mut turned = straight.clone();
        turned.experts.reverse();
        turned.inputs[0].experts.reverse();
        let mask = kept(&straight.values());
        assert_eq!(bits(&turned.values()), bits(&straight.values()), "{method}");
        assert_eq!(kept(&job(-3.0).values()), mask, "{method}");
        let mut renamed = straight.clone();
        renamed.experts[0].label = "another".into();
        assert_ne!(kept(&renamed.values()), mask, "{method}");
    }
}

/// Rows of 1 … 101 in a scrambled order and with alternating signs.
fn ladder(rows: usize) -> Vec<f32> {
    let element = |i: usize| {
        let sign = if (i / 101 + i).is_multiple_of(2) { 1.0 } else { -1.0 };
        sign * (1 + (i % 101 * 37) % 101) as f32
    };
    (0..rows * 101).map(element).collect()
}

fn della(shape: &[usize], x: &[f32], density: f64, epsilon: f64, rescale: &str) -> Vec<f32> {
    let job = Job::new("della_linear", on_zeros("w", shape, vec![x.to_vec()]));
    job.each("weight", &[1.0])
        .each("density", &[density])
        .each("epsilon", &[epsilon])
        .with("rescale", rescale)
        .values()
}

#[test]
fn della_keeps_by_rank() {
    let rows = 3000;
    let x = ladder(rows);
    for (density, epsilon) in [(0.5, 0.2), (0.3, 0.29), (0.8, 0.15)] {
        let out = della(&[rows, 101], &x, density, epsilon, "none");
        assert!(out.iter().zip(&x).all(|(o, x)| *o == 0.0 || o == x));
        for rank in 0..101 {
            let p = density - epsilon + 2.0 * epsilon * rank as f64 / 100.0;
            let kept = out.iter().filter(|v| v.abs() == (rank + 1) as f32).count() as f64 / rows as f64;
            assert!((kept - p).abs() <= five_sigma(p, rows), "rank {rank}: {kept}, expected {p}");
        }
        let total = share(&kept(&out));
        assert!((total - density).abs() <= five_sigma(density, x.len()), "{total}");
    }
}

#[test]
fn della_restores_the_norm_or_the_mean() {
    let x = ladder(2000);
    for shape in [&[2000, 101][..], &[2000 * 101], &[20, 100, 101]] {
        let matched = della(shape, &x, 0.4, 0.3, "l1");
        assert!((l1(&matched) / l1(&x) - 1.0).abs() < 1e-6, "{shape:?}");
        // Σ x²·kept/p: its variance is at most Σ x⁴/p with the least p, 0.1.
        let divided = della(shape, &x, 0.4, 0.3, "inverse_density");
        let power = |p: i32| x.iter().map(|v| f64::from(*v).powi(p)).sum::<f64>();
        let inner: f64 = divided.iter().zip(&x).map(|(o, v)| f64::from(*o) * f64::from(*v)).sum();
        assert!(
            (inner / power(2) - 1.0).abs() <= 5.0 * (power(4) / 0.1).sqrt() / power(2),
            "{shape:?}: {inner}"
        );
    }
}
