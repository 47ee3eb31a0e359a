//! `heads`: how tasks with classes get theirs. They are never merged.

use onefold_train::tune::Duration;

use crate::recipe::keys::{Keys, POSITIVE};
use crate::recipe::node::Data;
use crate::recipe::scalar::Meaning;

/// Passes over a task's rows in which a new head is fitted.
pub(super) const EPOCHS: f64 = 3.0;
/// A map of a few thousand numbers on features that stay as they are learns at a high rate.
pub(super) const LR: f64 = 1e-2;

/// How tasks with classes get their heads.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct HeadSettings {
    /// Whether a task's head is trained with the trunk in every round. Else it stays as it was fitted, or given.
    pub train: bool,
    /// How a head that is not given is fitted on the first model, before the first round.
    pub fit: Option<Fit>,
}

/// A fit of a head, by AdamW at a constant rate.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Fit {
    /// How long.
    pub duration: Duration,
    /// The rate.
    pub lr: f64,
}

impl Default for HeadSettings {
    fn default() -> Self {
        Self { train: false, fit: Some(Fit { duration: Duration::Epochs(EPOCHS), lr: LR }) }
    }
}

pub(super) fn read(top: &mut Keys<'_, '_>) -> HeadSettings {
    let plain = HeadSettings::default();
    let what = "what becomes of heads, as in `{train: false, fit: {epochs: 3, lr: 0.01}}`";
    let Some(mut keys) = top.mapping("heads", what) else { return plain };
    let train = keys.flag("train").unwrap_or(plain.train);
    let fit = fit(&mut keys);
    if fit.is_none() && !train {
        let message = "new heads would stay as random as they begin";
        keys.error("fit", message, Some("leave `fit` out, or train the heads (`train: true`)"));
    }
    keys.finish();
    HeadSettings { train, fit }
}

/// `{epochs: X, lr: X}`, or `false`.
fn fit(keys: &mut Keys<'_, '_>) -> Option<Fit> {
    let plain = Fit { duration: Duration::Epochs(EPOCHS), lr: LR };
    if let Some(node) = keys.node("fit")
        && matches!(node.data, Data::Scalar { meaning: Meaning::Bool(false), .. })
    {
        return None;
    }
    let Some(mut inner) = keys.mapping("fit", "how long and at which rate, as in `{epochs: 3, lr: 0.01}`")
    else {
        return Some(plain);
    };
    let duration = super::length(&mut inner).unwrap_or(plain.duration);
    let lr = inner.number("lr", &POSITIVE).unwrap_or(plain.lr);
    inner.finish();
    Some(Fit { duration, lr })
}
