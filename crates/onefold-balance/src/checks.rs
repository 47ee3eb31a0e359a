//! What a trainer gives, held to the contract: sizes, presence, and values that can be reckoned with.

use crate::contract::{Batch, Gradients, Losses, Measured, Needs, Outcome, Quantity, Rows};
use crate::error::{BalanceError, Skipped};
use crate::numeric::Matrix;
use crate::rule::{Seen, View};

/// Losses whose reciprocals, ratios and squares are numbers that can be reckoned with.
pub(crate) const POSITIVE: std::ops::RangeInclusive<f64> = 1e-100..=1e100;
/// Squared lengths of gradients whose ratios are.
const SQUARES: std::ops::RangeInclusive<f64> = 1e-140..=1e140;

/// Whom messages name.
#[derive(Debug)]
pub(crate) struct Checks {
    /// The balancer.
    pub(crate) balancer: &'static str,
    /// The tasks.
    pub(crate) names: Vec<String>,
}

impl Checks {
    pub(crate) fn sized(&self, step: u64, what: &'static str, found: usize) -> Result<(), BalanceError> {
        let expected = self.names.len();
        if found == expected {
            return Ok(());
        }
        Err(BalanceError::Size { balancer: self.balancer, step, what, expected, found })
    }

    pub(crate) fn missing(&self, step: u64, what: &'static str) -> BalanceError {
        BalanceError::Missing { balancer: self.balancer, step, what }
    }

    /// Tasks that are present, with a loss that can be used where one is known.
    pub(crate) fn usable_by_loss(
        &self,
        batch: &Batch<'_>,
        needs: &Needs,
        skipped: &mut Vec<Skipped>,
    ) -> Result<Vec<usize>, BalanceError> {
        let losses = match batch.rows {
            Rows::Present(_) if needs.losses == Losses::Before => {
                return Err(self.missing(batch.step, "the training losses of the batch"));
            }
            Rows::Present(present) => {
                self.sized(batch.step, "the list of tasks present", present.len())?;
                return Ok((0..present.len()).filter(|task| present[*task]).collect());
            }
            Rows::Losses(losses) => losses,
        };
        self.sized(batch.step, LOSSES, losses.len())?;
        let mut usable = |(task, loss): (usize, &Option<f64>)| {
            let value = (*loss)?;
            if value.is_finite() && (!needs.positive || POSITIVE.contains(&value)) {
                return Some(task);
            }
            skipped.push(Skipped { task, quantity: Quantity::TrainingLoss, value });
            None
        };
        Ok(losses.iter().enumerate().filter_map(&mut usable).collect())
    }

    /// Checks what was measured of the gradients, and leaves out tasks without a usable one.
    pub(crate) fn measured(
        &self,
        batch: &Batch<'_>,
        needs: &Needs,
        tasks: &mut Vec<usize>,
        skipped: &mut Vec<Skipped>,
    ) -> Result<(), BalanceError> {
        let size = match (&needs.gradients, batch.measured) {
            (Gradients::None | Gradients::Norms | Gradients::Elements, _) => return Ok(()),
            (Gradients::Gramian | Gradients::Averages { .. }, Measured::Gramian(gramian)) => gramian.size(),
            (Gradients::Excess, Measured::Excess(excess)) => excess.len(),
            (Gradients::Lookahead { .. }, Measured::Lookahead { products, .. }) => products.size(),
            (asked, _) => return Err(self.missing(batch.step, asked.words())),
        };
        self.sized(batch.step, needs.gradients.words(), size)?;
        tasks.retain(|task| {
            let (value, usable) = own(&batch.measured, *task);
            if !usable {
                skipped.push(Skipped { task: *task, quantity: Quantity::Gradient, value });
            }
            usable
        });
        match batch.measured {
            Measured::Gramian(products) | Measured::Lookahead { products, .. } => {
                self.finite_products(batch.step, tasks, products)
            }
            Measured::Excess(_) | Measured::Nothing => Ok(()),
        }
    }

    /// Products of gradients that are themselves finite must be.
    pub(crate) fn finite_products(
        &self,
        step: u64,
        tasks: &[usize],
        products: &Matrix,
    ) -> Result<(), BalanceError> {
        let Some((i, j)) = products.select(tasks).non_finite() else { return Ok(()) };
        let (first, second) = (self.names[tasks[i]].clone(), self.names[tasks[j]].clone());
        let found = products.at(tasks[i], tasks[j]);
        Err(BalanceError::Products { balancer: self.balancer, step, first, second, found })
    }

    /// The usable part of an outcome, and what is not.
    pub(crate) fn seen(
        &self,
        outcome: &Outcome<'_>,
        needs: &Needs,
    ) -> Result<(Seen, Vec<Skipped>), BalanceError> {
        let norms: Option<Vec<Option<f64>>> =
            outcome.norms.map(|norms| norms.iter().copied().map(Some).collect());
        let mut skipped = Vec::new();
        let mut take = |wanted: bool, what: &'static str, quantity, given: Option<&[Option<f64>]>| {
            if !wanted {
                return Ok(vec![None; self.names.len()]);
            }
            let given = given.ok_or_else(|| self.missing(outcome.step, what))?;
            self.sized(outcome.step, what, given.len())?;
            Ok(usable(given, quantity, needs.positive, &mut skipped))
        };
        let seen = Seen {
            step: outcome.step,
            epoch: outcome.epoch,
            losses: take(needs.losses >= Losses::After, LOSSES, Quantity::TrainingLoss, outcome.losses)?,
            again: take(needs.again, AGAIN, Quantity::LossAgain, outcome.again)?,
            validation: take(needs.validation, VALIDATION, Quantity::ValidationLoss, outcome.validation)?,
            norms: take(needs.gradients == Gradients::Norms, NORMS, Quantity::Gradient, norms.as_deref())?,
        };
        Ok((seen, skipped))
    }

    /// Losses that others are compared with.
    pub(crate) fn reference(&self, validation: &[f64]) -> Result<(), BalanceError> {
        self.sized(0, VALIDATION, validation.len())?;
        match validation.iter().position(|loss| !loss.is_finite()) {
            None => Ok(()),
            Some(task) => {
                Err(BalanceError::Reference { task: self.names[task].clone(), found: validation[task] })
            }
        }
    }
}

/// The values that can be used; the others are noted.
fn usable(
    given: &[Option<f64>],
    quantity: Quantity,
    positive: bool,
    skipped: &mut Vec<Skipped>,
) -> Vec<Option<f64>> {
    let fits = |value: f64| match quantity {
        Quantity::Gradient => SQUARES.contains(&(value * value)),
        Quantity::TrainingLoss | Quantity::LossAgain if positive => POSITIVE.contains(&value),
        _ => value.abs() <= *POSITIVE.end(),
    };
    for (task, value) in given.iter().enumerate() {
        skipped.extend(value.filter(|v| !fits(*v)).map(|value| Skipped { task, quantity, value }));
    }
    given.iter().map(|value| value.filter(|v| fits(*v))).collect()
}

/// What a rule sees of a batch that was found in order.
pub(crate) fn view<'a>(batch: &Batch<'_>, needs: &Needs, tasks: &'a [usize]) -> View<'a> {
    let (step, epoch) = (batch.step, batch.epoch);
    let mut view =
        View { step, epoch, tasks, losses: Vec::new(), products: None, excess: Vec::new(), lr: 0.0 };
    // What was not asked for does not arrive, so that no rule can come to depend on it.
    if let (Rows::Losses(losses), Losses::Before) = (batch.rows, needs.losses) {
        view.losses = tasks.iter().filter_map(|task| losses[*task]).collect();
    }
    match (&needs.gradients, batch.measured) {
        (Gradients::None | Gradients::Norms | Gradients::Elements, _) | (_, Measured::Nothing) => {}
        (_, Measured::Gramian(products)) => view.products = Some(products.select(tasks)),
        (_, Measured::Excess(excess)) => view.excess = view.of(excess),
        (_, Measured::Lookahead { products, lr }) => {
            (view.products, view.lr) = (Some(products.select(tasks)), lr);
        }
    }
    view
}

/// What was measured of a task's gradient alone, and whether it can be used.
fn own(measured: &Measured<'_>, task: usize) -> (f64, bool) {
    match measured {
        Measured::Nothing => (0.0, true),
        Measured::Gramian(gramian) => (gramian.at(task, task), SQUARES.contains(&gramian.at(task, task))),
        Measured::Excess(excess) => (excess[task], SQUARES.contains(&excess[task])),
        // Of two gradients of the task; it may well be zero or negative.
        Measured::Lookahead { products, .. } => {
            (products.at(task, task), products.at(task, task).is_finite())
        }
    }
}

pub(crate) const LOSSES: &str = "the list of training losses";
pub(crate) const AGAIN: &str = "the list of training losses after the step";
pub(crate) const VALIDATION: &str = "the list of validation losses";
pub(crate) const NORMS: &str = "the list of gradient norms";
