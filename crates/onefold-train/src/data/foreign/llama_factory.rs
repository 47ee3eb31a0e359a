//! `dataset_info.json` of LLaMA-Factory: an entry of it as a task.
//!
//! Read are entries with `file_name`, of `formatting` alpaca (the default), sharegpt or openai, with their `columns` and
//! `tags`, and `num_samples`. As there, an entry with `columns` uses those alone, and an alpaca entry without a response is
//! text to be learnt as a whole. Refused by name: preferences (`ranking`, `kto_tag`, `chosen`, `rejected`), conversations
//! with images, videos or audio, and data that has to be downloaded first.
//!
//! Deviations: a tag that is not named keeps its default name (there, rows with such a role are dropped); rows that cannot
//! be used are counted against `max_bad_rows` (there, they are dropped with a line in the log); with fewer rows than
//! `num_samples` all are used once (there, some are repeated: that is what sampling is for here).

use std::path::Path;

use serde_json::{Map, Value};

use crate::data::error::DataError;
use crate::data::shape::{Columns, Layout, Meaning, Role, Shape, Tags};
use crate::data::task::TaskSettings;
use crate::json::{read_object, shown};

const KNOWN: [&str; 15] = [
    "file_name",
    "formatting",
    "columns",
    "tags",
    "num_samples",
    "ranking",
    "split",
    "subset",
    "folder",
    "revision",
    "load_from",
    "hf_hub_url",
    "ms_hub_url",
    "om_hub_url",
    "script_url",
];
const COLUMNS: [&str; 14] = [
    "prompt",
    "query",
    "response",
    "history",
    "system",
    "tools",
    "messages",
    "images",
    "videos",
    "audios",
    "chosen",
    "rejected",
    "kto_tag",
    "backtrack_content",
];
const TAGS: [&str; 7] =
    ["role_tag", "content_tag", "user_tag", "assistant_tag", "observation_tag", "function_tag", "system_tag"];

/// The task that the entry `name` of `dir/dataset_info.json` describes.
pub fn llama_factory(dir: &Path, name: &str) -> Result<TaskSettings, DataError> {
    let path = dir.join("dataset_info.json");
    let entries = read_object(&path)?;
    let Some(entry) = entries.get(name) else {
        let names: Vec<_> = entries.keys().map(String::as_str).collect();
        return Err(DataError::file(&path, format!("no dataset {name:?}; there are {}", names.join(", "))));
    };
    let entry = entry.as_object().cloned();
    let entry = entry.ok_or_else(|| DataError::file(&path, format!("key `{name}`: expected an object")))?;
    Entry { path: &path, name, entry }.task(dir)
}

struct Entry<'a> {
    path: &'a Path,
    name: &'a str,
    entry: Map<String, Value>,
}

impl Entry<'_> {
    fn wrong(&self, key: &str, message: &str) -> DataError {
        DataError::file(self.path, format!("key `{}.{key}`: {message}", self.name))
    }

    fn task(&self, dir: &Path) -> Result<TaskSettings, DataError> {
        self.judge()?;
        let Some(file) = self.text(&self.entry, "file_name")? else {
            let message = "missing; data of a hub has to be downloaded first, and named as a file";
            return Err(self.wrong("file_name", message));
        };
        let samples = match self.entry.get("num_samples").filter(|value| !value.is_null()) {
            None => None,
            Some(value) => {
                let count = value.as_u64().filter(|count| *count > 0);
                let count =
                    count.ok_or_else(|| self.wrong("num_samples", "expected a whole number above 0"))?;
                Some(count as usize)
            }
        };
        Ok(TaskSettings {
            name: self.name.to_owned(),
            train: vec![dir.join(file)],
            layout: Some(self.layout()?),
            samples,
            ..TaskSettings::default()
        })
    }

    /// Refuses what is not known or not learnt here.
    fn judge(&self) -> Result<(), DataError> {
        if let Some(key) = self.entry.keys().find(|key| !KNOWN.contains(&key.as_str())) {
            return Err(self.wrong(key, "unknown"));
        }
        for (key, known) in [("columns", &COLUMNS[..]), ("tags", &TAGS)] {
            let keys = self.inner(key)?.into_iter().flat_map(Map::keys);
            if let Some(unknown) = keys.into_iter().find(|key| !known.contains(&key.as_str())) {
                return Err(self.wrong(&format!("{key}.{unknown}"), "unknown"));
            }
        }
        if self.entry.get("ranking").is_some_and(|value| *value != Value::Bool(false)) {
            return Err(self.wrong("ranking", "preferences are not learnt here, only answers"));
        }
        for (key, what) in [
            ("kto_tag", "preferences are not learnt here, only answers"),
            ("chosen", "preferences are not learnt here, only answers"),
            ("rejected", "preferences are not learnt here, only answers"),
            ("images", "conversations with images are not read"),
            ("videos", "conversations with videos are not read"),
            ("audios", "conversations with audio are not read"),
            ("backtrack_content", "not read"),
        ] {
            if self.column(key)?.is_some() {
                return Err(self.wrong(&format!("columns.{key}"), what));
            }
        }
        Ok(())
    }

    fn inner(&self, key: &str) -> Result<Option<&Map<String, Value>>, DataError> {
        match self.entry.get(key) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::Object(map)) => Ok(Some(map)),
            Some(other) => Err(self.wrong(key, &format!("expected an object, found {}", shown(other)))),
        }
    }

    fn text<'b>(&self, map: &'b Map<String, Value>, key: &str) -> Result<Option<&'b str>, DataError> {
        match map.get(key) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(other) => Err(self.wrong(key, &format!("expected text, found {}", shown(other)))),
        }
    }

    fn column(&self, key: &str) -> Result<Option<&str>, DataError> {
        self.inner("columns")?.map_or(Ok(None), |columns| self.text(columns, key))
    }

    fn layout(&self) -> Result<Layout, DataError> {
        match self.text(&self.entry, "formatting")?.unwrap_or("alpaca") {
            "alpaca" => self.alpaca(),
            "sharegpt" => self.share_gpt(Tags::share_gpt(), "conversations"),
            "openai" => self.share_gpt(Tags::messages(), "messages"),
            other => {
                let message = format!("expected alpaca, sharegpt or openai, found {other:?}");
                Err(self.wrong("formatting", &message))
            }
        }
    }

    fn alpaca(&self) -> Result<Layout, DataError> {
        let named = self.inner("columns")?.is_some();
        let column = |key: &str, default: &'static str| -> Result<Option<&str>, DataError> {
            if named { self.column(key) } else { Ok(Some(default)) }
        };
        let (prompt, query) = (column("prompt", "instruction")?, column("query", "input")?);
        let columns = Columns::default();
        match (column("response", "output")?, prompt.or(query)) {
            (Some(response), _) => {
                let columns = columns
                    .with_some(Meaning::Instruction, prompt)
                    .with_some(Meaning::Input, query)
                    .with(Meaning::Output, response)
                    .with_some(Meaning::History, self.column("history")?);
                Ok(Layout::new(Shape::Alpaca, self.beside(columns)?, Tags::messages()))
            }
            (None, Some(text)) => {
                Ok(Layout::new(Shape::Text, columns.with(Meaning::Text, text), Tags::messages()))
            }
            (None, None) => Err(self.wrong("columns", "names neither a prompt nor a response")),
        }
    }

    fn share_gpt(&self, mut tags: Tags, default: &str) -> Result<Layout, DataError> {
        let messages = self.column("messages")?.unwrap_or(default);
        if let Some(map) = self.inner("tags")? {
            let default = [
                ("user_tag", Role::User),
                ("assistant_tag", Role::Assistant),
                ("observation_tag", Role::Tool),
                ("function_tag", Role::Call),
                ("system_tag", Role::System),
            ];
            for (key, role) in default {
                if let Some(name) = self.text(map, key)? {
                    // A name may mean another role by default: what the entry says comes first.
                    tags.roles.insert(0, (name.to_owned(), role));
                }
            }
            tags.role = self.text(map, "role_tag")?.unwrap_or(&tags.role).to_owned();
            tags.content = self.text(map, "content_tag")?.unwrap_or(&tags.content).to_owned();
        }
        let columns = self.beside(Columns::default().with(Meaning::Messages, messages))?;
        Ok(Layout::new(Shape::ShareGpt, columns, tags))
    }

    fn beside(&self, columns: Columns) -> Result<Columns, DataError> {
        Ok(columns
            .with_some(Meaning::System, self.column("system")?)
            .with_some(Meaning::Tools, self.column("tools")?))
    }
}
