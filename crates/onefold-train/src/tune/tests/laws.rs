//! What an update depends on, and what it does not.

use super::*;

/// The loss rule: the same update however a step is cut into micro-batches, but for rounding.
#[test]
fn micro_batches_do_not_change_the_update() {
    for packing in [None, Some((crate::data::pack::Packing::BestFit, 16))] {
        for kind in ["uniform", "famo", "mgda"] {
            let mut world = World::writing();
            world.mixture.packing = packing;
            world.settings.balancer = balancer(kind);
            let mut trained = Vec::new();
            for micro in [8, 4, 1] {
                world.settings.batch.micro = micro;
                trained.push(world.trained(&format!("out{micro}")));
            }
            for other in &trained[1..] {
                let off = distance(&trained[0], other);
                assert!(off < 2e-5, "{kind} {packing:?}: {off}");
            }
        }
    }
}

#[test]
fn normalisations_differ_and_checkpointing_does_not() {
    let mut world = World::writing();
    let plain = world.trained("plain");
    world.settings.checkpointing = true;
    assert_eq!(distance(&plain, &world.trained("checkpointing")), 0.0);
    for how in [Normalisation::Case1, Normalisation::Case2, Normalisation::Case4] {
        world.settings.normalisation = how;
        let off = distance(&plain, &world.trained(&format!("{how:?}")));
        assert!(off > 1e-4, "{how:?}: {off}");
    }
}

#[test]
fn threads_do_not_show() {
    for kind in ["coba", "excess_mtl"] {
        let mut world = World::writing();
        world.settings.balancer = balancer(kind);
        if kind == "coba" {
            world.settings.balancer =
                json!({"kind": kind, "warmup": 2, "window": 4}).as_object().unwrap().clone();
        }
        let on = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| {
                (world.trained(&threads.to_string()), metrics(&world.out(&format!("{threads}.run"))))
            })
        };
        let one = on(1);
        assert!(one == on(2) && one == on(5), "{kind}");
    }
}

/// Small steps of plain descent lower every loss.
#[test]
fn tasks_are_learnt() {
    let mut world = World::writing();
    world.settings.duration = Duration::Epochs(6.0);
    world.settings.validation.every = Every::Epochs(2.0);
    let tuned = world.tune(&world.out("out"), &Silent).unwrap();
    assert_eq!(tuned.steps, (6 * 51u64).div_ceil(8));
    let lines: Vec<_> =
        metrics(&world.out("out.run")).into_iter().filter(|line| line["kind"] == "validation").collect();
    assert!(lines.len() == 4 || lines.len() == 5, "{}", lines.len());
    for task in ["a", "bb", "ccc"] {
        let loss = |line: &Value| line["tasks"][task]["loss"].as_f64().unwrap();
        assert!(loss(lines.last().unwrap()) < 0.9 * loss(&lines[0]), "{task}: {lines:?}");
    }
}

/// The last step of a training in epochs takes what is left.
#[test]
fn epochs_are_whole() {
    let mut world = World::writing();
    world.settings.duration = Duration::Epochs(1.0);
    world.settings.log = 1;
    let tuned = world.tune(&world.out("out"), &Silent).unwrap();
    assert_eq!(tuned.steps, 7);
    let lines = metrics(&world.out("out.run"));
    let last = lines.iter().rfind(|line| line["kind"] == "train").unwrap();
    assert_eq!((last["step"].as_u64(), last["epoch"].as_f64()), (Some(7), Some(1.0)));
}

#[test]
fn only_what_is_chosen_is_trained() {
    let mut world = World::writing();
    world.trainable.freeze = vec!["embed_tokens".to_owned(), "layers.0".to_owned()];
    let frozen = |parameters: &Parameters| -> Vec<String> {
        parameters
            .iter()
            .filter(|(id, _)| !parameters.is_trainable(*id))
            .map(|(_, p)| p.name.clone())
            .collect()
    };
    let names = frozen(&world.prepared().unwrap().parameters);
    assert!(names.len() > 5 && names.iter().all(|name| name.contains("embed") || name.contains("layers.0.")));
    world.trainable.freeze = vec!["no such".to_owned()];
    let error = world.prepared().unwrap_err().to_string();
    assert!(error.starts_with("freeze: `no such` is part of no tensor's name"), "{error}");
    let with = |world: &mut World, targets| {
        world.trainable = Trainable { adapter: Some((LORA, targets)), freeze: Vec::new() };
        world.prepared().map(|prepared| prepared.parameters.trainable().count())
    };
    assert_eq!(with(&mut world, Targets::AllLinear).unwrap(), 2 * 2 * 7);
    assert_eq!(with(&mut world, Targets::Names(vec!["q_proj".into(), "v_proj".into()])).unwrap(), 2 * 2 * 2);
    assert_eq!(with(&mut world, Targets::Pattern(r"model\.layers\.1\..*_proj".into())).unwrap(), 2 * 7);
    for (targets, message) in [
        (
            Targets::Names(vec!["q_proj".into(), "query".into()]),
            "adapter.targets: `query` is no linear map; linear maps of",
        ),
        (Targets::Pattern("x.*".into()), "adapter.targets: the pattern \"x.*\" matches nothing"),
        (Targets::Pattern("(".into()), "adapter.targets: \"(\": it is not a regular expression"),
    ] {
        let error = with(&mut world, targets).unwrap_err().to_string();
        assert!(error.starts_with(message), "{error}");
    }
}

/// Every kind of trouble that is known before the first step.
#[test]
fn what_cannot_be_trained_is_refused() {
    let refused = |world: &World, message: &str| {
        let error = world.tune(&world.out("out"), &Silent).unwrap_err().to_string();
        assert!(error.contains(message), "{error}");
    };
    let mut world = World::writing();
    world.model = testdata().join("bert_masked");
    refused(&world, "task `a`: a model of type `bert` does not write text");
    world.model = testdata().join("vit");
    refused(&world, "task `a`: a model of type `vit` does not read text");
    world.model = testdata().join("clip");
    refused(&world, "take its vision half");
    world.model = testdata().join("llama_classify");
    refused(&world, "has no language head here");
    let mut world = World::writing();
    world.settings.balancer = balancer("cobra");
    refused(&world, "cobra");
    world.settings.balancer = json!({"kind": "coba", "window": 1}).as_object().unwrap().clone();
    refused(&world, "window");
    world.settings.balancer = balancer("coba");
    world.tasks[1].validation.clear();
    refused(&world, "task `bb`: the balancer `coba` needs validation rows of every task");
    let mut world = World::writing();
    world.settings.balancer = balancer("famo");
    world.settings.normalisation = Normalisation::Case1;
    refused(&world, "loss.normalisation: `tokens` and `rows` count all tasks' tokens");
    let mut world = World::writing();
    world.settings.duration = Duration::Epochs(f64::NAN);
    refused(&world, "epochs: expected a number above 0");
    world.settings.duration = Duration::Steps(10);
    world.settings.schedule.warmup = Span::Steps(20);
    refused(&world, "schedule: warm-up (20 steps)");
    let mut world = World::writing();
    world.settings.progress.aggregate = Aggregate::Task("d".into());
    refused(&world, "there is no task `d`");
    world.settings.progress.aggregate = Aggregate::Mean;
    world.settings.progress.patience = Some(3);
    world.tasks.iter_mut().for_each(|task| task.validation.clear());
    refused(&world, "no task has validation rows");
}

/// Training that goes astray names task, step and rows; or leaves the step out.
#[test]
fn numbers_that_are_none_stop_or_are_left_out() {
    let mut world = World::writing();
    let rate = AdamW { learning_rate: 3e38, ..AdamW::default() };
    // The norm behind the layers alone: its weights overflow, and with them the scores.
    world.trainable.freeze = ["embed_tokens", "layers"].map(str::to_owned).into();
    world.settings.optimizer = Rule::AdamW(rate);
    world.settings.schedule =
        ScheduleSettings { kind: ScheduleKind::Constant, warmup: Span::Steps(0), floor: 0.0 };
    world.settings.validation.every = Every::Never;
    let error = world.tune(&world.out("out"), &Silent).unwrap_err().to_string();
    assert!(error.contains("the loss of task `") && error.contains(".jsonl, line "), "{error}");
    let mut world = World::writing();
    world.settings.optimizer = Rule::AdamW(rate);
    world.settings.schedule =
        ScheduleSettings { kind: ScheduleKind::Constant, warmup: Span::Steps(2), floor: 0.0 };
    world.settings.validation.every = Every::Never;
    world.settings.non_finite = NonFinite::Skip;
    let skipped = world.tune(&world.out("out"), &Silent).map(|tuned| tuned.skipped);
    assert!(skipped.as_ref().is_ok_and(|skipped| *skipped >= 1) || skipped.is_err(), "{skipped:?}");
}
