//! How likely a text is after another.

use onefold_engine::cpu::loss::{Losses, Objective};

use crate::model::batch::{Batch, Sequence};
use crate::model::error::ModelError;
use crate::model::parameters::Parameters;
use crate::model::text::TextModel;

/// A text, and what goes before it.
#[derive(Debug, Clone, Copy)]
pub struct Continuation<'a> {
    /// What goes before, with the model's first token; not empty.
    pub context: &'a [u32],
    /// The text.
    pub text: &'a [u32],
}

/// How likely a [`Continuation`] is.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Score {
    /// Natural logarithm of its probability.
    pub log_likelihood: f64,
    /// Whether greedy choice would write it.
    pub greedy: bool,
}

/// Scores of continuations, all in one batch; how many at a time is the caller's choice. An empty text has probability 1.
///
/// # Errors
/// If a context is empty or does not fit the model, or the model has no scores of tokens.
pub fn score(
    model: &mut TextModel,
    parameters: &Parameters,
    of: &[Continuation<'_>],
) -> Result<Vec<Score>, ModelError> {
    if let Some(prompt) = of.iter().position(|one| one.context.is_empty()) {
        return Err(ModelError::EmptyPrompt { prompt });
    }
    if !model.is_language_model() {
        return Err(ModelError::NoLanguageHead);
    }
    if of.is_empty() {
        return Ok(Vec::new());
    }
    let mut batch = Batch::default();
    for one in of {
        push(&mut batch, one);
    }
    let mut losses = Losses::new(1);
    model.evaluate(parameters, &batch, Objective::CROSS_ENTROPY, &mut losses)?;
    let mut rows = losses.rows.iter().zip(batch.targets().rows().targets);
    let score = |one: &Continuation<'_>| {
        let mut score = Score { log_likelihood: 0.0, greedy: true };
        let own = rows.by_ref().take(one.context.len() + one.text.len());
        for (row, _) in own.filter(|(_, target)| **target >= 0) {
            score.log_likelihood -= f64::from(row.loss);
            score.greedy &= row.correct;
        }
        score
    };
    Ok(of.iter().map(score).collect())
}

fn push(batch: &mut Batch, one: &Continuation<'_>) {
    let ids = [one.context, one.text].concat();
    // Ids beyond i32 are beyond any vocabulary: the batch is refused for them.
    let targets = one.text.iter().map(|id| i32::try_from(*id).unwrap_or(-1)).chain([-1]);
    let targets: Vec<i32> = vec![-1; one.context.len() - 1].into_iter().chain(targets).collect();
    batch.push(&Sequence { ids: &ids, targets: &targets, weight: 1.0, ..Sequence::default() });
}
