//! MultiSlerp: weighted mean on the sphere by one step through the tangent space, of models or task vectors.
//!
//! `uᵢ = xᵢ/(‖xᵢ‖+ε)`, `m = Σwᵢuᵢ` normalised, `T = Σwᵢ(uᵢ − ⟨uᵢ,m⟩m)`, `r = (m cos‖T‖ + T sin‖T‖/‖T‖) · Σwᵢ‖xᵢ‖`. Behaves as
//! mergekit's `multislerp`. Two vectors that cancel are combined linearly; more than two are an error; if all vectors
//! or all weights are zero the result is zero.

use std::sync::Arc;

use super::geometry::{CANCELS, Geometric, Geometry, Gramian, Scope};
use super::{BaseRole, Method, Rule, WEIGHT};
use crate::params::{Default, Kind, Level, Param};
use crate::task::Task;

/// The table entry.
pub static MULTISLERP: Method = Method {
    name: "multislerp",
    summary: "spherical mean of any number of models",
    source: "mergekit",
    base: BaseRole::OptionalOrigin,
    operands: (1, usize::MAX),
    crops_embeddings: false,
    passes: "2",
    params: &[
        WEIGHT,
        Param {
            name: "normalize_weights",
            level: Level::Global,
            kind: Kind::Flag,
            default: Default::Flag(true),
            help: "divide the weights by their sum",
        },
        Param {
            name: "eps",
            level: Level::Global,
            kind: Kind::Number { min: 0.0, max: 1.0, min_open: true },
            default: Default::Number(1e-8),
            help: "guard against division by zero",
        },
    ],
    build,
};

#[derive(Debug)]
struct MultiSlerp {
    weights: Vec<f64>,
    eps: f64,
}

fn build(task: &Task) -> Result<Box<dyn Rule>, String> {
    let mut weights = task.per_model(&MULTISLERP, "weight")?;
    if task.flag(&MULTISLERP, "normalize_weights") {
        let sum: f64 = weights.iter().sum();
        if sum.abs() < 1e-12 {
            return Err("the weights add up to 0; change them or set `normalize_weights: false`".into());
        }
        weights.iter_mut().for_each(|w| *w /= sum);
    }
    let geometry = MultiSlerp { weights, eps: task.required(&MULTISLERP, "eps")? };
    Ok(Box::new(Geometric { geometry: Arc::new(geometry), scope: Scope::Tensor }))
}

impl Geometry for MultiSlerp {
    fn coefficients(&self, g: &Gramian) -> Result<Vec<f64>, String> {
        let k = g.k();
        if k == 1 {
            return Ok(vec![1.0]);
        }
        // Everything is kept as coefficients of the xᵢ. 1/(‖xᵢ‖+ε) turns xᵢ into uᵢ.
        let inverse: Vec<f64> = (0..k).map(|i| 1.0 / (g.norm(i) + self.eps)).collect();
        let mut mean: Vec<f64> = (0..k).map(|i| self.weights[i] * inverse[i]).collect();
        let length = g.product(&mean, &mean).max(0.0).sqrt();
        let weight: f64 = self.weights.iter().map(|w| w.abs()).sum();
        if length < self.eps.max(CANCELS * weight) {
            let all_zero = weight == 0.0 || (0..k).all(|i| g.norm(i) < self.eps);
            return match k {
                _ if all_zero => Ok(vec![0.0; k]),
                2 => Ok(self.weights.clone()),
                _ => {
                    Err("the weighted directions cancel, so they have no spherical mean; change the weights"
                        .into())
                }
            };
        }
        mean.iter_mut().for_each(|m| *m /= length);
        let along = |i: usize| inverse[i] * (0..k).map(|j| g.dot(i, j) * mean[j]).sum::<f64>();
        let total: f64 = (0..k).map(|i| self.weights[i] * along(i)).sum();
        let tangent: Vec<f64> = (0..k).map(|i| self.weights[i] * inverse[i] - total * mean[i]).collect();
        let n = g.product(&tangent, &tangent).max(0.0).sqrt() + self.eps;
        let size: f64 = (0..k).map(|i| self.weights[i] * g.norm(i)).sum();
        Ok((0..k).map(|i| size * (mean[i] * n.cos() + tangent[i] * n.sin() / n)).collect())
    }
}
