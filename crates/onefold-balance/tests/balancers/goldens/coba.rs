//! CoBa, by its traces.

use super::*;

/// Plays the nine validation batches to a balancer, the first of them after step `first`, and holds its weights and scores to
/// the trace. `lead` is how many samples the trace's step t has seen less than t.
fn trace(settings: &Value, expected: &Value, first: u64, scores: &[(&str, &str)]) {
    let golden = golden("coba");
    let mut balancer = balancer(settings);
    balancer.begin(&row(&golden["initial_losses"])).unwrap();
    assert_eq!(balancer.needs(0).validation, first == 0);
    let losses = rows(&golden["val_losses"]);
    for (sample, expected) in expected.as_array().unwrap().iter().enumerate() {
        let step = sample as u64 + first;
        let column: Vec<f64> = losses.iter().map(|task| task[sample]).collect();
        let validation = present(&column);
        let outcome = Outcome { step, validation: Some(&validation), ..Outcome::default() };
        // The code's weights at t are those before the t-th sample, the paper's those after.
        if first == 0 {
            balancer.observe(&outcome).unwrap();
        }
        let found = weights(&mut balancer, step + 1 - first, 0, &[1.0; 3], Measured::Nothing);
        let sum: f64 = row(&expected["weights"]).iter().sum();
        same("weights", &found, &times(&row(&expected["weights"]), 1.0 / sum));
        for (figure_name, key) in scores.iter().filter(|_| expected.get("warmup").is_none()) {
            let expected =
                if expected[key].is_array() { row(&expected[key]) } else { vec![number(&expected[key])] };
            same(key, &figure(&balancer, figure_name), &expected);
        }
        if first == 1 {
            balancer.observe(&outcome).unwrap();
        }
    }
}

const SCORES: [(&str, &str); 4] = [("slope", "slopes"), ("rcs", "rcs"), ("acs", "acs"), ("df", "df")];

#[test]
fn coba_by_the_paper() {
    // The goldens have no floor.
    let settings = json!({"kind": "coba", "window": 4, "warmup": 3, "tau": 5, "min_weight": 0});
    trace(&settings, &golden("coba")["paper_max_of_slopes"], 0, &SCORES);
}

#[test]
fn coba_with_the_slope_of_the_largest() {
    let settings =
        json!({"kind": "coba", "window": 4, "warmup": 3, "min_weight": 0, "alpha_max": "slope_of_max"});
    trace(&settings, &golden("coba")["paper_slope_of_max"], 0, &SCORES);
}

#[test]
fn coba_by_the_code() {
    let settings = json!({"kind": "coba", "window": 4, "warmup": 3, "variant": "code"});
    trace(&settings, &golden("coba")["code"], 1, &SCORES);
}

#[test]
fn coba_ratios() {
    let golden = golden("coba");
    let mut balancer = balancer(&json!({"kind": "coba"}));
    balancer.begin(&row(&golden["initial_losses"])).unwrap();
    let column: Vec<f64> = rows(&golden["val_losses"]).iter().map(|task| task[0]).collect();
    balancer.observe(&Outcome { validation: Some(&present(&column)), ..Outcome::default() }).unwrap();
    let expected: Vec<f64> = rows(&golden["ratios"]).iter().map(|task| task[0]).collect();
    same("ratio", &figure(&balancer, "ratio"), &expected);
}

#[test]
fn coba_absent_task_floor_and_divergence() {
    let golden = golden("coba");
    let absent = &golden["absent_task"];
    let kept = row(&absent["row"]).into_iter().enumerate().filter(|(_, y)| *y != 0.0);
    let points: Vec<(f64, f64)> = kept.map(|(x, y)| (x as f64, y)).collect();
    let squeezed: Vec<(f64, f64)> = points.iter().enumerate().map(|(x, p)| (x as f64, p.1)).collect();
    same("true x", &[least_squares(&points)], &[number(&absent["slope_zero_removed_true_x"])]);
    same("compressed", &[least_squares(&squeezed)], &[number(&absent["slope_zero_removed_x_compressed"])]);

    let floor = &golden["floor"];
    let found = scores::floored(&row(&floor["in"]), number(&floor["floor"]));
    same("floor", &found, &row(&floor["out"]));

    for case in golden["divergence_factor"].as_array().unwrap() {
        let df = scores::divergence_factor(&row(&case["slopes"]).into(), 5.0);
        same("df", &[df, df.min(1.0)], &[number(&case["df_unclipped"]), number(&case["df"])]);
    }
}

/// A batch without task 1: the weights are those of the others, over their sum.
#[test]
fn coba_partial_batch() {
    let golden = golden("coba");
    let mut balancer = balancer(&json!({"kind": "coba", "window": 4, "warmup": 3, "min_weight": 0}));
    balancer.begin(&row(&golden["initial_losses"])).unwrap();
    let losses = rows(&golden["val_losses"]);
    for step in 0..9 {
        let column: Vec<f64> = losses.iter().map(|task| task[step]).collect();
        let validation = present(&column);
        let outcome = Outcome { step: step as u64, validation: Some(&validation), ..Outcome::default() };
        balancer.observe(&outcome).unwrap();
    }
    let rows = Rows::Losses(&[Some(1.2), None, Some(0.8)]);
    let found =
        balancer.weights(&Batch { step: 9, epoch: 0, rows, measured: Measured::Nothing }).unwrap().values;
    let loss = 1.2 * found[0] + 0.8 * found[2];
    same("loss", &[loss, found[1]], &[number(&golden["partial_batch"]["loss"]), 0.0]);
}
