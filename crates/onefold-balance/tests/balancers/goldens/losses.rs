//! Balancers by losses, on the example of three tasks.

use super::*;

#[test]
fn lbtw_weights() {
    let e = example();
    for (key, alpha) in [("0.5", 0.5), ("1.0", 1.0)] {
        let expected = &e.golden["lbtw"][key];
        let ratios: Vec<f64> = e.losses.iter().zip(&e.initial).map(|(l, l0)| l / l0).collect();
        same("raw", &lbtw::weights(&ratios, alpha), &row(&expected["raw"]));
        let settings = json!({"kind": "lbtw", "alpha": alpha});
        let mut balancer = balancer(&settings);
        weights(&mut balancer, 0, 0, &e.initial, Measured::Nothing);
        let found = weights(&mut balancer, 1, 0, &e.losses, Measured::Nothing);
        same("rule", &times(&found, 3.0), &row(&expected["sum_K"]));
    }
}

#[test]
fn lbtw_by_validation() {
    let e = example();
    let mut balancer = balancer(&json!({"kind": "lbtw*"}));
    balancer.begin(&e.initial).unwrap();
    balancer.observe(&Outcome { validation: Some(&present(&e.losses)), ..Outcome::default() }).unwrap();
    let found = weights(&mut balancer, 1, 0, &[1.0; 3], Measured::Nothing);
    same("lbtw*", &times(&found, 3.0), &row(&e.golden["lbtw"]["0.5"]["sum_K"]));
}

#[test]
fn dwa_weights() {
    let e = example();
    let expected = row(&e.golden["dwa_T2"]["w"]);
    same("formula", &dwa::weights(&row(&e.golden["dwa_T2"]["ratio"]), 2.0), &expected);
    let mut balancer = balancer(&json!({"kind": "dwa"}));
    let epochs = [row(&e.golden["loss_e_minus_2"]), row(&e.golden["loss_e_minus_1"])];
    for (epoch, mean) in epochs.iter().enumerate() {
        // Two batches whose mean it is.
        for (step, factor) in [0.8, 1.2].into_iter().enumerate() {
            let found =
                weights(&mut balancer, (2 * epoch + step) as u64, epoch as u64, mean, Measured::Nothing);
            assert_eq!(found, [1.0 / 3.0; 3]);
            let losses = present(&times(mean, factor));
            let epoch = epoch as u64;
            balancer.observe(&Outcome { epoch, losses: Some(&losses), ..Outcome::default() }).unwrap();
        }
    }
    let found = weights(&mut balancer, 4, 2, &e.losses, Measured::Nothing);
    same("rule", &times(&found, 3.0), &expected);
}

#[test]
fn uncertainty_weights_and_slopes() {
    let e = example();
    let expected = &e.golden["uncertainty"];
    let s = row(&expected["s"]);
    let found: Vec<f64> = s.iter().map(|s| uncertainty::weight(*s)).collect();
    same("weights", &found, &row(&expected["weights"]));
    let loss: f64 = found.iter().zip(&e.losses).zip(&s).map(|((w, l), s)| w * l + 0.5 * s).sum();
    same("loss", &[loss], &[number(&expected["loss"])]);
    let slopes: Vec<f64> = e.losses.iter().zip(&s).map(|(l, s)| uncertainty::slope(*l, *s)).collect();
    same("slopes", &slopes, &row(&expected["grad_s"]));
}

#[test]
fn geometric_and_scale_invariant() {
    let e = example();
    let expected = row(&e.golden["gls"]["dloss_dL"]);
    same("gls", &gls::weights(&e.losses), &expected);
    let mut rule = balancer(&json!({"kind": "gls", "scale": "paper"}));
    same("rule", &weights(&mut rule, 0, 0, &e.losses, Measured::Nothing), &expected);
    // Euler: K times the geometric mean is Σ L ∂.
    let mean: f64 = expected.iter().zip(&e.losses).map(|(d, l)| d * l).sum();
    same("value", &[mean], &[number(&e.golden["gls"]["loss"])]);

    let expected = &e.golden["scale_invariant"];
    same("si", &scale_invariant::weights(&e.losses), &row(&expected["dloss_dL"]));
    let loss: f64 = e.losses.iter().map(|l| l.ln()).sum();
    same("value", &[loss], &[number(&expected["loss"])]);
}

#[test]
fn rlw_softmax() {
    let expected = &example().golden["rlw_given_normals"];
    same("rlw", &softmax(&row(&expected["z"])), &row(&expected["w_softmax"]));
}

#[test]
fn stch_weights() {
    let e = example();
    let expected = &e.golden["stch"];
    let nadir = row(&expected["nadir"]);
    same("formula", &stch::weights(&e.losses, &nadir, 1.0), &row(&expected["dloss_dL"]));
    let mut balancer = balancer(&json!({"kind": "stch", "warmup": 1, "scale": "paper"}));
    let warm = weights(&mut balancer, 0, 0, &e.losses, Measured::Nothing);
    same("warm-up", &warm, &row(&e.golden["scale_invariant"]["dloss_dL"]));
    weights(&mut balancer, 1, 1, &times(&nadir, 0.5), Measured::Nothing);
    weights(&mut balancer, 2, 1, &times(&nadir, 1.5), Measured::Nothing);
    let found = weights(&mut balancer, 3, 2, &e.losses, Measured::Nothing);
    same("rule", &found, &row(&expected["dloss_dL"]));
    same("nadir", &figure(&balancer, "nadir"), &nadir);
    // The golden's loss without its maximum taken out: μ K ln Σ exp.
    let lse = (e.losses.iter().zip(&nadir).map(|(l, n)| l / n).sum::<f64>()).ln();
    let largest = e.losses.iter().zip(&nadir).map(|(l, n)| (l / n).ln()).fold(f64::MIN, f64::max);
    same("loss", &[3.0 * (lse - largest)], &[number(&expected["loss_with_max_removed"])]);
}

#[test]
fn gradnorm_updates() {
    let e = example();
    let expected = &e.golden["gradnorm"];
    let norms: Vec<f64> = e.gramian.diagonal().iter().map(|square| square.sqrt()).collect();
    same("norms", &norms, &row(&expected["grad_norms"]));
    let slope = gradnorm::slope(&[1.0; 3], &norms, &row(&expected["loss_ratio"]), 1.5);
    same("slope", &slope, &row(&expected["grad_w"]));
    same("softmax", &gradnorm::softmax_slope(&[1.0; 3], &slope), &row(&expected["grad_softmax_param"]));

    let step = |kind: &str, reference: &[f64], latest: &[f64]| {
        let mut balancer = balancer(&json!({"kind": kind, "scale": "paper"}));
        let validates = balancer.needs(0).validation;
        if validates {
            balancer.begin(reference).unwrap();
        } else {
            // Gradients of no length are not used, but the losses are those of the beginning.
            let mut tiny = balancer.state();
            tiny["state"]["references"] = json!(reference);
            balancer.restore(&tiny).unwrap();
        }
        let losses = present(latest);
        let outcome = Outcome {
            losses: Some(&losses),
            validation: Some(&losses),
            norms: Some(&norms),
            ..Outcome::default()
        };
        balancer.observe(&outcome).unwrap();
        weights(&mut balancer, 1, 0, latest, Measured::Nothing)
    };
    for kind in ["gradnorm", "gradnorm*"] {
        same(kind, &step(kind, &e.initial, &e.losses), &row(&expected["w_after_sgd_.025_renormalised"]));
    }
}

#[test]
fn famo_two_updates() {
    let e = example();
    let mut balancer = balancer(&json!({"kind": "famo"}));
    let (mut adam, mut xi) = ([Adam::default(); 3], [0.0; 3]);
    for (step, expected) in e.golden["famo"].as_array().unwrap().iter().enumerate() {
        let (before, after) = (row(&expected["before"]), row(&expected["after"]));
        let z = softmax(&xi);
        same("z", &z, &row(&expected["z"]));
        let (w, c) = famo::weights(&z, &before, 0.0);
        same("c", &[c], &[number(&expected["c"])]);
        same("weights", &w, &row(&expected["dloss_dL"]));
        let loss: f64 = z.iter().zip(&before).map(|(z, l)| z * (l + 1e-8).ln()).sum::<f64>() / c;
        same("loss", &[loss], &[number(&expected["loss"])]);
        let slope = famo::slope(&z, &row(&expected["delta"]));
        let slope: Vec<f64> = slope.iter().zip(&xi).map(|(s, xi)| s + 0.01 * xi).collect();
        same("slope", &slope, &row(&expected["grad_xi"]));
        for task in 0..3 {
            xi[task] += adam[task].step(slope[task], 0.025);
        }
        same("xi", &xi, &row(&expected["xi"]));

        // The same through the balancer.
        let found = weights(&mut balancer, step as u64, 0, &before, Measured::Nothing);
        same("rule", &found, &row(&expected["dloss_dL"]));
        let (losses, again) = (present(&before), present(&after));
        let step = step as u64;
        let outcome = Outcome { step, losses: Some(&losses), again: Some(&again), ..Outcome::default() };
        balancer.observe(&outcome).unwrap();
        same("logit", &figure(&balancer, "logit"), &row(&expected["xi"]));
    }
}

/// The golden's second step begins with the losses that its first ended with, so the cheap form and the one by validation
/// come to the same ξ.
#[test]
fn famo_by_the_next_batch_and_by_validation() {
    let e = example();
    let steps = e.golden["famo"].as_array().unwrap();
    let curve = [row(&steps[0]["before"]), row(&steps[0]["after"]), row(&steps[1]["after"])];
    let mut cheap = balancer(&json!({"kind": "famo", "after": "next_batch"}));
    let mut star = balancer(&json!({"kind": "famo*"}));
    for (step, losses) in curve.iter().enumerate() {
        weights(&mut cheap, step as u64, 0, losses, Measured::Nothing);
        let (training, validation) = (present(&e.losses), present(losses));
        let outcome =
            Outcome { losses: Some(&training), validation: Some(&validation), ..Outcome::default() };
        cheap.observe(&outcome).unwrap();
        star.observe(&outcome).unwrap();
    }
    same("next batch", &figure(&cheap, "logit"), &row(&steps[1]["xi"]));
    same("validation", &figure(&star, "logit"), &row(&steps[1]["xi"]));
}

#[test]
fn meta_weighting_updates() {
    let e = example();
    let expected = &e.golden["meta_weighting"];
    let jacobian = rows(&expected["jacobian"]);
    let jacobian = Matrix::of(3, |t, i| jacobian[t][i]);
    let (lambda, direction) = meta_weighting::common_descent(&jacobian);
    same("lambda", &lambda, &row(&expected["frank_wolfe_lambda"]));
    same("direction", &direction, &row(&expected["direction"]));

    let (support, query) = (rows(&expected["support_minima"]), rows(&expected["query_minima"]));
    let mut balancer = balancer(&json!({"kind": "meta_weighting", "trial_lr": 0.3}));
    let Gradients::Lookahead { lr: Some(lr), weights: trial } = balancer.needs(0).gradients else { panic!() };
    // θ = 0 and L = ½|θ − c|²: gradients are −c, and θ' = lr Σ w c.
    let theta: Vec<f64> = (0..4).map(|at| (0..3).map(|i| lr * trial[i] * support[i][at]).sum()).collect();
    same("trial step", &theta, &row(&expected["theta_virtual"]));
    let products = Matrix::of(3, |t, i| (0..4).map(|at| (theta[at] - query[t][at]) * -support[i][at]).sum());
    let found = weights(&mut balancer, 0, 0, &e.losses, Measured::Lookahead { products: &products, lr });
    same("weights", &found, &row(&expected["w_after_lr1_projected"]));
}

#[test]
fn excess_mtl_updates() {
    let e = example();
    let expected = &e.golden["excess_mtl"];
    let first = row(&expected["w_first"]);
    let second: Vec<f64> = first.iter().zip(row(&expected["w_second_rel"])).map(|(e, rel)| e * rel).collect();
    let mut balancer = balancer(&json!({"kind": "excess_mtl", "scale": "paper"}));
    same("first", &weights(&mut balancer, 0, 0, &e.losses, Measured::Excess(&first)), &[1.0; 3]);
    let found = weights(&mut balancer, 1, 0, &e.losses, Measured::Excess(&second));
    same("second", &found, &row(&expected["loss_weight"]));

    // The kernel stores f32.
    let mut squares = [[0f32; 4]; 3];
    for (factors, expected) in [([1.0; 3], first), ([0.5, 1.0, 1.5], second)] {
        for task in 0..3 {
            let gradient: Vec<f32> = e.gradients[task].iter().map(|g| (g * factors[task]) as f32).collect();
            let found = excess(&mut squares[task], &gradient);
            assert!((found - expected[task]).abs() < 1e-6 * expected[task], "{found} {}", expected[task]);
        }
    }
}
