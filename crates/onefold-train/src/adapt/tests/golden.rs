//! The specification's example: two linear layers, two tasks, two samples each, held as an f64 twin that shares nothing with the
//! engine. Its gradients go into [`Coefficients`], and the trace has to be that of the golden file.

use super::*;

type Matrix = Vec<Vec<f64>>;

struct Toy {
    base: [Matrix; 2],
    /// `[layer][expert]`.
    tau: [Vec<Matrix>; 2],
    heads: Vec<Matrix>,
    x: Vec<Matrix>,
}

fn golden() -> Value {
    serde_json::from_str(include_str!("../../../../../testdata/adapt/golden.json")).unwrap()
}

fn read<T: serde::de::DeserializeOwned>(value: &Value) -> T {
    serde_json::from_value(value.clone()).unwrap()
}

fn times(m: &Matrix, x: &[f64]) -> Vec<f64> {
    m.iter().map(|row| row.iter().zip(x).map(|(a, b)| a * b).sum()).collect()
}

fn transposed(m: &Matrix, x: &[f64]) -> Vec<f64> {
    (0..m[0].len()).map(|i| m.iter().zip(x).map(|(row, x)| row[i] * x).sum()).collect()
}

impl Toy {
    fn open(golden: &Value) -> Self {
        Self {
            base: [read(&golden["A0"]), read(&golden["B0"])],
            tau: [read(&golden["tau_A"]), read(&golden["tau_B"])],
            heads: read(&golden["heads"]),
            x: read(&golden["x"]),
        }
    }

    /// L = Σ mean entropies, and its derivative by the coefficients `[layer][expert]`.
    fn loss(&self, lambda: &[Vec<f64>]) -> (f64, Vec<Vec<f64>>) {
        let merged = [0, 1].map(|layer: usize| {
            let mut m = self.base[layer].clone();
            for (k, tau) in self.tau[layer].iter().enumerate() {
                for (row, tau) in m.iter_mut().zip(tau) {
                    row.iter_mut().zip(tau).for_each(|(m, t)| *m += lambda[layer][k] * t);
                }
            }
            m
        });
        let (mut loss, mut gradient) = (0.0, vec![vec![0.0; 2]; 2]);
        for (head, samples) in self.heads.iter().zip(&self.x) {
            for x in samples {
                let hidden = times(&merged[0], x);
                let out = times(&merged[1], &hidden);
                let z = times(head, &out);
                let sum: f64 = z.iter().map(|z| z.exp()).sum();
                let p: Vec<f64> = z.iter().map(|z| z.exp() / sum).collect();
                let entropy = -p.iter().map(|p| p * p.ln()).sum::<f64>();
                loss += entropy / samples.len() as f64;
                let dz: Vec<f64> = p.iter().map(|p| -p * (p.ln() + entropy) / samples.len() as f64).collect();
                let d_out = transposed(head, &dz);
                let d_hidden = transposed(&merged[1], &d_out);
                for (layer, (d, x)) in [(&d_hidden, x), (&d_out, &hidden)].into_iter().enumerate() {
                    for (k, tau) in self.tau[layer].iter().enumerate() {
                        let product: f64 = times(tau, x).iter().zip(d).map(|(a, b)| a * b).sum();
                        gradient[layer][k] += product;
                    }
                }
            }
        }
        (loss, gradient)
    }
}

/// Follows a trace of the golden file.
fn follow(trace: &str, settings: &Settings, per_model: bool) {
    let golden = golden();
    let toy = Toy::open(&golden);
    let mut coefficients = Coefficients::new(vec![vec![0.3; 2]; if per_model { 1 } else { 2 }], settings);
    for step in golden[trace].as_array().unwrap() {
        let used = coefficients.used(settings);
        let all = if per_model { vec![used[0].clone(), used[0].clone()] } else { used };
        let (loss, layers) = toy.loss(&all);
        let gradient = match per_model {
            true => vec![(0..2).map(|k| layers[0][k] + layers[1][k]).collect()],
            false => layers,
        };
        assert_close(&[loss], &[read(&step["loss_before"])], trace);
        if settings.clamp != Clamp::Forward {
            assert_close(&gradient.concat(), &read::<Vec<f64>>(&step["grad"]), trace);
        }
        coefficients.step(&gradient, settings);
        let after = Coefficients::used(&coefficients, &Settings { clamp: Clamp::None, ..settings.clone() });
        assert_close(&after.concat(), &read::<Vec<f64>>(&step["lambda_after"]), trace);
    }
}

#[track_caller]
fn assert_close(found: &[f64], expected: &[f64], what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}");
    for (found, expected) in found.iter().zip(expected) {
        assert!((found - expected).abs() < 1e-9, "{what}: {found} {expected}");
    }
}

#[test]
fn traces_are_those_of_the_specification() {
    let plain = Settings { clamp: Clamp::None, ..Settings::default() };
    follow("adam_layerwise_lr1e-3", &plain, false);
    follow("adam_taskwise_lr1e-3", &plain, true);
    let held =
        Settings { clamp: Clamp::Forward, adam: Adam { lr: 0.2, ..Adam::default() }, ..Settings::default() };
    follow("adam_layerwise_lr0.2_clamped", &held, false);
}

/// What leaves [0, 1] while it is held there in the forward pass is lost; projected, it comes back.
#[test]
fn projection_does_not_lose_coefficients() {
    let settings = Settings { adam: Adam { lr: 0.2, ..Adam::default() }, ..Settings::default() };
    let mut coefficients = Coefficients::new(vec![vec![0.9]], &settings);
    (0..3).for_each(|_| coefficients.step(&[vec![-1.0]], &settings));
    assert_eq!(coefficients.used(&settings), [[1.0]]);
    (0..20).for_each(|_| coefficients.step(&[vec![1.0]], &settings));
    assert!(coefficients.used(&settings)[0][0] < 0.5);
}

#[test]
fn normalised_coefficients_add_up_and_have_the_derivative_of_a_softmax() {
    let settings = Settings { normalise: true, ..Settings::default() };
    let golden = golden();
    let raw: Vec<f64> = read(&golden["softmax_option"]["raw"]);
    let start = vec![raw.iter().map(|raw| raw.exp()).collect::<Vec<f64>>()];
    let coefficients = Coefficients::new(start.clone(), &settings);
    let expected: Vec<f64> = read(&golden["softmax_option"]["softmax"]);
    assert_close(&coefficients.used(&settings)[0], &expected, "softmax");
    // With a first step of lr, Adam moves by the sign of the gradient: a tiny one shows it.
    let gradient = [0.7, -0.2, 0.1];
    let f = |used: &[f64]| used.iter().zip(gradient).map(|(l, g)| l * g).sum::<f64>();
    let before = f(&expected);
    let mut moved = coefficients;
    moved.step(&[gradient.to_vec()], &settings);
    assert!(f(&moved.used(&settings)[0]) < before);
    assert!((moved.used(&settings)[0].iter().sum::<f64>() - 1.0).abs() < 1e-12);
}
