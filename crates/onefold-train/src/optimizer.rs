//! Updates of all trainable parameters of a model, with their state.
//!
//! A step is: the global norm of all gradients (if it is to be limited), then one pass over each parameter, its gradient
//! and its state. The state is made when a parameter first has a gradient, so that what is frozen costs nothing.

use onefold_engine::Buffer;
pub use onefold_engine::cpu::optimizer::{AdamW, Lion, Sgd};
use onefold_engine::cpu::optimizer::{clip_factor, square_sum};

use crate::model::{Gradients, Parameter, ParameterId, Parameters};

/// The rule by which parameters move.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Rule {
    /// Two moments; decay apart from the gradient (Loshchilov & Hutter, ICLR 2019, arXiv 1711.05101).
    AdamW(AdamW),
    /// Gradient descent, with momentum or without.
    Sgd(Sgd),
    /// The sign of a momentum (Chen et al., NeurIPS 2023, arXiv 2302.06675).
    Lion(Lion),
}

/// Which parameters decay.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Decay {
    /// Matrices and adapters' factors, as the trainer of transformers has it; biases and norms do not.
    #[default]
    Matrices,
    /// Everything, as PyTorch's optimisers do unless they are given groups.
    Everything,
}

/// A step that cannot be made.
#[derive(Debug, Clone, Copy, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum StepError {
    /// Some gradient is NaN or infinite.
    #[error(
        "step {step}: the norm of the gradients is {norm}; nothing was changed. Lower the learning rate, or look for \
         damaged rows in the data"
    )]
    NotFinite {
        /// Number of the step, from 1.
        step: u64,
        /// What was found.
        norm: f64,
    },
}

/// A rule with the state of every parameter that it has moved.
#[derive(Debug, Clone)]
pub struct Optimizer {
    rule: Rule,
    decay: Decay,
    steps: u64,
    /// By parameter.
    state: Vec<Moments>,
}

/// What is kept of a parameter.
#[derive(Debug, Clone, Default)]
pub struct Moments {
    /// Steps in which it had a gradient: bias corrections count these, as PyTorch's do.
    pub steps: u64,
    /// First and second moment (velocity and nothing for rules with one); empty before its first gradient.
    pub buffers: [Buffer; 2],
}

impl Optimizer {
    /// Before the first step.
    pub fn new(rule: Rule, decay: Decay) -> Self {
        Self { rule, decay, steps: 0, state: Vec::new() }
    }

    /// Steps that were made.
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// The step size of the rule, before any schedule.
    pub fn learning_rate(&self) -> f64 {
        match self.rule {
            Rule::AdamW(rule) => rule.learning_rate,
            Rule::Sgd(rule) => rule.learning_rate,
            Rule::Lion(rule) => rule.learning_rate,
        }
    }

    /// Bytes of state that an element of a trained parameter needs.
    pub fn bytes_per_element(&self) -> usize {
        self.rule.moments() * size_of::<f32>()
    }

    /// The state of each parameter that was moved.
    pub fn state(&self) -> impl Iterator<Item = (ParameterId, &Moments)> {
        let moved = self.state.iter().enumerate().filter(|(_, state)| state.steps > 0);
        moved.map(|(index, state)| (ParameterId::new(index), state))
    }

    /// Takes up a saved state: steps that were made, and the state of each parameter that was moved.
    pub fn restore(&mut self, steps: u64, state: impl IntoIterator<Item = (ParameterId, Moments)>) {
        self.steps = steps;
        self.state.clear();
        for (id, moments) in state {
            if self.state.len() <= id.index() {
                self.state.resize_with(id.index() + 1, Default::default);
            }
            self.state[id.index()] = moments;
        }
    }

    /// Bytes of its state.
    pub fn bytes(&self) -> usize {
        self.state.iter().flat_map(|state| &state.buffers).map(|buffer| buffer.len() * size_of::<f32>()).sum()
    }

    /// Moves every parameter that has a gradient. `share` scales the learning rate of the rule (a schedule's value);
    /// gradients whose global norm exceeds `limit` are scaled down to it. Returns that norm.
    ///
    /// # Errors
    /// If the norm is not finite; nothing is changed then.
    pub fn step(
        &mut self,
        parameters: &mut Parameters,
        gradients: &Gradients,
        share: f64,
        limit: Option<f64>,
    ) -> Result<f64, StepError> {
        let norm = gradients.iter().map(|(_, gradient)| square_sum(gradient)).sum::<f64>().sqrt();
        let step = self.steps + 1;
        let factor =
            clip_factor(norm, limit.unwrap_or(f64::MAX)).ok_or(StepError::NotFinite { step, norm })?;
        self.steps = step;
        self.state.resize_with(parameters.len(), Default::default);
        for (id, gradient) in gradients.iter() {
            let decays = self.decay == Decay::Everything || is_matrix(&parameters[id]);
            let Some(weight) = parameters.value_mut(id) else { continue };
            let rule = self.rule.at(share, decays);
            rule.step(factor, weight, gradient, &mut self.state[id.index()]);
        }
        Ok(norm)
    }
}

fn is_matrix(parameter: &Parameter) -> bool {
    parameter.shape.len() >= 2
}

impl Rule {
    /// How many moments it keeps of each parameter.
    pub(crate) fn moments(self) -> usize {
        match self {
            Self::AdamW(_) => 2,
            Self::Sgd(sgd) if sgd.momentum == 0.0 => 0,
            Self::Sgd(_) | Self::Lion(_) => 1,
        }
    }

    /// The rule with a share of its learning rate.
    fn at(mut self, share: f64, decays: bool) -> Self {
        let (rate, decay) = match &mut self {
            Self::AdamW(rule) => (&mut rule.learning_rate, &mut rule.weight_decay),
            Self::Sgd(rule) => (&mut rule.learning_rate, &mut rule.weight_decay),
            Self::Lion(rule) => (&mut rule.learning_rate, &mut rule.weight_decay),
        };
        *rate *= share;
        *decay = if decays { *decay } else { 0.0 };
        self
    }

    fn step(self, factor: f32, weight: &mut Buffer, gradient: &Buffer, state: &mut Moments) {
        let Moments { steps, buffers } = state;
        *steps += 1;
        for buffer in &mut buffers[..self.moments()] {
            buffer.resize(weight.len());
        }
        let [first, second] = buffers;
        match self {
            Self::AdamW(rule) => rule.step(*steps, factor, weight, gradient, first, second),
            Self::Sgd(rule) => rule.step(factor, weight, gradient, first),
            Self::Lion(rule) => rule.step(factor, weight, gradient, first),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use onefold_checkpoint::Checkpoint;
    use onefold_engine::Weight;
    use onefold_engine::cpu::loss::{Losses, Objective};

    use super::*;
    use crate::config::ModelConfig;
    use crate::families::TensorSpec;
    use crate::model::{Batch, GradientSink, Sequence, TextModel, Training, next_tokens};

    fn llama(trainable: impl Fn(&TensorSpec) -> bool + Sync) -> Parameters {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/families/llama");
        let (config, checkpoint) = (ModelConfig::open(&dir).unwrap(), Checkpoint::open(&dir).unwrap());
        Parameters::load(&config, &checkpoint, trainable).unwrap()
    }

    fn gradients(parameters: &Parameters, value: f32) -> Gradients {
        let mut gradients = Gradients::default();
        for (id, parameter) in parameters.trainable() {
            let (mut buffer, _) = gradients.lend(id, parameter.len());
            buffer.write(0, &vec![value; parameter.len()]);
            gradients.take_back(id, buffer, true);
        }
        gradients
    }

    fn values(parameters: &Parameters) -> Vec<Vec<f32>> {
        let of = |parameter: &Parameter| match parameter.weight() {
            Weight::Full(buffer) => buffer.to_vec(),
            Weight::Half(_) => Vec::new(),
        };
        parameters.iter().map(|(_, parameter)| of(parameter)).collect()
    }

    #[test]
    fn a_schedule_scales_the_rate_and_only_matrices_decay() {
        let mut parameters = llama(|_| true);
        let before = values(&parameters);
        let rule = Rule::Sgd(Sgd { learning_rate: 0.5, weight_decay: 0.1, ..Sgd::default() });
        let zero = gradients(&parameters, 0.0);
        Optimizer::new(rule, Decay::Matrices).step(&mut parameters, &zero, 0.5, None).unwrap();
        for ((_, parameter), (before, after)) in parameters.iter().zip(before.iter().zip(values(&parameters)))
        {
            let keep = if parameter.shape.len() >= 2 { 1.0 - 0.25 * 0.1 } else { 1.0 };
            for (b, a) in before.iter().zip(after) {
                assert!((a - b * keep).abs() <= 1e-6 * b.abs(), "{}: {b} {a}", parameter.name);
            }
        }
    }

    #[test]
    fn the_norm_is_limited_and_nan_changes_nothing() {
        let mut parameters = llama(|spec| spec.layer.is_none());
        let rule = Rule::Sgd(Sgd { learning_rate: 1.0, ..Sgd::default() });
        let mut optimizer = Optimizer::new(rule, Decay::Everything);
        let before = values(&parameters);
        let ones = gradients(&parameters, 1.0);
        let elements: usize = parameters.trainable().map(|(_, parameter)| parameter.len()).sum();
        let norm = optimizer.step(&mut parameters, &ones, 1.0, Some(1.0)).unwrap();
        assert!((norm - (elements as f64).sqrt()).abs() < 1e-9);
        let moved: f64 = before
            .iter()
            .flatten()
            .zip(values(&parameters).iter().flatten())
            .map(|(b, a)| f64::from(b - a).powi(2))
            .sum::<f64>()
            .sqrt();
        assert!((moved - 1.0).abs() < 1e-4, "{moved}");
        let (nan, before) = (gradients(&parameters, f32::NAN), values(&parameters));
        let error = optimizer.step(&mut parameters, &nan, 1.0, None).unwrap_err().to_string();
        assert!(
            error.starts_with("step 2: the norm of the gradients is NaN; nothing was changed"),
            "{error}"
        );
        assert_eq!((values(&parameters), optimizer.steps()), (before, 1));
    }

    /// A few steps on one batch lower its loss, by every rule, and only what is trained has a state.
    #[test]
    fn every_rule_learns() {
        let rules = [
            Rule::AdamW(AdamW::default()),
            Rule::Sgd(Sgd { learning_rate: 0.1, momentum: 0.9, nesterov: true, ..Sgd::default() }),
            Rule::Lion(Lion { learning_rate: 1e-3, ..Lion::default() }),
        ];
        let ids: Vec<u32> = (0..20).map(|i| i * 7 % 30).collect();
        let (targets, mut batch) = (next_tokens(&ids, &[true; 20]), Batch::default());
        batch.push(&Sequence { ids: &ids, targets: &targets, weight: 0.05, ..Sequence::default() });
        let plain = Training { objective: Objective::CROSS_ENTROPY, checkpointing: false, coins: None };
        for rule in rules {
            let mut parameters = llama(|spec| spec.layer == Some(0));
            let mut model = TextModel::new(&parameters).unwrap();
            let mut optimizer = Optimizer::new(rule, Decay::default());
            let (mut gradients, mut seen) = (Gradients::default(), Vec::new());
            for _ in 0..10 {
                let mut losses = Losses::new(1);
                gradients.begin();
                model.train(&parameters, &batch, &plain, &mut losses, &mut gradients).unwrap();
                optimizer.step(&mut parameters, &gradients, 1.0, Some(1.0)).unwrap();
                seen.push(losses.tasks[0].loss);
            }
            assert!(seen[9] < 0.99 * seen[0], "{rule:?}: {seen:?}");
            let trained: usize = parameters.trainable().map(|(_, parameter)| parameter.len()).sum();
            let moments = if matches!(rule, Rule::AdamW(_)) { 2 } else { 1 };
            assert_eq!(optimizer.bytes(), 4 * moments * trained);
        }
    }
}
