//! The balancers. [`BALANCERS`] is the one list: settings, documentation, command-line help and contract tests follow from it.
//! To add one, write its file and add its entry here.

use onefold_runtime::params::{Default, Kind};

use crate::error::SettingError;
use crate::rule::Rule;
use crate::settings::{Context, Param};

pub mod aligned_mtl;
pub mod by_gramian;
pub mod cagrad;
pub mod coba;
pub mod db_mtl;
pub mod dwa;
pub mod excess_mtl;
pub mod fairgrad;
pub mod famo;
pub mod gls;
pub mod graddrop;
pub mod gradnorm;
pub mod imtl_g;
pub mod lbtw;
pub mod meta_weighting;
pub mod mgda;
pub mod nash_mtl;
pub mod pcgrad;
pub mod rlw;
pub mod scale_invariant;
pub mod self_paced;
pub mod stch;
pub mod uncertainty;
pub mod uniform;
pub mod upgrad;

/// Every balancer, in the order of the documentation.
pub static BALANCERS: &[&Method] = &[
    &uniform::UNIFORM,
    &uniform::STATIC,
    &coba::COBA,
    &famo::FAMO,
    &famo::FAMO_VALIDATION,
    &gradnorm::GRADNORM,
    &gradnorm::GRADNORM_VALIDATION,
    &lbtw::LBTW,
    &lbtw::LBTW_VALIDATION,
    &self_paced::SELF_PACED,
    &dwa::DWA,
    &uncertainty::UNCERTAINTY,
    &rlw::RLW,
    &gls::GLS,
    &scale_invariant::SCALE_INVARIANT,
    &stch::STCH,
    &excess_mtl::EXCESS_MTL,
    &meta_weighting::META_WEIGHTING,
    &pcgrad::PCGRAD,
    &pcgrad::gradvac::GRADVAC,
    &mgda::MGDA,
    &cagrad::CAGRAD,
    &nash_mtl::NASH_MTL,
    &fairgrad::FAIRGRAD,
    &imtl_g::IMTL_G,
    &aligned_mtl::ALIGNED_MTL,
    &upgrad::UPGRAD,
    &db_mtl::DB_MTL,
    &graddrop::GRADDROP,
];

/// The balancer of that name or alias.
pub fn find(name: &str) -> Option<&'static Method> {
    BALANCERS.iter().copied().find(|m| m.name == name || m.aliases.contains(&name))
}

/// A balancer: what it is called, what it costs, and how it is built.
#[derive(Debug)]
pub struct Method {
    /// `kind` in recipes.
    pub name: &'static str,
    /// Other names for it.
    pub aliases: &'static [&'static str],
    /// The idea in some ten words.
    pub summary: &'static str,
    /// Where it was published.
    pub source: &'static str,
    /// What a step costs beyond a plain one.
    pub cost: Cost,
    /// Whether every task must have validation rows.
    pub validation: bool,
    /// Whether the tasks' own `weight` keys have an effect; with other balancers they have none.
    pub task_weights: bool,
    /// Whether its weights, by its defaults, are nonnegative and add up to one.
    pub simplex: bool,
    /// Settings.
    pub params: &'static [Param],
    /// Builds it; the settings are each in their range.
    pub build: fn(&Context<'_>) -> Result<Box<dyn Rule>, SettingError>,
}

impl Method {
    /// The declaration of a setting.
    pub fn param(&self, name: &str) -> Option<&'static Param> {
        self.params.iter().find(|p| p.name == name)
    }
}

/// What a step costs beyond a plain one, in the order of cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Cost {
    /// Nothing that is worth naming.
    Nothing,
    /// A forward pass more: over a batch of validation rows, or over the same batch after the step.
    Forward,
    /// A backward pass for each task, down to one layer.
    Layer,
    /// A backward pass for each task, whose gradients are kept.
    Backward,
    /// As [`Self::Backward`], and running sums for each task, that are kept between steps and saved with checkpoints.
    Sums,
    /// Two backward passes for each task, the second after a trial step.
    Lookahead,
}

impl std::fmt::Display for Cost {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Nothing => "nothing",
            Self::Forward => "one forward pass more",
            Self::Layer => "one backward pass per task, down to one layer",
            Self::Backward => "one backward pass per task; as many gradients in memory as tasks",
            Self::Sums => "one backward pass per task; twice as many gradients in memory as tasks",
            Self::Lookahead => "two backward passes per task; twice as many gradients in memory as tasks",
        })
    }
}

/// A finite number greater than zero.
const POSITIVE: Kind = Kind::Number { min: 0.0, max: f64::INFINITY, min_open: true };
/// A number of at least zero.
const NOT_NEGATIVE: Kind = Kind::Number { min: 0.0, max: f64::INFINITY, min_open: false };
/// A whole number of at least one.
const COUNT: Kind = Kind::Integer { min: 1, max: i64::MAX };

/// What the weights of a loss add up to: [`crate::rule::Scale`].
const SCALE: Param = Param {
    name: "scale",
    kind: Kind::Choice(&["mean", "paper"]),
    default: Default::Choice("mean"),
    help: "`mean`: weights sum to one; `paper`: as published",
};

/// For methods that count in epochs: [`Periods`].
const PERIOD: Param = Param {
    name: "period",
    kind: COUNT,
    default: Default::Optional,
    help: "steps that count as one epoch; by default epochs are passes over the data",
};

/// Epochs, or what counts as such.
#[derive(Debug, Clone, Copy, PartialEq, serde::Deserialize)]
#[serde(transparent)]
struct Periods(u64);

impl Periods {
    fn number(period: Option<Self>, step: u64, epoch: u64) -> u64 {
        period.map_or(epoch, |Periods(steps)| step / steps)
    }
}
