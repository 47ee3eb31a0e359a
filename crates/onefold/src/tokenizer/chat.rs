//! The output's chat template: the models' most common one, a built-in one, or one given as text.
//!
//! It is chosen and checked before the merge starts. The built-in templates are written from the public
//! descriptions of their formats.

use std::path::{Path, PathBuf};

use minijinja::Environment;
use serde_json::Value;

use super::error::TokenizerError;
use super::files::{FileContent, OutputFile, TEMPLATES};
use super::load::{read_bytes, read_json, read_text};
use super::splice::{Object, Splice};

const FILE: &str = "chat_template.jinja";
const CONFIG: &str = "tokenizer_config.json";

/// The built-in templates: name and Jinja text.
pub const BUILT_IN: [(&str, &str); 5] = [
    ("alpaca", include_str!("templates/alpaca.jinja")),
    ("chatml", include_str!("templates/chatml.jinja")),
    ("exaone", include_str!("templates/exaone.jinja")),
    ("llama3", include_str!("templates/llama3.jinja")),
    ("mistral", include_str!("templates/mistral.jinja")),
];

/// A chosen chat template.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChatTemplate {
    /// The Jinja text.
    pub text: String,
    /// Where it comes from, for the report.
    pub origin: String,
}

/// Chooses a template: `auto` (the most common one among `models`' directories, ties to the first model), the
/// name of a built-in one, or Jinja text of at least 20 characters with a `{`.
pub fn chat_template(kind: &str, models: &[PathBuf]) -> Result<ChatTemplate, TokenizerError> {
    if kind == "auto" {
        return most_common(models);
    }
    if let Some((name, text)) = BUILT_IN.iter().find(|(name, _)| *name == kind) {
        return Ok(ChatTemplate { text: (*text).to_owned(), origin: format!("built-in {name}") });
    }
    if kind.chars().count() < 20 || !kind.contains('{') {
        let known = BUILT_IN.map(|(name, _)| name);
        let near = known.iter().chain(&["auto"]).map(|name| (strsim::jaro_winkler(name, kind), *name));
        let best = near.max_by(|left, right| left.0.total_cmp(&right.0)).filter(|(score, _)| *score > 0.8);
        return Err(TokenizerError::UnknownTemplate {
            text: kind.chars().take(80).collect(),
            known: known.to_vec(),
            similar: best.map(|(_, name)| name.to_owned()),
        });
    }
    check_syntax(kind)?;
    Ok(ChatTemplate { text: kind.to_owned(), origin: "the recipe".to_owned() })
}

/// The most common template. Templates that differ only in white space around them are one.
fn most_common(models: &[PathBuf]) -> Result<ChatTemplate, TokenizerError> {
    let (mut found, mut problems) = (Vec::new(), Vec::new());
    for dir in models {
        match of_model(dir) {
            Ok(text) => found.extend(text.filter(|text| !text.trim().is_empty())),
            Err(problem) => problems.push(problem),
        }
    }
    TokenizerError::all(problems)?;
    let count = |text: &str| found.iter().filter(|other| other.trim() == text.trim()).count();
    // `max_by_key` takes the last of equals, so the search runs backwards.
    let Some(text) = found.iter().rev().max_by_key(|text| count(text)) else {
        return Err(TokenizerError::NoTemplate { models: models.len() });
    };
    let origin = format!("{} of {} models", count(text), models.len());
    Ok(ChatTemplate { text: text.clone(), origin })
}

/// A model's default template: `chat_template.jinja`, else the key of `tokenizer_config.json`.
fn of_model(dir: &Path) -> Result<Option<String>, TokenizerError> {
    if dir.join(FILE).is_file() {
        return read_text(&dir.join(FILE)).map(Some);
    }
    let config = dir.join(CONFIG);
    if !config.is_file() {
        return Ok(None);
    }
    let config: Value = read_json(&config, CONFIG)?;
    let named = |entry: &Value| entry["name"] == "default";
    Ok(match &config["chat_template"] {
        Value::String(text) => Some(text.clone()),
        Value::Array(list) => list
            .iter()
            .find(|entry| named(entry))
            .and_then(|entry| entry["template"].as_str())
            .map(str::to_owned),
        _ => None,
    })
}

/// Parses the template. `generation` blocks, which transformers adds to Jinja, are set aside.
fn check_syntax(text: &str) -> Result<(), TokenizerError> {
    let plain = without_generation(text);
    let environment = Environment::new();
    environment.template_from_str(&plain).map(drop).map_err(|error| {
        let line = error.line().map_or_else(String::new, |line| format!("line {line}: "));
        let detail = error.detail().map_or_else(|| error.kind().to_string(), str::to_owned);
        TokenizerError::TemplateSyntax { reason: format!("{line}{detail}") }
    })
}

/// The template without `{% generation %}` and `{% endgeneration %}`; line numbers stay.
fn without_generation(text: &str) -> String {
    let mut result = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(start) = rest.find("{%") {
        let Some(length) = rest[start..].find("%}").map(|end| end + 2) else { break };
        let tag = &rest[start..start + length];
        let name = tag[2..length - 2].trim_matches(['-', '+']).trim();
        result.push_str(&rest[..start]);
        if !matches!(name, "generation" | "endgeneration") {
            result.push_str(tag);
        }
        rest = &rest[start + length..];
    }
    result.push_str(rest);
    result
}

impl ChatTemplate {
    /// Makes this the template of the output whose files are `files`: writes `chat_template.jinja`, brings the
    /// key of `tokenizer_config.json` in line if there is one (older readers look there), and takes out templates
    /// under other names, which would answer in the replaced format.
    pub fn apply(&self, files: &mut Vec<OutputFile>) -> Result<(), TokenizerError> {
        let others = format!("{TEMPLATES}/");
        let stale = |name: &str| name == FILE || name == "chat_template.json" || name.starts_with(&others);
        files.retain(|file| !stale(&file.name));
        if let Some(config) = files.iter_mut().find(|file| file.name == CONFIG) {
            self.edit_config(config)?;
        }
        files.push(OutputFile::new(FILE, self.text.clone()));
        files.sort_by(|left, right| left.name.cmp(&right.name));
        Ok(())
    }

    fn edit_config(&self, config: &mut OutputFile) -> Result<(), TokenizerError> {
        let (bytes, path) = match &config.content {
            FileContent::Copied(path) => (read_bytes(path)?, path.clone()),
            FileContent::New(bytes) => (bytes.clone(), PathBuf::from(CONFIG)),
        };
        let malformed =
            |reason: String| TokenizerError::Malformed { path: path.clone(), what: CONFIG, reason };
        let text = String::from_utf8(bytes).map_err(|error| malformed(error.to_string()))?;
        let keys: Object<'_> = serde_json::from_str(&text).map_err(|error| malformed(error.to_string()))?;
        if let Some(key) = keys.get("chat_template") {
            let mut splice = Splice::new(&text);
            splice.replace(key, Value::from(&*self.text).to_string());
            *config = OutputFile::new(CONFIG, splice.apply());
        }
        Ok(())
    }
}
