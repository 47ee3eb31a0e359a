//! Everything that runs a model: what its configuration says, where its tensors are, and how rows of a dataset become
//! the numbers it is fed.
//!
//! [`text`] turns conversations into token ids and masks, [`image`] turns pictures into normalised pixels, [`data`] reads
//! datasets and says which rows are learnt when, [`config`]
//! reads `config.json` into one description per kind of model, [`families`] says which tensors such a model has, [`model`]
//! runs it, forwards and backwards, [`statistics`] measures it on its inputs, [`optimizer`] moves its parameters, [`schedule`] says
//! how far, [`tune`] is the training of several tasks together, [`adapt`] learns how much of each expert goes into a merge, [`eval`]
//! scores models, and [`tensorboard`] writes down how it went.

pub mod adapt;
pub mod alternate;
pub mod config;
pub mod data;
pub mod eval;
pub mod families;
pub mod image;
mod json;
pub mod model;
pub mod optimizer;
pub mod schedule;
pub mod statistics;
pub mod tensorboard;
pub mod text;
pub mod tune;
