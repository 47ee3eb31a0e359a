//! What a trainer may not give, and what it is told.

use onefold_balance::{BalanceError, Batch, Matrix, Measured, Outcome, Quantity, Rows, Skipped};
use serde_json::json;

use crate::trainer::{balancer, tasks};

fn batch<'a>(rows: Rows<'a>, measured: Measured<'a>) -> Batch<'a> {
    Batch { step: 4, epoch: 0, rows, measured }
}

fn message(kind: &str, rows: Rows<'_>, measured: Measured<'_>) -> String {
    balancer(&json!({"kind": kind}), &tasks(2)).weights(&batch(rows, measured)).unwrap_err().to_string()
}

#[test]
fn what_is_asked_for_must_be_given() {
    let rows = Rows::Present(&[true, true]);
    assert_eq!(
        message("famo", rows, Measured::Nothing),
        "famo, step 4: the training losses of the batch was asked for and not given; give what `needs` says"
    );
    assert!(message("mgda", rows, Measured::Nothing).contains("the Gramian of the gradients was asked for"));
    assert!(message("mgda", rows, Measured::Excess(&[1.0, 1.0])).contains("was asked for and not given"));
    assert!(
        message("excess_mtl", rows, Measured::Nothing).contains("the list of excess risks was asked for")
    );
    assert!(message("meta_weighting", rows, Measured::Nothing).contains("after a trial step was asked for"));
    let mut famo = balancer(&json!({"kind": "famo"}), &tasks(2));
    let losses = [Some(1.0), Some(1.0)];
    let outcome = Outcome { step: 4, losses: Some(&losses), ..Outcome::default() };
    let error = famo.observe(&outcome).unwrap_err().to_string();
    assert!(error.starts_with("famo, step 4: the list of training losses after the step"), "{error}");
    let outcome = Outcome { step: 4, ..Outcome::default() };
    let mut gradnorm = balancer(&json!({"kind": "gradnorm"}), &tasks(2));
    assert!(matches!(gradnorm.observe(&outcome), Err(BalanceError::Missing { .. })));
}

#[test]
fn a_reference_must_be_given_and_be_finite() {
    let settings = json!({"kind": "coba"});
    let mut coba = onefold_balance::Balancer::new(settings.as_object().unwrap(), &tasks(2), 0).unwrap();
    assert!(coba.needs(0).reference);
    let rows = Rows::Present(&[true, true]);
    let error = coba.weights(&batch(rows, Measured::Nothing)).unwrap_err().to_string();
    assert!(error.contains("the validation losses before training (`begin`)"), "{error}");
    let error = coba.begin(&[1.0, f64::NAN]).unwrap_err().to_string();
    assert!(
        error.starts_with("task `b`: the loss over its validation rows before training is NaN;"),
        "{error}"
    );
    assert!(matches!(coba.begin(&[1.0]), Err(BalanceError::Size { expected: 2, found: 1, .. })));
    coba.begin(&[1.0, 0.0]).unwrap();
    assert!(!coba.needs(0).reference);
}

#[test]
fn sizes_are_those_of_the_tasks() {
    let one = Matrix::of(1, |_, _| 1.0);
    let rows = Rows::Present(&[true, true]);
    assert_eq!(
        message("uniform", Rows::Present(&[true]), Measured::Nothing),
        "uniform, step 4: the list of tasks present has 1 entries for 2 tasks; give one for each task, in the recipe's \
         order"
    );
    assert!(
        message("gls", Rows::Losses(&[Some(1.0); 3]), Measured::Nothing)
            .contains("has 3 entries for 2 tasks")
    );
    assert!(
        message("mgda", rows, Measured::Gramian(&one)).contains("the Gramian of the gradients has 1 entries")
    );
    assert!(message("excess_mtl", rows, Measured::Excess(&[])).contains("has 0 entries"));
    let lookahead = Measured::Lookahead { products: &one, lr: 0.1 };
    assert!(message("meta_weighting", rows, lookahead).contains("has 1 entries"));
    let mut uniform = balancer(&json!({"kind": "uncertainty"}), &tasks(2));
    let outcome = Outcome { losses: Some(&[None]), ..Outcome::default() };
    assert!(matches!(uniform.observe(&outcome), Err(BalanceError::Size { .. })));
}

#[test]
fn products_of_finite_gradients_are_finite() {
    let gramian = Matrix::new(2, vec![1.0, f64::INFINITY, f64::INFINITY, 1.0]).unwrap();
    let error = message("nash_mtl", Rows::Present(&[true, true]), Measured::Gramian(&gramian));
    assert!(error.contains("inner products of inf between tasks `a` and `b`"), "{error}");
}

#[test]
fn what_is_left_out_is_named() {
    let gramian = Matrix::new(2, vec![f64::NAN, f64::NAN, f64::NAN, 4.0]).unwrap();
    let mut mgda = balancer(&json!({"kind": "mgda"}), &tasks(2));
    let weights = mgda.weights(&batch(Rows::Present(&[true, true]), Measured::Gramian(&gramian))).unwrap();
    assert_eq!(weights.values, [0.0, 1.0]);
    assert!(matches!(weights.skipped[..], [Skipped { task: 0, quantity: Quantity::Gradient, .. }]));

    let mut gls = balancer(&json!({"kind": "gls"}), &tasks(2));
    let weights = gls.weights(&batch(Rows::Losses(&[Some(0.0), Some(f64::NAN)]), Measured::Nothing)).unwrap();
    assert_eq!((weights.values, weights.skipped.len()), (vec![0.0, 0.0], 2));

    let mut famo = balancer(&json!({"kind": "famo*"}), &tasks(2));
    let losses = [Some(1.0), None];
    let validation = [Some(f64::INFINITY), Some(1.0)];
    let outcome = Outcome { losses: Some(&losses), validation: Some(&validation), ..Outcome::default() };
    let skipped = famo.observe(&outcome).unwrap();
    assert_eq!(skipped, [Skipped { task: 0, quantity: Quantity::ValidationLoss, value: f64::INFINITY }]);
}
