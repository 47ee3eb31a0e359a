//! DB-MTL: dual-balancing multi-task learning (Lin et al., arXiv 2308.12029).
//!
//! Losses are balanced by their logarithm, gradients by their length: with vᵢ the running average of ∇ln(Lᵢ + 1e-8), whose old share
//! is β/step^σ, d = Σ (maxⱼ‖vⱼ‖/(‖vᵢ‖ + 1e-8))·vᵢ; by default divided by K. The averages lie with the trainer
//! ([`crate::contract::Gradients::Averages`]); lengths are read off their Gramian, and no vector is touched here.
//!
//! An absent task keeps its average and has no part in the step. The guard is never more than a millionth of what it guards.

use onefold_runtime::params::{Default, Kind};
use serde::Deserialize;

use super::{Cost, Method, NOT_NEGATIVE};
use crate::contract::{Gradients, Losses, Needs};
use crate::numeric::{Matrix, guard};
use crate::rule::{Rule, View};
use crate::settings::Param;

/// The table entry.
pub static DB_MTL: Method = Method {
    name: "db_mtl",
    aliases: &["dbmtl"],
    summary: "logarithms of the losses, gradients of equal length",
    source: "arXiv 2308.12029",
    cost: Cost::Sums,
    validation: false,
    task_weights: false,
    simplex: false,
    params: &[
        Param {
            name: "beta",
            kind: Kind::Number { min: 0.0, max: 0.999, min_open: false },
            default: Default::Number(0.9),
            help: "share of the old in the running averages at the first step",
        },
        Param {
            name: "sigma",
            kind: NOT_NEGATIVE,
            default: Default::Number(0.5),
            help: "how fast that share falls: by step^sigma",
        },
        Param {
            name: "scale",
            kind: Kind::Choice(&["mean", "paper"]),
            default: Default::Choice("mean"),
            help: "the mean over tasks, or the published sum",
        },
    ],
    build: |context| Ok(Box::new(context.typed::<DbMtl>())),
};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct DbMtl {
    beta: f64,
    sigma: f64,
    scale: crate::rule::Scale,
}

/// `maxⱼ‖vⱼ‖/‖vᵢ‖`, from the averages' Gramian.
pub fn coefficients(gramian: &Matrix) -> Vec<f64> {
    let lengths: Vec<f64> = gramian.diagonal().iter().map(|square| square.sqrt()).collect();
    let longest = lengths.iter().copied().fold(0.0, f64::max);
    lengths.iter().map(|length| longest / (length + guard(*length))).collect()
}

impl Rule for DbMtl {
    fn needs(&self, step: u64) -> Needs {
        let keep = self.beta / (step as f64 + 1.0).powf(self.sigma);
        let gradients = Gradients::Averages { keep };
        Needs { losses: Losses::Before, gradients, positive: true, ..Needs::default() }
    }

    fn weights(&mut self, view: &View<'_>) -> Vec<f64> {
        let Some(gramian) = &view.products else { return view.uniform() };
        let published = coefficients(gramian);
        match self.scale {
            crate::rule::Scale::Paper => published,
            crate::rule::Scale::Mean => published.iter().map(|c| c / published.len() as f64).collect(),
        }
    }
}
