//! The other road to a merge: each expert is measured on its own task's inputs, and what was measured says how weights are
//! averaged (Fisher merging, RegMean). Nothing is learnt.
//!
//! [`Measuring`] takes one expert and writes one file of statistics. Nothing depends on the number of threads.

use std::collections::BTreeMap;
use std::path::Path;

use onefold_engine::Buffer;
use onefold_runtime::events::{Control, Event, Observer};

use super::blend::{Blend, Expert};
use super::error::AdaptError;
use super::memory::Memory;
use super::settings::at_once;
use crate::config::ModelConfig;
use crate::data::Task;
use crate::data::shape;
use crate::families::{Half, Role, TensorSpec};
use crate::model::{BatchShape, Embed, Keep, Model, Parameters, Part};
use crate::statistics::{
    Fisher, FisherKind, FisherSettings, Grams, Kind, LayerNodes, MaskNodes, StatisticsError, Stored, save,
};
use crate::tune::learner::Learner;
use crate::tune::micro::{Row, Rows};
use crate::tune::plan::data_bytes;

/// Scores of words that are held at once, as `statistics` holds them.
const SCORES: usize = 1 << 24;

/// What is measured of an expert.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Measure {
    /// The diagonal of its Fisher information. Rows of a batch are squared together by one kind alone.
    Fisher(FisherSettings, usize),
    /// The Fisher information of its heads and neurons, whose gradients are added up over so many rows.
    Nodes(usize),
    /// Gram matrices of the inputs of its linear maps.
    Grams,
}

impl Measure {
    /// Whether gold labels are learnt.
    pub fn needs_labels(&self) -> bool {
        matches!(self, Self::Nodes(_) | Self::Fisher(FisherSettings { kind: FisherKind::Empirical, .. }, _))
    }

    /// Whether a tensor has a gradient.
    fn trains(&self, spec: &TensorSpec) -> bool {
        match self {
            Self::Fisher(..) => true,
            // The way back has to reach the first layer's heads; one matrix before them is enough.
            Self::Nodes(_) => spec.layer == Some(0) && matches!(spec.role, Role::Query | Role::QueryKeyValue),
            Self::Grams => false,
        }
    }

    /// Rows that pass together; none: as many as there is room for.
    fn together(&self) -> Option<usize> {
        match self {
            Self::Fisher(FisherSettings { kind: FisherKind::BatchSummed, .. }, rows) | Self::Nodes(rows) => {
                Some((*rows).max(1))
            }
            // Cross terms between examples have no place in these.
            Self::Fisher(..) => Some(1),
            Self::Grams => None,
        }
    }

    /// How it is measured, for the file.
    fn options(&self) -> BTreeMap<String, String> {
        let mut options = BTreeMap::new();
        let mut put = |key: &str, value: String| drop(options.insert(key.to_owned(), value));
        match self {
            Self::Fisher(FisherSettings { kind, enumerate, draws, .. }, rows) => {
                put("fisher", kind.name().to_owned());
                if *kind != FisherKind::Empirical {
                    put("enumerate", enumerate.to_string());
                    put("draws", draws.to_string());
                }
                if *kind == FisherKind::BatchSummed {
                    put("batch", rows.to_string());
                }
            }
            Self::Nodes(rows) => put("batch", rows.to_string()),
            Self::Grams => {}
        }
        options
    }
}

/// An expert that is about to be measured.
#[allow(missing_debug_implementations, reason = "an observer need not have it")]
pub struct Measuring<'a> {
    /// What of it.
    pub measure: Measure,
    /// The expert.
    pub expert: Expert<'a>,
    /// The inputs of all tasks, as their `train` rows.
    pub inputs: &'a [Task],
    /// The task it is of, by its number among these.
    pub task: usize,
    /// Most tokens (images: pixels' rows) that pass at once, where that is free.
    pub tokens: u64,
    /// Directory with the image processor's files.
    pub source: &'a Path,
    /// Is told how it goes.
    pub observer: &'a dyn Observer,
}

/// What measures.
enum Meter {
    Fisher(Box<Fisher>),
    Nodes(Box<MaskNodes>),
    Grams(Box<Grams>),
}

impl Meter {
    fn add<E: Embed>(
        &mut self,
        model: &mut Model<E>,
        parameters: &Parameters,
        batch: &mut E::Batch,
    ) -> Result<(), StatisticsError> {
        match self {
            Self::Fisher(fisher) => fisher.add(model, parameters, batch),
            Self::Nodes(nodes) => nodes.add(model, parameters, batch),
            Self::Grams(grams) => grams.add(model, parameters, batch),
        }
    }
}

impl Measuring<'_> {
    /// Measures, and writes a file of statistics to the directory `out`, which does not exist yet.
    ///
    /// # Errors
    /// If the expert cannot be read or measured, the system refuses, or the observer asks to stop.
    pub fn write(&self, out: &Path) -> Result<(), AdaptError> {
        let checkpoint = self.expert.checkpoint;
        let config = ModelConfig::open(checkpoint.dir())?;
        let parameters = Parameters::load(&config, checkpoint, |spec| self.measure.trains(spec))?;
        let mut learner = Learner::new(&parameters, self.source)?;
        let named = |error| AdaptError::Measured { task: self.name().to_owned(), error: Box::new(error) };
        let mut meter = match self.measure {
            Measure::Fisher(settings, _) => Meter::Fisher(Box::new(Fisher::new(settings))),
            Measure::Nodes(_) => Meter::Nodes(Box::new(MaskNodes::new(&parameters).map_err(named)?)),
            Measure::Grams => Meter::Grams(Box::new(Grams::new(&parameters))),
        };
        let rows = self.rows(&learner);
        let total = rows.micro.len() as u64;
        self.observer.event(&Event::Steps { name: "measure", done: 0, total });
        for micro in &rows.micro {
            let passed = &rows.rows[micro.rows.clone()];
            learner.fill(self.inputs, passed, &vec![1.0; passed.len()])?;
            let added = match &mut learner {
                Learner::Text(model, batch) => meter.add(model, &parameters, batch),
                Learner::Images(model, batch, _) => meter.add(model, &parameters, batch),
                Learner::Pairs(_) => unreachable!("classes of clip are told where coefficients are learnt"),
            };
            added.map_err(named)?;
            if self.observer.event(&Event::Step { status: self.name() }) == Control::Cancel {
                return Err(AdaptError::Stopped);
            }
        }
        self.save(meter, &parameters, out).map_err(named)
    }

    fn name(&self) -> &str {
        &self.inputs[self.task].name
    }

    /// The rows of the task, cut into batches.
    fn rows(&self, learner: &Learner) -> Rows {
        let of = |row: &u32| vec![Row::of(self.inputs, self.task as u32, *row)];
        let rows = self.inputs[self.task].train.iter().map(of).collect();
        let heads = vec![None; self.inputs.len()];
        match self.measure.together() {
            Some(together) => Rows::cut(rows, &heads, together, false),
            None => Rows::cut_by_tokens(rows, &heads, at_once(self.tokens, learner)),
        }
    }

    fn save(&self, meter: Meter, parameters: &Parameters, out: &Path) -> Result<(), StatisticsError> {
        let options = self.measure.options();
        let write =
            |kind, examples, tensors: &[Stored<'_>]| save(out, kind, examples, &options, tensors, false);
        match meter {
            Meter::Fisher(fisher) => {
                let (examples, found) = (fisher.examples(), fisher.finish(parameters)?);
                write(Kind::Fisher, examples, &found.iter().map(|found| found.stored()).collect::<Vec<_>>())
            }
            Meter::Nodes(nodes) => {
                let examples = nodes.examples();
                let found = LayerNodes::buffers(&nodes.finish()?);
                write(Kind::Nodes, examples, &found.iter().map(vector).collect::<Vec<_>>())
            }
            Meter::Grams(grams) => {
                let (examples, found) = (grams.examples(), grams.finish(parameters)?);
                write(Kind::Gram, examples, &found.iter().map(|found| found.stored()).collect::<Vec<_>>())
            }
        }
    }
}

fn vector((name, values): &(String, Buffer)) -> Stored<'_> {
    Stored { names: vec![name.clone()], transposed: false, shape: vec![values.len()], values }
}

/// What measuring takes, and scoring after it; `blend` is the model that is scored.
///
/// # Errors
/// If the model cannot be built, or `source` has no image processor where one is needed.
pub fn measuring_memory(
    measure: Measure,
    blend: &Blend,
    inputs: &[Task],
    tokens: u64,
    source: &Path,
) -> Result<Memory, AdaptError> {
    let parameters = &blend.parameters;
    let learner = blend.learner(source)?;
    let per_token = learner.rows_per_token().max(1);
    let limit = at_once(tokens, &learner) as usize;
    let longest = inputs.iter().flat_map(Task::lengths).max().unwrap_or(0) as usize;
    let (rows, sequences, keep) = match measure.together() {
        Some(together) => (together * longest, together, Keep::Everything),
        None => (limit.max(longest), limit, Keep::Nothing),
    };
    let shape = BatchShape { rows: rows * per_token, sequences, keep, dropout: false };
    let scored = limit.max(longest);
    let scored =
        BatchShape { rows: scored * per_token, sequences: scored, keep: Keep::Nothing, dropout: false };
    let activations = [shape, scored].map(|shape| learner.activation_bytes(parameters, &shape));
    let sizes = || parameters.trainable().map(|(_, parameter)| parameter.len() * size_of::<f32>());
    let (whole, largest) = (sizes().sum::<usize>(), sizes().max().unwrap_or(0));
    let gradients = match measure {
        // The sums, and the gradients of a layer's matrices, which are lent together at most; or those of a batch.
        Measure::Fisher(FisherSettings { kind: FisherKind::BatchSummed, .. }, _) => 2 * whole,
        Measure::Fisher(..) => whole + 4 * largest,
        Measure::Nodes(_) => 4 * largest,
        Measure::Grams => Grams::new(parameters).bytes(),
    };
    let drawn = match measure {
        Measure::Fisher(settings, _) if settings.kind != FisherKind::Empirical => {
            words(parameters, inputs, rows)
        }
        _ => 0,
    };
    Ok(Memory {
        parameters: parameters.bytes() as u64,
        gradients: gradients as u64,
        activations: (activations[0] + drawn).max(activations[1]) as u64,
        data: inputs.iter().map(data_bytes).sum(),
        surgery: 0,
    })
}

/// Bytes of the scores of words from which labels are drawn, with their probabilities.
fn words(parameters: &Parameters, inputs: &[Task], rows: usize) -> usize {
    let writes = inputs.iter().any(|task| task.kind == shape::Kind::Generate);
    let embedding = parameters.find(Half::Whole, None, Role::TokenEmbedding, Part::Weight);
    let Some(embedding) = embedding.filter(|_| writes) else { return 0 };
    let words = parameters[embedding].shape.first().copied().unwrap_or(0);
    let at_once = rows.min((SCORES / words.max(1)).max(1));
    // As they come and copied, and in f64.
    at_once * words * (2 * size_of::<f32>() + size_of::<f64>())
}
