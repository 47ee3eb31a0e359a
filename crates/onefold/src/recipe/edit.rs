//! `--set key.path=value`: changes to a recipe's tree before it is read.
//!
//! A path is keys separated by dots; a number is an index where a list stands (`models.0.parameters.weight`,
//! also `models[0]`); a key that holds dots stands in double quotes. The value is YAML. Mappings on the way
//! that do not exist are made, list elements are not; whether a new key means anything is judged later, as for
//! every key.

use indexmap::IndexMap;

use super::node::{Data, Document, Entry, Node};
use super::problems::{Place, Problems};
use super::yaml;

/// Most keys in one path.
const MAX_SEGMENTS: usize = 32;

/// One step of a path.
enum Step {
    Key(String),
    Index(usize),
}

/// The document of a file that has to have one, changed by the `--set` texts; `what` says what it is. Nothing if there is none.
pub fn single(text: &str, what: &str, sets: &[String], problems: &mut Problems) -> Option<Document> {
    let mut documents = yaml::parse(text, problems)?;
    if documents.is_empty() {
        problems.error(Place::START, "", format!("the {what} is empty"), None);
    }
    if let Some(second) = documents.get(1) {
        let help = "make a file of each".to_owned();
        problems.error(second.root.place, "", format!("a second {what} in the file"), Some(help));
    }
    apply(&mut documents, sets, problems);
    documents.into_iter().next()
}

/// Applies the `--set` texts to the documents of a recipe file.
///
/// In a file of several documents a path that begins with a document's `name` changes that one; any other
/// changes the document without a name, which makes the final model.
pub fn apply(documents: &mut [Document], sets: &[String], problems: &mut Problems) {
    for (index, text) in sets.iter().enumerate() {
        apply_one(documents, text, index, problems);
    }
}

fn apply_one(documents: &mut [Document], text: &str, set: usize, problems: &mut Problems) {
    let place = Place::Set(set);
    let form = || Some("write `key.path=value`, as in `parameters.lambda=0.5`".to_owned());
    let Some((path, value)) = text.split_once('=') else {
        return problems.error(place, "", "no `=` between path and value", form());
    };
    let Some(mut steps) = steps(path.trim()) else {
        return problems.error(place, "", format!("`{}` is not a path of keys", path.trim()), form());
    };
    let Some(value) = yaml::parse_value(value, set, path.trim(), problems) else { return };
    let Some(document) = target(documents, &mut steps) else {
        let help = "begin the path with the `name` of the merge it changes".to_owned();
        return problems.error(place, path.trim(), "it is not clear which merge this changes", Some(help));
    };
    write(&mut document.root, &steps, value, place, path.trim(), problems);
}

/// The document a path belongs to; takes the document's name off the path.
fn target<'d>(documents: &'d mut [Document], steps: &mut Vec<Step>) -> Option<&'d mut Document> {
    if documents.len() == 1 {
        return documents.first_mut();
    }
    let named = |document: &Document, wanted: &str| name(&document.root) == Some(wanted);
    if let Some(Step::Key(first)) = steps.first()
        && steps.len() > 1
        && let Some(at) = documents.iter().position(|document| named(document, first))
    {
        steps.remove(0);
        return documents.get_mut(at);
    }
    documents.iter_mut().find(|document| name(&document.root).is_none())
}

fn name(root: &Node) -> Option<&str> {
    match &root.data {
        Data::Map(entries) => match &entries.get("name")?.value.data {
            Data::Scalar { text, .. } => Some(text),
            _ => None,
        },
        _ => None,
    }
}

/// `a.b[0]."c.d"` in steps; `None` if it is malformed.
fn steps(path: &str) -> Option<Vec<Step>> {
    let (mut steps, mut rest) = (Vec::new(), path);
    loop {
        if steps.len() == MAX_SEGMENTS {
            return None;
        }
        let key;
        if let Some(quoted) = rest.strip_prefix('"') {
            (key, rest) = quoted.split_once('"')?;
        } else {
            (key, rest) = rest.split_at(rest.find(['.', '[', '"']).unwrap_or(rest.len()));
        }
        if key.is_empty() {
            return None;
        }
        steps.push(Step::Key(key.to_owned()));
        while let Some(inner) = rest.strip_prefix('[') {
            let (number, after) = inner.split_once(']')?;
            steps.push(Step::Index(number.parse().ok()?));
            rest = after;
        }
        if rest.is_empty() {
            return (steps.len() <= MAX_SEGMENTS).then_some(steps);
        }
        rest = rest.strip_prefix('.')?;
    }
}

/// Puts `value` where `steps` lead, or says why they lead nowhere.
fn write(root: &mut Node, steps: &[Step], value: Node, place: Place, path: &str, problems: &mut Problems) {
    let mut node = root;
    for step in steps {
        node = match descend(node, step, place) {
            Ok(next) => next,
            Err(message) => return problems.error(place, path, message, None),
        };
    }
    *node = value;
}

/// The child of `node` that `step` names; a missing key is made, with nothing as its value.
fn descend<'n>(node: &'n mut Node, step: &Step, place: Place) -> Result<&'n mut Node, String> {
    if node.is_null() && matches!(step, Step::Key(_)) {
        *node = Node { place, data: Data::Map(IndexMap::new()) };
    }
    let found = node.describe();
    match (&mut node.data, step) {
        (Data::Map(entries), Step::Key(key)) => {
            let nothing = || Entry { place, value: Node::null(place) };
            Ok(&mut entries.entry(key.clone()).or_insert_with(nothing).value)
        }
        (Data::List(items), Step::Key(key)) => {
            let index = key.parse().map_err(|_| format!("`{key}` is not a position in a list"))?;
            element(items, index)
        }
        (Data::List(items), Step::Index(index)) => element(items, *index),
        (Data::Map(_) | Data::Scalar { .. }, Step::Index(index)) => {
            Err(format!("`[{index}]` needs a list, found {found}"))
        }
        (Data::Scalar { .. }, Step::Key(key)) => Err(format!("`{key}` needs a mapping, found {found}")),
    }
}

fn element(items: &mut [Node], index: usize) -> Result<&mut Node, String> {
    let length = items.len();
    items.get_mut(index).ok_or_else(|| format!("position {index} in a list of {length}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn edited(text: &str, sets: &[&str]) -> Result<Vec<Node>, String> {
        let sets: Vec<_> = sets.iter().map(|set| (*set).to_owned()).collect();
        let mut problems = Problems::new("r.yml", &sets, false);
        let mut documents = yaml::parse(text, &mut problems).expect("valid");
        apply(&mut documents, &sets, &mut problems);
        let roots = documents.into_iter().map(|document| document.root).collect();
        problems.or(roots).map(|(roots, _)| roots).map_err(|problems| problems.to_string())
    }

    fn same(text: &str, sets: &[&str], expected: &str) {
        let values = |nodes: Vec<Node>| nodes.iter().map(Node::json).collect::<Vec<_>>();
        assert_eq!(
            values(edited(text, sets).expect("no problem")),
            values(edited(expected, &[]).expect("valid"))
        );
    }

    #[test]
    fn sets_replace_add_and_make_mappings() {
        same("a: 1", &["a=2"], "a: 2");
        same("a: 1", &["parameters.lambda=0.5"], "a: 1\nparameters: {lambda: 0.5}");
        same("parameters:", &["parameters.lambda=0.5"], "parameters: {lambda: 0.5}");
        same("m: [{w: 1}, {w: 2}]", &["m.1.w=[0, yes]", "m[0].w=x=y"], "m: [{w: x=y}, {w: [0, yes]}]");
        same("t: {}", &["t.\"<|a.b|>\".force=on"], "t: {<|a.b|>: {force: on}}");
        same("t: 1", &["t="], "t:");
    }

    #[test]
    fn paths_that_lead_nowhere_are_problems() {
        for (set, expected) in [
            ("m.5.w=1", "--set m.5.w=1: m.5.w: position 5 in a list of 1"),
            ("m.x=1", "--set m.x=1: m.x: `x` is not a position in a list"),
            ("a.b=1", "--set a.b=1: a.b: `b` needs a mapping, found the number `1`"),
            ("a[0]=1", "--set a[0]=1: a[0]: `[0]` needs a list, found the number `1`"),
            (
                "a=[",
                "--set a=[: a: the value is not YAML: not valid YAML: while parsing a node, did not find expected node content",
            ),
            (
                "a",
                "--set a: no `=` between path and value\n  help: write `key.path=value`, as in `parameters.lambda=0.5`",
            ),
            (
                "a..b=1",
                "--set a..b=1: `a..b` is not a path of keys\n  help: write `key.path=value`, as in `parameters.lambda=0.5`",
            ),
            (
                "m[x]=1",
                "--set m[x]=1: `m[x]` is not a path of keys\n  help: write `key.path=value`, as in `parameters.lambda=0.5`",
            ),
        ] {
            assert_eq!(edited("a: 1\nm: [{w: 1}]", &[set]), Err(expected.to_owned()));
        }
    }

    #[test]
    fn several_documents_are_told_apart_by_name() {
        same("name: one\na: 1\n---\na: 1", &["one.a=2", "a=3"], "name: one\na: 2\n---\na: 3");
        assert!(edited("name: one\n---\nname: two", &["a=3"]).is_err());
    }
}
