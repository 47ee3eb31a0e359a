//! A trainer of nothing: it plays steps with given losses and gradients to a balancer, and gives what is asked for.

use onefold_balance::kernels::{average, excess};
use onefold_balance::{
    BALANCERS, Balancer, Batch, Gradients, Losses, Matrix, Measured, Outcome, Rows, Skipped, Task, Weights,
};
use proptest::prelude::*;
use serde_json::{Map, Value, json};

/// Everything that could be measured at a step.
#[derive(Debug, Clone)]
pub(crate) struct Step {
    pub losses: Vec<Option<f64>>,
    pub gradients: Vec<Vec<f64>>,
    pub again: Vec<Option<f64>>,
    pub validation: Vec<Option<f64>>,
    /// Of validation rows after a trial step.
    pub queries: Vec<Vec<f64>>,
}

impl Step {
    /// The step in another order of the tasks.
    pub(crate) fn permuted(&self, order: &[usize]) -> Self {
        fn taken<T: Clone>(all: &[T], order: &[usize]) -> Vec<T> {
            order.iter().map(|i| all[*i].clone()).collect()
        }
        Self {
            losses: taken(&self.losses, order),
            gradients: taken(&self.gradients, order),
            again: taken(&self.again, order),
            validation: taken(&self.validation, order),
            queries: taken(&self.queries, order),
        }
    }

    /// All tasks with the same numbers.
    pub(crate) fn same(k: usize, loss: f64, gradient: &[f64]) -> Self {
        Self {
            losses: vec![Some(loss); k],
            gradients: vec![gradient.to_vec(); k],
            again: vec![Some(0.9 * loss); k],
            validation: vec![Some(1.1 * loss); k],
            queries: vec![gradient.to_vec(); k],
        }
    }
}

/// What a trainer keeps beside the balancer.
#[derive(Debug, Clone)]
pub(crate) struct Buffers {
    averages: Vec<Vec<f32>>,
    squares: Vec<Vec<f32>>,
}

impl Buffers {
    pub(crate) fn new(k: usize, n: usize) -> Self {
        Self { averages: vec![vec![0.0; n]; k], squares: vec![vec![0.0; n]; k] }
    }
}

/// What came of a step.
#[derive(Debug)]
pub(crate) struct Played {
    pub weights: Weights,
    /// The update, not yet multiplied by a learning rate.
    pub direction: Vec<f64>,
    pub unused: Vec<Skipped>,
}

pub(crate) const STEPS_OF_EPOCH: u64 = 3;

/// Plays one step.
pub(crate) fn play(balancer: &mut Balancer, buffers: &mut Buffers, number: u64, step: &Step) -> Played {
    let (needs, epoch) = (balancer.needs(number), number / STEPS_OF_EPOCH);
    let gramian = Matrix::gramian(&step.gradients);
    let mut vectors = step.gradients.clone();
    let mut risks = Vec::new();
    let k = step.losses.len();
    let products =
        Matrix::of(k, |t, i| Matrix::gramian(&[step.queries[t].clone(), step.gradients[i].clone()]).at(0, 1));
    let averaged;
    let measured = match &needs.gradients {
        Gradients::Gramian => Measured::Gramian(&gramian),
        Gradients::Averages { keep } => {
            vectors = averages(buffers, step, *keep);
            averaged = Matrix::gramian(&vectors);
            Measured::Gramian(&averaged)
        }
        Gradients::Excess => {
            for (task, gradient) in step.gradients.iter().enumerate() {
                let present = step.losses[task].is_some() && gradient.iter().all(|g| g.is_finite());
                risks.push(if present {
                    excess(&mut buffers.squares[task], &single(gradient))
                } else {
                    f64::NAN
                });
            }
            Measured::Excess(&risks)
        }
        Gradients::Lookahead { lr, .. } => Measured::Lookahead { products: &products, lr: lr.unwrap_or(0.1) },
        Gradients::None | Gradients::Norms | Gradients::Elements => Measured::Nothing,
    };
    let present: Vec<bool> = step.losses.iter().map(Option::is_some).collect();
    let rows = match needs.losses {
        Losses::Before => Rows::Losses(&step.losses),
        Losses::Unneeded | Losses::After => Rows::Present(&present),
    };
    let weights = balancer.weights(&Batch { step: number, epoch, rows, measured }).unwrap();
    let direction = direction(balancer, number, &weights.values, &vectors);
    let norms: Vec<f64> = gramian.diagonal().iter().map(|square| square.sqrt()).collect();
    let outcome = Outcome {
        step: number,
        epoch,
        losses: (needs.losses > Losses::Unneeded).then_some(&step.losses[..]),
        again: needs.again.then_some(&step.again[..]),
        validation: needs.validation.then_some(&step.validation[..]),
        norms: (needs.gradients == Gradients::Norms).then_some(&norms[..]),
    };
    let unused = balancer.observe(&outcome).unwrap();
    Played { weights, direction, unused }
}

fn single(values: &[f64]) -> Vec<f32> {
    values.iter().map(|v| *v as f32).collect()
}

/// Moves the averages of the tasks that have a usable loss and gradient.
fn averages(buffers: &mut Buffers, step: &Step, keep: f64) -> Vec<Vec<f64>> {
    for (task, gradient) in step.gradients.iter().enumerate() {
        let usable = step.losses[task].is_some_and(|loss| loss.is_finite() && loss > 0.0);
        if usable && gradient.iter().all(|g| g.is_finite()) {
            let scale = 1.0 / (step.losses[task].unwrap() + 1e-8);
            average(&mut buffers.averages[task], &single(gradient), scale, keep);
        }
    }
    buffers.averages.iter().map(|a| a.iter().map(|v| f64::from(*v)).collect()).collect()
}

/// `Σ wᵢ vᵢ`, of the tasks with a weight; or what the combiner makes.
fn direction(balancer: &Balancer, step: u64, weights: &[f64], vectors: &[Vec<f64>]) -> Vec<f64> {
    let n = vectors[0].len();
    let chosen: Vec<usize> = (0..weights.len()).filter(|task| weights[*task] != 0.0).collect();
    if let Some(combiner) = balancer.combiner(step) {
        let chunks: Vec<Vec<f32>> = chosen.iter().map(|task| single(&vectors[*task])).collect();
        let chunks: Vec<&[f32]> = chunks.iter().map(Vec::as_slice).collect();
        let mut out = vec![0.0; n];
        combiner.combine("w", 0, &chunks, &mut out);
        return out.into_iter().map(f64::from).collect();
    }
    (0..n).map(|at| chosen.iter().map(|task| weights[*task] * vectors[*task][at]).sum()).collect()
}

/// Tasks called a, b, c, … with different static weights.
pub(crate) fn tasks(k: usize) -> Vec<Task> {
    let name = |i: usize| char::from(b'a' + i as u8).to_string();
    (0..k).map(|i| Task { name: name(i), weight: 1.0 + i as f64 }).collect()
}

/// All tasks present, with these losses.
pub(crate) fn present(losses: &[f64]) -> Vec<Option<f64>> {
    losses.iter().copied().map(Some).collect()
}

/// The weights of a step with all tasks.
pub(crate) fn weights(
    balancer: &mut Balancer,
    step: u64,
    epoch: u64,
    losses: &[f64],
    measured: Measured<'_>,
) -> Vec<f64> {
    let losses = present(losses);
    balancer.weights(&Batch { step, epoch, rows: Rows::Losses(&losses), measured }).unwrap().values
}

pub(crate) fn balancer(settings: &Value, tasks: &[Task]) -> Balancer {
    let map: &Map<String, Value> = settings.as_object().unwrap();
    let mut balancer = Balancer::new(map, tasks, 7).unwrap_or_else(|e| panic!("{settings}: {e:?}"));
    if balancer.needs(0).reference {
        let reference: Vec<f64> = tasks.iter().map(|task| 2.0 + task.weight).collect();
        balancer.begin(&reference).unwrap();
    }
    balancer
}

/// Every balancer by its defaults, and by settings that bring its other ways into play within a few steps.
pub(crate) fn cases() -> Vec<Value> {
    let defaults = BALANCERS.iter().map(|method| json!({"kind": method.name}));
    let others = [
        json!({"kind": "uniform", "scale": "paper"}),
        json!({"kind": "coba", "window": 4, "warmup": 2}),
        json!({"kind": "coba", "window": 3, "warmup": 3, "df_window": 2, "interval": 2, "min_weight": 0.2}),
        json!({"kind": "coba", "window": 4, "warmup": 2, "alpha_max": "slope_of_max"}),
        json!({"kind": "coba", "window": 4, "warmup": 3, "variant": "code"}),
        json!({"kind": "self_paced", "window": 3}),
        json!({"kind": "self_paced", "window": 2, "interval": 2, "sharpness": 1}),
        json!({"kind": "famo", "after": "next_batch", "lr": 0.5}),
        json!({"kind": "famo", "least_loss": 0.5}),
        json!({"kind": "gradnorm", "parameters": "softmax", "lr": 0.5}),
        json!({"kind": "gradnorm", "lr": 10.0}),
        json!({"kind": "gradnorm", "scale": "paper"}),
        json!({"kind": "lbtw", "reference": "epoch", "alpha": 3.0}),
        json!({"kind": "dwa", "period": 2, "temperature": 0.1}),
        json!({"kind": "stch", "warmup": 0}),
        json!({"kind": "stch", "warmup": 1, "period": 1, "mu": 0.1, "scale": "paper"}),
        json!({"kind": "uncertainty", "scale": "paper", "lr": 1.0}),
        json!({"kind": "gls", "scale": "paper"}),
        json!({"kind": "excess_mtl", "robust_step": 2.0}),
        json!({"kind": "meta_weighting", "trial_lr": 0.5, "interval": 2}),
        json!({"kind": "pcgrad", "order": "given", "scale": "paper"}),
        json!({"kind": "pcgrad", "update_every": 3}),
        json!({"kind": "gradvac", "scale": "gradient"}),
        json!({"kind": "mgda", "normalize": "l2"}),
        json!({"kind": "mgda", "normalize": "loss"}),
        json!({"kind": "mgda", "normalize": "loss+", "scale": "gradient"}),
        json!({"kind": "cagrad", "c": 0, "rescale": 0}),
        json!({"kind": "nash_mtl", "update_every": 2}),
        json!({"kind": "nash_mtl", "scale": "paper"}),
        json!({"kind": "fairgrad", "alpha": 2}),
        json!({"kind": "imtl_g", "scale": "gradient"}),
        json!({"kind": "aligned_mtl", "scale": "paper"}),
        json!({"kind": "upgrad", "update_every": 2}),
        json!({"kind": "db_mtl", "beta": 0.5, "scale": "paper"}),
        json!({"kind": "graddrop", "leak": 0.3, "scale": "paper"}),
    ];
    defaults.chain(others).collect()
}

/// Numbers of an ordinary step: every task present, positive losses, gradients in general position.
pub(crate) fn ordinary(k: usize) -> impl Strategy<Value = Step> {
    let losses = || prop::collection::vec((0.1f64..4.0).prop_map(Some), k);
    let vectors = || prop::collection::vec(prop::collection::vec(-1.0f64..1.0, 8), k);
    (losses(), vectors(), losses(), losses(), vectors()).prop_map(
        |(losses, gradients, again, validation, queries)| Step {
            losses,
            gradients,
            again,
            validation,
            queries,
        },
    )
}

/// The same with absent tasks.
pub(crate) fn partial(k: usize) -> impl Strategy<Value = Step> {
    let absent = || prop::collection::vec(prop::bool::weighted(0.3), k);
    (ordinary(k), absent(), absent()).prop_map(|(mut step, absent, unseen)| {
        for (task, (absent, unseen)) in absent.into_iter().zip(unseen).enumerate() {
            if absent {
                (step.losses[task], step.again[task]) = (None, None);
            }
            if unseen {
                step.validation[task] = None;
            }
        }
        step
    })
}

/// The same with anything that numbers can be.
pub(crate) fn hostile(k: usize) -> impl Strategy<Value = Step> {
    let bad = || prop::sample::select(vec![0.0, -1.0, f64::NAN, f64::INFINITY, 1e-310, 1e-90, 1e90, 1e300]);
    let places = || prop::collection::vec(prop::option::weighted(0.25, bad()), k);
    (partial(k), places(), places(), places(), places()).prop_map(move |(mut step, l, a, v, g)| {
        for task in 0..k {
            step.losses[task] = l[task].map_or(step.losses[task], Some);
            step.again[task] = a[task].map_or(step.again[task], Some);
            step.validation[task] = v[task].map_or(step.validation[task], Some);
            if let Some(factor) = g[task] {
                step.gradients[task].iter_mut().for_each(|g| *g *= factor);
            }
        }
        step
    })
}
