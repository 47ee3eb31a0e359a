//! Scale-invariant weighting: the loss is Σ ln Lᵢ, so wᵢ = 1/Lᵢ (as in Navon et al., ICML 2022, arXiv 2202.01017, section 5;
//! Lin et al., arXiv 2308.12029). A factor on a task's loss changes nothing.

use serde::Deserialize;

use super::{Cost, Method, SCALE};
use crate::contract::{Losses, Needs};
use crate::rule::{Rule, Scale, View};

/// The table entry.
pub static SCALE_INVARIANT: Method = Method {
    name: "scale_invariant",
    aliases: &["si", "log"],
    summary: "the sum of the logarithms of the losses",
    source: "arXiv 2202.01017",
    cost: Cost::Nothing,
    validation: false,
    task_weights: false,
    simplex: true,
    params: &[SCALE],
    build: |context| Ok(Box::new(context.typed::<ScaleInvariant>())),
};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ScaleInvariant {
    scale: Scale,
}

/// `1/L`; losses are positive.
pub fn weights(losses: &[f64]) -> Vec<f64> {
    losses.iter().map(|loss| loss.recip()).collect()
}

impl Rule for ScaleInvariant {
    fn needs(&self, _: u64) -> Needs {
        Needs { losses: Losses::Before, positive: true, ..Needs::default() }
    }

    fn weights(&mut self, view: &View<'_>) -> Vec<f64> {
        self.scale.apply(weights(&view.losses))
    }
}
