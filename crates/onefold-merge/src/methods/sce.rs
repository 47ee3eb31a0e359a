//! SCE: select by variance, calculate coefficients, erase minority signs (FuseChat, Wan et al., arXiv 2408.07990).
//!
//! 1. `select_topk < 1`: keep the positions with the largest variance over the models (population variance, ⌊k · number of
//!    non-zero variances⌋ of them, per tensor). 2. `wᵢ ∝ mean(τᵢ²)` of what is kept; uniform if these sum to less than
//!    1e-6 (mergekit's guard, which small fine-tunes meet often: the tensor then is a uniform sign consensus). 3. Elements
//!    against the elected sign of the unweighted sum are erased; the rest is averaged with the weights.
//!
//! Deviation: mergekit keeps the divisor of that mean at 1e-6 or more, which shrinks the changes of a model with a very
//! small share of the energy where it stands alone; here it is a mean there, too.
//!
//! mergekit's early exits (nothing to select) give a tensor of the wrong shape; here nothing selected means the base.

use onefold_runtime::Aligned;

use std::sync::Arc;

use super::{BaseRole, Kernel, Method, ModelSurvey, Rule, Scratch};
use crate::MergeError;
use crate::kernels::mix::{Votes, elect, keep_marked, keep_ranked};
use crate::kernels::reduce::{dot, sum_in_order};
use crate::kernels::{add, scale, spread};
use crate::order::{self, Computed, Cut};
use crate::params::{Default, Kind, Level, Param};
use crate::recording::{self, Marks, Recorder, Recording, marks_of};
use crate::scan::{Grain, Scan, View};
use crate::task::Task;

/// The table entry.
pub static SCE: Method = Method {
    name: "sce",
    summary: "select varying elements, weigh by energy, erase minorities",
    source: "arXiv 2408.07990",
    base: BaseRole::Origin,
    operands: (1, usize::MAX),
    crops_embeddings: false,
    passes: "2 to 5",
    params: &[
        Param {
            name: "select_topk",
            level: Level::Global,
            kind: Kind::Number { min: 0.0, max: 1.0, min_open: false },
            default: Default::Number(1.0),
            help: "share of the varying elements that is kept",
        },
        Param {
            name: "int8_mask",
            level: Level::Global,
            kind: Kind::Flag,
            default: Default::Flag(false),
            help: "accepted for mergekit's sake; results are the same",
        },
    ],
    build,
};

#[derive(Debug)]
struct Sce {
    select: f64,
}

fn build(task: &Task) -> Result<Box<dyn Rule>, String> {
    Ok(Box::new(Sce { select: task.required(&SCE, "select_topk")? }))
}

impl Rule for Sce {
    fn recorded_bytes(&self, scan: &Scan) -> u64 {
        recording::bytes_of(scan, usize::from(self.select < 1.0)) as u64
    }

    fn elects_signs(&self) -> bool {
        true
    }

    fn prepare(&self, scan: &Scan, _: &ModelSurvey) -> Result<Box<dyn Kernel>, MergeError> {
        let (energies, selection) = match self.cut(scan)? {
            None => (scan.map(Grain::Element, |view| energies(view, None))?, Selection::All),
            Some(cut) => select(scan, cut)?,
        };
        let (k, n) = (scan.k(), scan.len().max(1) as f64);
        let mean_squares: Vec<f64> = sum_in_order(energies, k).iter().map(|s| s / n).collect();
        let sum: f64 = mean_squares.iter().sum();
        let weights =
            if sum < 1e-6 { vec![1.0 / k as f64; k] } else { mean_squares.iter().map(|m| m / sum).collect() };
        Ok(Box::new(SceKernel { selection, weights }))
    }
}

impl Sce {
    /// The cut of the variances, if a part is selected.
    fn cut(&self, scan: &Scan) -> Result<Option<Cut>, MergeError> {
        if self.select >= 1.0 {
            return Ok(None);
        }
        let varying = scan.map(Grain::Element, |view| {
            let mut variances = vec![0.0; view.len()];
            variance(view, &mut variances);
            spread::count_nonzero(&variances)
        })?;
        let keep = (varying.iter().sum::<u64>() as f64 * self.select) as u64;
        Ok(order::cuts(&[scan], Grain::Element, &Computed(variance), &[vec![keep]])?[0].first().copied())
    }
}

/// Population variance over the models, element by element.
fn variance(view: &View<'_>, out: &mut [f32]) {
    spread::variance(view.vectors, out);
}

/// The elements whose variance is among the largest.
#[derive(Debug)]
enum Selection {
    All,
    Cut(Cut),
    Recorded(Arc<Recording>),
}

impl Selection {
    /// The marks of a block; `None` if all are selected.
    fn marks<'m>(&'m self, view: &View<'_>, buffer: &'m mut Option<Marks>) -> Option<&'m [u8]> {
        match self {
            Self::All => None,
            Self::Cut(cut) => Some(buffer.insert(marks(view, *cut))),
            Self::Recorded(recording) => Some(recording.marks(view)),
        }
    }
}

fn marks(view: &View<'_>, cut: Cut) -> Marks {
    let (mut variances, mut kept) = (vec![0.0; view.len()], vec![0.0; view.len()]);
    variance(view, &mut variances);
    keep_ranked(&variances, view.start as u64, cut, Cut::NOTHING, 1.0, &mut kept);
    marks_of(&kept)
}

/// Σ τᵢ² of a block over what is selected.
fn energies(view: &View<'_>, marks: Option<&[u8]>) -> Vec<f64> {
    let Some(marks) = marks else { return view.vectors.iter().map(|x| dot(x, x)).collect() };
    let mut kept = vec![0.0; view.len()];
    let one = |x: &Aligned| {
        keep_marked(x, marks, 1.0, &mut kept);
        dot(&kept, &kept)
    };
    view.vectors.iter().map(one).collect()
}

/// The energies of all blocks, and the selection for the next pass: recorded, if that fits the budget.
fn select(scan: &Scan, cut: Cut) -> Result<(Vec<Vec<f64>>, Selection), MergeError> {
    let recorder = Recorder::new(scan, Grain::Element, 1);
    let parts = scan.map(Grain::Element, |view| {
        let marks = marks(view, cut);
        (energies(view, Some(&marks)), recorder.is_some().then_some(marks))
    })?;
    let (energies, blocks): (Vec<Vec<f64>>, Vec<Option<Marks>>) = parts.into_iter().unzip();
    let recorded = recorder.map(|recorder| recorder.recording(blocks.into_iter().flatten().collect()));
    Ok((energies, recorded.map_or(Selection::Cut(cut), Selection::Recorded)))
}

#[derive(Debug)]
struct SceKernel {
    selection: Selection,
    weights: Vec<f64>,
}

impl Kernel for SceKernel {
    fn coefficients(&self) -> Option<Vec<f64>> {
        Some(self.weights.clone())
    }

    fn merge(&self, block: &View<'_>, scratch: &mut Scratch, out: &mut [f32]) {
        let Scratch { rows, a, .. } = scratch;
        let mut buffer = None;
        let marks = self.selection.marks(block, &mut buffer);
        let weights: Vec<f32> = self.weights.iter().map(|w| *w as f32).collect();
        rows.resize_with(block.vectors.len(), Aligned::default);
        a.resize(block.len());
        a.fill(0.0);
        for ((row, vector), w) in rows.iter_mut().zip(block.vectors).zip(&weights) {
            row.resize(block.len());
            match marks {
                Some(marks) => keep_marked(vector, marks, 1.0, row),
                None => row.copy_from_slice(vector),
            }
            add(a, row);
            scale(row, *w);
        }
        elect(rows, Votes::Of(a, 1.0), Some(&weights), out);
    }
}
