//! Gradients of each task by itself, for balancers that look at them: what they ask for is measured, and the update is put
//! together from the gradients and the weights they answer with.
//!
//! What a task has alone (its head) always takes the task's own gradient; weights are for what tasks share.

use onefold_balance::kernels::{self, Dropping};
use onefold_balance::{Matrix, contract};
use onefold_engine::Buffer;
use onefold_engine::cpu::elementwise;
use onefold_engine::cpu::optimizer::{inner_product, square_sum};

use crate::families::Half;
use crate::model::{GradientSink, Gradients, Origin, Parameter, ParameterId, Parameters};

/// Elements that are handled at a time.
const PIECE: usize = 1 << 16;

/// Gradients of tasks, and sums of them that outlive a step.
#[derive(Debug, Default)]
pub(super) struct Apart {
    /// Of each task, in this step.
    pub(super) gradients: Vec<Gradients>,
    /// Of each task: averages, or sums of squares, over the steps; empty unless the balancer asks for them.
    pub(super) kept: Vec<Gradients>,
}

/// What is put together to an update.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Update {
    /// Σ w·g of the gradients.
    Weighted,
    /// Σ w·v of the averages.
    Averages,
    /// Element by element.
    Dropping(Dropping),
}

impl Apart {
    /// Begins a step of so many tasks.
    pub(super) fn begin(&mut self, tasks: usize) {
        self.gradients.resize_with(tasks, Gradients::default);
        self.gradients.iter_mut().for_each(Gradients::begin);
    }

    /// ⟨gᵢ, gⱼ⟩ over what tasks share.
    pub(super) fn gramian(&self, shared: &[ParameterId]) -> Matrix {
        gramian(&self.gradients, shared)
    }

    /// Moves the averages of tasks whose loss is positive and whose gradient is finite; returns their inner products.
    pub(super) fn averages(&mut self, shared: &[ParameterId], losses: &[Option<f64>], keep: f64) -> Matrix {
        self.kept.resize_with(self.gradients.len(), Gradients::default);
        for ((gradients, average), loss) in self.gradients.iter().zip(&mut self.kept).zip(losses) {
            let Some(loss) = loss.filter(|loss| *loss > 0.0 && squares(gradients, shared).is_finite()) else {
                continue;
            };
            let scale = 1.0 / (loss + 1e-8);
            for (id, gradient) in shared.iter().filter_map(|id| Some((*id, gradients.get(*id)?))) {
                each_piece(average, id, gradient, |average, gradient| {
                    kernels::average(average, gradient, scale, keep);
                });
            }
        }
        gramian(&self.kept, shared)
    }

    /// Adds to the sums of squares; returns Σ g²/√(h + 1e-7) of each task, NaN for gradients that are not finite.
    pub(super) fn excess(&mut self, shared: &[ParameterId]) -> Vec<f64> {
        self.kept.resize_with(self.gradients.len(), Gradients::default);
        let of = |(gradients, sums): (&Gradients, &mut Gradients)| {
            if !squares(gradients, shared).is_finite() {
                return f64::NAN;
            }
            let mut excess = 0.0;
            for (id, gradient) in shared.iter().filter_map(|id| Some((*id, gradients.get(*id)?))) {
                each_piece(sums, id, gradient, |sums, gradient| excess += kernels::excess(sums, gradient));
            }
            excess
        };
        self.gradients.iter().zip(&mut self.kept).map(of).collect()
    }

    /// Puts the update together.
    pub(super) fn combine(
        &self,
        parameters: &Parameters,
        shared: &[ParameterId],
        weights: &[f64],
        how: Update,
        into: &mut Gradients,
    ) {
        into.begin();
        let parts = if how == Update::Averages { &self.kept } else { &self.gradients };
        let used = || weights.iter().enumerate().filter(|(_, weight)| **weight != 0.0);
        for id in shared {
            match how {
                Update::Weighted | Update::Averages => {
                    for (task, weight) in used() {
                        if let Some(part) = parts[task].get(*id) {
                            into.add(*id, part, *weight as f32);
                        }
                    }
                }
                Update::Dropping(dropping) => {
                    let of_tasks: Vec<_> = used().filter_map(|(task, _)| parts[task].get(*id)).collect();
                    drop_signs(dropping, &parameters[*id], *id, &of_tasks, into);
                }
            }
        }
        for (task, _) in used() {
            let own = self.gradients[task].iter().filter(|(id, _)| !shared.contains(id));
            own.for_each(|(id, gradient)| into.add(id, gradient, 1.0));
        }
    }
}

/// What tasks share: all that is trained, but for their heads.
pub(super) fn shared(parameters: &Parameters) -> Vec<ParameterId> {
    let of_task =
        |parameter: &Parameter| matches!(parameter.spec(), Some(spec) if matches!(spec.half, Half::Task(_)));
    parameters.trainable().filter(|(_, parameter)| !of_task(parameter)).map(|(id, _)| id).collect()
}

/// The last layer that tasks share and that has something to train: what GradNorm measures gradients on. All that is shared,
/// if nothing is trained in any layer.
pub(super) fn last_layer(parameters: &Parameters) -> Vec<ParameterId> {
    let layer = |id: &ParameterId| match &parameters[*id].origin {
        Origin::Adapter { of, .. } => parameters[*of].spec().and_then(|spec| spec.layer),
        _ => parameters[*id].spec().and_then(|spec| spec.layer),
    };
    let shared = shared(parameters);
    let last = shared.iter().filter_map(layer).max();
    if last.is_none() {
        return shared;
    }
    shared.into_iter().filter(|id| layer(id) == last).collect()
}

/// Σ g².
pub(super) fn squares(gradients: &Gradients, of: &[ParameterId]) -> f64 {
    of.iter().filter_map(|id| gradients.get(*id)).map(square_sum).sum()
}

/// ⟨a, b⟩ over some parameters; what one of them has no gradient of counts nothing.
pub(super) fn product(a: &Gradients, b: &Gradients, of: &[ParameterId]) -> f64 {
    let both = of.iter().filter_map(|id| a.get(*id).zip(b.get(*id)));
    both.map(|(a, b)| inner_product(a, b)).sum()
}

fn gramian(gradients: &[Gradients], shared: &[ParameterId]) -> Matrix {
    let size = gradients.len();
    let mut values = vec![0.0; size * size];
    for i in 0..size {
        for j in 0..=i {
            let value = product(&gradients[i], &gradients[j], shared);
            (values[i * size + j], values[j * size + i]) = (value, value);
        }
    }
    Matrix::new(size, values).expect("so many values")
}

/// Calls `each` with pieces of what is kept of a parameter, zeros at first, and of its gradient.
fn each_piece(
    kept: &mut Gradients,
    id: ParameterId,
    gradient: &Buffer,
    mut each: impl FnMut(&mut [f32], &[f32]),
) {
    let (mut sums, write) = kept.lend(id, gradient.len());
    if write == onefold_engine::Write::Set {
        elementwise::fill(&mut sums, 0.0);
    }
    let (mut held, mut new) = (vec![0.0; PIECE], vec![0.0; PIECE]);
    for start in (0..gradient.len()).step_by(PIECE) {
        let len = PIECE.min(gradient.len() - start);
        let (held, new) = (&mut held[..len], &mut new[..len]);
        sums.read(start, held);
        gradient.read(start, new);
        each(held, new);
        sums.write(start, held);
    }
    kept.take_back(id, sums, true);
}

fn drop_signs(
    how: Dropping,
    parameter: &Parameter,
    id: ParameterId,
    of_tasks: &[&Buffer],
    into: &mut Gradients,
) {
    if of_tasks.is_empty() {
        return;
    }
    let (mut sum, _) = into.lend(id, parameter.len());
    let mut pieces = vec![vec![0.0; PIECE]; of_tasks.len()];
    let mut out = vec![0.0; PIECE];
    for start in (0..parameter.len()).step_by(PIECE) {
        let len = PIECE.min(parameter.len() - start);
        pieces.iter_mut().zip(of_tasks).for_each(|(piece, gradient)| gradient.read(start, &mut piece[..len]));
        let parts: Vec<&[f32]> = pieces.iter().map(|piece| &piece[..len]).collect();
        how.combine(&parameter.name, start as u64, &parts, &mut out[..len]);
        sum.write(start, &out[..len]);
    }
    into.take_back(id, sum, true);
}

/// A sink that keeps the gradients of some parameters to itself.
pub(super) struct Watching<'a> {
    pub(super) all: &'a mut Gradients,
    pub(super) watched: &'a [ParameterId],
    pub(super) own: &'a mut Gradients,
}

impl Watching<'_> {
    fn of(&mut self, id: ParameterId) -> &mut Gradients {
        if self.watched.contains(&id) { self.own } else { self.all }
    }
}

impl GradientSink for Watching<'_> {
    fn lend(&mut self, id: ParameterId, len: usize) -> (Buffer, onefold_engine::Write) {
        self.of(id).lend(id, len)
    }

    fn take_back(&mut self, id: ParameterId, gradient: Buffer, complete: bool) {
        self.of(id).take_back(id, gradient, complete);
    }
}

/// Whether a balancer wants gradients of each task to be kept.
pub(super) fn are_kept(gradients: &contract::Gradients) -> bool {
    !matches!(gradients, contract::Gradients::None | contract::Gradients::Norms)
}
