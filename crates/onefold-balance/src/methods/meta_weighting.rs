//! MetaWeighting (Mao et al., Findings of ACL 2022, "MetaWeighting: learning to weight tasks in multi-task learning").
//!
//! A trial step θ' = θ − η Σ wᵢ ∇Lᵢ(θ) on the batch; then Jₜᵢ = ∂Lₜ^val(θ')/∂wᵢ = −η ⟨∇Lₜ^val(θ'), ∇Lᵢ(θ)⟩. The rows of J, one for each
//! task's validation loss, are combined by the shortest convex combination Σ λₜJₜ (as MGDA does), and w ← Π(w − β Σ λₜJₜ), which the
//! step is then made with.
//!
//! Known at second hand only: the projection Π onto the simplex is ours, the source normalises. Where no direction lowers all
//! validation losses the combination is zero and w stays. Absent tasks keep their w.

use onefold_runtime::params::Default;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{COUNT, Cost, Method, POSITIVE};
use crate::contract::{Figure, Gradients, Needs};
use crate::numeric::min_norm;
use crate::numeric::vector::{normalised, onto_simplex, scaled, uniform};
use crate::numeric::{Matrix, vector};
use crate::rule::{Memory, Rule, View, lengths};
use crate::settings::Param;

/// The table entry.
pub static META_WEIGHTING: Method = Method {
    name: "meta_weighting",
    aliases: &["metaweighting"],
    summary: "weights that lower the validation losses after a trial step",
    source: "Findings of ACL 2022",
    cost: Cost::Lookahead,
    validation: true,
    task_weights: false,
    simplex: true,
    params: &[
        Param {
            name: "lr",
            kind: POSITIVE,
            default: Default::Number(1.0),
            help: "step size of the weights (β)",
        },
        Param {
            name: "trial_lr",
            kind: POSITIVE,
            default: Default::Optional,
            help: "step size of the trial step (η); by default the optimiser's",
        },
        Param {
            name: "interval",
            kind: COUNT,
            default: Default::Number(1.0),
            help: "steps from one update of the weights to the next",
        },
    ],
    build: |context| {
        let memory = Learned { weights: uniform(context.k()) };
        Ok(Box::new(MetaWeighting { settings: context.typed(), memory }))
    },
};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Settings {
    lr: f64,
    trial_lr: Option<f64>,
    interval: u64,
}

#[derive(Debug)]
struct MetaWeighting {
    settings: Settings,
    memory: Learned,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Learned {
    weights: Vec<f64>,
}

impl Memory for Learned {
    fn check(&self, tasks: usize) -> Result<(), String> {
        lengths(tasks, &[self.weights.len()])
    }
}

/// λ and `Σ λₜJₜ` of the rows of J.
pub fn common_descent(jacobian: &Matrix) -> (Vec<f64>, Vec<f64>) {
    let k = jacobian.size();
    let gramian = Matrix::of(k, |s, t| vector::dot(jacobian.row(s), jacobian.row(t)));
    let lambda = min_norm::weights(&gramian);
    let direction = (0..k).map(|i| (0..k).map(|t| lambda[t] * jacobian.at(t, i)).sum()).collect();
    (lambda, direction)
}

/// `Π(w − β Σ λₜJₜ)` onto the simplex.
pub fn updated(weights: &[f64], jacobian: &Matrix, lr: f64) -> Vec<f64> {
    let (_, direction) = common_descent(jacobian);
    // Beyond a million the rest of the simplex would be lost in rounding.
    let moved: Vec<f64> =
        weights.iter().zip(&direction).map(|(w, d)| w - (lr * d).clamp(-1e6, 1e6)).collect();
    onto_simplex(&moved)
}

impl MetaWeighting {
    /// Moves the weights of the view's tasks, whose sum stays.
    fn learn(&mut self, view: &View<'_>, products: &Matrix) {
        let own = view.of(&self.memory.weights);
        let share: f64 = own.iter().sum();
        let jacobian =
            Matrix::of(products.size(), |t, i| (-view.lr * products.at(t, i)).clamp(-1e100, 1e100));
        let moved = updated(&normalised(&own), &jacobian, self.settings.lr);
        let moved = scaled(&moved, share);
        view.tasks.iter().zip(moved).for_each(|(task, weight)| self.memory.weights[*task] = weight);
    }
}

impl Rule for MetaWeighting {
    fn needs(&self, step: u64) -> Needs {
        if !step.is_multiple_of(self.settings.interval) {
            return Needs::default();
        }
        let weights = self.memory.weights.clone();
        let gradients = Gradients::Lookahead { lr: self.settings.trial_lr, weights };
        Needs { gradients, ..Needs::default() }
    }

    fn weights(&mut self, view: &View<'_>) -> Vec<f64> {
        if let Some(products) = &view.products {
            self.learn(view, products);
        }
        normalised(&view.of(&self.memory.weights))
    }

    fn figures(&self) -> Vec<Figure> {
        vec![Figure::per_task("learned_weight", &self.memory.weights)]
    }

    fn state(&self) -> Value {
        self.memory.save()
    }

    fn restore(&mut self, state: &Value) -> Result<(), String> {
        self.memory = Learned::load(state, self.memory.weights.len())?;
        Ok(())
    }
}
