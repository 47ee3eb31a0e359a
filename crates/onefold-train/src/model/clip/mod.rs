//! Clip: images and texts in one space (Radford et al., "Learning transferable visual models from natural language
//! supervision", 2021).
//!
//! Scores are s·⟨image, text⟩ of vectors of length 1, with a learned s = exp(`logit_scale`). Training on pairs minimises the
//! mean of two cross-entropies: which text belongs to an image, and which image to a text. A classifier without training has
//! one text vector per class ([`ClassVectors`]).

mod pairs;
mod projected;
#[cfg(test)]
mod tests;

use onefold_engine::cpu::attention::Mask;
use onefold_engine::cpu::loss::{Losses, head};
use onefold_engine::cpu::norm::Kind;
use onefold_engine::cpu::pool::{self, Pooling, Sequences};
use onefold_engine::cpu::{elementwise, linear};
use onefold_engine::{Buffer, Weight, Write};

use pairs::{Pairs, of, put_scale};
use projected::Projected;

use super::attention::AttentionSettings;
use super::batch::{Batch, BatchError};
use super::embedding::{Embedding, EmbeddingSettings};
use super::error::ModelError;
use super::gradients::{GradientSink, Lent};
use super::layer::{LayerSettings, Placement};
use super::parameters::{ParameterId, Parameters, Part};
use super::targets::Answers;
use super::text::Training;
use super::tower::{StackSettings, Tower, Way};
use super::vision::{self, ImageBatch, PatchEmbedding};
use crate::config::{ClipConfig, ClipTextConfig, ModelConfig, Problem};
use crate::families::{Half, Role};

/// Clip, and the memory in which it works.
#[derive(Debug)]
pub struct ClipModel {
    text: Projected<Embedding>,
    vision: Projected<PatchEmbedding>,
    scale: ParameterId,
    /// The token whose row speaks for a text; none: that of the highest number.
    end: Option<u32>,
    loss: head::Scratch,
    logits: Buffer,
}

/// One vector per class, made of texts: a classifier of images.
#[derive(Debug, Clone, PartialEq)]
pub struct ClassVectors {
    /// `[classes, width]`.
    vectors: Buffer,
    classes: usize,
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
    /// The model whose parameters these are. It goes with these alone: build it after adapters were made.
    ///
    /// # Errors
    /// If it is not clip.
    pub fn new(parameters: &Parameters) -> Result<Self, ModelError> {
        match parameters.config() {
            ModelConfig::Clip(config) => {
                Ok(Self::find(config, parameters).expect("families list what settings name"))
            }
            other => Err(ModelError::NotClip { model_type: other.common().model_type.clone() }),
        }
    }

    fn find(config: &ClipConfig, parameters: &Parameters) -> Option<Self> {
        let vision = vision::tower(&config.vision, parameters, Half::Vision)?;
        Some(Self {
            text: Projected::find(parameters, Half::Text, text(&config.text, parameters)?)?,
            vision: Projected::find(parameters, Half::Vision, vision)?,
            scale: parameters.find(Half::Whole, None, Role::LogitScale, Part::Weight)?,
            // The first files named 2, and meant the highest number.
            end: config.text.eos_token.filter(|token| *token != 2),
            loss: head::Scratch::default(),
            logits: Buffer::default(),
        })
    }

    /// Vectors `[texts, width]` of length 1.
    ///
    /// # Errors
    /// If the batch does not fit the model, or a text lacks its end.
    pub fn embed_texts(&mut self, parameters: &Parameters, texts: &Batch) -> Result<&Buffer, ModelError> {
        let ends = ends(texts, self.end)?;
        self.text.run(parameters, (texts, Some(&ends)), Way::FORWARD, None, |_, _| Ok(()))?;
        Ok(self.text.embeddings())
    }

    /// Vectors `[images, width]` of length 1.
    ///
    /// # Errors
    /// If the batch does not fit the model.
    pub fn embed_images(
        &mut self,
        parameters: &Parameters,
        images: &ImageBatch,
    ) -> Result<&Buffer, ModelError> {
        self.vision.run(parameters, (images, None), Way::FORWARD, None, |_, _| Ok(()))?;
        Ok(self.vision.embeddings())
    }

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
        let (scale, width) = (self.scale(parameters), self.text.width());
        let (embeddings, vectors) = (self.vision.embeddings(), &classes.vectors);
        scores(&mut self.logits, (embeddings, vectors), width, scale);
        Ok(&self.logits)
    }

    /// Scores `[images, texts]`.
    ///
    /// # Errors
    /// If a batch does not fit the model, or a text lacks its end.
    pub fn compare(
        &mut self,
        parameters: &Parameters,
        texts: &Batch,
        images: &ImageBatch,
    ) -> Result<&Buffer, ModelError> {
        self.embed_texts(parameters, texts)?;
        self.embed_images(parameters, images)?;
        let (scale, width) = (self.scale(parameters), self.text.width());
        let embeddings = (self.vision.embeddings(), self.text.embeddings());
        scores(&mut self.logits, embeddings, width, scale);
        Ok(&self.logits)
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
        let (scale, width, id) = (self.scale(parameters), self.text.width(), self.scale);
        let matrix = (&classes.vectors, width, scale);
        let Self { vision, loss, .. } = self;
        vision.run(parameters, (images, None), way(training, sink.is_some()), sink, |embeddings, back| {
            let head = of(matrix, training.objective);
            let rows = images.targets().rows();
            let Some((back, d)) = back else {
                head::head_loss(&head, embeddings, &rows, None, losses, loss);
                return Ok(());
            };
            let gradients = head::Gradients { hidden: (&mut *d, Write::Set), weight: None, bias: None };
            head::head_loss(&head, embeddings, &rows, Some(gradients), losses, loss);
            let mut lent = back.lend(Some(id));
            put_scale(lent.as_mut().map(Lent::parts), embeddings, d);
            back.complete(lent);
            Ok(())
        })
    }

    /// The mean loss of pairs, the i-th text belonging to the i-th image; with a sink also the gradients of all trainable
    /// parameters for `weight` times that.
    ///
    /// # Errors
    /// If a batch does not fit the model, or they are no pairs; the sink has seen nothing then.
    pub fn train_pairs(
        &mut self,
        parameters: &Parameters,
        (texts, images): (&Batch, &ImageBatch),
        training: &Training,
        weight: f32,
        sink: Option<&mut dyn GradientSink>,
    ) -> Result<f64, ModelError> {
        let count = images.len();
        if texts.segments().len() != count {
            return Err(BatchError::Pairs { images: count, texts: texts.segments().len() }.into());
        }
        let ends = ends(texts, self.end)?;
        let (scale, id, width) = (self.scale(parameters), self.scale, self.text.width());
        let (way, objective) = (way(training, sink.is_some()), training.objective);
        let mut pairs = Pairs::new(count, (width, scale), objective, weight);
        let Self { text, vision, loss, .. } = self;
        text.run(parameters, (texts, Some(&ends)), way, sink, |of_texts, back| {
            let (sink, mut d_texts) = match back {
                Some((back, d)) => {
                    let sink: &mut dyn GradientSink = back.sink;
                    (Some(sink), Some(d))
                }
                None => (None, None),
            };
            vision.run(parameters, (images, None), way, sink, |of_images, back| {
                let (back, mut d_images) = back.unzip();
                let both = (d_images.as_deref_mut(), d_texts.as_deref_mut());
                pairs.loss((of_images, of_texts), both, Write::Set, loss);
                pairs.loss((of_texts, of_images), (d_texts, d_images.as_deref_mut()), Write::Add, loss);
                if let Some((back, d)) = back.zip(d_images) {
                    let mut lent = back.lend(Some(id));
                    put_scale(lent.as_mut().map(Lent::parts), of_images, d);
                    back.complete(lent);
                }
                Ok(())
            })
        })?;
        Ok(pairs.mean())
    }

    fn check_width(&self, classes: &ClassVectors) -> Result<(), ModelError> {
        let (found, expected) = (classes.vectors.len() / classes.classes, self.text.width());
        if found == expected { Ok(()) } else { Err(ModelError::VectorWidth { found, expected }) }
    }

    fn scale(&self, parameters: &Parameters) -> f32 {
        let mut scale = [0.0];
        parameters.full(self.scale).read(0, &mut scale);
        scale[0].exp()
    }
}

fn scores(logits: &mut Buffer, (rows, columns): (&Buffer, &Buffer), width: usize, scale: f32) {
    let (count, outputs) = (rows.len() / width, columns.len() / width);
    let layout = linear::Layout::OutputsInputs;
    let dims = linear::Dims { rows: count, inputs: width, outputs, layout };
    logits.resize(count * outputs);
    linear::forward(&dims, rows, Weight::Full(columns), None, logits, Write::Set);
    elementwise::scale(logits, scale);
}

fn way(training: &Training, back: bool) -> Way {
    if back { Way::training(training.checkpointing, training.coins) } else { Way::FORWARD }
}

/// The row that speaks for each text: that of its first end token.
fn ends(texts: &Batch, end: Option<u32>) -> Result<Vec<u32>, BatchError> {
    let row = |(sequence, segment): (usize, &onefold_engine::cpu::attention::Segment)| {
        let ids = &texts.ids()[segment.query..][..segment.queries];
        let token = match end {
            Some(token) => token,
            None => ids.iter().copied().max().ok_or(BatchError::EmptySequence { sequence })?,
        };
        let at = ids.iter().position(|id| *id == token).ok_or(BatchError::NoEnd { sequence, token })?;
        Ok((segment.query + at) as u32)
    };
    texts.segments().iter().enumerate().map(row).collect()
}

/// The half that reads: causal, and normalised first.
fn text(config: &ClipTextConfig, parameters: &Parameters) -> Option<Tower<Embedding>> {
    let embedding = Embedding::find(parameters, Half::Text, &EmbeddingSettings::default())?;
    let layer = LayerSettings {
        placement: Placement::Before,
        norm: Kind::Layer,
        epsilon: config.norm_eps,
        attention: AttentionSettings::plain(
            config.hidden_size,
            config.heads,
            Mask::CAUSAL,
            config.attention_dropout,
        ),
        activation: config.activation,
        dropout: [0.0; 2],
    };
    let settings = StackSettings {
        layers: vec![layer; config.layers],
        final_norm: Some((Kind::Layer, config.norm_eps)),
        ropes: Vec::new(),
    };
    Tower::find(parameters, Half::Text, embedding, &settings)
}
