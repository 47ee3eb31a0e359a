//! The keys of `rank_pattern` and `alpha_pattern`: regular expressions matched at the end of a module path, after
//! its beginning or a dot.
//!
//! PEFT writes one key per module where ranks were allotted (EVA), thousands in a large model. Those are plain paths,
//! in which only `.` is special; they are compared directly, which takes no compiled expression each.

use regex::Regex;

/// A pattern of module paths.
#[derive(Debug, Clone)]
pub struct Pattern(Form);

#[derive(Debug, Clone)]
enum Form {
    /// A path of letters, digits, `_`, `-`, and `.` for any character.
    Plain(String),
    Expression(Regex),
}

impl Pattern {
    /// # Errors
    /// Why the text is not a regular expression that can be matched without backtracking.
    pub(super) fn new(text: &str) -> Result<Self, String> {
        if Self::is_plain(text) {
            return Ok(Self(Form::Plain(text.to_owned())));
        }
        Self::wrapped(text, r"^(?:.*\.)?(?:", ")$")
    }

    /// The pattern that has to match a path as a whole, as PEFT's `target_modules` if it is a text.
    ///
    /// # Errors
    /// Why the text is not a regular expression that can be matched without backtracking.
    pub fn whole(text: &str) -> Result<Self, String> {
        Self::wrapped(text, "^(?:", ")$")
    }

    fn wrapped(text: &str, before: &str, after: &str) -> Result<Self, String> {
        // Alone first: wrapped, an unbalanced parenthesis might mean something.
        let expression = Regex::new(text).and_then(|_| Regex::new(&format!("{before}{text}{after}")));
        expression.map(|regex| Self(Form::Expression(regex))).map_err(|e| match e {
            regex::Error::CompiledTooBig(_) => "it is too large".into(),
            _ => "it is not a regular expression without look-around and back-references".into(),
        })
    }

    pub(super) fn is_plain(text: &str) -> bool {
        text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.'))
    }

    /// Whether a path fits.
    pub fn matches(&self, path: &str) -> bool {
        match &self.0 {
            Form::Expression(regex) => regex.is_match(path),
            Form::Plain(pattern) => {
                let mut rest = path.chars().rev();
                let fits = pattern.chars().rev().all(|p| rest.next().is_some_and(|c| p == '.' || p == c));
                fits && matches!(rest.next(), None | Some('.'))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_paths_and_expressions_match_alike() {
        let paths = [
            "q_proj",
            "a.q_proj",
            "aq_proj",
            "layers.1.q_proj",
            "layers.11.q_proj",
            "q_proj.a",
            "",
            "é.q_proj",
        ];
        for plain in ["q_proj", "1.q_proj", "layers.1.q_proj", ".q_proj", "s.1.q_proj", ""] {
            let direct = Pattern::new(plain).unwrap();
            assert!(matches!(direct.0, Form::Plain(_)));
            let expression = Pattern::new(&format!("(?:{plain})")).unwrap();
            assert!(matches!(expression.0, Form::Expression(_)));
            for path in paths {
                assert_eq!(direct.matches(path), expression.matches(path), "{plain} {path}");
            }
        }
        assert!(Pattern::new("q_proj").unwrap().matches("a.q_proj"));
        assert!(!Pattern::new("q_proj").unwrap().matches("aq_proj"));
    }

    #[test]
    fn a_caret_binds_the_beginning() {
        let pattern = Pattern::new("^layers.q").unwrap();
        assert!(pattern.matches("layers.q") && !pattern.matches("model.layers.q"));
    }

    #[test]
    fn what_cannot_be_matched_is_refused() {
        for text in ["(?=a)b", r"(a)\1", "(", "a)|(b", "a{999}{999}{999}"] {
            assert!(Pattern::new(text).is_err(), "{text}");
        }
    }
}
