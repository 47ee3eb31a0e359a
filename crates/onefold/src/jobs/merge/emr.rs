//! Streaming a plan into what it makes: a model, or an EMR artefact with its manifest.

use onefold_checkpoint::emr::{Adapter, Base, Fingerprint, Manifest, Task};
use onefold_checkpoint::output::Output;
use onefold_merge::MergeError;
use onefold_merge::emr::stream as emr;
use onefold_merge::stream::{self, Statistics};
use rayon::prelude::*;

use crate::models::{Library, Model};
use crate::plan::{EmrPlan, Plan};
use crate::progress::Shell;
use crate::recipe::ModelRef;

/// What is known once all weights are written.
pub(super) struct Streamed {
    pub(super) statistics: Vec<Option<Statistics>>,
    /// Of an artefact.
    pub(super) manifest: Option<Manifest>,
}

/// Runs the plan into `output`.
pub(super) fn run(
    plan: &Plan,
    library: &Library,
    finished: &[Option<String>],
    output: &Output,
    shell: &Shell,
) -> Result<Streamed, MergeError> {
    let Some(artefact) = &plan.artefact else {
        let statistics = stream::run(&plan.tensors, finished, output, shell)?;
        return Ok(Streamed { statistics, manifest: None });
    };
    let models: Vec<&str> = artefact.tasks.iter().map(|t| t.model.as_str()).collect();
    let seen = emr::run(&plan.tensors, &models, finished, output, shell)?;
    let lambdas = emr::rescalers(&plan.tensors, &seen, models.len(), artefact.rescaler);
    let base = library.all().find(|m| Some(&m.label) == plan.origin.as_ref());
    let manifest = base.map(|base| manifest(artefact, &lambdas, base));
    Ok(Streamed { statistics: seen.into_iter().map(|s| Some(s.statistics)).collect(), manifest })
}

fn manifest(artefact: &EmrPlan, lambdas: &[f64], base: &Model) -> Manifest {
    let task = |(task, lambda): (&crate::plan::EmrTask, &f64)| Task {
        name: task.name.clone(),
        model: task.model.clone(),
        lambda: *lambda,
    };
    let ModelRef { path, revision, lora, .. } = artefact.base.clone();
    let tensors: Vec<_> = base.checkpoint.tensors().iter().collect();
    let base = Base {
        path,
        revision,
        adapter: lora.map(|lora| Adapter { path: lora.path, revision: lora.revision }),
        tensors: tensors.into_par_iter().map(|(n, t)| (n.clone(), Fingerprint::of(t))).collect(),
    };
    let tasks = artefact.tasks.iter().zip(lambdas).map(task).collect();
    Manifest::new(env!("CARGO_PKG_VERSION"), artefact.rescaler.name(), tasks, base)
}
