//! Reading the tokenizer files of the models of a merge, equal ones only once.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;

use super::ModelTokenizer;
use super::error::TokenizerError;
use super::files::{FAST, SLOW};
use super::vocabulary::AddedToken;

/// The largest tokenizer file read. Those of 250,000-token vocabularies have about 35 MB.
pub(super) const MAX_BYTES: u64 = 512 << 20;

/// One distinct tokenizer: a `tokenizer.json` with the added tokens of the `tokenizer_config.json` beside it.
#[derive(Debug)]
pub(super) struct Fast {
    pub(super) path: PathBuf,
    /// Index into [`Loaded::texts`].
    pub(super) text: usize,
    pub(super) decoder: Vec<AddedToken>,
}

/// The tokenizers of all models.
#[derive(Debug)]
pub(super) enum Loaded {
    /// Every model has a `tokenizer.json`.
    Fast {
        texts: Vec<String>,
        distinct: Vec<Fast>,
        /// For each model its index into `distinct`.
        of_model: Vec<usize>,
    },
    /// No model has one, and their other tokenizer files are the same, byte for byte.
    SameSlow,
}

/// Reads the tokenizers of `models`, in their order.
pub(super) fn load(models: &[ModelTokenizer]) -> Result<Loaded, TokenizerError> {
    let missing: Vec<&ModelTokenizer> =
        models.iter().filter(|model| !model.dir.join(FAST).is_file()).collect();
    if missing.len() == models.len() && same_slow(models)? {
        return Ok(Loaded::SameSlow);
    }
    let no_fast = |model: &&ModelTokenizer| TokenizerError::NoFastTokenizer {
        label: model.label.clone(),
        dir: model.dir.clone(),
        found: slow_files(&model.dir).into_iter().map(str::to_owned).collect(),
    };
    TokenizerError::all(missing.iter().map(no_fast).collect())?;
    let mut problems = Vec::new();
    let (mut texts, mut distinct, mut of_model) = (Vec::new(), Vec::new(), Vec::new());
    for model in models {
        match read_fast(&model.dir, &mut texts) {
            Ok(fast) => of_model.push(place(&mut distinct, fast)),
            Err(problem) => problems.push(problem),
        }
    }
    TokenizerError::all(problems)?;
    Ok(Loaded::Fast { texts, distinct, of_model })
}

fn read_fast(dir: &Path, texts: &mut Vec<String>) -> Result<Fast, TokenizerError> {
    let path = dir.join(FAST);
    let text = read_text(&path)?;
    let config = dir.join("tokenizer_config.json");
    let decoder = if config.is_file() { decoder(&config)? } else { Vec::new() };
    let text = texts.iter().position(|known| *known == text).unwrap_or_else(|| {
        texts.push(text);
        texts.len() - 1
    });
    Ok(Fast { path, text, decoder })
}

fn place(distinct: &mut Vec<Fast>, fast: Fast) -> usize {
    let same = |known: &Fast| known.text == fast.text && known.decoder == fast.decoder;
    distinct.iter().position(same).unwrap_or_else(|| {
        distinct.push(fast);
        distinct.len() - 1
    })
}

/// The `added_tokens_decoder` of a `tokenizer_config.json`, by id.
fn decoder(path: &Path) -> Result<Vec<AddedToken>, TokenizerError> {
    #[derive(serde::Deserialize)]
    struct Config {
        #[serde(default)]
        added_tokens_decoder: Option<BTreeMap<u64, AddedToken>>,
    }
    let config: Config = read_json(path, "tokenizer_config.json")?;
    let tokens = config.added_tokens_decoder.unwrap_or_default();
    Ok(tokens.into_iter().map(|(id, token)| AddedToken { id, ..token }).collect())
}

fn slow_files(dir: &Path) -> Vec<&'static str> {
    SLOW.iter().copied().filter(|name| dir.join(name).is_file()).collect()
}

/// Whether all models have the same slow tokenizer files, at least one, with the same bytes. The added tokens
/// beside them count as part of the tokenizer.
fn same_slow(models: &[ModelTokenizer]) -> Result<bool, TokenizerError> {
    let Some((first, others)) = models.split_first() else { return Ok(false) };
    let names = slow_files(&first.dir);
    if names.is_empty() || others.iter().any(|model| slow_files(&model.dir) != names) {
        return Ok(false);
    }
    let contents = |dir: &Path| -> Result<Vec<Option<Vec<u8>>>, TokenizerError> {
        let all = names.iter().copied().chain(["added_tokens.json"]).map(|name| dir.join(name));
        all.map(|path| if path.is_file() { read_bytes(&path).map(Some) } else { Ok(None) }).collect()
    };
    let added = |dir: &Path| -> Result<Vec<AddedToken>, TokenizerError> {
        let config = dir.join("tokenizer_config.json");
        if config.is_file() { decoder(&config) } else { Ok(Vec::new()) }
    };
    let (expected, expected_added) = (contents(&first.dir)?, added(&first.dir)?);
    for model in others {
        if contents(&model.dir)? != expected || added(&model.dir)? != expected_added {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Reads a JSON file of the kind `what`.
pub(super) fn read_json<T: DeserializeOwned>(path: &Path, what: &'static str) -> Result<T, TokenizerError> {
    serde_json::from_slice(&read_bytes(path)?).map_err(|error| TokenizerError::Malformed {
        path: path.to_path_buf(),
        what,
        reason: error.to_string(),
    })
}

/// Reads a text file; bytes that are not UTF-8 are an error.
pub(super) fn read_text(path: &Path) -> Result<String, TokenizerError> {
    String::from_utf8(read_bytes(path)?).map_err(|error| TokenizerError::Malformed {
        path: path.to_path_buf(),
        what: "UTF-8 text",
        reason: error.utf8_error().to_string(),
    })
}

/// Reads a file of at most [`MAX_BYTES`].
pub(super) fn read_bytes(path: &Path) -> Result<Vec<u8>, TokenizerError> {
    let failed = |source| TokenizerError::Read { path: path.to_path_buf(), source };
    let file = File::open(path).map_err(failed)?;
    let bytes = file.metadata().map_err(failed)?.len();
    let too_large = |bytes| TokenizerError::TooLarge { path: path.to_path_buf(), bytes, limit: MAX_BYTES };
    if bytes > MAX_BYTES {
        return Err(too_large(bytes));
    }
    let mut content = Vec::new();
    // The limit holds for what is read too: a pipe or a growing file says nothing true about its size.
    file.take(MAX_BYTES + 1).read_to_end(&mut content).map_err(failed)?;
    if content.len() as u64 > MAX_BYTES {
        return Err(too_large(content.len() as u64));
    }
    Ok(content)
}
