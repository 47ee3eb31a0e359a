//! How much memory and disk a training takes: known from its plan.

use onefold_balance::Balancer;
use onefold_train::data::Task;
use onefold_train::tune::{Memory, Plan, Prepared};
use serde_json::{Value, json};

use super::{Session, refused};
use crate::jobs::show_bytes;
use crate::progress::Failure;

/// The program itself, its tables, stacks and buffers: what a training of a model of some kilobytes takes (33.4 MB on two cores).
pub(in crate::jobs) const FIXED: u64 = 32 << 20;

/// What a training takes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Predicted {
    pub(super) memory: Memory,
    /// Bytes of a checkpoint.
    pub(super) checkpoint: u64,
    /// Numbers that are trained, and numbers of the model.
    pub(super) trained: u64,
    pub(super) all: u64,
}

impl Predicted {
    /// From the plan.
    pub(super) fn of(
        session: &Session<'_>,
        plan: &Plan,
        tasks: &[Task],
        prepared: &Prepared,
        balancer: &Balancer,
    ) -> Result<Self, Failure> {
        let parameters = &prepared.parameters;
        let files = session.model.checkpoint.size();
        let memory = plan.memory(tasks, parameters, balancer, (session.dir, files)).map_err(refused)?;
        let trained = parameters.trainable().map(|(_, parameter)| parameter.len() as u64).sum();
        let all = parameters.iter().map(|(_, parameter)| parameter.len() as u64).sum();
        // The trained numbers and the state of the optimiser in f32, and the model or its adapters as they are stored.
        let is_whole = plan.products.len() == 1 && plan.products[0].head.is_none();
        let model = match (is_whole, parameters.has_adapters()) {
            (false, _) => 0,
            (true, true) => 4 * trained,
            (true, false) => files,
        };
        Ok(Self { memory, checkpoint: 4 * trained + memory.state + model, trained, all })
    }

    /// All memory.
    pub(super) fn total(&self) -> u64 {
        FIXED + self.memory.total()
    }

    /// By what it is for.
    pub(super) fn parts(&self) -> [(&'static str, u64); 7] {
        let Memory { files, parameters, gradients, state, activations, data } = self.memory;
        [
            ("model files, as they are read", files),
            ("parameters", parameters),
            ("gradients", gradients),
            ("optimizer and balancer", state),
            ("activations", activations),
            ("data", data),
            ("the program", FIXED),
        ]
    }

    /// For programs.
    pub(super) fn json(&self) -> Value {
        json!({"parts": self.memory, "program": FIXED, "total": self.total()})
    }

    /// Refuses a training that takes more than `limit`.
    pub(super) fn check(&self, limit: Option<u64>) -> Result<(), Failure> {
        let Some(limit) = limit.filter(|limit| self.total() > *limit) else { return Ok(()) };
        let parts: Vec<String> =
            self.parts().iter().map(|(name, bytes)| format!("{name} {}", show_bytes(*bytes))).collect();
        Err(Failure::usage(format!(
            "--max-memory {}: the training needs {} ({}); take a smaller `batch.micro` or `batch.length`, \
             `gradient_checkpointing: true`, or an `adapter`",
            show_bytes(limit),
            show_bytes(self.total()),
            parts.join(", ")
        )))
    }
}
