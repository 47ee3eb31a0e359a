//! Generalised task arithmetic: `θ* = θ₀ + λ · mix(sparsify(τ₁), …, sparsify(τ_K))`. Eight methods are rows of one table:
//! weighting × sparsifier × consensus × normalisation × rescaling.
//!
//! Task arithmetic: Ilharco et al., ICLR 2023, arXiv 2212.04089. TIES: Yadav et al., NeurIPS 2023, arXiv 2306.01708.
//! DARE: Yu et al., ICML 2024, arXiv 2311.03099. Breadcrumbs: Davari & Belilovsky, ECCV 2024, arXiv 2312.06795.
//! DELLA: Deep et al., 2024, arXiv 2406.11617.
//!
//! Defaults and the meaning of every key are mergekit's: sign election of the *weighted* vectors, weighted mean,
//! rescaling that restores the L1 norm of each tensor, cut-offs per tensor. The papers' forms are keys away:
//! `rescale: inverse_density`, `scope: model`, `election: paper`. Deviations: a density that keeps no element keeps
//! none (mergekit fails); `gamma` that drops no element drops none (mergekit then drops all); DELLA's ranks in tensors
//! of more than two dimensions run over whole filters (all but the first dimension). With `scope: model` a tensor whose
//! density is 1 keeps everything and takes no part in the ranking of the others.

use onefold_runtime::Aligned;

use super::metagpt::Weighting;
use super::{BaseRole, Combination, Kernel, Method, ModelSurvey, Needs, Rule, Scratch, WEIGHT};
use crate::MergeError;
use crate::kernels::mix::{Votes, elect, sign_sum};
use crate::kernels::reduce::{dot, l1, sum_in_order};
use crate::kernels::{add, scale};
use crate::order::{self, Vectors};
use crate::params::{Default, Kind, Level, Param};
use crate::recording;
use crate::scan::{Grain, Scan, View};
use crate::sparsify::{self, Mask, Sparsifier, grain_of};
use crate::task::Task;

macro_rules! table_entry {
    ($id:ident, $name:literal, $summary:literal, $source:literal, $passes:literal, $sparsifier:ident, $consensus:expr, [$($param:expr),*]) => {
        /// The table entry.
        pub static $id: Method = Method {
            name: $name,
            summary: $summary,
            source: $source,
            base: BaseRole::Origin,
            operands: (1, usize::MAX),
            crops_embeddings: true,
            passes: $passes,
            params: &[WEIGHT, $($param,)* LAMBDA, INT8_MASK],
            build: |task| build(task, &$id, Sparsify::$sparsifier, $consensus),
        };
    };
}

table_entry!(
    TASK_ARITHMETIC,
    "task_arithmetic",
    "weighted sum of task vectors on the base",
    "arXiv 2212.04089",
    "1",
    None,
    false,
    [normalize(false)]
);
table_entry!(
    TIES,
    "ties",
    "keep large changes, elect signs, average agreeing",
    "arXiv 2306.01708",
    "4",
    Magnitude,
    true,
    [DENSITY, normalize(true), rescale(false), SCOPE, ELECTION]
);
table_entry!(
    DARE_LINEAR,
    "dare_linear",
    "drop random changes, rescale the rest",
    "arXiv 2311.03099",
    "1 or 2",
    Random,
    false,
    [DENSITY, normalize(false), rescale(true)]
);
table_entry!(
    DARE_TIES,
    "dare_ties",
    "drop random changes, then elect signs",
    "arXiv 2311.03099",
    "1 or 2",
    Random,
    true,
    [DENSITY, normalize(false), rescale(true), ELECTION]
);
table_entry!(
    BREADCRUMBS,
    "breadcrumbs",
    "drop the largest and the smallest changes",
    "arXiv 2312.06795",
    "4",
    Outliers,
    false,
    [DENSITY, GAMMA, normalize(false), rescale(false), SCOPE]
);
table_entry!(
    BREADCRUMBS_TIES,
    "breadcrumbs_ties",
    "breadcrumbs, then elect signs",
    "arXiv 2312.06795",
    "4",
    Outliers,
    true,
    [DENSITY, GAMMA, normalize(false), rescale(false), SCOPE, ELECTION]
);
table_entry!(
    DELLA,
    "della",
    "drop by magnitude-ranked probability, then elect signs",
    "arXiv 2406.11617",
    "1 or 2",
    Della,
    true,
    [DENSITY, EPSILON, normalize(true), rescale(true), ELECTION]
);
table_entry!(
    DELLA_LINEAR,
    "della_linear",
    "drop by magnitude-ranked probability, rescale",
    "arXiv 2406.11617",
    "1 or 2",
    Della,
    false,
    [DENSITY, EPSILON, normalize(false), rescale(true)]
);

/// Share of the elements that is kept.
pub const DENSITY: Param = Param {
    name: "density",
    level: Level::Model,
    kind: Kind::Number { min: 0.0, max: 1.0, min_open: false },
    default: Default::Number(1.0),
    help: "share of each task vector that is kept",
};
/// Share of the largest elements that Breadcrumbs drops.
pub const GAMMA: Param = Param {
    name: "gamma",
    level: Level::Model,
    kind: Kind::Number { min: 0.0, max: 1.0, min_open: false },
    default: Default::Number(0.01),
    help: "share of the largest elements that is dropped as outliers",
};
/// Spread of DELLA's probabilities.
pub const EPSILON: Param = Param {
    name: "epsilon",
    level: Level::Model,
    kind: Kind::Number { min: 0.0, max: 0.5, min_open: false },
    default: Default::Number(0.15),
    help: "keep probabilities span density ± epsilon by rank of magnitude",
};
/// Factor of the merged task vector.
pub const LAMBDA: Param = Param {
    name: "lambda",
    level: Level::Global,
    kind: Kind::NUMBER,
    default: Default::Number(1.0),
    help: "factor of the merged task vector",
};
const INT8_MASK: Param = Param {
    name: "int8_mask",
    level: Level::Global,
    kind: Kind::Flag,
    default: Default::Flag(false),
    help: "accepted for mergekit's sake; masks take a bit per element at most here, and results are the same",
};
/// Over which elements magnitudes are ranked.
pub const SCOPE: Param = Param {
    name: "scope",
    level: Level::Global,
    kind: Kind::Choice(&["tensor", "model"]),
    default: Default::Choice("tensor"),
    help: "rank magnitudes within each tensor, or over the whole model as in the papers",
};
/// How signs are elected.
pub const ELECTION: Param = Param {
    name: "election",
    level: Level::Global,
    kind: Kind::Choice(&["weighted", "paper"]),
    default: Default::Choice("weighted"),
    help: "elect signs by the weighted sum; or by the plain sum, zeros taking the majority sign of the tensor",
};

/// Whether to divide by the weights.
pub const fn normalize(default: bool) -> Param {
    Param {
        name: "normalize",
        level: Level::Global,
        kind: Kind::Flag,
        default: Default::Flag(default),
        help: "divide by the sum of the (agreeing) weights",
    }
}

/// How the dropped part is made up for.
pub const fn rescale(default: bool) -> Param {
    Param {
        name: "rescale",
        level: Level::Global,
        kind: Kind::FlagOr(&["l1", "inverse_density", "none"]),
        default: Default::Flag(default),
        help: "scale what is kept: to the L1 norm before (`true`, `l1`), by 1/density as in the DARE paper, or not",
    }
}

/// Which elements of a task vector survive, before its parameters are known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sparsify {
    None,
    Magnitude,
    Random,
    Outliers,
    Della,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rescale {
    None,
    L1,
    InverseDensity,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Consensus {
    None,
    /// Signs by the weighted sum.
    Weighted,
    /// Signs by the plain sum; zeros take the tensor's majority.
    Paper,
}

/// One row of the table with its parameters.
#[derive(Debug)]
pub(super) struct Gta {
    pub(super) weighting: Weighting,
    sparsifiers: Vec<Sparsifier>,
    consensus: Consensus,
    normalize: bool,
    rescale: Rescale,
    lambda: f64,
    model_scope: bool,
}

fn build(
    task: &Task,
    method: &'static Method,
    sparsify: Sparsify,
    consensus: bool,
) -> Result<Box<dyn Rule>, String> {
    let weighting = Weighting::Given(task.per_model(method, "weight")?);
    Ok(Box::new(Gta::new(task, method, weighting, sparsify, consensus)?))
}

impl Gta {
    pub(super) fn new(
        task: &Task,
        method: &'static Method,
        weighting: Weighting,
        sparsify: Sparsify,
        consensus: bool,
    ) -> Result<Self, String> {
        let paper =
            method.param("election").is_some() && task.word(method, "election").as_deref() == Some("paper");
        let rescale =
            if method.param("rescale").is_some() { read_rescale(task, method) } else { Rescale::None };
        Ok(Self {
            weighting,
            sparsifiers: sparsifiers(task, method, sparsify)?,
            consensus: match (consensus, paper) {
                (false, _) => Consensus::None,
                (true, false) => Consensus::Weighted,
                (true, true) => Consensus::Paper,
            },
            normalize: task.flag(method, "normalize"),
            rescale,
            lambda: task.required(method, "lambda")?,
            model_scope: method.param("scope").is_some()
                && task.word(method, "scope").as_deref() == Some("model"),
        })
    }

    /// Squared norms of the task vectors after sparsification (`pruned`) or before.
    fn norms(&self, scan: &Scan, masks: Option<&[Mask]>) -> Result<Vec<f64>, MergeError> {
        let parts = match masks {
            None => scan.map(Grain::Element, |view| view.vectors.iter().map(|x| dot(x, x)).collect())?,
            Some(masks) => scan.map(grain_of(masks), |view| {
                let mut scratch = Scratch::default();
                let one = |(i, mask)| {
                    apply(mask, view, i, &mut scratch);
                    dot(&scratch.a, &scratch.a)
                };
                masks.iter().enumerate().map(one).collect()
            })?,
        };
        Ok(sum_in_order(parts, scan.k()))
    }

    /// The masks of this tensor.
    fn masks(&self, scan: &Scan, survey: &ModelSurvey) -> Result<Vec<Mask>, MergeError> {
        let n = scan.len() as u64;
        let cuts = match &survey.cuts {
            Some(cuts) => cuts.clone(),
            None => order::cuts(&[scan], Grain::Element, &Vectors, &self.ranks(n))?,
        };
        let divide = self.rescale == Rescale::InverseDensity;
        Ok(self.sparsifiers.iter().zip(&cuts).map(|(s, cuts)| s.mask(scan, cuts, divide)).collect())
    }

    /// What each masked vector is multiplied with to make up for what was dropped, and the masks for the next pass.
    fn factors(&self, scan: &Scan, masks: Vec<Mask>) -> Result<(Vec<f64>, Vec<Mask>), MergeError> {
        let k = scan.k();
        match self.rescale {
            Rescale::None => Ok((vec![1.0; k], masks)),
            Rescale::InverseDensity => Ok((masks.iter().map(Mask::inverse_density).collect(), masks)),
            Rescale::L1 if masks.iter().all(|m| matches!(m, Mask::All)) => Ok((vec![1.0; k], masks)),
            Rescale::L1 => {
                let norms = |i: usize, view: &View<'_>, kept: &[f32]| [l1(&view.vectors[i]), l1(kept)];
                let (parts, masks) = sparsify::record(scan, masks, norms)?;
                let sums = sum_in_order(parts.iter().map(|part| part.concat()).collect::<Vec<_>>(), 2 * k);
                let factor = |s: &[f64]| if s[0] < 1e-7 || s[1] < 1e-7 { 1.0 } else { s[0] / s[1] };
                Ok((sums.chunks(2).map(factor).collect(), masks))
            }
        }
    }
}

impl Rule for Gta {
    fn recorded_bytes(&self, scan: &Scan) -> u64 {
        let random = |s: &&Sparsifier| matches!(s, Sparsifier::Random { .. } | Sparsifier::Della { .. });
        match self.rescale {
            Rescale::L1 => recording::bytes_of(scan, self.sparsifiers.iter().filter(random).count()) as u64,
            Rescale::None | Rescale::InverseDensity => 0,
        }
    }

    fn elects_signs(&self) -> bool {
        self.consensus != Consensus::None
    }

    fn needs(&self) -> Needs {
        Needs {
            norms: self.weighting.group(),
            cuts: self.model_scope && self.sparsifiers.iter().any(|s| s.keep(1).is_some()),
        }
    }

    fn ranks(&self, n: u64) -> Vec<Vec<u64>> {
        self.sparsifiers.iter().map(|s| s.keep(n).unwrap_or_default()).collect()
    }

    fn squared_norms(&self, scan: &Scan, survey: &ModelSurvey) -> Result<Vec<f64>, MergeError> {
        if self.weighting.pruned() {
            return self.norms(scan, Some(&self.masks(scan, survey)?));
        }
        self.norms(scan, None)
    }

    fn prepare(&self, scan: &Scan, survey: &ModelSurvey) -> Result<Box<dyn Kernel>, MergeError> {
        let masks = self.masks(scan, survey)?;
        let weights = match (&self.weighting, &survey.squared_norms) {
            (Weighting::Given(weights), _) => weights.clone(),
            (metagpt, Some(norms)) => metagpt.coefficients(norms),
            (metagpt, None) => metagpt.coefficients(&self.squared_norms(scan, survey)?),
        };
        let (factors, masks) = self.factors(scan, masks)?;
        let divisor = match (self.consensus, self.normalize) {
            (Consensus::None, true) => {
                Some(weights.iter().sum::<f64>()).filter(|s| s.abs() >= 1e-8).unwrap_or(1.0)
            }
            _ => 1.0,
        };
        let scales: Vec<f64> =
            weights.iter().zip(&factors).map(|(w, f)| w * f * self.lambda / divisor).collect();
        if self.consensus == Consensus::None && masks.iter().all(|m| matches!(m, Mask::All)) {
            return Ok(Combination::kernel(scales));
        }
        let zero_sign = match self.consensus {
            Consensus::Paper => majority(scan, &masks)?,
            Consensus::None | Consensus::Weighted => 1.0,
        };
        Ok(Box::new(Mix {
            masks,
            weights,
            factors,
            scales,
            consensus: self.consensus,
            normalize: self.normalize,
            lambda: self.lambda as f32,
            zero_sign,
        }))
    }
}

/// The sign that zero sums take: the sign of most of the elected signs of the tensor.
pub(super) fn majority(scan: &Scan, masks: &[Mask]) -> Result<f32, MergeError> {
    let parts = scan.map(grain_of(masks), |view| {
        let (mut scratch, mut sum) = (Scratch::default(), vec![0.0; view.len()]);
        for (i, mask) in masks.iter().enumerate() {
            apply(mask, view, i, &mut scratch);
            add(&mut sum, &scratch.a);
        }
        sign_sum(&sum)
    })?;
    Ok(if parts.into_iter().sum::<i64>() < 0 { -1.0 } else { 1.0 })
}

fn read_rescale(task: &Task, method: &Method) -> Rescale {
    match task.word(method, "rescale").as_deref() {
        Some("l1") => Rescale::L1,
        Some("inverse_density") => Rescale::InverseDensity,
        Some(_) => Rescale::None,
        None if task.flag(method, "rescale") => Rescale::L1,
        None => Rescale::None,
    }
}

fn sparsifiers(task: &Task, method: &'static Method, sparsify: Sparsify) -> Result<Vec<Sparsifier>, String> {
    let k = task.scan.k();
    let of = |name: &str| task.per_model(method, name);
    if sparsify == Sparsify::None {
        return Ok(vec![Sparsifier::None; k]);
    }
    let densities = of("density")?;
    let stream =
        |i: usize| onefold_runtime::Stream::new(task.seed, &task.scan.operands[i].model, &task.scan.name);
    let (gammas, epsilons) = match sparsify {
        Sparsify::Outliers => (of("gamma")?, Vec::new()),
        Sparsify::Della => (Vec::new(), of("epsilon")?),
        _ => (Vec::new(), Vec::new()),
    };
    let sparsifier = |(i, density): (usize, &f64)| match sparsify {
        _ if *density >= 1.0 => Ok(Sparsifier::None),
        Sparsify::Magnitude => Ok(Sparsifier::Magnitude { density: *density }),
        Sparsify::Random => Ok(Sparsifier::Random { density: *density, stream: stream(i) }),
        Sparsify::Outliers => Ok(Sparsifier::Outliers { density: *density, gamma: gammas[i] }),
        Sparsify::Della => Sparsifier::della(*density, epsilons[i], stream(i)),
        Sparsify::None => Ok(Sparsifier::None),
    };
    densities.iter().enumerate().map(sparsifier).collect()
}

/// Writes the masked operand `i` to `scratch.a`.
fn apply(mask: &Mask, view: &View<'_>, i: usize, scratch: &mut Scratch) {
    scratch.a.resize(view.len());
    mask.apply(view, i, &mut scratch.mask, &mut scratch.a);
}

/// The local part: masks, then either a plain sum or election and disjoint sum.
#[derive(Debug)]
struct Mix {
    masks: Vec<Mask>,
    weights: Vec<f64>,
    factors: Vec<f64>,
    /// weight × factor × λ ÷ divisor: all that a plain sum needs.
    scales: Vec<f64>,
    consensus: Consensus,
    normalize: bool,
    lambda: f32,
    zero_sign: f32,
}

impl Kernel for Mix {
    fn grain(&self) -> Grain {
        grain_of(&self.masks)
    }

    fn coefficients(&self) -> Option<Vec<f64>> {
        Some(self.weights.iter().map(|w| w * f64::from(self.lambda)).collect())
    }

    fn merge(&self, block: &View<'_>, scratch: &mut Scratch, out: &mut [f32]) {
        match self.consensus {
            Consensus::None => self.sum(block, scratch, out),
            Consensus::Weighted | Consensus::Paper => self.elect(block, scratch, out),
        }
    }
}

impl Mix {
    fn sum(&self, block: &View<'_>, scratch: &mut Scratch, out: &mut [f32]) {
        out.fill(0.0);
        for (i, mask) in self.masks.iter().enumerate() {
            mask.add_scaled(block, i, self.scales[i] as f32, &mut scratch.mask, out);
        }
    }

    fn elect(&self, block: &View<'_>, scratch: &mut Scratch, out: &mut [f32]) {
        let k = self.masks.len();
        let Scratch { rows, a, mask, .. } = scratch;
        let paper = self.consensus == Consensus::Paper;
        rows.resize_with(k, Aligned::default);
        a.resize(if paper { block.len() } else { 0 });
        a.fill(0.0);
        for (i, row) in rows.iter_mut().enumerate() {
            row.resize(block.len());
            let weight = (self.weights[i] * self.factors[i]) as f32;
            if paper {
                self.masks[i].apply(block, i, mask, row);
                add(a, row);
                scale(row, weight);
            } else {
                self.masks[i].apply_scaled(block, i, weight, mask, row);
            }
        }
        let votes = if paper { Votes::Of(a, self.zero_sign) } else { Votes::Sum };
        let weights: Option<Vec<f32>> =
            self.normalize.then(|| self.weights.iter().map(|w| *w as f32).collect());
        elect(rows, votes, weights.as_deref(), out);
        if self.lambda != 1.0 {
            scale(out, self.lambda);
        }
    }
}
