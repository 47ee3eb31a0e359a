//! The model that is tuned, behind one face for texts and images.

use std::path::Path;

use onefold_engine::Buffer;
use onefold_engine::cpu::loss::{Losses, Objective};
use rayon::prelude::*;

use super::error::TuneError;
use super::micro::Row;
use crate::config::ModelConfig;
use crate::data::Task;
use crate::image::{ImageError, Pixels, Processor};
use crate::model::{
    Batch, BatchShape, GradientSink, Image, ImageBatch, ModelError, Parameters, TextModel, Training,
    VisionModel,
};

/// A model with the batch that it passes.
#[derive(Debug)]
pub(crate) enum Learner {
    Text(Box<TextModel>, Batch),
    Images(Box<VisionModel>, ImageBatch, Processor),
}

impl Learner {
    /// The model whose parameters these are; `source` is its directory.
    pub(crate) fn new(parameters: &Parameters, source: &Path) -> Result<Self, TuneError> {
        Ok(match parameters.config() {
            ModelConfig::Vision(_) => {
                let processor = Processor::open(source)?;
                Self::Images(Box::new(VisionModel::new(parameters)?), ImageBatch::default(), processor)
            }
            _ => Self::Text(Box::new(TextModel::new(parameters)?), Batch::default()),
        })
    }

    /// Fills the batch with rows, each with its weight.
    pub(crate) fn fill(&mut self, tasks: &[Task], rows: &[Row], weights: &[f32]) -> Result<(), TuneError> {
        match self {
            Self::Text(_, batch) => {
                batch.clear();
                for (row, weight) in rows.iter().zip(weights) {
                    tasks[row.task as usize].push(row.row, row.task, *weight, batch);
                }
            }
            Self::Images(_, batch, processor) => {
                batch.clear();
                let pixels: Vec<Result<Pixels, ImageError>> =
                    rows.par_iter().map(|row| decoded(tasks, row, processor)).collect();
                for ((row, weight), pixels) in rows.iter().zip(weights).zip(pixels) {
                    let pixels = pixels?;
                    batch.push(&Image {
                        shape: [3, pixels.height, pixels.width],
                        pixels: &pixels.values,
                        target: tasks[row.task as usize].target(row.row),
                        values: &[],
                        weight: *weight,
                        task: row.task,
                    });
                }
            }
        }
        Ok(())
    }

    /// Uses the head of a task, or the model's own.
    pub(crate) fn select_head(&mut self, task: Option<u32>) -> Result<(), ModelError> {
        match self {
            Self::Text(model, _) => model.select_head(task),
            Self::Images(model, ..) => model.select_head(task),
        }
    }

    /// Losses of the batch, and gradients.
    pub(crate) fn train(
        &mut self,
        parameters: &Parameters,
        training: &Training,
        losses: &mut Losses,
        sink: &mut dyn GradientSink,
    ) -> Result<(), ModelError> {
        match self {
            Self::Text(model, batch) => model.train(parameters, batch, training, losses, sink),
            Self::Images(model, batch, _) => model.train(parameters, batch, training, losses, sink),
        }
    }

    /// Losses of the batch.
    pub(crate) fn evaluate(
        &mut self,
        parameters: &Parameters,
        objective: Objective,
        losses: &mut Losses,
    ) -> Result<(), ModelError> {
        match self {
            Self::Text(model, batch) => model.evaluate(parameters, batch, objective, losses),
            Self::Images(model, batch, _) => model.evaluate(parameters, batch, objective, losses),
        }
    }

    /// Scores of classes `[rows, classes]` of the batch; `between` sees the features before the head's last map.
    pub(crate) fn classify_through(
        &mut self,
        parameters: &Parameters,
        between: &mut dyn FnMut(&mut [f32]),
    ) -> Result<&Buffer, ModelError> {
        match self {
            Self::Text(model, batch) => model.classify_through(parameters, batch, between),
            Self::Images(model, batch, _) => model.classify_through(parameters, batch, between),
        }
    }

    /// Width of these features.
    pub(crate) fn feature_width(&self) -> Result<usize, ModelError> {
        match self {
            Self::Text(model, _) => model.feature_width(),
            Self::Images(model, ..) => model.feature_width(),
        }
    }

    /// Rows that pass the layers for each token, or for each image.
    pub(crate) fn rows_per_token(&self) -> usize {
        match self {
            Self::Text(..) => 1,
            Self::Images(model, ..) => model.rows(),
        }
    }

    /// Bytes of activations that a batch needs.
    pub(crate) fn activation_bytes(&self, parameters: &Parameters, shape: &BatchShape) -> usize {
        match self {
            Self::Text(model, _) => model.activation_bytes(parameters, shape),
            Self::Images(model, ..) => model.activation_bytes(parameters, shape),
        }
    }
}

/// The image of a row, as the model takes it.
fn decoded(tasks: &[Task], row: &Row, processor: &Processor) -> Result<Pixels, ImageError> {
    let picture =
        tasks[row.task as usize].picture(row.row).expect("a task of images has a picture in each row");
    processor.process(&picture.decode()?)
}
