//! Methods that need to know something of the models' own inputs, and what they need.
//!
//! They are merge methods as those of [`METHODS`](super::METHODS), but a recipe of weights alone cannot run them: without
//! [`Task::statistics`](crate::task::Task::statistics) they are plain averages, and who asks for Fisher merging should get
//! an error and not an average. So they stand in a list of their own, with what has to be measured before; the caller
//! measures (or reads what was measured), refuses a model without any statistics, and hands each tensor its own.

use super::{Method, fisher, regmean};

/// A method with what must be measured for it.
#[derive(Debug)]
pub struct Measured {
    /// The method.
    pub method: &'static Method,
    /// What it needs of each model.
    pub statistic: Statistic,
}

/// What is measured of a model on its own inputs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Statistic {
    /// The diagonal of the Fisher information: for each element of the tensor a number of at least 0, of its shape.
    Fisher,
    /// The Gram matrix XᵀX / samples of the inputs of a linear map, of shape [in, in]; only for weights of linear maps.
    Gram,
    /// The Fisher information of mask nodes (heads and neurons), spread over the elements of each tensor: as for
    /// [`Statistic::Fisher`] a number of at least 0 for each element, of the tensor's shape.
    Nodes,
}

impl Statistic {
    /// What has to be measured, in words.
    pub fn describe(self) -> &'static str {
        match self {
            Self::Fisher => "the Fisher information of each model on its own inputs",
            Self::Gram => "Gram matrices of the inputs of each model's linear maps",
            Self::Nodes => "the Fisher information of each model's attention heads and neurons",
        }
    }
}

/// Every method that needs statistics, in the order of the documentation.
pub static MEASURED: &[Measured] = &[
    Measured { method: &fisher::FISHER, statistic: Statistic::Fisher },
    Measured { method: &fisher::FISHER_NODES, statistic: Statistic::Nodes },
    Measured { method: &regmean::REGMEAN, statistic: Statistic::Gram },
];

/// The method of that name.
pub fn find(name: &str) -> Option<&'static Measured> {
    MEASURED.iter().find(|m| m.method.name == name)
}
