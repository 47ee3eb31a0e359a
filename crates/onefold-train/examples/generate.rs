//! Text from a language model: `cargo run --release -p onefold-train --example generate -- MODEL 48 < prompts.jsonl`
//!
//! Each line of the input is a prompt: a JSON string, continued as it stands, or a list of messages, for example
//! `[{"role": "user", "content": "Hello"}]`, written by the model's chat template. All are continued at once, greedily, by
//! at most so many tokens. The output is JSON with the tokens and texts, and the seconds that they took without loading.
//! `benches/real/smollm2.py` compares it with transformers.

use std::io::{self, Write};
use std::path::Path;
use std::time::Instant;

use anyhow::{Result, bail};
use onefold_train::model::generate::{Sampling, Settings, generate};
use onefold_train::model::{Parameters, TextModel};
use onefold_train::text::{ChatTemplate, Conversation, Input, Limit, Tokenizer};
use serde_json::{Value, json};

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [dir, most] = &arguments[..] else {
        bail!("usage: generate MODEL MOST-TOKENS < prompts.jsonl");
    };
    let dir = Path::new(dir);
    let tokenizer = Tokenizer::open(dir)?;
    let lines = io::read_to_string(io::stdin())?;
    let prompts = lines.lines().map(|line| encoded(&serde_json::from_str(line)?, &tokenizer, dir));
    let prompts = prompts.collect::<Result<Vec<Vec<u32>>>>()?;
    let parameters = Parameters::open(dir, |_| false)?;
    let mut model = TextModel::new(&parameters)?;
    let ends = tokenizer.special().eos.clone();
    let settings = Settings { most: most.parse()?, sampling: Sampling::Greedy, ends };
    let slices: Vec<&[u32]> = prompts.iter().map(Vec::as_slice).collect();
    let start = Instant::now();
    let texts = generate(&mut model, &parameters, &slices, &settings, &mut |_, _| false)?;
    let seconds = start.elapsed().as_secs_f64();
    let shown = prompts.iter().zip(&texts).map(|(prompt, added)| {
        let text = tokenizer.decode(&added.ids, true)?;
        Ok(json!({"prompt": prompt, "ids": added.ids, "text": text, "finish": format!("{:?}", added.finish)}))
    });
    let shown = shown.collect::<Result<Vec<Value>>>()?;
    Ok(writeln!(io::stdout(), "{}", json!({"seconds": seconds, "texts": shown}))?)
}

/// The tokens of a prompt.
fn encoded(prompt: &Value, tokenizer: &Tokenizer, dir: &Path) -> Result<Vec<u32>> {
    if let Some(text) = prompt.as_str() {
        return Ok(tokenizer.encode(Input::Text(text), true, Limit::None)?.ids);
    }
    let messages = serde_json::from_value(prompt.clone())?;
    let template = ChatTemplate::open(dir, None, false, tokenizer.special())?;
    let text = template.render(&Conversation { messages, ..Conversation::default() }, true)?.text;
    // The template has written the special tokens.
    Ok(tokenizer.encode(Input::Text(&text), false, Limit::None)?.ids)
}
