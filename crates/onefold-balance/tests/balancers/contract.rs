//! What every balancer must keep, whatever its formulas.

use onefold_balance::methods::{Cost, find};
use onefold_balance::{BALANCERS, Gradients, Losses, Needs};
use proptest::prelude::*;
use serde_json::Value;

use crate::trainer::{Buffers, Step, balancer, cases, hostile, ordinary, partial, play, tasks};

fn simplex(settings: &Value) -> bool {
    let paper = settings.get("scale").is_some_and(|scale| scale != "mean");
    // With a normalisation the coefficients are of the gradients before it.
    let divided = settings.get("normalize").is_some_and(|n| n != "none");
    !paper && !divided && find(settings["kind"].as_str().unwrap()).unwrap().simplex
}

/// Runs of some steps, all cases each.
fn runs(step: impl Strategy<Value = Step>, steps: usize) -> impl Strategy<Value = Vec<Step>> {
    prop::collection::vec(step, steps)
}

#[test]
fn the_table_is_well_formed() {
    let mut names: Vec<&str> =
        BALANCERS.iter().flat_map(|m| m.aliases.iter().copied().chain([m.name])).collect();
    names.sort_unstable();
    assert!(names.windows(2).all(|pair| pair[0] != pair[1]), "a name twice: {names:?}");
    for method in BALANCERS {
        assert!(method.summary.len() > 10 && method.summary.len() < 90, "{}", method.name);
        for param in method.params {
            assert!(!param.help.is_empty() && !param.help.ends_with('.'), "{}: {}", method.name, param.name);
            let default = param.default.value();
            assert!(default.is_none_or(|value| param.kind.check(&value).is_ok()), "{}", param.name);
        }
        for name in method.aliases {
            assert_eq!(find(name).unwrap().name, method.name);
        }
    }
}

/// Builds each by its defaults: the struct of its settings reads its table, or this panics.
#[test]
fn what_is_needed_is_what_the_table_says() {
    for settings in cases() {
        let balancer = balancer(&settings, &tasks(3));
        let method = balancer.method();
        for step in 0..6 {
            let needs = balancer.needs(step);
            assert!(cost(&needs) <= method.cost, "{settings} {needs:?}");
            let validates = matches!(needs.gradients, Gradients::Lookahead { .. });
            assert!(method.validation || !(needs.validation || needs.reference || validates), "{settings}");
        }
    }
}

fn cost(needs: &Needs) -> Cost {
    let gradients = match needs.gradients {
        Gradients::None => Cost::Nothing,
        Gradients::Norms => Cost::Layer,
        Gradients::Gramian | Gradients::Elements => Cost::Backward,
        Gradients::Excess | Gradients::Averages { .. } => Cost::Sums,
        Gradients::Lookahead { .. } => Cost::Lookahead,
    };
    let forward = if needs.again || needs.validation { Cost::Forward } else { Cost::Nothing };
    gradients.max(forward)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// One task: its own gradient, and nothing to weigh.
    #[test]
    fn a_single_task_keeps_its_gradient(run in runs(ordinary(1), 6)) {
        for settings in cases().iter().filter(|s| s.get("scale").is_none_or(|scale| scale != "paper")) {
            let (mut balancer, mut buffers) = (balancer(settings, &tasks(1)), Buffers::new(1, 8));
            for (number, step) in run.iter().enumerate() {
                let played = play(&mut balancer, &mut buffers, number as u64, step);
                let weight = played.weights.values[0];
                // DB-MTL's guard; MGDA's coefficient of a gradient that is divided by its length.
                let own = ["db_mtl", "mgda"].contains(&balancer.method().name);
                prop_assert!((weight - 1.0).abs() < 1e-12 || (own && weight > 0.0), "{} {}", settings, weight);
            }
        }
    }

    /// Weights of tasks that cannot be told apart are the same, and the update is their gradient's direction.
    #[test]
    fn identical_tasks_are_treated_alike(run in runs(ordinary(1), 8)) {
        for settings in cases() {
            let mut all = tasks(4);
            all.iter_mut().for_each(|task| task.weight = 1.0);
            let (mut balancer, mut buffers) = (balancer(&settings, &all), Buffers::new(4, 8));
            for (number, step) in run.iter().enumerate() {
                let step = Step::same(4, step.losses[0].unwrap(), &step.gradients[0]);
                let played = play(&mut balancer, &mut buffers, number as u64, &step);
                let w = &played.weights.values;
                // Chance, or any of many minimisers with the same update.
                let chosen = ["rlw", "mgda", "cagrad"].contains(&balancer.method().name);
                let alike = w.iter().all(|v| (v - w[0]).abs() < 1e-6 * w[0].abs());
                prop_assert!(chosen || alike, "{} {:?}", settings, w);
                if balancer.method().name != "db_mtl" {
                    let cosine = cosine(&played.direction, &step.gradients[0]);
                    prop_assert!(cosine > 1.0 - 1e-6, "{} {}", settings, cosine);
                }
            }
        }
    }

    /// The recipe's order of tasks means nothing.
    #[test]
    fn permutations_permute_the_weights(run in runs(partial(4), 8), order in Just(vec![0, 1, 2, 3]).prop_shuffle()) {
        for settings in cases().iter().filter(|settings| settings.get("order").is_none()) {
            let all = tasks(4);
            let others: Vec<_> = order.iter().map(|i| all[*i].clone()).collect();
            let (mut here, mut there) = (balancer(settings, &all), balancer(settings, &others));
            let (mut mine, mut yours) = (Buffers::new(4, 8), Buffers::new(4, 8));
            for (number, step) in run.iter().enumerate() {
                let a = play(&mut here, &mut mine, number as u64, step).weights.values;
                let b = play(&mut there, &mut yours, number as u64, &step.permuted(&order)).weights.values;
                for (place, i) in order.iter().enumerate() {
                    let near = (a[*i] - b[place]).abs() <= 1e-6 * a[*i].abs().max(1e-3);
                    prop_assert!(near, "{} step {}: {:?} {:?}", settings, number, a, b);
                }
            }
        }
    }

    /// Absent tasks have no weight; where it is promised the others' are nonnegative and sum to one.
    #[test]
    fn absent_tasks_have_no_weight(run in runs(partial(4), 10)) {
        for settings in cases() {
            let (mut balancer, mut buffers) = (balancer(&settings, &tasks(4)), Buffers::new(4, 8));
            for (number, step) in run.iter().enumerate() {
                let played = play(&mut balancer, &mut buffers, number as u64, step);
                let w = &played.weights.values;
                prop_assert!(played.weights.skipped.is_empty() && played.unused.is_empty());
                for (task, weight) in w.iter().enumerate() {
                    prop_assert!(step.losses[task].is_some() || *weight == 0.0, "{}", settings);
                }
                if simplex(&settings) && step.losses.iter().any(Option::is_some) {
                    prop_assert!(w.iter().all(|w| *w >= 0.0), "{} {:?}", settings, w);
                    prop_assert!((w.iter().sum::<f64>() - 1.0).abs() < 1e-9, "{} {:?}", settings, w);
                }
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    /// Zeros, NaN, infinities and numbers at the ends of their range: weights stay finite, what is left out is named, and
    /// the state can still be saved.
    #[test]
    fn nothing_makes_a_weight_that_is_no_number(run in runs(hostile(3), 8)) {
        for settings in cases() {
            let (mut balancer, mut buffers) = (balancer(&settings, &tasks(3)), Buffers::new(3, 8));
            for (number, step) in run.iter().enumerate() {
                let played = play(&mut balancer, &mut buffers, number as u64, step);
                let w = &played.weights.values;
                prop_assert!(w.iter().all(|w| w.is_finite()), "{} {:?}", settings, w);
                let needs = balancer.needs(number as u64);
                for (task, loss) in step.losses.iter().enumerate() {
                    let broken = loss.is_some_and(|loss| !loss.is_finite());
                    if broken && needs.losses == Losses::Before {
                        let named = played.weights.skipped.iter().any(|s| s.task == task);
                        prop_assert!(w[task] == 0.0 && named, "{}", settings);
                    }
                }
                let text = serde_json::to_string(&balancer.state()).unwrap();
                let saved: Value = serde_json::from_str(&text).unwrap();
                let restored = balancer.restore(&saved);
                prop_assert!(restored.is_ok(), "{} {:?} {}", settings, restored, text);
            }
        }
    }
}

pub(crate) fn cosine(a: &[f64], b: &[f64]) -> f64 {
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    dot(a, b) / dot(a, a).sqrt() / dot(b, b).sqrt()
}
