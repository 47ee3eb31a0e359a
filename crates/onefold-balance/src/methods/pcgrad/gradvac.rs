//! GradVac: gradient vaccine (Wang et al., ICLR 2021, arXiv 2010.05874).
//!
//! As PCGrad, but gᵢ' meets gⱼ with a target ρᵢⱼ of their cosine c: if c < ρ, gᵢ' += gⱼ·‖gᵢ'‖(ρ√(1−c²) − c√(1−ρ²))/(‖gⱼ‖√(1−ρ²)), which makes
//! their cosine ρ. Then ρ ← (1−β)ρ + βc. It begins at zero, where the first step is PCGrad's.
//!
//! Over all shared parameters at once: the published variants by layer or matrix need a Gramian for each. The reference's guards of
//! 1e-8 are kept, but are never more than a millionth of what they guard.

use onefold_runtime::params::{Default, Kind};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::super::by_gramian::{ByGramian, LENGTH_OF_SUM, SHARED, Solver, UPDATE_EVERY};
use super::super::{Cost, Method};
use super::{Meetings, ORDER, Order, summed};
use crate::numeric::vector::dot;
use crate::numeric::{Matrix, guard};
use crate::rule::{Memory, View, lengths};
use crate::settings::Param;

/// The table entry.
pub static GRADVAC: Method = Method {
    name: "gradvac",
    aliases: &["gradient_vaccine"],
    summary: "gradients turned until they agree as much as usual",
    source: "arXiv 2010.05874",
    cost: Cost::Backward,
    validation: false,
    task_weights: false,
    simplex: false,
    params: &[
        Param {
            name: "beta",
            kind: Kind::Number { min: 0.0, max: 1.0, min_open: false },
            default: Default::Number(0.5),
            help: "share of the latest cosine in the target; 0 is `pcgrad`",
        },
        ORDER,
        LENGTH_OF_SUM,
        UPDATE_EVERY,
    ],
    build: |context| {
        let Settings { beta, order } = context.but(SHARED);
        let memory = Targets { rho: vec![vec![0.0; context.k()]; context.k()] };
        let meetings = Meetings::new(context, order);
        Ok(ByGramian::rule(context, GradVac { beta, meetings, memory }))
    },
};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Settings {
    beta: f64,
    order: Order,
}

#[derive(Debug)]
struct GradVac {
    beta: f64,
    meetings: Meetings,
    memory: Targets,
}

/// Targets of the cosines of each task with each other.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Targets {
    rho: Vec<Vec<f64>>,
}

impl Memory for Targets {
    fn check(&self, tasks: usize) -> Result<(), String> {
        lengths(tasks, &[self.rho.len()])?;
        lengths(tasks, &self.rho.iter().map(Vec::len).collect::<Vec<_>>())?;
        let cosines = self.rho.iter().flatten().all(|rho| rho.abs() <= 1.0);
        if cosines { Ok(()) } else { Err("a cosine beyond 1".to_owned()) }
    }
}

impl GradVac {
    /// The coefficients of gᵢ' after it has met the others, whose targets move along.
    fn met(&mut self, view: &View<'_>, gramian: &Matrix, i: usize) -> Vec<f64> {
        let mut p = vec![0.0; gramian.size()];
        p[i] = 1.0;
        for j in self.meetings.of(view, i) {
            let (own, other) = (gramian.length(&p), gramian.at(j, j).sqrt());
            let cosine = dot(&p, gramian.row(j)) / (own * other + guard(own * other));
            let cosine = cosine.clamp(-1.0, 1.0);
            let rho = &mut self.memory.rho[view.tasks[i]][view.tasks[j]];
            if cosine < *rho {
                p[j] += own * turn(cosine, *rho) / (other * sine(*rho) + guard(other));
            }
            *rho = ((1.0 - self.beta) * *rho + self.beta * cosine).clamp(-1.0, 1.0);
        }
        p
    }
}

fn sine(cosine: f64) -> f64 {
    (1.0 - cosine * cosine).max(0.0).sqrt()
}

/// `ρ√(1−c²) − c√(1−ρ²)`, the sine of the angle to turn by.
fn turn(cosine: f64, rho: f64) -> f64 {
    rho * sine(cosine) - cosine * sine(rho)
}

impl Solver for GradVac {
    fn sums(&self) -> bool {
        true
    }

    fn coefficients(&mut self, view: &View<'_>, gramian: &Matrix) -> Vec<f64> {
        let k = gramian.size();
        summed((0..k).map(|i| self.met(view, gramian, i)), k)
    }

    fn state(&self) -> Value {
        self.memory.save()
    }

    fn restore(&mut self, state: &Value) -> Result<(), String> {
        self.memory = Targets::load(state, self.memory.rho.len())?;
        Ok(())
    }
}
