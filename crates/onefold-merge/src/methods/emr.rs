//! EMR-Merging (Huang et al., NeurIPS 2024, arXiv 2405.17461): the table entry. It makes no model but an artefact from
//! which each task's model can be taken; see [`crate::emr`].
//!
//! As a kernel it elects the unified task vector: `θ₀ + γ · max |τ_t|` over the agreeing tasks.

use super::{BaseRole, Kernel, Method, ModelSurvey, Rule, Scratch};
use crate::MergeError;
use crate::emr::{Rescaler, elect};
use crate::params::{Default, Kind, Level, Param};
use crate::scan::{Scan, View};
use crate::task::Task;

/// The table entry.
pub static EMR: Method = Method {
    name: "emr",
    summary: "one task vector, with a mask and factor per task",
    source: "arXiv 2405.17461",
    base: BaseRole::Origin,
    operands: (1, usize::MAX),
    crops_embeddings: false,
    passes: "1",
    params: &[Param {
        name: "rescaler",
        level: Level::Global,
        kind: Kind::Choice(&["paper", "code"]),
        default: Default::Choice("paper"),
        help: "factor of a task: ratio of sums over all weights, or as the authors' code of sums of tensor means",
    }],
    build,
};

#[derive(Debug, Clone, Copy)]
struct Emr {
    rescaler: Rescaler,
}

fn build(task: &Task) -> Result<Box<dyn Rule>, String> {
    let code = task.word(&EMR, "rescaler").as_deref() == Some("code");
    Ok(Box::new(Emr { rescaler: if code { Rescaler::Code } else { Rescaler::Paper } }))
}

impl Rule for Emr {
    fn artefact(&self) -> Option<Rescaler> {
        Some(self.rescaler)
    }

    fn prepare(&self, _: &Scan, _: &ModelSurvey) -> Result<Box<dyn Kernel>, MergeError> {
        Ok(Box::new(*self))
    }
}

impl Kernel for Emr {
    fn merge(&self, block: &View<'_>, _: &mut Scratch, out: &mut [f32]) {
        elect(block.vectors, out);
    }
}
