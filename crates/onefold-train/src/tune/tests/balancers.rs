//! Every balancer through the real trainer.

use onefold_balance::BALANCERS;

use super::*;

#[test]
fn every_balancer_trains() {
    for method in BALANCERS {
        let mut world = World::writing();
        world.settings.duration = Duration::Steps(8);
        world.settings.balancer = settings_of(method.name);
        let tuned =
            world.tune(&world.out("out"), &Silent).unwrap_or_else(|error| panic!("{}: {error}", method.name));
        assert_eq!((tuned.steps, tuned.skipped), (8, 0), "{}", method.name);
        let before = numbers(&world.prepared().unwrap().parameters);
        assert!(distance(&before, &numbers(&tuned.parameters)) > 1e-4, "{}", method.name);
        let lines = metrics(&world.out("out.run"));
        let loss = |kind: &str, last: bool| {
            let mut of = lines.iter().filter(|line| line["kind"] == kind);
            let line = if last { of.next_back() } else { of.next() };
            line.unwrap()["tasks"]["ccc"]["loss"].as_f64().unwrap()
        };
        assert!(loss("validation", true) < loss("validation", false), "{}", method.name);
        let line = lines.iter().rfind(|line| line["kind"] == "train").unwrap();
        let weights: Vec<f64> =
            ["a", "bb", "ccc"].iter().map(|task| line["tasks"][task]["weight"].as_f64().unwrap()).collect();
        assert!(weights.iter().all(|weight| weight.is_finite()), "{} {weights:?}", method.name);
        if method.simplex {
            assert!((weights.iter().sum::<f64>() - 1.0).abs() < 1e-9, "{} {weights:?}", method.name);
        }
    }
}

/// Short windows where the defaults are longer than these trainings.
pub(super) fn settings_of(kind: &str) -> Map<String, Value> {
    match kind {
        "coba" => json!({"kind": kind, "warmup": 2, "window": 4}).as_object().unwrap().clone(),
        "self_paced" => json!({"kind": kind, "window": 3}).as_object().unwrap().clone(),
        _ => balancer(kind),
    }
}

/// Gradients of each task, weighted and added, are the gradient of the weighted loss.
#[test]
fn gradients_apart_and_together_agree() {
    let mut world = World::writing();
    world.settings.duration = Duration::Steps(1);
    world.settings.optimizer = Rule::Sgd(onefold_engine::cpu::optimizer::Sgd {
        learning_rate: 1.0,
        ..onefold_engine::cpu::optimizer::Sgd::default()
    });
    world.settings.schedule =
        ScheduleSettings { kind: ScheduleKind::Constant, warmup: Span::Steps(0), floor: 0.0 };
    let together = world.trained("together");
    // One task alone: every Gramian has one entry, and its weight is one.
    world.settings.balancer = balancer("pcgrad");
    let apart = world.trained("apart");
    // PCGrad sums projected gradients; those of these tasks hardly conflict, so it is near the mean, but not the same.
    let (off, moved) =
        (distance(&together, &apart), distance(&together, &numbers(&world.prepared().unwrap().parameters)));
    assert!(off < 0.5 * moved, "{off} {moved}");
    world.tasks.truncate(1);
    let apart = world.trained("one apart");
    world.settings.balancer = balancer("uniform");
    let together = world.trained("one together");
    assert!(distance(&together, &apart) < 1e-6);
}

/// A head belongs to its task: a gradient balancer moves it by the task's own gradient.
#[test]
fn heads_take_the_gradient_of_their_task() {
    for kind in ["mgda", "graddrop", "db_mtl", "gradnorm", "coba"] {
        let mut world = World::classifying();
        world.settings.balancer = settings_of(kind);
        let prepared = world.prepared().unwrap();
        assert_eq!(prepared.heads, [Some(0), Some(1)]);
        let before = numbers(&prepared.parameters);
        let tuned = world.tune(&world.out("out"), &Silent).unwrap();
        for ((_, parameter), (before, after)) in
            tuned.parameters.trainable().zip(before.iter().zip(numbers(&tuned.parameters)))
        {
            // The model's own head has no task here.
            let own = parameter.name.starts_with("classifier") || parameter.name.starts_with("bert.pooler");
            assert!(own == (*before == after), "{kind}: {}", parameter.name);
        }
    }
}
