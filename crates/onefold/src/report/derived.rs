//! Every figure of a report, computed once from the per-tensor Gramians.
//!
//! - ‖θ₀‖, ‖τ_t‖, ‖τ_t‖/‖θ₀‖, cos(τ_i, τ_j) over the whole model, and the mean of the per-block cosines;
//! - MetaGPT's closed form λ_t = ‖τ_t‖²/Σ_k‖τ_k‖² (arXiv 2406.11385), and the bound it minimises,
//!   U(λ) = ½ Σ_t ‖τ_t‖² · {Σ_{k≠t} λ_k²‖τ_k‖² + (1−λ_t)²‖τ_t‖²}, at other coefficients for comparison.
//!   The paper prints (1−λ_k²) in the last term; only (1−λ_t)² has the stated minimum, so that is what is computed;
//! - the share of each block in ‖τ_t‖², and where the merged model went: ‖θ*−θ₀‖, cos(θ*−θ₀, τ_t), ‖θ*−θ_t‖.
//!
//! Without a base the vectors are the models themselves: norms, cosines and distances remain, the rest is absent.

use std::collections::BTreeSet;

use serde::Serialize;

use super::ReportError;
use super::blocks::{self, Group};
use super::bounds::{Bound, bounds, metagpt_lambda};
use super::health::{Gramian, Health, Layout, TensorHealth};
use super::warnings::{self, Warning};

/// Figures derived from a [`Health`]. Not finite where weights are not.
#[derive(Clone, Debug, Serialize)]
pub struct Derived {
    /// ‖θ₀‖, if there is a base.
    pub base_norm: Option<f64>,
    /// One entry per expert; empty if the weights were not read.
    pub experts: Vec<ExpertFigures>,
    /// cos(τ_i, τ_j) over the whole model, \[K, K\]; none where a vector is zero.
    pub cosine: Vec<Vec<Option<f64>>>,
    /// Mean over blocks of the cosine within the block, \[K, K\].
    pub cosine_block_mean: Vec<Vec<Option<f64>>>,
    /// Positions with conflicting signs ÷ positions that two or more experts changed.
    pub sign_conflict_rate: Option<f64>,
    /// U(λ) at MetaGPT's λ, at this run's, and at the usual constants.
    pub bounds: Vec<Bound>,
    /// Layers and other parts, in the order of the forward pass.
    pub blocks: Vec<Block>,
    /// Where the merged model lies, if there is one.
    pub displacement: Option<Displacement>,
    /// The job's warnings, then those that the figures give rise to.
    pub warnings: Vec<Warning>,
}

/// One expert over the whole model.
#[derive(Clone, Debug, Serialize)]
pub struct ExpertFigures {
    /// ‖τ_t‖ (without a base: ‖θ_t‖).
    pub norm: f64,
    /// ‖τ_t‖/‖θ₀‖.
    pub relative: Option<f64>,
    /// λ_t by MetaGPT.
    pub metagpt: Option<f64>,
    /// λ_t as used by this run.
    pub coefficient: Option<Coefficient>,
}

/// A coefficient that may differ from tensor to tensor.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Coefficient {
    /// Mean over elements.
    pub mean: f64,
    /// Smallest over tensors.
    pub min: f64,
    /// Largest over tensors.
    pub max: f64,
}

/// A layer, or a part of the model outside the layers.
#[derive(Clone, Debug, Serialize)]
pub struct Block {
    /// Short name.
    pub label: String,
    /// Layer number, if it is a layer.
    pub layer: Option<u32>,
    /// Number of tensors.
    pub tensors: usize,
    /// Number of elements.
    pub elements: u64,
    /// ‖θ₀‖ within the block.
    pub base_norm: Option<f64>,
    /// ‖τ_t‖ within the block, per expert (without a base: ‖θ_t‖).
    pub norms: Vec<f64>,
    /// This block's share of ‖τ_t‖², per expert; 0 for a zero task vector.
    pub shares: Vec<f64>,
    /// λ_t as used, mean over the block's elements.
    pub coefficients: Option<Vec<f64>>,
    /// Sign-conflict rate within the block.
    pub sign_conflict_rate: Option<f64>,
    /// ‖θ*−θ₀‖ within the block (without a base: ‖θ*‖).
    pub merged_norm: Option<f64>,
}

/// Where the merged model lies.
#[derive(Clone, Debug, Serialize)]
pub struct Displacement {
    /// ‖θ*−θ₀‖ (without a base: ‖θ*‖).
    pub norm: f64,
    /// ‖θ*−θ₀‖/‖θ₀‖.
    pub relative: Option<f64>,
    /// cos(θ*−θ₀, τ_t) per expert (without a base: cos(θ*, θ_t)).
    pub cosines: Vec<Option<f64>>,
    /// ‖θ*−θ_t‖ per expert.
    pub distances: Vec<f64>,
}

/// Sums of a set of tensors.
struct Sums {
    gramian: Gramian,
    elements: u64,
    tensors: usize,
    conflicts: u64,
    active: u64,
    /// Σ over elements of λ_t, and the number of those elements.
    coefficients: Vec<f64>,
    weighted: f64,
}

/// Checks `health` and computes every figure.
///
/// Its warnings: a coefficient above 0.8, |cos| above 0.2, a zero task vector, identical experts, NaN or Inf,
/// task vectors of very different length, and a task vector longer than half its base.
pub fn derive(health: &Health) -> Result<Derived, ReportError> {
    let layout = Layout::of(health)?;
    let counted = counted_once(health);
    let whole = Sums::over(&layout, counted.iter().copied());
    let names: Vec<&str> = counted.iter().map(|tensor| tensor.name.as_str()).collect();
    let groups = blocks::group(&names);
    let parts: Vec<Sums> =
        groups.iter().map(|group| Sums::over(&layout, group.members.iter().map(|&at| counted[at]))).collect();
    // What was only copied was not looked at.
    let seen = health.tensors.iter().any(|tensor| !tensor.gramian.is_empty());
    let compared = layout.vectors > 0 && layout.experts > 0 && seen;
    let experts = if compared { experts(&layout, &whole, &counted) } else { Vec::new() };
    let mut derived = Derived {
        base_norm: (layout.base && compared).then(|| whole.gramian.norm(0)),
        bounds: if layout.base { bounds(&experts) } else { Vec::new() },
        cosine: if compared { cosines(&layout, |i, j| whole.gramian.cosine(i, j)) } else { Vec::new() },
        cosine_block_mean: if compared {
            cosines(&layout, |i, j| mean_cosine(&parts, i, j))
        } else {
            Vec::new()
        },
        sign_conflict_rate: whole.conflict_rate(),
        blocks: groups
            .into_iter()
            .zip(&parts)
            .map(|(group, part)| block(&layout, group, part, &whole))
            .collect(),
        displacement: layout.merged().map(|merged| displacement(&layout, &whole.gramian, merged)),
        experts,
        warnings: Vec::new(),
    };
    derived.warnings = warnings::all(health, &layout, &derived, &whole.gramian);
    Ok(derived)
}

/// The tensors without the later members of each tied group: a weight stored twice still counts once.
fn counted_once(health: &Health) -> Vec<&TensorHealth> {
    let present: BTreeSet<&str> = health.tensors.iter().map(|tensor| tensor.name.as_str()).collect();
    let repeated: BTreeSet<&str> = health
        .tied
        .iter()
        .flat_map(|names| names.iter().map(String::as_str).filter(|name| present.contains(name)).skip(1))
        .collect();
    health.tensors.iter().filter(|tensor| !repeated.contains(tensor.name.as_str())).collect()
}

impl Sums {
    fn over<'a>(layout: &Layout, tensors: impl Iterator<Item = &'a TensorHealth>) -> Self {
        let mut sums = Self {
            gramian: Gramian::zero(layout.vectors),
            elements: 0,
            tensors: 0,
            conflicts: 0,
            active: 0,
            coefficients: vec![0.0; layout.experts],
            weighted: 0.0,
        };
        tensors.for_each(|tensor| sums.add(tensor));
        sums
    }

    fn add(&mut self, tensor: &TensorHealth) {
        self.gramian.add(&tensor.gramian);
        self.elements = self.elements.saturating_add(tensor.elements);
        self.tensors += 1;
        self.conflicts = self.conflicts.saturating_add(tensor.sign_conflicts);
        self.active = self.active.saturating_add(tensor.active);
        if let Some(coefficients) = &tensor.coefficients {
            self.weighted += tensor.elements as f64;
            for (sum, lambda) in self.coefficients.iter_mut().zip(coefficients) {
                *sum += lambda * tensor.elements as f64;
            }
        }
    }

    fn conflict_rate(&self) -> Option<f64> {
        (self.active > 0).then(|| self.conflicts as f64 / self.active as f64)
    }
}

fn experts(layout: &Layout, whole: &Sums, tensors: &[&TensorHealth]) -> Vec<ExpertFigures> {
    let index = |t| layout.expert(t);
    let squared: Vec<f64> = (0..layout.experts).map(|t| whole.gramian.at(index(t), index(t))).collect();
    let metagpt = metagpt_lambda(&squared);
    let figures = |t: usize| ExpertFigures {
        norm: whole.gramian.norm(index(t)),
        relative: layout.base.then(|| whole.gramian.norm(index(t)) / whole.gramian.norm(0)),
        metagpt: layout.base.then(|| metagpt[t]),
        coefficient: coefficient(whole, tensors, t),
    };
    (0..layout.experts).map(figures).collect()
}

fn coefficient(whole: &Sums, tensors: &[&TensorHealth], t: usize) -> Option<Coefficient> {
    let values = || tensors.iter().filter_map(|tensor| Some(tensor.coefficients.as_ref()?[t]));
    let (min, max) = (values().reduce(f64::min)?, values().reduce(f64::max)?);
    // One value everywhere is reported as it is, not as a rounded mean of itself.
    let mean = if min == max || whole.weighted == 0.0 { min } else { whole.coefficients[t] / whole.weighted };
    Some(Coefficient { mean, min, max })
}

fn cosines(layout: &Layout, cosine: impl Fn(usize, usize) -> Option<f64>) -> Vec<Vec<Option<f64>>> {
    let index = |t| layout.expert(t);
    let row = |i: usize| (0..layout.experts).map(|j| cosine(index(i), index(j))).collect();
    (0..layout.experts).map(row).collect()
}

fn mean_cosine(parts: &[Sums], i: usize, j: usize) -> Option<f64> {
    let values: Vec<f64> = parts.iter().filter_map(|part| part.gramian.cosine(i, j)).collect();
    (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
}

fn block(layout: &Layout, group: Group, part: &Sums, whole: &Sums) -> Block {
    let surveyed = if layout.vectors > 0 { layout.experts } else { 0 };
    let share = |t: usize| {
        let index = layout.expert(t);
        let total = whole.gramian.at(index, index);
        if total == 0.0 { 0.0 } else { part.gramian.at(index, index) / total }
    };
    Block {
        label: group.label,
        layer: group.layer,
        tensors: part.tensors,
        elements: part.elements,
        base_norm: (layout.base && surveyed > 0).then(|| part.gramian.norm(0)),
        norms: (0..surveyed).map(|t| part.gramian.norm(layout.expert(t))).collect(),
        shares: (0..surveyed).map(share).collect(),
        coefficients: (part.weighted > 0.0)
            .then(|| part.coefficients.iter().map(|sum| sum / part.weighted).collect()),
        sign_conflict_rate: part.conflict_rate(),
        merged_norm: layout.merged().map(|merged| part.gramian.norm(merged)),
    }
}

fn displacement(layout: &Layout, whole: &Gramian, merged: usize) -> Displacement {
    let experts = || (0..layout.experts).map(|t| layout.expert(t));
    Displacement {
        norm: whole.norm(merged),
        relative: layout.base.then(|| whole.norm(merged) / whole.norm(0)),
        cosines: experts().map(|t| whole.cosine(merged, t)).collect(),
        distances: experts().map(|t| whole.distance(merged, t)).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::fixture::{self, close, metagpt_golden, numbers};

    /// The golden's own weights, as a survey would report them.
    fn golden_health() -> Health {
        let golden: serde_json::Value = metagpt_golden();
        let tensor = |name: &str| {
            let base = numbers(&golden["base"][name]);
            let mut vectors = vec![base.clone()];
            vectors.extend(golden["task_vectors"].as_array().unwrap().iter().map(|tau| numbers(&tau[name])));
            let merged = numbers(&golden["merged"][name]);
            vectors.push(merged.iter().zip(&base).map(|(merged, base)| merged - base).collect());
            fixture::tensor(name, &vectors)
        };
        Health {
            base: Some("base".into()),
            experts: vec!["x".into(), "y".into(), "z".into()],
            vectors: ["base", "x", "y", "z", "merged"].map(String::from).to_vec(),
            tensors: vec![tensor("a"), tensor("b")],
            ..Health::default()
        }
    }

    #[test]
    fn figures_by_hand() {
        let derived = derive(&golden_health()).unwrap();
        close(derived.base_norm.unwrap(), 2.3_f64.sqrt()); // .01 + .04 + .09 + .16 + 1 + 1
        close(derived.experts[0].norm, 0.5);
        close(derived.experts[1].relative.unwrap(), 1.0 / 2.3_f64.sqrt());
        close(derived.experts[2].metagpt.unwrap(), 2.0 / 7.0);
        assert_eq!(derived.cosine[0][1], Some(0.0));
        close(derived.cosine[2][2].unwrap(), 1.0);
        let shares: Vec<f64> = derived.blocks.iter().map(|block| block.shares[0]).collect();
        close(shares[0], 0.36); // .09 of .25
        close(shares[1], 0.64);
        // τ are orthogonal, so ‖Σλτ‖² = Σλ²‖τ‖² = (1·.25 + 16·1 + 4·.5)/49, and cos = λ‖τ‖/‖Σλτ‖.
        let displacement = derived.displacement.unwrap();
        close(displacement.norm, (18.25_f64 / 49.0).sqrt());
        close(displacement.cosines[1].unwrap(), 4.0 / 7.0 / (18.25_f64 / 49.0).sqrt());
        // ‖θ*−θ_1‖² = ‖Σλτ‖² + ‖τ_1‖² − 2λ_1‖τ_1‖²
        close(displacement.distances[0], (18.25_f64 / 49.0 + 0.25 - 0.5 / 7.0).sqrt());
        let bounds: Vec<(&str, f64)> =
            derived.bounds.iter().map(|bound| (bound.label.as_str(), bound.value)).collect();
        assert_eq!(
            bounds.iter().map(|bound| bound.0).collect::<Vec<_>>(),
            ["metagpt", "uniform", "0.3", "1.0"]
        );
        close(bounds[0].1, 0.330_357_142_857_142_9);
    }

    #[test]
    fn tied_tensors_count_once() {
        let mut health = golden_health();
        health.tensors.push(TensorHealth { name: "b2".into(), ..health.tensors[1].clone() });
        health.tied = vec![vec!["absent".into(), "b".into(), "b2".into()]];
        let derived = derive(&health).unwrap();
        close(derived.experts[0].norm, 0.5);
        assert_eq!(derived.blocks.len(), 2);
    }

    #[test]
    fn conflicts_and_coefficients_are_weighted_by_elements() {
        let mut health = golden_health();
        for (tensor, (conflicts, active, lambda)) in health.tensors.iter_mut().zip([(1, 3, 0.2), (1, 1, 0.8)])
        {
            (tensor.sign_conflicts, tensor.active) = (conflicts, active);
            tensor.coefficients = Some(vec![lambda, 0.3, 0.5]);
        }
        let derived = derive(&health).unwrap();
        assert_eq!(derived.sign_conflict_rate, Some(0.5));
        let own = derived.experts[0].coefficient.unwrap();
        close(own.mean, 0.4); // (4·.2 + 2·.8)/6
        assert_eq!((own.min, own.max), (0.2, 0.8));
        assert!(derived.bounds.iter().all(|bound| bound.label != "this run"));
        health.tensors[1].coefficients = Some(vec![0.2, 0.3, 0.5]);
        let derived = derive(&health).unwrap();
        let own = derived.bounds.iter().find(|bound| bound.label == "this run").unwrap();
        assert_eq!(own.lambda, [0.2, 0.3, 0.5]);
    }

    #[test]
    fn without_a_base_models_are_compared_as_they_are() {
        let mut health = golden_health();
        health.base = None;
        health.experts.insert(0, "w".into());
        let derived = derive(&health).unwrap();
        assert_eq!((derived.base_norm, derived.bounds.len(), derived.experts.len()), (None, 0, 4));
        assert!(derived.experts.iter().all(|expert| expert.metagpt.is_none() && expert.relative.is_none()));
        assert!(derived.displacement.is_some());
    }

    #[test]
    fn nothing_surveyed_nothing_claimed() {
        let derived = derive(&fixture::single()).unwrap();
        assert_eq!((derived.bounds.len(), derived.displacement.is_none()), (0, true));
        let derived = derive(&Health::default()).unwrap();
        assert!(derived.experts.is_empty() && derived.blocks.is_empty() && derived.warnings.is_empty());
    }
}
