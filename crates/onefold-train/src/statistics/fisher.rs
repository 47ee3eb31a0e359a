//! The diagonal of the Fisher information.
//!
//! `F = E_x E_{y∼p(y|x)} [(∂ ln p(y|x) / ∂θ)²]`, element by element: equation 3 of Matena & Raffel (NeurIPS 2022, arXiv
//! 2111.09832). Labels are the model's own, so none are needed; the mean is over examples.
//!
//! | kind | of each example | passes of the model |
//! |---|---|---|
//! | [`FisherKind::Exact`] | Σ_y p(y)·(∂ ln p(y))², or draws of y | one and then one per class or draw |
//! | [`FisherKind::Empirical`] | (∂ ln p(gold label))² | one |
//! | [`FisherKind::BatchSummed`] | of a batch: (∂ Σ_x Σ_y √p(y)·ln p(y))², √p held fixed | one and then one per class |
//!
//! *Exact* takes all classes if an example has one answer with at most `enumerate` classes, and else draws labels: for each
//! answer its own (for a language model one per token, whose log-probabilities add up), with numbers that depend on the seed
//! and the example alone. Heads that learn numbers have the Fisher information of independent coins (several labels) or of
//! normal distributions of variance 1 (regression). *Empirical* takes the loss of training where numbers are learnt: the
//! squared error, as FusionBench does, and the sum of the cross-entropies of all labels. *Batch-summed* is FusionBench's
//! estimate, for comparison: gradients of a batch are added up before they are squared, so that cross terms between
//! examples and between labels remain; it depends on how examples are cut into batches.
//!
//! What has a gradient is measured, that is all trainable parameters. Memory: the sums, in f32, and the gradients of one
//! tensor (of all tensors for `BatchSummed`). f32 holds sums of thousands of squares to some 1e-5 of themselves, far better
//! than thousands of examples determine them.

use onefold_engine::Buffer;
use onefold_engine::cpu::elementwise;
use onefold_engine::cpu::loss::{Losses, Objective};
use onefold_engine::cpu::optimizer::square_sum;
use onefold_runtime::Stream;

use super::error::StatisticsError;
use super::file::Stored;
use super::labels::{Labelling, Scores};
use super::squares::Squares;
use crate::config::Problem;
use crate::model::{Answering, Embed, GradientSink, Gradients, Model, Origin, Parameters, Training};

/// Which gradients are squared; the module's text has the formulas.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum FisherKind {
    /// Of each example by itself, over the model's own distribution.
    #[default]
    Exact,
    /// Of each example by itself, at its gold label.
    Empirical,
    /// Of a whole batch at once, as FusionBench does.
    BatchSummed,
}

impl FisherKind {
    /// Its name in files and recipes.
    pub fn name(self) -> &'static str {
        match self {
            Self::Exact => "exact",
            Self::Empirical => "empirical",
            Self::BatchSummed => "batch_summed",
        }
    }
}

/// How the Fisher information is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FisherSettings {
    /// Which gradients are squared.
    pub kind: FisherKind,
    /// Up to so many classes (or scores) all of them are taken; of more, labels are drawn. 16 by default.
    pub enumerate: usize,
    /// Draws for each example, of which the mean is taken; at least 1.
    pub draws: u32,
    /// Seed of the draws.
    pub seed: u64,
}

impl Default for FisherSettings {
    fn default() -> Self {
        Self { kind: FisherKind::Exact, enumerate: 16, draws: 1, seed: 0 }
    }
}

/// The Fisher information of a tensor.
#[derive(Debug)]
pub struct Diagonal {
    /// Its names: several, if it is tied and stored more than once.
    pub names: Vec<String>,
    /// Its shape.
    pub shape: Vec<usize>,
    /// Of each element, the mean over examples.
    pub values: Buffer,
}

impl Diagonal {
    /// As it is written.
    pub fn stored(&self) -> Stored<'_> {
        let Self { names, shape, values } = self;
        Stored { names: names.clone(), transposed: false, shape: shape.clone(), values }
    }
}

/// Scores of words that are held at once, if a model has many words.
const SCORES: usize = 1 << 24;

/// Measures the Fisher information, batch by batch.
#[derive(Debug)]
pub struct Fisher {
    settings: FisherSettings,
    squares: Squares,
    /// Of a batch, if it is squared as a whole.
    gradients: Gradients,
    losses: Losses,
    examples: u64,
}

/// The model and the batch that is measured.
struct Example<'a, E: Embed> {
    model: &'a mut Model<E>,
    parameters: &'a Parameters,
    batch: &'a mut E::Batch,
}

impl Fisher {
    /// Nothing measured yet.
    pub fn new(settings: FisherSettings) -> Self {
        let squares = Squares::default();
        Self { settings, squares, gradients: Gradients::default(), losses: Losses::new(1), examples: 0 }
    }

    /// Examples so far.
    pub fn examples(&self) -> u64 {
        self.examples
    }

    /// Measures a batch: of one text or image, unless whole batches are squared. If it has targets, answers whose target is
    /// below 0 do not count; their labels matter to the empirical kind alone. The labels of the batch are replaced.
    ///
    /// # Errors
    /// If the model cannot take the batch, it has several examples (or, for the empirical kind, no label), or a score or a
    /// loss is not finite. What was measured before is spoilt then.
    pub fn add<E: Embed>(
        &mut self,
        model: &mut Model<E>,
        parameters: &Parameters,
        batch: &mut E::Batch,
    ) -> Result<(), StatisticsError> {
        let (answering, (sequences, rows)) = (model.answering()?, model.sizes(batch)?);
        if sequences != 1 && self.settings.kind != FisherKind::BatchSummed {
            return Err(StatisticsError::NotOne { found: sequences });
        }
        let answers = match answering {
            Answering::Classes(_, _, true) => sequences,
            Answering::Classes(_, _, false) | Answering::Words(_) => rows,
        };
        let mut example = Example { model, parameters, batch };
        match self.settings.kind {
            FisherKind::Empirical => self.empirical(&mut example, answering)?,
            FisherKind::Exact => self.exact(&mut example, answering, answers)?,
            FisherKind::BatchSummed => self.batch_summed(&mut example, answering, answers)?,
        }
        self.examples += sequences as u64;
        Ok(())
    }

    fn empirical<E: Embed>(
        &mut self,
        example: &mut Example<'_, E>,
        answering: Answering,
    ) -> Result<(), StatisticsError> {
        let targets = E::targets_mut(example.batch);
        let (classes, values) = (targets.rows().targets.to_vec(), targets.values().to_vec());
        if classes.iter().all(|class| *class < 0) {
            return Err(StatisticsError::NoLabels);
        }
        let weight = match answering {
            // The loss is a mean over the labels, the log-likelihood a sum.
            Answering::Classes(classes, Problem::MultiLabel, _) => classes as f32,
            Answering::Classes(..) | Answering::Words(_) => 1.0,
        };
        let weights = vec![weight; classes.len()];
        let labelling = Labelling { classes, values, weights };
        self.pass(example, &labelling, Into::Squares)
    }

    fn exact<E: Embed>(
        &mut self,
        example: &mut Example<'_, E>,
        answering: Answering,
        answers: usize,
    ) -> Result<(), StatisticsError> {
        let counts = counts::<E>(example.batch, answers);
        for labelling in self.labellings(example, answering, &counts)? {
            if labelling.weights.iter().any(|w| *w > 0.0) {
                self.pass(example, &labelling, Into::Squares)?;
            }
        }
        Ok(())
    }

    fn batch_summed<E: Embed>(
        &mut self,
        example: &mut Example<'_, E>,
        answering: Answering,
        answers: usize,
    ) -> Result<(), StatisticsError> {
        let counts = counts::<E>(example.batch, answers);
        self.gradients.begin();
        for labelling in self.labellings(example, answering, &counts)? {
            self.pass(example, &labelling, Into::Gradients)?;
        }
        self.squares.add_all(&self.gradients);
        Ok(())
    }

    /// The labellings whose gradients are squared.
    fn labellings<E: Embed>(
        &self,
        example: &mut Example<'_, E>,
        answering: Answering,
        counts: &[bool],
    ) -> Result<Vec<Labelling>, StatisticsError> {
        let FisherSettings { kind, enumerate, draws, seed } = self.settings;
        let draws = draws.max(1);
        // Squares are averaged, and so weights are roots; gradients that are added up are averaged themselves.
        let weight =
            if kind == FisherKind::BatchSummed { 1.0 / draws as f32 } else { (1.0 / draws as f32).sqrt() };
        let stream =
            |draw: u32, part: usize| Stream::new(seed, "fisher", &format!("{}:{draw}:{part}", self.examples));
        let (classes, problem) = match answering {
            Answering::Words(words) => return self.words(example, words, counts, &stream, weight),
            Answering::Classes(classes, problem, _) => (classes, problem),
        };
        let scores = example.model.scores(example.parameters, example.batch, &[])?.to_vec();
        self.check(&scores)?;
        let scores = Scores { scores: &scores, classes, counts };
        // Of one answer, or of gradients that are added up anyway.
        let few = classes <= enumerate && (counts.len() == 1 || kind == FisherKind::BatchSummed);
        Ok(match problem {
            Problem::SingleLabel if few => scores.every_class(),
            Problem::SingleLabel => (0..draws).map(|draw| scores.drawn(&stream(draw, 0), weight)).collect(),
            _ if few => scores.every_score(problem),
            _ => (0..draws).map(|draw| scores.drawn_scores(problem, &stream(draw, 0), weight)).collect(),
        })
    }

    /// Draws of words, whose scores are made for some rows at a time.
    fn words<E: Embed>(
        &self,
        example: &mut Example<'_, E>,
        words: usize,
        counts: &[bool],
        stream: &dyn Fn(u32, usize) -> Stream,
        weight: f32,
    ) -> Result<Vec<Labelling>, StatisticsError> {
        let none = Labelling {
            classes: vec![-1; counts.len()],
            weights: vec![0.0; counts.len()],
            values: Vec::new(),
        };
        let mut labellings = vec![none; self.settings.draws.max(1) as usize];
        let rows: Vec<u32> =
            (0u32..).zip(counts).filter(|(_, counts)| **counts).map(|(row, _)| row).collect();
        for (part, rows) in rows.chunks((SCORES / words).max(1)).enumerate() {
            let scores = example.model.scores(example.parameters, example.batch, rows)?.to_vec();
            self.check(&scores)?;
            let all = vec![true; rows.len()];
            let scores = Scores { scores: &scores, classes: words, counts: &all };
            for (draw, labelling) in (0u32..).zip(&mut labellings) {
                // Parts have streams of their own; their cut depends on the model and on the example alone.
                let drawn = scores.drawn(&stream(draw, part), weight);
                for (row, (class, weight)) in rows.iter().zip(drawn.classes.into_iter().zip(drawn.weights)) {
                    labelling.classes[*row as usize] = class;
                    labelling.weights[*row as usize] = weight;
                }
            }
        }
        Ok(labellings)
    }

    /// Passes a batch with these labels.
    fn pass<E: Embed>(
        &mut self,
        example: &mut Example<'_, E>,
        labelling: &Labelling,
        into: Into,
    ) -> Result<(), StatisticsError> {
        let Labelling { classes, values, weights } = labelling;
        E::targets_mut(example.batch).replace(classes, values, weights);
        let training = Training { objective: Objective::CROSS_ENTROPY, checkpointing: false, coins: None };
        let sink: &mut dyn GradientSink = match into {
            Into::Squares => &mut self.squares,
            Into::Gradients => &mut self.gradients,
        };
        let Example { model, parameters, batch } = example;
        model.train(parameters, batch, &training, &mut self.losses, sink)?;
        self.check(&[self.losses.objective as f32])
    }

    fn check(&self, values: &[f32]) -> Result<(), StatisticsError> {
        match values.iter().find(|v| !v.is_finite()) {
            None => Ok(()),
            Some(value) => {
                Err(StatisticsError::NotFinite { example: self.examples, value: value.to_string() })
            }
        }
    }

    /// The mean over examples, of every tensor of the checkpoint that had a gradient.
    ///
    /// # Errors
    /// If nothing was measured, or a sum is not finite.
    pub fn finish(self, parameters: &Parameters) -> Result<Vec<Diagonal>, StatisticsError> {
        if self.examples == 0 {
            return Err(StatisticsError::Nothing);
        }
        let factor = (1.0 / self.examples as f64) as f32;
        let mut means = Vec::new();
        for (id, mut values) in self.squares.into_sums() {
            let parameter = &parameters[id];
            if !matches!(parameter.origin, Origin::Stored { .. }) {
                continue;
            }
            elementwise::scale(&mut values, factor);
            if !square_sum(&values).is_finite() {
                return Err(StatisticsError::Overflow { tensor: parameter.name.clone() });
            }
            means.push(Diagonal { names: parameters.names(id), shape: parameter.shape.clone(), values });
        }
        Ok(means)
    }
}

/// Where the gradients of a pass go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Into {
    Squares,
    Gradients,
}

/// Which answers count: all, if the batch has no targets.
fn counts<E: Embed>(batch: &E::Batch, answers: usize) -> Vec<bool> {
    let targets = E::targets(batch).rows().targets;
    let given: Vec<bool> = targets.iter().map(|target| *target >= 0).collect();
    if given.len() == answers { given } else { vec![true; answers] }
}
