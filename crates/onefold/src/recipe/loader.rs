//! From the parser's events to trees: aliases, merge keys, unique keys, bounds on what is built.

use std::collections::BTreeMap;

use indexmap::IndexMap;
use saphyr_parser::{Event, Parser, ScalarStyle, ScanError, Span, StrInput, Tag};

use super::node::{Data, Entry, Node};
use super::problems::{Place, Problems};
use super::scalar::{self, Meaning};

/// Deepest nesting.
const MAX_DEPTH: usize = 48;
/// Most documents in one stream.
const MAX_DOCUMENTS: usize = 256;
/// Bound on the tree's size with all aliases expanded, in units of [`Node::cost`].
const MAX_COST: usize = 32 << 20;

/// A collection whose end has not come yet.
enum Open {
    List { place: Place, anchor: usize, items: Vec<Node> },
    Map { place: Place, anchor: usize, entries: IndexMap<String, Entry>, merges: Vec<Node>, key: Option<Key> },
}

/// A key whose value has not come yet.
enum Key {
    Named(String, Place),
    /// `<<`
    Merge,
    /// Already reported; its value is read and dropped.
    Bad,
}

/// Builds trees from events.
pub(super) struct Loader<'p> {
    /// Place of everything, if the text is no file.
    fixed: Option<Place>,
    problems: &'p mut Problems,
    open: Vec<Open>,
    anchors: BTreeMap<usize, Node>,
    /// Cost of all nodes made so far, those expanded from aliases included.
    cost: usize,
    /// Character at which the current document begins.
    start: usize,
    roots: Vec<(usize, Node)>,
}

impl<'p> Loader<'p> {
    pub(super) fn new(fixed: Option<Place>, problems: &'p mut Problems) -> Self {
        let (open, anchors, roots) = (Vec::new(), BTreeMap::new(), Vec::new());
        Self { fixed, problems, open, anchors, cost: 0, start: 0, roots }
    }

    /// The documents' first characters and roots; `None` after a problem that leaves no tree to look at.
    pub(super) fn run(&mut self, mut parser: Parser<'_, StrInput<'_>>) -> Option<Vec<(usize, Node)>> {
        while let Some(next) = parser.next_event() {
            match next {
                Ok((event, span)) => self.event(event, span)?,
                Err(error) => return self.syntax(&error),
            }
        }
        Some(std::mem::take(&mut self.roots))
    }

    fn event(&mut self, event: Event<'_>, span: Span) -> Option<()> {
        let place = self.place(span);
        match event {
            Event::DocumentStart(_) => {
                self.start = span.start.index();
                self.anchors.clear();
                if self.roots.len() == MAX_DOCUMENTS {
                    return self.fatal(place, format!("more than {MAX_DOCUMENTS} documents"));
                }
            }
            Event::Scalar(text, style, anchor, tag) => {
                let data = self.scalar(&text, style, tag.as_deref(), place);
                if self.begins_key() {
                    self.key(&text, style, &data, place);
                } else {
                    return self.value(Node { place, data }, anchor);
                }
            }
            Event::Alias(id) => return self.alias(id, place),
            Event::SequenceStart(anchor, tag) => {
                self.collection_tag(tag.as_deref(), "seq", place);
                return self.push(Open::List { place, anchor, items: Vec::new() }, place);
            }
            Event::MappingStart(anchor, tag) => {
                self.collection_tag(tag.as_deref(), "map", place);
                let (entries, merges) = (IndexMap::new(), Vec::new());
                return self.push(Open::Map { place, anchor, entries, merges, key: None }, place);
            }
            Event::SequenceEnd | Event::MappingEnd => return self.close(),
            Event::Nothing | Event::StreamStart | Event::StreamEnd | Event::DocumentEnd => {}
        }
        Some(())
    }

    fn place(&self, span: Span) -> Place {
        let marker = span.start;
        self.fixed.unwrap_or(Place::Text { line: marker.line(), column: marker.col() + 1 })
    }

    fn fatal<T>(&mut self, place: Place, message: impl Into<String>) -> Option<T> {
        self.problems.error(place, "", message, None);
        None
    }

    fn syntax<T>(&mut self, error: &ScanError) -> Option<T> {
        let marker = error.marker();
        let place =
            self.fixed.unwrap_or(Place::Text { line: marker.line().max(1), column: marker.col() + 1 });
        self.fatal(place, format!("not valid YAML: {}", error.info()))
    }

    /// Whether the next node is a key of a mapping.
    fn begins_key(&self) -> bool {
        matches!(self.open.last(), Some(Open::Map { key: None, .. }))
    }

    fn push(&mut self, open: Open, place: Place) -> Option<()> {
        if self.open.len() + 1 >= MAX_DEPTH {
            return self.fatal(place, format!("nested more than {MAX_DEPTH} deep"));
        }
        if self.begins_key() {
            return self.collection_as_key(place);
        }
        self.open.push(open);
        Some(())
    }

    fn collection_as_key<T>(&mut self, place: Place) -> Option<T> {
        let help = "text that begins with `{` or `[` must be in quotes".to_owned();
        self.problems.error(place, "", "a key must be text, found a list or mapping", Some(help));
        None
    }

    fn scalar(&mut self, text: &str, style: ScalarStyle, tag: Option<&Tag>, place: Place) -> Data {
        let meaning = match tag.map(|tag| (tag.is_yaml_core_schema(), tag.suffix.as_str())) {
            None if style == ScalarStyle::Plain => scalar::plain(text),
            None | Some((true, "str")) => Meaning::Text,
            Some((true, "bool" | "int" | "float" | "null")) => scalar::plain(text),
            Some(_) => {
                self.unknown_tag(tag, place);
                Meaning::Text
            }
        };
        Data::Scalar { text: text.to_owned(), meaning }
    }

    fn collection_tag(&mut self, tag: Option<&Tag>, expected: &str, place: Place) {
        let known = tag.is_none_or(|tag| tag.is_yaml_core_schema() && tag.suffix == expected);
        if !known {
            self.unknown_tag(tag, place);
        }
    }

    fn unknown_tag(&mut self, tag: Option<&Tag>, place: Place) {
        let name = tag.map_or(String::new(), |tag| match tag.is_yaml_core_schema() {
            true => format!("!!{}", tag.suffix),
            false => format!("{}{}", tag.handle, tag.suffix),
        });
        let help = "remove it; recipes need no tags".to_owned();
        self.problems.error(place, "", format!("unknown tag `{name}`"), Some(help));
    }

    /// Takes a scalar as the key of the innermost mapping.
    fn key(&mut self, text: &str, style: ScalarStyle, data: &Data, place: Place) {
        let node = Node { place, data: data.clone() };
        let Some(Open::Map { entries, key, .. }) = self.open.last_mut() else { return };
        if text == "<<" && style == ScalarStyle::Plain {
            *key = Some(Key::Merge);
            return;
        }
        *key = Some(Key::Named(text.to_owned(), place));
        if !matches!(data, Data::Scalar { meaning: Meaning::Text, .. }) {
            *key = Some(Key::Bad);
            let message = format!("a key must be text, found {}", node.describe());
            self.problems.error(place, "", message, Some(format!("write it in quotes: \"{text}\"")));
        } else if let Some(first) = entries.get(text) {
            *key = Some(Key::Bad);
            let line = match first.place {
                Place::Text { line, .. } => format!(" (first in line {line})"),
                Place::Set(_) => String::new(),
            };
            self.problems.error(place, "", format!("the key `{text}` stands twice{line}"), None);
        }
    }

    fn alias(&mut self, id: usize, place: Place) -> Option<()> {
        let Some(target) = self.anchors.get(&id) else {
            return self.fatal(place, "an alias inside what it refers to");
        };
        let (deep, cost) = (self.open.len() + target.depth() > MAX_DEPTH, target.cost());
        if deep {
            return self.fatal(place, format!("nested more than {MAX_DEPTH} deep once aliases are expanded"));
        }
        if cost > MAX_COST.saturating_sub(self.cost) {
            return self.too_large(place);
        }
        self.cost += cost;
        let node = target.clone();
        if self.begins_key() {
            if let Data::Scalar { text, .. } = &node.data {
                self.key(text, ScalarStyle::DoubleQuoted, &node.data, place);
                return Some(());
            }
            return self.collection_as_key(place);
        }
        self.value(node, 0)
    }

    fn too_large<T>(&mut self, place: Place) -> Option<T> {
        self.fatal(place, "the recipe is too large once its aliases are expanded")
    }

    fn close(&mut self) -> Option<()> {
        match self.open.pop()? {
            Open::List { place, anchor, items } => {
                self.value(Node { place, data: Data::List(items) }, anchor)
            }
            Open::Map { place, anchor, mut entries, merges, .. } => {
                for merge in merges {
                    self.merge_into(&mut entries, merge)?;
                }
                self.value(Node { place, data: Data::Map(entries) }, anchor)
            }
        }
    }

    /// `<<`: adds the mapping's entries whose keys are not there yet; of several mappings the first wins.
    fn merge_into(&mut self, entries: &mut IndexMap<String, Entry>, merge: Node) -> Option<()> {
        let place = merge.place;
        let sources = match merge.data {
            Data::List(items) => items,
            data => vec![Node { place, data }],
        };
        for source in sources {
            let (found, place) = (source.describe(), source.place);
            let Data::Map(new) = source.data else {
                return self.fatal(place, format!("`<<` takes mappings, found {found}"));
            };
            for (key, entry) in new {
                entries.entry(key).or_insert(entry);
            }
        }
        Some(())
    }

    /// Hands a finished node to the collection around it, or ends the document with it.
    fn value(&mut self, node: Node, anchor: usize) -> Option<()> {
        let copy = if anchor == 0 { 0 } else { node.cost() };
        self.cost = self.cost.saturating_add(node.own_cost()).saturating_add(copy);
        if self.cost > MAX_COST {
            return self.too_large(node.place);
        }
        if anchor != 0 {
            self.anchors.insert(anchor, node.clone());
        }
        match self.open.last_mut() {
            None => self.roots.push((self.start, node)),
            Some(Open::List { items, .. }) => items.push(node),
            Some(Open::Map { entries, merges, key, .. }) => match key.take() {
                Some(Key::Named(key, place)) => drop(entries.insert(key, Entry { place, value: node })),
                Some(Key::Merge) => merges.push(node),
                Some(Key::Bad) | None => {}
            },
        }
        Some(())
    }
}
