//! RAM and RAM+: merge what fine-tuning by reinforcement really changed (arXiv 2601.13572; behaviour of mergekit's `ram` and
//! `ramplus_tl`).
//!
//! An element of a task vector is active if its magnitude exceeds `epsilon`. Where one model is active its change is kept
//! whole, where several are their mean is taken. RAM+ multiplies the part that is unique to a model by
//! `1 + r · clip(ρ, 0, alpha)`, ρ = (number of its shared active elements)/(number of its unique ones), per tensor.

use super::{BaseRole, Kernel, Method, ModelSurvey, Rule, Scratch};
use crate::MergeError;
use crate::kernels::spread;
use crate::params::{Default, Kind, Level, Param};
use crate::scan::{Grain, Scan, View};

const EPSILON: Param = Param {
    name: "epsilon",
    level: Level::Global,
    kind: Kind::Number { min: 0.0, max: f64::INFINITY, min_open: false },
    default: Default::Number(1e-5),
    help: "magnitude above which a change counts",
};

/// The table entry.
pub static RAM: Method = Method {
    name: "ram",
    summary: "keep unique changes whole, average shared ones",
    source: "mergekit",
    base: BaseRole::Origin,
    operands: (1, usize::MAX),
    crops_embeddings: false,
    passes: "1",
    params: &[EPSILON],
    build: |task| Ok(Box::new(Ram { epsilon: task.required(&RAM, "epsilon")?, boost: None })),
};

/// The table entry.
pub static RAMPLUS_TL: Method = Method {
    name: "ramplus_tl",
    summary: "ram, with unique changes strengthened by overlap",
    source: "mergekit",
    base: BaseRole::Origin,
    operands: (1, usize::MAX),
    crops_embeddings: false,
    passes: "2",
    params: &[
        EPSILON,
        Param {
            name: "r",
            level: Level::Global,
            kind: Kind::NUMBER,
            default: Default::Number(0.1),
            help: "strength of the boost",
        },
        Param {
            name: "alpha",
            level: Level::Global,
            kind: Kind::Number { min: 0.0, max: f64::INFINITY, min_open: false },
            default: Default::Number(0.2),
            help: "largest overlap ratio that counts",
        },
    ],
    build: |task| {
        let number = |name| task.required(&RAMPLUS_TL, name);
        Ok(Box::new(Ram { epsilon: number("epsilon")?, boost: Some((number("r")?, number("alpha")?)) }))
    },
};

#[derive(Debug)]
struct Ram {
    epsilon: f64,
    /// (r, alpha) of RAM+.
    boost: Option<(f64, f64)>,
}

impl Rule for Ram {
    fn prepare(&self, scan: &Scan, _: &ModelSurvey) -> Result<Box<dyn Kernel>, MergeError> {
        let k = scan.k();
        let epsilon = self.epsilon as f32;
        let Some((r, alpha)) = self.boost else {
            return Ok(Box::new(RamKernel { epsilon, unique: vec![1.0; k] }));
        };
        let counts = scan.map(Grain::Element, |view| overlap(view, epsilon))?;
        let factor = |i: usize| {
            let (shared, unique) = counts.iter().fold((0, 0), |(s, u), part| (s + part[i].0, u + part[i].1));
            let ratio = shared as f64 / (unique as f64).max(self.epsilon.max(f64::MIN_POSITIVE));
            (1.0 + r * ratio.clamp(0.0, alpha)) as f32
        };
        Ok(Box::new(RamKernel { epsilon, unique: (0..k).map(factor).collect() }))
    }
}

/// Per model: numbers of active elements that others share, and that none shares.
fn overlap(view: &View<'_>, epsilon: f32) -> Vec<(u64, u64)> {
    let mut counts = vec![0.0; view.len()];
    view.vectors.iter().for_each(|v| spread::count_active(v, epsilon, &mut counts));
    view.vectors.iter().map(|v| spread::shared_and_unique(v, epsilon, &counts)).collect()
}

#[derive(Debug)]
struct RamKernel {
    epsilon: f32,
    /// Factor of the changes that only one model made, per model.
    unique: Vec<f32>,
}

impl Kernel for RamKernel {
    fn merge(&self, block: &View<'_>, scratch: &mut Scratch, out: &mut [f32]) {
        // out = sum of active changes, a = their number, b = the boosted change of the last active model.
        let Scratch { a, b, .. } = scratch;
        for buffer in [&mut *a, &mut *b] {
            buffer.resize(block.len());
            buffer.fill(0.0);
        }
        out.fill(0.0);
        for (vector, factor) in block.vectors.iter().zip(&self.unique) {
            spread::count_active(vector, self.epsilon, a);
            spread::add_active(vector, self.epsilon, *factor, out, b);
        }
        spread::settle(a, b, out);
    }
}
