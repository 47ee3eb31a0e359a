//! Micro-batches through the model: there and back, or forwards alone.

use onefold_engine::cpu::loss::{Losses, Objective, TaskLoss};

use super::error::TuneError;
use super::learner::Learner;
use super::micro::{MicroBatch, Row, Rows};
use crate::data::Task;
use crate::model::{GradientSink, Parameters, Training};

/// Rows that an error shows.
const SHOWN: usize = 8;

/// The model that is tuned, with its numbers and the tasks whose rows it passes.
#[derive(Debug)]
pub(super) struct Runner<'a> {
    pub(super) tasks: &'a [Task],
    pub(super) parameters: Parameters,
    pub(super) learner: Learner,
    losses: Losses,
}

impl<'a> Runner<'a> {
    pub(super) fn new(tasks: &'a [Task], parameters: Parameters, learner: Learner) -> Self {
        Self { tasks, parameters, learner, losses: Losses::new(tasks.len()) }
    }

    /// Gradients of a micro-batch whose rows have these `weights`; its losses are added to `sums`. `step` is for messages.
    ///
    /// # Errors
    /// [`TuneError::NotFinite`] if a loss is not finite: gradients are spoilt then.
    pub(super) fn train(
        &mut self,
        (rows, at): (&Rows, &MicroBatch),
        weights: &[f32],
        training: &Training,
        sink: &mut dyn GradientSink,
        (sums, step): (&mut [TaskLoss], u64),
    ) -> Result<(), TuneError> {
        let Self { tasks, parameters, learner, losses } = self;
        let passed = &rows.rows[at.rows.clone()];
        learner.select_head(at.head)?;
        learner.fill(tasks, passed, &weights[at.rows.clone()])?;
        learner.train(parameters, training, losses, sink)?;
        self.add(passed, sums, step)
    }

    /// Losses of rows; `step` is for messages.
    ///
    /// # Errors
    /// As [`Runner::train`].
    pub(super) fn evaluate(&mut self, rows: &Rows, step: u64) -> Result<Vec<TaskLoss>, TuneError> {
        let mut sums = vec![TaskLoss::default(); self.tasks.len()];
        for at in &rows.micro {
            self.evaluate_micro((rows, at), (&mut sums, step))?;
        }
        Ok(sums)
    }

    /// Losses of a micro-batch, added to `sums`.
    pub(super) fn evaluate_micro(
        &mut self,
        (rows, at): (&Rows, &MicroBatch),
        (sums, step): (&mut [TaskLoss], u64),
    ) -> Result<(), TuneError> {
        let Self { tasks, parameters, learner, losses } = self;
        let passed = &rows.rows[at.rows.clone()];
        learner.select_head(at.head)?;
        learner.fill(tasks, passed, &vec![0.0; passed.len()])?;
        learner.evaluate(parameters, Objective::CROSS_ENTROPY, losses)?;
        self.add(passed, sums, step)
    }

    fn add(&self, passed: &[Row], sums: &mut [TaskLoss], step: u64) -> Result<(), TuneError> {
        for (task, (sum, found)) in sums.iter_mut().zip(&self.losses.tasks).enumerate() {
            if !found.loss.is_finite() {
                return Err(self.not_finite(passed, task, found.loss, step));
            }
            sum.loss += found.loss;
            sum.rows += found.rows;
            sum.correct += found.correct;
        }
        Ok(())
    }

    fn not_finite(&self, passed: &[Row], task: usize, loss: f64, step: u64) -> TuneError {
        let of_task = &self.tasks[task];
        let places: Vec<_> = (passed.iter().filter(|row| row.task as usize == task))
            .map(|row| of_task.place(row.row).to_string())
            .collect();
        let more = places.len().saturating_sub(SHOWN);
        let mut rows = places[..places.len() - more].join(", ");
        if more > 0 {
            rows += &format!(" and {more} more");
        }
        TuneError::NotFinite { step: step + 1, task: of_task.name.clone(), loss, rows }
    }
}

/// The mean loss of each task; none without a target.
pub(super) fn means(sums: &[TaskLoss]) -> Vec<Option<f64>> {
    sums.iter().map(|sum| (sum.rows > 0).then(|| sum.loss / sum.rows as f64)).collect()
}
