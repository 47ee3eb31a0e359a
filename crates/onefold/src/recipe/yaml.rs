//! YAML text to a tree with positions.
//!
//! `saphyr-parser` finds the events; `loader.rs` gives them the meaning PyYAML's `safe_load` gives them: YAML
//! 1.1 scalars ([`super::scalar`]), anchors and aliases, merge keys (`<<`), several documents in one stream.
//! It is stricter where PyYAML hides mistakes: a key that stands twice, a key that is no text, an unknown tag
//! are problems. A recipe may come from a stranger: text, depth and the size after expanding aliases are
//! bounded, and nothing here recurses over the input.

use saphyr_parser::Parser;

use super::loader::Loader;
use super::node::{Document, Node};
use super::problems::{Place, Problems};

/// Longest text read: 1 MiB.
pub const MAX_TEXT: usize = 1 << 20;

/// All documents of `text`; documents that say nothing are left out. `None` after a fatal problem.
pub fn parse(text: &str, problems: &mut Problems) -> Option<Vec<Document>> {
    if text.len() > MAX_TEXT {
        let message = format!("the recipe has {} bytes, more than the {MAX_TEXT} that are read", text.len());
        problems.error(Place::START, "", message, None);
        return None;
    }
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut loader = Loader::new(None, problems);
    let roots = loader.run(Parser::new_from_str(text))?;
    Some(with_texts(text, roots))
}

/// The single value of `text`, given in the `--set` number `set`.
pub fn parse_value(text: &str, set: usize, path: &str, problems: &mut Problems) -> Option<Node> {
    let place = Place::Set(set);
    if text.len() > MAX_TEXT {
        problems.error(place, path, "the value is too long", None);
        return None;
    }
    let mut scratch = Problems::new("", &[], false);
    let mut loader = Loader::new(Some(place), &mut scratch);
    let roots = loader.run(Parser::new_from_str(text));
    for problem in scratch.errors() {
        problems.error(place, path, format!("the value is not YAML: {}", problem.message), None);
    }
    let mut roots = roots?.into_iter();
    match (roots.next(), roots.next()) {
        (None, _) => Some(Node::null(place)),
        (Some((_, root)), None) => Some(root),
        _ => {
            problems.error(place, path, "the value is not YAML: it holds several documents", None);
            None
        }
    }
}

/// Gives each document its part of the text: from its first character to the next document's.
fn with_texts(text: &str, roots: Vec<(usize, Node)>) -> Vec<Document> {
    let byte = |chars: usize| text.char_indices().nth(chars).map_or(text.len(), |(at, _)| at);
    let starts: Vec<usize> =
        roots.iter().enumerate().map(|(i, (at, _))| if i == 0 { 0 } else { byte(*at) }).collect();
    let ends = starts.iter().skip(1).copied().chain([text.len()]);
    let texts: Vec<String> =
        starts.iter().zip(ends).map(|(s, e)| text.get(*s..e).unwrap_or(text).to_owned()).collect();
    let documents = roots.into_iter().zip(texts).map(|((_, root), text)| Document { root, text });
    documents.filter(|document| !document.root.is_null()).collect()
}

#[cfg(test)]
mod tests {
    use super::super::node::Data;
    use super::*;
    use serde_json::json;

    fn load(text: &str) -> Result<Vec<Document>, String> {
        let mut problems = Problems::new("r.yml", &[], false);
        let documents = parse(text, &mut problems).unwrap_or_default();
        problems.or(documents).map(|(documents, _)| documents).map_err(|problems| problems.to_string())
    }

    fn one(text: &str) -> serde_json::Value {
        let documents = load(text).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(documents.len(), 1);
        documents[0].root.json()
    }

    #[test]
    fn anchors_and_merge_keys_as_pyyaml() {
        let text = "a: &a {x: 1, y: 2}\nb: {<<: *a, y: 3}\nc: {y: 4, <<: [{y: 5, z: 6}, {z: 7, w: 8}]}\nd: *a\ne: {'<<': 1}";
        assert_eq!(
            one(text),
            json!({"a": {"x": 1, "y": 2}, "b": {"y": 3, "x": 1}, "c": {"y": 4, "z": 6, "w": 8},
                   "d": {"x": 1, "y": 2}, "e": {"<<": 1}})
        );
        assert_eq!(one("- &k yes\n- &t text\n- {*t : *k}"), json!([true, "text", {"text": true}]));
    }

    #[test]
    fn quotes_and_tags_decide_what_a_scalar_is() {
        assert_eq!(
            one("[yes, 'yes', \"1\", !!str 1, !!float 1.5, !!int '3', ~, '', 1e-5, |-\n]"
                .replace("|-\n", "x")
                .as_str()),
            json!([true, "yes", "1", "1", 1.5, 3, null, "", "1e-5", "x"])
        );
        assert_eq!(one("a: |\n  0.5\nb:"), json!({"a": "0.5\n", "b": null}));
    }

    #[test]
    fn byte_order_mark_line_ends_and_comments() {
        assert_eq!(
            one("\u{feff}# recipe\r\na: 1\r\nb:\r\n- x # y\r\n- z\r\n"),
            json!({"a": 1, "b": ["x", "z"]})
        );
    }

    #[test]
    fn documents_keep_their_own_text() {
        let text = "# é\na: 1\n---\nb: 2\n...\n---\n# nothing\n---\nc: 3\n";
        let documents = load(text).expect("valid");
        let texts: Vec<_> = documents.iter().map(|document| document.text.as_str()).collect();
        assert_eq!(texts, ["# é\na: 1\n", "---\nb: 2\n...\n", "---\nc: 3\n"]);
    }

    #[test]
    fn places_count_from_one() {
        let documents = load("a: 1\nb:\n  - é: 2\n").expect("valid");
        let Data::Map(entries) = &documents[0].root.data else { panic!("a mapping") };
        let Data::List(items) = &entries["b"].value.data else { panic!("a list") };
        let Data::Map(inner) = &items[0].data else { panic!("a mapping") };
        assert_eq!(entries["b"].place, Place::Text { line: 2, column: 1 });
        assert_eq!(inner["é"].value.place, Place::Text { line: 3, column: 8 });
    }

    #[test]
    fn mistakes_that_pyyaml_hides_are_problems() {
        for (text, expected) in [
            ("a: 1\nb: 2\na: 3", "r.yml:3:1: the key `a` stands twice (first in line 1)"),
            (
                "on: 1",
                "r.yml:1:1: a key must be text, found `on` (the boolean true)\n  help: write it in quotes: \"on\"",
            ),
            (
                "5: 1",
                "r.yml:1:1: a key must be text, found the number `5`\n  help: write it in quotes: \"5\"",
            ),
            (
                "t: {{ x }}",
                "r.yml:1:5: a key must be text, found a list or mapping\n  help: text that begins with `{` or `[` must be in quotes",
            ),
            ("a: !!binary x", "r.yml:1:4: unknown tag `!!binary`\n  help: remove it; recipes need no tags"),
            ("a: !mine [x]", "r.yml:1:4: unknown tag `!mine`\n  help: remove it; recipes need no tags"),
            ("a: &a [*a]", "r.yml:1:8: an alias inside what it refers to"),
            ("a: {<<: 1}", "r.yml:1:9: `<<` takes mappings, found the number `1`"),
        ] {
            assert_eq!(load(text).map(|_| ()), Err(expected.to_owned()));
        }
        for broken in ["a: [1", "a: 'x", "a:\n\tb: 1", "a: b: c", "a: *b", "- a\nb: 1", "a:\n\t- b", "%"] {
            let message = load(broken).expect_err(broken);
            assert!(message.contains("not valid YAML"), "{broken}: {message}");
        }
    }

    #[test]
    fn hostile_sizes_are_refused() {
        let laughs: String = (1..30).map(|i| format!("a{i}: &a{i} [*a{0}, *a{0}, *a{0}]\n", i - 1)).collect();
        let message = load(&format!("a0: &a0 x\n{laughs}")).expect_err("too large");
        assert!(message.contains("too large once its aliases are expanded"), "{message}");
        let long = format!("a: &a {}\nb: [{}]", "x".repeat(500_000), "*a, ".repeat(1000));
        assert!(load(&long).expect_err("too large").contains("too large"));
        let merges = format!("a: &a {{k: {}}}\nb:\n{}", "x".repeat(100_000), "  - {<<: *a}\n".repeat(10_000));
        assert!(load(&merges).expect_err("too large").contains("too large"));
        for deep in ["[".repeat(100_000), "- ".repeat(100_000), "a: {".repeat(60), "? ".repeat(50_000)] {
            assert!(load(&deep).is_err());
        }
        let chain: String = (1..60).map(|i| format!("- &a{i} [*a{}]\n", i - 1)).collect();
        assert!(
            load(&format!("- &a0 x\n{chain}")).expect_err("deep").contains("deep once aliases are expanded")
        );
        assert!(load(&"x".repeat(MAX_TEXT + 1)).expect_err("long").contains("1048577 bytes"));
        assert!(load(&"---\na: 1\n".repeat(300)).expect_err("many").contains("more than 256 documents"));
    }

    #[test]
    fn many_keys_take_no_quadratic_time() {
        let text: String = (0..100_000).map(|i| format!("k{i}:\n")).collect();
        assert_eq!(one(&text).as_object().map(serde_json::Map::len), Some(100_000));
    }
}
