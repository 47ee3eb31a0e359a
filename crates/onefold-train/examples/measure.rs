//! The program that `benches/train/compare.py` times: one kind of work on one model, step by step, as a line of JSON.
//!
//! ```text
//! measure WORK MODEL --threads 2 --steps 9 --sequences 4 --length 256
//! ```
//!
//! WORK is `train` (all parameters, AdamW), `gradients` (the same without AdamW: forward and backward alone), `lora` (r = 16 on every linear map), `checkpointing` (`train` with layers run
//! twice), `forward` (the loss alone) or `generate` (`--new` tokens after each sequence, greedily; for the loss stands the
//! mean of their ids). Token ids are those of the peer's script, so that losses can be compared.

use std::io::Write as _;
use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use onefold_engine::cpu::loss::{Losses, Objective};
use onefold_engine::cpu::optimizer::AdamW;
use onefold_train::config::{Head, ModelConfig};
use onefold_train::families::{Role, TensorSpec};
use onefold_train::model::generate::{Sampling, Settings, generate};
use onefold_train::model::{
    AdapterSettings, Batch, Gradients, Image, ImageBatch, Parameters, Sequence, TextModel, Training,
    VisionModel, next_tokens,
};
use onefold_train::optimizer::{Decay, Optimizer, Rule};

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [work, dir, ..] = &arguments[..] else {
        bail!("usage: measure WORK MODEL [--threads N] …");
    };
    let number = |name: &str, default: usize| -> Result<usize> {
        match arguments.iter().position(|argument| argument == name) {
            Some(at) => Ok(arguments.get(at + 1).context("a number is missing")?.parse()?),
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
    let all = |_: &TensorSpec| matches!(work, "train" | "gradients" | "checkpointing");
    let mut parameters = Parameters::open(dir, all)?;
    if work == "lora" {
        let (rank, alpha) = (16, 32.0);
        let settings =
            AdapterSettings { rank, alpha, rank_stabilised: false, decomposed: false, dropout: 0.0, seed: 0 };
        parameters.adapt(&settings, TensorSpec::is_adaptable)?;
    }
    let mut subject = Subject::new(&parameters, sequences, length)?;
    let rule = Rule::AdamW(AdamW { learning_rate: 1e-4, ..AdamW::default() });
    let mut optimizer = Optimizer::new(rule, Decay::Everything);
    let training =
        Training { objective: Objective::CROSS_ENTROPY, checkpointing: work == "checkpointing", coins: None };
    let (mut gradients, mut losses) = (Gradients::default(), Losses::new(1));
    let (mut seconds, mut means) = (Vec::new(), Vec::new());
    for _ in 0..steps {
        let start = Instant::now();
        if work == "forward" {
            subject.evaluate(&parameters, &mut losses)?;
        } else {
            gradients.begin();
            subject.train(&parameters, &training, &mut losses, &mut gradients)?;
            if work != "gradients" {
                optimizer.step(&mut parameters, &gradients, 1.0, None)?;
            }
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
    let parameters = Parameters::open(dir, |_| false)?;
    let mut model = TextModel::new(&parameters)?;
    let vocabulary = model.limits().vocabulary;
    let ids: Vec<u32> = numbers(vocabulary).take(sequences * length).collect();
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

/// A model with a batch that it always takes.
enum Subject {
    Text(Box<TextModel>, Batch),
    Images(Box<VisionModel>, ImageBatch),
}

impl Subject {
    fn new(parameters: &Parameters, sequences: usize, length: usize) -> Result<Self> {
        if let ModelConfig::Vision(config) = parameters.config() {
            let shape = [config.channels, config.image_size.0, config.image_size.1];
            let model = Box::new(VisionModel::new(parameters)?);
            return Ok(Self::Images(model, images(sequences, shape, classes(parameters))));
        }
        let embedding = |spec: &TensorSpec| spec.role == Role::TokenEmbedding;
        let table = parameters.iter().find(|(_, parameter)| parameter.spec().is_some_and(embedding));
        let vocabulary = table.context("no embedding")?.1.shape[0];
        let batch = texts(sequences, length, vocabulary, classes(parameters));
        Ok(Self::Text(Box::new(TextModel::new(parameters)?), batch))
    }

    fn evaluate(&mut self, parameters: &Parameters, losses: &mut Losses) -> Result<()> {
        let objective = Objective::CROSS_ENTROPY;
        match self {
            Self::Text(model, batch) => model.evaluate(parameters, batch, objective, losses)?,
            Self::Images(model, batch) => model.evaluate(parameters, batch, objective, losses)?,
        }
        Ok(())
    }

    fn train(
        &mut self,
        parameters: &Parameters,
        training: &Training,
        losses: &mut Losses,
        gradients: &mut Gradients,
    ) -> Result<()> {
        match self {
            Self::Text(model, batch) => model.train(parameters, batch, training, losses, gradients)?,
            Self::Images(model, batch) => model.train(parameters, batch, training, losses, gradients)?,
        }
        Ok(())
    }
}

/// Classes that the head tells apart; none if it gives words.
fn classes(parameters: &Parameters) -> Option<usize> {
    match parameters.config().common().head {
        Head::Classes(classes) => Some(classes),
        _ => None,
    }
}

/// Arbitrary numbers, the same as the peer's.
fn numbers(limit: usize) -> impl Iterator<Item = u32> {
    let mut state = 1u32;
    std::iter::repeat_with(move || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) % limit as u32
    })
}

/// Sequences of arbitrary tokens, each of a class; or every token but the last predicts the next.
fn texts(sequences: usize, length: usize, vocabulary: usize, classes: Option<usize>) -> Batch {
    let (mut tokens, mut batch) = (numbers(vocabulary), Batch::default());
    let answers = classes.map_or(length - 1, |_| 1);
    let weight = 1.0 / (sequences * answers) as f32;
    for sequence in 0..sequences {
        let ids: Vec<u32> = tokens.by_ref().take(length).collect();
        let targets = match classes {
            Some(classes) => vec![(sequence % classes) as i32],
            None => next_tokens(&ids, &vec![true; length]),
        };
        batch.push(&Sequence { ids: &ids, targets: &targets, weight, ..Sequence::default() });
    }
    batch
}

/// Arbitrary images, each of a class.
fn images(count: usize, shape: [usize; 3], classes: Option<usize>) -> ImageBatch {
    let (mut levels, mut batch) = (numbers(256), ImageBatch::default());
    for image in 0..count {
        let pixels = levels.by_ref().take(shape.iter().product());
        let pixels: Vec<f32> = pixels.map(|level| level as f32 / 127.5 - 1.0).collect();
        let (target, weight) = (Some((image % classes.unwrap_or(1)) as i32), 1.0 / count as f32);
        batch.push(&Image { pixels: &pixels, shape, target, weight, ..Image::default() });
    }
    batch
}
