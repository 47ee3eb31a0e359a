//! One step of the training, and everything that has memory over steps.
//!
//! A step is: the rows that the sampler gives; what the balancer needs to know; gradients of the weighted loss, micro-batch by
//! micro-batch; the optimiser; and what the balancer wants to know afterwards.

use onefold_balance::{
    Balancer, Batch, Gradients as Kind, Losses, Matrix, Measured, Needs, Outcome, Rows as Known, Skipped,
};
use onefold_engine::cpu::loss::{Objective, TaskLoss};
use onefold_engine::cpu::optimizer::square_sum;

use super::apart::{self, Apart, Update, Watching, are_kept};
use super::error::TuneError;
use super::micro::{Rows, group};
use super::plan::Plan;
use super::runner::{Runner, means};
use super::settings::NonFinite;
use super::validation::{self, Draws};
use crate::data::sample::Sampler;
use crate::model::{Coins, Gradients, ParameterId, Training};
use crate::optimizer::Optimizer;

/// Everything that has memory over steps.
#[derive(Debug)]
pub(super) struct Trainer<'a> {
    pub(super) plan: &'a Plan,
    pub(super) runner: Runner<'a>,
    pub(super) sampler: Sampler,
    pub(super) balancer: Balancer,
    pub(super) optimizer: Optimizer,
    pub(super) draws: Draws,
    pub(super) apart: Apart,
    pub(super) counters: Counters,
    gradients: Gradients,
    /// Of the layer that gradients are measured on.
    watched: Gradients,
}

/// Numbers that count.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Counters {
    /// Steps that were made, left out ones among them.
    pub(super) step: u64,
    /// Steps that were left out.
    pub(super) skipped: u64,
    /// Micro-batches that were passed there and back.
    pub(super) micro_batches: u64,
    /// Rows, or packed bins, that the sampler gave.
    pub(super) units: u64,
    /// Tokens that passed the model in training (images count 1).
    pub(super) tokens: u64,
}

/// What came of a step.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Stepped {
    /// Sums of the training rows of each task.
    pub(super) losses: Vec<TaskLoss>,
    /// Weights of the tasks.
    pub(super) weights: Vec<f64>,
    /// Norm of the gradients before clipping; none if the step was left out.
    pub(super) norm: Option<f64>,
    /// The learning rate.
    pub(super) rate: f64,
    /// Tokens that passed the model.
    pub(super) tokens: u64,
    /// What the user should know.
    pub(super) warnings: Vec<String>,
}

/// What the balancer was told and what it answered.
struct Answer {
    losses: Vec<TaskLoss>,
    weights: Vec<f64>,
    /// Of [`Kind::Norms`].
    norms: Option<Vec<f64>>,
    warnings: Vec<String>,
}

impl<'a> Trainer<'a> {
    pub(super) fn new(plan: &'a Plan, runner: Runner<'a>, sampler: Sampler, balancer: Balancer) -> Self {
        let settings = &plan.settings;
        let draws = Draws::new(runner.tasks, plan.draw, settings.seed);
        let optimizer = Optimizer::new(settings.optimizer, settings.decay);
        let (apart, counters) = Default::default();
        let (gradients, watched) = Default::default();
        Self { plan, runner, sampler, balancer, optimizer, draws, apart, counters, gradients, watched }
    }

    /// Makes a step.
    pub(super) fn step(&mut self) -> Result<Stepped, TuneError> {
        let (step, epoch) = (self.counters.step, self.sampler.state().epoch);
        let needs = self.balancer.needs(step);
        let apart = are_kept(&needs.gradients);
        let rows = self.next_rows(apart || needs.gradients == Kind::Norms);
        let share = self.plan.schedule.at(step);
        let answer = if apart {
            self.gradients_apart(&rows, &needs, (step, epoch), share)
        } else {
            self.gradients_together(&rows, &needs, (step, epoch))
        };
        let moved = answer.and_then(|answer| {
            let Self { optimizer, runner, gradients, .. } = self;
            let norm = optimizer.step(&mut runner.parameters, gradients, share, self.plan.settings.clip)?;
            Ok((answer, norm))
        });
        self.counters.step += 1;
        let (rate, tokens) = (self.optimizer.learning_rate() * share, rows.tokens());
        self.counters.tokens += tokens;
        let mut stepped = match moved {
            Ok((Answer { losses, weights, norms, warnings }, norm)) => {
                self.observe(&rows, &needs, (step, epoch), (&losses, norms.as_deref()))?;
                Stepped { losses, weights, norm: Some(norm), rate, tokens, warnings }
            }
            Err(error) if self.may_skip(&error) => {
                self.counters.skipped += 1;
                let none = vec![TaskLoss::default(); self.runner.tasks.len()];
                let norms = vec![f64::NAN; none.len()];
                self.observe(&rows, &needs, (step, epoch), (&none, Some(&norms)))?;
                let warnings = vec![format!("{error}: the step was left out")];
                let weights = vec![0.0; none.len()];
                Stepped { losses: none, weights, norm: None, rate, tokens, warnings }
            }
            Err(error) => return Err(error),
        };
        stepped.warnings.dedup();
        Ok(stepped)
    }

    /// The rows of a step, in micro-batches.
    fn next_rows(&mut self, apart: bool) -> Rows {
        let Self { sampler, runner, plan, counters, .. } = self;
        let left = plan.units.map_or(u64::MAX, |units| units.saturating_sub(counters.units));
        let count = (plan.settings.batch.examples as u64).min(left);
        counters.units += count;
        let groups = (0..count).map(|_| group(runner.tasks, sampler.next_unit())).collect();
        Rows::cut(groups, &plan.heads, plan.settings.batch.micro, apart)
    }

    /// Gradients of the weighted loss, from one pass back.
    fn gradients_together(
        &mut self,
        rows: &Rows,
        needs: &Needs,
        (step, epoch): (u64, u64),
    ) -> Result<Answer, TuneError> {
        let tasks = self.runner.tasks.len();
        let present = rows.present(tasks);
        let before = match needs.losses {
            Losses::Before => Some(means(&self.runner.evaluate(rows, step)?)),
            Losses::Unneeded | Losses::After => None,
        };
        let known = before.as_deref().map_or(Known::Present(&present), Known::Losses);
        let answer =
            self.balancer.weights(&Batch { step, epoch, rows: known, measured: Measured::Nothing })?;
        let factors = rows.factors(self.plan.settings.normalisation, &answer.values);
        let mut losses = vec![TaskLoss::default(); tasks];
        let watch = needs.gradients == Kind::Norms;
        let watched = if watch { apart::last_layer(&self.runner.parameters) } else { Vec::new() };
        let mut norms = vec![f64::NAN; tasks];
        self.gradients.begin();
        for (number, at) in rows.micro.iter().enumerate() {
            let training = self.training();
            if !watch {
                let of = (&mut losses[..], step);
                self.runner.train((rows, at), &factors, &training, &mut self.gradients, of)?;
                continue;
            }
            if number == 0 || rows.micro[number - 1].task != at.task {
                self.watched.begin();
            }
            let Self { runner, gradients, watched: own, .. } = self;
            let mut sink = Watching { all: gradients, watched: &watched, own };
            runner.train((rows, at), &factors, &training, &mut sink, (&mut losses, step))?;
            if rows.micro.get(number + 1).is_none_or(|next| next.task != at.task) {
                let task = at.task.expect("tasks are apart") as usize;
                norms[task] = self.measured(&watched).sqrt() / answer.values[task];
            }
        }
        let warnings = self.warnings(&answer.skipped);
        Ok(Answer { losses, weights: answer.values, norms: watch.then_some(norms), warnings })
    }

    /// Σ g² of what was watched, which then joins the other gradients.
    fn measured(&mut self, watched: &[ParameterId]) -> f64 {
        let own = watched.iter().filter_map(|id| Some((*id, self.watched.get(*id)?)));
        own.map(|(id, gradient)| {
            self.gradients.add(id, gradient, 1.0);
            square_sum(gradient)
        })
        .sum()
    }

    /// Gradients of each task, and the update that the balancer makes of them.
    fn gradients_apart(
        &mut self,
        rows: &Rows,
        needs: &Needs,
        (step, epoch): (u64, u64),
        share: f64,
    ) -> Result<Answer, TuneError> {
        let tasks = self.runner.tasks.len();
        let factors = rows.factors_apart(self.plan.settings.normalisation, tasks);
        let mut losses = vec![TaskLoss::default(); tasks];
        self.apart.begin(tasks);
        for at in &rows.micro {
            let training = self.training();
            let sink = &mut self.apart.gradients[at.task.expect("tasks are apart") as usize];
            self.runner.train((rows, at), &factors, &training, sink, (&mut losses, step))?;
        }
        let shared = apart::shared(&self.runner.parameters);
        let (mean, present) = (means(&losses), rows.present(tasks));
        let (matrix, excess, trial);
        let measured = match &needs.gradients {
            Kind::Gramian => {
                matrix = self.apart.gramian(&shared);
                Measured::Gramian(&matrix)
            }
            Kind::Averages { keep } => {
                matrix = self.apart.averages(&shared, &mean, *keep);
                Measured::Gramian(&matrix)
            }
            Kind::Excess => {
                excess = self.apart.excess(&shared);
                Measured::Excess(&excess)
            }
            Kind::Lookahead { lr, weights } => {
                let rate = lr.unwrap_or(self.optimizer.learning_rate() * share);
                trial = self.look_ahead(&shared, weights, &present, rate)?;
                Measured::Lookahead { products: &trial, lr: rate }
            }
            Kind::Elements | Kind::None | Kind::Norms => Measured::Nothing,
        };
        let known = match needs.losses {
            Losses::Before => Known::Losses(&mean),
            Losses::Unneeded | Losses::After => Known::Present(&present),
        };
        let answer = self.balancer.weights(&Batch { step, epoch, rows: known, measured })?;
        let how = match (&needs.gradients, self.balancer.combiner(step)) {
            (Kind::Averages { .. }, _) => Update::Averages,
            (Kind::Elements, Some(dropping)) => Update::Dropping(dropping),
            _ => Update::Weighted,
        };
        let Self { apart, runner, gradients, .. } = self;
        apart.combine(&runner.parameters, &shared, &answer.values, how, gradients);
        let warnings = self.warnings(&answer.skipped);
        Ok(Answer { losses, weights: answer.values, norms: None, warnings })
    }

    /// ⟨∇Lₜ of validation rows at θ − rate·Σ w·g, gᵢ at θ⟩ in row t, column i.
    fn look_ahead(
        &mut self,
        shared: &[ParameterId],
        weights: &[f64],
        present: &[bool],
        rate: f64,
    ) -> Result<Matrix, TuneError> {
        let total: f64 = weights.iter().zip(present).filter(|(_, there)| **there).map(|(w, _)| w).sum();
        let share = |(w, there): (&f64, &bool)| if *there && total > 0.0 { w / total } else { 0.0 };
        let weights: Vec<f64> = weights.iter().zip(present).map(share).collect();
        let Self { apart, runner, gradients, .. } = self;
        apart.combine(&runner.parameters, shared, &weights, Update::Weighted, gradients);
        let moved: Vec<_> = gradients.iter().map(|(id, _)| id).collect();
        let mut before = Vec::with_capacity(moved.len());
        for id in &moved {
            let gradient = gradients.get(*id).expect("it is among them");
            let value = runner.parameters.value_mut(*id).expect("only what is trained has a gradient");
            before.push(value.clone());
            onefold_engine::cpu::elementwise::add_scaled(
                value,
                onefold_engine::Write::Add,
                gradient,
                -rate as f32,
            );
        }
        let products = self.products(shared);
        for (id, value) in moved.into_iter().zip(before) {
            *self.runner.parameters.value_mut(id).expect("as above") = value;
        }
        products
    }

    /// Inner products of gradients of validation rows, one task after the other, with those of the step.
    fn products(&mut self, shared: &[ParameterId]) -> Result<Matrix, TuneError> {
        let (tasks, step) = (self.runner.tasks.len(), self.counters.step);
        let drawn = self.draws.next_rows();
        let mut values = vec![0.0; tasks * tasks];
        for task in 0..tasks {
            let of_task = drawn.iter().copied().filter(|(of, _)| *of as usize == task).collect();
            let rows = validation::cut(self.runner.tasks, &self.plan.heads, of_task, self.plan.budget);
            let factors = rows.factors_apart(self.plan.settings.normalisation, tasks);
            self.gradients.begin();
            let mut sums = vec![TaskLoss::default(); tasks];
            for at in &rows.micro {
                let training = Training { coins: None, ..self.training() };
                self.runner.train(
                    (&rows, at),
                    &factors,
                    &training,
                    &mut self.gradients,
                    (&mut sums, step),
                )?;
            }
            for (i, gradients) in self.apart.gradients.iter().enumerate() {
                values[task * tasks + i] = apart::product(&self.gradients, gradients, shared);
            }
        }
        Ok(Matrix::new(tasks, values).expect("so many values"))
    }

    /// Tells the balancer what came of the step.
    fn observe(
        &mut self,
        rows: &Rows,
        needs: &Needs,
        (step, epoch): (u64, u64),
        (losses, norms): (&[TaskLoss], Option<&[f64]>),
    ) -> Result<(), TuneError> {
        let losses = means(losses);
        let again = match needs.again {
            true => Some(self.seen(|runner| runner.evaluate(rows, step))?),
            false => None,
        };
        let validation = match needs.validation {
            true => {
                let drawn = self.draws.next_rows();
                let rows = validation::cut(self.runner.tasks, &self.plan.heads, drawn, self.plan.budget);
                Some(self.seen(|runner| runner.evaluate(&rows, step))?)
            }
            false => None,
        };
        self.balancer.observe(&Outcome {
            step,
            epoch,
            losses: Some(&losses),
            again: again.as_deref(),
            validation: validation.as_deref(),
            norms: norms.filter(|_| needs.gradients == Kind::Norms),
        })?;
        Ok(())
    }

    /// Mean losses; none at all if one is not finite and such steps are left out.
    fn seen(
        &mut self,
        evaluate: impl FnOnce(&mut Runner<'a>) -> Result<Vec<TaskLoss>, TuneError>,
    ) -> Result<Vec<Option<f64>>, TuneError> {
        match evaluate(&mut self.runner) {
            Ok(sums) => Ok(means(&sums)),
            Err(error) if self.may_skip(&error) => Ok(vec![None; self.runner.tasks.len()]),
            Err(error) => Err(error),
        }
    }

    /// What the balancer left out, in sentences.
    fn warnings(&self, skipped: &[Skipped]) -> Vec<String> {
        let sentence = |Skipped { task, quantity, value }: &Skipped| {
            let name = &self.plan.names[*task];
            format!("step {}: task `{name}` has no weight: its {quantity} is {value}", self.counters.step + 1)
        };
        skipped.iter().map(sentence).collect()
    }

    fn may_skip(&self, error: &TuneError) -> bool {
        let numbers = matches!(error, TuneError::NotFinite { .. } | TuneError::Step(_));
        numbers && self.plan.settings.non_finite == NonFinite::Skip
    }

    /// How the next micro-batch is passed.
    fn training(&mut self) -> Training {
        let settings = &self.plan.settings;
        let coins = Coins { seed: settings.seed, micro_batch: self.counters.micro_batches };
        self.counters.micro_batches += 1;
        let objective = Objective::CrossEntropy { smoothing: settings.smoothing };
        Training { objective, checkpointing: settings.checkpointing, coins: Some(coins) }
    }
}
