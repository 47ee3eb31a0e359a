//! Sentence embeddings: `cargo run --release -p onefold-train --example embed -- MODEL < sentences.txt`
//!
//! Reads a sentence from each line, and writes for each a line with the numbers of its vector. `MODEL` is a directory as
//! sentence-transformers writes it, with a bert, roberta or distilbert. `benches/real/embed.py` compares the result with that of
//! transformers.

use std::io::{self, BufRead, Write};
use std::path::PathBuf;

use anyhow::Context;
use onefold_train::model::{Batch, Parameters, SentencePooling, Sequence, TextModel};
use onefold_train::text::{Input, Limit, Tokenizer};

fn main() -> anyhow::Result<()> {
    let dir = PathBuf::from(std::env::args_os().nth(1).context("usage: embed MODEL < sentences.txt")?);
    let parameters = Parameters::open(&dir, |_| false)?;
    let (tokenizer, pooling) = (Tokenizer::open(&dir)?, SentencePooling::open(&dir)?);
    let mut batch = Batch::default();
    for line in io::stdin().lock().lines() {
        let encoded = tokenizer.encode(Input::Text(&line?), true, Limit::KeepStart(256))?;
        batch.push(&Sequence { ids: &encoded.ids, types: &encoded.types, ..Sequence::default() });
    }
    let vectors = TextModel::new(&parameters)?.embed(&parameters, &batch, pooling)?.to_vec();
    let mut out = io::stdout().lock();
    for vector in vectors.chunks(vectors.len() / batch.segments().len()) {
        let numbers: Vec<String> = vector.iter().map(f32::to_string).collect();
        writeln!(out, "{}", numbers.join(" "))?;
    }
    Ok(())
}
