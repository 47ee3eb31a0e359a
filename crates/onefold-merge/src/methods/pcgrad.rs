//! PCGrad's projection (Yu et al., NeurIPS 2020, arXiv 2001.06782) on task vectors in place of gradients: what of a vector points
//! against another is taken away, then the mean is taken.
//!
//! `v_i = τ_i; for j ≠ i: if ⟨v_i, τ_j⟩ < 0: v_i ← v_i − ⟨v_i, τ_j⟩/‖τ_j‖² τ_j`, and the result is `λ/K Σ v_i`, tensor by tensor. The
//! paper draws the order of j anew at each step; here those come first that point against τ_i most (by their cosines), so that
//! nothing is random and the order of the models changes nothing. All of it lies in the span of the vectors, so one pass for
//! their inner products is enough.

use std::sync::Arc;

use super::geometry::{Geometric, Geometry, Gramian, Scope};
use super::gta::LAMBDA;
use super::{BaseRole, Method, Rule};
use crate::task::Task;

/// The table entry.
pub static PCGRAD: Method = Method {
    name: "pcgrad",
    summary: "project conflicting task vectors, then average",
    source: "arXiv 2001.06782",
    base: BaseRole::Origin,
    operands: (1, usize::MAX),
    crops_embeddings: true,
    passes: "2",
    params: &[LAMBDA],
    build,
};

#[derive(Debug)]
struct Projection {
    lambda: f64,
}

fn build(task: &Task) -> Result<Box<dyn Rule>, String> {
    let lambda = task.required(&PCGRAD, "lambda")?;
    Ok(Box::new(Geometric { geometry: Arc::new(Projection { lambda }), scope: Scope::Tensor }))
}

impl Geometry for Projection {
    fn coefficients(&self, g: &Gramian) -> Result<Vec<f64>, String> {
        let k = g.k();
        let mut sum = vec![0.0; k];
        for i in 0..k {
            let projected = projected(g, i);
            sum.iter_mut().zip(projected).for_each(|(sum, part)| *sum += part);
        }
        Ok(sum.into_iter().map(|part| self.lambda * part / k as f64).collect())
    }
}

/// Vector `i` without what points against the others, in terms of all vectors.
fn projected(g: &Gramian, i: usize) -> Vec<f64> {
    let k = g.k();
    let mut own = vec![0.0; k];
    own[i] = 1.0;
    let mut others: Vec<usize> = (0..k).filter(|j| *j != i && g.dot(*j, *j) > 0.0).collect();
    let against = |j: &usize| g.dot(i, *j) / g.norm(*j);
    others.sort_by(|a, b| against(a).total_cmp(&against(b)));
    for j in others {
        let product: f64 = (0..k).map(|a| own[a] * g.dot(a, j)).sum();
        if product < 0.0 {
            own[j] -= product / g.dot(j, j);
        }
    }
    own
}
