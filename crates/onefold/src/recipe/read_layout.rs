//! Reading `models`, `slices` and `modules`, and what can be said about them without their checkpoints.

use std::collections::BTreeMap;

use super::fields::{self, Fields, join};
use super::layout::{At, Layout, Module, ModuleContent, OutputSlice, Source};
use super::model_ref::ModelRef;
use super::node::{Data, Node};
use super::problems::{Place, Problems};
use super::setting;
use super::statistics::Given;

/// Reads the one of `models`, `slices` and `modules` that is given. Entries that cannot be read are reported and
/// left out, so that the others are judged too.
pub(super) fn read(top: &mut Fields<'_>, root: Place, problems: &mut Problems) -> Option<Layout> {
    let given = [top.get("models"), top.get("slices"), top.get("modules")];
    if !exactly_one(&given, root, "", "`models`, `slices` and `modules`", problems) {
        return None;
    }
    match given {
        [Some(node), ..] => models(node, "models", problems).map(Layout::Models),
        [_, Some(node), _] => slices(node, "slices", problems).map(Layout::Slices),
        [.., node] => modules(node?, problems).map(Layout::Modules),
    }
}

fn exactly_one(
    given: &[Option<&Node>],
    place: Place,
    path: &str,
    keys: &str,
    problems: &mut Problems,
) -> bool {
    let found: Vec<_> = given.iter().flatten().collect();
    match found.as_slice() {
        [_] => return true,
        [] => problems.error(place, path, format!("expected one of {keys}, found none"), None),
        [.., last] => {
            problems.error(last.place, path, format!("expected one of {keys}, found {}", found.len()), None);
        }
    }
    false
}

fn models(node: &Node, path: &str, problems: &mut Problems) -> Option<Vec<Source>> {
    let items = fields::list(node, path, "a list of models", problems)?;
    let sources = items.iter().enumerate();
    let sources = sources.filter_map(|(i, item)| source(item, &format!("{path}[{i}]"), false, problems));
    let sources: Vec<_> = sources.collect();
    no_model_twice(&sources, problems);
    Some(sources)
}

fn source(node: &Node, path: &str, sliced: bool, problems: &mut Problems) -> Option<Source> {
    if let Data::Scalar { text, .. } = &node.data
        && !node.is_null()
    {
        let help = format!("write `- model: {}`", text.chars().take(80).collect::<String>());
        let message = format!("expected an entry with `model`, found {}", node.describe());
        problems.error(node.place, path, message, Some(help));
        return None;
    }
    let mut fields = Fields::of(node, path, "an entry with `model`", problems)?;
    let model = fields.get("model").map(|node| ModelRef::read(node, &join(path, "model"), problems));
    if model.is_none() {
        problems.error(node.place, path, "no `model`", None);
    }
    let range = if sliced { Some(layer_range(node, &mut fields, path, problems)) } else { None };
    let parameters = setting::read(fields.get("parameters"), &join(path, "parameters"), problems);
    let task = fields
        .get("task")
        .and_then(|node| fields::text(node, &join(path, "task"), "a task's name", problems));
    let statistics = fields.get("statistics").and_then(|node| {
        let path = fields::text(node, &join(path, "statistics"), "a file of statistics", problems)?;
        Some(Given::new(path, node.place))
    });
    fields.finish(problems);
    let layer_range = match range {
        Some(range) => Some(range?),
        None => None,
    };
    let at = At { place: node.place, path: path.to_owned() };
    let model = ModelRef { task: task.map(str::to_owned), ..model?? };
    Some(Source { model, layer_range, parameters, statistics, at })
}

fn layer_range(
    entry: &Node,
    fields: &mut Fields<'_>,
    path: &str,
    problems: &mut Problems,
) -> Option<(usize, usize)> {
    let Some(node) = fields.get("layer_range") else {
        let help = "write `layer_range: [first, last + 1]`".to_owned();
        problems.error(entry.place, path, "no `layer_range`", Some(help));
        return None;
    };
    let path = join(path, "layer_range");
    let expected = "two layer numbers `[start, end]`, the end not included";
    let Data::List(items) = &node.data else {
        fields::unexpected(node, &path, expected, problems);
        return None;
    };
    let [start, end] = items.as_slice() else {
        let message = format!("expected {expected}, found {} values", items.len());
        problems.error(node.place, &path, message, None);
        return None;
    };
    let what = "a layer number (a whole number, not negative)";
    let start = fields::count(start, &path, what, problems);
    let end = fields::count(end, &path, what, problems);
    let (start, end) = (start?, end?);
    if start >= end {
        let help = Some("the end is the number of the first layer that is not included".to_owned());
        problems.error(node.place, &path, format!("[{start}, {end}] holds no layers"), help);
        return None;
    }
    Some((start, end))
}

fn slices(node: &Node, path: &str, problems: &mut Problems) -> Option<Vec<OutputSlice>> {
    let items = fields::list(node, path, "a list of slices", problems)?;
    let slices = items.iter().enumerate();
    Some(slices.filter_map(|(i, item)| slice(item, &format!("{path}[{i}]"), problems)).collect())
}

fn slice(node: &Node, path: &str, problems: &mut Problems) -> Option<OutputSlice> {
    let mut fields = Fields::of(node, path, "a slice with `sources`", problems)?;
    let sources = fields.get("sources").map(|node| sources(node, &join(path, "sources"), problems));
    if sources.is_none() {
        problems.error(node.place, path, "no `sources`", None);
    }
    let base = fields.get("base_model").map(|node| ModelRef::read(node, &join(path, "base_model"), problems));
    let parameters = setting::read(fields.get("parameters"), &join(path, "parameters"), problems);
    fields.unused("residual_weight", "mergekit reads it and does nothing with it; remove it", problems);
    fields.finish(problems);
    let base_model = match base {
        Some(base) => Some(base?),
        None => None,
    };
    let at = At { place: node.place, path: path.to_owned() };
    Some(OutputSlice { sources: sources??, base_model, parameters, at })
}

fn sources(node: &Node, path: &str, problems: &mut Problems) -> Option<Vec<Source>> {
    let items = fields::list(node, path, "a list of sources", problems)?;
    let sources = items.iter().enumerate();
    let sources: Vec<_> =
        sources.filter_map(|(i, item)| source(item, &format!("{path}[{i}]"), true, problems)).collect();
    no_model_twice(&sources, problems);
    let length = |source: &Source| source.layer_range.map_or(0, |(start, end)| end - start);
    let first = sources.first().map_or(0, length);
    for source in sources.iter().filter(|source| length(source) != first) {
        let message = format!("{} layers, but the slice's first source has {first}", length(source));
        let help = "all sources of a slice need the same number of layers".to_owned();
        problems.error(source.at.place, &join(&source.at.path, "layer_range"), message, Some(help));
    }
    Some(sources)
}

/// mergekit keys its inputs by model: of two entries of one model it silently drops the first.
fn no_model_twice(sources: &[Source], problems: &mut Problems) {
    let mut seen = BTreeMap::new();
    for source in sources {
        if let Some(first) = seen.insert(&source.model, &source.at.path) {
            let message = format!("the model `{}` is already listed in {first}", source.model);
            let help = "list each model once; to count it twice, double its weight".to_owned();
            problems.error(source.at.place, &source.at.path, message, Some(help));
        }
    }
}

fn modules(node: &Node, problems: &mut Problems) -> Option<Vec<Module>> {
    let entries = match &node.data {
        Data::Map(entries) if !entries.is_empty() => entries,
        _ => {
            fields::unexpected(node, "modules", "a mapping from module names to their content", problems);
            return None;
        }
    };
    Some(entries.iter().filter_map(|(name, entry)| module(name, &entry.value, problems)).collect())
}

fn module(name: &str, node: &Node, problems: &mut Problems) -> Option<Module> {
    let path = join("modules", name);
    let mut fields = Fields::of(node, &path, "a module with `models` or `slices`", problems)?;
    let given = [fields.get("models"), fields.get("slices")];
    let content = if exactly_one(&given, node.place, &path, "`models` and `slices`", problems) {
        match given {
            [Some(node), _] => models(node, &join(&path, "models"), problems).map(ModuleContent::Models),
            [_, node] => slices(node?, &join(&path, "slices"), problems).map(ModuleContent::Slices),
        }
    } else {
        None
    };
    let parameters = setting::read(fields.get("parameters"), &join(&path, "parameters"), problems);
    fields.finish(problems);
    Some(Module { name: name.to_owned(), content: content?, parameters })
}
