//! What holds where a recipe says nothing, and why. The one place for it: the reader takes its defaults from here, the guide
//! lists them.

use onefold_train::tune::Span;

/// Kind of the balancer: none. To balance is a decision.
pub(super) const BALANCER: &str = "uniform";

/// Peak learning rates for whole weights: that of Alpaca, Vicuna and MFTCoder; and for adapters, which begin at nothing and are
/// few numbers: that of QLoRA, ten times as much.
pub(super) const LR: Rates = Rates { full: 2e-5, adapter: 2e-4 };
/// Lion moves by signs and needs a tenth of AdamW's rate (Chen et al., section 5).
pub(super) const LR_LION: Rates = Rates { full: 2e-6, adapter: 2e-5 };

/// Learning rates by what is trained.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rates {
    full: f64,
    adapter: f64,
}

impl Rates {
    /// The rate for adapters, or for whole weights.
    pub(super) fn of(self, adapted: bool) -> f64 {
        if adapted { self.adapter } else { self.full }
    }
}

/// None, as transformers and LLaMA-Factory have it: trainings are short, and decay pulls towards 0, not towards the base.
pub(super) const WEIGHT_DECAY: f64 = 0.0;

/// A short warm-up, so that the moments of AdamW know something before steps are large: Alpaca's share.
pub(super) const WARMUP: Span = Span::Share(0.03);
/// The last rows of a training should count for something too.
pub(super) const MIN_LR_RATIO: f64 = 0.1;
/// Of the warm-up, stable, decay schedule (Hu et al. 2024).
pub(super) const DECAY: Span = Span::Share(0.1);

/// Rows of a step: several tasks are in most of them.
pub(super) const EXAMPLES: u64 = 32;
/// Rows that pass the model at once: beyond eight there is little to gain, and memory grows with them.
pub(super) const MICRO: u64 = 8;

/// Passes over the data, as the trainer of transformers has it.
pub(super) const EPOCHS: f64 = 3.0;
/// Norm to which gradients are clipped: that of transformers, LLaMA-Factory and MFTCoder.
pub(super) const CLIP: f64 = 1.0;

/// Rank and α of adapters: PEFT's rank is 8; twice that is what most examples take, with α twice the rank.
pub(super) const RANK: u64 = 16;
/// α over the rank.
pub(super) const ALPHA_PER_RANK: f64 = 2.0;

/// The temperature of temperature sampling: the square root of sizes.
pub(super) const TEMPERATURE: f64 = 2.0;

/// Steps between lines of the log, as LLaMA-Factory's examples have it.
pub(super) const LOG: u64 = 10;
/// Passes over the data between validations.
pub(super) const VALIDATE_EPOCHS: f64 = 1.0;
/// Steps between checkpoints, as the trainer of transformers has it.
pub(super) const CHECKPOINT_STEPS: u64 = 500;
/// Checkpoints that are kept: the last, and one before it. Each holds the moments of the optimiser too.
pub(super) const KEEP: u64 = 2;
