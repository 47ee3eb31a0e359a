//! One task's part of an alternation: what it begins with, and what it leaves.

use super::*;
use crate::alternate::{HeadFrom, PartSettings, Stamp, Vector, merged, prepare, save, save_head, travelled};
use crate::config::ModelConfig;
use crate::data::sample::Mixture;
use onefold_checkpoint::Checkpoint;

const TRUNK: PartSettings<'_> = PartSettings { trunk: true, head: false, from: HeadFrom::New };

fn stamp() -> Stamp {
    let text = |text: &str| text.to_owned();
    Stamp { task: text("a"), round: 2, base: text("0123456789abcdef"), recipe: text("fedcba9876543210") }
}

/// Tunes the first task as a part.
fn part(
    world: &World,
    out: &Path,
    part: &PartSettings<'_>,
    carried: Option<&Path>,
    observer: &dyn Observer,
) -> Result<Tuned, TuneError> {
    let tasks = &world.tasks[..1];
    let prepared = prepare(&world.model, &tasks[0], &world.trainable, part, 7)?;
    let mixture = Mixture { seed: 7, ..Mixture::default() };
    let (mut plan, sampler, balancer) =
        Plan::new(world.settings.clone(), tasks, &prepared, (&[1.0], &[1.0]), mixture)?;
    plan.is_part = true;
    let run = RunDir::open(out, "part", &[], false)?;
    let (parameters, base) = (prepared.parameters, world.model.as_path());
    run_it(Job {
        plan: &plan,
        tasks,
        parameters,
        sampler,
        balancer,
        base,
        name: "base",
        run: &run,
        carried,
        observer,
    })
}

fn world() -> World {
    let mut world = World::writing();
    world.settings.duration = Duration::Epochs(3.0);
    world.settings.checkpoints.every = Every::Steps(2);
    world
}

#[test]
fn a_part_leaves_no_last_checkpoint_and_knows_its_first_epoch() {
    let world = world();
    let out = world.out("straight");
    let tuned = part(&world, &out, &TRUNK, None, &Silent).unwrap();
    // 12 rows, 8 a step: five steps, of which the second ends the first epoch.
    assert_eq!(tuned.steps, 5);
    assert_eq!(RunDir::open(&out, "part", &[], false).unwrap().checkpoints(), [2, 4]);
    let (first, all) = (tuned.first_epoch.unwrap(), travelled(&tuned.parameters).unwrap());
    assert!(0.0 < first && first < all, "{first} of {all}");
    // Stopped after the first epoch, it is still known.
    let broken = world.out("broken");
    part(&world, &broken, &TRUNK, None, &StopAfter(AtomicU64::new(3))).unwrap_err();
    let again = part(&world, &broken, &TRUNK, None, &Silent).unwrap();
    assert_eq!(
        (again.first_epoch, numbers(&again.parameters)),
        (tuned.first_epoch, numbers(&tuned.parameters))
    );
}

#[test]
fn an_optimizer_goes_on_where_another_training_left_it() {
    let world = world();
    let tuned = part(&world, &world.out("one"), &TRUNK, None, &Silent).unwrap();
    let dir = world.out("optimizer");
    save_optimizer(&tuned.optimizer, &tuned.parameters, &dir).unwrap();
    let carried = part(&world, &world.out("two"), &TRUNK, Some(&dir), &Silent).unwrap();
    assert_eq!(carried.optimizer.steps(), 10);
    assert!(carried.optimizer.state().all(|(_, moments)| moments.steps == 10));
    assert_ne!(numbers(&carried.parameters), numbers(&tuned.parameters));
    let error = part(&world, &world.out("three"), &TRUNK, Some(&world.out("none")), &Silent).unwrap_err();
    assert!(error.to_string().contains("state.json"), "{error}");
}

#[test]
fn a_vector_is_what_was_trained_and_says_whose_it_is() {
    let mut world = world();
    for adapter in [false, true] {
        world.trainable.adapter = adapter.then_some((LORA, Targets::AllLinear));
        let name = format!("adapter-{adapter}");
        let tuned = part(&world, &world.out(&name), &TRUNK, None, &Silent).unwrap();
        let out = world.out(&format!("{name}-vector"));
        let base = (world.model.as_path(), "base");
        let files = |_: &crate::alternate::Written| vec![("task.json", b"{}".to_vec())];
        let written = save(&tuned.parameters, base, &stamp(), adapter, &out, files).unwrap();
        let way = travelled(&tuned.parameters).unwrap();
        assert!((written.norm / way - 1.0).abs() < 1e-4, "{adapter}: {} {way}", written.norm);
        let vector = Vector::open(&out).unwrap();
        assert_eq!(vector.stamp, stamp());
        vector.check(&stamp()).unwrap();
        assert_eq!(vector.factors.is_some(), adapter);
        // The vector on the base is the model.
        let base = Checkpoint::open(&world.model).unwrap();
        let tensor = &vector.checkpoint.tensors()["model.layers.0.mlp.up_proj.weight"];
        let (mut delta, mut begin) = (vec![0.0; tensor.len()], vec![0.0; tensor.len()]);
        tensor.read(0, &mut delta);
        base.tensors()["model.layers.0.mlp.up_proj.weight"].read(0, &mut begin);
        assert!(delta.iter().any(|d| *d != 0.0));
        if !adapter {
            let trained =
                tuned.parameters.trainable().find(|(_, p)| p.name == "model.layers.0.mlp.up_proj.weight");
            let trained = trained.unwrap().1.trained().unwrap().to_vec();
            let is_near = |((b, d), t): ((&f32, &f32), f32)| (b + d - t).abs() <= 1e-6 * t.abs().max(1e-3);
            assert!(begin.iter().zip(&delta).zip(trained).all(is_near));
        }
        for (key, other) in [
            ("task", Stamp { task: "b".into(), ..stamp() }),
            ("round 3", Stamp { round: 3, ..stamp() }),
            ("another model", Stamp { base: "x".into(), ..stamp() }),
            ("another recipe", Stamp { recipe: "x".into(), ..stamp() }),
        ] {
            let error = vector.check(&other).unwrap_err().to_string();
            assert!(error.contains(key), "{key}: {error}");
        }
    }
    assert!(Vector::open(&world.model).is_err());
}

#[test]
fn a_head_is_kept_with_its_classes_and_never_part_of_a_vector() {
    let mut world = World::classifying();
    world.settings.duration = Duration::Steps(3);
    let fit = PartSettings { trunk: false, head: true, from: HeadFrom::New };
    let fitted = part(&world, &world.out("fit"), &fit, None, &Silent).unwrap();
    assert_eq!(travelled(&fitted.parameters), Some(0.0));
    let dir = world.out("head");
    save_head(&fitted.parameters, &world.tasks[0], &dir).unwrap();
    let tune = PartSettings { trunk: true, head: false, from: HeadFrom::Kept(&dir) };
    let tuned = part(&world, &world.out("tune"), &tune, None, &Silent).unwrap();
    for ((name, before), (_, after)) in
        fitted.parameters.head_values(0).into_iter().zip(tuned.parameters.head_values(0))
    {
        assert_eq!(before.to_vec(), after.to_vec(), "{name}");
    }
    let out = world.out("vector");
    save(&tuned.parameters, (&world.model, "base"), &stamp(), false, &out, |_| Vec::new()).unwrap();
    let vector = Vector::open(&out).unwrap();
    assert!(!vector.checkpoint.tensors().keys().any(|name| name.contains("classifier")));
    let config = ModelConfig::open(&world.model).unwrap();
    let checkpoint = Checkpoint::open(&world.model).unwrap();
    let classes = |task: usize| world.tasks[task].labels.as_ref().unwrap().names.clone();
    merged(&config, &checkpoint, &[("two", classes(0), Some(dir.as_path()))]).unwrap();
    let error =
        merged(&config, &checkpoint, &[("four", classes(1), Some(dir.as_path()))]).unwrap_err().to_string();
    assert!(error.contains("task `four`") && error.contains("of other classes"), "{error}");
}
