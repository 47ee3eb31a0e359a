//! Chat templates: conversations → the text a model was trained to read.
//!
//! Templates are Jinja programs in the model's directory. They run here as they do in transformers: `trim_blocks` and
//! `lstrip_blocks` on, loop controls, Python's string and dict methods, `raise_exception`, `strftime_now`, a `tojson`
//! that writes as Python does, and `{% generation %}` blocks, whose spans say which text the model is to produce.
//!
//! Deviations, on purpose: the date is given by the caller, so that a run can be repeated; a template that works on the
//! captured text of a generation block, so that its span cannot be told, is an error.

mod generation;
mod python;
mod source;

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use minijinja::syntax::SyntaxConfig;
use minijinja::{AutoEscape, Environment, Value};
use serde_json::{Map, Value as Json};

use super::{SpecialTokens, TextError};
use generation::Marks;
pub use python::Date;
pub(crate) use python::object;

/// A compiled chat template.
#[derive(Debug, Clone)]
pub struct ChatTemplate {
    environment: Arc<Environment<'static>>,
    /// Where it stands, for messages.
    name: String,
    named_tokens: BTreeMap<String, String>,
    marked: bool,
}

/// What a template is rendered with.
#[derive(Debug, Clone, Default)]
pub struct Conversation {
    /// Objects with `role` and `content`, and whatever else the template reads.
    pub messages: Vec<Map<String, Json>>,
    /// JSON schemas of the tools on offer; none is different from an empty list.
    pub tools: Option<Vec<Json>>,
    /// Further variables of the template, for example `enable_thinking`.
    pub variables: Map<String, Json>,
    /// What `strftime_now` tells; without it a template that asks fails.
    pub now: Option<Date>,
}

/// A rendered conversation.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rendered {
    /// The text. It holds its special tokens: tokenise it without adding any.
    pub text: String,
    /// Byte ranges of what the model is to produce, from the template's generation blocks.
    pub generated: Vec<Range<usize>>,
}

impl ChatTemplate {
    /// The template of the model in `dir`: `chosen` if it is named, else `tool_use` if there are tools and such a
    /// template, else `default`.
    pub fn open(
        dir: &Path,
        chosen: Option<&str>,
        tools: bool,
        special: &SpecialTokens,
    ) -> Result<Self, TextError> {
        let found = source::find(dir, chosen, tools)?;
        Self::new(found.name, &found.text, special)
    }

    /// A template from its text; `name` is for messages.
    pub fn new(name: String, text: &str, special: &SpecialTokens) -> Result<Self, TextError> {
        let syntax = |error: minijinja::Error| TextError::TemplateSyntax {
            template: name.clone(),
            message: described(&error),
        };
        let rewritten = generation::rewrite(text);
        let mut environment = environment().map_err(syntax)?;
        environment.add_template_owned("chat", rewritten.text).map_err(syntax)?;
        let environment = Arc::new(environment);
        Ok(Self { environment, name, named_tokens: special.named.clone(), marked: rewritten.marked })
    }

    /// Where it stands: a file, and a name if the file has several.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether the template says what the model is to produce.
    pub fn has_generation_blocks(&self) -> bool {
        self.marked
    }

    /// The text of `conversation`; with `prompt` up to where the model would begin to answer.
    pub fn render(&self, conversation: &Conversation, prompt: bool) -> Result<Rendered, TextError> {
        self.render_first(conversation, conversation.messages.len(), prompt)
    }

    /// The text of the first `count` messages.
    pub(crate) fn render_first(
        &self,
        conversation: &Conversation,
        count: usize,
        prompt: bool,
    ) -> Result<Rendered, TextError> {
        let messages = &conversation.messages[..count.min(conversation.messages.len())];
        let text = self.text(conversation, messages, prompt, &Marks::default())?;
        if !self.marked {
            return Ok(Rendered { text, generated: Vec::new() });
        }
        let marks = Marks::absent_from(conversation);
        let marked = marks.taken_out(&self.text(conversation, messages, prompt, &marks)?);
        if marked.text == text { Ok(marked) } else { Err(TextError::Marks { template: self.name.clone() }) }
    }

    fn text(
        &self,
        conversation: &Conversation,
        messages: &[Map<String, Json>],
        prompt: bool,
        marks: &Marks,
    ) -> Result<String, TextError> {
        let variables = self.variables(conversation, messages, prompt, marks);
        let template = self.environment.get_template("chat").expect("added by `new`");
        let failed = |error| TextError::Render {
            template: self.name.clone(),
            roles: roles(messages),
            message: described(&error),
        };
        template.render(Value::from(variables)).map_err(failed)
    }

    fn variables(
        &self,
        conversation: &Conversation,
        messages: &[Map<String, Json>],
        prompt: bool,
        marks: &Marks,
    ) -> BTreeMap<String, Value> {
        let mut variables: BTreeMap<_, _> =
            self.named_tokens.iter().map(|(key, token)| (key.clone(), Value::from(token.as_str()))).collect();
        for (key, value) in &conversation.variables {
            variables.insert(key.clone(), python::value(value));
        }
        let messages: Vec<_> = messages.iter().map(|m| python::object(&with_reasoning(m))).collect();
        let tools = conversation.tools.as_ref();
        let tools = tools.map_or(Value::from(()), |tools| tools.iter().map(python::value).collect());
        variables.insert("messages".to_owned(), Value::from(messages));
        variables.insert("tools".to_owned(), tools);
        variables.insert("documents".to_owned(), Value::from(()));
        variables.insert("add_generation_prompt".to_owned(), Value::from(prompt));
        variables.insert("strftime_now".to_owned(), python::strftime_now(conversation.now));
        variables.insert(generation::FUNCTION.to_owned(), marks.function());
        variables
    }
}

/// The environment that transformers gives to chat templates.
fn environment() -> Result<Environment<'static>, minijinja::Error> {
    let mut environment = Environment::new();
    environment.set_syntax(SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build()?);
    environment.set_auto_escape_callback(|_| AutoEscape::None);
    environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
    environment.add_filter("tojson", python::tojson);
    environment.add_function("raise_exception", python::raise_exception);
    Ok(environment)
}

/// Templates read a message's reasoning under different names; as in transformers, each finds it under its own.
fn with_reasoning(message: &Map<String, Json>) -> Map<String, Json> {
    let mut message = message.clone();
    let found = ["reasoning_content", "thinking", "reasoning"]
        .into_iter()
        .find_map(|key| message.get(key).filter(|value| !value.is_null()).cloned());
    if let Some(reasoning) = found {
        message.entry("thinking").or_insert_with(|| reasoning.clone());
        message.insert("reasoning_content".to_owned(), reasoning);
    }
    message
}

fn roles(messages: &[Map<String, Json>]) -> String {
    let role = |message: &Map<String, Json>| {
        message.get("role").and_then(Json::as_str).unwrap_or("(no role)").to_owned()
    };
    format!("[{}]", messages.iter().map(role).collect::<Vec<_>>().join(", "))
}

/// The message of a template's error with the line, without the library's debugging output.
fn described(error: &minijinja::Error) -> String {
    let what = error.detail().map_or_else(|| error.kind().to_string(), str::to_owned);
    match error.line() {
        Some(line) => format!("{what} (line {line})"),
        None => what,
    }
}

#[cfg(test)]
mod tests;
