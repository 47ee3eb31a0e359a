//! `optimizer`, `schedule`, `batch`, `sampling`, `loss` and the length of a training: how numbers move.

use onefold_balance::losses::Normalisation;
use onefold_runtime::params::Kind;
use onefold_train::data::pack::Packing;
use onefold_train::data::sample::{Mixture, Order, Strategy};
use onefold_train::data::tokenize::TooLong;
use onefold_train::optimizer::{AdamW, Decay, Lion, Rule, Sgd};
use onefold_train::tune::{BatchSettings, Duration, ScheduleKind, ScheduleSettings, Span};

use super::defaults;
use crate::recipe::keys::{Keys, NOT_NEGATIVE, POSITIVE, SHARE, choice, number};
use crate::recipe::node::{Data, Node};
use crate::recipe::problems::Problems;
use crate::recipe::scalar::Meaning;

/// The rules by which weights move.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum RuleKind {
    #[default]
    AdamW,
    Sgd,
    Lion,
}

pub(super) const RULES: [(&str, RuleKind); 3] =
    [("adamw", RuleKind::AdamW), ("sgd", RuleKind::Sgd), ("lion", RuleKind::Lion)];
pub(super) const DECAYS: [(&str, Decay); 2] =
    [("matrices", Decay::Matrices), ("everything", Decay::Everything)];
pub(super) const SCHEDULES: [(&str, ScheduleKind); 4] = [
    ("constant", ScheduleKind::Constant),
    ("linear", ScheduleKind::Linear),
    ("cosine", ScheduleKind::Cosine),
    ("wsd", ScheduleKind::Wsd { decay: defaults::DECAY }),
];
pub(in crate::recipe) const TOO_LONG: [(&str, TooLong); 4] = [
    ("drop", TooLong::Drop),
    ("keep_start", TooLong::KeepStart),
    ("keep_end", TooLong::KeepEnd),
    ("split", TooLong::Split),
];
pub(super) const PACKINGS: [(&str, Packing); 2] =
    [("best_fit", Packing::BestFit), ("next_fit", Packing::NextFit)];
pub(super) const STRATEGIES: [(&str, Strategy); 3] = [
    ("size", Strategy::Size),
    ("share", Strategy::Share),
    ("temperature", Strategy::Temperature(defaults::TEMPERATURE)),
];
pub(super) const ORDERS: [(&str, Order); 2] = [("shuffled", Order::Shuffled), ("blended", Order::Blended)];
pub(super) const NORMALISATIONS: [(&str, Normalisation); 4] = [
    ("tasks", Normalisation::Case3),
    ("tokens", Normalisation::Case1),
    ("rows", Normalisation::Case2),
    ("tasks_rows", Normalisation::Case4),
];

/// The rule and what decays. Adapters learn at another rate than whole weights.
pub(in crate::recipe) fn optimizer(top: &mut Keys<'_, '_>, adapted: bool) -> (Rule, Decay) {
    let rate = defaults::LR.of(adapted);
    let Some(mut keys) = top.mapping("optimizer", "an optimizer, as in `{kind: adamw, lr: 2e-5}`") else {
        let rule = AdamW { learning_rate: rate, weight_decay: defaults::WEIGHT_DECAY, ..AdamW::default() };
        return (Rule::AdamW(rule), Decay::default());
    };
    let kind = keys.choice("kind", &RULES).unwrap_or_default();
    let weight_decay = keys.number("weight_decay", &NOT_NEGATIVE).unwrap_or(defaults::WEIGHT_DECAY);
    let decay = keys.choice("decay", &DECAYS);
    if decay.is_some() && weight_decay == 0.0 {
        keys.unused(&["decay"], "it says what decays, and nothing does: `weight_decay` is 0");
    }
    let rule = match kind {
        RuleKind::AdamW => adamw(&mut keys, rate, weight_decay),
        RuleKind::Sgd => sgd(&mut keys, weight_decay),
        RuleKind::Lion => lion(&mut keys, defaults::LR_LION.of(adapted), weight_decay),
    };
    keys.finish();
    (rule, decay.filter(|_| weight_decay > 0.0).unwrap_or_default())
}

/// β of a moving average.
const BETA: Kind = Kind::Number { min: 0.0, max: 0.999_999_999, min_open: false };

fn adamw(keys: &mut Keys<'_, '_>, rate: f64, weight_decay: f64) -> Rule {
    let plain = AdamW::default();
    let learning_rate = keys.number("lr", &POSITIVE).unwrap_or(rate);
    let beta1 = keys.number("beta1", &BETA).unwrap_or(plain.beta1);
    let beta2 = keys.number("beta2", &BETA).unwrap_or(plain.beta2);
    let epsilon = keys.number("epsilon", &POSITIVE).unwrap_or(plain.epsilon);
    keys.unused(&["momentum", "nesterov"], "`adamw` has `beta1` in place of a momentum");
    Rule::AdamW(AdamW { learning_rate, beta1, beta2, epsilon, weight_decay })
}

fn sgd(keys: &mut Keys<'_, '_>, weight_decay: f64) -> Rule {
    let learning_rate = keys.number("lr", &POSITIVE);
    if learning_rate.is_none() && !keys.has("lr") {
        let help = "what is a good rate for `sgd` depends on the model and its loss; try 0.01";
        keys.problems.error(keys.place, &keys.path, "no `lr`", Some(help.to_owned()));
    }
    let momentum = keys.number("momentum", &BETA).unwrap_or_default();
    let nesterov = keys.flag("nesterov").unwrap_or_default();
    if nesterov && momentum == 0.0 {
        keys.unused(&["nesterov"], "it looks ahead by a momentum, and there is none");
    }
    keys.unused(&["beta1", "beta2", "epsilon"], "`sgd` has `momentum` alone");
    let learning_rate = learning_rate.unwrap_or(1.0);
    Rule::Sgd(Sgd { learning_rate, momentum, nesterov: nesterov && momentum > 0.0, weight_decay })
}

fn lion(keys: &mut Keys<'_, '_>, rate: f64, weight_decay: f64) -> Rule {
    let plain = Lion::default();
    let learning_rate = keys.number("lr", &POSITIVE).unwrap_or(rate);
    let beta1 = keys.number("beta1", &BETA).unwrap_or(plain.beta1);
    let beta2 = keys.number("beta2", &BETA).unwrap_or(plain.beta2);
    keys.unused(&["epsilon", "momentum", "nesterov"], "`lion` has `beta1` and `beta2` alone");
    Rule::Lion(Lion { learning_rate, beta1, beta2, weight_decay })
}

/// The schedule of a whole training, if nothing is said.
pub(super) const COSINE: ScheduleSettings =
    ScheduleSettings { kind: ScheduleKind::Cosine, warmup: defaults::WARMUP, floor: defaults::MIN_LR_RATIO };

/// The schedule; what is not said is as in `plain`.
pub(in crate::recipe) fn schedule(top: &mut Keys<'_, '_>, plain: ScheduleSettings) -> ScheduleSettings {
    let Some(mut keys) = top.mapping("schedule", "a schedule, as in `{kind: cosine, warmup: 0.03}`") else {
        return plain;
    };
    let mut kind = keys.choice("kind", &SCHEDULES).unwrap_or(plain.kind);
    let warmup = span(&mut keys, "warmup").unwrap_or(plain.warmup);
    if let ScheduleKind::Wsd { decay } = &mut kind {
        *decay = span(&mut keys, "decay").unwrap_or(*decay);
    } else {
        keys.unused(&["decay"], "only `wsd` has a decay of its own; the others fall all the time, or never");
    }
    let mut floor = plain.floor;
    if kind == ScheduleKind::Constant {
        keys.unused(&["min_lr_ratio"], "a constant rate does not fall");
        floor = 0.0;
    } else {
        floor = keys.number("min_lr_ratio", &SHARE).unwrap_or(floor);
    }
    keys.finish();
    ScheduleSettings { kind, warmup, floor }
}

/// Below 1 a share of the training, else steps.
fn span(keys: &mut Keys<'_, '_>, key: &'static str) -> Option<Span> {
    let number = keys.number(key, &NOT_NEGATIVE)?;
    if number < 1.0 {
        return Some(Span::Share(number));
    }
    if number.fract() != 0.0 || number > 1e15 {
        let message = format!("expected a share below 1, or a whole number of steps, found {number}");
        keys.error(key, message, None);
    }
    Some(Span::Steps(number as u64))
}

/// What `batch` says.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(in crate::recipe) struct Batch {
    pub(in crate::recipe) settings: BatchSettings,
    pub(in crate::recipe) length: Option<usize>,
    pub(in crate::recipe) packing: Option<Packing>,
    pub(in crate::recipe) too_long: TooLong,
}

pub(in crate::recipe) fn batch(top: &mut Keys<'_, '_>) -> Batch {
    let settings = BatchSettings { examples: defaults::EXAMPLES as usize, micro: defaults::MICRO as usize };
    let plain = Batch { settings, length: None, packing: None, too_long: TooLong::default() };
    let Some(mut keys) = top.mapping("batch", "a batch, as in `{examples: 32, micro: 8}`") else {
        return plain;
    };
    let examples = keys.count("examples", 1).unwrap_or(defaults::EXAMPLES) as usize;
    let micro = keys.count("micro", 1).map(|micro| micro as usize);
    if let Some(micro) = micro.filter(|micro| *micro > examples) {
        let message = format!("{micro} rows at once of a step of {examples}");
        keys.error("micro", message, Some("`examples` is the whole step, `micro` a part of it"));
    }
    let micro = micro.unwrap_or(examples.min(defaults::MICRO as usize));
    let length = keys.number("length", &Kind::Integer { min: 2, max: i64::from(u32::MAX) });
    let packing = packing(&mut keys);
    if packing.is_some() && length.is_none() && !keys.has("length") {
        keys.error("packing", "no `length`", Some("say how many tokens a packed row has: `length: 512`"));
    }
    let too_long = keys.choice("too_long", &TOO_LONG);
    if length.is_none() {
        keys.unused(&["too_long"], "nothing is too long without a `length`");
    }
    keys.finish();
    Batch {
        settings: BatchSettings { examples, micro },
        length: length.map(|length| length as usize),
        packing,
        too_long: too_long.filter(|_| length.is_some()).unwrap_or_default(),
    }
}

/// True and false, or a way of packing.
fn packing(keys: &mut Keys<'_, '_>) -> Option<Packing> {
    let (node, path) = (keys.node("packing")?, keys.path("packing"));
    match node.data {
        Data::Scalar { meaning: Meaning::Bool(flag), .. } => flag.then(Packing::default),
        _ => choice(node, &path, &PACKINGS, keys.problems),
    }
}

/// How tasks are mixed, without packing.
pub(super) fn sampling(top: &mut Keys<'_, '_>, seed: u64) -> Mixture {
    let mut mixture = Mixture { seed, ..Mixture::default() };
    let Some(mut keys) = top.mapping("sampling", "how tasks are mixed, as in `{strategy: temperature}`")
    else {
        return mixture;
    };
    mixture.strategy = keys.choice("strategy", &STRATEGIES).unwrap_or_default();
    if let Strategy::Temperature(temperature) = &mut mixture.strategy {
        *temperature = keys.number("temperature", &POSITIVE).unwrap_or(*temperature);
    } else {
        keys.unused(&["temperature"], "only the strategy `temperature` has one");
    }
    mixture.floor = keys.number("floor", &SHARE).unwrap_or(mixture.floor);
    mixture.cap = keys.number("cap", &SHARE).unwrap_or(mixture.cap);
    mixture.samples = keys.count("samples", 1).map(|samples| samples as usize);
    mixture.order = keys.choice("order", &ORDERS).unwrap_or_default();
    keys.finish();
    mixture
}

pub(in crate::recipe) fn loss(top: &mut Keys<'_, '_>) -> (Normalisation, f32) {
    let Some(mut keys) = top.mapping("loss", "a loss, as in `{normalisation: tasks}`") else {
        return (Normalisation::Case3, 0.0);
    };
    let normalisation = keys.choice("normalisation", &NORMALISATIONS).unwrap_or(Normalisation::Case3);
    let smoothing = keys.number("smoothing", &SHARE).unwrap_or_default();
    keys.finish();
    (normalisation, smoothing as f32)
}

/// `epochs` or `steps`.
pub(super) fn duration(top: &mut Keys<'_, '_>) -> Duration {
    let epochs = top.number("epochs", &POSITIVE);
    let steps = top.count("steps", 1);
    if top.has("epochs") && top.has("steps") {
        top.error("steps", "both `epochs` and `steps`", Some("leave one of them out"));
    }
    match steps {
        Some(steps) => Duration::Steps(steps),
        None => Duration::Epochs(epochs.unwrap_or(defaults::EPOCHS)),
    }
}

/// Steps between lines of the log, if nothing is said.
pub(in crate::recipe) const LOG: u64 = defaults::LOG;

/// A limit of the norm; `false` for none.
pub(in crate::recipe) fn clip(node: Option<&Node>, problems: &mut Problems) -> Option<f64> {
    match node.map(|node| (node, &node.data)) {
        None => Some(defaults::CLIP),
        Some((_, Data::Scalar { meaning: Meaning::Bool(false), .. })) => None,
        Some((node, _)) => number(node, "clip", &POSITIVE, problems),
    }
}
