//! Model Stock: how far to go from the base towards the mean of the experts, from the angle between their task vectors
//! (Jang, Yun, Han, ECCV 2024, arXiv 2403.19522, equation 4 for N experts).
//!
//! `t = N c/(1 + (N−1) c)` with `c` the mean cosine over pairs; `θ* = θ₀ + t · mean τ`. Cosines of vectors with a product
//! of norms below 1e-6 are 0, as in mergekit. Where the denominator vanishes (`c → −1/(N−1)`) the experts cancel
//! and `t` is 0; mergekit divides.

use std::sync::Arc;

use super::geometry::{Geometric, Geometry, Gramian, Scope};
use super::{BaseRole, Method, Rule};
use crate::params::{Default, Kind, Level, Param};
use crate::task::Task;

/// The table entry.
pub static MODEL_STOCK: Method = Method {
    name: "model_stock",
    summary: "distance from the base by the angle of experts",
    source: "arXiv 2403.19522",
    base: BaseRole::Origin,
    operands: (2, usize::MAX),
    crops_embeddings: true,
    passes: "2",
    params: &[Param {
        name: "filter_wise",
        level: Level::Global,
        kind: Kind::Flag,
        default: Default::Flag(false),
        help: "an angle for each row instead of each tensor",
    }],
    build,
};

#[derive(Debug)]
struct ModelStock;

fn build(task: &Task) -> Result<Box<dyn Rule>, String> {
    let scope = if task.flag(&MODEL_STOCK, "filter_wise") { Scope::Rows } else { Scope::Tensor };
    Ok(Box::new(Geometric { geometry: Arc::new(ModelStock), scope }))
}

impl Geometry for ModelStock {
    fn coefficients(&self, g: &Gramian) -> Result<Vec<f64>, String> {
        let n = g.k();
        if n == 1 {
            // A tensor that only one expert has: no angle, hence no reason to move less than the mean.
            return Ok(vec![1.0]);
        }
        let cosine = |i: usize, j: usize| (g.dot(i, j) / (g.norm(i) * g.norm(j)).max(1e-6)).clamp(-1.0, 1.0);
        let pairs: Vec<f64> =
            (0..n).flat_map(|i| (i + 1..n).map(move |j| (i, j))).map(|(i, j)| cosine(i, j)).collect();
        let c = pairs.iter().sum::<f64>() / pairs.len() as f64;
        let denominator = 1.0 + (n as f64 - 1.0) * c;
        let t = if denominator.abs() < 1e-6 { 0.0 } else { n as f64 * c / denominator };
        Ok(vec![t / n as f64; n])
    }
}
