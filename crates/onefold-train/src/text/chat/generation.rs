//! `{% generation %}` … `{% endgeneration %}`: which part of a rendered conversation the model is to produce.
//!
//! The template engine has no tags of others, so the pair is rewritten, before compilation, into a call block of the
//! same scope and whitespace rules: `{% call __generation__() %}` … `{% endcall %}`. The function surrounds what the block
//! writes with two marks that occur nowhere in the conversation; they are taken out of the finished text, and where
//! they were is a span. Marks could change what a template does with a captured block (its length, trimming), so the
//! text is that of a run without them, and the run with them has to agree.

use std::ops::Range;

use minijinja::value::{Kwargs, Value};
use minijinja::{Error, State};

use super::{Conversation, Rendered};

/// The name under which templates find the function.
pub(super) const FUNCTION: &str = "__generation__";

/// A template whose generation tags are call blocks.
pub(super) struct Rewritten {
    pub(super) text: String,
    /// Whether there were any.
    pub(super) marked: bool,
}

/// Rewrites the tags outside of comments and raw blocks.
pub(super) fn rewrite(template: &str) -> Rewritten {
    let mut out = String::with_capacity(template.len());
    let (mut rest, mut marked, mut raw) = (template, false, false);
    while let Some(at) = rest.find('{') {
        let (before, from) = rest.split_at(at);
        out.push_str(before);
        let end = match from.as_bytes().get(1) {
            Some(b'%') => from.find("%}").map(|end| end + 2),
            Some(b'#') if !raw => from.find("#}").map(|end| end + 2),
            _ => Some(1),
        };
        let (tag, after) = from.split_at(end.unwrap_or(from.len()));
        let word = tag.trim_start_matches("{%").trim_end_matches("%}").trim_matches(['-', '+']).trim();
        match (word, tag.starts_with("{%")) {
            ("raw", true) => raw = true,
            ("endraw", true) => raw = false,
            _ => {}
        }
        let replacement = match word {
            "generation" if !raw && tag.starts_with("{%") => Some(format!("call {FUNCTION}()")),
            "endgeneration" if !raw && tag.starts_with("{%") => Some("endcall".to_owned()),
            _ => None,
        };
        marked |= replacement.is_some();
        out.push_str(&replacement.map_or_else(|| tag.to_owned(), |with| tag.replacen(word, &with, 1)));
        rest = after;
    }
    out.push_str(rest);
    Rewritten { text: out, marked }
}

/// The strings that surround generated text while a template runs; by default nothing.
#[derive(Debug, Default)]
pub(super) struct Marks {
    begin: String,
    end: String,
}

impl Marks {
    /// Marks that no text of the conversation contains.
    pub(super) fn absent_from(conversation: &Conversation) -> Self {
        let all =
            serde_json::to_string(&(&conversation.messages, &conversation.tools, &conversation.variables))
                .expect("JSON values can be written");
        let free = |n: &usize| !all.contains(&format!("\u{F8FE}{n}\u{F8FE}"));
        let n = (0..).find(free).expect("a finite text does not contain every number");
        Self { begin: format!("\u{F8FE}{n}\u{F8FE}<"), end: format!("\u{F8FE}{n}\u{F8FE}>") }
    }

    /// What a template calls in place of the tag.
    pub(super) fn function(&self) -> Value {
        let (begin, end) = (self.begin.clone(), self.end.clone());
        Value::from_function(move |state: &mut State<'_, '_>, kwargs: Kwargs| -> Result<Value, Error> {
            let caller: Value = kwargs.get("caller")?;
            let written = caller.call(state, &[])?;
            Ok(Value::from(format!("{begin}{written}{end}")))
        })
    }

    /// The text without marks, and the spans between them.
    pub(super) fn taken_out(&self, marked: &str) -> Rendered {
        let mut text = String::with_capacity(marked.len());
        let mut generated: Vec<Range<usize>> = Vec::new();
        let mut rest = marked;
        while let Some(begin) = rest.find(&self.begin) {
            text.push_str(&rest[..begin]);
            rest = &rest[begin + self.begin.len()..];
            let end = rest.find(&self.end).unwrap_or(rest.len());
            let start = text.len();
            text.push_str(&rest[..end]);
            generated.push(start..text.len());
            rest = rest.get(end + self.end.len()..).unwrap_or("");
        }
        text.push_str(rest);
        Rendered { text, generated }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_become_calls_and_keep_their_signs() {
        let made = rewrite("a{%- generation -%}b{% endgeneration +%}c");
        assert!(made.marked);
        assert_eq!(made.text, "a{%- call __generation__() -%}b{% endcall +%}c");
    }

    #[test]
    fn comments_and_raw_blocks_are_left_alone() {
        for text in [
            "{# {% generation %} #}",
            "{% raw %}{% generation %}{# {% endraw %}",
            "{{ '{' }} {generation}",
            "{% generations %}",
            "{%",
            "{# generation",
            "{",
        ] {
            let made = rewrite(text);
            assert!(!made.marked, "{text}");
            assert_eq!(made.text, text);
        }
    }

    #[test]
    fn marks_avoid_what_the_conversation_says() {
        let mut conversation = Conversation::default();
        let hostile = "\u{F8FE}0\u{F8FE}< \u{F8FE}1\u{F8FE}>".to_owned();
        conversation.variables.insert("x".to_owned(), hostile.into());
        assert_eq!(Marks::absent_from(&conversation).begin, "\u{F8FE}2\u{F8FE}<");
    }

    #[test]
    fn spans_are_where_the_marks_were() {
        let marks = Marks::absent_from(&Conversation::default());
        let (b, e) = (&marks.begin, &marks.end);
        let made = marks.taken_out(&format!("é{b}ab{e}-{b}{e}{b}c"));
        assert_eq!(made, Rendered { text: "éab-c".to_owned(), generated: vec![2..4, 5..5, 5..6] });
    }
}
