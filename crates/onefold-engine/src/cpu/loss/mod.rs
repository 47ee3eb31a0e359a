//! Losses with their gradients: language-model heads in chunks ([`head`]), and losses of small logits ([`small`]).
//!
//! The objective is Σᵣ weightᵣ · lossᵣ over the rows that count. A step of multi-task training minimises Σ_t ω_t·S_t/n_t,
//! with S_t and n_t the summed loss and the number of rows of task t over the whole step: its caller gives every row of
//! task t the weight ω_t/n_t. What comes back is unweighted: the loss of each row, and S_t and n_t of each task, summed in
//! f64 in the order of the rows. Logarithms are natural.

pub mod head;
pub mod small;
mod softmax;
#[cfg(test)]
mod tests;

/// What to learn from each row.
#[derive(Debug, Clone, Copy)]
pub struct Rows<'a> {
    /// Class of each row; below 0 the row is ignored: no loss, no gradient.
    pub targets: &'a [i32],
    /// Weight of each row in the objective; 1 if absent.
    pub weights: Option<&'a [f32]>,
    /// Task of each row; 0 if absent.
    pub tasks: Option<&'a [u32]>,
}

impl Rows<'_> {
    /// # Panics
    /// If lengths differ, a target is no class or a task has no place in `losses`.
    fn check(&self, rows: usize, classes: usize, losses: &Losses) {
        assert_eq!(self.targets.len(), rows, "targets of a loss");
        assert!(self.weights.is_none_or(|w| w.len() == rows), "weights of a loss");
        assert!(self.tasks.is_none_or(|t| t.len() == rows), "tasks of a loss");
        assert!(
            self.targets.iter().all(|t| *t < 0 || (*t as usize) < classes),
            "a target of {classes} classes"
        );
        let known = |t: &u32| (*t as usize) < losses.tasks.len();
        assert!(self.tasks.map_or(!losses.tasks.is_empty(), |t| t.iter().all(known)), "a task without a sum");
    }

    fn weight(&self, row: usize) -> f32 {
        self.weights.map_or(1.0, |w| w[row])
    }

    fn task(&self, row: usize) -> usize {
        self.tasks.map_or(0, |t| t[row] as usize)
    }
}

/// What is minimised for a row of logits z, with p = softmax(z).
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Objective {
    /// −(1 − ε)·ln p_target − ε·mean ln p. Without smoothing (ε = 0) the log-probability of the target is −loss.
    CrossEntropy {
        /// ε, from 0 to 1.
        smoothing: f32,
    },
    /// The entropy −Σ p ln p, whatever the target (AdaMerging); ∂/∂z = −p·(ln p + entropy).
    Entropy,
    /// The same for each row; of all rows of a task that pass together, with weights w, `−strength · Σw · H(Σ w p / Σ w)` is added:
    /// the entropy of their mean prediction, which rewards telling different classes. For [`small::classification`] alone; a
    /// head of words takes it for [`Objective::Entropy`].
    DiverseEntropy {
        /// What the reward counts.
        strength: f32,
    },
}

impl Objective {
    /// Plain cross-entropy.
    pub const CROSS_ENTROPY: Self = Self::CrossEntropy { smoothing: 0.0 };
}

/// Loss of one row.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct RowLoss {
    /// Unweighted loss; 0 of an ignored row.
    pub loss: f32,
    /// Whether the target has the largest logit (the first, of several); false of an ignored row.
    pub correct: bool,
}

/// Sums over the rows of a task.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct TaskLoss {
    /// Sum of the unweighted losses.
    pub loss: f64,
    /// Number of rows that were not ignored.
    pub rows: u64,
    /// Number of those whose target has the largest logit.
    pub correct: u64,
}

/// The result of a loss; reused from call to call.
#[derive(Debug, Clone, PartialEq)]
pub struct Losses {
    /// Each row.
    pub rows: Vec<RowLoss>,
    /// Each task, of this call alone.
    pub tasks: Vec<TaskLoss>,
    /// Σ weight · loss.
    pub objective: f64,
}

impl Losses {
    /// Room for the sums of `tasks` tasks.
    pub fn new(tasks: usize) -> Self {
        Self { rows: Vec::new(), tasks: vec![TaskLoss::default(); tasks], objective: 0.0 }
    }

    fn reset(&mut self, rows: usize) {
        self.rows.clear();
        self.rows.resize(rows, RowLoss::default());
    }

    /// Adds up the rows, in their order.
    fn add_up(&mut self, of: &Rows<'_>) {
        self.tasks.fill(TaskLoss::default());
        self.objective = 0.0;
        for (row, loss) in self.rows.iter().enumerate().filter(|(row, _)| of.targets[*row] >= 0) {
            let task = &mut self.tasks[of.task(row)];
            task.loss += f64::from(loss.loss);
            task.rows += 1;
            task.correct += u64::from(loss.correct);
            self.objective += f64::from(of.weight(row)) * f64::from(loss.loss);
        }
    }
}
