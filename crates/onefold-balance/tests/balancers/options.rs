//! What each setting does, where no golden says it.

use onefold_balance::methods::coba::scores::divergence_factor;
use onefold_balance::{Balancer, Batch, Gradients, Matrix, Measured, Outcome, Rows, Values};
use serde_json::{Value, json};

use crate::trainer::{balancer, present, tasks, weights};

fn validate(balancer: &mut Balancer, step: u64, losses: &[f64]) {
    let validation = present(losses);
    balancer.observe(&Outcome { step, validation: Some(&validation), ..Outcome::default() }).unwrap();
}

fn near(found: &[f64], expected: &[f64], tolerance: f64) {
    let all = found.iter().zip(expected).all(|(f, e)| (f - e).abs() <= tolerance);
    assert!(all && found.len() == expected.len(), "{found:?}, expected {expected:?}");
}

fn one(balancer: &Balancer, name: &str) -> f64 {
    match balancer.figures().into_iter().find(|figure| figure.name == name).unwrap().values {
        Values::One(value) => value,
        Values::PerTask(values) => panic!("{values:?}"),
    }
}

#[test]
fn lbtw_begins_anew_with_each_epoch() {
    let run = |reference: &str| {
        let mut lbtw = balancer(&json!({"kind": "lbtw", "reference": reference, "alpha": 1}), &tasks(2));
        weights(&mut lbtw, 0, 0, &[1.0, 1.0], Measured::Nothing);
        near(&weights(&mut lbtw, 1, 0, &[1.0, 3.0], Measured::Nothing), &[0.25, 0.75], 1e-15);
        weights(&mut lbtw, 2, 1, &[1.0, 3.0], Measured::Nothing)
    };
    near(&run("epoch"), &[0.5, 0.5], 1e-15);
    near(&run("initial"), &[0.25, 0.75], 1e-15);
}

#[test]
fn dwa_counts_periods() {
    let mut dwa = balancer(&json!({"kind": "dwa", "period": 2, "temperature": 1}), &tasks(2));
    let curve = [[2.0, 1.0], [2.0, 1.0], [1.0, 1.0], [1.0, 1.0], [9.0, 9.0]];
    let mut last = Vec::new();
    for (step, losses) in curve.iter().enumerate() {
        last = weights(&mut dwa, step as u64, 0, losses, Measured::Nothing);
        let losses = losses.map(Some);
        dwa.observe(&Outcome { step: step as u64, losses: Some(&losses), ..Outcome::default() }).unwrap();
    }
    // Ratios ½ and 1.
    let (a, b) = (0.5f64.exp(), 1f64.exp());
    near(&last, &[a / (a + b), b / (a + b)], 1e-15);
}

/// At rest the variances are the losses.
#[test]
fn uncertainty_learns_the_losses() {
    let mut uncertainty = balancer(&json!({"kind": "uncertainty", "scale": "paper"}), &tasks(2));
    for step in 0..3000 {
        let outcome = Outcome { step, losses: Some(&[Some(0.5), Some(4.0)]), ..Outcome::default() };
        uncertainty.observe(&outcome).unwrap();
    }
    let found = weights(&mut uncertainty, 3000, 0, &[0.5, 4.0], Measured::Nothing);
    near(&found, &[1.0, 0.125], 1e-3);
}

/// With α = 0 all gradients become equally long; with more, that of the task that lags is longer.
#[test]
fn gradnorm_evens_out_lengths() {
    let learnt = |settings: &Value, losses: [f64; 2]| {
        let mut gradnorm = balancer(settings, &tasks(2));
        for step in 0..2000 {
            // Task a begins at 1, b at 1; later losses are those given.
            let losses = if step == 0 { [Some(1.0), Some(1.0)] } else { losses.map(Some) };
            let outcome =
                Outcome { step, losses: Some(&losses), norms: Some(&[1.0, 3.0]), ..Outcome::default() };
            gradnorm.observe(&outcome).unwrap();
        }
        weights(&mut gradnorm, 2000, 0, &losses, Measured::Nothing)
    };
    for parameters in ["weights", "softmax"] {
        let settings = json!({"kind": "gradnorm", "alpha": 0, "lr": 0.001, "parameters": parameters});
        near(&learnt(&settings, [0.1, 0.9]), &[0.75, 0.25], 0.005);
        let settings = json!({"kind": "gradnorm", "alpha": 1, "lr": 0.001, "parameters": parameters});
        let w = learnt(&settings, [0.1, 0.9]);
        assert!(w[1] * 3.0 > w[0], "{w:?}");
    }
}

#[test]
fn gradnorm_by_validation_looks_at_validation() {
    let mut star = balancer(&json!({"kind": "gradnorm*", "alpha": 1, "lr": 0.01}), &tasks(2));
    for step in 0..50 {
        let validation = [Some(0.1), Some(4.0)];
        let (validation, norms) = (Some(&validation[..]), Some(&[1.0, 1.0][..]));
        star.observe(&Outcome { step, validation, norms, ..Outcome::default() }).unwrap();
    }
    let w = weights(&mut star, 50, 0, &[1.0, 1.0], Measured::Nothing);
    assert!(w[1] > 0.55, "{w:?}");
}

#[test]
fn famo_counts_from_the_least_loss() {
    let mut famo = balancer(&json!({"kind": "famo", "least_loss": 1.0}), &tasks(2));
    near(&weights(&mut famo, 0, 0, &[1.5, 3.0], Measured::Nothing), &[0.8, 0.2], 1e-7);
}

#[test]
fn coba_keeps_its_floor() {
    for (settings, floor) in [
        (json!({"kind": "coba", "window": 3, "warmup": 2}), 0.05),
        (json!({"kind": "coba", "window": 3, "warmup": 2, "min_weight": 0.3}), 0.3),
    ] {
        let mut coba = balancer(&settings, &tasks(2));
        let mut least: f64 = 1.0;
        for step in 0..12 {
            // Faster at each step: by its own measure it diverges, and would have a weight of 0.024.
            let rising = 3.0 + 1e-6 * 10f64.powi(step as i32);
            validate(&mut coba, step, &[rising, 4.0 - 0.01 * step as f64]);
            least = least.min(weights(&mut coba, step + 1, 0, &[1.0; 2], Measured::Nothing)[0]);
        }
        assert!(least >= floor - 1e-12, "{least} {floor}");
        assert!(least < floor + 0.1, "the floor is not what holds it: {least} {floor}");
    }
}

#[test]
fn coba_df_window() {
    let curve = [3.0, 2.8, 2.7, 2.5, 2.45, 2.44, 2.40];
    let run = |settings: &Value| {
        let mut coba = balancer(settings, &tasks(1));
        curve.iter().enumerate().for_each(|(step, loss)| validate(&mut coba, step as u64, &[*loss]));
        one(&coba, "df")
    };
    // The reference is 3; slopes of two neighbours from the second sample on.
    let slopes: Vec<f64> = curve.windows(2).map(|pair| (pair[1] - pair[0]) / 3.0).collect();
    let expected =
        |last: usize| divergence_factor(&slopes[slopes.len() - last..].to_vec().into(), 2.0).min(1.0);
    let all = run(&json!({"kind": "coba", "window": 2, "warmup": 2, "tau": 2}));
    let three = run(&json!({"kind": "coba", "window": 2, "warmup": 2, "tau": 2, "df_window": 3}));
    near(&[all, three], &[expected(6), expected(3)], 1e-12);
    assert!((all - three).abs() > 1e-3);
}

#[test]
fn intervals_are_kept() {
    let asked = |settings: &Value| -> Vec<u64> {
        let balancer = balancer(settings, &tasks(2));
        (0..9).filter(|step| balancer.needs(*step).validation).collect()
    };
    assert_eq!(asked(&json!({"kind": "coba", "interval": 3})), [2, 5, 8]);
    assert_eq!(asked(&json!({"kind": "self_paced", "interval": 4})), [3, 7]);
    assert_eq!(asked(&json!({"kind": "coba", "variant": "code"})), [1, 2, 3, 4, 5, 6, 7, 8]);
    let meta = balancer(&json!({"kind": "meta_weighting", "interval": 4}), &tasks(2));
    let looks = |step: &u64| meta.needs(*step).gradients != Gradients::None;
    assert_eq!((0..9).filter(looks).collect::<Vec<_>>(), [0, 4, 8]);
}

/// The update is the shortest in the hull of the divided gradients: its products with all of them are the same, or larger
/// where a gradient is not used.
#[test]
fn mgda_divides_gradients() {
    let gramian = Matrix::gramian(&[vec![1.0, 0.5, 0.2], vec![-0.5, 4.0, 0.0], vec![0.2, -0.3, 0.1]]);
    let (losses, norms) = ([0.5, 2.0, 3.0], gramian.diagonal());
    for (word, divisor) in
        [("none", [1.0; 3]), ("l2", [0, 1, 2].map(|i: usize| norms[i].sqrt())), ("loss", losses)]
    {
        let mut mgda = balancer(&json!({"kind": "mgda", "normalize": word}), &tasks(3));
        let c = weights(&mut mgda, 0, 0, &losses, Measured::Gramian(&gramian));
        let w: Vec<f64> = c.iter().zip(divisor).map(|(c, n)| c * n).collect();
        assert!((w.iter().sum::<f64>() - 1.0).abs() < 1e-12, "{word} {w:?}");
        let square = gramian.length(&c).powi(2);
        for (inner, (n, w)) in gramian.times(&c).iter().zip(divisor.iter().zip(&w)) {
            let gap = inner / n - square;
            assert!(gap > -1e-12 && (*w == 0.0 || gap < 1e-12), "{word} {gap} {w}");
        }
    }
    let mut plus = balancer(&json!({"kind": "mgda", "normalize": "loss+"}), &tasks(3));
    let c = weights(&mut plus, 0, 0, &losses, Measured::Gramian(&gramian));
    let sum: f64 = (0..3).map(|i| c[i] * losses[i] * norms[i].sqrt()).sum();
    assert!((sum - 1.0).abs() < 1e-12);
}

/// Of three conflicting tasks the order matters, and it is drawn anew at each step, but the same in each run.
#[test]
fn pcgrad_draws_an_order() {
    let gramian = Matrix::gramian(&[vec![1.0, 0.2], vec![-0.9, 0.5], vec![0.1, -1.0]]);
    let at = |seed: u64, step: u64| {
        let settings = json!({"kind": "pcgrad"});
        let mut pcgrad = Balancer::new(settings.as_object().unwrap(), &tasks(3), seed).unwrap();
        weights(&mut pcgrad, step, 0, &[1.0; 3], Measured::Gramian(&gramian))
    };
    assert!((0..20).any(|step| at(1, step) != at(1, 0)));
    assert!((0..20).any(|step| at(2, step) != at(1, step)));
    assert!((0..20).all(|step| at(1, step) == at(1, step)));
}

/// Weights of MetaWeighting leave the task whose training does not help validation.
#[test]
fn meta_weighting_follows_validation() {
    let mut meta = balancer(&json!({"kind": "meta_weighting", "trial_lr": 0.1}), &tasks(2));
    // Training on a lowers both validation losses, training on b raises them.
    let products = Matrix::new(2, vec![1.0, -1.0, 1.0, -1.0]).unwrap();
    let mut w = Vec::new();
    for step in 0..20 {
        w = weights(&mut meta, step, 0, &[1.0; 2], Measured::Lookahead { products: &products, lr: 0.1 });
    }
    near(&w, &[1.0, 0.0], 1e-12);
    let Gradients::Lookahead { lr, weights } = meta.needs(20).gradients else { panic!() };
    assert_eq!((lr, weights), (Some(0.1), vec![1.0, 0.0]));
}

/// A task that was absent keeps its standing.
#[test]
fn excess_mtl_waits_for_absent_tasks() {
    let mut excess = balancer(&json!({"kind": "excess_mtl", "robust_step": 0.5}), &tasks(2));
    weights(&mut excess, 0, 0, &[1.0; 2], Measured::Excess(&[2.0, 4.0]));
    let rows = Rows::Present(&[true, false]);
    let alone = Batch { step: 1, epoch: 0, rows, measured: Measured::Excess(&[2.0, f64::NAN]) };
    assert_eq!(excess.weights(&alone).unwrap().values, [1.0, 0.0]);
    // Since the first step a has grown by 1 · ½ twice, b by ½ once (and by ½·½ now).
    let found = weights(&mut excess, 2, 0, &[1.0; 2], Measured::Excess(&[2.0, 2.0]));
    let ratio = (0.75f64 - 1.5).exp();
    near(&found, &[1.0 / (1.0 + ratio), ratio / (1.0 + ratio)], 1e-12);
}
