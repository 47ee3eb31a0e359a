//! Methods that look at a whole matrix: TSV-M (Gargiulo et al., CVPR 2025), Iso-C and Iso-CTS (Marczak et al., ICML 2025).
//! The mathematics is in [`crate::svd`]; here is what is done with which tensor.
//!
//! Matrices are merged by singular values; every other tensor, and every tensor whose name contains one of `exclude`,
//! takes the mean of the task vectors. `θ* = θ₀ + α·Δ`. Token embeddings are matrices too, large and slow: consider
//! `exclude: [embed_tokens, lm_head]`. A matrix and its merge are held in memory, one at a time.

use super::{BaseRole, Combination, Kernel, Method, ModelSurvey, Rule, Scratch};
use crate::MergeError;
use crate::params::{Default, Kind, Level, Param};
use crate::scan::{Grain, Scan, View};
use crate::svd::{SvdMethod, merge_matrix, peak_bytes};
use crate::task::Task;

const ALPHA: Param = Param {
    name: "alpha",
    level: Level::Global,
    kind: Kind::NUMBER,
    default: Default::Number(1.0),
    help: "factor of the merged task vector",
};
const EXCLUDE: Param = Param {
    name: "exclude",
    level: Level::Global,
    kind: Kind::TextList,
    default: Default::Optional,
    help: "tensors whose name contains one of these are averaged",
};

macro_rules! table_entry {
    ($id:ident, $name:literal, $summary:literal, $source:literal, [$($param:expr),*], $method:expr) => {
        /// The table entry.
        pub static $id: Method = Method {
            name: $name,
            summary: $summary,
            source: $source,
            base: BaseRole::Origin,
            operands: (1, usize::MAX),
            crops_embeddings: false,
            passes: "2",
            params: &[ALPHA, EXCLUDE, $($param),*],
            build: |task| build(task, &$id, $method(task)?),
        };
    };
}

table_entry!(
    TSV_M,
    "tsv_m",
    "task singular vectors, whitened against each other",
    "arXiv 2412.00081",
    [],
    |_: &Task| Ok::<_, String>(SvdMethod::TsvM)
);
table_entry!(
    ISO_C,
    "iso_c",
    "the sum with all singular values equal",
    "arXiv 2502.04959",
    [],
    |_: &Task| Ok::<_, String>(SvdMethod::IsoC)
);
table_entry!(
    ISO_CTS,
    "iso_cts",
    "common and task directions, equal singular values",
    "arXiv 2502.04959",
    [Param {
        name: "common_fraction",
        level: Level::Global,
        kind: Kind::Number { min: 0.0, max: 1.0, min_open: false },
        default: Default::Number(0.8),
        help: "share of directions that are common to all tasks",
    }],
    |task: &Task| Ok::<_, String>(SvdMethod::IsoCts {
        common_fraction: task.required(&ISO_CTS, "common_fraction")?
    })
);

fn build(task: &Task, method: &'static Method, svd: SvdMethod) -> Result<Box<dyn Rule>, String> {
    let excluded = task.words(method, "exclude").iter().any(|part| task.scan.name.contains(part.as_str()));
    let alpha = task.required(method, "alpha")?;
    Ok(Box::new(Svd { svd: (task.scan.shape.len() == 2 && !excluded).then_some(svd), alpha }))
}

#[derive(Debug)]
struct Svd {
    /// `None`: the tensor is averaged.
    svd: Option<SvdMethod>,
    alpha: f64,
}

impl Rule for Svd {
    fn whole_tensor_bytes(&self, scan: &Scan) -> u64 {
        let [rows, cols] = scan.shape[..] else { return 0 };
        self.svd.map_or(0, |svd| peak_bytes(svd, scan.k(), rows, cols) + 4 * (scan.k() * scan.len()) as u64)
    }

    fn prepare(&self, scan: &Scan, _: &ModelSurvey) -> Result<Box<dyn Kernel>, MergeError> {
        let (Some(svd), [rows, cols]) = (self.svd, &scan.shape[..]) else {
            return Ok(Combination::kernel(vec![self.alpha / scan.k() as f64; scan.k()]));
        };
        let parts = scan.map(Grain::Element, |view| view.vectors.to_vec())?;
        let delta = |k: usize| parts.iter().flat_map(|part| part[k].iter().copied()).collect::<Vec<f32>>();
        let deltas: Vec<Vec<f32>> = (0..scan.k()).map(delta).collect();
        drop(parts);
        let slices: Vec<&[f32]> = deltas.iter().map(Vec::as_slice).collect();
        let undefined = |e: crate::svd::SvdError| MergeError::Undefined {
            tensor: scan.name.clone(),
            message: e.to_string(),
        };
        let merged = merge_matrix(svd, &slices, *rows, *cols).map_err(undefined)?;
        Ok(Box::new(Merged { values: merged, alpha: self.alpha as f32 }))
    }
}

/// A tensor that was merged whole.
#[derive(Debug)]
pub(super) struct Merged {
    pub(super) values: Vec<f32>,
    pub(super) alpha: f32,
}

impl Kernel for Merged {
    fn merge(&self, block: &View<'_>, _: &mut Scratch, out: &mut [f32]) {
        crate::kernels::scaled(out, self.alpha, &self.values[block.start..block.start + block.len()]);
    }
}
