//! The losses of pairs: each vector has to find its partner among those of the other half.
//!
//! Both are a head's loss whose matrix are the other half's vectors, so that the scores of all pairs never exist twice.

use onefold_engine::cpu::loss::{Losses, Objective, Rows, head};
use onefold_engine::{Buffer, Weight, Write};

use super::{ClipModel, text};
use crate::model::batch::{Batch, BatchError};
use crate::model::error::ModelError;
use crate::model::gradients::{GradientSink, Lent};
use crate::model::parameters::Parameters;
use crate::model::vision::ImageBatch;
use crate::model::whole::Training;

/// Both cross-entropies of pairs.
struct Pairs {
    targets: Vec<i32>,
    weights: Vec<f32>,
    shape: (usize, f32),
    objective: Objective,
    losses: Losses,
    sum: f64,
}

impl Pairs {
    fn new(count: usize, shape: (usize, f32), objective: Objective, weight: f32) -> Self {
        let targets = (0..=i32::MAX).take(count).collect();
        let weights = vec![weight * 0.5 / count.max(1) as f32; count];
        Self { targets, weights, shape, objective, losses: Losses::new(1), sum: 0.0 }
    }

    /// Which of the columns belongs to each row.
    fn loss(
        &mut self,
        (rows, columns): (&Buffer, &Buffer),
        gradients: (Option<&mut Buffer>, Option<&mut Buffer>),
        write: Write,
        scratch: &mut head::Scratch,
    ) {
        let gradients = gradients.0.zip(gradients.1).map(|(rows, columns)| head::Gradients {
            hidden: (rows, write),
            weight: Some((columns, write)),
            bias: None,
        });
        let of_rows = Rows { targets: &self.targets, weights: Some(&self.weights), tasks: None };
        let head = of((columns, self.shape.0, self.shape.1), self.objective);
        head::head_loss(&head, rows, &of_rows, gradients, &mut self.losses, scratch);
        self.sum += self.losses.tasks[0].loss;
    }

    fn mean(&self) -> f64 {
        self.sum * 0.5 / self.targets.len().max(1) as f64
    }
}

impl ClipModel {
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
        let ends = text::ends(texts, self.end)?;
        let (scale, id, width) = (self.scale(parameters), self.scale, self.text.width());
        let (way, objective) = (training.way(sink.is_some()), training.objective);
        let mut pairs = Pairs::new(count, (width, scale), objective, weight);
        let Self { text: reader, vision, loss, .. } = self;
        reader.run(parameters, (texts, Some(&ends)), way, sink, |of_texts, back| {
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
}

/// Vectors as the matrix of a head.
pub(super) fn of((vectors, width, scale): (&Buffer, usize, f32), objective: Objective) -> head::Head<'_> {
    let vocabulary = vectors.len() / width;
    head::Head { weight: Weight::Full(vectors), bias: None, vocabulary, width, scale, cap: None, objective }
}

/// The gradient of ln s: Σ z·∂z over all scores z, which is Σ e·∂e over the vectors of their rows.
pub(super) fn put_scale(to: Option<(&mut Buffer, Write)>, vectors: &Buffer, d: &Buffer) {
    let Some((to, write)) = to else { return };
    let products = vectors.to_vec().into_iter().zip(d.to_vec()).map(|(e, d)| f64::from(e) * f64::from(d));
    let mut sum = [0.0];
    if write == Write::Add {
        to.read(0, &mut sum);
    }
    to.write(0, &[sum[0] + products.sum::<f64>() as f32]);
}
