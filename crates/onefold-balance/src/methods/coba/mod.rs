//! CoBa: convergence balancer (Gong et al., EMNLP 2024, arXiv 2410.06741), by the paper's formulas or as MFTCoder has it.
//!
//! With ℓ̄ᵢ(t) the validation loss of task i after t steps by that before training, and αᵢ(t) the least-squares slope of ℓ̄ᵢ over the last
//! N samples, the weights are ω = DF·RCS + (1 − DF)·ACS, uniform for t < W:
//!
//! * RCS = softmax over tasks of K αᵢ/Σⱼ|αⱼ|: slow tasks get more;
//! * ACS = softmax over tasks of −N αᵢ(t)/Σₛ|αᵢ(s)| over the last N slopes: tasks that still fall by their own measure get more,
//!   diverging ones less;
//! * DF = min(1, n·softmaxₛ(−τ n α_max(s)/Σ|α_max|) at s = t) over all n slopes so far, α_max(s) = maxᵢ αᵢ(s): the worse the fastest
//!   rising task, the less RCS counts. With τ = 5 it falls sharply even under ordinary slowing, so watch it.
//!
//! ω keeps a floor m (`min_weight`): if any weight is below it, ω ← ω(1 − mK) + m.
//!
//! One validation batch is drawn after each step (`interval`), W and N count these batches. A task that a batch has no rows of is
//! left out of the fit, at its true step numbers. Slopes are recorded from W on: those of two or three points would dominate Σ|α|.
//! Where a sum of magnitudes is zero, its scores are equal (the authors' code divides by it).
//!
//! `variant: code` is MFTCoder's: α_max is the slope of the largest ratio over tasks, DF is not clipped, the mixture goes through
//! another softmax of K·ω, the first sample is drawn after the second step, absent samples are compressed away, ACS looks at
//! N − W + 1 slopes. Its α_max follows the slowest task, so that a task that overfits may keep the largest weight.

use onefold_runtime::params::{Default, Kind};
use serde::Deserialize;
use serde_json::Value;

use super::{COUNT, Cost, Method, POSITIVE};
use crate::contract::{Figure, Needs, Values};
use crate::error::SettingError;
use crate::numeric::vector::normalised;
use crate::rule::{Memory as _, Rule, Seen, View};
use crate::settings::{Context, Param};
use memory::Memory;

pub mod memory;
pub mod scores;

/// The table entry.
pub static COBA: Method = Method {
    name: "coba",
    aliases: &["convergence_balancer"],
    summary: "equal convergence of all tasks, less weight to those that diverge",
    source: "arXiv 2410.06741",
    cost: Cost::Forward,
    validation: true,
    task_weights: false,
    simplex: true,
    params: &[
        Param {
            name: "window",
            kind: Kind::Integer { min: 2, max: i64::MAX },
            default: Default::Number(200.0),
            help: "validation batches that a slope is taken over (N)",
        },
        Param {
            name: "warmup",
            kind: Kind::Integer { min: 2, max: i64::MAX },
            default: Default::Number(100.0),
            help: "validation batches before weights are anything but uniform (W)",
        },
        Param {
            name: "tau",
            kind: POSITIVE,
            default: Default::Number(5.0),
            help: "sharpness of the divergence factor",
        },
        Param {
            name: "min_weight",
            kind: Kind::Number { min: 0.0, max: 1.0, min_open: false },
            default: Default::Optional,
            help: "least weight of a task; by default a tenth of the mean weight",
        },
        Param {
            name: "df_window",
            kind: COUNT,
            default: Default::Optional,
            help: "slopes that the divergence factor looks back on; by default all since the warm-up",
        },
        Param {
            name: "interval",
            kind: COUNT,
            default: Default::Number(1.0),
            help: "steps from one validation batch to the next",
        },
        Param {
            name: "alpha_max",
            kind: Kind::Choice(&["max_of_slopes", "slope_of_max"]),
            default: Default::Choice("max_of_slopes"),
            help: "what the divergence factor follows: the fastest rising task, or the highest curve",
        },
        Param {
            name: "variant",
            kind: Kind::Choice(&["paper", "code"]),
            default: Default::Choice("paper"),
            help: "the published formulas, or MFTCoder's code",
        },
    ],
    build: |context| Ok(Box::new(Coba::new(context)?)),
};

/// Settings, as in the table.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Settings {
    window: usize,
    warmup: u64,
    tau: f64,
    min_weight: Option<f64>,
    df_window: Option<usize>,
    interval: u64,
    alpha_max: AlphaMax,
    variant: Variant,
}

/// What the divergence factor follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum AlphaMax {
    MaxOfSlopes,
    SlopeOfMax,
}

/// Whose formulas.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Variant {
    Paper,
    Code,
}

#[derive(Debug)]
struct Coba {
    settings: Settings,
    memory: Memory,
}

impl Coba {
    fn new(context: &Context<'_>) -> Result<Self, SettingError> {
        let settings: Settings = context.typed();
        settings.agree(context)?;
        Ok(Self { settings, memory: Memory::new(context.k()) })
    }

    /// What the samples so far say of the next step.
    fn judge(&mut self) {
        let Settings { window, alpha_max, variant, .. } = self.settings;
        let slopes = self.memory.slopes(window, variant == Variant::Code);
        let steepest = if variant == Variant::Code || alpha_max == AlphaMax::SlopeOfMax {
            self.memory.slope_of_max(window)
        } else {
            slopes.iter().copied().fold(f64::NEG_INFINITY, f64::max)
        };
        self.memory.record(slopes, steepest, self.settings.recorded(), self.settings.df_window);
        self.memory.scores = Some(self.settings.scores(&self.memory));
    }
}

impl Settings {
    /// Settings that exclude each other.
    fn agree(&self, context: &Context<'_>) -> Result<(), SettingError> {
        let conflict = |key, expected: String, found: String, remedy: &str| {
            Err(SettingError::Conflict { key, expected, found, remedy: remedy.to_owned() })
        };
        if self.warmup > self.window as u64 {
            let (expected, found) = (format!("at most `window` = {}", self.window), self.warmup.to_string());
            return conflict("warmup", expected, found, "lower it, or raise `window`");
        }
        let mean = 1.0 / context.k() as f64;
        if let Some(least) = self.min_weight.filter(|least| *least > mean) {
            let expected = format!("at most 1/{} for {} tasks", context.k(), context.k());
            return conflict("min_weight", expected, least.to_string(), "lower it, or leave it out");
        }
        let given = |key: &&str| context.given(key) && (*key != "interval" || self.interval != 1);
        let fixed = ["min_weight", "df_window", "interval", "alpha_max"];
        match fixed.into_iter().filter(|_| self.variant == Variant::Code).find(given) {
            None => Ok(()),
            Some(key) => conflict(
                key,
                "no value with `variant: code`, which fixes it".to_owned(),
                "a value".to_owned(),
                "leave it out, or take `variant: paper`",
            ),
        }
    }

    /// How many slopes of a task are kept.
    fn recorded(&self) -> usize {
        match self.variant {
            Variant::Paper => self.window,
            // A list that begins at W, cut as if it began at 0.
            Variant::Code => self.window + 1 - self.warmup as usize,
        }
    }

    /// The weights from what is recorded.
    fn scores(&self, memory: &Memory) -> scores::Scores {
        let slopes = memory.latest();
        let rcs = scores::relative(slopes);
        let acs = scores::absolute(&memory.recorded);
        let unclipped = scores::divergence_factor(&memory.steepest, self.tau);
        let k = slopes.len() as f64;
        let (df, weights) = match self.variant {
            Variant::Paper => (unclipped.min(1.0), scores::mixed(&rcs, &acs, unclipped.min(1.0))),
            Variant::Code => (unclipped, scores::sharpened(&scores::mixed(&rcs, &acs, unclipped))),
        };
        let weights = scores::floored(&weights, self.min_weight.unwrap_or(0.1 / k));
        scores::Scores { rcs, acs, df, weights }
    }
}

impl Rule for Coba {
    fn needs(&self, step: u64) -> Needs {
        let due = step % self.settings.interval + 1 == self.settings.interval;
        // The code draws no sample after its first step.
        let validation = if self.settings.variant == Variant::Code { step > 0 } else { due };
        Needs { validation, reference: self.memory.initial.is_none(), ..Needs::default() }
    }

    fn begin(&mut self, validation: &[f64]) {
        self.memory.initial = Some(validation.iter().map(|loss| loss.max(1e-12)).collect());
    }

    fn weights(&mut self, view: &View<'_>) -> Vec<f64> {
        match &self.memory.scores {
            Some(scores) => normalised(&view.of(&scores.weights)),
            None => view.uniform(),
        }
    }

    fn observe(&mut self, seen: &Seen) {
        if !self.memory.sample(seen, self.settings.window) {
            return;
        }
        // The code decides at the beginning of the step after, which counts from its first, without a sample.
        let next = u64::from(self.settings.variant == Variant::Code);
        if self.memory.samples.saturating_add(next) >= self.settings.warmup {
            self.judge();
        }
    }

    fn figures(&self) -> Vec<Figure> {
        let mut figures = vec![Figure { name: "ratio", values: Values::PerTask(self.memory.ratios()) }];
        if let Some(scores) = &self.memory.scores {
            figures.push(Figure::per_task("slope", self.memory.latest()));
            figures.push(Figure::per_task("rcs", &scores.rcs));
            figures.push(Figure::per_task("acs", &scores.acs));
            figures.push(Figure { name: "df", values: Values::One(scores.df) });
        }
        figures
    }

    fn state(&self) -> Value {
        self.memory.save()
    }

    fn restore(&mut self, state: &Value) -> Result<(), String> {
        self.memory = Memory::load(state, self.memory.tasks)?;
        Ok(())
    }
}
