//! What is to be learnt from a batch: a class or numbers for each answer of the head.

use onefold_engine::Buffer;
use onefold_engine::cpu::loss::Rows;

use super::batch::BatchError;
use crate::config::Problem;

/// What is to be learnt: for each answer that the head gives a class or numbers, a weight, and the task.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Targets {
    classes: Vec<i32>,
    /// One per score, if numbers are learnt.
    values: Buffer,
    weights: Vec<f32>,
    tasks: Vec<u32>,
}

/// What a head answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Answers {
    /// For what: "one per token".
    pub(super) per: &'static str,
    /// How many answers.
    pub(super) count: usize,
    /// Scores of each.
    pub(super) classes: usize,
    /// What they mean.
    pub(super) problem: Problem,
}

impl Targets {
    pub(super) fn clear(&mut self) {
        let Self { classes, values, weights, tasks } = self;
        classes.clear();
        values.resize(0);
        weights.clear();
        tasks.clear();
    }

    /// Adds targets; numbers without classes are one answer.
    pub(super) fn push(&mut self, (classes, values): (&[i32], &[f32]), weight: f32, task: u32) {
        let one: &[i32] = &[0];
        self.classes.extend_from_slice(if classes.is_empty() && !values.is_empty() { one } else { classes });
        let start = self.values.len();
        self.values.resize(start + values.len());
        self.values.write(start, values);
        self.weights.resize(self.classes.len(), weight);
        self.tasks.resize(self.classes.len(), task);
    }

    /// Puts others in their place, all of task 0: a class (below 0 for none) and a weight for each answer, and numbers if the
    /// head learns numbers.
    pub(crate) fn replace(&mut self, classes: &[i32], values: &[f32], weights: &[f32]) {
        self.clear();
        self.push((classes, values), 1.0, 0);
        self.weights.copy_from_slice(weights);
    }

    /// Classes with their weights and tasks. Where numbers are learnt, a class below 0 says that they are not.
    pub fn rows(&self) -> Rows<'_> {
        Rows { targets: &self.classes, weights: Some(&self.weights), tasks: Some(&self.tasks) }
    }

    /// Numbers to be learnt.
    pub fn values(&self) -> &Buffer {
        &self.values
    }

    /// Judges them against what a head answers and the number of tasks.
    pub(super) fn check(&self, answers: &Answers, tasks: usize) -> Result<(), BatchError> {
        let Answers { per, count, classes, problem } = *answers;
        let found = self.classes.len();
        if found != count {
            return Err(BatchError::Targets { found, expected: count, per });
        }
        let beyond = |target: &i32| usize::try_from(*target).is_ok_and(|target| target >= classes);
        if let Some(position) = self.classes.iter().position(beyond) {
            return Err(BatchError::UnknownTarget { position, target: self.classes[position], classes });
        }
        let expected = if problem == Problem::SingleLabel { 0 } else { count * classes };
        self.check_values(expected)?;
        match self.tasks.iter().position(|task| *task as usize >= tasks) {
            Some(position) => Err(BatchError::UnknownTask { position, task: self.tasks[position], tasks }),
            None => Ok(()),
        }
    }

    fn check_values(&self, expected: usize) -> Result<(), BatchError> {
        let found = self.values.len();
        if found != expected {
            return Err(BatchError::Values { found, expected });
        }
        let values = self.values.to_vec();
        match values.iter().position(|value| !value.is_finite()) {
            Some(position) => Err(BatchError::BadValue { position, value: values[position].to_string() }),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOKENS: Answers =
        Answers { per: "one per token", count: 3, classes: 4, problem: Problem::SingleLabel };

    fn targets(classes: &[i32], values: &[f32]) -> Targets {
        let mut targets = Targets::default();
        targets.push((classes, values), 0.5, 1);
        targets
    }

    #[track_caller]
    fn assert_refused(targets: &Targets, answers: &Answers, tasks: usize, message: &str) {
        let error = targets.check(answers, tasks).unwrap_err().to_string();
        assert!(error.starts_with(message), "{error}");
    }

    #[test]
    fn targets_that_the_head_does_not_have_are_refused() {
        let found = targets(&[2, 3, -1], &[]);
        assert_eq!(found.check(&TOKENS, 2), Ok(()));
        let one = Answers { per: "one per sequence", count: 1, ..TOKENS };
        let message = "the batch has 3 targets, the head gives 1 answers (one per sequence)";
        assert_refused(&found, &one, 2, message);
        let three = Answers { classes: 3, ..TOKENS };
        assert_refused(&found, &three, 2, "target 1 is 3, the head has 3 classes");
        assert_refused(&found, &TOKENS, 1, "target 0 is of task 1, there are 1");
        let short = targets(&[2, 3], &[]);
        assert_refused(
            &short,
            &TOKENS,
            2,
            "the batch has 2 targets, the head gives 3 answers (one per token)",
        );
    }

    #[test]
    fn numbers_are_learnt_where_numbers_are_wanted() {
        let numbers = Answers { per: "one per sequence", count: 1, classes: 2, problem: Problem::Regression };
        assert_eq!(targets(&[], &[0.5, 1.0]).check(&numbers, 2), Ok(()));
        assert_eq!(targets(&[-1], &[0.5, 1.0]).check(&numbers, 2), Ok(()));
        assert_refused(
            &targets(&[1], &[]),
            &numbers,
            2,
            "the batch has 0 numbers to be learnt, the head needs 2",
        );
        let classes = Answers { problem: Problem::SingleLabel, ..numbers };
        assert_refused(
            &targets(&[1], &[0.5]),
            &classes,
            2,
            "the batch has 1 numbers to be learnt, the head needs 0",
        );
        assert_refused(&targets(&[], &[0.5, f32::NAN]), &numbers, 2, "number 1 to be learnt is NaN");
    }
}
