//! What a recipe makes of a row: Jinja templates and expressions, as tasks of the Language Model Evaluation Harness have them.

use std::sync::Arc;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Value, ValueKind};
use minijinja::{AutoEscape, Environment, UndefinedBehavior};
use serde_json::{Map, Value as Json};

use crate::data::RowProblem;
use crate::text::chat::object;

/// A text with places for values of a row, or an expression of them.
#[derive(Debug, Clone)]
pub struct Template {
    text: String,
    environment: Arc<Environment<'static>>,
    form: Form,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    /// Text around `{{ … }}` and `{% … %}`.
    Text,
    /// A value: the name of a key, or an expression, with braces around it or without.
    Expression,
}

impl PartialEq for Template {
    fn eq(&self, other: &Self) -> bool {
        (&self.text, self.form) == (&other.text, other.form)
    }
}

/// Name of the only template of an environment.
const NAME: &str = "row";

impl Template {
    /// A template that gives a text. Without any `{{` it is the name of a key.
    ///
    /// # Errors
    /// What is wrong with its syntax.
    pub fn text(text: &str) -> Result<Self, String> {
        let form = if text.contains("{{") || text.contains("{%") { Form::Text } else { Form::Expression };
        Self::new(text, form)
    }

    /// A template that gives a value, where it is nothing but an expression; else a text.
    ///
    /// # Errors
    /// What is wrong with its syntax.
    pub fn value(text: &str) -> Result<Self, String> {
        match expression(text) {
            Some(_) => Self::new(text, Form::Expression),
            None => Self::text(text),
        }
    }

    fn new(text: &str, form: Form) -> Result<Self, String> {
        let mut environment = Environment::new();
        environment.set_undefined_behavior(UndefinedBehavior::Strict);
        let syntax =
            SyntaxConfig::builder().keep_trailing_newline(true).build().map_err(|e| described(&e))?;
        environment.set_syntax(syntax);
        environment.set_auto_escape_callback(|_| AutoEscape::None);
        environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        match form {
            Form::Text => environment.add_template_owned(NAME, text.to_owned()).map_err(|e| described(&e))?,
            Form::Expression => {
                let inner = expression(text).unwrap_or(text);
                // A key of any spelling is looked up as it is.
                if !is_key(inner) {
                    environment.compile_expression(inner).map_err(|e| described(&e))?;
                }
            }
        }
        Ok(Self { text: text.to_owned(), environment: Arc::new(environment), form })
    }

    /// As it was written.
    pub fn source(&self) -> &str {
        &self.text
    }

    /// The text that a row gives.
    ///
    /// # Errors
    /// If the row lacks what it asks for, or gives no text.
    pub fn render(&self, row: &Map<String, Json>) -> Result<String, RowProblem> {
        match self.form {
            Form::Text => {
                let template = self.environment.get_template(NAME).expect("added by `new`");
                template.render(object(row)).map_err(|error| self.wrong(&error))
            }
            Form::Expression => match self.evaluate(row)? {
                Json::String(text) => Ok(text),
                Json::Number(number) => Ok(number.to_string()),
                other => Err(RowProblem::Wrong {
                    key: self.text.clone(),
                    expected: "text",
                    found: other.to_string(),
                }),
            },
        }
    }

    /// The value that a row gives: a text where the template is one.
    ///
    /// # Errors
    /// If the row lacks what it asks for.
    pub fn evaluate(&self, row: &Map<String, Json>) -> Result<Json, RowProblem> {
        if self.form == Form::Text {
            return self.render(row).map(Json::from);
        }
        let inner = expression(&self.text).unwrap_or(&self.text);
        if let Some(value) = row.get(inner) {
            return Ok(value.clone());
        }
        if is_key(inner) {
            let keys: Vec<&str> = row.keys().map(String::as_str).collect();
            return Err(RowProblem::Missing { key: inner.to_owned(), keys: keys.join(", ") });
        }
        let expression = self.environment.compile_expression(inner).map_err(|error| self.wrong(&error))?;
        let value = expression.eval(object(row)).map_err(|error| self.wrong(&error))?;
        if value.is_undefined() {
            let keys: Vec<&str> = row.keys().map(String::as_str).collect();
            return Err(RowProblem::Missing { key: inner.to_owned(), keys: keys.join(", ") });
        }
        Ok(json(&value))
    }

    fn wrong(&self, error: &minijinja::Error) -> RowProblem {
        RowProblem::Template { template: self.text.clone(), message: described(error) }
    }
}

/// A value as JSON; what has no place there becomes text.
fn json(value: &Value) -> Json {
    let integer = || i64::try_from(value.clone()).ok().map(Json::from);
    match value.kind() {
        ValueKind::None | ValueKind::Undefined => Json::Null,
        ValueKind::Bool => Json::from(value.is_true()),
        ValueKind::Number => {
            integer().or_else(|| f64::try_from(value.clone()).ok().map(Json::from)).unwrap_or_default()
        }
        ValueKind::Seq | ValueKind::Iterable => {
            value.try_iter().into_iter().flatten().map(|item| json(&item)).collect()
        }
        ValueKind::Map => {
            let keys = value.try_iter().into_iter().flatten();
            let entry = |key: Value| Some((key.to_string(), json(&value.get_item(&key).ok()?)));
            Json::Object(keys.filter_map(entry).collect())
        }
        _ => Json::from(value.to_string()),
    }
}

/// What stands in a single pair of braces, or a text without any.
fn expression(text: &str) -> Option<&str> {
    let whole = text.trim();
    let inner = match whole.strip_prefix("{{").and_then(|rest| rest.strip_suffix("}}")) {
        Some(inner) => inner.trim(),
        None => whole,
    };
    (!inner.is_empty() && !inner.contains("{{") && !inner.contains("{%") && !inner.contains("}}"))
        .then_some(inner)
}

/// Whether a text can be nothing but the name of a key.
fn is_key(text: &str) -> bool {
    text.chars().all(|c| c.is_alphanumeric() || c == '_' || c == '-' || c == ' ')
}

fn described(error: &minijinja::Error) -> String {
    error.detail().map_or_else(|| error.kind().to_string(), str::to_owned)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn row() -> Map<String, Json> {
        json!({"question": "Why?", "choices": {"text": ["a", "b"]}, "answer": 1, "two words": "x"})
            .as_object()
            .cloned()
            .unwrap()
    }

    #[test]
    fn texts_and_values() {
        for (template, expected) in [
            ("Q: {{question}}\nA:", "Q: Why?\nA:"),
            ("question", "Why?"),
            ("two words", "x"),
            ("{{ question.lower() }}\n", "why?\n"),
            ("{% if answer == 1 %}one{% endif %}", "one"),
            ("answer", "1"),
        ] {
            assert_eq!(Template::text(template).unwrap().render(&row()).unwrap(), expected, "{template}");
        }
        for (template, expected) in [
            ("choices.text", json!(["a", "b"])),
            ("{{choices.text}}", json!(["a", "b"])),
            ("answer", json!(1)),
            ("{{ answer + 1 }}", json!(2)),
            ("{{question}} {{answer}}", json!("Why? 1")),
        ] {
            assert_eq!(Template::value(template).unwrap().evaluate(&row()).unwrap(), expected, "{template}");
        }
    }

    #[test]
    fn mistakes_are_named() {
        assert!(Template::text("{{ question").is_err());
        assert!(Template::value("a +").is_err());
        for template in ["{{ nothing }}!", "nothing", "choices.words", "choices"] {
            let error = Template::text(template).unwrap().render(&row()).unwrap_err().to_string();
            assert!(error.contains(template.trim_matches(['{', '}', ' ', '!'])), "{template}: {error}");
        }
    }
}
