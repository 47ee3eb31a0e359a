//! What the methods promise, each by itself.

use onefold_balance::methods::{Cost, cagrad};
use onefold_balance::{BALANCERS, Balancer, Batch, Matrix, Measured, Outcome, Rows};
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::contract::cosine;
use crate::trainer::{Buffers, Step, balancer, ordinary, play, tasks};

fn by_gramian() -> impl Iterator<Item = &'static str> {
    BALANCERS.iter().filter(|m| m.cost == Cost::Backward && m.name != "graddrop").map(|m| m.name)
}

fn weights(settings: &Value, gramian: &Matrix) -> Vec<f64> {
    let k = gramian.size();
    let mut balancer = balancer(settings, &tasks(k));
    let present = vec![true; k];
    let batch =
        Batch { step: 0, epoch: 0, rows: Rows::Present(&present), measured: Measured::Gramian(gramian) };
    balancer.weights(&batch).unwrap().values
}

/// g and −g: no direction helps both, and none of the methods that see it takes one that is long.
#[test]
fn opposite_gradients_cancel() {
    for length in [1.0, 1e-6, 1e6] {
        let gramian = Matrix::gramian(&[vec![length, 0.0], vec![-length, 0.0]]);
        for name in by_gramian() {
            let w = weights(&json!({"kind": name}), &gramian);
            let moved = gramian.length(&w) / length;
            assert!(w.iter().all(|w| w.is_finite()) && moved < 1e-7, "{name}: {w:?} {moved}");
        }
    }
}

/// Of opposite gradients of different lengths MGDA, PCGrad and UPGrad still find nothing to do.
#[test]
fn opposite_gradients_of_different_lengths() {
    let gramian = Matrix::gramian(&[vec![1.0, 1.0], vec![-3.0, -3.0]]);
    for name in ["mgda", "pcgrad", "gradvac", "upgrad", "nash_mtl", "imtl_g"] {
        let w = weights(&json!({"kind": name}), &gramian);
        assert!(gramian.length(&w) < 1e-6, "{name}: {w:?}");
    }
}

/// A gradient twice, and a third: copies are not a reason for numbers that are none.
#[test]
fn copies_of_a_gradient() {
    let gramian = Matrix::gramian(&[vec![1.0, 0.5], vec![1.0, 0.5], vec![-0.5, 1.0]]);
    for name in by_gramian() {
        let w = weights(&json!({"kind": name}), &gramian);
        assert!(
            w.iter().all(|w| w.is_finite()) && gramian.times(&w).iter().all(|v| *v > 0.0),
            "{name}: {w:?}"
        );
    }
}

/// More tasks than dimensions.
#[test]
fn many_tasks() {
    let vectors: Vec<Vec<f64>> = (0..40u32)
        .map(|i| (0..5u32).map(|j| f64::from((i * 7919 + j * 104_729) % 1000) / 500.0 - 0.7).collect())
        .collect();
    let gramian = Matrix::gramian(&vectors);
    for name in by_gramian() {
        let w = weights(&json!({"kind": name}), &gramian);
        assert!(w.iter().all(|w| w.is_finite()), "{name}: {w:?}");
    }
}

fn scaled_task(step: &Step, factor: f64) -> Step {
    let mut step = step.clone();
    let scale = |loss: &mut Option<f64>| *loss = loss.map(|l| l * factor);
    [&mut step.losses, &mut step.again, &mut step.validation].into_iter().for_each(|all| scale(&mut all[0]));
    [&mut step.gradients, &mut step.queries]
        .into_iter()
        .for_each(|all| all[0].iter_mut().for_each(|g| *g *= factor));
    step
}

/// The updates of a run, with the loss of the first task multiplied.
fn updates(settings: &Value, run: &[Step], factor: f64) -> Vec<Vec<f64>> {
    let map = settings.as_object().unwrap();
    let mut balancer = Balancer::new(map, &tasks(3), 7).unwrap();
    if balancer.needs(0).reference {
        balancer.begin(&[2.0 * factor, 3.0, 4.0]).unwrap();
    }
    let mut buffers = Buffers::new(3, run[0].gradients[0].len());
    let update = |(number, step)| {
        play(&mut balancer, &mut buffers, number as u64, &scaled_task(step, factor)).direction
    };
    run.iter().enumerate().map(update).collect()
}

/// Whether there is something to weigh in every step: the gradient of one task alone is the update as it is.
fn is_weighed(run: &[Step]) -> bool {
    let tells = |gradient: &&Vec<f64>| gradient.iter().any(|g| *g != 0.0);
    run.iter().all(|step| step.gradients.iter().filter(tells).count() > 1)
}

fn near(a: &[f64], b: &[f64], tolerance: f64) -> bool {
    let size = a.iter().fold(0.0f64, |m, v| m.max(v.abs()));
    a.iter().zip(b).all(|(a, b)| (a - b).abs() <= tolerance * size)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// A unit in which one task's loss is counted changes nothing (f32 averages and guards aside).
    #[test]
    fn some_updates_do_not_depend_on_the_unit_of_a_loss(
        run in prop::collection::vec(ordinary(3), 5),
        factor in prop::sample::select(vec![1e-2, 0.5, 8.0, 1e2]),
    ) {
        prop_assume!(is_weighed(&run));
        for (kind, tolerance) in [("scale_invariant", 1e-9), ("db_mtl", 1e-5), ("nash_mtl", 1e-6), ("stch", 1e-9)] {
            let settings = json!({"kind": kind, "scale": "paper"});
            let (a, b) = (updates(&settings, &run, 1.0), updates(&settings, &run, factor));
            for (a, b) in a.iter().zip(&b) {
                prop_assert!(near(a, b, tolerance), "{}: {:?} {:?}", kind, a, b);
            }
        }
    }

    /// For these it changes the length alone.
    #[test]
    fn some_directions_do_not_depend_on_the_unit_of_a_loss(
        run in prop::collection::vec(ordinary(3), 4),
        factor in prop::sample::select(vec![1e-2, 0.5, 8.0, 1e2]),
    ) {
        for kind in ["imtl_g", "famo", "gls", "scale_invariant", "nash_mtl"] {
            let settings = json!({"kind": kind});
            let (a, b) = (updates(&settings, &run, 1.0), updates(&settings, &run, factor));
            for (a, b) in a.iter().zip(&b) {
                // IMTL-G's published sum may be negative in one unit and positive in another; it always descends here.
                prop_assert!(cosine(a, b) > 1.0 - 1e-6, "{}: {}", kind, cosine(a, b));
            }
        }
    }

    /// CoBa looks at ratios: the unit of a validation loss changes no weight.
    #[test]
    fn coba_does_not_depend_on_the_unit_of_a_loss(run in prop::collection::vec(ordinary(3), 8), factor in 0.01f64..100.0) {
        let settings = json!({"kind": "coba", "window": 4, "warmup": 2});
        let weights = |factor: f64| {
            let mut balancer = Balancer::new(settings.as_object().unwrap(), &tasks(3), 7).unwrap();
            balancer.begin(&[2.0 * factor, 3.0, 4.0]).unwrap();
            let mut buffers = Buffers::new(3, 8);
            let weigh = |(number, step)| {
                play(&mut balancer, &mut buffers, number as u64, &scaled_task(step, factor)).weights.values
            };
            run.iter().enumerate().map(weigh).collect::<Vec<_>>()
        };
        for (a, b) in weights(1.0).iter().zip(weights(factor)) {
            prop_assert!(near(a, &b, 1e-8), "{:?} {:?}", a, b);
        }
    }

    /// The steps of MGDA and UPGrad hurt no task; Nash-MTL's and IMTL-G's help each (by equal projections).
    #[test]
    fn no_task_is_hurt(step in ordinary(4)) {
        let gramian = Matrix::gramian(&step.gradients);
        for kind in ["mgda", "upgrad", "nash_mtl", "imtl_g"] {
            let w = weights(&json!({"kind": kind}), &gramian);
            let size = gramian.length(&w);
            for (inner, square) in gramian.times(&w).iter().zip(gramian.diagonal()) {
                prop_assert!(inner / square.sqrt() / size > -1e-9, "{} {:?}", kind, w);
            }
        }
    }

    /// UPGrad's projections meet the conditions of their program: v ≥ e, Av ≥ 0, and one of the two is tight in each entry.
    #[test]
    fn upgrad_projects(step in ordinary(5)) {
        let gramian = Matrix::gramian(&step.gradients);
        for (i, v) in onefold_balance::methods::upgrad::projections(&gramian).iter().enumerate() {
            for (j, inner) in gramian.times(v).iter().enumerate() {
                let least = f64::from(u8::from(i == j));
                prop_assert!(v[j] >= least && *inner > -1e-9 && (v[j] == least || inner.abs() < 1e-9));
            }
        }
    }

    /// CAGrad's w is optimal: the objective's slope is least on its support.
    #[test]
    fn cagrad_is_optimal(step in ordinary(4), c in 0.05f64..2.0) {
        let gramian = Matrix::gramian(&step.gradients);
        let (w, _) = cagrad::solve(&gramian, c);
        let each = [0.25; 4];
        let radius = c * gramian.length(&each);
        let (mean, own) = (gramian.times(&each), gramian.times(&w));
        let length = gramian.length(&w).max(1e-4);
        let slope: Vec<f64> = (0..4).map(|i| mean[i] + radius * own[i] / length).collect();
        let least = slope.iter().copied().fold(f64::INFINITY, f64::min);
        let at: f64 = slope.iter().zip(&w).map(|(s, w)| s * w).sum();
        prop_assert!(at - least < 1e-6 * mean.iter().map(|m| m.abs()).fold(1.0, f64::max), "{:?} {:?}", slope, w);
    }
}

/// And for these it changes everything.
#[test]
fn other_directions_depend_on_the_unit_of_a_loss() {
    let step = Step {
        gradients: vec![vec![1.0, 0.5, -0.2, 0.1], vec![-0.6, 2.0, 0.4, 0.0], vec![0.1, -0.3, 0.2, 0.5]],
        ..Step::same(3, 1.0, &[0.0; 4])
    };
    for kind in ["uniform", "dwa", "pcgrad", "mgda", "cagrad"] {
        let settings = json!({"kind": kind});
        let run = std::slice::from_ref(&step);
        let (a, b) = (updates(&settings, run, 1.0), updates(&settings, run, 0.1));
        assert!(cosine(&a[0], &b[0]) < 1.0 - 1e-3, "{kind}");
    }
}

/// MGDA of two tasks is a formula: γ = clamp(⟨g₂ − g₁, g₂⟩/‖g₁ − g₂‖², 0, 1).
#[test]
fn mgda_of_two() {
    for second in [[2.0, 1.0], [0.5, 0.1], [-1.0, 0.3]] {
        let gramian = Matrix::gramian(&[vec![1.0, 0.0], second.to_vec()]);
        let (a, b, c) = (gramian.at(0, 0), gramian.at(0, 1), gramian.at(1, 1));
        let gamma = ((c - b) / (a + c - 2.0 * b)).clamp(0.0, 1.0);
        let w = weights(&json!({"kind": "mgda"}), &gramian);
        assert!((w[0] - gamma).abs() < 1e-14, "{w:?} {gamma}");
    }
}

/// The published sum of coefficients is negative here: dividing by it would climb.
#[test]
fn imtl_g_always_descends() {
    let gramian = Matrix::gramian(&[vec![1.0, 0.0, 0.0], vec![0.007, 0.007, 0.0014], vec![0.0, 1.0, 0.0]]);
    let w = weights(&json!({"kind": "imtl_g"}), &gramian);
    assert!(w[1] < 0.0 && w.iter().sum::<f64>() < 0.0, "{w:?}");
    let inner = gramian.times(&w);
    let projections: Vec<f64> = (0..3).map(|i| inner[i] / gramian.at(i, i).sqrt()).collect();
    assert!(projections.iter().all(|p| *p > 0.0 && (p - projections[0]).abs() < 1e-12), "{projections:?}");
}

/// `scale: gradient` is the length of the mean gradient, whatever the method.
#[test]
fn the_length_can_be_that_of_the_mean() {
    let gramian = Matrix::gramian(&[vec![1.0, 0.5, 0.0], vec![-0.5, 2.0, 0.3], vec![0.1, -0.3, 0.4]]);
    let mean = gramian.length(&[1.0 / 3.0; 3]);
    for name in by_gramian() {
        let w = weights(&json!({"kind": name, "scale": "gradient"}), &gramian);
        assert!((gramian.length(&w) - mean).abs() < 1e-12, "{name}: {w:?}");
    }
}

/// Between updates the coefficients are those of the last, also for tasks that it did not have.
#[test]
fn coefficients_are_kept_between_updates() {
    let mut nash = balancer(&json!({"kind": "nash_mtl", "update_every": 3}), &tasks(3));
    let gramian = Matrix::gramian(&[vec![1.0, 0.5, 0.0], vec![-0.5, 2.0, 0.3], vec![0.1, -0.3, 0.4]]);
    let mut weigh = |step, present: &[bool], measured| {
        nash.weights(&Batch { step, epoch: 0, rows: Rows::Present(present), measured }).unwrap().values
    };
    let first = weigh(0, &[true, true, false], Measured::Gramian(&gramian));
    assert_eq!(first[2], 0.0);
    assert_eq!(weigh(1, &[true, true, false], Measured::Nothing), first);
    let third = weigh(2, &[true, true, true], Measured::Nothing);
    assert_eq!(third[2], (first[0] + first[1]) / 2.0);
}

/// The slower task gets more from CoBa, DWA and LBTW*; the one that overfits loses its weight with CoBa.
#[test]
fn coba_turns_from_tasks_that_diverge() {
    let mut coba = balancer(&json!({"kind": "coba", "window": 5, "warmup": 3}), &tasks(2));
    let mut last = Vec::new();
    for step in 0..30u64 {
        let slow = 3.0 - 0.02 * step as f64;
        let overfits = if step < 10 { 4.0 - 0.2 * step as f64 } else { 2.0 + 0.2 * (step - 10) as f64 };
        let validation = [Some(slow), Some(overfits)];
        coba.observe(&Outcome { step, validation: Some(&validation), ..Outcome::default() }).unwrap();
        let rows = Rows::Present(&[true, true]);
        let batch = Batch { step: step + 1, epoch: 0, rows, measured: Measured::Nothing };
        last = coba.weights(&batch).unwrap().values;
        assert!(!(4..=8).contains(&step) || last[0] > 0.5, "the slower task: {step} {last:?}");
    }
    assert!(last[1] < 0.2, "the task that overfits: {last:?}");
}

/// RLW's weights are uniform in the mean.
#[test]
fn rlw_is_fair() {
    let mut rlw = balancer(&json!({"kind": "rlw"}), &tasks(3));
    let n = 4000;
    let mut sum = [0.0; 3];
    for step in 0..n {
        let rows = Rows::Present(&[true; 3]);
        let w = rlw.weights(&Batch { step, epoch: 0, rows, measured: Measured::Nothing }).unwrap().values;
        sum.iter_mut().zip(&w).for_each(|(sum, w)| *sum += w);
    }
    assert!(sum.iter().all(|sum| (sum / n as f64 - 1.0 / 3.0).abs() < 0.02), "{sum:?}");
}
