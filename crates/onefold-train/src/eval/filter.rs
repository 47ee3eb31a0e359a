//! What is taken of a text that a model wrote, and whether it is what was expected: as the Language Model Evaluation Harness has
//! its `regex` filter and `exact_match`, but for white space around both texts, which never counts here.

use regex::Regex;

/// What is taken of a text.
#[derive(Debug, Clone)]
pub struct Filter {
    /// Its name in the results.
    pub name: String,
    /// What is looked for; none: the whole text is taken.
    pub pattern: Option<Regex>,
    /// Which of several finds: from 0, or from −1 backwards.
    pub select: i64,
}

impl PartialEq for Filter {
    fn eq(&self, other: &Self) -> bool {
        let source = |filter: &Self| filter.pattern.as_ref().map(|regex| regex.as_str().to_owned());
        (&self.name, source(self), self.select) == (&other.name, source(other), other.select)
    }
}

/// What stands for a text in which nothing is found.
pub const NOTHING: &str = "[invalid]";

impl Filter {
    /// The filter that takes all.
    pub fn none() -> Self {
        Self { name: "none".to_owned(), pattern: None, select: 0 }
    }

    /// What is taken of `text`: the find, or the first of its groups that is not empty.
    pub fn take(&self, text: &str) -> String {
        let Some(pattern) = &self.pattern else { return text.trim().to_owned() };
        let finds: Vec<String> = pattern
            .captures_iter(text)
            .map(|found| {
                let group = |i: usize| found.get(i).map_or("", |group| group.as_str());
                let first = (1..found.len()).map(group).find(|group| !group.is_empty());
                match found.len() {
                    1 => group(0).to_owned(),
                    2 => group(1).to_owned(),
                    _ => first.unwrap_or(NOTHING).to_owned(),
                }
            })
            .collect();
        let at = if self.select < 0 { finds.len() as i64 + self.select } else { self.select };
        let found = usize::try_from(at).ok().and_then(|at| finds.get(at));
        found.map_or(NOTHING, |found| found.trim()).to_owned()
    }
}

/// What does not count when texts are compared.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Leniency {
    /// Whether letters are large or small.
    pub case: bool,
    /// ASCII's punctuation.
    pub punctuation: bool,
}

impl Leniency {
    /// Whether a text is one of those that were expected.
    pub fn matches(self, text: &str, expected: &[String]) -> bool {
        let text = self.plain(text);
        expected.iter().any(|expected| self.plain(expected) == text)
    }

    fn plain(self, text: &str) -> String {
        let kept: String = text.chars().filter(|c| !(self.punctuation && c.is_ascii_punctuation())).collect();
        let kept = kept.trim();
        if self.case { kept.to_lowercase() } else { kept.to_owned() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filter(pattern: &str, select: i64) -> Filter {
        Filter { pattern: Some(Regex::new(pattern).unwrap()), select, ..Filter::none() }
    }

    #[test]
    fn finds_are_chosen_as_the_harness_chooses() {
        let text = "so 12 and 3.5, hence #### 42 \n";
        for (pattern, select, expected) in [
            (r"#### (\-?[0-9\.\,]+)", 0, "42"),
            (r"[0-9]+", 0, "12"),
            (r"[0-9]+", -1, "42"),
            (r"(\d+)\.(\d+)|(\d+)", 1, "3"),
            (r"(\d+)\.(\d+)|(\d+)", 2, "42"),
            (r"x(y)?", 0, NOTHING),
            (r"s(x)?o", 0, ""),
            (r"[0-9]+", 9, NOTHING),
            (r"[0-9]+", -9, NOTHING),
        ] {
            assert_eq!(filter(pattern, select).take(text), expected, "{pattern} {select}");
        }
        assert_eq!(Filter::none().take("  a b \n"), "a b");
    }

    #[test]
    fn the_harness_takes_the_same() {
        let golden = crate::eval::metrics::tests::golden();
        let texts = |value: &serde_json::Value| -> Vec<String> {
            value.as_array().unwrap().iter().map(|text| text.as_str().unwrap().to_owned()).collect()
        };
        for case in golden["filters"].as_array().unwrap() {
            let filter = filter(case["pattern"].as_str().unwrap(), case["select"].as_i64().unwrap());
            let taken: Vec<String> = texts(&case["texts"]).iter().map(|text| filter.take(text)).collect();
            assert_eq!(taken, texts(&case["taken"]), "{filter:?}");
        }
        for case in golden["matches"].as_array().unwrap() {
            let leniency = Leniency { case: case["case"] == true, punctuation: case["punctuation"] == true };
            for (number, (text, expected)) in
                texts(&case["texts"]).iter().zip(texts(&case["expected"])).enumerate()
            {
                let right = case["right"][number].as_bool().unwrap();
                assert_eq!(leniency.matches(text, &[expected]), right, "{leniency:?} {text}");
            }
        }
    }

    #[test]
    fn what_does_not_count() {
        let expected = ["The cat.".to_owned(), "a dog".to_owned()];
        let strict = Leniency::default();
        assert!(strict.matches(" The cat.\n", &expected) && !strict.matches("the cat", &expected));
        assert!(Leniency { case: true, punctuation: true }.matches("THE CAT", &expected));
        assert!(!Leniency { case: true, punctuation: false }.matches("THE CAT", &expected));
        assert!(strict.matches("a dog", &expected));
    }
}
