//! Adam for the few numbers that a balancer learns (Kingma & Ba, ICLR 2015, arXiv 1412.6980).

use serde::{Deserialize, Serialize};

const BETA: [f64; 2] = [0.9, 0.999];
const EPSILON: f64 = 1e-8;

/// The state of one number. Each has its own count of steps: a task that is absent from a batch makes none.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Adam {
    first: f64,
    second: f64,
    steps: u64,
}

impl Adam {
    /// What is to be added to the number, whose gradient is finite.
    pub fn step(&mut self, gradient: f64, lr: f64) -> f64 {
        // Its square must be a number that the state can be saved with.
        let gradient = gradient.clamp(-1e100, 1e100);
        self.steps = self.steps.saturating_add(1);
        self.first = BETA[0] * self.first + (1.0 - BETA[0]) * gradient;
        self.second = BETA[1] * self.second + (1.0 - BETA[1]) * gradient * gradient;
        let corrected = |moment: f64, beta: f64| moment / (1.0 - beta.powf(self.steps as f64));
        -lr * corrected(self.first, BETA[0]) / (corrected(self.second, BETA[1]).sqrt() + EPSILON)
    }
}
