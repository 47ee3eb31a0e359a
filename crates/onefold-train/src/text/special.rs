//! Which tokens begin, end and pad a text.
//!
//! Names stand in `tokenizer_config.json`, in older directories in `special_tokens_map.json`; a token is a string or
//! an object with the key `content`. The ids that end a generation also stand in `generation_config.json` and
//! `config.json`, as a number or a list; all of them end a text. Where a directory names no padding token of its
//! tokenizer, `pad_token_id` of the configuration is taken. Nothing is guessed: without a padding token `pad` is none.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::TextError;
use crate::json::{read_object_if_there, shown};

const NAMES: [&str; 7] =
    ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];

/// The special tokens of a tokenizer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SpecialTokens {
    /// Tokens by key, for example `bos_token` → `<s>`: what chat templates see.
    pub named: BTreeMap<String, String>,
    /// The id that begins a text.
    pub bos: Option<u32>,
    /// Ids that end a text, the tokenizer's own first, no id twice.
    pub eos: Vec<u32>,
    /// The id that fills short rows of a batch.
    pub pad: Option<u32>,
}

/// One JSON file, if it is there.
struct File {
    path: PathBuf,
    keys: Map<String, Value>,
}

impl File {
    fn open(dir: &Path, name: &str) -> Result<Option<Self>, TextError> {
        let path = dir.join(name);
        Ok(read_object_if_there(&path)?.map(|keys| Self { path, keys }))
    }

    fn wrong(&self, key: &str, expected: &'static str, found: &Value) -> TextError {
        TextError::Key { path: self.path.clone(), key: key.to_owned(), expected, found: shown(found) }
    }

    /// The token under `key`: a string, or an object with `content`.
    fn token(&self, key: &str) -> Result<Option<&str>, TextError> {
        match self.keys.get(key) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(other) => match other.get("content").and_then(Value::as_str) {
                Some(text) => Ok(Some(text)),
                None => Err(self.wrong(key, "a string or an object with `content`", other)),
            },
        }
    }

    /// The ids under `key`: a number or a list of numbers.
    fn ids(&self, key: &str) -> Result<Vec<u32>, TextError> {
        let found = match self.keys.get(key) {
            None | Some(Value::Null) => return Ok(Vec::new()),
            Some(found) => found,
        };
        let one = |value: &Value| value.as_u64().and_then(|id| u32::try_from(id).ok());
        let ids = match found {
            Value::Array(list) => list.iter().map(one).collect(),
            single => one(single).map(|id| vec![id]),
        };
        ids.ok_or_else(|| self.wrong(key, "a token id or a list of token ids", found))
    }
}

impl SpecialTokens {
    /// The special tokens of the model in `dir`; `id` finds a token in its vocabulary.
    pub fn read(dir: &Path, id: impl Fn(&str) -> Option<u32>) -> Result<Self, TextError> {
        let tokens = ["tokenizer_config.json", "special_tokens_map.json"];
        let models = ["generation_config.json", "config.json"];
        let mut special = Self::default();
        let mut ids = BTreeMap::new();
        for file in open_all(dir, &tokens)? {
            special.take_names(&file, &id, &mut ids)?;
        }
        special.bos = ids.get("bos_token").copied();
        special.pad = ids.get("pad_token").copied();
        special.eos.extend(ids.get("eos_token"));
        for file in open_all(dir, &models)? {
            special.take_ids(&file)?;
        }
        Ok(special)
    }

    /// Adds the tokens that `file` names and no earlier file did.
    fn take_names(
        &mut self,
        file: &File,
        id: &impl Fn(&str) -> Option<u32>,
        ids: &mut BTreeMap<&'static str, u32>,
    ) -> Result<(), TextError> {
        for key in NAMES {
            let Some(token) = file.token(key)?.filter(|_| !self.named.contains_key(key)) else { continue };
            let unknown = || TextError::UnknownToken {
                path: file.path.clone(),
                key: key.to_owned(),
                token: token.to_owned(),
            };
            ids.insert(key, id(token).ok_or_else(unknown)?);
            self.named.insert(key.to_owned(), token.to_owned());
        }
        Ok(())
    }

    fn take_ids(&mut self, file: &File) -> Result<(), TextError> {
        for id in file.ids("eos_token_id")? {
            if !self.eos.contains(&id) {
                self.eos.push(id);
            }
        }
        self.bos = self.bos.or(file.ids("bos_token_id")?.first().copied());
        self.pad = self.pad.or(file.ids("pad_token_id")?.first().copied());
        Ok(())
    }
}

fn open_all(dir: &Path, names: &[&str]) -> Result<Vec<File>, TextError> {
    names.iter().filter_map(|name| File::open(dir, name).transpose()).collect()
}
