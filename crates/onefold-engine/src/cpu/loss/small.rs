//! Losses of logits that are small enough to be whole: classification heads, label words, regression, distillation.
//!
//! All take `[rows, classes]` and put the gradient in the place of the logits if they are told to; rows that are ignored get
//! zeros.

use rayon::prelude::*;

use super::super::{elementwise, math, parallel};
use super::{Losses, Objective, RowLoss, Rows, softmax};
use crate::Buffer;

/// Whether the logits become the gradient of Σ weight · loss.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gradient {
    /// They do.
    InPlace,
    /// Only the losses are wanted; the logits are scratch afterwards.
    None,
}

/// Cross-entropy or entropy of softmax(logits).
///
/// # Panics
/// If shapes, targets or tasks do not fit.
pub fn classification(
    logits: &mut Buffer,
    classes: usize,
    objective: Objective,
    rows: &Rows<'_>,
    gradient: Gradient,
    losses: &mut Losses,
) {
    let what = |z: &mut [f32], row: usize, weight: Option<f32>| {
        softmax::row(z, rows.targets[row] as usize, objective, softmax::Shape::default(), weight)
    };
    let Objective::DiverseEntropy { strength } = objective else {
        return each_row(logits, classes, classes, rows, gradient, losses, what);
    };
    let told: Vec<f32> = logits.host().chunks_exact(classes).flat_map(probabilities).collect();
    each_row(logits, classes, classes, rows, gradient, losses, what);
    reward(logits, classes, &told, strength, rows, gradient, losses);
}

/// softmax(z).
fn probabilities(z: &[f32]) -> Vec<f32> {
    let most = math::max(z);
    let powers: Vec<f64> = z.iter().map(|z| f64::from(z - most).exp()).collect();
    let sum: f64 = powers.iter().sum();
    powers.into_iter().map(|power| (power / sum) as f32).collect()
}

/// The reward of [`Objective::DiverseEntropy`]: with the mean prediction p̄ of a task, each of its rows adds
/// `strength · w · p_j · (ln p̄_j − Σ_c p_c ln p̄_c)` to its gradient.
fn reward(
    gradients: &mut Buffer,
    classes: usize,
    told: &[f32],
    strength: f32,
    rows: &Rows<'_>,
    gradient: Gradient,
    losses: &mut Losses,
) {
    let counts = |row: &usize| rows.targets[*row] >= 0;
    for task in 0..losses.tasks.len() {
        let of_task = || (0..rows.targets.len()).filter(counts).filter(|row| rows.task(*row) == task);
        let total: f64 = of_task().map(|row| f64::from(rows.weight(row))).sum();
        if total <= 0.0 {
            continue;
        }
        let mut mean = vec![0.0f64; classes];
        for row in of_task() {
            let weight = f64::from(rows.weight(row)) / total;
            let told = &told[row * classes..][..classes];
            mean.iter_mut().zip(told).for_each(|(mean, p)| *mean += weight * f64::from(*p));
        }
        let logs: Vec<f64> = mean.iter().map(|p| p.max(f64::MIN_POSITIVE).ln()).collect();
        let entropy = -mean.iter().zip(&logs).map(|(p, log)| p * log).sum::<f64>();
        losses.objective -= f64::from(strength) * total * entropy;
        if gradient == Gradient::None {
            continue;
        }
        for row in of_task() {
            let (from, scale) = (row * classes, f64::from(strength * rows.weight(row)));
            let told = &told[from..from + classes];
            let middle: f64 = told.iter().zip(&logs).map(|(p, log)| f64::from(*p) * log).sum();
            let here = &mut gradients.host_mut()[from..from + classes];
            for ((g, p), log) in here.iter_mut().zip(told).zip(&logs) {
                *g += (scale * f64::from(*p) * (log - middle)) as f32;
            }
        }
    }
}

/// The columns of label words, and memory for their logits.
#[derive(Debug)]
pub struct Labels<'a> {
    /// Number of the column of each label, no number twice.
    pub columns: &'a [u32],
    /// Reused from call to call.
    pub scratch: &'a mut Buffer,
}

/// [`classification`] over the label words alone: softmax over their columns; targets count within them. The
/// gradient of all other columns is 0.
///
/// # Panics
/// As [`classification`]; and if a label is no column.
pub fn label_words(
    logits: &mut Buffer,
    classes: usize,
    labels: Labels<'_>,
    objective: Objective,
    rows: &Rows<'_>,
    gradient: Gradient,
    losses: &mut Losses,
) {
    let Labels { columns, scratch } = labels;
    elementwise::gather_columns(scratch, logits, classes, columns);
    classification(scratch, columns.len(), objective, rows, gradient, losses);
    if gradient == Gradient::InPlace {
        elementwise::scatter_columns(logits, scratch, classes, columns);
    }
}

/// Mean over the classes of the binary cross-entropy of σ(logits) (problem type `multi_label_classification`). `wanted`
/// holds a probability per class, usually 0 or 1; of `rows.targets` only the sign counts. A row is correct if all classes
/// fall on their side of ½.
///
/// # Panics
/// If shapes or tasks do not fit.
pub fn binary(
    logits: &mut Buffer,
    wanted: &Buffer,
    classes: usize,
    rows: &Rows<'_>,
    gradient: Gradient,
    losses: &mut Losses,
) {
    assert_eq!(logits.len(), wanted.len(), "wanted probabilities");
    let wanted = wanted.host();
    let what = |z: &mut [f32], row: usize, weight: Option<f32>| {
        let (mut loss, mut correct) = (0.0f64, true);
        for (z, y) in z.iter_mut().zip(&wanted[row * classes..]) {
            // −y ln σ(z) − (1 − y) ln(1 − σ(z)), without overflow.
            loss += f64::from(z.max(0.0) - *z * y) + f64::from(math::exp(-z.abs())).ln_1p();
            correct &= (*z > 0.0) == (*y > 0.5);
            if let Some(weight) = weight {
                *z = weight * (math::sigmoid(*z) - y) / classes as f32;
            }
        }
        RowLoss { loss: (loss / classes as f64) as f32, correct }
    };
    each_row(logits, classes, usize::MAX, rows, gradient, losses, what);
}

/// Mean over the outputs of (output − wanted)²; of `rows.targets` only the sign counts. No row is correct.
///
/// # Panics
/// If shapes or tasks do not fit.
pub fn squared_error(
    outputs: &mut Buffer,
    wanted: &Buffer,
    width: usize,
    rows: &Rows<'_>,
    gradient: Gradient,
    losses: &mut Losses,
) {
    assert_eq!(outputs.len(), wanted.len(), "wanted outputs");
    let wanted = wanted.host();
    let what = |x: &mut [f32], row: usize, weight: Option<f32>| {
        let mut loss = 0.0f64;
        for (x, y) in x.iter_mut().zip(&wanted[row * width..]) {
            let error = *x - y;
            loss += f64::from(error) * f64::from(error);
            if let Some(weight) = weight {
                *x = 2.0 * weight * error / width as f32;
            }
        }
        RowLoss { loss: (loss / width as f64) as f32, correct: false }
    };
    each_row(outputs, width, usize::MAX, rows, gradient, losses, what);
}

/// T²·KL(softmax(teacher/T) ‖ softmax(student/T)), the factor keeping gradients of the same size for any temperature T
/// (Hinton, Vinyals, Dean 2015). A row is correct if the student's largest logit is at the target.
///
/// # Panics
/// If shapes, targets or tasks do not fit, or T is not positive.
pub fn distillation(
    student: &mut Buffer,
    teacher: &Buffer,
    classes: usize,
    temperature: f32,
    rows: &Rows<'_>,
    gradient: Gradient,
    losses: &mut Losses,
) {
    assert_eq!(student.len(), teacher.len(), "logits of teacher and student");
    assert!(temperature > 0.0, "a temperature of {temperature}");
    let teacher = teacher.host();
    let what = |z: &mut [f32], row: usize, weight: Option<f32>| {
        let correct = first_largest(z) == rows.targets[row] as usize;
        let teacher = &teacher[row * classes..][..classes];
        RowLoss { loss: softmax::divergence(z, teacher, temperature, weight), correct }
    };
    each_row(student, classes, classes, rows, gradient, losses, what);
}

/// The number of the largest logit of each row, the first of several.
///
/// # Panics
/// If there are no whole rows.
pub fn argmax(logits: &Buffer, classes: usize, out: &mut Vec<u32>) {
    assert!(classes > 0 && logits.len().is_multiple_of(classes), "rows of {classes} logits");
    out.clear();
    out.extend(logits.host().chunks_exact(classes).map(|z| first_largest(z) as u32));
}

fn first_largest(z: &[f32]) -> usize {
    let best = |best: (usize, f32), (i, v): (usize, &f32)| if *v > best.1 { (i, *v) } else { best };
    z.iter().enumerate().fold((0, f32::NEG_INFINITY), best).0
}

/// Calls `what(row of x, its number, weight)` for the rows that count, in parallel; the others become 0.
fn each_row(
    x: &mut Buffer,
    width: usize,
    classes: usize,
    rows: &Rows<'_>,
    gradient: Gradient,
    losses: &mut Losses,
    what: impl Fn(&mut [f32], usize, Option<f32>) -> RowLoss + Sync,
) {
    let count = rows.targets.len();
    assert!(width > 0 && x.len() == count * width, "{} values are not {count} rows of {width}", x.len());
    rows.check(count, classes, losses);
    losses.reset(count);
    let step = parallel::rows_per_task(width);
    let parts = x.host_mut().par_chunks_mut(step * width).zip(losses.rows.par_chunks_mut(step));
    parts.enumerate().for_each(|(part, (x, losses))| {
        for (i, (x, loss)) in x.chunks_exact_mut(width).zip(losses).enumerate() {
            let row = part * step + i;
            if rows.targets[row] < 0 {
                x.fill(0.0);
            } else {
                *loss = what(x, row, (gradient == Gradient::InPlace).then(|| rows.weight(row)));
            }
        }
    });
    losses.add_up(rows);
}
