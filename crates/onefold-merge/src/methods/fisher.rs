//! Fisher-weighted averaging (Matena & Raffel, NeurIPS 2022, arXiv 2111.09832).
//!
//! `θ* = Σ λₘ Fₘ∘θₘ / Σ λₘ Fₘ`, element by element: equation 4 of the paper with the diagonal `Fₘ` of each model's Fisher
//! information, measured on the model's own inputs. `Fₘ` is what was measured plus `floor` (the paper's 1e-6), so an
//! element that no model has information about takes the mean, weighted by λ; so it does without a floor. `λₘ` is the
//! model's `weight`; their scale does not matter. `normalize: true` divides λₘ by `‖Fₘ‖₂` over the whole model (floor
//! included, as FusionBench does): models whose likelihoods are sharper everywhere then do not outvote the others. That
//! takes one more pass over the statistics. A tensor that repeats another (tied weights) counts once in the norm.
//!
//! A tensor without statistics (what the model that was measured does not train, or has no gradient) takes the mean, with
//! the same weights but without `normalize`. Statistics are all or none per tensor. One model, or equal models, give
//! themselves. All is computed in f64 from f32 inputs and rounded once.
//!
//! Deviation: heads of classes are merged as all else if the models share their shape; the paper leaves them apart.
//!
//! [`FISHER_NODES`] is the same with structured weights: one number per attention head and per neuron, which was measured at
//! mask nodes, is the weight of all elements of its rows (Thennal D K et al., LREC-COLING 2024, arXiv 2403.09891). Which tensor
//! gets which number is the matter of whoever measures; here they are statistics of the tensor's shape. Its floor is 0, as in
//! the published code, and an element that no model has information about takes the mean.

use super::{BaseRole, Combination, Group, Kernel, Method, ModelSurvey, Needs, Rule, Scratch};
use crate::MergeError;
use crate::kernels::weighed;
use crate::params::{Default, Kind, Level, Param};
use crate::scan::{Grain, Operand, Scan, View};
use crate::task::Task;

/// The table entry.
pub static FISHER: Method = Method {
    name: "fisher",
    summary: "average weighted by each model's Fisher information",
    source: "arXiv 2111.09832",
    base: BaseRole::Donor,
    operands: (1, usize::MAX),
    crops_embeddings: false,
    passes: "1, 2 if normalised",
    params: &[WEIGHT, floor(1e-6), NORMALIZE],
    build: |task| build(&FISHER, task),
};

/// The table entry.
pub static FISHER_NODES: Method = Method {
    name: "fisher_nodes",
    summary: "average weighted by the Fisher information of heads and neurons",
    source: "arXiv 2403.09891",
    params: &[
        WEIGHT,
        floor(0.0),
        NORMALIZE,
        Param {
            name: "mean_elsewhere",
            level: Level::Global,
            kind: Kind::Flag,
            default: Default::Flag(false),
            help: "what belongs to no head and no neuron counts as the mean of all of them does, and not 1",
        },
    ],
    build: |task| build(&FISHER_NODES, task),
    ..FISHER
};

const WEIGHT: Param = Param {
    name: "weight",
    level: Level::Model,
    kind: Kind::Number { min: 0.0, max: f64::INFINITY, min_open: false },
    default: Default::Number(1.0),
    help: "factor of the model's Fisher information",
};

const fn floor(default: f64) -> Param {
    Param {
        name: "floor",
        level: Level::Global,
        kind: Kind::Number { min: 0.0, max: f64::INFINITY, min_open: false },
        default: Default::Number(default),
        help: "added to the Fisher information of every element",
    }
}

const NORMALIZE: Param = Param {
    name: "normalize",
    level: Level::Global,
    kind: Kind::Flag,
    default: Default::Flag(false),
    help: "divide each weight by the norm of the model's Fisher information",
};

#[derive(Debug, Clone)]
struct Fisher {
    /// Not negative, not all 0, at most 1.
    weights: Vec<f64>,
    floor: f64,
    normalize: bool,
    /// Whether the tensor has statistics.
    measured: bool,
}

fn build(method: &'static Method, task: &Task) -> Result<Box<dyn Rule>, String> {
    let mut weights = task.per_model(method, "weight")?;
    let largest = weights.iter().fold(0.0, |a: f64, b| a.max(*b));
    if largest == 0.0 || !largest.is_finite() {
        return Err(
            "the weights of all models are 0 or one is infinite: give at least one model a weight".into()
        );
    }
    // Their scale does not matter, and f64 holds all products so.
    weights.iter_mut().for_each(|w| *w /= largest);
    let measured = !task.statistics_of(&task.scan.shape)?.is_empty();
    let floor = task.required(method, "floor")?;
    let normalize = task.flag(method, "normalize");
    Ok(Box::new(Fisher { weights, floor, normalize, measured }))
}

impl Rule for Fisher {
    fn weighs_elements(&self) -> bool {
        self.measured
    }

    fn needs(&self) -> Needs {
        Needs { norms: (self.measured && self.normalize).then_some(Group::Model), cuts: false }
    }

    fn squared_norms(&self, scan: &Scan, _: &ModelSurvey) -> Result<Vec<f64>, MergeError> {
        let statistics = of_statistics(scan);
        let norms = |view: &View<'_>| -> Vec<f64> {
            view.vectors.iter().map(|f| weighed::squared_norm(f, self.floor)).collect()
        };
        let mut sums = vec![0.0; scan.k()];
        for block in statistics.map(Grain::Element, norms)? {
            sums.iter_mut().zip(block).for_each(|(sum, norm)| *sum += norm);
        }
        Ok(sums)
    }

    fn prepare(&self, scan: &Scan, model: &ModelSurvey) -> Result<Box<dyn Kernel>, MergeError> {
        if !self.measured {
            let sum: f64 = self.weights.iter().sum();
            return Ok(Combination::kernel(self.weights.iter().map(|w| w / sum).collect()));
        }
        let mut coefficients = self.weights.clone();
        for (i, norm) in model.squared_norms.iter().flatten().enumerate() {
            if *norm <= 0.0 {
                let message = format!(
                    "the Fisher information of {} is 0 everywhere and cannot be normalised: measure it again, or set \
                     `normalize: false`",
                    scan.operands[i].model
                );
                return Err(MergeError::Undefined { tensor: scan.name.clone(), message });
            }
            coefficients[i] /= norm.sqrt();
        }
        let sum: f64 = coefficients.iter().sum();
        coefficients.iter_mut().for_each(|c| *c /= sum);
        Ok(Box::new(Weighed { coefficients, floor: self.floor }))
    }
}

/// The statistics alone, as operands: the survey need not read the weights.
fn of_statistics(scan: &Scan) -> Scan {
    let operand = |(operand, statistic): (&Operand, &onefold_checkpoint::Tensor)| Operand {
        model: format!("the statistics of {}", operand.model),
        tensor: statistic.clone(),
    };
    Scan {
        operands: scan.operands.iter().zip(&scan.statistics).map(operand).collect(),
        origin: None,
        statistics: Vec::new(),
        ..scan.clone()
    }
}

#[derive(Debug)]
struct Weighed {
    /// λ of each model; they add up to 1.
    coefficients: Vec<f64>,
    floor: f64,
}

impl Kernel for Weighed {
    fn merge(&self, block: &View<'_>, _: &mut Scratch, out: &mut [f32]) {
        weighed::mean(block.vectors, block.statistics, &self.coefficients, self.floor, out);
    }
}
