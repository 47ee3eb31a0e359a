//! From the files that people have to the rows a model is fed.
//!
//! In the order in which it happens: [`source`] reads files into raw rows, [`shape`] makes typed examples of them (what
//! they look like is detected and stated), [`tokenize`] makes token ids with a mask of what is learnt. [`Task::load`] does
//! the three for a task and keeps the result compactly, [`split`] holds rows back for validation. [`doctor`] looks at
//! everything before training begins. [`sample`] says which rows of which tasks are learnt in which order, with [`pack`]
//! several in one. [`foreign`] reads the descriptions of datasets that other tools have.
//!
//! Nothing depends on the number of threads or on chance: whatever is drawn is a function of a seed and names.

pub mod doctor;
mod error;
pub mod foreign;
mod labels;
pub mod pack;
pub mod sample;
pub mod shape;
pub(crate) mod shuffle;
pub mod source;
pub mod split;
mod store;
mod task;
pub mod tokenize;

pub use error::{DataError, Place, RowError, RowProblem, Unit};
pub use labels::Labels;
pub(crate) use labels::{class as class_of, listed};
pub use store::{RowTokens, Store};
pub use task::{Content, Counts, Task, TaskSettings, Unlabelled, Validation};

#[cfg(test)]
pub(crate) mod tests;
