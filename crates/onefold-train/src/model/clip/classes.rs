//! Classifiers of images that are made of texts, and training against them.

use onefold_engine::Buffer;
use onefold_engine::cpu::loss::Losses;
use onefold_engine::cpu::pool::{self, Pooling, Sequences};

use super::ClipModel;
use super::pairs::put_scale;
use crate::config::Problem;
use crate::model::batch::{Batch, BatchError};
use crate::model::error::ModelError;
use crate::model::gradients::{GradientSink, Lent};
use crate::model::head::Scores;
use crate::model::memory::BatchShape;
use crate::model::parameters::Parameters;
use crate::model::targets::Answers;
use crate::model::vision::ImageBatch;
use crate::model::whole::Training;

/// One vector per class, made of texts: a classifier of images.
#[derive(Debug, Clone, PartialEq)]
pub struct ClassVectors {
    /// `[classes, width]`.
    pub(super) vectors: Buffer,
    pub(super) classes: usize,
}

impl ClassVectors {
    /// Number of classes.
    pub fn classes(&self) -> usize {
        self.classes
    }

    /// `[classes, width]`, each of length 1.
    pub fn vectors(&self) -> &Buffer {
        &self.vectors
    }
}

impl ClipModel {
    /// A classifier from texts: for each class the mean of the vectors of its texts, such as its name in several templates,
    /// made of length 1.
    ///
    /// # Errors
    /// If there is no class, or the texts of one do not fit the model.
    pub fn class_vectors(
        &mut self,
        parameters: &Parameters,
        classes: &[Batch],
    ) -> Result<ClassVectors, ModelError> {
        if classes.is_empty() {
            return Err(BatchError::Empty.into());
        }
        let width = self.text.width();
        let (mut vectors, mut mean, mut norm) =
            (Buffer::zeros(classes.len() * width), Buffer::zeros(width), Buffer::zeros(1));
        for (class, texts) in classes.iter().enumerate() {
            let embeddings = self.embed_texts(parameters, texts)?;
            let bounds = [0, texts.segments().len()];
            let of = Sequences { bounds: &bounds, mask: None, width };
            pool::forward(Pooling::Mean, &mut mean, embeddings, &of);
            pool::normalise(&mut mean, width, f32::MIN_POSITIVE, &mut norm);
            vectors.write(class * width, &mean.to_vec());
        }
        Ok(ClassVectors { vectors, classes: classes.len() })
    }

    /// Scores `[images, classes]`.
    ///
    /// # Errors
    /// If the batch does not fit the model, or the vectors are of another width.
    pub fn classify(
        &mut self,
        parameters: &Parameters,
        images: &ImageBatch,
        classes: &ClassVectors,
    ) -> Result<&Buffer, ModelError> {
        self.check_width(classes)?;
        self.embed_images(parameters, images)?;
        let vectors = self.of(parameters, &classes.vectors);
        vectors.forward(self.vision.embeddings(), &mut self.scores);
        Ok(&self.scores.logits)
    }

    /// Losses of images against a fixed classifier; with a sink also the gradients of all trainable parameters of the image
    /// half, and of the scale.
    ///
    /// # Errors
    /// If the batch does not fit the model or the classifier; the sink has seen nothing then.
    pub fn train_images(
        &mut self,
        parameters: &Parameters,
        (images, classes): (&ImageBatch, &ClassVectors),
        training: &Training,
        losses: &mut Losses,
        sink: Option<&mut dyn GradientSink>,
    ) -> Result<(), ModelError> {
        self.check_width(classes)?;
        let (per, count, problem) = ("one per image", images.len(), Problem::SingleLabel);
        let answers = Answers { per, count, classes: classes.classes, problem };
        images.targets().check(&answers, losses.tasks.len())?;
        let (vectors, id) = (self.of(parameters, &classes.vectors), self.scale);
        let Self { vision, scores, .. } = self;
        vision.run(parameters, (images, None), training.way(sink.is_some()), sink, |embeddings, back| {
            let rows = images.targets().rows();
            vectors.forward(embeddings, scores);
            vectors.loss(training.objective, &rows, back.is_some(), losses, scores);
            let Some((back, d)) = back else { return Ok(()) };
            vectors.backward(embeddings, d, (None, None), scores);
            let mut lent = back.lend(Some(id));
            put_scale(lent.as_mut().map(Lent::parts), embeddings, d);
            back.complete(lent);
            Ok(())
        })
    }

    /// Rows that pass the layers for each image.
    pub fn image_rows(&self) -> usize {
        self.image_rows
    }

    /// Bytes of activations that images need against so many classes, if all of the image half is trained.
    pub fn image_bytes(&self, images: &BatchShape, classes: usize) -> usize {
        self.vision.bytes_for(images) + Scores::bytes_for(images, classes, false)
    }

    fn check_width(&self, classes: &ClassVectors) -> Result<(), ModelError> {
        let (found, expected) = (classes.vectors.len() / classes.classes, self.text.width());
        if found == expected { Ok(()) } else { Err(ModelError::VectorWidth { found, expected }) }
    }
}
