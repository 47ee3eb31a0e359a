//! The losses of pairs: each vector has to find its partner among those of the other half.
//!
//! Both are a head's loss whose matrix are the other half's vectors, so that the scores of all pairs never exist twice.

use onefold_engine::cpu::loss::{Losses, Objective, Rows, head};
use onefold_engine::{Buffer, Weight, Write};

/// Both cross-entropies of pairs.
pub(super) struct Pairs {
    targets: Vec<i32>,
    weights: Vec<f32>,
    shape: (usize, f32),
    objective: Objective,
    losses: Losses,
    sum: f64,
}

impl Pairs {
    pub(super) fn new(count: usize, shape: (usize, f32), objective: Objective, weight: f32) -> Self {
        let targets = (0..=i32::MAX).take(count).collect();
        let weights = vec![weight * 0.5 / count.max(1) as f32; count];
        Self { targets, weights, shape, objective, losses: Losses::new(1), sum: 0.0 }
    }

    /// Which of the columns belongs to each row.
    pub(super) fn loss(
        &mut self,
        (rows, columns): (&Buffer, &Buffer),
        gradients: (Option<&mut Buffer>, Option<&mut Buffer>),
        write: Write,
        scratch: &mut head::Scratch,
    ) {
        let gradients = gradients.0.zip(gradients.1).map(|(rows, columns)| head::Gradients {
            hidden: (rows, write),
            weight: Some((columns, write)),
            bias: None,
        });
        let of_rows = Rows { targets: &self.targets, weights: Some(&self.weights), tasks: None };
        let head = of((columns, self.shape.0, self.shape.1), self.objective);
        head::head_loss(&head, rows, &of_rows, gradients, &mut self.losses, scratch);
        self.sum += self.losses.tasks[0].loss;
    }

    pub(super) fn mean(&self) -> f64 {
        self.sum * 0.5 / self.targets.len().max(1) as f64
    }
}

/// Vectors as the matrix of a head.
pub(super) fn of((vectors, width, scale): (&Buffer, usize, f32), objective: Objective) -> head::Head<'_> {
    let vocabulary = vectors.len() / width;
    head::Head { weight: Weight::Full(vectors), bias: None, vocabulary, width, scale, cap: None, objective }
}

/// The gradient of ln s: Σ z·∂z over all scores z, which is Σ e·∂e over the vectors of their rows.
pub(super) fn put_scale(to: Option<(&mut Buffer, Write)>, vectors: &Buffer, d: &Buffer) {
    let Some((to, write)) = to else { return };
    let products = vectors.to_vec().into_iter().zip(d.to_vec()).map(|(e, d)| f64::from(e) * f64::from(d));
    let mut sum = [0.0];
    if write == Write::Add {
        to.read(0, &mut sum);
    }
    to.write(0, &[sum[0] + products.sum::<f64>() as f32]);
}
