//! MFTCoder's normalisations and self-paced weights.

use super::*;

#[test]
fn mft_normalisations() {
    let golden = golden("mft_losses");
    let (tokens, mask) = (rows(&golden["token_losses"]), rows(&golden["mask"]));
    let sample = |(b, task): (usize, &Value)| Sample {
        task: task.as_u64().unwrap() as usize,
        sum: tokens[b].iter().zip(&mask[b]).map(|(loss, m)| loss * m).sum(),
        count: mask[b].iter().sum::<f64>() as u64,
    };
    let samples: Vec<Sample> =
        golden["task_ids"].as_array().unwrap().iter().enumerate().map(sample).collect();
    let (own, equal) = (row(&golden["task_weights"]), vec![1.0 / 3.0; 3]);
    let loss = |how, samples: &[Sample], weights: &[f64]| {
        let normalised = normalise(how, samples, weights);
        let again: f64 = samples.iter().zip(&normalised.factors).map(|(s, f)| s.sum * f).sum();
        same("factors", &[again], &[normalised.loss]);
        normalised.loss
    };
    use Normalisation::{Case1, Case2, Case3, Case4};
    for (key, how, weights) in [
        ("case1", Case1, &own),
        ("case2", Case2, &own),
        ("case3_equal", Case3, &equal),
        ("case3_weighted", Case3, &own),
        ("case4_equal", Case4, &equal),
        ("case4_weighted", Case4, &own),
    ] {
        same(key, &[loss(how, &samples, weights)], &[number(&golden[key])]);
    }
    let without: Vec<Sample> = samples.iter().copied().filter(|sample| sample.task != 1).collect();
    same("absent", &[loss(Case3, &without, &own)], &[number(&golden["case3_weighted_task1_absent"])]);
    // A task of masked tokens only is as good as absent, whatever its sum.
    let masked: Vec<Sample> = samples
        .iter()
        .map(|s| if s.task == 1 { Sample { sum: f64::NAN, count: 0, ..*s } } else { *s })
        .collect();
    same("masked", &[loss_of(Case3, &masked, &own)], &[number(&golden["case3_weighted_task1_absent"])]);
    assert_eq!(loss_of(Case4, &[], &own), 0.0);
}

fn loss_of(how: Normalisation, samples: &[Sample], weights: &[f64]) -> f64 {
    normalise(how, samples, weights).loss
}

#[test]
fn self_paced_weights() {
    for case in golden("self_paced").as_array().unwrap() {
        let slopes = row(&case["slopes"]);
        same("sharp", &self_paced::weights(&slopes, number(&case["scale"])), &row(&case["weights"]));
        same("soft", &self_paced::weights(&slopes, 1.0), &row(&case["weights_scale_1"]));
    }
}

/// The rule itself: uniform until its window is full, then the weights of the slopes of raw losses.
#[test]
fn self_paced_rule() {
    let mut balancer = balancer(&json!({"kind": "self_paced", "window": 3}));
    let slopes = [-0.1, -0.02, 0.05];
    for step in 0..3 {
        assert_eq!(weights(&mut balancer, step, 0, &[1.0; 3], Measured::Nothing), [1.0 / 3.0; 3]);
        let validation: Vec<f64> = slopes.iter().map(|slope| 2.0 + slope * step as f64).collect();
        let outcome = Outcome { step, validation: Some(&present(&validation)), ..Outcome::default() };
        balancer.observe(&outcome).unwrap();
    }
    let expected = row(&golden("self_paced")[1]["weights"]);
    same("rule", &weights(&mut balancer, 3, 0, &[1.0; 3], Measured::Nothing), &expected);
}
