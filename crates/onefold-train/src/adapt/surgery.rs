//! Representation Surgery after a merge: for each task a small module that moves the merged model's features towards those of the
//! task's expert, learnt on the task's inputs ([`crate::statistics::Surgery`] has the formulas).
//!
//! Features are what the last map of a head reads ([`crate::model::Model::classify_through`]). Neither model moves, so the features of
//! both are computed once and held while the module is learnt: no more than the rows that its steps can see.

use std::collections::BTreeMap;
use std::path::Path;

use onefold_checkpoint::Checkpoint;
use onefold_runtime::events::{Control, Event};
use serde::Serialize;

use super::blend::Blend;
use super::error::AdaptError;
use super::score::Score;
use super::scoring::Scoring;
use crate::data::Task;
use crate::data::shuffle::permutation;
use crate::families::{Half, Role};
use crate::model::Part;
use crate::statistics::{Statistics, Surgery, SurgeryError, SurgeryLearning, SurgerySettings};
use crate::tune::micro::{Row, Rows};

/// The correction of a task, known before it is learnt.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Correction {
    /// The task.
    pub task: String,
    /// The module of the head whose input is corrected, as the task's expert calls it.
    pub module: String,
    /// Width of the features.
    pub width: usize,
    /// Inner width of the correction.
    pub rank: usize,
    /// Numbers that are added to the model.
    pub parameters: usize,
    /// Inputs that it is learnt from.
    pub examples: usize,
    /// Memory that learning it takes.
    #[serde(skip)]
    pub bytes: u64,
}

/// What is corrected, of each task in their order; `blend` is the model with the tasks' heads.
///
/// # Errors
/// If a task is told by no head that scores classes for a whole text or image, or the model cannot be built.
pub fn corrections(
    blend: &Blend,
    inputs: &[Task],
    settings: &SurgerySettings,
    source: &Path,
) -> Result<Vec<Correction>, AdaptError> {
    if let Some((task, _)) = inputs.iter().zip(&blend.heads).find(|(_, head)| head.is_none()) {
        return Err(unfit(&task.name, "is told by the model's own words"));
    }
    let mut learner = blend.learner(source)?;
    let mut found = Vec::with_capacity(inputs.len());
    for (task, head) in inputs.iter().zip(&blend.heads) {
        learner.select_head(*head)?;
        let width =
            learner.feature_width().map_err(|_| unfit(&task.name, "has no head that tells a whole row"))?;
        let rank = settings.rank;
        let parameters = width.checked_mul(rank).and_then(|size| size.checked_mul(2));
        let parameters = parameters.ok_or(SurgeryError::Empty { width, rank });
        let parameters =
            parameters.map_err(|error| AdaptError::Surgery { task: task.name.clone(), error })?;
        let examples = seen(task, settings);
        // Features of both models in f32; numbers, slopes, and two means of Adam in f64.
        let bytes =
            (2 * size_of::<f32>() * width * examples) as u64 + (4 * size_of::<f64>() * parameters) as u64;
        let module = module(blend, *head);
        found.push(Correction { task: task.name.clone(), module, width, rank, parameters, examples, bytes });
    }
    Ok(found)
}

fn unfit(task: &str, why: &str) -> AdaptError {
    let message = format!(
        "task `{task}` {why}; what is corrected is what a head reads that scores classes of whole texts or images, so leave `surgery` out"
    );
    AdaptError::setting("surgery", message)
}

/// Rows of a task that learning can see.
fn seen(task: &Task, settings: &SurgerySettings) -> usize {
    task.train.len().min(settings.steps.saturating_mul(settings.batch).max(1))
}

/// The module of a head whose input its features are.
fn module(blend: &Blend, head: Option<u32>) -> String {
    let half = head.map_or(Half::Whole, Half::Task);
    let weight = [Part::Weight, Part::Transposed]
        .into_iter()
        .find_map(|part| blend.parameters.find(half, None, Role::Head, part));
    let name = weight.and_then(|id| blend.parameters[id].spec()).map_or("", |spec| spec.name.as_str());
    name.rsplit_once('.').map_or(name, |(module, _)| module).to_owned()
}

/// Mean of |z − z_expert| over examples and elements.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Distance {
    /// Of the merged model's features.
    pub before: f64,
    /// Of the corrected ones.
    pub after: f64,
}

/// What came of a task; a line of `metrics.jsonl`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Corrected {
    /// What was known of it.
    #[serde(flatten)]
    pub correction: Correction,
    /// From the expert's features, on these inputs.
    pub distance: Distance,
    /// With the correction; none without rows to score with.
    pub score: Option<Score>,
}

/// A correction that is about to be learnt.
#[derive(Debug, Clone, Copy)]
pub struct Operation<'a> {
    /// What is known of it.
    pub correction: &'a Correction,
    /// The task, by its number among the inputs.
    pub task: usize,
    /// The expert, by its number.
    pub expert: usize,
    /// A model with the merged trunk.
    pub merged: &'a Checkpoint,
    /// How.
    pub settings: &'a SurgerySettings,
}

impl Scoring<'_> {
    /// Learns the correction of a task, writes it to the directory `out`, which does not exist yet (`statistics.safetensors`),
    /// and scores the merged model with it, as it was written.
    ///
    /// # Errors
    /// If a model cannot be read or run, the system refuses, or the observer asks to stop.
    pub fn surgery(&mut self, operation: &Operation<'_>, out: &Path) -> Result<Corrected, AdaptError> {
        let Operation { correction, task, expert, merged, settings } = *operation;
        let named = |error| AdaptError::Surgery { task: correction.task.clone(), error };
        let saved = |error| AdaptError::Measured { task: correction.task.clone(), error: Box::new(error) };
        let rows = self.rows(task, settings);
        self.blend.set_expert(expert)?;
        let wanted = self.features((task, &rows), correction.width)?;
        self.set_merged(merged)?;
        let features = self.features((task, &rows), correction.width)?;
        let mut learning =
            SurgeryLearning::new((&features, &wanted), correction.width, settings).map_err(named)?;
        self.steps(&mut learning, settings.steps, &correction.task)?;
        let options = options(correction, settings);
        learning.finish().save(out, rows.len() as u64, &options, false).map_err(saved)?;
        let surgery = Surgery::open(&Statistics::file(out)).map_err(saved)?;
        let untouched = Surgery::new(correction.width, correction.rank, 0).map_err(named)?;
        let distance = |of: &Surgery| of.loss(&features, &wanted).map_err(named);
        let distance = Distance { before: distance(&untouched)?, after: distance(&surgery)? };
        let score = self.task(task, Some(&surgery))?;
        let found = Corrected { correction: correction.clone(), distance, score };
        self.logs.surgery(&found)?;
        found.score.iter().for_each(|score| self.watch("with surgery", &correction.task, score));
        Ok(found)
    }

    /// The rows that are learnt from, in the order of the data.
    fn rows(&self, task: usize, settings: &SurgerySettings) -> Vec<u32> {
        let of = &self.inputs[task];
        let mut places = permutation(of.train.len(), settings.seed, &of.name, "surgery");
        places.truncate(seen(of, settings));
        places.sort_unstable();
        places.into_iter().map(|place| of.train[place as usize]).collect()
    }

    /// Features `[rows, width]` of a task's rows by the model as it is.
    fn features(&mut self, (task, rows): (usize, &[u32]), width: usize) -> Result<Vec<f32>, AdaptError> {
        let mut features = Vec::with_capacity(rows.len() * width);
        let rows = rows.iter().map(|row| vec![Row::of(self.inputs, task as u32, *row)]).collect();
        let rows = Rows::cut_by_tokens(rows, &self.blend.heads, self.tokens);
        for micro in &rows.micro {
            if self.observer.event(&Event::Progress { bytes: 0 }) == Control::Cancel {
                return Err(AdaptError::Stopped);
            }
            let passed = &rows.rows[micro.rows.clone()];
            self.learner.select_head(micro.head)?;
            self.learner.fill(self.inputs, passed, &vec![0.0; passed.len()])?;
            let add = &mut |found: &mut [f32]| features.extend_from_slice(found);
            self.learner.classify_through(&self.blend.parameters, add)?;
        }
        Ok(features)
    }

    fn steps(&self, learning: &mut SurgeryLearning<'_>, steps: usize, task: &str) -> Result<(), AdaptError> {
        self.observer.event(&Event::Steps { name: "surgery", done: 0, total: steps as u64 });
        for _ in 0..steps {
            let status = format!("{task} {:.4}", learning.step());
            if self.observer.event(&Event::Step { status: &status }) == Control::Cancel {
                return Err(AdaptError::Stopped);
            }
        }
        Ok(())
    }
}

/// How it was learnt and what it is of, for the file.
fn options(correction: &Correction, settings: &SurgerySettings) -> BTreeMap<String, String> {
    let SurgerySettings { steps, batch, learning_rate, seed, .. } = *settings;
    let all = [
        ("task", correction.task.clone()),
        ("module", correction.module.clone()),
        ("steps", steps.to_string()),
        ("batch", batch.to_string()),
        ("lr", learning_rate.to_string()),
        ("seed", seed.to_string()),
    ];
    all.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
}
