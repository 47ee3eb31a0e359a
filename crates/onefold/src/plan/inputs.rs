//! What a model holds under a name, or what stands for it: another prefix, the embedding for a tied head, rows gathered for
//! the output's vocabulary.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use onefold_checkpoint::Tensor;

use super::gather::Gathered;
use super::sections::Part;
use super::wanted::Wanted;
use super::{Found, Planner, names, vocabulary};
use crate::models::Model;

impl<'r> Planner<'r> {
    /// The tensor of a model, or what stands for it: the embedding for a tied head; rebuilt for the output's vocabulary.
    pub(super) fn input(&self, part: Part<'r>, name: &str, found: &mut Found) -> Option<Tensor> {
        let own = |model: usize| self.names[model].get(name).cloned().or_else(|| self.tied_head(model, name));
        let tensor = own(part.model)?;
        let Some(built) = &self.vocabulary else { return Some(tensor) };
        if !vocabulary::is_by_token(self.models[part.model], name, &tensor.shape) {
            return Some(tensor);
        }
        let all: Vec<Option<Tensor>> = (0..self.models.len()).map(own).collect();
        let widths: BTreeSet<&[usize]> = all.iter().flatten().map(|t| &t.shape[1..]).collect();
        if widths.len() > 1 {
            found.problem(name, format!("the models' embeddings differ in width: {widths:?}"));
            return None;
        }
        Gathered::tensor(&all, part.model, built)
    }

    /// The embedding of a model that stores no head because both are one.
    fn tied_head(&self, model: usize, name: &str) -> Option<Tensor> {
        self.tied_to(model, name).map(|(_, tensor)| tensor.clone())
    }

    /// The same with its name.
    pub(super) fn tied_to(&self, model: usize, name: &str) -> Option<(&String, &Tensor)> {
        let tied =
            self.models[model].config_value("tie_word_embeddings").and_then(serde_json::Value::as_bool);
        if !names::is_head(name) || tied == Some(false) {
            return None;
        }
        self.names[model].iter().find(|(n, t)| names::is_input_embedding(n) && t.shape.len() == 2)
    }

    /// Whether a head is wanted only because some model stores the copy of its tied embedding; then it is not written,
    /// as the donor does not. If a head differs from its embedding the output is untied.
    pub(super) fn is_only_tied(
        &self,
        wanted: &Wanted<'_, '_>,
        operands: &[(Part<'r>, &String, Option<Tensor>)],
    ) -> bool {
        if !names::is_head(&wanted.output) {
            return false;
        }
        let parts = operands
            .iter()
            .map(|(p, n, _)| (p.model, *n))
            .chain(wanted.slice.origin.iter().zip(&wanted.origin).map(|(p, n)| (p.model, n)));
        let stored: Vec<bool> = parts.map(|(m, n)| self.stores_own_head(m, n)).collect();
        !stored.contains(&true) && !self.names[self.donor].contains_key(&wanted.output)
    }

    /// Whether a model stores a head that is not a copy of its embedding.
    pub(super) fn stores_own_head(&self, model: usize, name: &str) -> bool {
        let Some(head) = self.names[model].get(name) else { return false };
        let Some((_, embedding)) = self.names[model].iter().find(|(n, _)| names::is_input_embedding(n))
        else {
            return true;
        };
        match (head.stored(), embedding.stored()) {
            (Some(a), Some(b)) => a.dtype != b.dtype || a.bytes != b.bytes,
            _ => true,
        }
    }
}

/// What a model's names are called in the donor.
pub(super) enum Naming<'d> {
    /// The same.
    Same,
    /// What the donor does not have as it is lacks (`true`) or has this prefix.
    Prefixed(&'d BTreeMap<String, Tensor>, String, bool),
}

impl Naming<'_> {
    /// A name of the model, in the donor.
    pub(super) fn of(&self, name: &str) -> String {
        match self {
            Self::Same => name.to_owned(),
            Self::Prefixed(theirs, ..) if theirs.contains_key(name) => name.to_owned(),
            Self::Prefixed(_, prefix, true) => format!("{prefix}.{name}"),
            Self::Prefixed(_, prefix, false) => strip(prefix, name).unwrap_or_else(|| name.to_owned()),
        }
    }
}

fn strip(prefix: &str, name: &str) -> Option<String> {
    name.strip_prefix(prefix)?.strip_prefix('.').map(str::to_owned)
}

/// A model's tensors under the donor's naming.
pub(super) fn named_like<'m>(donor: &Model, model: &'m Model) -> Cow<'m, BTreeMap<String, Tensor>> {
    let ours = model.checkpoint.tensors();
    match naming(donor, model) {
        Naming::Same => Cow::Borrowed(ours),
        naming => Cow::Owned(ours.iter().map(|(n, t)| (naming.of(n), t.clone())).collect()),
    }
}

/// How a model's names become the donor's: some checkpoints are saved with the base model's prefix (`model.`, `bert.`),
/// some without.
pub(super) fn naming<'d>(donor: &'d Model, model: &Model) -> Naming<'d> {
    let (theirs, ours) = (donor.checkpoint.tensors(), model.checkpoint.tensors());
    let common = |rename: &dyn Fn(&str) -> Option<String>| {
        ours.keys().filter(|n| rename(n).is_some_and(|n| theirs.contains_key(&n))).count()
    };
    let as_is = ours.keys().filter(|n| theirs.contains_key(*n)).count();
    if as_is * 2 >= ours.len() {
        return Naming::Same;
    }
    let prefixes: BTreeSet<&str> =
        theirs.keys().chain(ours.keys()).filter_map(|n| n.split_once('.')).map(|(p, _)| p).collect();
    let add = |prefix: &str, n: &str| format!("{prefix}.{n}");
    let best = prefixes
        .iter()
        .flat_map(|p| [(common(&|n| Some(add(p, n))), *p, true), (common(&|n| strip(p, n)), *p, false)])
        .max_by_key(|(count, _, _)| *count);
    let Some((count, prefix, adds)) = best.filter(|(count, _, _)| *count > as_is) else {
        return Naming::Same;
    };
    debug_assert!(count > 0);
    Naming::Prefixed(theirs, prefix.to_owned(), adds)
}

/// Models that are one although the recipe spells them differently: their weights would be taken for two experts'.
pub(super) fn same_twice(models: &[&Model]) -> Vec<String> {
    let real = |model: &Model| -> Vec<_> {
        model.dirs.iter().map(|dir| dir.canonicalize().unwrap_or_else(|_| dir.clone())).collect()
    };
    let same = |a: &Model, b: &Model| a.origin.task == b.origin.task && real(a) == real(b);
    let pairs = models.iter().enumerate().flat_map(|(i, a)| models[i + 1..].iter().map(move |b| (*a, *b)));
    let sentence = |(a, b): (&Model, &Model)| {
        format!("models {} and {} are one directory: spell it in one way, and list it once", a.label, b.label)
    };
    pairs.filter(|(a, b)| same(a, b)).map(sentence).collect()
}

/// Quantised weights are packed integers: averaging their scales, or copying them, would be silently wrong.
pub(super) fn quantised(model: &Model) -> Option<String> {
    let config = model.config.as_ref()?;
    let quantisation = config
        .get("quantization_config")
        .or_else(|| config.get("text_config")?.get("quantization_config"))?;
    if quantisation.is_null() {
        return None;
    }
    let kind = quantisation.get("quant_method").and_then(|v| v.as_str()).unwrap_or("unknown method");
    Some(format!(
        "model {}: its weights are quantised ({kind}); dequantise it with transformers first",
        model.label
    ))
}
