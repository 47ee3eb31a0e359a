//! One step: rows of every task, their losses, and the derivative of the sum by each coefficient.
//!
//! `L(λ) = Σ_t w_t · mean loss of task t`, and `∂L/∂λ_k = ⟨∂L/∂θ, v_k⟩`, tensor by tensor. Gradients of the weights never exist
//! together if all rows pass the model at once: a tensor's is multiplied with the vectors as soon as it is complete, and its
//! memory lent again. Rows that need several passes (several heads, or more tokens than pass at once) are added up first, so that
//! experts are read once per step.

use onefold_engine::cpu::loss::{Losses, Objective, TaskLoss};
use onefold_engine::{Buffer, Write};

use super::blend::Blend;
use super::error::AdaptError;
use super::settings::{Aim, Settings, at_once};
use crate::data::Task;
use crate::data::sample::permutation;
use crate::model::{GradientSink, Gradients, ParameterId, Training};
use crate::tune::learner::Learner;
use crate::tune::micro::{MicroBatch, Row, Rows};

/// Draws rows of each task: passes through permutations of their own, of which the place follows from the number of the step.
#[derive(Debug)]
pub(super) struct Draws {
    /// Of each task, the last pass and its order.
    passes: Vec<Option<(u64, Vec<u32>)>>,
    per_step: u64,
    seed: u64,
}

impl Draws {
    pub(super) fn new(tasks: usize, settings: &Settings) -> Self {
        let per_step = (settings.batch * settings.batches) as u64;
        Self { passes: vec![None; tasks], per_step, seed: settings.seed }
    }

    /// The rows of a step, of all tasks.
    pub(super) fn rows(&mut self, tasks: &[Task], step: u64) -> Vec<Row> {
        let mut rows = Vec::new();
        for (number, task) in tasks.iter().enumerate() {
            let n = task.train.len() as u64;
            for draw in step * self.per_step..(step + 1) * self.per_step {
                let order = self.pass(number, task, draw / n);
                let row = task.train[order[(draw % n) as usize] as usize];
                rows.push(Row::of(tasks, number as u32, row));
            }
        }
        rows
    }

    fn pass(&mut self, number: usize, task: &Task, pass: u64) -> &[u32] {
        let held = &mut self.passes[number];
        if held.as_ref().is_none_or(|(of, _)| *of != pass) {
            let order = permutation(task.train.len(), self.seed, &task.name, &format!("adapt {pass}"));
            *held = Some((pass, order));
        }
        held.as_ref().map_or(&[], |(_, order)| order)
    }
}

/// What came of a step.
#[derive(Debug, Clone)]
pub(super) struct Stepped {
    /// Sums of the rows of each task.
    pub(super) losses: Vec<TaskLoss>,
    /// ∂L/∂λ of what is used: `[group][expert]`.
    pub(super) gradients: Vec<Vec<f64>>,
    /// Tokens that passed the model.
    pub(super) tokens: u64,
}

/// Memory of steps.
#[derive(Debug)]
pub(super) struct Stepper {
    losses: Losses,
    gradients: Gradients,
    products: Lender,
}

impl Stepper {
    pub(super) fn new(tasks: usize) -> Self {
        Self { losses: Losses::new(tasks), gradients: Gradients::default(), products: Lender::default() }
    }

    /// Passes rows there and back. `step` is for messages.
    ///
    /// # Errors
    /// If rows do not fit the model, or a loss is not finite.
    pub(super) fn step(
        &mut self,
        blend: &Blend,
        learner: &mut Learner,
        (tasks, rows): (&[Task], Vec<Row>),
        settings: &Settings,
        step: u64,
    ) -> Result<Stepped, AdaptError> {
        let weights = weights(&rows, &settings.weights);
        let of_row = |row: &Row| weights[row.task as usize];
        let rows = Rows::cut_by_tokens(
            rows.into_iter().map(|row| vec![row]).collect(),
            &blend.heads,
            at_once(settings.tokens, learner),
        );
        let mut stepped = Stepped {
            losses: vec![TaskLoss::default(); tasks.len()],
            gradients: blend.no_products(),
            tokens: rows.tokens(),
        };
        let objective = objective(settings);
        let training = Training { objective, checkpointing: settings.checkpointing, coins: None };
        let at_once = rows.micro.len() == 1;
        self.gradients.begin();
        for MicroBatch { rows: range, head, .. } in &rows.micro {
            let passed = &rows.rows[range.clone()];
            learner.select_head(*head)?;
            learner.fill(tasks, passed, &passed.iter().map(of_row).collect::<Vec<_>>())?;
            let Self { losses, gradients, products } = self;
            if at_once {
                let mut sink =
                    Products { blend, lender: products, sums: &mut stepped.gradients, error: None };
                learner.train(&blend.parameters, &training, losses, &mut sink)?;
                sink.error.map_or(Ok(()), Err)?;
            } else {
                learner.train(&blend.parameters, &training, losses, gradients)?;
            }
            add(&self.losses, tasks, step, &mut stepped.losses)?;
        }
        if !at_once {
            for (id, gradient) in self.gradients.iter() {
                blend.add_products(id, gradient.as_slice(), &mut stepped.gradients)?;
            }
        }
        Ok(stepped)
    }
}

/// What is minimised of a row.
pub(super) fn objective(settings: &Settings) -> Objective {
    match settings.aim {
        Aim::CrossEntropy => Objective::CROSS_ENTROPY,
        Aim::Entropy if settings.diversity > 0.0 => {
            Objective::DiverseEntropy { strength: settings.diversity as f32 }
        }
        Aim::Entropy => Objective::Entropy,
    }
}

/// Of each task `w_t / n_t`, with n_t the targets of its rows.
fn weights(rows: &[Row], of_tasks: &[f64]) -> Vec<f32> {
    let mut targets = vec![0; of_tasks.len()];
    rows.iter().for_each(|row| targets[row.task as usize] += row.targets);
    of_tasks.iter().zip(targets).map(|(weight, n)| (weight / n.max(1) as f64) as f32).collect()
}

/// Adds the losses of a pass.
fn add(losses: &Losses, tasks: &[Task], step: u64, sums: &mut [TaskLoss]) -> Result<(), AdaptError> {
    for ((sum, found), task) in sums.iter_mut().zip(&losses.tasks).zip(tasks) {
        if !found.loss.is_finite() {
            let (task, loss) = (task.name.clone(), found.loss);
            return Err(AdaptError::NotFinite { step: step + 1, task, loss });
        }
        sum.loss += found.loss;
        sum.rows += found.rows;
        sum.correct += found.correct;
    }
    Ok(())
}

/// Buffers for gradients: those of one tensor, and of what has still to come.
#[derive(Debug, Default)]
struct Lender {
    spare: Vec<Buffer>,
    /// Gradients with a contribution still to come (of a tied matrix).
    pending: Vec<(ParameterId, Buffer)>,
}

/// Multiplies each gradient with the vectors of its tensor, and forgets it.
struct Products<'a> {
    blend: &'a Blend,
    lender: &'a mut Lender,
    sums: &'a mut Vec<Vec<f64>>,
    /// The first that happened; the way back knows none.
    error: Option<AdaptError>,
}

impl GradientSink for Products<'_> {
    fn lend(&mut self, id: ParameterId, len: usize) -> (Buffer, Write) {
        let Lender { spare, pending } = &mut *self.lender;
        if let Some(at) = pending.iter().position(|(of, _)| *of == id) {
            return (pending.swap_remove(at).1, Write::Add);
        }
        // The largest: one that has to grow is memory anew, step for step.
        let largest = (0..spare.len()).max_by_key(|at| spare[*at].bytes());
        let mut buffer = largest.map(|at| spare.swap_remove(at)).unwrap_or_default();
        buffer.resize(len);
        (buffer, Write::Set)
    }

    fn take_back(&mut self, id: ParameterId, gradient: Buffer, complete: bool) {
        if !complete {
            self.lender.pending.push((id, gradient));
            return;
        }
        let added = self.blend.add_products(id, gradient.as_slice(), self.sums);
        self.error = self.error.take().or(added.err());
        self.lender.spare.push(gradient);
    }
}
