//! Recipes that are wrong, and what they are told.

use onefold_balance::{Balancer, SettingError, Task};
use serde_json::{Value, json};

use crate::trainer::tasks;

fn errors(settings: &Value, tasks: &[Task]) -> Vec<SettingError> {
    Balancer::new(settings.as_object().unwrap(), tasks, 0).map(|b| b.method().name).unwrap_err()
}

fn message(settings: &Value) -> String {
    let errors = errors(settings, &tasks(4));
    assert_eq!(errors.len(), 1, "{errors:?}");
    errors[0].to_string()
}

#[test]
fn kinds_are_names() {
    let all = message(&json!({}));
    assert!(all.starts_with("`balancer.kind` is missing; give one of `uniform`, `static`, `coba`"), "{all}");
    assert!(
        message(&json!({"kind": "cobra"})).contains("no balancer is called `cobra`; there are `uniform`")
    );
    assert!(message(&json!({"kind": 3})).contains("no balancer is called 3"));
    for alias in ["famo*", "lbtw*", "gradnorm*", "uw", "si", "nash"] {
        assert!(Balancer::new(json!({"kind": alias}).as_object().unwrap(), &tasks(2), 0).is_ok(), "{alias}");
    }
}

#[test]
fn keys_are_known() {
    assert_eq!(
        message(&json!({"kind": "rlw", "seed": 3})),
        "`balancer.seed`: rlw has no such setting; it has none"
    );
    assert_eq!(
        message(&json!({"kind": "lbtw*", "reference": "epoch"})),
        "`balancer.reference`: lbtw_validation has no such setting; it has `alpha` and `scale`"
    );
}

#[test]
fn values_are_in_their_range() {
    assert_eq!(
        message(&json!({"kind": "coba", "tau": 0})),
        "`balancer.tau` (sharpness of the divergence factor): expected a number greater than 0, found 0; correct it, or \
         leave it out for its default, 5"
    );
    for (key, value, said) in [
        ("window", json!(1), "expected a whole number of at least 2, found 1;"),
        ("window", json!(2.5), "found 2.5"),
        ("warmup", json!(1), "expected a whole number of at least 2"),
        (
            "min_weight",
            json!(-0.1),
            "expected a number in [0, 1], found -0.1; correct it, or leave it out for its default",
        ),
        ("variant", json!("mft"), "expected `paper` or `code`, found the text \"mft\""),
        ("tau", json!(null), "found null"),
        ("tau", json!([5]), "found [5]"),
        ("interval", json!(0), "of at least 1"),
    ] {
        let found = message(&json!({"kind": "coba", key: value}));
        assert!(found.starts_with(&format!("`balancer.{key}`")) && found.contains(said), "{found}");
    }
    // As in merge recipes, a text that reads as a number is one.
    assert!(Balancer::new(json!({"kind": "famo", "lr": "2e-2"}).as_object().unwrap(), &tasks(2), 0).is_ok());
}

#[test]
fn settings_fit_each_other() {
    assert_eq!(
        message(&json!({"kind": "coba", "window": 50})),
        "`balancer.warmup`: expected at most `window` = 50, found 100; lower it, or raise `window`"
    );
    assert_eq!(
        message(&json!({"kind": "coba", "min_weight": 0.3})),
        "`balancer.min_weight`: expected at most 1/4 for 4 tasks, found 0.3; lower it, or leave it out"
    );
    for (key, value) in
        [("df_window", json!(5)), ("interval", json!(2)), ("alpha_max", json!("slope_of_max"))]
    {
        let found = message(&json!({"kind": "coba", "variant": "code", key: value}));
        assert!(
            found.contains(&format!("`balancer.{key}`: expected no value with `variant: code`")),
            "{found}"
        );
    }
    // What the code does anyway may be said.
    let same = json!({"kind": "coba", "variant": "code", "interval": 1});
    assert!(Balancer::new(same.as_object().unwrap(), &tasks(2), 0).is_ok());
}

#[test]
fn everything_is_said_at_once() {
    let mut two = tasks(2);
    two[1] = Task { name: "a".into(), weight: -1.0 };
    let errors = errors(&json!({"kind": "coba", "tau": -1, "windw": 3, "window": 0}), &two);
    let texts: Vec<String> = errors.iter().map(ToString::to_string).collect();
    assert_eq!(errors.len(), 5, "{texts:#?}");
    assert_eq!(texts[0], "two tasks are called `a`; give them names of their own");
    assert!(
        texts[1].starts_with("task `a`: `weight` must be a number greater than 0, found -1;"),
        "{}",
        texts[1]
    );
}

#[test]
fn there_must_be_tasks() {
    assert_eq!(errors(&json!({"kind": "uniform"}), &[]), [SettingError::NoTasks]);
    for weight in [0.0, f64::NAN, f64::INFINITY] {
        let task = Task { name: "a".into(), weight };
        assert!(matches!(errors(&json!({"kind": "static"}), &[task])[..], [SettingError::TaskWeight { .. }]));
    }
}
