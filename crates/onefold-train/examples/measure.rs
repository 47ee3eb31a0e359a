//! The program that `benches/train/compare.py` times: one kind of work on one model, step by step, as a line of JSON.
//!
//! ```text
//! measure WORK MODEL --threads 2 --steps 9 --sequences 4 --length 256
//! ```
//!
//! WORK is `train` (all parameters, AdamW), `lora` (r = 16 on every linear map), `checkpointing` (`train` with layers run
//! twice), `forward` (the loss alone) or `generate` (`--new` tokens after each sequence, greedily; for the loss stands the
//! mean of their ids). Token ids are those of the peer's script, so that losses can be compared.

use std::error::Error;
use std::io::Write as _;
use std::path::Path;
use std::time::Instant;

use onefold_checkpoint::Checkpoint;
use onefold_engine::cpu::loss::{Losses, Objective};
use onefold_engine::cpu::optimizer::AdamW;
use onefold_train::config::ModelConfig;
use onefold_train::families::{Role, TensorSpec};
use onefold_train::model::generate::{Sampling, Settings, generate};
use onefold_train::model::{
    AdapterSettings, Batch, Gradients, Parameters, Sequence, TextModel, Training, next_tokens,
};
use onefold_train::optimizer::{Decay, Optimizer, Rule};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [work, dir, ..] = &arguments[..] else {
        return Err("usage: measure WORK MODEL [--threads N] …".into());
    };
    let number = |name: &str, default: usize| -> Result<usize> {
        match arguments.iter().position(|argument| argument == name) {
            Some(at) => Ok(arguments.get(at + 1).ok_or("a number is missing")?.parse()?),
            None => Ok(default),
        }
    };
    let (sequences, length) = (number("--sequences", 4)?, number("--length", 256)?);
    let steps = number("--steps", 9)?;
    rayon::ThreadPoolBuilder::new()
        .num_threads(number("--threads", 2)?)
        .use_current_thread()
        .build_global()?;
    let (dir, shape) = (Path::new(dir), [sequences, length, steps]);
    let (seconds, losses) = match work.as_str() {
        "generate" => continued(dir, shape, number("--new", 128)?)?,
        _ => measure(work, dir, shape)?,
    };
    let line = serde_json::json!({"seconds": seconds, "losses": losses});
    Ok(writeln!(std::io::stdout(), "{line}")?)
}

/// Seconds and mean loss of each step.
fn measure(work: &str, dir: &Path, [sequences, length, steps]: [usize; 3]) -> Result<(Vec<f64>, Vec<f64>)> {
    let config = ModelConfig::open(dir)?;
    let checkpoint = Checkpoint::open(dir).map_err(|errors| format!("{errors:?}"))?;
    let all = |_: &TensorSpec| matches!(work, "train" | "checkpointing");
    let mut parameters = Parameters::load(&config, &checkpoint, all)?;
    if work == "lora" {
        let (rank, alpha) = (16, 32.0);
        let settings =
            AdapterSettings { rank, alpha, rank_stabilised: false, decomposed: false, dropout: 0.0, seed: 0 };
        parameters.adapt(&settings, TensorSpec::is_adaptable)?;
    }
    let mut model = TextModel::new(&parameters)?;
    let embedding = |spec: &TensorSpec| spec.role == Role::TokenEmbedding;
    let vocabulary = parameters.iter().find(|(_, parameter)| parameter.spec().is_some_and(embedding));
    let batch = batch(sequences, length, vocabulary.ok_or("no embedding")?.1.shape[0]);
    let rule = Rule::AdamW(AdamW { learning_rate: 1e-4, ..AdamW::default() });
    let mut optimizer = Optimizer::new(rule, Decay::Everything);
    let training =
        Training { objective: Objective::CROSS_ENTROPY, checkpointing: work == "checkpointing", coins: None };
    let (mut gradients, mut losses) = (Gradients::default(), Losses::new(1));
    let (mut seconds, mut means) = (Vec::new(), Vec::new());
    for _ in 0..steps {
        let start = Instant::now();
        if work == "forward" {
            model.evaluate(&parameters, &batch, training.objective, &mut losses)?;
        } else {
            gradients.begin();
            model.train(&parameters, &batch, &training, &mut losses, &mut gradients)?;
            optimizer.step(&mut parameters, &gradients, 1.0, None)?;
        }
        seconds.push(start.elapsed().as_secs_f64());
        means.push(losses.tasks[0].loss / losses.tasks[0].rows as f64);
    }
    Ok((seconds, means))
}

/// Seconds of each run of greedy generation, and the mean id of what it wrote.
fn continued(
    dir: &Path,
    [sequences, length, steps]: [usize; 3],
    most: usize,
) -> Result<(Vec<f64>, Vec<f64>)> {
    let checkpoint = Checkpoint::open(dir).map_err(|errors| format!("{errors:?}"))?;
    let parameters = Parameters::load(&ModelConfig::open(dir)?, &checkpoint, |_| false)?;
    let mut model = TextModel::new(&parameters)?;
    let vocabulary = model.limits().vocabulary;
    let ids = arbitrary(sequences * length, vocabulary);
    let prompts: Vec<&[u32]> = ids.chunks(length).collect();
    let settings = Settings { most, sampling: Sampling::Greedy, ends: Vec::new() };
    let (mut seconds, mut means) = (Vec::new(), Vec::new());
    for _ in 0..steps {
        let start = Instant::now();
        let texts = generate(&mut model, &parameters, &prompts, &settings, &mut |_, _| false)?;
        seconds.push(start.elapsed().as_secs_f64());
        let sum: u32 = texts.iter().flat_map(|text| &text.ids).sum();
        means.push(f64::from(sum) / (sequences * most) as f64);
    }
    Ok((seconds, means))
}

/// Sequences of arbitrary tokens; every token but the last of each predicts the next.
fn batch(sequences: usize, length: usize, vocabulary: usize) -> Batch {
    let mut batch = Batch::default();
    let weight = 1.0 / (sequences * (length - 1)) as f32;
    for ids in arbitrary(sequences * length, vocabulary).chunks(length) {
        let targets = next_tokens(ids, &vec![true; length]);
        batch.push(&Sequence { ids, targets: &targets, weight, ..Sequence::default() });
    }
    batch
}

/// The peer's arbitrary numbers below `limit`.
fn arbitrary(count: usize, limit: usize) -> Vec<u32> {
    let mut state = 1u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) % limit as u32
    };
    (0..count).map(|_| next()).collect()
}
