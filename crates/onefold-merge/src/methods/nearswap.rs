//! NearSwap: move towards the other model where the two are close (Alchemonaut's method; behaviour of mergekit's `nearswap`).
//!
//! `θ* = w·x + (1−w)·b` with `w = clamp(t/max(|b−x|, 1e-6), 0, 1)`: differences below `t` are taken over whole.

use super::{BaseRole, Kernel, Method, ModelSurvey, Rule, Scratch};
use crate::MergeError;
use crate::params::{Default, Kind, Level, Param};
use crate::scan::{Scan, View};
use crate::task::Task;

/// The table entry.
pub static NEARSWAP: Method = Method {
    name: "nearswap",
    summary: "take over what differs little from the base",
    source: "mergekit",
    base: BaseRole::Origin,
    operands: (1, 1),
    crops_embeddings: false,
    passes: "1",
    params: &[Param {
        name: "t",
        level: Level::Global,
        kind: Kind::Number { min: 0.0, max: f64::INFINITY, min_open: false },
        default: Default::Required,
        help: "difference up to which the other model is taken",
    }],
    build,
};

#[derive(Debug, Clone, Copy)]
struct NearSwap {
    t: f32,
}

fn build(task: &Task) -> Result<Box<dyn Rule>, String> {
    Ok(Box::new(NearSwap { t: task.required(&NEARSWAP, "t")? as f32 }))
}

impl Rule for NearSwap {
    fn prepare(&self, _: &Scan, _: &ModelSurvey) -> Result<Box<dyn Kernel>, MergeError> {
        Ok(Box::new(*self))
    }
}

impl Kernel for NearSwap {
    fn merge(&self, block: &View<'_>, _: &mut Scratch, out: &mut [f32]) {
        for (o, delta) in out.iter_mut().zip(&block.vectors[0]) {
            *o = delta * (self.t / delta.abs().max(1e-6)).clamp(0.0, 1.0);
        }
    }
}
