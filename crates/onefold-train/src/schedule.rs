//! The learning rate over the steps of a training, as a share of its peak.
//!
//! After a linear warm-up from 0 the rate stays, or falls to a floor. Step t of T (counted from 0), W of them warm-up, floor f:
//!
//! | kind | share at t ≥ W, with p = (t − W) / (T − W) |
//! |---|---|
//! | constant | 1 |
//! | linear | f + (1 − f) · (1 − p) |
//! | cosine | f + (1 − f) · ½ (1 + cos πp) (Loshchilov and Hutter, arXiv 1608.03983, without restarts) |
//! | wsd | 1 until the decay begins, then as linear over it (warm-up, stable, decay: Hu et al., arXiv 2404.06395) |
//!
//! At t < W it is t / W: the first step of a training with warm-up has rate 0, and the last step does not yet reach the floor, as
//! in transformers' schedulers (tested against them; its cosine rises again beyond the end, which is not copied). The share depends on t alone, so a resumed training needs no state of it.

/// How the rate falls after the warm-up.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Fall {
    /// Not at all.
    Constant,
    /// In a straight line.
    Linear,
    /// Along half a wave of the cosine.
    Cosine,
    /// Not at all, then in a straight line over the last `decay` steps.
    Wsd {
        /// Steps of the decay.
        decay: u64,
    },
}

/// A schedule of so many steps.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Schedule {
    /// How it falls.
    pub fall: Fall,
    /// Steps of the warm-up.
    pub warmup: u64,
    /// Steps in all.
    pub steps: u64,
    /// Share of the peak that it does not fall below, in 0 … 1.
    pub floor: f64,
}

/// A schedule that cannot be.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum ScheduleError {
    /// Warm-up and decay do not fit.
    #[error(
        "warm-up ({warmup} steps) and decay ({decay} steps) take more than the {steps} steps of the training; shorten them"
    )]
    TooShort {
        /// Steps of the warm-up.
        warmup: u64,
        /// Steps of the decay.
        decay: u64,
        /// Steps in all.
        steps: u64,
    },
    /// The floor is not a share.
    #[error("a floor of {found} of the learning rate; expected a share from 0 to 1")]
    Floor {
        /// What it is.
        found: f64,
    },
}

impl Schedule {
    /// The same rate from the first step to the last.
    pub const CONSTANT: Self = Self { fall: Fall::Constant, warmup: 0, steps: u64::MAX, floor: 0.0 };

    /// Whether it can be followed.
    ///
    /// # Errors
    /// [`ScheduleError`].
    pub fn check(&self) -> Result<(), ScheduleError> {
        let Self { warmup, steps, floor, .. } = *self;
        let decay = if let Fall::Wsd { decay } = self.fall { decay } else { 0 };
        if warmup.checked_add(decay).is_none_or(|taken| taken > steps) {
            return Err(ScheduleError::TooShort { warmup, decay, steps });
        }
        if !(0.0..=1.0).contains(&floor) {
            return Err(ScheduleError::Floor { found: floor });
        }
        Ok(())
    }

    /// The share of the peak at a step; steps beyond the end have the floor.
    pub fn at(&self, step: u64) -> f64 {
        let Self { fall, warmup, steps, floor } = *self;
        if step < warmup {
            return step as f64 / warmup as f64;
        }
        let left = match fall {
            Fall::Constant => 1.0,
            Fall::Linear => 1.0 - share(step, warmup, steps),
            Fall::Cosine => 0.5 * (1.0 + (std::f64::consts::PI * share(step, warmup, steps)).cos()),
            Fall::Wsd { decay: 0 } => 1.0,
            Fall::Wsd { decay } => 1.0 - share(step, steps.saturating_sub(decay), steps),
        };
        floor + (1.0 - floor) * left
    }
}

/// How far `step` is between two others, in 0 … 1.
fn share(step: u64, from: u64, to: u64) -> f64 {
    if step >= to {
        return 1.0;
    }
    step.saturating_sub(from) as f64 / (to - from) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schedule(fall: Fall, floor: f64) -> Schedule {
        Schedule { fall, warmup: 4, steps: 20, floor }
    }

    /// `testdata/schedules` has the script that asked transformers. Its wsd begins the warm-up at the floor, ours at 0.
    #[test]
    fn agrees_with_transformers() {
        let text = include_str!("../../../testdata/schedules/schedules.json");
        let golden: serde_json::Value = serde_json::from_str(text).unwrap();
        let cases = golden["cases"].as_array().unwrap();
        assert_eq!(cases.len(), 6);
        for case in cases {
            let (name, floor) = (case["case"].as_str().unwrap(), case["floor"].as_f64().unwrap());
            let fall = match name.split('_').next().unwrap() {
                "constant" => Fall::Constant,
                "linear" => Fall::Linear,
                "cosine" => Fall::Cosine,
                _ => Fall::Wsd { decay: 6 },
            };
            let first = if name == "wsd_floor" { 4 } else { 0 };
            for (step, expected) in case["shares"].as_array().unwrap().iter().enumerate().skip(first) {
                let (found, expected) = (schedule(fall, floor).at(step as u64), expected.as_f64().unwrap());
                assert!((found - expected).abs() < 1e-12, "{name} at {step}: {found} {expected}");
            }
        }
    }

    #[test]
    fn the_rate_never_leaves_its_range_and_falls() {
        for fall in [Fall::Constant, Fall::Linear, Fall::Cosine, Fall::Wsd { decay: 7 }] {
            let schedule = schedule(fall, 0.1);
            assert_eq!(schedule.check(), Ok(()));
            let shares: Vec<f64> = (4..40).map(|step| schedule.at(step)).collect();
            assert_eq!(shares[0], 1.0);
            assert!(
                shares.windows(2).all(|pair| pair[1] <= pair[0]) && shares[35] >= 0.1,
                "{fall:?} {shares:?}"
            );
        }
        assert_eq!(Schedule::CONSTANT.at(1_000_000), 1.0);
        assert_eq!(Schedule { fall: Fall::Cosine, warmup: 0, steps: 0, floor: 0.5 }.at(0), 0.5);
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let long = Schedule { warmup: 15, ..schedule(Fall::Wsd { decay: 6 }, 0.0) };
        assert_eq!(long.check(), Err(ScheduleError::TooShort { warmup: 15, decay: 6, steps: 20 }));
        assert_eq!(schedule(Fall::Linear, 1.5).check(), Err(ScheduleError::Floor { found: 1.5 }));
        assert!(schedule(Fall::Linear, f64::NAN).check().is_err());
        assert!(Schedule { warmup: u64::MAX, ..schedule(Fall::Wsd { decay: 2 }, 0.0) }.check().is_err());
    }

    #[test]
    fn a_decay_of_no_step_is_none() {
        let schedule = Schedule { fall: Fall::Wsd { decay: 0 }, warmup: 4, steps: 20, floor: 0.1 };
        schedule.check().unwrap();
        assert!((4..20).all(|step| schedule.at(step) == 1.0));
    }
}
