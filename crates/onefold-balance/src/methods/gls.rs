//! GLS: geometric loss strategy (Chennupati et al., CVPR workshops 2019, arXiv 1904.08492).
//!
//! The loss is (ΠLᵢ)^{1/K}, so wᵢ = (ΠLⱼ)^{1/K}/(K Lᵢ) over the tasks present. Divided by their sum, as by default, these are the
//! weights of [`super::scale_invariant`]: the two differ in length only, that is with `scale: paper`.

use serde::Deserialize;

use super::{Cost, Method, SCALE};
use crate::contract::{Losses, Needs};
use crate::numeric::vector::mean;
use crate::rule::{Rule, Scale, View};

/// The table entry.
pub static GLS: Method = Method {
    name: "gls",
    aliases: &["geometric"],
    summary: "the geometric mean of the losses",
    source: "arXiv 1904.08492",
    cost: Cost::Nothing,
    validation: false,
    task_weights: false,
    simplex: true,
    params: &[SCALE],
    build: |context| Ok(Box::new(context.typed::<Gls>())),
};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Gls {
    scale: Scale,
}

/// The derivative of the geometric mean by each loss; losses are positive.
pub fn weights(losses: &[f64]) -> Vec<f64> {
    // In logarithms: the product of many losses may overflow or vanish.
    let logs: Vec<f64> = losses.iter().map(|loss| loss.ln()).collect();
    let center = mean(&logs);
    logs.iter().map(|log| (center - log).exp() / logs.len() as f64).collect()
}

impl Rule for Gls {
    fn needs(&self, _: u64) -> Needs {
        Needs { losses: Losses::Before, positive: true, ..Needs::default() }
    }

    fn weights(&mut self, view: &View<'_>) -> Vec<f64> {
        self.scale.apply(weights(&view.losses))
    }
}
