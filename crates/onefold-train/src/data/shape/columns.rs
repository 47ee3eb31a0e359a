//! Which keys of a row mean what, and which names speakers have.

use std::fmt;

use serde::Serialize;

use crate::data::error::DataError;

/// What a key can mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Meaning {
    /// A list of messages.
    Messages,
    /// Schemas of tools: a list, or JSON in a string.
    Tools,
    /// What is given.
    Prompt,
    /// What is learnt.
    Completion,
    /// A question, or what is to be done.
    Instruction,
    /// To what it is to be done.
    Input,
    /// The answer.
    Output,
    /// Pairs of earlier questions and answers.
    History,
    /// What the system says.
    System,
    /// A text; a row may have two.
    Text,
    /// The class.
    Label,
    /// An image: its path, or its bytes.
    Image,
}

/// Every meaning, under the name that recipes give it.
const MEANINGS: [(&str, Meaning); 12] = [
    ("messages", Meaning::Messages),
    ("tools", Meaning::Tools),
    ("prompt", Meaning::Prompt),
    ("completion", Meaning::Completion),
    ("instruction", Meaning::Instruction),
    ("input", Meaning::Input),
    ("output", Meaning::Output),
    ("history", Meaning::History),
    ("system", Meaning::System),
    ("text", Meaning::Text),
    ("label", Meaning::Label),
    ("image", Meaning::Image),
];

impl Meaning {
    /// Its name in recipes.
    pub fn name(self) -> &'static str {
        MEANINGS.iter().find(|(_, meaning)| *meaning == self).map_or("", |(name, _)| name)
    }
}

/// The keys of a row by what they mean.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Columns(Vec<(Meaning, String)>);

impl Columns {
    /// What a recipe says: every meaning once, `text` up to twice.
    pub fn parse<'a>(pairs: impl IntoIterator<Item = (&'a str, &'a str)>) -> Result<Self, DataError> {
        let mut columns = Self::default();
        for (name, key) in pairs {
            let Some((_, meaning)) = MEANINGS.iter().find(|(known, _)| *known == name) else {
                let known: Vec<_> = MEANINGS.iter().map(|(name, _)| *name).collect();
                let message = format!("unknown; known are {}", known.join(", "));
                return Err(DataError::setting(format!("columns.{name}"), message));
            };
            let most = if *meaning == Meaning::Text { 2 } else { 1 };
            if columns.all(*meaning).count() == most {
                return Err(DataError::setting(format!("columns.{name}"), format!("at most {most} key(s)")));
            }
            columns = columns.with(*meaning, key);
        }
        Ok(columns)
    }

    /// With one more key.
    #[must_use]
    pub fn with(mut self, meaning: Meaning, key: &str) -> Self {
        self.0.push((meaning, key.to_owned()));
        self
    }

    /// With one more key if there is one.
    #[must_use]
    pub fn with_some(self, meaning: Meaning, key: Option<&str>) -> Self {
        match key {
            Some(key) => self.with(meaning, key),
            None => self,
        }
    }

    /// The key with this meaning; the first of two.
    pub fn get(&self, meaning: Meaning) -> Option<&str> {
        self.all(meaning).next()
    }

    /// All keys with this meaning.
    pub fn all(&self, meaning: Meaning) -> impl Iterator<Item = &str> {
        self.0.iter().filter(move |(found, _)| *found == meaning).map(|(_, key)| key.as_str())
    }

    /// Whether nothing is mapped.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether `key` has a meaning.
    pub fn uses(&self, key: &str) -> bool {
        self.0.iter().any(|(_, used)| used == key)
    }
}

impl fmt::Display for Columns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, (meaning, key)) in self.0.iter().enumerate() {
            let comma = if i == 0 { "" } else { ", " };
            if meaning.name() == key {
                write!(f, "{comma}{key}")?;
            } else {
                write!(f, "{comma}{}: {key}", meaning.name())?;
            }
        }
        Ok(())
    }
}

/// Keys inside of messages, and which names the speakers have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tags {
    /// The key of who speaks.
    pub role: String,
    /// The key of what is said.
    pub content: String,
    /// Names of speakers, and the roles they are.
    pub roles: Vec<(String, Role)>,
}

/// Who speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Instructions before everything.
    System,
    /// Who asks.
    User,
    /// The model.
    Assistant,
    /// The model, calling a function: the content is JSON of `name` and `arguments`.
    Call,
    /// What a tool gave.
    Tool,
}

impl Tags {
    /// Messages as Hugging Face has them, under the names that other tools give to the same roles.
    pub fn messages() -> Self {
        Self::new(
            "role",
            "content",
            &[
                ("system", Role::System),
                ("developer", Role::System),
                ("user", Role::User),
                ("human", Role::User),
                ("assistant", Role::Assistant),
                ("bot", Role::Assistant),
                ("gpt", Role::Assistant),
                ("tool", Role::Tool),
                ("ipython", Role::Tool),
                ("function", Role::Tool),
            ],
        )
    }

    /// Conversations as ShareGPT has them.
    pub fn share_gpt() -> Self {
        Self::new(
            "from",
            "value",
            &[
                ("system", Role::System),
                ("human", Role::User),
                ("user", Role::User),
                ("gpt", Role::Assistant),
                ("chatgpt", Role::Assistant),
                ("bard", Role::Assistant),
                ("bing", Role::Assistant),
                ("assistant", Role::Assistant),
                ("function_call", Role::Call),
                ("observation", Role::Tool),
                ("tool", Role::Tool),
            ],
        )
    }

    /// Tags by name.
    pub fn new(role: &str, content: &str, roles: &[(&str, Role)]) -> Self {
        let roles = roles.iter().map(|(name, role)| ((*name).to_owned(), *role)).collect();
        Self { role: role.to_owned(), content: content.to_owned(), roles }
    }

    /// All names, for messages.
    pub fn known(&self) -> String {
        self.roles.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>().join(", ")
    }
}
