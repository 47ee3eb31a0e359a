//! A gradient step on a Hugging Face checkpoint: `cargo run --release -p onefold-train --example finetune -- MODEL OUT`
//!
//! Loads a decoder, shows the loss of a sentence, moves all parameters once, and writes a model that transformers loads.

use std::io::{self, Write};
use std::path::PathBuf;

use anyhow::Context;
use onefold_engine::cpu::loss::{Losses, Objective};
use onefold_engine::cpu::optimizer::AdamW;
use onefold_train::model::{
    Batch, Destination, Gradients, Parameters, Sequence, TextModel, Training, next_tokens,
};
use onefold_train::optimizer::{Decay, Optimizer, Rule};

fn main() -> anyhow::Result<()> {
    let mut paths = std::env::args_os().skip(1).map(PathBuf::from);
    let (dir, out) = paths.next().zip(paths.next()).context("usage: finetune MODEL OUT")?;
    let mut parameters = Parameters::open(&dir, |_| true)?;
    let mut model = TextModel::new(&parameters)?;

    let ids = [5, 17, 9, 28, 3, 11, 23, 8]; // of the model's tokenizer: `onefold_train::text::Tokenizer`
    let targets = next_tokens(&ids, &[true; 8]);
    let mut batch = Batch::default();
    batch.push(&Sequence { ids: &ids, targets: &targets, weight: 1.0 / 7.0, ..Sequence::default() });
    let training = Training { objective: Objective::CROSS_ENTROPY, checkpointing: false, coins: None };
    let (mut losses, mut gradients) = (Losses::new(1), Gradients::default());
    model.train(&parameters, &batch, &training, &mut losses, &mut gradients)?;
    writeln!(io::stdout(), "loss {:.4}", losses.objective)?;
    let mut optimizer = Optimizer::new(Rule::AdamW(AdamW::default()), Decay::Matrices);
    optimizer.step(&mut parameters, &gradients, 1.0, Some(1.0))?;
    parameters.save(&Destination { source: &dir, out: &out, replace: false })?;
    Ok(())
}
