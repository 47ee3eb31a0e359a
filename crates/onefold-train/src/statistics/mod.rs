//! What is measured of a model on its own inputs, for merge methods that need to know it.
//!
//! * [`Fisher`]: the diagonal of the Fisher information of everything that is trained (Fisher merging).
//! * [`Grams`]: XᵀX of the inputs of every linear map (RegMean).
//! * [`MaskNodes`]: Fisher information of one number per attention head and per neuron, from which factors of rows follow.
//! * [`Surgery`]: a small correction of a merged model's features, learnt towards an expert's.
//!
//! The first two are written to a safetensors file per model ([`save`]) and read from it ([`Statistics`]): who has the data
//! measures, and whoever merges needs the file alone.
//!
//! Each takes batches that its caller has made, one after the other, and so knows no dataset. Which examples, and how many,
//! is the caller's matter: 256 are usual, and up to 2048.

mod error;
mod file;
mod fisher;
mod gram;
mod labels;
mod nodes;
mod squares;
mod surgery;
#[cfg(test)]
mod tests;

pub use error::StatisticsError;
pub use file::{Kind, Statistics, Stored, save};
pub use fisher::{Diagonal, Fisher, FisherKind, FisherSettings};
pub use gram::{Gram, Grams};
pub use nodes::{LayerNodes, MaskNodes, NodeFactors};
pub use surgery::{Learning as SurgeryLearning, Surgery, SurgeryError, SurgerySettings};
