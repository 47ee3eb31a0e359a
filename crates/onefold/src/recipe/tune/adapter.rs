//! `adapter` and `freeze`: which parameters are trained.

use onefold_runtime::params::Kind;
use onefold_train::model::AdapterSettings;
use onefold_train::tune::{Targets, Trainable};

use super::defaults;
use crate::recipe::keys::{Keys, POSITIVE, texts};
use crate::recipe::node::{Data, Node};
use crate::recipe::problems::Problems;

/// Kinds of adapters: whether they are rank-stabilised, and whether they are decomposed.
pub(super) const KINDS: [(&str, (bool, bool)); 3] =
    [("lora", (false, false)), ("rslora", (true, false)), ("dora", (false, true))];
/// The word for all linear maps of the layers.
pub(super) const ALL_LINEAR: &str = "all-linear";

pub(in crate::recipe) fn read(top: &mut Keys<'_, '_>, seed: u64) -> Trainable {
    let adapter = top.mapping("adapter", "an adapter, as in `{kind: lora, r: 16}`").map(|mut keys| {
        let read = adapter(&mut keys, seed);
        keys.finish();
        read
    });
    let freeze = top.texts("freeze", "parts of names of weights").unwrap_or_default();
    Trainable { adapter, freeze }
}

fn adapter(keys: &mut Keys<'_, '_>, seed: u64) -> (AdapterSettings, Targets) {
    let (rank_stabilised, decomposed) = keys.choice("kind", &KINDS).unwrap_or_default();
    let rank = keys.number("r", &Kind::Integer { min: 1, max: 1 << 16 });
    let rank = rank.unwrap_or(defaults::RANK as f64) as usize;
    let alpha = keys.number("alpha", &POSITIVE).unwrap_or(defaults::ALPHA_PER_RANK * rank as f64);
    let dropout = keys.number("dropout", &Kind::Number { min: 0.0, max: 0.999, min_open: false });
    let settings = AdapterSettings {
        rank,
        alpha,
        rank_stabilised,
        decomposed,
        dropout: dropout.unwrap_or_default(),
        seed,
    };
    let path = keys.path("targets");
    let targets = keys.node("targets").and_then(|node| targets(node, &path, keys.problems));
    (settings, targets.unwrap_or(Targets::AllLinear))
}

/// A list of names; `all-linear`; else a regular expression, as in PEFT.
fn targets(node: &Node, path: &str, problems: &mut Problems) -> Option<Targets> {
    let what = "`all-linear`, a list of module names, or a regular expression";
    let mut texts = texts(node, path, what, problems)?;
    if matches!(node.data, Data::List(_)) {
        return Some(Targets::Names(texts));
    }
    let text = texts.pop()?;
    Some(if text == ALL_LINEAR { Targets::AllLinear } else { Targets::Pattern(text) })
}
