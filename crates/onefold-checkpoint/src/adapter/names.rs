//! Names: what each tensor of an adapter file is, and which tensor of the base it belongs to.
//!
//! PEFT writes `base_model.model.<path>.lora_A.weight` and its like, where `<path>` is the module in the model that
//! was trained. The base may have been saved from another class of the same model, with a prefix more or less
//! (`model.layers…` or `layers…`, `transformer.h…` or `h…`); then a name is matched by its end, if that is unique and
//! all names differ in the same way.

use std::collections::BTreeMap;

use super::{AdapterError, vit};
use crate::Tensor;

/// What every name of an adapter file begins with.
const ROOT: &str = "base_model.model.";
/// How many components a prefix may have. Limits the memory that hostile names can take.
const PREFIX_DEPTH: usize = 4;

/// The parts an adapted module may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Part {
    A,
    B,
    EmbeddingA,
    EmbeddingB,
    Bias,
    Magnitude,
    Tokens,
}

/// Ends of names; older PEFT wrote the magnitude with `.weight`.
const PARTS: [(&str, Part); 8] = [
    (".lora_A.weight", Part::A),
    (".lora_B.weight", Part::B),
    (".lora_B.bias", Part::Bias),
    (".lora_embedding_A", Part::EmbeddingA),
    (".lora_embedding_B", Part::EmbeddingB),
    (".lora_magnitude_vector", Part::Magnitude),
    (".lora_magnitude_vector.weight", Part::Magnitude),
    (".token_adapter.trainable_tokens_delta", Part::Tokens),
];

impl Part {
    /// As it is called in files.
    pub(super) fn name(self) -> &'static str {
        PARTS.iter().find(|(_, part)| *part == self).map_or("", |(end, _)| &end[1..])
    }
}

/// The parts of one adapted module.
#[derive(Debug, Default)]
pub(super) struct Module {
    parts: BTreeMap<Part, Tensor>,
}

impl Module {
    pub(super) fn get(&self, part: Part) -> Option<&Tensor> {
        self.parts.get(&part)
    }
}

/// All tensors of an adapter file, by what they are.
#[derive(Debug, Default)]
pub(super) struct Parts {
    /// Adapted modules by path.
    pub(super) modules: BTreeMap<String, Module>,
    /// Whole tensors by the name they have in the model.
    pub(super) whole: BTreeMap<String, Tensor>,
}

impl Parts {
    /// Sorts the tensors of an adapter file.
    pub(super) fn sort(tensors: &BTreeMap<String, Tensor>, errors: &mut Vec<AdapterError>) -> Self {
        let mut parts = Self::default();
        for (full, tensor) in tensors {
            let unknown = || AdapterError::UnknownTensor { tensor: full.clone() };
            let Some(name) = full.strip_prefix(ROOT) else {
                errors.push(unknown());
                continue;
            };
            let end = PARTS.iter().find_map(|(end, part)| Some((name.strip_suffix(end)?, *part)));
            let (target, twice) = match end {
                Some((path, part)) => {
                    let module = parts.modules.entry(path.to_owned()).or_default();
                    (format!("{path}.{}", part.name()), module.parts.insert(part, tensor.clone()).is_some())
                }
                None if name.contains(".lora_") || name.contains("trainable_tokens") => {
                    errors.push(unknown());
                    continue;
                }
                // What an adapted module had of its own: the trained bias, or the embedding the delta is added to.
                None => {
                    let name = name.replace(".base_layer.", ".");
                    (name.clone(), parts.whole.insert(name, tensor.clone()).is_some())
                }
            };
            if twice {
                let (first, second) = (format!("{ROOT}{target}"), full.clone());
                errors.push(AdapterError::Conflict { target, first, second });
            }
        }
        parts
    }
}

/// Whether `name` lies in a module whose path ends with `module`, at a boundary between components.
pub(super) fn lies_in(name: &str, module: &str) -> bool {
    name.match_indices('.').any(|(dot, _)| ends_with_path(&name[..dot], module))
}

/// Whether `path` is `end` or ends with it after a dot.
pub(super) fn ends_with_path(path: &str, end: &str) -> bool {
    path.strip_suffix(end).is_some_and(|before| before.is_empty() || before.ends_with('.'))
}

/// Finds tensors of the base for names of the adapter.
#[derive(Debug)]
pub(super) struct Targets<'a> {
    base: &'a BTreeMap<String, Tensor>,
    /// Name ends, after up to [`PREFIX_DEPTH`] components, to the names that have them.
    ends: BTreeMap<&'a str, Vec<&'a str>>,
    /// How names differ, with an example.
    difference: Option<(Difference, String)>,
}

#[derive(Debug, PartialEq, Eq)]
enum Difference {
    /// The base has this in front of the adapter's names.
    More(String),
    /// The adapter's names have this in front of the base's.
    Fewer(String),
}

impl<'a> Targets<'a> {
    pub(super) fn new(base: &'a BTreeMap<String, Tensor>) -> Self {
        let mut ends: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for name in base.keys() {
            for end in shorter(name) {
                ends.entry(end).or_default().push(name);
            }
        }
        Self { base, ends, difference: None }
    }

    /// The name in the base of what the adapter calls `wanted`; `None` if there is nothing like it.
    ///
    /// # Errors
    /// If several names fit, or if this one differs in another way than those before.
    pub(super) fn find(&mut self, wanted: &str) -> Result<Option<String>, AdapterError> {
        match self.find_named(wanted)? {
            None => vit::in_files(wanted).map_or(Ok(None), |named| self.find_named(&named)),
            found => Ok(found),
        }
    }

    /// `wanted` itself, or the name of which it is an end, or which is an end of it.
    fn find_named(&mut self, wanted: &str) -> Result<Option<String>, AdapterError> {
        if self.base.contains_key(wanted) {
            return Ok(Some(wanted.to_owned()));
        }
        let more = self.ends.get(wanted).into_iter().flatten().copied();
        let fewer =
            shorter(wanted).filter_map(|end| self.base.get_key_value(end)).map(|(name, _)| name.as_str());
        let candidates: Vec<&str> = more.chain(fewer).collect();
        match candidates[..] {
            [] => Ok(None),
            [one] => self.accept(wanted, one).map(Some),
            _ => Err(AdapterError::AmbiguousTarget {
                wanted: wanted.to_owned(),
                candidates: candidates.iter().take(4).map(|s| (*s).to_owned()).collect(),
            }),
        }
    }

    fn accept(&mut self, wanted: &str, found: &str) -> Result<String, AdapterError> {
        let difference = match found.strip_suffix(wanted) {
            Some(prefix) => Difference::More(prefix.to_owned()),
            None => Difference::Fewer(wanted.strip_suffix(found).unwrap_or_default().to_owned()),
        };
        let example = format!("{wanted} -> {found}");
        match &self.difference {
            Some((first, first_example)) if *first != difference => {
                let (first, second) = (first_example.clone(), example);
                return Err(AdapterError::MixedPrefixes { first, second });
            }
            Some(_) => {}
            None => self.difference = Some((difference, example)),
        }
        Ok(found.to_owned())
    }
}

/// `name` without its first component, without its first two, …; at least a module and its parameter remain.
fn shorter(name: &str) -> impl Iterator<Item = &str> {
    let ends = name.match_indices('.').take(PREFIX_DEPTH).map(|(dot, _)| &name[dot + 1..]);
    ends.filter(|end| end.contains('.'))
}
