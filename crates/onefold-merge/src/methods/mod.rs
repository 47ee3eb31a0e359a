//! The merge methods. [`METHODS`] is the one list: documentation, command-line help, recipe checks and contract tests
//! follow from it. To add a method, write its file and add its entry here.
//!
//! Methods that need statistics of the models' own inputs beside their weights stand in [`measured::MEASURED`].
//!
//! A method turns a [`Task`] into a [`Rule`]. The rule looks at the tensor as often as it needs ([`Rule::prepare`])
//! and returns a [`Kernel`] that is local to an element or a row; the stream applies the kernel block by block.

use onefold_runtime::Aligned;
use std::fmt::Debug;

use crate::MergeError;
use crate::emr::Rescaler;
use crate::order::Cut;
use crate::params::{Default, Kind, Level, Param};
use crate::scan::{Grain, Scan, View};
use crate::sparsify;
use crate::task::Task;

pub mod adamerging;
pub mod arcee_fusion;
pub mod emr;
pub mod fisher;
pub mod geometry;
pub mod gta;
pub mod karcher;
pub mod linear;
pub mod measured;
pub mod metagpt;
pub mod model_stock;
pub mod multislerp;
pub mod nearswap;
pub mod nuslerp;
pub mod passthrough;
pub mod pcgrad;
pub mod ram;
pub mod regmean;
pub mod scaled;
pub mod sce;
pub mod slerp;
pub mod svd;

/// Every method, in the order of the documentation.
pub static METHODS: &[&Method] = &[
    &metagpt::METAGPT,
    &adamerging::ADAMERGING,
    &adamerging::ADAMERGING_PLUS,
    &gta::TASK_ARITHMETIC,
    &gta::TIES,
    &gta::DARE_LINEAR,
    &gta::DARE_TIES,
    &gta::BREADCRUMBS,
    &gta::BREADCRUMBS_TIES,
    &gta::DELLA,
    &gta::DELLA_LINEAR,
    &linear::LINEAR,
    &slerp::SLERP,
    &nuslerp::NUSLERP,
    &multislerp::MULTISLERP,
    &karcher::KARCHER,
    &model_stock::MODEL_STOCK,
    &pcgrad::PCGRAD,
    &sce::SCE,
    &ram::RAM,
    &ram::RAMPLUS_TL,
    &nearswap::NEARSWAP,
    &arcee_fusion::ARCEE_FUSION,
    &svd::TSV_M,
    &svd::ISO_C,
    &svd::ISO_CTS,
    &emr::EMR,
    &passthrough::PASSTHROUGH,
];

/// Every method: those of [`METHODS`], and those that need statistics of the models' own inputs.
pub fn all() -> impl Iterator<Item = &'static Method> {
    METHODS.iter().copied().chain(measured::MEASURED.iter().map(|m| m.method))
}

/// The method of that name, whatever it needs.
pub fn find(name: &str) -> Option<&'static Method> {
    all().find(|m| m.name == name)
}

/// A merge method: what it is called, what it needs, and how it is built.
#[derive(Debug)]
pub struct Method {
    /// Name in recipes.
    pub name: &'static str,
    /// The idea in some eight words.
    pub summary: &'static str,
    /// Where it was published.
    pub source: &'static str,
    /// What the base model is to it.
    pub base: BaseRole,
    /// Least and greatest number of operands (experts, and the base where it is an operand).
    pub operands: (usize, usize),
    /// Whether embeddings with different numbers of rows are cropped to the smallest (as mergekit does) or refused.
    pub crops_embeddings: bool,
    /// Passes over the inputs, in words.
    pub passes: &'static str,
    /// Parameters.
    pub params: &'static [Param],
    /// Builds the rule for one tensor.
    pub build: fn(&Task) -> Result<Box<dyn Rule>, String>,
}

impl Method {
    /// The declaration of a parameter.
    pub fn param(&self, name: &str) -> Option<&'static Param> {
        self.params.iter().find(|p| p.name == name)
    }
}

/// What `base_model` is to a method.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BaseRole {
    /// Gives config and tokenizer only; takes part if it is listed as a model.
    Donor,
    /// One of the operands, the first, whether listed or not.
    Operand,
    /// One of the operands, if given.
    OptionalOperand,
    /// Origin of the task vectors, if given.
    OptionalOrigin,
    /// Origin of the task vectors.
    Origin,
}

/// A method with its parameters for one tensor.
pub trait Rule: Send + Sync + Debug {
    /// Whether the result is the only operand, bit for bit.
    fn is_identity(&self) -> bool {
        false
    }

    /// For methods whose product is an artefact, from which each task's model is taken, and not a model: how its factors
    /// are computed. Such a plan goes through [`crate::emr::stream`].
    fn artefact(&self) -> Option<Rescaler> {
        None
    }

    /// Bytes of masks that it would keep between two passes of a tensor, if there is room.
    fn recorded_bytes(&self, _scan: &Scan) -> u64 {
        0
    }

    /// Whether task vectors against the elected sign are left out: conflicting experts then do not cancel.
    fn elects_signs(&self) -> bool {
        false
    }

    /// What must be known of the whole model before a tensor can be prepared.
    fn needs(&self) -> Needs {
        Needs::default()
    }

    /// Whether the task's statistics say how much each element of each operand counts, and are to be read beside the
    /// operands as [`View::statistics`]. They are local to an element then, as the operands are; a rule that needs them
    /// otherwise keeps the tensors of the task itself.
    fn weighs_elements(&self) -> bool {
        false
    }

    /// Squared norms of the task vectors of this tensor (or, where elements are weighed, of their weights), for
    /// coefficients that depend on the model.
    ///
    /// # Errors
    /// If an input cannot be read.
    fn squared_norms(&self, _scan: &Scan, _survey: &ModelSurvey) -> Result<Vec<f64>, MergeError> {
        Ok(Vec::new())
    }

    /// How the operands are ranked over the whole model: for each operand, the numbers of elements to keep out of `n`.
    fn ranks(&self, _n: u64) -> Vec<Vec<u64>> {
        Vec::new()
    }

    /// For methods that need the whole tensor in memory: how much they take. Such tensors are merged one at a time.
    fn whole_tensor_bytes(&self, _scan: &Scan) -> u64 {
        0
    }

    /// Where the result is the origin and a linear combination of vectors: those vectors, of which coefficients can be
    /// learnt.
    ///
    /// # Errors
    /// If an input cannot be read.
    fn vectors(
        &self,
        _scan: &Scan,
        _survey: &ModelSurvey,
    ) -> Result<Option<adamerging::Vectors>, MergeError> {
        Ok(None)
    }

    /// Takes the statistics it needs of the tensor and returns the local computation.
    ///
    /// # Errors
    /// If an input cannot be read or the method is undefined for it.
    fn prepare(&self, scan: &Scan, model: &ModelSurvey) -> Result<Box<dyn Kernel>, MergeError>;
}

/// What a rule asks of the whole model.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Needs {
    /// Coefficients from the norms of task vectors, over these groups of tensors.
    pub norms: Option<Group>,
    /// Cut-offs of magnitudes over the whole model.
    pub cuts: bool,
}

/// Tensors that share coefficients.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Group {
    /// All.
    Model,
    /// Those of one layer; those outside of layers by the first part of their name.
    Layer,
}

/// What was found out about the whole model, as far as it concerns one tensor.
#[derive(Debug, Clone, Default)]
pub struct ModelSurvey {
    /// Squared norms of each task vector over the tensor's group.
    pub squared_norms: Option<Vec<f64>>,
    /// Per operand the cuts that [`Rule::ranks`] asked for, in positions of this tensor.
    pub cuts: Option<Vec<Vec<Cut>>>,
}

/// The local part of a merge.
pub trait Kernel: Send + Sync + Debug {
    /// How blocks may be cut.
    fn grain(&self) -> Grain {
        Grain::Element
    }

    /// The coefficient of each operand, where the method has one per tensor: for the report.
    fn coefficients(&self) -> Option<Vec<f64>> {
        None
    }

    /// Where each row has coefficients of its own: the smallest and the greatest sum of a row's.
    fn row_sums(&self) -> Option<[f64; 2]> {
        None
    }

    /// Writes the merged values of a block to `out`: with an origin, the merged *task vector*, to which the origin is
    /// added afterwards.
    fn merge(&self, block: &View<'_>, scratch: &mut Scratch, out: &mut [f32]);
}

/// Buffers for kernels, kept by each worker.
#[derive(Debug, Default)]
pub struct Scratch {
    /// One per operand.
    pub rows: Vec<Aligned>,
    /// For anything.
    pub a: Aligned,
    /// For anything.
    pub b: Aligned,
    /// For masks.
    pub mask: sparsify::Scratch,
}

/// A weight of each model without default.
const WEIGHT: Param = Param {
    name: "weight",
    level: Level::Model,
    kind: Kind::NUMBER,
    default: Default::Required,
    help: "share of the model in the result",
};

/// A linear combination with one coefficient per operand.
#[derive(Debug)]
pub struct Combination {
    coefficients: Vec<f64>,
}

impl Combination {
    /// A combination with these coefficients.
    pub fn kernel(coefficients: Vec<f64>) -> Box<dyn Kernel> {
        Box::new(Self { coefficients })
    }
}

impl Kernel for Combination {
    fn coefficients(&self) -> Option<Vec<f64>> {
        Some(self.coefficients.clone())
    }

    fn merge(&self, block: &View<'_>, _: &mut Scratch, out: &mut [f32]) {
        combine(&self.coefficients, block.vectors, out);
    }
}

/// `out = Σ cᵢ xᵢ`.
pub fn combine<V: AsRef<[f32]>>(coefficients: &[f64], vectors: &[V], out: &mut [f32]) {
    use crate::kernels::{add_scaled, scaled};
    let mut pairs = coefficients.iter().zip(vectors);
    match pairs.next() {
        Some((c, x)) => scaled(out, *c as f32, x.as_ref()),
        None => out.fill(0.0),
    }
    for (c, x) in pairs {
        add_scaled(out, *c as f32, x.as_ref());
    }
}
