//! Balancing multi-task training: pure state machines from losses, or from inner products of gradients, to weights of tasks.
//!
//! Nothing here runs a model, communicates, reads or writes. A trainer asks what is needed ([`Balancer::needs`]), measures that,
//! takes the [`Weights`] of the step ([`Balancer::weights`]), makes the step, and tells what came of it
//! ([`Balancer::observe`]). [`methods::BALANCERS`] is the list of methods, of which settings, documentation and contract tests
//! follow.
//!
//! Two tasks of one parameter θ, with losses 1 + ½(θ − 1)² and 1 + 2(θ + 1)², balanced by FAMO:
//!
//! ```
//! use onefold_balance::{Balancer, Batch, Measured, Outcome, Rows, Task};
//! use serde_json::json;
//!
//! let tasks = [Task::new("near"), Task::new("steep")];
//! let settings = json!({"kind": "famo", "lr": 0.1});
//! let mut balancer = Balancer::new(settings.as_object().unwrap(), &tasks, 0).unwrap();
//! let losses =
//!     |theta: f64| [Some(1.0 + 0.5 * (theta - 1.0).powi(2)), Some(1.0 + 2.0 * (theta + 1.0).powi(2))];
//! let gradients = |theta: f64| [theta - 1.0, 4.0 * (theta + 1.0)];
//!
//! let (mut theta, epoch) = (2.0, 0);
//! for step in 0..40 {
//!     let needs = balancer.needs(step);
//!     assert!(needs.again && !needs.validation);
//!     let before = losses(theta);
//!     let batch = Batch { step, epoch, rows: Rows::Losses(&before), measured: Measured::Nothing };
//!     let weights = balancer.weights(&batch).unwrap().values;
//!     assert!((weights.iter().sum::<f64>() - 1.0).abs() < 1e-12);
//!     theta -= 0.1 * (weights[0] * gradients(theta)[0] + weights[1] * gradients(theta)[1]);
//!     let (losses, again) = (Some(&before[..]), losses(theta));
//!     balancer.observe(&Outcome { step, epoch, losses, again: Some(&again), ..Outcome::default() }).unwrap();
//! }
//! assert!(theta.abs() < 1.0, "between the two minima: {theta}");
//! ```

pub mod balancer;
mod checks;
pub mod contract;
pub mod error;
pub mod kernels;
pub mod losses;
pub mod methods;
pub mod numeric;
pub mod rule;
pub mod settings;

pub use balancer::Balancer;
pub use contract::{
    Batch, Figure, Gradients, Losses, Measured, Needs, Outcome, Quantity, Rows, Values, Weights,
};
pub use error::{BalanceError, SettingError, Skipped};
pub use methods::BALANCERS;
pub use numeric::Matrix;
pub use settings::Task;
