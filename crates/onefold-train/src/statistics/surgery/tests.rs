use proptest::prelude::*;
use serde_json::Value;

use super::*;

fn flat(value: &Value) -> Vec<f64> {
    match value {
        Value::Array(items) => items.iter().flat_map(flat).collect(),
        number => vec![number.as_f64().unwrap()],
    }
}

fn single(values: &[f64]) -> Vec<f32> {
    values.iter().map(|v| *v as f32).collect()
}

fn waves(n: usize, speed: f64) -> Vec<f32> {
    (0..n).map(|i| (i as f64 * speed + 0.3).sin() as f32).collect()
}

#[test]
fn golden() {
    let golden: Value =
        serde_json::from_str(include_str!("../../../../../testdata/related/statistics.json")).unwrap();
    let golden = &golden["surgery"];
    let of = |key: &str| flat(&golden[key]);
    let surgery = Surgery { width: 3, rank: 2, down: of("W_down"), up: of("W_up") };
    let (merged, expert) = (single(&of("Z")), single(&of("Z_expert")));
    for (found, expected) in surgery.apply(&merged).unwrap().iter().zip(of("z_corrected")) {
        assert!((f64::from(*found) - expected).abs() < 1e-7, "{found} {expected}");
    }
    let l1 = golden["l1_mean"].as_f64().unwrap();
    assert!((surgery.loss(&merged, &expert).unwrap() - l1).abs() < 1e-7);
    let fresh = Surgery::new(3, 2, 0).unwrap();
    let before = golden["l1_mean_before"].as_f64().unwrap();
    assert!((fresh.loss(&merged, &expert).unwrap() - before).abs() < 1e-7);
    assert_eq!(fresh.apply(&merged).unwrap(), merged);
}

#[test]
fn a_correction_that_exists_is_found() {
    let (width, samples) = (6, 200);
    let mut truth = Surgery::new(width, 2, 5).unwrap();
    truth.up = waves(12, 1.7).iter().map(|v| 0.5 * f64::from(*v)).collect();
    let merged = waves(width * samples, 0.77);
    let expert = truth.apply(&merged).unwrap();
    let settings = SurgerySettings { rank: 8, learning_rate: 1e-2, ..SurgerySettings::default() };
    let (learnt, trace) = Surgery::learn(&merged, &expert, width, &settings).unwrap();
    let (before, after) = (Surgery::new(width, 8, 0).unwrap(), learnt.loss(&merged, &expert).unwrap());
    let before = before.loss(&merged, &expert).unwrap();
    assert!(after < 0.1 * before, "{before} {after}");
    assert_eq!(trace.len(), 1000);
    let again = Surgery::learn(&merged, &expert, width, &settings).unwrap();
    assert_eq!(again, (learnt, trace));
}

#[test]
fn saved_and_opened() {
    let dir = tempfile::tempdir().unwrap();
    let mut surgery = Surgery::new(4, 3, 1).unwrap();
    for weight in surgery.down.iter_mut().chain(&mut surgery.up) {
        *weight = f64::from(*weight as f32);
    }
    let (out, options) = (dir.path().join("code"), BTreeMap::from([("task".into(), "code".into())]));
    surgery.save(&out, 40, &options, false).unwrap();
    assert_eq!(Surgery::open(&out).unwrap(), surgery);
    let statistics = Statistics::open(&out.join("statistics.safetensors")).unwrap();
    assert_eq!((statistics.examples, &statistics.options), (40, &options));
    let error = statistics.of_kind(Kind::Gram, &out).unwrap_err().to_string();
    assert!(error.contains("kind `surgery`, expected `gram`"), "{error}");
    assert!(surgery.save(&out, 40, &options, false).is_err());
    assert!(Surgery::open(&dir.path().join("none")).is_err());
}

#[test]
fn features_that_do_not_fit_are_refused() {
    let settings = SurgerySettings::default();
    let refused = |merged: &[f32], expert: &[f32], width: usize, message: &str| {
        let error = Surgery::learn(merged, expert, width, &settings).unwrap_err().to_string();
        assert!(error.contains(message), "{error}");
    };
    refused(&[1.0; 5], &[1.0; 5], 2, "5 numbers of the merged model's features, expected rows of 2");
    refused(&[], &[], 2, "0 numbers");
    refused(&[1.0; 4], &[1.0; 6], 2, "6 numbers of the expert's features, expected 4");
    refused(&[1.0; 4], &[1.0, f32::NAN, 1.0, 1.0], 2, "number 1 of the expert's features");
    refused(&[1.0; 4], &[1.0; 4], 0, "width 0 and rank 16");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 50, failure_persistence: None, ..ProptestConfig::default() })]

    /// Finite differences, away from the kinks by a random start.
    #[test]
    fn the_slope_is_that_of_the_loss(width in 1usize..5, rank in 1usize..4, seed in 0u64..1000) {
        let mut surgery = Surgery::new(width, rank, seed).unwrap();
        surgery.up = Surgery::new(width, rank, seed + 1).unwrap().down;
        let samples = 5;
        let pair = (&waves(width * samples, 1.13)[..], &waves(width * samples, 2.41)[..]);
        let rows: Vec<usize> = (0..samples).collect();
        let (loss, slope) = surgery.slope(pair, &rows);
        prop_assert_eq!(loss, surgery.loss(pair.0, pair.1).unwrap());
        let step = 1e-7;
        for (at, slope) in slope.iter().enumerate() {
            let moved = |by: f64| {
                let mut moved = surgery.clone();
                let weight = moved.down.iter_mut().chain(&mut moved.up).nth(at).unwrap();
                *weight += by;
                moved.slope(pair, &rows).0
            };
            let difference = (moved(step) - moved(-step)) / (2.0 * step);
            prop_assert!((difference - slope).abs() < 1e-5, "{at}: {difference} {slope}");
        }
    }
}
