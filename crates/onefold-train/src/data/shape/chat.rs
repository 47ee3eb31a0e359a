//! Conversations of all shapes as messages of Hugging Face's form.

use serde_json::{Map, Value, json};

use super::columns::{Meaning, Role, Tags};
use super::fields::{self, wrong};
use super::{Chat, Example, Layout, Shape};
use crate::data::error::RowProblem;
use crate::data::source::Row;

type Message = Map<String, Value>;

/// `messages`, `chat_rounds` and ShareGPT's `conversations`.
pub(super) fn messages(row: &Row, layout: &Layout) -> Result<Example, RowProblem> {
    let key = fields::key(layout, Meaning::Messages)?;
    let mut messages = list(fields::required(row, key)?, key, &layout.tags)?;
    let spoken = messages.first().is_some_and(|first| role(first) == "system");
    if let Some(system) = fields::optional_text(row, layout, Meaning::System)?.filter(|_| !spoken) {
        messages.insert(0, message("system", system));
    }
    chat(row, layout, messages, 0)
}

/// Texts, or lists of messages; of the latter only the completion is learnt.
pub(super) fn prompt_completion(row: &Row, layout: &Layout) -> Result<Example, RowProblem> {
    let (prompt, completion) =
        (fields::key(layout, Meaning::Prompt)?, fields::key(layout, Meaning::Completion)?);
    match (fields::required(row, prompt)?, fields::required(row, completion)?) {
        (Value::String(prompt), Value::String(completion)) => {
            Ok(Example::Completion { prompt: prompt.clone(), completion: completion.clone() })
        }
        (given @ Value::Array(_), learnt @ Value::Array(_)) => {
            let mut messages = list(given, prompt, &layout.tags)?;
            let learnt_from = messages.len();
            messages.extend(list(learnt, completion, &layout.tags)?);
            chat(row, layout, messages, learnt_from)
        }
        (Value::String(_) | Value::Array(_), other) => {
            Err(wrong(completion, "text, or messages, as the prompt", other))
        }
        (other, _) => Err(wrong(prompt, "text, or a list of messages", other)),
    }
}

/// `instruction` and, after a line break, `input`; `history` before.
pub(super) fn alpaca(row: &Row, layout: &Layout) -> Result<Example, RowProblem> {
    let mut messages = system(row, layout)?;
    if let Some(key) = layout.columns.get(Meaning::History) {
        messages.extend(history(row, key)?);
    }
    let instruction = fields::optional_text(row, layout, Meaning::Instruction)?;
    let input = fields::optional_text(row, layout, Meaning::Input)?;
    let question: Vec<_> = instruction.into_iter().chain(input).collect();
    messages.push(message("user", &question.join("\n")));
    messages.push(message("assistant", fields::text(row, fields::key(layout, Meaning::Output)?)?));
    chat(row, layout, messages, 0)
}

/// A question and its answer.
pub(super) fn pair(row: &Row, layout: &Layout) -> Result<Example, RowProblem> {
    let mut messages = system(row, layout)?;
    messages.push(message("user", fields::text(row, fields::key(layout, Meaning::Instruction)?)?));
    messages.push(message("assistant", fields::text(row, fields::key(layout, Meaning::Output)?)?));
    chat(row, layout, messages, 0)
}

fn system(row: &Row, layout: &Layout) -> Result<Vec<Message>, RowProblem> {
    let said = fields::optional_text(row, layout, Meaning::System)?;
    Ok(said.map(|text| message("system", text)).into_iter().collect())
}

fn history(row: &Row, key: &str) -> Result<Vec<Message>, RowProblem> {
    let Some(value) = fields::optional(row, key) else { return Ok(Vec::new()) };
    let expected = "a list of [question, answer]";
    let mut messages = Vec::new();
    for pair in value.as_array().ok_or_else(|| wrong(key, expected, value))? {
        let texts = pair.as_array().map(|pair| pair.iter().map(Value::as_str).collect::<Vec<_>>());
        let Some([Some(question), Some(answer)]) = texts.as_deref() else {
            return Err(wrong(key, expected, pair));
        };
        messages.extend([message("user", question), message("assistant", answer)]);
    }
    Ok(messages)
}

fn chat(
    row: &Row,
    layout: &Layout,
    messages: Vec<Message>,
    learnt_from: usize,
) -> Result<Example, RowProblem> {
    let share_gpt = layout.shape == Shape::ShareGpt;
    let tools =
        layout.columns.get(Meaning::Tools).map(|key| tools(row, key, share_gpt)).transpose()?.flatten();
    Ok(Example::Chat(Chat { messages, tools, learnt_from }))
}

/// Schemas of tools: a list, or a string that spells one.
fn tools(row: &Row, key: &str, share_gpt: bool) -> Result<Option<Vec<Value>>, RowProblem> {
    let Some(value) = fields::optional(row, key) else { return Ok(None) };
    let spelled = match value {
        Value::String(text) if text.trim().is_empty() => return Ok(None),
        Value::String(text) => serde_json::from_str(text).ok(),
        other => Some(other.clone()),
    };
    match spelled {
        Some(Value::Array(list)) if list.is_empty() => Ok(None),
        Some(Value::Array(list)) if share_gpt => Ok(Some(list.into_iter().map(wrapped).collect())),
        Some(Value::Array(list)) => Ok(Some(list)),
        _ => Err(wrong(key, "a list of tools, or a string that spells one in JSON", value)),
    }
}

/// A tool as chat templates expect it: ShareGPT's stand without what says that they are functions.
fn wrapped(tool: Value) -> Value {
    match tool.get("function") {
        None if tool.get("name").is_some() => json!({"type": "function", "function": tool}),
        _ => tool,
    }
}

fn message(role: &str, content: &str) -> Message {
    Map::from_iter([("role".to_owned(), role.into()), ("content".to_owned(), content.into())])
}

fn list(value: &Value, key: &str, tags: &Tags) -> Result<Vec<Message>, RowProblem> {
    let Some(list) = value.as_array().filter(|list| !list.is_empty()) else {
        return Err(wrong(key, "a list of messages", value));
    };
    list.iter().enumerate().map(|(i, value)| one(value, &format!("{key}[{i}]"), tags)).collect()
}

/// A message in Hugging Face's form; keys beside role and content are kept, as templates may read them.
fn one(value: &Value, at: &str, tags: &Tags) -> Result<Message, RowProblem> {
    let given = value.as_object().ok_or_else(|| wrong(at, "an object", value))?;
    let get = |key: &str| given.get(key).filter(|value| !value.is_null());
    let missing = |key: &str| RowProblem::Missing {
        key: format!("{at}.{key}"),
        keys: given.keys().cloned().collect::<Vec<_>>().join(", "),
    };
    let name = get(&tags.role).ok_or_else(|| missing(&tags.role))?;
    let name = name.as_str().ok_or_else(|| wrong(format!("{at}.{}", tags.role), "text", name))?;
    let role = role_of(name, &format!("{at}.{}", tags.role), tags)?;
    let unlearnt = |key: &&&str| match get(key) {
        Some(Value::Bool(learnt)) => !learnt,
        Some(weight) => weight.as_f64() == Some(0.0),
        None => false,
    };
    // OpenAI's and others' marks of answers.
    if role == Role::Assistant
        && let Some(key) = ["weight", "train"].iter().find(unlearnt)
    {
        return Err(RowProblem::NotToBeLearnt { key: format!("{at}.{key}") });
    }
    let content = match get(&tags.content) {
        Some(content) => said(content, &format!("{at}.{}", tags.content))?,
        None if get("tool_calls").is_some() => Value::from(""),
        None => return Err(missing(&tags.content)),
    };
    let mut made = match role {
        Role::Call => call(&content, &format!("{at}.{}", tags.content))?,
        other => {
            Map::from_iter([("role".to_owned(), plain(other, name).into()), ("content".to_owned(), content)])
        }
    };
    // Null is what tables write where a message has no such key.
    let rest =
        given.iter().filter(|(key, value)| **key != tags.role && **key != tags.content && !value.is_null());
    made.extend(rest.map(|(key, value)| (key.clone(), value.clone())));
    Ok(made)
}

fn role_of(name: &str, key: &str, tags: &Tags) -> Result<Role, RowProblem> {
    let found = tags.roles.iter().find(|(known, _)| known == name);
    found.map(|(_, role)| *role).ok_or_else(|| RowProblem::UnknownRole {
        key: key.to_owned(),
        role: name.to_owned(),
        known: tags.known(),
    })
}

/// The name of a role; those that templates of some families ask for by another name keep it.
fn plain(role: Role, name: &str) -> &str {
    match (role, name) {
        (_, "developer" | "ipython" | "function") => name,
        (Role::System, _) => "system",
        (Role::User, _) => "user",
        (Role::Assistant | Role::Call, _) => "assistant",
        (Role::Tool, _) => "tool",
    }
}

/// What is said: a text, or parts of text.
fn said(content: &Value, key: &str) -> Result<Value, RowProblem> {
    let parts = match content {
        Value::String(_) => return Ok(content.clone()),
        Value::Array(parts) => parts,
        _ => return Err(wrong(key, "text, or a list of {type: text, text}", content)),
    };
    let texts = parts.iter().map(|part| {
        let text = part.get("text").and_then(Value::as_str);
        text.filter(|_| part.get("type").is_none_or(|kind| kind == "text"))
            .ok_or_else(|| wrong(key, "parts of text; images in conversations are not read", part))
    });
    Ok(Value::from(texts.collect::<Result<String, _>>()?))
}

/// A function call that stands as JSON where the text would.
fn call(content: &Value, key: &str) -> Result<Message, RowProblem> {
    let expected = "JSON of {name, arguments}, or a list of such";
    let spelled: Value = serde_json::from_str(content.as_str().unwrap_or_default())
        .map_err(|_| wrong(key, expected, content))?;
    let calls = match spelled {
        Value::Array(calls) => calls,
        one => vec![one],
    };
    if calls.is_empty()
        || !calls.iter().all(|call| call["name"].is_string() && call.get("arguments").is_some())
    {
        return Err(wrong(key, expected, content));
    }
    let calls: Vec<_> = calls.into_iter().map(|call| json!({"type": "function", "function": call})).collect();
    let mut made = message("assistant", "");
    made.insert("tool_calls".to_owned(), calls.into());
    Ok(made)
}

fn role(message: &Message) -> &str {
    message.get("role").and_then(Value::as_str).unwrap_or_default()
}

/// The first message of a conversation that cannot follow the one before: a system message after others; a question after
/// a question; an answer that follows neither a question nor what a tool gave; what a tool gave to nobody.
pub fn turns(chat: &Chat) -> Result<(), RowProblem> {
    let mut before = "the beginning";
    for (at, message) in chat.messages.iter().enumerate() {
        let role = role(message);
        let follows = match role {
            "system" | "developer" => before == "the beginning",
            "user" => matches!(before, "the beginning" | "system" | "developer" | "assistant"),
            "assistant" => !matches!(before, "assistant" | "the beginning" | "system" | "developer"),
            _ => !matches!(before, "the beginning" | "system" | "developer" | "user"),
        };
        if !follows {
            return Err(RowProblem::Turns { at, role: role.to_owned(), before: before.to_owned() });
        }
        before = role;
    }
    Ok(())
}
