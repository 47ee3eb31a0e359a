//! A run that was broken off and taken up is the run that was not, bit for bit.

use onefold_balance::{BalanceError, Balancer};
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::trainer::{Buffers, balancer, cases, partial, play, tasks};

/// A fresh balancer with the state of another, through text as it stands in a checkpoint.
fn resumed(settings: &Value, from: &Balancer) -> Balancer {
    let text = serde_json::to_string(&from.state()).unwrap();
    let mut fresh = Balancer::new(settings.as_object().unwrap(), &tasks(3), 7).unwrap();
    fresh.restore(&serde_json::from_str(&text).unwrap()).unwrap_or_else(|e| panic!("{settings}: {e}"));
    fresh
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    #[test]
    fn a_break_at_any_step_changes_nothing(run in prop::collection::vec(partial(3), 14)) {
        for settings in cases() {
            let mut whole = balancer(&settings, &tasks(3));
            let mut broken = resumed(&settings, &whole);
            let (mut mine, mut yours) = (Buffers::new(3, 8), Buffers::new(3, 8));
            for (number, step) in run.iter().enumerate() {
                let a = play(&mut whole, &mut mine, number as u64, step);
                let b = play(&mut broken, &mut yours, number as u64, step);
                prop_assert_eq!(&a.weights, &b.weights, "{} step {}", settings, number);
                prop_assert_eq!(&a.direction, &b.direction);
                broken = resumed(&settings, &broken);
                prop_assert_eq!(whole.state(), broken.state());
                prop_assert_eq!(whole.figures(), broken.figures());
                prop_assert_eq!(whole.needs(number as u64 + 1), broken.needs(number as u64 + 1));
            }
        }
    }
}

fn refused(balancer: &mut Balancer, state: &Value) -> (String, String) {
    let before = balancer.state();
    let error = balancer.restore(state).unwrap_err();
    assert_eq!(balancer.state(), before, "a state that was refused has changed something");
    let BalanceError::State { what, ref found, .. } = error else { panic!("{error}") };
    (what.to_owned(), format!("{found} | {error}"))
}

#[test]
fn states_of_something_else_are_refused() {
    let mut coba = balancer(&json!({"kind": "coba"}), &tasks(3));
    let uniform = balancer(&json!({"kind": "uniform"}), &tasks(3)).state();
    assert_eq!(refused(&mut coba, &uniform).0, "its kind");
    let fewer = balancer(&json!({"kind": "coba"}), &tasks(2)).state();
    let (what, found) = refused(&mut coba, &fewer);
    assert_eq!(what, "its list of tasks");
    assert!(found.contains("is a, b, expected a, b, c; resume with the recipe"), "{found}");
    for junk in
        [json!(null), json!(3), json!({}), json!({"balancer": "coba", "tasks": [], "state": 1, "more": 2})]
    {
        assert!(["its form", "its list of tasks"].contains(&refused(&mut coba, &junk).0.as_str()), "{junk}");
    }
}

/// Every list of every state, with an entry more, less, or of another kind, is refused: none may lead to a panic later.
#[test]
fn damaged_states_are_refused() {
    let run: Vec<_> = {
        use proptest::strategy::ValueTree;
        let mut runner = proptest::test_runner::TestRunner::deterministic();
        let strategy = prop::collection::vec(crate::trainer::ordinary(3), 6);
        strategy.new_tree(&mut runner).unwrap().current()
    };
    for settings in cases() {
        let (mut balancer, mut buffers) = (balancer(&settings, &tasks(3)), Buffers::new(3, 8));
        for (number, step) in run.iter().enumerate() {
            play(&mut balancer, &mut buffers, number as u64, step);
        }
        let state = balancer.state();
        for damaged in damages(&state["state"]) {
            let mut whole = state.clone();
            whole["state"] = damaged.clone();
            if balancer.restore(&whole).is_ok() && !balancer.needs(6).reference {
                // Histories may have any length; what was accepted must work.
                let mut buffers = buffers.clone();
                for (number, step) in run.iter().enumerate() {
                    play(&mut balancer, &mut buffers, 6 + number as u64, step);
                    balancer.figures();
                }
            }
            balancer.restore(&state).unwrap();
        }
        let mut unknown = state.clone();
        unknown["state"] = json!({"surprise": 1});
        assert_eq!(refused(&mut balancer, &unknown).0, "its content", "{settings}");
    }
}

/// The value with one list, anywhere, shortened, lengthened or emptied, or one number replaced.
fn damages(value: &Value) -> Vec<Value> {
    match value {
        Value::Array(items) => {
            let mut all = vec![Value::Array(items[..items.len().saturating_sub(1)].to_vec()), json!([])];
            all.extend(items.first().map(|first| {
                let mut longer = items.clone();
                longer.push(first.clone());
                Value::Array(longer)
            }));
            for (at, item) in items.iter().enumerate() {
                all.extend(damages(item).into_iter().map(|damaged| {
                    let mut items = items.clone();
                    items[at] = damaged;
                    Value::Array(items)
                }));
            }
            all
        }
        Value::Object(fields) => {
            let each = fields.iter().flat_map(|(key, field)| {
                damages(field).into_iter().map(move |damaged| {
                    let mut fields = fields.clone();
                    fields.insert(key.clone(), damaged);
                    Value::Object(fields)
                })
            });
            each.collect()
        }
        Value::Number(_) => vec![json!(null), json!("x"), json!(u64::MAX)],
        _ => vec![json!(u64::MAX), json!([])],
    }
}
