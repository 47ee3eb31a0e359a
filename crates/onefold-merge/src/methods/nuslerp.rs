//! NuSlerp: slerp with a weight per model, over whole tensors, rows or columns, optionally of task vectors.
//!
//! `t = w₂/(w₁+w₂)`, or ½ where the weights cancel. Behaves as mergekit's `nuslerp`, whose `nuslerp_row_wise: true` takes
//! vectors along dimension 0. Vectors in opposite directions (to 1e-4) are interpolated on a straight line.

use std::sync::Arc;

use super::geometry::{Geometric, Geometry, Gramian, Scope, slerp_weights};
use super::{BaseRole, Method, Rule, WEIGHT};
use crate::params::{Default, Kind, Level, Param};
use crate::task::Task;

/// The table entry.
pub static NUSLERP: Method = Method {
    name: "nuslerp",
    summary: "weighted slerp of models or task vectors",
    source: "mergekit",
    base: BaseRole::OptionalOrigin,
    operands: (1, 2),
    crops_embeddings: true,
    passes: "2",
    params: &[
        WEIGHT,
        Param {
            name: "nuslerp_flatten",
            level: Level::Global,
            kind: Kind::Flag,
            default: Default::Flag(true),
            help: "the whole tensor is one vector",
        },
        Param {
            name: "nuslerp_row_wise",
            level: Level::Global,
            kind: Kind::Flag,
            default: Default::Flag(false),
            help: "without flatten: vectors along dimension 0 instead of the last",
        },
    ],
    build,
};

#[derive(Debug)]
struct NuSlerp {
    t: f64,
}

fn build(task: &Task) -> Result<Box<dyn Rule>, String> {
    let weights = task.per_model(&NUSLERP, "weight")?;
    let sum: f64 = weights.iter().sum();
    let t = if sum.abs() < 1e-6 { 0.5 } else { weights.last().copied().unwrap_or(0.0) / sum };
    let scope = match (task.flag(&NUSLERP, "nuslerp_flatten"), task.flag(&NUSLERP, "nuslerp_row_wise")) {
        (true, _) => Scope::Tensor,
        (false, false) => Scope::Rows,
        (false, true) => Scope::Columns,
    };
    Ok(Box::new(Geometric { geometry: Arc::new(NuSlerp { t }), scope }))
}

impl Geometry for NuSlerp {
    fn coefficients(&self, gramian: &Gramian) -> Result<Vec<f64>, String> {
        if gramian.k() == 1 {
            return Ok(vec![1.0]);
        }
        let unit = |norm: f64| norm.max(1e-7);
        let cosine = gramian.dot(0, 1) / (unit(gramian.norm(0)) * unit(gramian.norm(1)));
        let (a, b) = slerp_weights(cosine, self.t);
        Ok(vec![a, b])
    }
}
