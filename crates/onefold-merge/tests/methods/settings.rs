//! Parameters for every method, from its table alone.

use onefold_merge::methods::{BaseRole, Method};
use onefold_merge::params::{Default, Kind, Level, Param, Value};
use onefold_merge::task::Values;

use crate::harness::{Input, Job};

/// One way to call a method.
#[derive(Debug, Clone)]
pub(crate) struct Variant {
    pub(crate) label: String,
    pub(crate) global: Values,
    /// Whether a base is given, where that is a choice.
    pub(crate) base: bool,
}

/// Numbers of experts (the base not counted) to try.
pub(crate) fn expert_counts(method: &Method, wanted: &[usize]) -> Vec<usize> {
    let own = usize::from(method.base == BaseRole::Operand);
    let (least, most) = (method.operands.0 - own, method.operands.1.saturating_sub(own));
    let mut counts: Vec<usize> = wanted.iter().map(|k| (*k).clamp(least, most)).collect();
    counts.dedup();
    counts
}

/// Whether the method can do without a base.
fn base_is_optional(method: &Method) -> bool {
    matches!(method.base, BaseRole::OptionalOperand | BaseRole::OptionalOrigin)
}

/// Whether task vectors are taken when a base is given.
pub(crate) fn has_origin(method: &Method, base: bool) -> bool {
    method.base == BaseRole::Origin || (base && method.base == BaseRole::OptionalOrigin)
}

/// A value that makes the parameter matter: not the one that switches a part of the method off.
fn sensible(param: &Param, model: usize) -> Option<Value> {
    let number = match (param.name, param.kind, param.default) {
        ("weight", ..) => 0.6 - 0.1 * (model % 5) as f64,
        ("density", ..) => 0.5 + 0.1 * (model % 3) as f64,
        ("gamma", ..) => 0.1,
        ("t", ..) => 0.3,
        ("select_topk", ..) => 0.7,
        (_, Kind::Number { min, max, .. }, Default::Required) => match (min.is_finite(), max.is_finite()) {
            (true, true) => (min + max) / 2.0,
            (true, false) => min + 1.0,
            (false, true) => max - 1.0,
            (false, false) => 0.5,
        },
        (_, Kind::Integer { min, .. }, Default::Required) => min as f64,
        (name, _, Default::Required) => panic!("say in `sensible` what `{name}` is to be"),
        _ => return None,
    };
    Some(param.kind.check(&Value::Number(number)).expect("inside of the range"))
}

/// Every value of a parameter that has finitely many.
fn alternatives(param: &Param) -> Vec<Value> {
    let words = |words: &[&str]| words.iter().map(|w| Value::Text((*w).to_owned())).collect::<Vec<_>>();
    let flags = vec![Value::Flag(false), Value::Flag(true)];
    match param.kind {
        Kind::Choice(list) => words(list),
        Kind::Flag => flags,
        Kind::FlagOr(list) => [flags, words(list)].concat(),
        Kind::Number { .. } | Kind::Integer { .. } | Kind::TextList => Vec::new(),
    }
}

/// The values of the model-level parameters of an expert.
pub(crate) fn model_values(method: &Method, model: usize) -> Values {
    let own = method.params.iter().filter(|p| p.level == Level::Model);
    own.filter_map(|p| Some((p.name, sensible(p, model)?))).collect()
}

fn plain(method: &Method) -> Values {
    let shared = method.params.iter().filter(|p| p.level == Level::Global);
    shared.filter_map(|p| Some((p.name, sensible(p, 0)?))).collect()
}

/// The plain variant, then one for each `(parameter, value)` in `sets`.
fn variants_of(method: &Method, sets: &[Vec<(&'static str, Value)>]) -> Vec<Variant> {
    let bases = if base_is_optional(method) { vec![true, false] } else { vec![true] };
    let mut variants = Vec::new();
    for base in bases {
        for set in std::iter::once(Vec::new()).chain(sets.iter().cloned()) {
            let names: Vec<String> = set.iter().map(|(n, v)| format!("{n}={v:?}")).collect();
            let global = plain(method).into_iter().chain(set).collect();
            let label = format!("{} [{}] base={base}", method.name, names.join(" "));
            variants.push(Variant { label, global, base });
        }
    }
    variants
}

fn choices(method: &Method) -> Vec<(&'static str, Value)> {
    let each = |p: &'static Param| alternatives(p).into_iter().map(|v| (p.name, v));
    method.params.iter().filter(|p| p.level == Level::Global).flat_map(each).collect()
}

/// The plain call of a method and all that differ in one choice.
pub(crate) fn variants(method: &Method) -> Vec<Variant> {
    let singles: Vec<_> = choices(method).into_iter().map(|c| vec![c]).collect();
    variants_of(method, &singles)
}

/// All calls that differ in up to two choices.
pub(crate) fn pairs(method: &Method) -> Vec<Variant> {
    let singles = choices(method);
    let mut sets: Vec<_> = singles.iter().map(|c| vec![c.clone()]).collect();
    for (i, a) in singles.iter().enumerate() {
        let others = singles[i + 1..].iter().filter(|b| b.0 != a.0);
        sets.extend(others.map(|b| vec![a.clone(), b.clone()]));
    }
    variants_of(method, &sets)
}

impl Variant {
    /// The job on these inputs.
    pub(crate) fn job(&self, method: &'static Method, inputs: Vec<Input>) -> Job {
        let mut job = Job::new(method.name, inputs);
        job.global.clone_from(&self.global);
        for (i, expert) in job.experts.iter_mut().enumerate() {
            expert.values = model_values(method, i);
        }
        if !self.base && base_is_optional(method) {
            job.inputs.iter_mut().for_each(|input| input.base = None);
        }
        job
    }
}
