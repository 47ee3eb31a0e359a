//! What a reader should know before trusting a merge: thresholds, and sentences that say what to do.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use super::derived::Derived;
use super::health::{Gramian, Health, Layout, TensorHealth};
use super::show::{counted, number, percent, tidy};

/// One coefficient that outweighs all others together; MetaGPT then nearly returns that expert.
const DOMINANT: f64 = 0.8;
/// Task vectors of independent fine-tunes are nearly orthogonal; MetaGPT's paper sees no pair near this.
const OVERLAP: f64 = 0.2;
/// Above this cosine two task vectors are one and the same up to rounding of the stored type.
const IDENTICAL: f64 = 0.9999;
/// ‖θ_i − θ_j‖ below this share of ‖θ_i‖ means the same model, when no base is known.
const SAME_MODEL: f64 = 1e-6;
/// Experts of one base rarely differ more than this in length.
const UNEQUAL: f64 = 10.0;
/// A fine-tune moves a model by a few percent; half its length means another starting point.
const FAR: f64 = 0.5;

/// Sentences of one kind before the rest is only counted.
const EACH: usize = 3;

/// One warning.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Warning {
    /// Stable word for scripts: `run`, `non_finite`, `model_stock_range`, `zero_task_vector`, `identical_experts`, `overlap`,
    /// `dominant_expert`, `unequal_norms` or `far_from_base`.
    pub code: &'static str,
    /// The sentence for people.
    pub message: String,
}

/// The job's own warnings first, then those the figures give rise to, gravest first.
pub(crate) fn all(health: &Health, layout: &Layout, derived: &Derived, gramian: &Gramian) -> Vec<Warning> {
    let own = health.warnings.iter().map(|message| ("run", message.clone()));
    let mut found: Vec<(&'static str, String)> = own.collect();
    found.extend(non_finite(health, layout).map(|message| ("non_finite", message)));
    found.extend(model_stock_range(health).map(|message| ("model_stock_range", message)));
    if layout.vectors > 0 && !layout.single() {
        let names: Vec<String> = health.experts.iter().map(|name| tidy(name, 60)).collect();
        let about =
            zero(&names, layout, derived).into_iter().chain(pairs(health, &names, layout, derived, gramian));
        found.extend(brief(about.chain(lengths(&names, derived)).collect()));
    }
    found.into_iter().map(|(code, message)| Warning { code, message }).collect()
}

/// The first few sentences of each kind; the last of them counts the rest.
fn brief(found: Vec<(&'static str, String)>) -> Vec<(&'static str, String)> {
    let mut left: BTreeMap<&str, usize> = BTreeMap::new();
    found.iter().for_each(|(code, _)| *left.entry(code).or_default() += 1);
    let mut shown: BTreeMap<&str, usize> = BTreeMap::new();
    let keep = |(code, message): (&'static str, String)| {
        let (left, shown) = (left.get_mut(code)?, shown.entry(code).or_default());
        (*left, *shown) = (*left - 1, *shown + 1);
        match *shown {
            EACH if *left > 0 => {
                Some((code, format!("{message} The same is true of {}.", counted(*left as u64, "other"))))
            }
            ..=EACH => Some((code, message)),
            _ => None,
        }
    };
    found.into_iter().filter_map(keep).collect()
}

fn non_finite(health: &Health, layout: &Layout) -> Option<String> {
    let bad = health.tensors.iter().flat_map(|tensor| {
        let count = |counts: &[u64], model: usize| counts.get(model).copied().unwrap_or(0);
        (0..tensor.nan.len().max(tensor.inf.len())).filter_map(move |model| {
            let (nan, inf) = (count(&tensor.nan, model), count(&tensor.inf, model));
            (nan > 0 || inf > 0).then_some((tensor, model, nan, inf))
        })
    });
    let places = bad.clone().count();
    let (tensor, model, nan, inf) = bad.into_iter().next()?;
    let more = if places > 1 {
        format!(", and {}", counted(places as u64 - 1, "more place"))
    } else {
        String::new()
    };
    Some(format!(
        "Weights that are not finite: {nan} NaN and {inf} Inf in {} of {}{more}. \
         Every figure that includes them is void; find out which training run broke before using this model.",
        tidy(&tensor.name, 80),
        tidy(&layout.model_name(health, model), 60),
    ))
}

/// Model Stock's `t = N c/(1 + (N−1) c)` (c the mean cosine) has a pole at `c = −1/(N−1)`: where the experts undo each other
/// it goes far beyond both ends, the base (0) and the mean of the experts (1).
fn model_stock_range(health: &Health) -> Option<String> {
    if health.method.as_deref() != Some("model_stock") {
        return None;
    }
    // t is the sum of N coefficients t/N: of the tensor's, or of the extreme rows'.
    let steps = health.tensors.iter().flat_map(|tensor| {
        let whole = tensor.coefficients.as_ref().map(|c| c.iter().sum::<f64>());
        whole.into_iter().chain(tensor.row_sums.into_iter().flatten()).map(move |t| (t, tensor))
    });
    // Rounding makes a 1 of equal experts slightly more.
    let outside = |t: f64| (-t).max(t - 1.0);
    let mut beyond: Vec<(f64, &TensorHealth)> = steps.filter(|(t, _)| outside(*t) > 1e-6).collect();
    beyond.sort_by(|a, b| outside(b.0).total_cmp(&outside(a.0)));
    let mut seen = BTreeSet::new();
    beyond.retain(|(_, tensor)| seen.insert(tensor.name.as_str()));
    let &(t, tensor) = beyond.first()?;
    let row = if tensor.row_sums.is_some() { "a row of " } else { "" };
    let more = match beyond.len() {
        1 => String::new(),
        all => format!(", the furthest of {}", counted(all as u64, "tensor")),
    };
    Some(format!(
        "Model Stock takes t = {} in {row}{}{more}, outside of 0 (the base) to 1 (the mean of the experts). The task vectors \
         point against each other there, so that the angle says little; merge experts of the same task, or compare \
         another method.",
        number(t),
        tidy(&tensor.name, 80),
    ))
}

fn zero(names: &[String], layout: &Layout, derived: &Derived) -> Vec<(&'static str, String)> {
    let what = if layout.base {
        "equals the base: its task vector is zero, so it adds nothing"
    } else {
        "is all zeros"
    };
    let zero = names.iter().zip(&derived.experts).filter(|(_, expert)| expert.norm == 0.0);
    zero.map(|(name, _)| ("zero_task_vector", format!("{name} {what}. Check that its path is right.")))
        .collect()
}

/// Identical pairs one by one; overlapping pairs as one sentence about the worst of them.
fn pairs(
    health: &Health,
    names: &[String],
    layout: &Layout,
    derived: &Derived,
    gramian: &Gramian,
) -> Vec<(&'static str, String)> {
    let mut found = Vec::new();
    let mut overlaps: Vec<(f64, usize, usize)> = Vec::new();
    for i in 0..names.len() {
        for j in i + 1..names.len() {
            let Some(cosine) = derived.cosine.get(i).and_then(|row| row[j]) else { continue };
            if identical(layout, derived, gramian, (i, j)) {
                found.push(("identical_experts", same(&names[i], &names[j])));
            } else if layout.base && cosine.abs() > OVERLAP {
                overlaps.push((cosine, i, j));
            }
        }
    }
    // The first of equals, as max_by would take the last.
    overlaps.sort_by(|a, b| b.0.abs().total_cmp(&a.0.abs()));
    found.extend(overlaps.first().map(|&(cosine, i, j)| {
        let which = if overlaps.len() == 1 { "The task vectors" } else { "Some task vectors" };
        let among = match overlaps.len() {
            1 => String::new(),
            pairs => format!(" ({} above {OVERLAP})", counted(pairs as u64, "pair")),
        };
        let sense =
            if cosine > 0.0 { "share work, and their sum counts it twice" } else { "undo each other's work" };
        // Whoever elects signs already need not be told to.
        let compare = if health.elects_signs { "" } else { "a sign-consensus method such as TIES, and " };
        let message = format!(
            "{which} of {} and {} are not independent: cos = {cosine:.2}{among}. They {sense}; \
             compare {compare}smaller coefficients.",
            names[i], names[j]
        );
        ("overlap", message)
    }));
    found
}

/// Same direction and same length; without a base, no distance to speak of.
fn identical(layout: &Layout, derived: &Derived, gramian: &Gramian, (i, j): (usize, usize)) -> bool {
    let (one, other) = (derived.experts[i].norm, derived.experts[j].norm);
    match layout.base {
        true => {
            derived.cosine[i][j].is_some_and(|cosine| cosine > IDENTICAL) && (one - other).abs() < 0.01 * one
        }
        false => gramian.distance(layout.expert(i), layout.expert(j)) < SAME_MODEL * one,
    }
}

fn same(one: &str, other: &str) -> String {
    format!(
        "{one} and {other} are the same model up to rounding. One of them counts twice; check their paths."
    )
}

fn lengths(names: &[String], derived: &Derived) -> Vec<(&'static str, String)> {
    let mut found = Vec::new();
    let experts = || derived.experts.iter().zip(names);
    let largest = experts()
        .filter_map(|(expert, name)| Some((expert.metagpt?, name)))
        .max_by(|a, b| a.0.total_cmp(&b.0));
    if let Some((lambda, name)) = largest.filter(|(lambda, _)| *lambda > DOMINANT && names.len() > 1) {
        found.push((
            "dominant_expert",
            format!(
                "MetaGPT gives {name} a coefficient of {lambda:.2}: it moved much further than the others, which need not \
                 mean that it is better. Compare uniform coefficients."
            ),
        ));
    }
    let moved = || experts().filter(|(expert, _)| expert.norm > 0.0);
    let longest = moved().max_by(|a, b| a.0.norm.total_cmp(&b.0.norm));
    let shortest = moved().min_by(|a, b| a.0.norm.total_cmp(&b.0.norm));
    if let (Some((long, long_name)), Some((short, short_name))) = (longest, shortest)
        && long.norm / short.norm > UNEQUAL
    {
        let ratio = number(long.norm / short.norm);
        let message = format!(
            "{long_name} moved {ratio} times as far as {short_name}. Do both come from the same base?"
        );
        found.push(("unequal_norms", message));
    }
    let far =
        experts().filter_map(|(expert, name)| Some((expert.relative.filter(|ratio| *ratio > FAR)?, name)));
    found.extend(far.map(|(ratio, name)| {
        let moved = percent(ratio);
        ("far_from_base", format!("{name} differs from the base by {moved} of its length. Is this the base it was fine-tuned from?"))
    }));
    found
}

#[cfg(test)]
mod tests {
    use crate::report::{derive, fixture};

    fn warnings(base: &[f64], deltas: &[&[f64]]) -> Vec<(&'static str, String)> {
        let health = fixture::plain(Some(base), deltas);
        derive(&health).unwrap().warnings.into_iter().map(|warning| (warning.code, warning.message)).collect()
    }

    fn codes(base: &[f64], deltas: &[&[f64]]) -> Vec<&'static str> {
        warnings(base, deltas).into_iter().map(|warning| warning.0).collect()
    }

    const BASE: &[f64] = &[100.0, 0.0, 0.0];

    #[test]
    fn calm_experts_raise_nothing() {
        assert!(warnings(BASE, &[&[0.0, 1.0, 0.1], &[0.0, -0.1, 1.0]]).is_empty());
        assert!(warnings(BASE, &[&[0.0, 1.0, 0.0]]).is_empty());
    }

    #[test]
    fn each_threshold_speaks_on_its_own() {
        assert_eq!(codes(BASE, &[&[0.0, 3.0, 0.0], &[0.0, 0.0, 1.0]]), ["dominant_expert"]); // λ = .9
        assert_eq!(codes(BASE, &[&[0.0, 1.0, 0.5], &[0.0, 0.0, 1.0]]), ["overlap"]); // cos = .45
        assert_eq!(codes(BASE, &[&[0.0, 1.0, -0.5], &[0.0, 0.0, 1.0]]), ["overlap"]);
        assert_eq!(codes(BASE, &[&[0.0, 1.0, 1.0], &[0.0, 1.0, 1.0]]), ["identical_experts"]);
        assert_eq!(codes(BASE, &[&[0.0, 1.0, 1.0], &[0.0, 2.0, 2.0]]), ["overlap"]); // same direction only: λ = .8
        assert_eq!(
            codes(BASE, &[&[0.0, 0.0, 0.0], &[0.0, 1.0, 0.0], &[0.0, 0.0, 1.0]]),
            ["zero_task_vector"]
        );
        assert_eq!(codes(BASE, &[&[0.0, 11.0, 0.0], &[0.0, 0.0, 1.0]]), ["dominant_expert", "unequal_norms"]);
        assert_eq!(codes(BASE, &[&[0.0, 60.0, 0.0], &[0.0, 0.0, 60.0]]), ["far_from_base", "far_from_base"]);
    }

    #[test]
    fn whoever_elects_signs_is_not_told_to() {
        let mut health = fixture::plain(Some(BASE), &[&[0.0, 1.0, 0.5], &[0.0, 0.0, 1.0]]);
        let message = |health: &crate::report::Health| derive(health).unwrap().warnings.remove(0).message;
        assert!(
            message(&health)
                .ends_with("compare a sign-consensus method such as TIES, and smaller coefficients.")
        );
        health.elects_signs = true;
        assert!(message(&health).ends_with("counts it twice; compare smaller coefficients."));
    }

    #[test]
    fn a_wrong_base_does_not_flood_the_page() {
        let deltas: Vec<Vec<f64>> =
            (0..6).map(|t| (0..7).map(|i| if i == t + 1 { 90.0 } else { 0.0 }).collect()).collect();
        let deltas: Vec<&[f64]> = deltas.iter().map(Vec::as_slice).collect();
        let base = [100.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0];
        let found = warnings(&base, &deltas);
        assert_eq!(found.len(), 3);
        assert!(found[2].1.ends_with("fine-tuned from? The same is true of 3 others."), "{}", found[2].1);
        assert!(!warnings(&base, &deltas[..3])[2].1.contains("The same"));
    }

    #[test]
    fn the_worst_pair_speaks_for_all() {
        let found = warnings(BASE, &[&[0.0, 1.0, 0.3], &[0.0, 0.0, 1.0], &[0.0, 1.0, -1.0]]);
        assert_eq!(found.len(), 1);
        assert!(found[0].1.starts_with("Some task vectors of expert-2 and expert-3"), "{}", found[0].1);
        assert!(found[0].1.contains("cos = -0.71 (3 pairs above 0.2)"), "{}", found[0].1);
    }

    #[test]
    fn not_finite_names_tensor_and_model() {
        let mut health = fixture::merge();
        health.tensors[2].nan = vec![0, 0, 7, 0, 0];
        health.tensors[4].inf = vec![1, 0, 0, 0, 0];
        let warnings = derive(&health).unwrap().warnings;
        let warning = warnings.iter().find(|warning| warning.code == "non_finite").unwrap();
        assert!(warning.message.contains("7 NaN and 0 Inf in "), "{}", warning.message);
        assert!(warning.message.contains(&health.experts[1]) && warning.message.contains("1 more place"));
    }

    #[test]
    fn model_stock_says_where_it_leaves_the_segment() {
        let mut health = fixture::merge();
        health.method = Some("model_stock".into());
        let set = |health: &mut crate::report::Health, at: usize, t: f64| {
            health.tensors[at].coefficients = Some(vec![t / 3.0; 3]);
        };
        (0..health.tensors.len()).for_each(|at| set(&mut health, at, if at % 2 == 0 { 0.0 } else { 1.0 }));
        let about = |health: &crate::report::Health| {
            let warnings = derive(health).unwrap().warnings;
            warnings.into_iter().find(|w| w.code == "model_stock_range").map(|w| w.message)
        };
        assert_eq!(about(&health), None);
        set(&mut health, 3, -18.0);
        set(&mut health, 7, -0.5);
        let message = about(&health).unwrap();
        assert!(message.starts_with("Model Stock takes t = -18.00 in model.layers.0."), "{message}");
        assert!(message.contains("the furthest of 2 tensors"), "{message}");
        // Of rows with an angle each the worst counts, its tensor once.
        health.tensors[5].row_sums = Some([-20.0, 1.5]);
        health.tensors[5].coefficients = None;
        let message = about(&health).unwrap();
        assert!(message.starts_with("Model Stock takes t = -20.00 in a row of model.layers."), "{message}");
        assert!(message.contains("the furthest of 3 tensors"), "{message}");
        health.method = Some("task_arithmetic".into());
        assert_eq!(about(&health), None);
    }

    #[test]
    fn without_a_base_only_equal_models_are_remarkable() {
        let models: &[&[f64]] = &[&[1.0, 1.0], &[1.0, 1.0], &[1.0, 1.001]];
        let warnings = derive(&fixture::plain(None, models)).unwrap().warnings;
        assert_eq!(warnings.iter().map(|warning| warning.code).collect::<Vec<_>>(), ["identical_experts"]);
    }
}
