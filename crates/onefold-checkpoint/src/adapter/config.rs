//! `adapter_config.json` of PEFT (0.21 and older): every key is known, and one that would change the result in a way
//! we do not compute is refused.
//!
//! The table in `keys.rs` says for each key whether it is informational (never changes what a saved adapter adds to the weights),
//! honoured, or must have a neutral value. Which modules are adapted is not taken from the configuration: the tensors
//! in the file say it exactly.
//!
//! scaling = alpha / r, or alpha / sqrt(r) with `use_rslora`; `rank_pattern` and `alpha_pattern` replace r and alpha
//! for modules whose path their keys match, as regular expressions, at its end.

use std::path::Path;

use serde_json::{Map, Value};

use super::AdapterError;
use super::keys::{CHANGED_BASE, KEYS, PLAIN_STARTS, Rule, is_neutral};
use super::pattern::Pattern;
use crate::CheckpointError;

/// Larger than any real configuration; a pattern for every module of a huge model takes a few MB.
const LIMIT: u64 = 16 << 20;

/// What a LoRA configuration says about the arithmetic.
#[derive(Debug, Clone)]
pub struct AdapterConfig {
    /// Base model as it was called in training. The caller may warn if it differs from the base in use.
    pub base_model: Option<String>,
    /// Revision of that base model.
    pub revision: Option<String>,
    /// Magnitudes are stored and rows normalised (DoRA).
    pub dora: bool,
    /// The B factors have biases.
    pub lora_bias: bool,
    /// Weights are stored as `[in, out]` (GPT-2's Conv1D); decides only where shapes do not.
    pub fan_in_fan_out: bool,
    /// Modules saved whole, as name ends.
    pub modules_to_save: Vec<String>,
    /// Rows of embeddings saved whole.
    pub tokens: Vec<Tokens>,
    rank: usize,
    alpha: f64,
    rslora: bool,
    rank_pattern: Vec<(Pattern, usize)>,
    alpha_pattern: Vec<(Pattern, f64)>,
}

/// Indices of the saved rows of an embedding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tokens {
    /// End of the module's path; `None` means the input embedding, whatever its name.
    pub module: Option<String>,
    /// Token ids, in the order of the saved rows.
    pub indices: Vec<usize>,
}

impl AdapterConfig {
    /// Rank that the factors of `module` must have, and the factor by which B·A is multiplied.
    pub fn rank_and_scaling(&self, module: &str) -> (usize, f32) {
        let rank = first_match(&self.rank_pattern, module).unwrap_or(self.rank);
        let alpha = first_match(&self.alpha_pattern, module).unwrap_or(self.alpha);
        let divisor = if self.rslora { (rank as f64).sqrt() } else { rank as f64 };
        (rank, (alpha / divisor) as f32)
    }
}

fn first_match<T: Copy>(patterns: &[(Pattern, T)], module: &str) -> Option<T> {
    patterns.iter().find(|(pattern, _)| pattern.matches(module)).map(|(_, value)| *value)
}

/// Reads the configuration of the adapter in `dir`.
///
/// # Errors
/// If the file is missing or unreadable, and everything [`parse_config`] finds.
pub fn read_config(dir: &Path) -> Result<AdapterConfig, Vec<CheckpointError>> {
    let path = dir.join("adapter_config.json");
    let wrap = |source| CheckpointError::adapter(&path, source);
    if !path.is_file() {
        let hint = named_adapters(dir);
        let source = AdapterError::MissingFile { expected: "adapter_config.json", hint };
        return Err(vec![CheckpointError::adapter(dir, source)]);
    }
    let size = std::fs::metadata(&path).map_err(|e| vec![CheckpointError::io(&path, "read")(e)])?.len();
    if size > LIMIT {
        return Err(vec![wrap(AdapterError::ConfigTooLarge { found: size, limit: LIMIT })]);
    }
    let bytes = std::fs::read(&path).map_err(|e| vec![CheckpointError::io(&path, "read")(e)])?;
    parse_config(&bytes).map_err(|errors| errors.into_iter().map(wrap).collect())
}

/// PEFT saves a second adapter in a sub-directory of its name.
fn named_adapters(dir: &Path) -> String {
    let mut names: Vec<String> = std::fs::read_dir(dir)
        .map(|entries| entries.flatten().collect::<Vec<_>>())
        .unwrap_or_default()
        .iter()
        .filter(|e| e.path().join("adapter_config.json").is_file())
        .map(|e| e.file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    if names.is_empty() { String::new() } else { format!("; name one of its sub-directories: {names:?}") }
}

/// Parses an adapter configuration.
///
/// # Errors
/// Every problem, together.
pub fn parse_config(bytes: &[u8]) -> Result<AdapterConfig, Vec<AdapterError>> {
    let invalid = |message: String| vec![AdapterError::ConfigInvalid { message }];
    let keys: Map<String, Value> = serde_json::from_slice(bytes).map_err(|e| invalid(e.to_string()))?;
    let mut reader = Reader { keys: &keys, errors: Vec::new() };
    // The other methods have keys of their own: naming them would hide what is wrong.
    let method = reader.string("peft_type").unwrap_or_default();
    if reader.errors.is_empty() && method != "LORA" {
        let found = if method.is_empty() { "(not given)".into() } else { method };
        return Err(vec![AdapterError::PeftType { found }]);
    }
    let config = reader.config();
    reader.judge_keys();
    if reader.errors.is_empty() { Ok(config) } else { Err(reader.errors) }
}

struct Reader<'a> {
    keys: &'a Map<String, Value>,
    errors: Vec<AdapterError>,
}

impl Reader<'_> {
    fn config(&mut self) -> AdapterConfig {
        self.check_start();
        self.check_bias();
        let config = AdapterConfig {
            base_model: self.string("base_model_name_or_path"),
            revision: self.string("revision"),
            dora: self.flag("use_dora"),
            lora_bias: self.flag("lora_bias"),
            fan_in_fan_out: self.flag("fan_in_fan_out"),
            modules_to_save: self
                .value("modules_to_save", "a list of module names", names)
                .unwrap_or_default(),
            tokens: self
                .value("trainable_token_indices", "a list of token ids or an object of such lists", tokens)
                .unwrap_or_default(),
            rank: self.value("r", RANK, rank).unwrap_or(8),
            alpha: self.value("lora_alpha", NUMBER, finite).unwrap_or(8.0),
            rslora: self.flag("use_rslora"),
            rank_pattern: self.patterns("rank_pattern", RANK, rank),
            alpha_pattern: self.patterns("alpha_pattern", NUMBER, finite),
        };
        if config.dora && config.lora_bias {
            let why = "PEFT does not combine it with `use_dora`";
            self.errors.push(AdapterError::Unsupported {
                key: "lora_bias".into(),
                found: "true".into(),
                why,
            });
        }
        config
    }

    /// Refuses known keys that are not neutral and unknown ones that may matter.
    fn judge_keys(&mut self) {
        for (key, value) in self.keys.iter().filter(|(_, value)| !is_neutral(value)) {
            let rule = KEYS.iter().find(|(name, _)| name == key).map(|(_, rule)| rule);
            let (key, found) = (shorten(key), shorten(&value.to_string()));
            match rule {
                Some(Rule::Honoured | Rule::Informational) => {}
                Some(Rule::Neutral(why)) => self.errors.push(AdapterError::Unsupported { key, found, why }),
                None => self.errors.push(AdapterError::UnknownKey { key, found }),
            }
        }
    }

    fn check_start(&mut self) {
        let why = match self.keys.get("init_lora_weights") {
            None | Some(Value::Null | Value::Bool(_)) => return,
            Some(Value::String(start)) if PLAIN_STARTS.contains(&start.as_str()) => return,
            Some(Value::String(_)) => CHANGED_BASE,
            Some(_) => "it is neither a boolean nor a name",
        };
        let found = shorten(&self.keys["init_lora_weights"].to_string());
        self.errors.push(AdapterError::Unsupported { key: "init_lora_weights".into(), found, why });
    }

    /// Trained biases are in the file and replace those of the base, whichever of the three this is.
    fn check_bias(&mut self) {
        let known = |value: &Value| {
            value.as_str().is_some_and(|s| matches!(s, "none" | "all" | "lora_only")).then_some(())
        };
        self.value("bias", "none, all or lora_only", known);
    }

    fn string(&mut self, key: &'static str) -> Option<String> {
        self.value(key, "a string", |v| v.as_str().map(str::to_owned))
    }

    fn flag(&mut self, key: &'static str) -> bool {
        self.value(key, "true or false", Value::as_bool).unwrap_or(false)
    }

    /// The value of `key` if it is there and not null; an error if `read` does not take it.
    fn value<T>(
        &mut self,
        key: &'static str,
        expected: &'static str,
        read: impl FnOnce(&Value) -> Option<T>,
    ) -> Option<T> {
        let value = self.keys.get(key).filter(|v| !v.is_null())?;
        let result = read(value);
        if result.is_none() {
            let found = shorten(&value.to_string());
            self.errors.push(AdapterError::Value { key: key.into(), expected, found });
        }
        result
    }

    /// `{regular expression: value}`, in the file's order: the first match wins.
    fn patterns<T>(
        &mut self,
        key: &'static str,
        expected: &'static str,
        read: impl Fn(&Value) -> Option<T>,
    ) -> Vec<(Pattern, T)> {
        let entries = self.value(key, "an object", |v| v.as_object().cloned()).unwrap_or_default();
        let mut patterns = Vec::new();
        let expressions = entries.keys().filter(|pattern| !Pattern::is_plain(pattern)).count();
        if expressions > EXPRESSIONS {
            let (pattern, message) =
                ("(all)".into(), format!("{expressions} expressions, at most {EXPRESSIONS}"));
            self.errors.push(AdapterError::Pattern { key, pattern, message });
            return patterns;
        }
        for (pattern, value) in &entries {
            let Some(value) = read(value) else {
                let (key, found) = (format!("{key}.{}", shorten(pattern)), shorten(&value.to_string()));
                self.errors.push(AdapterError::Value { key, expected, found });
                continue;
            };
            match Pattern::new(pattern) {
                Ok(pattern) => patterns.push((pattern, value)),
                Err(message) => {
                    self.errors.push(AdapterError::Pattern { key, pattern: shorten(pattern), message });
                }
            }
        }
        patterns
    }
}

/// PEFT itself writes plain paths; a compiled expression takes memory, so their number is limited.
const EXPRESSIONS: usize = 1000;
const RANK: &str = "a positive integer";
const NUMBER: &str = "a finite number";

fn rank(value: &Value) -> Option<usize> {
    value.as_u64().and_then(|r| usize::try_from(r).ok()).filter(|r| *r > 0)
}

fn finite(value: &Value) -> Option<f64> {
    value.as_f64().filter(|v| v.is_finite())
}

fn names(value: &Value) -> Option<Vec<String>> {
    value.as_array()?.iter().map(|v| v.as_str().filter(|s| !s.is_empty()).map(str::to_owned)).collect()
}

fn tokens(value: &Value) -> Option<Vec<Tokens>> {
    let indices = |value: &Value| -> Option<Vec<usize>> {
        value.as_array()?.iter().map(|v| v.as_u64().and_then(|i| usize::try_from(i).ok())).collect()
    };
    match value {
        Value::Array(list) if list.is_empty() => Some(Vec::new()),
        Value::Array(_) => Some(vec![Tokens { module: None, indices: indices(value)? }]),
        Value::Object(modules) => modules
            .iter()
            .map(|(module, list)| Some(Tokens { module: Some(module.clone()), indices: indices(list)? }))
            .collect(),
        _ => None,
    }
}

/// The beginning of a text from the file, fit for a message.
fn shorten(text: &str) -> String {
    const LENGTH: usize = 120;
    let mut short: String = text.chars().take(LENGTH).collect();
    if short.len() < text.len() {
        short.push('…');
    }
    short
}
