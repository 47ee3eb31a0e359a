//! Tensor names → blocks (one per layer, and one per part outside the layers), so that a page can show any model.
//!
//! The first all-digit segment of a name, unless it is the last, is its layer: `model.layers.7.mlp.up_proj.weight`
//! is layer 7, and every expert of a mixture stays inside its layer. Names alone decide; no model family is known.

use std::collections::{BTreeMap, BTreeSet};

use super::health::TensorHealth;

/// Tensors that are shown together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Group {
    /// `7`, `encoder 7` where a model has several stacks, or `embed_tokens`.
    pub(crate) label: String,
    /// Layer number, if it is a layer.
    pub(crate) layer: Option<u32>,
    /// Indices into the list of names.
    pub(crate) members: Vec<usize>,
}

/// Sort key: what feeds the layers, the layers by stack and number, what follows them, heads.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    rank: u8,
    path: String,
    layer: Option<u32>,
}

/// Groups `names`; every index lands in exactly one group.
pub(crate) fn group(names: &[&str]) -> Vec<Group> {
    let split: Vec<(Vec<&str>, Option<u32>)> = names.iter().map(|name| split(name)).collect();
    let stacks: BTreeSet<Vec<&str>> =
        split.iter().filter(|(_, layer)| layer.is_some()).map(|(path, _)| path.clone()).collect();
    let wrappers: BTreeSet<&[&str]> =
        stacks.iter().flat_map(|stack| (0..stack.len()).map(|end| &stack[..end])).collect();
    let mut groups: BTreeMap<Key, Vec<usize>> = BTreeMap::new();
    for (index, (path, layer)) in split.iter().enumerate() {
        let path = if layer.is_some() { path.join(".") } else { part(path, &wrappers) };
        let rank = if layer.is_some() { 1 } else { rank(&path) };
        groups.entry(Key { rank, path, layer: *layer }).or_default().push(index);
    }
    let labels = labels(groups.keys().collect(), &stacks);
    let labelled = groups.into_iter().zip(labels);
    labelled.map(|((key, members), label)| Group { label, layer: key.layer, members }).collect()
}

/// The segments before the layer number and the number; all segments if there is none.
fn split(name: &str) -> (Vec<&str>, Option<u32>) {
    let segments: Vec<&str> = name.split('.').collect();
    let digits = |segment: &str| segment.bytes().all(|byte| byte.is_ascii_digit());
    let found = segments[..segments.len() - 1]
        .iter()
        .enumerate()
        .find_map(|(at, segment)| Some((at, digits(segment).then(|| segment.parse().ok())??)));
    match found {
        Some((at, layer)) => (segments[..at].to_vec(), Some(layer)),
        None => (segments, None),
    }
}

/// Path of a part outside the layers: the wrapper it shares with a stack (`model`), and one segment more.
fn part(segments: &[&str], wrappers: &BTreeSet<&[&str]>) -> String {
    let shared = (0..segments.len()).rev().find(|&end| wrappers.contains(&segments[..end])).unwrap_or(0);
    segments[..shared + 1].join(".")
}

/// Display order of parts outside the layers, by the words that model families use.
fn rank(path: &str) -> u8 {
    let last = path.rsplit('.').next().unwrap_or(path).to_ascii_lowercase();
    let has = |words: &[&str]| words.iter().any(|word| last.contains(word));
    match () {
        () if has(&["head", "classifier", "score"]) => 3,
        () if has(&["emb", "wte", "wpe", "patch", "shared"]) => 0,
        () => 2,
    }
}

/// Short labels; a path where the short form would be ambiguous.
fn labels(keys: Vec<&Key>, stacks: &BTreeSet<Vec<&str>>) -> Vec<String> {
    let last = |key: &Key| key.path.rsplit('.').next().unwrap_or_default().to_owned();
    let mut uses: BTreeMap<String, usize> = BTreeMap::new();
    for key in keys.iter().filter(|key| key.layer.is_none()) {
        *uses.entry(last(key)).or_default() += 1;
    }
    let label = |key: &Key| match key.layer {
        Some(layer) => match stack_name(&key.path, stacks) {
            Some(stack) if !stack.is_empty() => format!("{stack} {layer}"),
            _ => layer.to_string(),
        },
        None if uses.get(&last(key)) == Some(&1) => last(key),
        None => key.path.clone(),
    };
    keys.into_iter().map(label).collect()
}

/// What tells this stack from the others (`encoder` of `encoder.block` and `decoder.block`); none if it is the only one.
fn stack_name(path: &str, stacks: &BTreeSet<Vec<&str>>) -> Option<String> {
    if stacks.len() < 2 {
        return None;
    }
    let own: Vec<&str> = path.split('.').collect();
    let shared = |same: &dyn Fn(&[&str], usize) -> bool| {
        (0..own.len()).take_while(|&at| stacks.iter().all(|other| same(other, at))).count()
    };
    let front = shared(&|other, at| other.get(at) == own.get(at));
    let back = shared(&|other, at| other.iter().rev().nth(at) == own.iter().rev().nth(at));
    let middle = own.get(front..own.len().saturating_sub(back)).unwrap_or_default();
    Some(if middle.is_empty() { path.to_owned() } else { middle.join(".") })
}

/// Tensors whose names differ only in numbers, and whose shape and type agree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Kind {
    /// Name with `*` for each number.
    pub(crate) pattern: String,
    /// Stored type.
    pub(crate) dtype: String,
    /// Shape of each.
    pub(crate) shape: Vec<usize>,
    /// How many there are.
    pub(crate) copies: u64,
    /// Elements of all of them together.
    pub(crate) elements: u64,
}

/// The kinds of tensors, those with the most elements first, equal ones by name.
pub(crate) fn kinds(tensors: &[TensorHealth]) -> Vec<Kind> {
    let mut found: BTreeMap<(String, &str, &[usize]), (u64, u64)> = BTreeMap::new();
    for tensor in tensors {
        let (copies, elements) =
            found.entry((pattern(&tensor.name), &tensor.dtype, &tensor.shape)).or_default();
        *copies += 1;
        *elements = elements.saturating_add(tensor.elements);
    }
    let kind = |((pattern, dtype, shape), (copies, elements)): ((String, &str, &[usize]), (u64, u64))| Kind {
        pattern,
        dtype: dtype.to_owned(),
        shape: shape.to_vec(),
        copies,
        elements,
    };
    let mut kinds: Vec<Kind> = found.into_iter().map(kind).collect();
    kinds.sort_by_key(|kind| std::cmp::Reverse(kind.elements));
    kinds
}

fn pattern(name: &str) -> String {
    let number = |segment: &str| !segment.is_empty() && segment.bytes().all(|byte| byte.is_ascii_digit());
    let segments: Vec<&str> =
        name.split('.').map(|segment| if number(segment) { "*" } else { segment }).collect();
    segments.join(".")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels_of(names: &[&str]) -> Vec<String> {
        group(names).into_iter().map(|group| group.label).collect()
    }

    #[test]
    fn a_decoder_reads_from_input_to_output() {
        let names = [
            "lm_head.weight",
            "model.embed_tokens.weight",
            "model.layers.10.mlp.experts.3.up_proj.weight",
            "model.layers.2.self_attn.q_proj.weight",
            "model.layers.2.self_attn.k_proj.weight",
            "model.norm.weight",
        ];
        let groups = group(&names);
        let labels: Vec<&str> = groups.iter().map(|group| group.label.as_str()).collect();
        assert_eq!(labels, ["embed_tokens", "2", "10", "norm", "lm_head"]);
        assert_eq!(groups[1].members, [3, 4]);
        assert_eq!(groups[2].layer, Some(10));
    }

    #[test]
    fn two_stacks_stay_apart() {
        let names =
            ["encoder.block.0.layer.0.wi.weight", "decoder.block.0.layer.1.wi.weight", "shared.weight"];
        assert_eq!(labels_of(&names), ["shared", "decoder 0", "encoder 0"]);
        let names = ["a.layers.0.w", "a.b.layers.0.w", "vision.layers.0.w"];
        assert_eq!(labels_of(&names), ["a.b 0", "a 0", "vision 0"]);
    }

    #[test]
    fn equal_parts_of_two_towers_keep_their_paths() {
        let names = [
            "text.embeddings.weight",
            "text.encoder.layers.0.w",
            "vision.embeddings.weight",
            "vision.encoder.layers.0.w",
        ];
        assert_eq!(labels_of(&names), ["text.embeddings", "vision.embeddings", "text 0", "vision 0"]);
    }

    #[test]
    fn odd_names_land_somewhere() {
        let names = ["", ".", "..", "weight", "w.99999999999999.b", "0.weight", "a.7", "é.1.x"];
        let members: usize = group(&names).iter().map(|group| group.members.len()).sum();
        assert_eq!(members, names.len());
        assert_eq!(labels_of(&["a", "b"]), ["a", "b"]);
        assert_eq!(labels_of(&[]), Vec::<String>::new());
    }

    #[test]
    fn equal_tensors_of_all_layers_are_one_kind() {
        let tensor =
            |name: &str, elements| TensorHealth { name: name.into(), elements, ..TensorHealth::default() };
        let kinds = kinds(&[tensor("h.0.w", 2), tensor("h.1.w", 2), tensor("e", 3)]);
        let shown: Vec<_> =
            kinds.iter().map(|kind| (kind.pattern.as_str(), kind.copies, kind.elements)).collect();
        assert_eq!(shown, [("h.*.w", 2, 4), ("e", 1, 3)]);
    }
}
