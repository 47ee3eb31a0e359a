//! Linear: the weighted sum of the models, "model soups" (Wortsman et al., ICML 2022, arXiv 2203.05482).
//!
//! `θ* = Σ wᵢ θᵢ`, divided by `Σ wᵢ` unless `normalize: false`. Weights that add up to zero cannot be normalised:
//! an error (mergekit divides and writes infinities).

use super::{BaseRole, Combination, Kernel, Method, ModelSurvey, Rule, WEIGHT};
use crate::MergeError;
use crate::params::{Default, Kind, Level, Param};
use crate::scan::Scan;
use crate::task::Task;

/// The table entry.
pub static LINEAR: Method = Method {
    name: "linear",
    summary: "weighted average of all weights",
    source: "Model soups, arXiv 2203.05482",
    base: BaseRole::Donor,
    operands: (1, usize::MAX),
    crops_embeddings: true,
    passes: "1",
    params: &[
        WEIGHT,
        Param {
            name: "normalize",
            level: Level::Global,
            kind: Kind::Flag,
            default: Default::Flag(true),
            help: "divide by the sum of the weights",
        },
    ],
    build,
};

#[derive(Debug)]
struct Linear {
    weights: Vec<f64>,
}

fn build(task: &Task) -> Result<Box<dyn Rule>, String> {
    let mut weights = task.per_model(&LINEAR, "weight")?;
    if task.flag(&LINEAR, "normalize") {
        let sum: f64 = weights.iter().sum();
        if sum.abs() < 1e-12 {
            return Err(
                "the weights add up to 0 and cannot be normalised; change them or set `normalize: false`"
                    .into(),
            );
        }
        weights.iter_mut().for_each(|w| *w /= sum);
    }
    Ok(Box::new(Linear { weights }))
}

impl Rule for Linear {
    fn prepare(&self, _: &Scan, _: &ModelSurvey) -> Result<Box<dyn Kernel>, MergeError> {
        Ok(Combination::kernel(self.weights.clone()))
    }
}
