//! Slerp: spherical interpolation between two models (Shoemake, SIGGRAPH 1985), each tensor as one vector.
//!
//! With `u` the unit vectors and `θ` the angle between them: `sin((1−t)θ)/sin θ · v₀ + sin(tθ)/sin θ · v₁`. The vectors
//! themselves are combined, not the unit vectors. Nearly parallel vectors (|cos θ| > 0.9995) are interpolated on a
//! straight line; vectors of norm below 1e-8 are not normalised, as in mergekit.

use std::sync::Arc;

use super::geometry::{Geometric, Geometry, Gramian, Scope, slerp_weights};
use super::{BaseRole, Method, Rule};
use crate::params::{Default, Kind, Level, Param};
use crate::task::Task;

/// The table entry.
pub static SLERP: Method = Method {
    name: "slerp",
    summary: "spherical interpolation between two models",
    source: "Shoemake, SIGGRAPH 1985",
    base: BaseRole::Operand,
    operands: (2, 2),
    crops_embeddings: true,
    passes: "2",
    params: &[Param {
        name: "t",
        level: Level::Global,
        kind: Kind::NUMBER,
        default: Default::Required,
        help: "0 gives the base model, 1 the other",
    }],
    build,
};

#[derive(Debug)]
struct Slerp {
    t: f64,
}

fn build(task: &Task) -> Result<Box<dyn Rule>, String> {
    let geometry = Arc::new(Slerp { t: task.required(&SLERP, "t")? });
    Ok(Box::new(Geometric { geometry, scope: Scope::Tensor }))
}

impl Geometry for Slerp {
    fn coefficients(&self, gramian: &Gramian) -> Result<Vec<f64>, String> {
        if gramian.k() == 1 {
            return Ok(vec![1.0]);
        }
        let unit = |norm: f64| if norm > 1e-8 { norm } else { 1.0 };
        let cosine = gramian.dot(0, 1) / (unit(gramian.norm(0)) * unit(gramian.norm(1)));
        let (a, b) =
            if cosine.abs() > 0.9995 { (1.0 - self.t, self.t) } else { slerp_weights(cosine, self.t) };
        Ok(vec![a, b])
    }
}
