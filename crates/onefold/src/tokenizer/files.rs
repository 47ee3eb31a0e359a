//! Which files beside the weights go with the output's tokenizer.

use std::path::{Path, PathBuf};

use super::edit;
use super::error::TokenizerError;
use super::load::read_text;
use super::plan::Output;
use super::report::TokenReport;
use super::vocabulary::Vocabulary;

/// The file of the tokenizers library.
pub(super) const FAST: &str = "tokenizer.json";
/// Vocabularies in other forms. They cannot describe a changed vocabulary.
pub(super) const SLOW: [&str; 8] = [
    "tokenizer.model",
    "spiece.model",
    "sentencepiece.bpe.model",
    "tiktoken.model",
    "tekken.json",
    "vocab.json",
    "merges.txt",
    "vocab.txt",
];
/// What is told of its tokens beside it; a changed vocabulary changes these.
const TOKENS: [&str; 2] = ["tokenizer_config.json", "added_tokens.json"];
/// Other files of a tokenizer, which hold whatever the vocabulary.
const UNCHANGED: [&str; 3] = ["special_tokens_map.json", "chat_template.jinja", "chat_template.json"];
/// Files about the use of a model that name tokens, or what stands for them.
const USE: [&str; 4] = [
    "generation_config.json",
    "preprocessor_config.json",
    "processor_config.json",
    "video_preprocessor_config.json",
];
/// Directory of templates beside the default one.
pub(super) const TEMPLATES: &str = "additional_chat_templates";

/// A file of the output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutputFile {
    /// Its path in the output's directory, with `/` between parts.
    pub name: String,
    /// What it holds.
    pub content: FileContent,
}

/// What an output file holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FileContent {
    /// The bytes of this file.
    Copied(PathBuf),
    /// These bytes.
    New(Vec<u8>),
}

impl OutputFile {
    pub(super) fn copied(dir: &Path, name: &str) -> Self {
        Self { name: name.to_owned(), content: FileContent::Copied(dir.join(name)) }
    }

    pub(super) fn new(name: &str, text: String) -> Self {
        Self { name: name.to_owned(), content: FileContent::New(text.into_bytes()) }
    }
}

/// Whether a file of a model's directory belongs to its tokenizer, so that another tokenizer comes without it.
pub fn is_tokenizer_file(name: &str) -> bool {
    let in_templates = name.strip_prefix(TEMPLATES).is_some_and(|rest| rest.starts_with('/'));
    in_templates || name == FAST || TOKENS.iter().chain(&SLOW).chain(&UNCHANGED).any(|known| *known == name)
}

/// All tokenizer files of `dir` unchanged, in order of their names.
pub(super) fn copies(dir: &Path) -> Result<Vec<OutputFile>, TokenizerError> {
    let names = std::iter::once(&FAST).chain(&TOKENS).chain(&SLOW).chain(&UNCHANGED).chain(&USE);
    let here = names.filter(|name| dir.join(name).is_file());
    let mut files: Vec<OutputFile> = here.map(|name| OutputFile::copied(dir, name)).collect();
    for name in templates(dir)? {
        files.push(OutputFile::copied(dir, &name));
    }
    files.sort_by(|left, right| left.name.cmp(&right.name));
    Ok(files)
}

/// The named chat templates of `dir`.
fn templates(dir: &Path) -> Result<Vec<String>, TokenizerError> {
    let folder = dir.join(TEMPLATES);
    if !folder.is_dir() {
        return Ok(Vec::new());
    }
    let failed = |source| TokenizerError::Read { path: folder.clone(), source };
    let mut names = Vec::new();
    for entry in std::fs::read_dir(&folder).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        let name = path.file_name().and_then(|name| name.to_str());
        if let Some(name) = name.filter(|name| name.ends_with(".jinja") && path.is_file()) {
            names.push(format!("{TEMPLATES}/{name}"));
        }
    }
    Ok(names)
}

/// The files of an output whose vocabulary is not its donor's.
pub(super) fn changed(
    dir: &Path,
    text: &str,
    donor: &Vocabulary<'_>,
    output: &Output,
    report: &mut TokenReport,
) -> Result<Vec<OutputFile>, TokenizerError> {
    let mut files = Vec::new();
    for file in copies(dir)? {
        let path = dir.join(&file.name);
        let edited = match &*file.name {
            name if SLOW.contains(&name) => {
                report.left_out.push(file.name);
                continue;
            }
            FAST => Some(edit::tokenizer_json(&path, text, donor, output)?),
            "tokenizer_config.json" => {
                let config = read_text(&path)?;
                report.dangling.extend(edit::dangling(&path, &config, output)?);
                edit::tokenizer_config(&path, &config, output)?
            }
            "added_tokens.json" => Some(edit::added_tokens(&path, &read_text(&path)?, output)?),
            _ => None,
        };
        files.push(match edited {
            Some(text) => {
                report.edited.push(file.name.clone());
                OutputFile::new(&file.name, text)
            }
            None => file,
        });
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What one list copies for a tokenizer and what another leaves out for it must not drift apart.
    #[test]
    fn what_is_copied_for_a_tokenizer_goes_with_it() {
        let dir = tempfile::tempdir().unwrap();
        let names =
            ["tokenizer.json", "vocab.txt", "tekken.json", "added_tokens.json", "chat_template.jinja"];
        let templates = dir.path().join(TEMPLATES);
        std::fs::create_dir(&templates).unwrap();
        for path in names.map(|name| dir.path().join(name)).into_iter().chain([templates.join("x.jinja")]) {
            std::fs::OpenOptions::new().write(true).create_new(true).open(path).unwrap();
        }
        let found: Vec<String> = copies(dir.path()).unwrap().into_iter().map(|file| file.name).collect();
        assert_eq!(found.len(), 6, "{found:?}");
        assert!(found.iter().all(|name| is_tokenizer_file(name)), "{found:?}");
        for other in ["generation_config.json", "config.json", "additional_chat_templates.json"] {
            assert!(!is_tokenizer_file(other), "{other}");
        }
    }
}
