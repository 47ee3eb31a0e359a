//! How well the merged model does: what it tells of rows that it did not learn from.
//!
//! Of classes: how many are right, the mean entropy of the predictions, and whether they have collapsed: a model that always
//! tells the same class has a low entropy, too. Then the mean prediction has a low entropy as well, and few classes are told.
//! Of tokens: the mean loss of the next token, how many are right, and the mean entropy.

use onefold_engine::cpu::loss::{Losses, Objective};
use serde::{Deserialize, Serialize};

use super::blend::Blend;
use super::error::AdaptError;
use crate::data::Task;
use crate::data::shape::Kind;
use crate::model::Parameters;
use crate::statistics::Surgery;
use crate::tune::learner::Learner;
use crate::tune::micro::{Row, Rows};

/// What came of a task's rows.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Score {
    /// Rows; of texts that are written, tokens.
    pub rows: u64,
    /// Share that is right; none without labels.
    pub accuracy: Option<f64>,
    /// Mean cross-entropy; none without labels.
    pub loss: Option<f64>,
    /// Mean entropy of the predictions.
    pub entropy: f64,
    /// Of classes: what predictions look like together.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub predictions: Option<Predictions>,
}

/// Predictions of classes together.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Predictions {
    /// Entropy of the mean prediction, over its greatest value ln C: 1 if all classes are told alike, 0 if one alone is.
    pub spread: f64,
    /// How often each class is told.
    pub counts: Vec<u64>,
    /// How often each class is right; empty without labels.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub expected: Vec<u64>,
}

/// A mean prediction whose entropy is below this share of ln C has collapsed, unless labels are as uneven.
const COLLAPSED: f64 = 0.5;

impl Predictions {
    /// Why predictions seem to have collapsed, if they do.
    pub fn collapse(&self) -> Option<String> {
        let told: u64 = self.counts.iter().sum();
        let (class, most) = self.counts.iter().enumerate().max_by_key(|(_, count)| **count)?;
        let expected = spread(&self.expected.iter().map(|n| *n as f64).collect::<Vec<_>>());
        let usual = if self.expected.is_empty() { 1.0 } else { expected };
        (told > 0 && self.counts.len() > 1 && self.spread < COLLAPSED * usual).then(|| {
            let share = 100.0 * *most as f64 / told as f64;
            format!(
                "the mean prediction has {:.0} % of the entropy that {} has; class {class} is told for {share:.0} % of the rows",
                100.0 * self.spread,
                if self.expected.is_empty() { "an even one" } else { "that of the labels" }
            )
        })
    }
}

/// What the model scores on the rows of a task, by its number among the inputs; none without rows for it. `Err(())` if `go_on`
/// says no before the end. With `surgery` features are corrected before the head's last map reads them.
///
/// # Errors
/// If rows do not fit the model.
pub(super) fn of_task(
    blend: &Blend,
    learner: &mut Learner,
    (inputs, tests): (&[Task], &[Task]),
    (task, surgery): (usize, Option<&Surgery>),
    tokens: u64,
    go_on: &dyn Fn() -> bool,
) -> Result<Result<Option<Score>, ()>, AdaptError> {
    let Some(test) = tests.iter().position(|test| test.name == inputs[task].name) else {
        return Ok(Ok(None));
    };
    let head = |test: &Task| {
        let of = inputs.iter().position(|input| input.name == test.name);
        of.and_then(|task| blend.heads[task])
    };
    let heads: Vec<Option<u32>> = tests.iter().map(head).collect();
    let mut scorer =
        Scorer { parameters: &blend.parameters, learner, tasks: tests, heads: &heads, tokens, surgery };
    Ok(scorer.score(test, go_on)?.map(Some).ok_or(()))
}

/// Passes rows of one task through the model.
struct Scorer<'a> {
    parameters: &'a Parameters,
    learner: &'a mut Learner,
    /// All tasks, of which one is scored.
    tasks: &'a [Task],
    heads: &'a [Option<u32>],
    /// Most tokens that pass at once.
    tokens: u64,
    /// What corrects features.
    surgery: Option<&'a Surgery>,
}

impl Scorer<'_> {
    /// Scores the rows of a task; nothing if `go_on` says no before the end.
    ///
    /// # Errors
    /// If rows do not fit the model.
    fn score(&mut self, task: usize, go_on: &dyn Fn() -> bool) -> Result<Option<Score>, AdaptError> {
        let of = &self.tasks[task];
        let rows = of.train.iter().map(|row| vec![Row::of(self.tasks, task as u32, *row)]).collect();
        let rows = Rows::cut_by_tokens(rows, self.heads, self.tokens);
        let mut sums = Sums::default();
        for micro in &rows.micro {
            if !go_on() {
                return Ok(None);
            }
            let passed = &rows.rows[micro.rows.clone()];
            self.learner.select_head(micro.head)?;
            self.learner.fill(self.tasks, passed, &vec![0.0; passed.len()])?;
            match of.kind {
                Kind::Generate => sums.words(self.learner, self.parameters, self.tasks.len(), task)?,
                Kind::Classify | Kind::ImageClassify => {
                    let surgery = self.surgery;
                    let logits = self.learner.classify_through(self.parameters, &mut |features| {
                        surgery.iter().for_each(|surgery| surgery.correct(features));
                    })?;
                    let classes = logits.len() / passed.len().max(1);
                    let rows = logits.as_slice().chunks_exact(classes.max(1)).zip(passed);
                    rows.for_each(|(logits, row)| sums.classes(logits, of.label(row.row)));
                }
            }
        }
        Ok(Some(sums.score(of)))
    }
}

#[derive(Debug, Default)]
struct Sums {
    rows: u64,
    labelled: u64,
    correct: u64,
    loss: f64,
    entropy: f64,
    /// Sum of the predictions.
    mean: Vec<f64>,
    counts: Vec<u64>,
    expected: Vec<u64>,
}

impl Sums {
    fn words(
        &mut self,
        learner: &mut Learner,
        parameters: &Parameters,
        tasks: usize,
        task: usize,
    ) -> Result<(), AdaptError> {
        let mut losses = Losses::new(tasks);
        learner.evaluate(parameters, Objective::CROSS_ENTROPY, &mut losses)?;
        let found = losses.tasks[task];
        self.rows += found.rows;
        self.labelled += found.rows;
        self.correct += found.correct;
        self.loss += found.loss;
        learner.evaluate(parameters, Objective::Entropy, &mut losses)?;
        self.entropy += losses.tasks[task].loss;
        Ok(())
    }

    fn classes(&mut self, logits: &[f32], label: Option<u32>) {
        self.mean.resize(logits.len(), 0.0);
        self.counts.resize(logits.len(), 0);
        let most = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let logs: Vec<f64> = logits.iter().map(|z| f64::from(*z) - f64::from(most)).collect();
        let log_sum = logs.iter().map(|z| z.exp()).sum::<f64>().ln();
        let told = logits.iter().position(|z| *z == most).unwrap_or_default();
        self.rows += 1;
        self.counts[told] += 1;
        for (mean, z) in self.mean.iter_mut().zip(&logs) {
            let p = (z - log_sum).exp();
            *mean += p;
            self.entropy -= p * (z - log_sum);
        }
        if let Some(label) = label.map(|label| label as usize).filter(|label| *label < logits.len()) {
            self.labelled += 1;
            self.correct += u64::from(label == told);
            self.loss -= logs[label] - log_sum;
            self.expected.resize(logits.len(), 0);
            self.expected[label] += 1;
        }
    }

    fn score(self, task: &Task) -> Score {
        let mean = |sum: f64, n: u64| if n == 0 { 0.0 } else { sum / n as f64 };
        let labelled = (self.labelled > 0).then_some(self.labelled);
        let is_classes = task.kind != Kind::Generate;
        Score {
            rows: self.rows,
            accuracy: labelled.map(|n| mean(self.correct as f64, n)),
            loss: labelled.map(|n| mean(self.loss, n)),
            entropy: mean(self.entropy, self.rows),
            predictions: is_classes.then(|| Predictions {
                spread: spread(&self.mean),
                counts: self.counts,
                expected: self.expected,
            }),
        }
    }
}

/// Entropy of weights made to add up to 1, over its greatest value.
fn spread(weights: &[f64]) -> f64 {
    let sum: f64 = weights.iter().sum();
    if weights.len() < 2 || sum <= 0.0 {
        return 1.0;
    }
    let parts = weights.iter().map(|weight| weight / sum).filter(|part| *part > 0.0);
    -parts.map(|part| part * part.ln()).sum::<f64>() / (weights.len() as f64).ln()
}
