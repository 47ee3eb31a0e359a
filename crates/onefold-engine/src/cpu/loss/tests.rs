//! Losses against their definitions in f64, their gradients against differences, and goldens from PyTorch.

use std::sync::Arc;

use proptest::prelude::*;

use super::super::probe::{check_gradient, on_pools, wave};
use super::head::{Gradients, Head, Scratch, head_loss};
use super::small::{self, Gradient};
use super::*;
use crate::{Buffer, Half, HalfDtype, Weight, Write};

/// Loss of one row of final logits, and its gradient with respect to them.
fn exact_row(z: &[f64], target: usize, objective: Objective) -> (f64, Vec<f64>) {
    let max = z.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let total = z.iter().map(|z| (z - max).exp()).sum::<f64>().ln() + max;
    let log: Vec<f64> = z.iter().map(|z| z - total).collect();
    match objective {
        Objective::CrossEntropy { smoothing } => {
            let (e, n) = (f64::from(smoothing), z.len() as f64);
            let wanted = |i| if i == target { 1.0 - e + e / n } else { e / n };
            let loss = -log.iter().enumerate().map(|(i, l)| wanted(i) * l).sum::<f64>();
            (loss, log.iter().enumerate().map(|(i, l)| l.exp() - wanted(i)).collect())
        }
        Objective::Entropy | Objective::DiverseEntropy { .. } => {
            let entropy = -log.iter().map(|l| l.exp() * l).sum::<f64>();
            (entropy, log.iter().map(|l| -l.exp() * (l + entropy)).collect())
        }
    }
}

/// A head with everything that it can have.
struct Case {
    rows: usize,
    vocabulary: usize,
    width: usize,
    hidden: Vec<f32>,
    weight: Vec<f32>,
    bias: Option<Vec<f32>>,
    scale: f32,
    cap: Option<f32>,
    objective: Objective,
    targets: Vec<i32>,
    weights: Vec<f32>,
    tasks: Vec<u32>,
}

struct Answer {
    losses: Losses,
    hidden: Vec<f32>,
    weight: Vec<f32>,
    bias: Vec<f32>,
}

impl Case {
    fn new(rows: usize, vocabulary: usize, width: usize, objective: Objective) -> Self {
        let target = |i: usize| if i % 3 == 1 { -100 } else { (i * 7 % vocabulary) as i32 };
        Self {
            rows,
            vocabulary,
            width,
            hidden: wave(rows * width, 0.7),
            weight: wave(vocabulary * width, 1.3).iter().map(|w| w * 0.4).collect(),
            bias: None,
            scale: 1.0,
            cap: None,
            objective,
            targets: (0..rows).map(target).collect(),
            weights: (0..rows).map(|i| 0.1 + 0.05 * (i % 5) as f32).collect(),
            tasks: (0..rows).map(|i| (i / 2 % 3) as u32).collect(),
        }
    }

    fn of(&self) -> Rows<'_> {
        Rows { targets: &self.targets, weights: Some(&self.weights), tasks: Some(&self.tasks) }
    }

    /// Everything at once, gradients set or added to ones.
    fn run(&self, write: Write, weight: Weight<'_>) -> Answer {
        let bias = self.bias.clone().map(Buffer::from);
        let head = Head {
            weight,
            bias: bias.as_ref(),
            vocabulary: self.vocabulary,
            width: self.width,
            scale: self.scale,
            cap: self.cap,
            objective: self.objective,
        };
        let ones = |n: usize| Buffer::from(vec![1.0; n]);
        let (mut dh, mut dw, mut db) =
            (ones(self.hidden.len()), ones(self.weight.len()), ones(self.vocabulary));
        let mut losses = Losses::new(3);
        let to = Gradients {
            hidden: (&mut dh, write),
            weight: Some((&mut dw, write)),
            bias: Some((&mut db, write)),
        };
        let hidden = Buffer::from(self.hidden.clone());
        head_loss(&head, &hidden, &self.of(), Some(to), &mut losses, &mut Scratch::default());
        Answer { losses, hidden: dh.to_vec(), weight: dw.to_vec(), bias: db.to_vec() }
    }

    fn logits(&self, row: usize) -> Vec<f64> {
        let dot = |a: &[f32], b: &[f32]| -> f64 {
            a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
        };
        let h = &self.hidden[row * self.width..][..self.width];
        let word = |v: usize| {
            let z = f64::from(self.scale) * dot(h, &self.weight[v * self.width..][..self.width]);
            let z = z + self.bias.as_ref().map_or(0.0, |b| f64::from(b[v]));
            self.cap.map_or(z, |c| f64::from(c) * (z / f64::from(c)).tanh())
        };
        (0..self.vocabulary).map(word).collect()
    }

    /// Losses of the rows, and the three gradients.
    fn exact(&self) -> (Vec<f64>, Vec<f64>, Vec<f64>, Vec<f64>) {
        let mut losses = vec![0.0; self.rows];
        let (mut dh, mut dw, mut db) =
            (vec![0.0; self.hidden.len()], vec![0.0; self.weight.len()], vec![0.0; self.vocabulary]);
        for row in (0..self.rows).filter(|row| self.targets[*row] >= 0) {
            let z = self.logits(row);
            let (loss, dz) = exact_row(&z, self.targets[row] as usize, self.objective);
            losses[row] = loss;
            for v in 0..self.vocabulary {
                let slope = self.cap.map_or(1.0, |c| 1.0 - (z[v] / f64::from(c)).powi(2));
                let d = f64::from(self.weights[row]) * dz[v] * slope;
                db[v] += d;
                for i in 0..self.width {
                    let scaled = d * f64::from(self.scale);
                    dh[row * self.width + i] += scaled * f64::from(self.weight[v * self.width + i]);
                    dw[v * self.width + i] += scaled * f64::from(self.hidden[row * self.width + i]);
                }
            }
        }
        (losses, dh, dw, db)
    }

    fn check(&self) {
        let (losses, dh, dw, db) = self.exact();
        let weight = Buffer::from(self.weight.clone());
        for write in [Write::Set, Write::Add] {
            let found = self.run(write, (&weight).into());
            let before = if write == Write::Add { 1.0 } else { 0.0 };
            for (found, exact) in [(&found.hidden, &dh), (&found.weight, &dw), (&found.bias, &db)] {
                for (f, e) in found.iter().zip(exact) {
                    assert!((f64::from(*f) - before - e).abs() < 1e-5, "{f} {e}");
                }
            }
            let mut tasks = vec![TaskLoss::default(); 3];
            let mut objective = 0.0;
            for row in (0..self.rows).filter(|row| self.targets[*row] >= 0) {
                let loss = found.losses.rows[row];
                assert!((f64::from(loss.loss) - losses[row]).abs() < 2e-5, "{loss:?} {}", losses[row]);
                let task = &mut tasks[self.tasks[row] as usize];
                task.loss += f64::from(loss.loss);
                task.rows += 1;
                task.correct += u64::from(loss.correct);
                objective += f64::from(self.weights[row]) * f64::from(loss.loss);
            }
            assert_eq!((tasks, objective), (found.losses.tasks, found.losses.objective));
        }
    }
}

#[test]
fn a_head_with_everything() {
    for objective in
        [Objective::CROSS_ENTROPY, Objective::CrossEntropy { smoothing: 0.1 }, Objective::Entropy]
    {
        for cap in [None, Some(3.0)] {
            let mut case = Case::new(9, 37, 11, objective);
            (case.bias, case.scale, case.cap) = (Some(wave(37, 0.9)), 0.5, cap);
            case.check();
        }
    }
}

/// More rows than a chunk holds.
#[test]
fn chunks_do_not_show() {
    let mut case = Case::new(2600, 5, 3, Objective::CROSS_ENTROPY);
    case.weights.fill(1e-3);
    case.check();
}

#[test]
fn ignored_rows_alone_cost_nothing() {
    let mut case = Case::new(7, 5, 3, Objective::CROSS_ENTROPY);
    case.targets.fill(-1);
    case.hidden.fill(f32::NAN);
    let weight = Buffer::from(case.weight.clone());
    let set = case.run(Write::Set, (&weight).into());
    assert!([set.hidden, set.weight, set.bias].concat().iter().all(|g| *g == 0.0));
    assert!(set.losses == Losses { rows: vec![RowLoss::default(); 7], ..Losses::new(3) });
    let add = case.run(Write::Add, (&weight).into());
    assert!([add.hidden, add.weight, add.bias].concat().iter().all(|g| *g == 1.0));
}

#[test]
fn no_row_is_no_loss() {
    let case = Case::new(0, 5, 3, Objective::CROSS_ENTROPY);
    let weight = Buffer::from(case.weight.clone());
    assert!(case.run(Write::Set, (&weight).into()).weight.iter().all(|g| *g == 0.0));
}

/// 16 bits are widened block by block; the width makes several blocks.
#[test]
fn half_weights_are_their_values() {
    for dtype in [HalfDtype::Bf16, HalfDtype::F16] {
        let mut case = Case::new(3, 70, 40_000, Objective::CROSS_ENTROPY);
        case.weight.iter_mut().for_each(|w| *w *= 0.01);
        let bits: Vec<u16> = case
            .weight
            .iter()
            .map(|w| match dtype {
                HalfDtype::Bf16 => half::bf16::from_f32(*w).to_bits(),
                HalfDtype::F16 => half::f16::from_f32(*w).to_bits(),
            })
            .collect();
        let wide = |bits: &u16| match dtype {
            HalfDtype::Bf16 => half::bf16::from_bits(*bits).to_f32(),
            HalfDtype::F16 => half::f16::from_bits(*bits).to_f32(),
        };
        let full = Buffer::from(bits.iter().map(wide).collect::<Vec<f32>>());
        let half = Half { dtype, source: Arc::new(bits) };
        let (a, b) = (case.run(Write::Set, (&full).into()), case.run(Write::Set, Weight::Half(&half)));
        for (a, b) in [(a.hidden, b.hidden), (a.weight, b.weight)] {
            assert!(a.iter().zip(&b).all(|(a, b)| (a - b).abs() < 1e-5));
        }
        assert!((a.losses.objective - b.losses.objective).abs() < 1e-5);
    }
}

#[test]
fn threads_do_not_show() {
    let case = Case::new(1500, 300, 33, Objective::CrossEntropy { smoothing: 0.1 });
    let weight = Buffer::from(case.weight.clone());
    on_pools(|| {
        let a = case.run(Write::Set, (&weight).into());
        let losses = a.losses.rows.iter().map(|r| r.loss).collect();
        [a.hidden, a.weight, a.bias, losses, vec![a.losses.objective as f32]].concat()
    });
}

#[test]
fn a_frozen_head_and_evaluation_agree_with_training() {
    let case = Case::new(8, 21, 5, Objective::CROSS_ENTROPY);
    let (weight, hidden) = (Buffer::from(case.weight.clone()), Buffer::from(case.hidden.clone()));
    let full = case.run(Write::Set, (&weight).into());
    let head = Head {
        weight: (&weight).into(),
        bias: None,
        vocabulary: 21,
        width: 5,
        scale: 1.0,
        cap: None,
        objective: case.objective,
    };
    let (mut dh, mut losses, mut scratch) = (Buffer::zeros(hidden.len()), Losses::new(3), Scratch::default());
    let to = Gradients { hidden: (&mut dh, Write::Set), weight: None, bias: None };
    head_loss(&head, &hidden, &case.of(), Some(to), &mut losses, &mut scratch);
    assert_eq!((dh.to_vec(), &losses), (full.hidden, &full.losses));
    head_loss(&head, &hidden, &case.of(), None, &mut losses, &mut scratch);
    assert_eq!(losses, full.losses);
}

#[test]
fn ties_go_to_the_first() {
    let mut losses = Losses::new(1);
    let rows = Rows { targets: &[0, 1, 1], weights: None, tasks: None };
    let logits = vec![2.0, 2.0, 2.0, 2.0, 1.0, 2.0];
    let objective = Objective::CROSS_ENTROPY;
    small::classification(&mut logits.clone().into(), 2, objective, &rows, Gradient::None, &mut losses);
    assert_eq!(losses.rows.iter().map(|r| r.correct).collect::<Vec<_>>(), [true, false, true]);
    assert_eq!((losses.tasks[0].rows, losses.tasks[0].correct), (3, 2));
    let mut best = Vec::new();
    small::argmax(&logits.into(), 2, &mut best);
    assert_eq!(best, [0, 0, 1]);
}

#[test]
fn huge_logits_stay_finite() {
    let z = vec![1e4, -1e4, 0.0, -1e4, 1e4, 1e4, -3e38, 3.0, 0.0];
    let rows = Rows { targets: &[1, 0, 0], weights: None, tasks: None };
    let mut losses = Losses::new(1);
    for objective in
        [Objective::CrossEntropy { smoothing: 0.1 }, Objective::CROSS_ENTROPY, Objective::Entropy]
    {
        let mut logits = Buffer::from(z.clone());
        small::classification(&mut logits, 3, objective, &rows, Gradient::InPlace, &mut losses);
        assert!(logits.host().iter().all(|g| g.is_finite()) && losses.objective.is_finite(), "{objective:?}");
    }
    assert!(losses.rows[0].loss < 1e-6 && (losses.rows[1].loss - 2f32.ln()).abs() < 1e-6);
    let teacher = Buffer::from(vec![-1e4, 1e4, 0.0, 1e4, 1e4, 1e4, 0.0, 0.0, 0.0]);
    let mut logits = Buffer::from(z[..6].iter().chain(&[0.0; 3]).copied().collect::<Vec<_>>());
    small::distillation(&mut logits, &teacher, 3, 2.0, &rows, Gradient::InPlace, &mut losses);
    assert!(logits.host().iter().all(|g| g.is_finite()) && losses.objective.is_finite());
    let mut logits = Buffer::from(vec![1e4, -1e4, 1e4, -1e4, 0.0, 0.0]);
    let wanted = Buffer::from(vec![1.0, 0.0, 0.0, 1.0, 1.0, 0.5]);
    small::binary(&mut logits, &wanted, 2, &rows, Gradient::InPlace, &mut losses);
    assert!(losses.rows[0].correct && losses.rows[0].loss < 1e-30 && losses.rows[1].loss == 1e4);
}

/// NaN is never hidden by the clamped exponential.
#[test]
fn nan_stays() {
    let rows = Rows { targets: &[0], weights: None, tasks: None };
    let mut losses = Losses::new(1);
    for objective in [Objective::CROSS_ENTROPY, Objective::Entropy] {
        let mut logits = Buffer::from(vec![0.0, f32::NAN, 1.0]);
        small::classification(&mut logits, 3, objective, &rows, Gradient::InPlace, &mut losses);
        assert!(losses.rows[0].loss.is_nan(), "{objective:?}");
    }
}

#[test]
fn label_words_alone_count() {
    let z = wave(2 * 6, 0.9);
    let rows = Rows { targets: &[1, 0], weights: None, tasks: None };
    let (mut losses, mut scratch) = (Losses::new(1), Buffer::default());
    let mut logits = Buffer::from(z.clone());
    let labels = small::Labels { columns: &[4, 1], scratch: &mut scratch };
    small::label_words(&mut logits, 6, labels, Objective::Entropy, &rows, Gradient::InPlace, &mut losses);
    for row in 0..2 {
        let picked = [f64::from(z[row * 6 + 4]), f64::from(z[row * 6 + 1])];
        let (entropy, dz) = exact_row(&picked, 0, Objective::Entropy);
        let found = &logits.host()[row * 6..][..6];
        assert!((f64::from(losses.rows[row].loss) - entropy).abs() < 1e-6);
        assert!((f64::from(found[4]) - dz[0]).abs() < 1e-6 && (f64::from(found[1]) - dz[1]).abs() < 1e-6);
        assert!([0, 2, 3, 5].iter().all(|i| found[*i] == 0.0));
    }
}

#[test]
#[should_panic(expected = "a target of 3 classes")]
fn a_target_beyond_the_classes_is_refused() {
    let rows = Rows { targets: &[3], weights: None, tasks: None };
    let mut z = Buffer::zeros(3);
    small::classification(&mut z, 3, Objective::CROSS_ENTROPY, &rows, Gradient::None, &mut Losses::new(1));
}

#[test]
#[should_panic(expected = "a task without a sum")]
fn a_task_beyond_the_sums_is_refused() {
    let rows = Rows { targets: &[0], weights: None, tasks: Some(&[1]) };
    let mut z = Buffer::zeros(3);
    small::classification(&mut z, 3, Objective::CROSS_ENTROPY, &rows, Gradient::None, &mut Losses::new(1));
}

/// Which of the small losses; all with rows 0, 2, 3, 5, … active.
fn run_small(which: usize, z: &[f32], classes: usize, gradient: Gradient) -> (Losses, Vec<f32>) {
    let count = z.len() / classes;
    let targets: Vec<i32> = (0..count).map(|i| if i % 3 == 1 { -1 } else { (i % classes) as i32 }).collect();
    let weights: Vec<f32> = (0..count).map(|i| 0.5 + 0.25 * (i % 3) as f32).collect();
    let rows = Rows { targets: &targets, weights: Some(&weights), tasks: None };
    let mut losses = Losses::new(1);
    let mut x = Buffer::from(z.to_vec());
    let other = Buffer::from(wave(z.len(), 0.37));
    let wanted = Buffer::from(wave(z.len(), 0.37).iter().map(|w| w.abs() / 2.0).collect::<Vec<_>>());
    let objectives =
        [Objective::CROSS_ENTROPY, Objective::CrossEntropy { smoothing: 0.2 }, Objective::Entropy];
    match which {
        0..3 => small::classification(&mut x, classes, objectives[which], &rows, gradient, &mut losses),
        3 => small::binary(&mut x, &wanted, classes, &rows, gradient, &mut losses),
        4 => small::squared_error(&mut x, &wanted, classes, &rows, gradient, &mut losses),
        _ => small::distillation(&mut x, &other, classes, 1.7, &rows, gradient, &mut losses),
    }
    (losses, x.to_vec())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn heads_of_odd_shapes(rows in 0usize..12, vocabulary in 1usize..80, width in 1usize..40, cap in any::<bool>()) {
        let mut case = Case::new(rows, vocabulary, width, Objective::CrossEntropy { smoothing: 0.05 });
        case.cap = cap.then_some(5.0);
        case.check();
    }

    #[test]
    fn small_losses_have_their_gradients(which in 0usize..6, rows in 1usize..7, classes in 1usize..40) {
        let z = wave(rows * classes, 0.83);
        check_gradient(&z, 1e-2, |z| {
            let (losses, gradient) = run_small(which, z, classes, Gradient::InPlace);
            (losses.objective, gradient)
        });
        let (with, gradient) = run_small(which, &z, classes, Gradient::InPlace);
        prop_assert!(with == run_small(which, &z, classes, Gradient::None).0);
        for row in (0..rows).filter(|row| row % 3 == 1) {
            prop_assert!(gradient[row * classes..][..classes].iter().all(|g| *g == 0.0));
            prop_assert!(with.rows[row] == RowLoss::default());
        }
    }

    #[test]
    fn the_gradient_of_a_head_is_that_of_its_objective(cap in any::<bool>(), which in 0usize..3) {
        let objectives =
            [Objective::CROSS_ENTROPY, Objective::CrossEntropy { smoothing: 0.2 }, Objective::Entropy];
        let mut case = Case::new(7, 23, 9, objectives[which]);
        (case.cap, case.bias) = (cap.then_some(4.0), Some(wave(23, 0.4)));
        let x = [case.hidden.clone(), case.weight.clone()].concat();
        check_gradient(&x, 3e-3, |x| {
            let (hidden, weight) = x.split_at(7 * 9);
            let moved = Case {
                hidden: hidden.to_vec(),
                weight: weight.to_vec(),
                ..Case { targets: case.targets.clone(), ..Case::new(7, 23, 9, objectives[which]) }
            };
            let moved = Case { cap: case.cap, bias: case.bias.clone(), ..moved };
            let weight = Buffer::from(moved.weight.clone());
            let found = moved.run(Write::Set, (&weight).into());
            (found.losses.objective, [found.hidden, found.weight].concat())
        });
    }
}

/// The reward of diverse predictions: its value by the definition, its gradient by differences, and none of it for what is ignored.
#[test]
fn diverse_predictions_are_rewarded() {
    let (classes, count) = (4, 7);
    let z: Vec<f32> = wave(count * classes, 3.0);
    let targets = [0, -1, 0, 0, 0, 0, 0];
    let (weights, tasks) = ([0.2, 9.0, 0.3, 0.1, 0.5, 0.25, 0.25], [0, 0, 0, 1, 1, 0, 1]);
    let rows = Rows { targets: &targets, weights: Some(&weights), tasks: Some(&tasks) };
    let objective = Objective::DiverseEntropy { strength: 0.7 };
    let run = |z: &[f32], gradient: Gradient| {
        let (mut logits, mut losses) = (Buffer::from(z.to_vec()), Losses::new(2));
        small::classification(&mut logits, classes, objective, &rows, gradient, &mut losses);
        (losses, logits.to_vec())
    };
    let (losses, gradient) = run(&z, Gradient::InPlace);
    let mut expected = 0.0;
    for task in 0..2 {
        let (mut mean, mut total) = (vec![0.0; classes], 0.0);
        for row in (0..count).filter(|row| targets[*row] >= 0 && tasks[*row] == task) {
            let here: Vec<f64> = z[row * classes..][..classes].iter().map(|z| f64::from(*z)).collect();
            let sum: f64 = here.iter().map(|z| z.exp()).sum();
            let weight = f64::from(weights[row]);
            mean.iter_mut().zip(&here).for_each(|(mean, z)| *mean += weight * z.exp() / sum);
            expected += weight * exact_row(&here, 0, Objective::Entropy).0;
            total += weight;
        }
        expected += 0.7 * mean.iter().map(|m| m * (m / total).ln()).sum::<f64>();
    }
    assert!((losses.objective - expected).abs() < 1e-6, "{} {expected}", losses.objective);
    for i in 0..z.len() {
        let at = |by: f32| {
            let mut moved = z.clone();
            moved[i] += by;
            run(&moved, Gradient::None).0.objective
        };
        let slope = (at(1e-2) - at(-1e-2)) / 2e-2;
        assert!((slope - f64::from(gradient[i])).abs() < 2e-4, "{i}: {slope} {}", gradient[i]);
    }
    let (plain, _) = {
        let (mut logits, mut losses) = (Buffer::from(z.clone()), Losses::new(2));
        small::classification(&mut logits, classes, Objective::Entropy, &rows, Gradient::None, &mut losses);
        (losses, ())
    };
    assert_eq!(plain.rows, losses.rows);
}
