//! Karcher mean: the point of the sphere with the least sum of squared angles to all models (Karcher 1977), found by
//! Riemannian gradient steps; equal weights; scaled to the mean norm.
//!
//! The whole iteration runs on the Gramian. Behaves as mergekit's `karcher`: a given base model is one more model;
//! vectors of norm up to `tol` do not vote; the result has the mean norm of *all* models. Since `‖T‖²` comes from inner
//! products it is known to about 1e-16, so a `tol` below 1e-7 cannot be told from 1e-7. A model opposite to the mean
//! (to 1e-4) does not pull: the direction in which it would is rounding noise.

use std::sync::Arc;

use super::geometry::{CANCELS, Geometric, Geometry, Gramian, Scope, opposite};
use super::{BaseRole, Method, Rule};
use crate::params::{Default, Kind, Level, Param};
use crate::task::Task;

/// The table entry.
pub static KARCHER: Method = Method {
    name: "karcher",
    summary: "Riemannian centre of mass on the sphere",
    source: "Karcher, Comm. Pure Appl. Math. 1977",
    base: BaseRole::OptionalOperand,
    operands: (1, usize::MAX),
    crops_embeddings: true,
    passes: "2",
    params: &[
        Param {
            name: "max_iter",
            level: Level::Global,
            kind: Kind::Integer { min: 1, max: 100_000 },
            default: Default::Number(10.0),
            help: "most gradient steps",
        },
        Param {
            name: "tol",
            level: Level::Global,
            kind: Kind::Number { min: 0.0, max: 1.0, min_open: true },
            default: Default::Number(1e-5),
            help: "step length at which the iteration stops",
        },
    ],
    build,
};

#[derive(Debug)]
struct Karcher {
    steps: usize,
    tol: f64,
}

fn build(task: &Task) -> Result<Box<dyn Rule>, String> {
    let steps = task.required(&KARCHER, "max_iter")? as usize;
    let tol = task.required(&KARCHER, "tol")?;
    Ok(Box::new(Geometric { geometry: Arc::new(Karcher { steps, tol }), scope: Scope::Tensor }))
}

impl Geometry for Karcher {
    fn coefficients(&self, g: &Gramian) -> Result<Vec<f64>, String> {
        let k = g.k();
        if k == 1 {
            return Ok(vec![1.0]);
        }
        let valid: Vec<usize> = (0..k).filter(|i| g.norm(*i) > self.tol).collect();
        if valid.is_empty() {
            return Ok(vec![0.0; k]);
        }
        let share = 1.0 / valid.len() as f64;
        // The running mean u as coefficients of the models.
        let mut u = vec![0.0; k];
        valid.iter().for_each(|i| u[*i] = share / g.norm(*i));
        if length(g, &u) < self.tol.max(CANCELS) {
            u.fill(0.0);
            u[valid[0]] = 1.0 / g.norm(valid[0]);
        }
        normalise(g, &mut u);
        for _ in 0..self.steps {
            let tangent = self.tangent(g, &valid, share, &u);
            let step = length(g, &tangent);
            if step < self.tol {
                break;
            }
            for (u, t) in u.iter_mut().zip(&tangent) {
                *u = step.cos() * *u + step.sin() / step * t;
            }
            normalise(g, &mut u);
        }
        let size = (0..k).map(|i| g.norm(i)).sum::<f64>() / k as f64;
        Ok(u.iter().map(|u| size * u).collect())
    }
}

impl Karcher {
    fn tangent(&self, g: &Gramian, valid: &[usize], share: f64, u: &[f64]) -> Vec<f64> {
        let mut tangent = vec![0.0; u.len()];
        for i in valid {
            let cosine =
                ((0..u.len()).map(|j| g.dot(*i, j) * u[j]).sum::<f64>() / g.norm(*i)).clamp(-1.0, 1.0);
            let angle = cosine.acos();
            // What is opposite to the mean pulls in no direction rather than another.
            if angle < self.tol || opposite(cosine, angle.sin()) {
                continue;
            }
            let pull = share * angle / angle.sin().max(f64::MIN_POSITIVE);
            for (t, u) in tangent.iter_mut().zip(u) {
                *t -= pull * cosine * u;
            }
            tangent[*i] += pull / g.norm(*i);
        }
        tangent
    }
}

fn length(g: &Gramian, x: &[f64]) -> f64 {
    g.product(x, x).max(0.0).sqrt()
}

fn normalise(g: &Gramian, x: &mut [f64]) {
    let length = length(g, x);
    if length > 0.0 {
        x.iter_mut().for_each(|x| *x /= length);
    }
}
