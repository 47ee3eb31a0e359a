//! MetaGPT, "model-exclusive task arithmetic" (Zhou et al., EMNLP 2024, arXiv 2406.11385): closed-form coefficients, no data.
//! (An unrelated agent framework has the same name.)
//!
//! `θ* = θ₀ + Σ λₜ τₜ` with `λₜ = δₜ²‖τₜ‖² / Σₖ δₖ²‖τₖ‖²`, one scalar per model: the minimiser of the paper's bound on the average
//! loss difference. The bound's printed indicator `(1−λ²)` reproduces that optimum only as `(1−λ)²`, and is read so. `δ`
//! (per-task curvature; equal by default, as in the paper) and the finer granularities are options of ours. All task
//! vectors zero: λ = 1/T, and the result is the base.
//!
//! The coefficients compose with every sparsifier and consensus of generalised task arithmetic. The paper combines them
//! with TIES and DARE at density 0.55 without saying whether norms are taken before or after pruning: before is the
//! default (`norms_from: raw`).

use super::gta::{DENSITY, ELECTION, EPSILON, GAMMA, Gta, LAMBDA, SCOPE, Sparsify, normalize, rescale};
use super::{BaseRole, Group, Method, Rule};
use crate::params::{Default, Kind, Level, Param};
use crate::task::Task;

/// The table entry.
pub static METAGPT: Method = Method {
    name: "metagpt",
    summary: "closed-form coefficients from task vector norms",
    source: "arXiv 2406.11385",
    base: BaseRole::Origin,
    operands: (1, usize::MAX),
    crops_embeddings: true,
    passes: "2, more if sparsified",
    params: &[
        Param {
            name: "granularity",
            level: Level::Global,
            kind: Kind::Choice(&["model", "layer", "tensor"]),
            default: Default::Choice("model"),
            help: "what shares a coefficient",
        },
        Param {
            name: "delta",
            level: Level::Model,
            kind: Kind::Number { min: 0.0, max: f64::INFINITY, min_open: true },
            default: Default::Number(1.0),
            help: "curvature of the model's task, if known",
        },
        Param {
            name: "norms_from",
            level: Level::Global,
            kind: Kind::Choice(&["raw", "pruned"]),
            default: Default::Choice("raw"),
            help: "take norms before or after sparsification",
        },
        Param {
            name: "sparsify",
            level: Level::Global,
            kind: Kind::Choice(&["none", "magnitude", "random", "magnitude_outliers", "della_magprune"]),
            default: Default::Choice("none"),
            help: "which elements of the task vectors are kept: as in ties, dare, breadcrumbs, della",
        },
        Param {
            name: "consensus",
            level: Level::Global,
            kind: Kind::Choice(&["none", "sum"]),
            default: Default::Choice("none"),
            help: "elect signs as ties does",
        },
        DENSITY,
        GAMMA,
        EPSILON,
        normalize(false),
        rescale(false),
        SCOPE,
        ELECTION,
        LAMBDA,
    ],
    build,
};

fn build(task: &Task) -> Result<Box<dyn Rule>, String> {
    let word = |name: &str| task.word(&METAGPT, name).unwrap_or_default();
    let group = match word("granularity").as_str() {
        "layer" => Some(Group::Layer),
        "tensor" => None,
        _ => Some(Group::Model),
    };
    let delta = task.per_model(&METAGPT, "delta")?;
    let weighting = Weighting::MetaGpt { delta, group, pruned: word("norms_from") == "pruned" };
    let sparsify = match word("sparsify").as_str() {
        "magnitude" => Sparsify::Magnitude,
        "random" => Sparsify::Random,
        "magnitude_outliers" => Sparsify::Outliers,
        "della_magprune" => Sparsify::Della,
        _ => Sparsify::None,
    };
    Ok(Box::new(Gta::new(task, &METAGPT, weighting, sparsify, word("consensus") == "sum")?))
}

/// Where the weights of task vectors come from.
#[derive(Debug, Clone)]
pub(super) enum Weighting {
    /// From the recipe.
    Given(Vec<f64>),
    /// From the norms of the task vectors.
    MetaGpt {
        /// Curvature of each task.
        delta: Vec<f64>,
        /// What shares a coefficient; nothing: each tensor has its own.
        group: Option<Group>,
        /// Norms of the sparsified vectors.
        pruned: bool,
    },
}

impl Weighting {
    pub(super) fn group(&self) -> Option<Group> {
        if let Self::MetaGpt { group, .. } = self { *group } else { None }
    }

    pub(super) fn pruned(&self) -> bool {
        matches!(self, Self::MetaGpt { pruned: true, .. })
    }

    pub(super) fn coefficients(&self, squared_norms: &[f64]) -> Vec<f64> {
        match self {
            Self::Given(weights) => weights.clone(),
            Self::MetaGpt { delta, .. } => coefficients(squared_norms, delta),
        }
    }
}

/// `λₜ = δₜ²‖τₜ‖² / Σₖ δₖ²‖τₖ‖²`; 1/T if all are zero.
pub fn coefficients(squared_norms: &[f64], delta: &[f64]) -> Vec<f64> {
    let terms: Vec<f64> = squared_norms.iter().zip(delta).map(|(n, d)| d * d * n).collect();
    let sum: f64 = terms.iter().sum();
    if sum > 0.0 && sum.is_finite() {
        return terms.iter().map(|t| t / sum).collect();
    }
    // Norms beyond the range of f64 squares cannot come from f32 inputs; zeros can.
    vec![1.0 / terms.len() as f64; terms.len()]
}
