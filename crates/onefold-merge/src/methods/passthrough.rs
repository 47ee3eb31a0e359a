//! Passthrough: one model's tensor as it is, or scaled. For stacking layers and for taking parts from different models.

use super::{BaseRole, Combination, Kernel, Method, ModelSurvey, Rule};
use crate::MergeError;
use crate::params::{Default, Kind, Level, Param};
use crate::scan::Scan;
use crate::task::Task;

/// The table entry.
pub static PASSTHROUGH: Method = Method {
    name: "passthrough",
    summary: "one model's tensors, as they are or scaled",
    source: "mergekit",
    base: BaseRole::Donor,
    operands: (1, 1),
    crops_embeddings: false,
    passes: "1",
    params: &[Param {
        name: "scale",
        level: Level::Model,
        kind: Kind::NUMBER,
        default: Default::Number(1.0),
        help: "factor",
    }],
    build,
};

#[derive(Debug)]
struct Passthrough {
    scale: f64,
}

fn build(task: &Task) -> Result<Box<dyn Rule>, String> {
    Ok(Box::new(Passthrough { scale: task.per_model(&PASSTHROUGH, "scale")?[0] }))
}

impl Rule for Passthrough {
    fn is_identity(&self) -> bool {
        self.scale == 1.0
    }

    fn prepare(&self, _: &Scan, _: &ModelSurvey) -> Result<Box<dyn Kernel>, MergeError> {
        Ok(Combination::kernel(vec![self.scale]))
    }
}
