//! The model that is tuned, behind one face for texts and images.
//!
//! Clip is not tuned here; what is learnt with it are merge coefficients, against the vectors of classes that stay as they are.

use std::collections::BTreeMap;
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
    Batch, BatchShape, ClassVectors, ClipModel, GradientSink, Image, ImageBatch, ModelError, Parameters,
    TextModel, Training, VisionModel,
};

/// A model with the batch that it passes.
#[derive(Debug)]
pub(crate) enum Learner {
    Text(Box<TextModel>, Batch),
    Images(Box<VisionModel>, ImageBatch, Processor),
    Pairs(Box<ZeroShot>),
}

/// Clip as a classifier of pictures: each task has vectors of its classes, which take the place of heads.
#[derive(Debug)]
pub(crate) struct ZeroShot {
    model: ClipModel,
    batch: ImageBatch,
    processor: Processor,
    classes: BTreeMap<u32, ClassVectors>,
    used: u32,
}

impl ZeroShot {
    /// The vectors of the task in use.
    fn parts(&mut self) -> Result<(&mut ClipModel, &ImageBatch, &ClassVectors), ModelError> {
        let Self { model, batch, classes, used, .. } = self;
        let classes = classes.get(used).ok_or(ModelError::NoTaskHead { task: *used })?;
        Ok((model, batch, classes))
    }

    fn activation_bytes(&self, shape: &BatchShape) -> usize {
        let classes = self.classes.values().map(ClassVectors::classes).max().unwrap_or(0);
        self.model.image_bytes(shape, classes)
    }
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

    /// Clip with the vectors of each task's classes.
    pub(crate) fn zero_shot(
        parameters: &Parameters,
        source: &Path,
        classes: BTreeMap<u32, ClassVectors>,
    ) -> Result<Self, TuneError> {
        let used = classes.keys().next().copied().unwrap_or_default();
        Ok(Self::Pairs(Box::new(ZeroShot {
            model: ClipModel::new(parameters)?,
            batch: ImageBatch::default(),
            processor: Processor::open(source)?,
            classes,
            used,
        })))
    }

    /// Tells a task's classes by words of a language model.
    pub(crate) fn add_label_words(&mut self, task: u32, words: &[u32]) -> Result<(), ModelError> {
        match self {
            Self::Text(model, _) => model.add_label_words(task, words),
            Self::Images(..) | Self::Pairs(_) => Err(ModelError::NoLanguageHead),
        }
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
            Self::Images(_, batch, processor) => pictures(batch, processor, (tasks, rows), weights)?,
            Self::Pairs(clip) => pictures(&mut clip.batch, &clip.processor, (tasks, rows), weights)?,
        }
        Ok(())
    }

    /// Uses the head of a task, or the model's own.
    pub(crate) fn select_head(&mut self, task: Option<u32>) -> Result<(), ModelError> {
        match self {
            Self::Text(model, _) => model.select_head(task),
            Self::Images(model, ..) => model.select_head(task),
            Self::Pairs(clip) => {
                clip.used = task.unwrap_or_default();
                clip.parts().map(drop)
            }
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
            Self::Pairs(clip) => {
                let (model, batch, classes) = clip.parts()?;
                model.train_images(parameters, (batch, classes), training, losses, Some(sink))
            }
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
            Self::Pairs(clip) => {
                let (model, batch, classes) = clip.parts()?;
                let forwards = Training { objective, checkpointing: false, coins: None };
                model.train_images(parameters, (batch, classes), &forwards, losses, None)
            }
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
            // No map of a head reads the features of clip: they are compared with the classes' vectors.
            Self::Pairs(clip) => {
                let (model, batch, classes) = clip.parts()?;
                model.classify(parameters, batch, classes)
            }
        }
    }

    /// Width of these features.
    pub(crate) fn feature_width(&self) -> Result<usize, ModelError> {
        match self {
            Self::Text(model, _) => model.feature_width(),
            Self::Images(model, ..) => model.feature_width(),
            Self::Pairs(_) => Err(ModelError::NoClassHead),
        }
    }

    /// Rows that pass the layers for each token, or for each image.
    pub(crate) fn rows_per_token(&self) -> usize {
        match self {
            Self::Text(..) => 1,
            Self::Images(model, ..) => model.rows(),
            Self::Pairs(clip) => clip.model.image_rows(),
        }
    }

    /// Bytes of activations that a batch needs.
    pub(crate) fn activation_bytes(&self, parameters: &Parameters, shape: &BatchShape) -> usize {
        match self {
            Self::Text(model, _) => model.activation_bytes(parameters, shape),
            Self::Images(model, ..) => model.activation_bytes(parameters, shape),
            Self::Pairs(clip) => clip.activation_bytes(shape),
        }
    }
}

/// Fills a batch with the pictures of rows, each with its weight.
fn pictures(
    batch: &mut ImageBatch,
    processor: &Processor,
    (tasks, rows): (&[Task], &[Row]),
    weights: &[f32],
) -> Result<(), TuneError> {
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
    Ok(())
}

/// The image of a row, as the model takes it.
fn decoded(tasks: &[Task], row: &Row, processor: &Processor) -> Result<Pixels, ImageError> {
    let picture =
        tasks[row.task as usize].picture(row.row).expect("a task of images has a picture in each row");
    processor.process(&picture.decode()?)
}
